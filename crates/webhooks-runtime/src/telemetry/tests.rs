use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fake_opentelemetry_collector::FakeCollectorServer;
use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use opentelemetry::{metrics::MeterProvider as _, trace::TracerProvider as _};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tracing_subscriber::{
    Layer as _, filter::filter_fn, fmt::MakeWriter, layer::SubscriberExt as _,
};

use super::{
    DONE, TelemetrySettings, TraceContext, current_traceparent, is_exported, log_layer,
    meter_provider, set_parent, subscriber,
};
use crate::settings::{Env, Settings as _};

/// One test with a subscriber at a time. Whether anybody wants a span is decided for the process: beside a
/// subscriber that wants it, one that wants none is given it too.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Captured {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[derive(Clone, Debug, Default)]
struct Collected(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Collected {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

#[test]
fn a_log_line_is_flat_json_and_the_filter_holds() {
    let _alone = alone();
    let captured = Captured::default();
    let subscriber = tracing_subscriber::registry()
        .with(log_layer("info,quiet=off,webhooks::done=warn", captured.clone()).unwrap());
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(
            delivery.id = "dlv_1",
            attempt.number = 2,
            "delivery.attempted"
        );
        tracing::debug!("hidden");
        tracing::error!(target: "quiet", "hidden");
        tracing::info!(target: DONE, "hidden");
    });
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert_eq!(lines[0]["message"], "delivery.attempted");
    assert_eq!(lines[0]["delivery.id"], "dlv_1");
    assert_eq!(lines[0]["attempt.number"], 2);
    assert_eq!(lines[0]["level"], "INFO");
}

#[test]
fn libraries_do_not_log_what_goes_through_them_whatever_the_filter_says() {
    let _alone = alone();
    let captured = Captured::default();
    let none: Option<tracing_subscriber::layer::Identity> = None;
    let subscriber = subscriber("trace,async_nats=trace", captured.clone(), none).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        tracing::trace!(target: "async_nats::connection", payload = "secret", "read");
        tracing::debug!(target: "async_nats::jetstream::context", "answer: secret");
        tracing::info!(target: "async_nats", "connecting");
        tracing::trace!(target: "hyper::proto", payload = "secret", "read");
        tracing::debug!(target: "hyper::proto", "closing");
        tracing::trace!(target: "webhooks_bus::pull", "deciding");
    });
    let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("secret"), "{text}");
    assert!(
        ["connecting", "closing", "deciding"]
            .iter()
            .all(|word| text.contains(word)),
        "{text}"
    );
}

#[test]
fn without_export_spans_do_not_exist() {
    let _alone = alone();
    let none: Option<tracing_subscriber::layer::Identity> = None;
    let subscriber = subscriber("trace", Captured::default(), none).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("unit of work");
        assert!(span.is_disabled());
        assert!(!set_parent(
            &span,
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        ));
        let _entered = span.enter();
        assert_eq!(current_traceparent(), None);
    });
}

#[test]
fn with_export_a_span_continues_the_incoming_trace() {
    let _alone = alone();
    let exporter = Collected::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let subscriber = tracing_subscriber::registry()
        .with(log_layer("info", Captured::default()).unwrap())
        .with(layer.with_filter(filter_fn(is_exported)));
    let incoming = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let outgoing = tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("unit of work");
        assert!(set_parent(&span, incoming));
        let _entered = span.enter();
        let foreign = tracing::info_span!(target: "h2::codec", "foreign");
        assert!(foreign.is_disabled(), "only our spans are exported");
        current_traceparent().unwrap()
    });
    let parent = TraceContext::parse(incoming).unwrap();
    let sent = TraceContext::parse(&outgoing).unwrap();
    assert_eq!(sent.trace_id, parent.trace_id);
    assert_ne!(sent.parent_id, parent.parent_id);
    let spans = exporter.0.lock().unwrap();
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].parent_span_id.to_bytes(), parent.parent_id);
    assert_eq!(spans[0].span_context.span_id().to_bytes(), sent.parent_id);
}

#[test]
fn settings_are_checked() {
    let mut env = Env::from_vars([
        ("WEBHOOKS_LOG", "info,=="),
        ("WEBHOOKS_TRACE_RATIO", "1.5"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
    ]);
    TelemetrySettings::read(&mut env);
    assert_eq!(env.finish().unwrap_err().problems.len(), 3);
    let mut env = Env::default();
    let settings = TelemetrySettings::read(&mut env);
    env.finish().unwrap();
    assert_eq!(
        settings,
        TelemetrySettings {
            log_filter: "info,async_nats=warn".into(),
            otlp_endpoint: None,
            trace_ratio: 1.0
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_reach_a_collector_with_the_buckets_of_prometheus() {
    let mut collector = FakeCollectorServer::start().await.unwrap();
    let meters = meter_provider("test", &collector.endpoint()).unwrap();
    let meter = meters.meter("webhooks");
    let recorder = OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(meter));
    metrics::with_local_recorder(&recorder, || {
        metrics::counter!("collected_total", "outcome" => "success").increment(2);
        metrics::histogram!("collected_seconds").record(0.002);
    });
    let flushed = tokio::task::spawn_blocking(move || meters.force_flush());
    flushed.await.unwrap().unwrap();
    let sent = collector.exported_metrics(1, Duration::from_secs(10)).await;
    let find = |name: &str| {
        let mut metrics = sent.iter().flat_map(|export| &export.metrics);
        let metric = metrics.find(|metric| metric.name == name).unwrap();
        serde_json::to_value(&metric.data).unwrap()
    };
    let sum = &find("collected_total")["Sum"];
    assert_eq!(sum["is_monotonic"], true, "{sum}");
    let point = sum["data_points"][0].to_string();
    assert!(point.contains("success") && point.contains('2'), "{point}");
    let point = &find("collected_seconds")["Histogram"]["data_points"][0];
    assert_eq!(point["count"], 1, "{point}");
    let counts = point["bucket_counts"].as_array().unwrap();
    let bucket = counts.iter().position(|count| *count == 1).unwrap();
    assert_eq!(point["explicit_bounds"][bucket], 0.0025, "{point}");
}
