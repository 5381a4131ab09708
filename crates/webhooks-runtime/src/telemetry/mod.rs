//! Logs, traces, and the way of metrics to a collector.
//!
//! Logs are JSON lines on standard output, one per event, fields flattened, written by a thread of
//! their own ([`lines`]). They do not carry span
//! fields on purpose: the services write one wide line per unit of work, and this way a span costs
//! nothing at all unless traces are exported. With `OTEL_EXPORTER_OTLP_ENDPOINT` set, spans of our
//! own crates go to an OTLP collector over gRPC, in batches, from a thread of their own; a collector
//! that is away loses spans and metrics, never deliveries.
//!
//! The log subscriber is the one thing that exists once per process and not per service.

mod lines;
mod trace_context;

use std::time::Duration;

use opentelemetry::metrics::{Meter, MeterProvider as _};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, trace::TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    metrics::SdkMeterProvider,
    trace::{Sampler, SdkTracerProvider},
};
use thiserror::Error;
use tracing::{Level, Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::filter_fn,
    fmt::MakeWriter,
    layer::{self, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use self::lines::Lines;
pub(crate) use self::lines::lost as lost_lines;
pub use self::trace_context::{TRACE_RANDOM_BYTES, TraceContext, next_traceparent};
use crate::{
    metrics::otlp_buckets,
    settings::{Env, Settings},
};

/// Longest wait for the last spans to leave at the end of a process.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for the last lines of the log to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The target of wide lines that tell of nothing but success: an event accepted, fanned out, a delivery
/// made. Each is one line at `info`; who has thousands a second and the history beside them leaves them
/// out by `WEBHOOKS_LOG=info,async_nats=warn,webhooks::done=warn`, and still sees what failed or was slow.
pub const DONE: &str = "webhooks::done";

/// The prefix of our crates' names: only their spans are exported, or exporting would trace itself.
const OUR_TARGETS: &str = "webhooks";

type LogLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// How to log and trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetrySettings {
    /// `tracing` filter directives (`info,webhooks_dispatcher=debug`).
    pub log_filter: String,
    /// Where the OTLP collector listens (`http://collector:4317`); none means no traces, and metrics
    /// on the admin port only.
    pub otlp_endpoint: Option<String>,
    /// The share of new traces to keep, 0 to 1. A parent's decision is followed.
    pub trace_ratio: f64,
}

impl Settings for TelemetrySettings {
    fn read(env: &mut Env) -> Self {
        let log_filter = env.string(
            "WEBHOOKS_LOG",
            "info,async_nats=warn",
            "what to log: a level, or directives such as `info,webhooks_dispatcher=debug`; `webhooks::done=warn` leaves out the lines of what went well",
        );
        if let Err(error) = EnvFilter::try_new(&log_filter) {
            env.problem("WEBHOOKS_LOG", error);
        }
        Self {
            log_filter,
            otlp_endpoint: env.optional_url(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "OTLP collector (gRPC), for traces and metrics, such as `http://collector:4317`; without it no traces are made",
            ),
            trace_ratio: env.ranged("WEBHOOKS_TRACE_RATIO", 1.0, 0.0..=1.0, "share of new traces to export"),
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The log filter is not valid.
    #[error("log filter is not valid")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The exporter could not be built from its endpoint.
    #[error("OTLP exporter cannot be set up")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The thread that writes the log could not be started.
    #[error("the log cannot be written")]
    Log(#[source] std::io::Error),
    /// This process logs already.
    #[error("a log subscriber is installed already")]
    Installed(#[source] tracing_subscriber::util::TryInitError),
}

/// The handle that flushes at the end.
#[derive(Debug)]
pub struct Telemetry {
    lines: Lines,
    tracer: Option<SdkTracerProvider>,
    meter: Option<SdkMeterProvider>,
}

/// Sets up logs and, if wanted, traces for this process. Call once, inside a tokio runtime.
///
/// # Errors
/// An invalid filter or endpoint, or a second call.
pub fn init(service: &str, settings: &TelemetrySettings) -> Result<Telemetry, TelemetryError> {
    let endpoint = settings.otlp_endpoint.as_deref();
    let tracer = endpoint
        .map(|endpoint| tracer_provider(service, endpoint, settings.trace_ratio))
        .transpose()?;
    let meter = endpoint
        .map(|endpoint| meter_provider(service, endpoint))
        .transpose()?;
    let traces = tracer.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("webhooks"))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter_fn(is_exported))
    });
    let lines = Lines::start(std::io::stdout(), lines::MAX_WAITING).map_err(TelemetryError::Log)?;
    subscriber(&settings.log_filter, lines.clone(), traces)?
        .try_init()
        .map_err(TelemetryError::Installed)?;
    Ok(Telemetry {
        lines,
        tracer,
        meter,
    })
}

impl Telemetry {
    /// What metrics are exported through, when they are.
    #[must_use]
    pub fn meter(&self) -> Option<Meter> {
        self.meter.as_ref().map(|meter| meter.meter("webhooks"))
    }

    /// Sends what is still in memory, for at most [`FLUSH_TIMEOUT`] each. Blocks: call it outside of
    /// asynchronous code, with the runtime still alive.
    pub fn shutdown(mut self) {
        if let Some(meter) = self.meter.take()
            && let Err(error) = meter.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(error = %error, "the last metrics were lost");
        }
        if let Some(tracer) = self.tracer.take()
            && let Err(error) = tracer.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(error = %error, "the last spans were lost");
        }
    }
}

