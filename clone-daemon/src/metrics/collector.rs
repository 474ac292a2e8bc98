//! What is told of each clone.
//!
//! Nothing is counted here: the numbers are those of [`crate::export::stats`], of the driver and of
//! the source, as they are when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clone_core::driver::HydrationProgress;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::control::protocol::CloneStatus;
use crate::control::report;
use crate::export::nbd::Connections;
use crate::export::stats::{Counts, Kind, LATENCY_ENDS, Stats};
use crate::host::Host;
use crate::lost_lines;
use crate::source::SourceStats;

/// All clones of a host.
pub(super) struct Clones {
    host: Arc<Host>,
    nbd: Option<Connections>,
}

impl Clones {
    pub(super) fn new(host: Arc<Host>, nbd: Option<Connections>) -> Self {
        Self { host, nbd }
    }

    /// Returns the number of connections of NBD clients to the clone `name`.
    fn nbd_connections(&self, name: &str) -> u64 {
        self.nbd.as_ref().map_or(0, |nbd| nbd.of(name) as u64)
    }
}

impl fmt::Debug for Clones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clones")
    }
}

/// The values of one clone.
struct Sample {
    status: CloneStatus,
    progress: HydrationProgress,
    caught_panics: u64,
    stats: Arc<Stats>,
    source: Option<Arc<SourceStats>>,
    nbd_connections: u64,
}

/// A metric of a clone: its name, its help text, and its value.
type Number = (&'static str, &'static str, fn(&Sample) -> u64);

const GAUGES: [Number; 20] = [
    ("cloned_size_bytes", "Bytes of the clone.", |s| s.status.size_bytes),
    ("cloned_region_bytes", "Bytes of a region.", |s| s.status.region_bytes),
    ("cloned_regions", "Regions of the clone.", |s| s.status.regions),
    ("cloned_regions_hydrated", "Regions that are hydrated.", |s| s.status.hydrated_regions),
    ("cloned_regions_hydrating", "Regions that are being copied.", |s| s.status.hydrating_regions),
    ("cloned_regions_set_aside", "Regions that could not be copied.", |s| {
        s.status.set_aside_regions
    }),
    ("cloned_metadata_blocks", "Blocks of 4096 bytes of the metadata device.", |s| {
        s.status.metadata_total_blocks
    }),
    ("cloned_metadata_blocks_used", "Blocks of metadata that are in use.", |s| {
        s.status.metadata_used_blocks
    }),
    (
        "cloned_mode",
        "0 if metadata can change, 1 if it can no longer change, 2 if all has failed.",
        mode,
    ),
    ("cloned_hydration_enabled", "1 if hydration in the background is enabled, or else 0.", |s| {
        s.status.settings.hydration.into()
    }),
    ("cloned_hydrate_on_read", "1 if reads hydrate the regions that they read, or else 0.", |s| {
        s.status.settings.hydrate_on_read.into()
    }),
    (
        "cloned_hydration_threshold_regions",
        "Maximum number of regions that hydration copies at a time.",
        |s| s.status.settings.hydration_threshold.into(),
    ),
    (
        "cloned_hydration_batch_size_regions",
        "Maximum number of regions that hydration copies in one copy.",
        |s| s.status.settings.hydration_batch_size.into(),
    ),
    (
        "cloned_hydration_rate_limit_bytes",
        "Maximum bytes hydrated per second; 0 means no limit.",
        |s| s.status.settings.hydration_rate.unwrap_or(0),
    ),
    ("cloned_suspended", "1 if the clone is suspended, or else 0.", |s| s.status.suspended.into()),
    ("cloned_complete", "1 if all regions are hydrated, or else 0.", |s| s.status.complete.into()),
    ("cloned_requests_in_flight", "Requests of users in flight.", |s| s.stats.in_flight()),
    ("cloned_nbd_connections", "Connections of NBD clients that have chosen the clone.", |s| {
        s.nbd_connections
    }),
    ("cloned_source_requests_in_flight", "Requests to a remote source in flight.", |s| {
        s.of_source(|stats| &stats.in_flight)
    }),
    ("cloned_source_requests_in_flight_max", "Maximum number in flight so far.", |s| {
        s.of_source(|stats| &stats.in_flight_max)
    }),
];

