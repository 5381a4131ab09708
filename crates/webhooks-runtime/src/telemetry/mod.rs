//! Logs and traces.
//!
//! Logs are JSON lines on standard output, one per event, fields flattened. They do not carry span
//! fields on purpose: the services write one wide line per unit of work, and this way a span costs
//! nothing at all unless traces are exported. With `OTEL_EXPORTER_OTLP_ENDPOINT` set, spans of our
//! own crates go to an OTLP collector over gRPC, in batches, from a thread of their own; a collector
//! that is away loses spans, never deliveries.
//!
//! The log subscriber is the one thing that exists once per process and not per service.

mod trace_context;

use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Context, trace::TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use thiserror::Error;
use tracing::{Level, Metadata, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, fmt::MakeWriter, layer::SubscriberExt as _,
    registry::LookupSpan, util::SubscriberInitExt as _,
};

pub use self::trace_context::{TRACE_RANDOM_BYTES, TraceContext, next_traceparent};
use crate::settings::{Env, Settings};

/// Longest wait for the last spans to leave at the end of a process.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The prefix of our crates' names: only their spans are exported, or exporting would trace itself.
const OUR_TARGETS: &str = "webhooks";

/// How to log and trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetrySettings {
    /// `tracing` filter directives (`info,webhooks_dispatcher=debug`).
    pub log_filter: String,
    /// Where the OTLP collector listens (`http://collector:4317`); none means no traces.
    pub otlp_endpoint: Option<String>,
    /// The share of new traces to keep, 0 to 1. A parent's decision is followed.
    pub trace_ratio: f64,
}

impl Settings for TelemetrySettings {
    fn read(env: &mut Env) -> Self {
        let log_filter = env.string(
            "WEBHOOKS_LOG",
            "info",
            "what to log: a level, or directives such as `info,webhooks_dispatcher=debug`",
        );
        if let Err(error) = EnvFilter::try_new(&log_filter) {
            env.problem("WEBHOOKS_LOG", error);
        }
        Self {
            log_filter,
            otlp_endpoint: env.optional(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "OTLP collector (gRPC), such as `http://collector:4317`; without it no traces are made",
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
    /// This process logs already.
    #[error("a log subscriber is installed already")]
    Installed(#[source] tracing_subscriber::util::TryInitError),
}

/// The handle that flushes at the end.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Sets up logs and, if wanted, traces for this process. Call once, inside a tokio runtime.
///
/// # Errors
/// An invalid filter or endpoint, or a second call.
pub fn init(service: &str, settings: &TelemetrySettings) -> Result<Telemetry, TelemetryError> {
    let provider = settings
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| tracer_provider(service, endpoint, settings.trace_ratio))
        .transpose()?;
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("webhooks"))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter_fn(is_exported))
    });
    tracing_subscriber::registry()
        .with(log_layer(&settings.log_filter, std::io::stdout)?)
        .with(traces)
        .try_init()
        .map_err(TelemetryError::Installed)?;
    Ok(Telemetry { provider })
}

impl Telemetry {
    /// Sends what is still in memory, for at most [`FLUSH_TIMEOUT`]. Blocks: call it outside of
    /// asynchronous code, with the runtime still alive.
    pub fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        if let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(error = %error, "the last spans were lost");
        }
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
        .with_resource(
            Resource::builder()
                .with_service_name(format!("webhooks-{service}"))
                .build(),
        )
        .build())
}

/// Events only: a layer that never asks for spans is what makes them free without export.
fn log_layer<S, W>(filter: &str, writer: W) -> Result<impl Layer<S> + use<S, W>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(TelemetryError::Filter)?;
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(writer);
    Ok(layer
        .with_filter(filter)
        .with_filter(filter_fn(|metadata| metadata.is_event())))
}

fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(OUR_TARGETS) && *metadata.level() <= Level::INFO
}

#[cfg(test)]
mod tests;
