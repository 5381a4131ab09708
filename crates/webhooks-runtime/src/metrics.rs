//! Metrics, kept in memory and rendered for Prometheus on the admin port; with an OTLP collector they
//! go there too, under the same names and with the same buckets.
//!
//! The recorder is the second thing (after the log subscriber) that exists once per process: the
//! `metrics` macros have nowhere else to go. Histograms have fixed buckets, because summaries cannot
//! be added up over processes. Labels must be bounded: never an id or a URL.

use std::{sync::Mutex, sync::PoisonError, time::Duration};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use metrics_util::layers::FanoutBuilder;
use opentelemetry::metrics::Meter;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, InstrumentKind, Stream};
use thiserror::Error;

use crate::telemetry::lost_lines;

/// How often recorded histogram values are folded into their buckets; between two foldings they wait in memory.
pub const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// Buckets of `*_seconds`: from 100 µs to 5 minutes.
const SECONDS: [f64; 20] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
];

/// Buckets of `*_bytes`: from 256 B to 4 MiB.
const BYTES: [f64; 8] = [
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
];

/// Buckets of every other histogram: counts from 1 to 4096.
const COUNTS: [f64; 13] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];

/// Why metrics could not be set up.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// The buckets are not valid.
    #[error("metrics recorder cannot be set up")]
    Build(#[source] BuildError),
    /// Another crate has installed a recorder of its own.
    #[error("a metrics recorder is installed already")]
    Installed,
}

/// The process's recorder, to render and to keep up.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);

impl Metrics {
    /// The recorder of this process; installed at the first call, shared by later ones. With a
    /// `meter`, every value goes to it as well.
    ///
    /// # Errors
    /// Another crate has installed a recorder of its own.
    pub fn install(meter: Option<Meter>) -> Result<Self, MetricsError> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = &*installed {
            return Ok(metrics.clone());
        }
        let prometheus = builder().map_err(MetricsError::Build)?.build_recorder();
        let handle = prometheus.handle();
        let done = match meter {
            // Not through the fan-out: it costs a second look-up for each value.
            None => metrics::set_global_recorder(prometheus).is_ok(),
            Some(meter) => {
                let otlp = OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(meter));
                let both = FanoutBuilder::default()
                    .add_recorder(prometheus)
                    .add_recorder(otlp)
                    .build();
                metrics::set_global_recorder(both).is_ok()
            }
        };
        if !done {
            return Err(MetricsError::Installed);
        }
        describe_gauge!(
            "process_resident_memory_bytes",
            Unit::Bytes,
            "Memory the process holds"
        );
        describe_gauge!("process_open_fds", "Open file descriptors");
        describe_counter!(
            "webhooks_log_lines_lost_total",
            "Log lines that nobody read in time"
        );
        describe_gauge!(
            "process_cpu_seconds",
            Unit::Seconds,
            "Processor time used since the start"
        );
        // So that also a process that ends soon has told of itself.
        record_process();
        Ok(installed.insert(Self { handle }).clone())
    }

    /// The exposition text.
    #[must_use]
    pub fn render(&self) -> String {
        record_process();
        self.handle.render()
    }

    /// Folds histograms and looks at the process every [`UPKEEP_PERIOD`], for ever.
    pub async fn upkeep(self) {
        let mut period = tokio::time::interval(UPKEEP_PERIOD);
        loop {
            period.tick().await;
            record_process();
            self.handle.run_upkeep();
        }
    }
}

/// The buckets of a histogram for OTLP: those it has in Prometheus.
pub(crate) fn otlp_buckets(instrument: &Instrument) -> Option<Stream> {
    if instrument.kind() != InstrumentKind::Histogram {
        return None;
    }
    let name = instrument.name();
    let boundaries = if name.ends_with("_seconds") {
        SECONDS.to_vec()
    } else if name.ends_with("_bytes") {
        BYTES.to_vec()
    } else {
        COUNTS.to_vec()
    };
    let aggregation = Aggregation::ExplicitBucketHistogram {
        boundaries,
        record_min_max: false,
    };
    // The boundaries are constants in rising order, which is all that can be wrong with them.
    Stream::builder().with_aggregation(aggregation).build().ok()
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets(&COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)
}

/// What the kernel knows about this process (absent where there is no `/proc`), and the lines it lost.
fn record_process() {
    counter!("webhooks_log_lines_lost_total").absolute(lost_lines());
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let Some(kib) = resident_kib(&status)
    {
        gauge!("process_resident_memory_bytes").set(kib * 1024.0);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(f64::from(
            u32::try_from(entries.count()).unwrap_or(u32::MAX),
        ));
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat")
        && let Some(seconds) = cpu_seconds(&stat)
    {
        gauge!("process_cpu_seconds").set(seconds);
    }
}

fn resident_kib(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time. Linux reports both in hundredths of a second to user space, whatever the kernel ticks.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::{Metrics, cpu_seconds, resident_kib};

    #[test]
    fn histograms_have_buckets_by_unit_and_the_process_is_there() {
        Metrics::install(None).unwrap();
        metrics::histogram!("test_wait_seconds").record(0.002);
        metrics::histogram!("test_body_bytes").record(300.0);
        metrics::counter!("test_total", "outcome" => "success").increment(2);
        let text = Metrics::install(None).unwrap().render();
        for line in [
            "test_wait_seconds_bucket{le=\"0.001\"} 0",
            "test_wait_seconds_bucket{le=\"0.0025\"} 1",
            "test_body_bytes_bucket{le=\"1024\"} 1",
            "test_total{outcome=\"success\"} 2",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        #[cfg(target_os = "linux")]
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t  1234 kB\n"), Some(1234.0));
        assert_eq!(
            cpu_seconds("1 (a b) c) S 0 1 1 0 -1 4194560 1 0 0 0 150 50 0 0 20 0"),
            Some(2.0)
        );
        assert_eq!(cpu_seconds("nonsense"), None);
    }
}