const COUNTERS: [Number; 11] = [
    ("cloned_fetched_bytes_total", "Bytes read from the source to be copied.", |s| {
        s.progress.fetched_bytes
    }),
    ("cloned_copied_bytes_total", "Bytes of copies written to the destination.", |s| {
        s.progress.copied_bytes
    }),
    ("cloned_zeroed_bytes_total", "Bytes of copies that are zeroes, and were not written.", |s| {
        s.progress.zeroed_bytes
    }),
    ("cloned_source_read_bytes_total", "Bytes read from the source for users alone.", |s| {
        s.progress.source_read_bytes
    }),
    ("cloned_commits_total", "Commits of metadata that were begun.", |s| s.progress.commits),
    ("cloned_events_total", "Events: finished, failed and the like.", |s| s.status.event_nr),
    ("cloned_caught_panics_total", "Panics that were caught and did not harm the clone.", |s| {
        s.caught_panics
    }),
    ("cloned_source_requests_total", "Requests to a remote source.", |s| {
        s.of_source(|stats| &stats.requests)
    }),
    ("cloned_source_retries_total", "Retried requests to a remote source.", |s| {
        s.of_source(|stats| &stats.retries)
    }),
    ("cloned_source_failures_total", "Reads of a remote source that were given up.", |s| {
        s.of_source(|stats| &stats.failures)
    }),
    ("cloned_source_bytes_total", "Bytes that came from a remote source.", |s| {
        s.of_source(|stats| &stats.bytes)
    }),
];

fn mode(sample: &Sample) -> u64 {
    match (&*sample.status.state, sample.status.mode.as_deref()) {
        ("running", Some("rw")) => 0,
        ("running", _) => 1,
        _ => 2,
    }
}

impl Sample {
    /// Reads a counter of a remote source. A local source has none: the value is 0.
    fn of_source(&self, counter: impl Fn(&SourceStats) -> &AtomicU64) -> u64 {
        self.source.as_ref().map_or(0, |stats| counter(stats).load(Ordering::Relaxed))
    }
}

impl Collector for Clones {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let samples: Vec<Sample> = self
            .host
            .list()
            .iter()
            .map(|clone| Sample {
                status: report::status(clone, false),
                progress: clone.running().progress(),
                caught_panics: clone.running().caught_panics(),
                stats: clone.volume().stats().clone(),
                source: clone.source_figures().cloned(),
                nbd_connections: self.nbd_connections(clone.volume().name()),
            })
            .collect();
        build_info(&mut encoder)?;
        connections(&mut encoder, self.nbd.as_ref())?;
        log_lines_lost(&mut encoder)?;
        for (name, help, number) in GAUGES {
            numbers(&mut encoder, (name, help, number), MetricType::Gauge, &samples)?;
        }
        for (name, help, number) in COUNTERS {
            numbers(&mut encoder, (name, help, number), MetricType::Counter, &samples)?;
        }
        requests(&mut encoder, &samples)
    }
}

fn build_info(encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
    let help = "1, with the version of cloned.";
    let mut metric =
        encoder.encode_descriptor("cloned_build_info", help, None, MetricType::Gauge)?;
    metric.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?.encode_gauge(&1i64)
}