/// The last lines are written also where a panic ends the process.
impl Drop for Telemetry {
    fn drop(&mut self) {
        self.lines.flush(LAST_LINES);
    }
}

/// The `traceparent` of the current span, when traces are exported and a span is open.
#[must_use]
pub fn current_traceparent() -> Option<String> {
    let span = Span::current();
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| {
        let sampled = context.is_sampled();
        TraceContext {
            trace_id: context.trace_id().to_bytes(),
            parent_id: context.span_id().to_bytes(),
            sampled,
        }
        .to_string()
    })
}

/// Makes a span that has not been entered yet the child of an incoming `traceparent`. Whether that
/// worked: not without export, with an invalid header, or once the span has begun.
pub fn set_parent(span: &Span, traceparent: &str) -> bool {
    if span.is_disabled() {
        return false;
    }
    let Some(parent) = TraceContext::parse(traceparent) else {
        return false;
    };
    let flags = if parent.sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::NOT_SAMPLED
    };
    let remote = SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.parent_id),
        flags,
        true,
        TraceState::NONE,
    );
    span.set_parent(Context::new().with_remote_span_context(remote))
        .is_ok()
}

fn tracer_provider(
    service: &str,
    endpoint: &str,
    ratio: f64,
) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(TelemetryError::Exporter)?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            ratio,
        ))))
        .with_resource(resource(service))
        .build())
}

/// Sends every minute, or as `OTEL_METRIC_EXPORT_INTERVAL` (milliseconds) says.
fn meter_provider(service: &str, endpoint: &str) -> Result<SdkMeterProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(TelemetryError::Exporter)?;
    Ok(SdkMeterProvider::builder()
        .with_periodic_exporter(exporter)
        .with_view(otlp_buckets)
        .with_resource(resource(service))
        .build())
}

fn resource(service: &str) -> Resource {
    Resource::builder()
        .with_service_name(format!("webhooks-{service}"))
        .build()
}

/// Logs, and traces if wanted. Without them there is no second layer at all: one that is `None` wants
/// every span there is.
fn subscriber<L, W>(
    filter: &str,
    writer: W,
    traces: Option<L>,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    L: Layer<layer::Layered<LogLayer, Registry>> + Send + Sync,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let logs = tracing_subscriber::registry().with(log_layer(filter, writer)?);
    Ok(match traces {
        Some(traces) => Box::new(logs.with(traces)),
        None => Box::new(logs),
    })
}

/// Events only: a layer that never asks for spans is what makes them free without export.
fn log_layer<W>(filter: &str, writer: W) -> Result<LogLayer, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?;
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(writer)
        // A line that cannot be written would be told with `eprintln!`, which panics when nobody reads
        // standard error any more.
        .log_internal_errors(false);
    Ok(layer
        .with_filter(filter)
        .with_filter(filter_fn(is_logged))
        .boxed())
}

/// Whatever the filter asks for, libraries do not log below DEBUG: at TRACE they print what goes through
/// them, and payloads and secrets belong in no log. `async_nats` does so at DEBUG already: each answer of
/// JetStream, the stored message in it.
fn is_logged(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    let most = if target.starts_with(OUR_TARGETS) {
        Level::TRACE
    } else if target.starts_with("async_nats") {
        Level::INFO
    } else {
        Level::DEBUG
    };
    metadata.is_event() && *metadata.level() <= most
}

fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(OUR_TARGETS) && *metadata.level() <= Level::INFO
}

#[cfg(test)]
mod tests;