/// Encodes the connections of NBD clients to all clones together.
fn connections(
    encoder: &mut DescriptorEncoder,
    nbd: Option<&Connections>,
) -> Result<(), fmt::Error> {
    let (gauge, counter) = (MetricType::Gauge, MetricType::Counter);
    let number = |number: fn(&Connections) -> u64| nbd.map_or(0, number);
    for (name, help, kind, number) in [
        (
            "cloned_nbd_connections_max",
            "Maximum number of connections of NBD clients, to all clones.",
            gauge,
            number(|nbd| nbd.max() as u64),
        ),
        (
            "cloned_nbd_handshakes",
            "Connections of NBD clients that have not chosen a clone.",
            gauge,
            number(|nbd| nbd.handshakes() as u64),
        ),
        (
            "cloned_nbd_connections_refused_total",
            "Connections of NBD clients that were refused, because there were too many.",
            counter,
            number(Connections::refused),
        ),
        (
            "cloned_nbd_connections_evicted_total",
            "Idle connections of NBD clients that were closed for others.",
            counter,
            number(Connections::evicted),
        ),
    ] {
        let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
        metric.encode_gauge(&signed(number))?;
    }
    Ok(())
}

fn log_lines_lost(encoder: &mut DescriptorEncoder) -> Result<(), fmt::Error> {
    let (name, help) = ("cloned_log_lines_lost_total", "Log lines that were not written.");
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_gauge(&signed(lost_lines::count()))
}

/// Encodes one metric of each clone. Counters are encoded as gauges: they then keep their `_total`
/// names, as the Prometheus text format expects. The encoder follows OpenMetrics otherwise, removes
/// `_total` from the name of the family, and `promtool check metrics` finds neither type nor help.
fn numbers(
    encoder: &mut DescriptorEncoder,
    (name, help, number): Number,
    kind: MetricType,
    samples: &[Sample],
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for sample in samples {
        let labels = [("clone", sample.status.name.as_str())];
        metric.encode_family(&labels)?.encode_gauge(&signed(number(sample)))?;
    }
    Ok(())
}

/// Converts a value to the signed type of the encoder. No value comes near its limit.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Encodes the user requests, by operation and by whether the region was hydrated already.
fn requests(encoder: &mut DescriptorEncoder, samples: &[Sample]) -> Result<(), fmt::Error> {
    let all = || {
        let kinds = Kind::ALL.into_iter().flat_map(|kind| [(kind, true), (kind, false)]);
        let of = |sample| kinds.clone().map(move |which| Series { sample, which });
        samples.iter().flat_map(of).collect::<Vec<_>>()
    };
    for (name, help, counter) in [
        (
            "cloned_request_bytes_total",
            "Bytes of the requests of users.",
            (|counts| &counts.bytes) as fn(&Counts) -> &AtomicU64,
        ),
        ("cloned_requests_failed_total", "Requests of users that failed.", |counts| &counts.failed),
    ] {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for series in all() {
            let value = counter(series.counts()).load(Ordering::Relaxed);
            metric.encode_family(&series.labels())?.encode_gauge(&signed(value))?;
        }
    }
    let (name, help) = ("cloned_request_duration_seconds", "Duration of requests of users.");
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for series in all() {
        let (sum, count, buckets) = histogram(series.counts());
        let labels = series.labels();
        let mut metric = metric.encode_family(&labels)?;
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}

/// The requests of one kind to one clone.
struct Series<'a> {
    sample: &'a Sample,
    which: (Kind, bool),
}

impl Series<'_> {
    fn counts(&self) -> &Counts {
        self.sample.stats.counts(self.which.0, self.which.1)
    }

    fn labels(&self) -> [(&str, &str); 3] {
        let (kind, hydrated) = self.which;
        let hydrated = if hydrated { "true" } else { "false" };
        [("clone", &self.sample.status.name), ("operation", kind.name()), ("hydrated", hydrated)]
    }
}

/// Returns the sum in seconds, the count, and the count in each bucket. The total is computed from
/// the buckets, so that both agree even if requests complete meanwhile.
fn histogram(counts: &Counts) -> (f64, u64, Vec<(f64, u64)>) {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let ends = LATENCY_ENDS.iter().map(|&end| seconds(end)).chain([f64::INFINITY]);
    let classes = counts.classes.iter().map(|class| class.load(Ordering::Relaxed));
    let buckets: Vec<(f64, u64)> = ends.zip(classes).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    (seconds(counts.micros.load(Ordering::Relaxed)), count, buckets)
}
