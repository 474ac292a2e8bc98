//! Collects the status, events and snapshots of clones for the control protocol and the metrics.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use clone_core::dm_target::{Mode, Status, StatusLine};
use clone_core::driver::DatedEvent;
use clone_core::engine::{EventKind, Failure, Settings};
use serde_json::Value;

use super::hydration_map;
use super::protocol::{CELLS_MAX, CloneStatus, Event, Requests, Set, Snapshot, shortened};
use crate::export::stats::{Counts, Kind, Stats};
use crate::host::ServedClone;

/// The number of events in a snapshot.
const EVENTS: usize = 8;

/// The maximum length in bytes of a failure reason or other quoted text.
const REASON_MAX: usize = 2048;

/// Returns the status of a clone. `flush` commits first.
pub(crate) fn status(clone: &ServedClone, flush: bool) -> CloneStatus {
    let line = clone.status(flush);
    let running = clone.running();
    let events = running.wait_for_dated(0, Duration::ZERO);
    let failed_regions = running.failed_regions().into_iter();
    let volume = clone.volume();
    let mut status = CloneStatus {
        name: clone.name().to_owned(),
        exports: clone.exports(),
        size_bytes: volume.size_bytes(),
        region_bytes: volume.region_bytes(),
        regions: volume.size_bytes().div_ceil(volume.region_bytes().max(1)),
        suspended: running.is_suspended(),
        set_aside_regions: failed_regions.map(|f| f.regions.end - f.regions.start).sum(),
        event_nr: events.last().map_or(0, |dated| dated.event.number),
        settings: set(&running.settings()),
        ..CloneStatus::default()
    };
    add_line(&mut status, &line);
    status
}

fn add_line(status: &mut CloneStatus, line: &StatusLine) {
    status.status = line.to_string();
    let stats = match &line.status {
        Status::Fail => return status.state = "fail".to_owned(),
        Status::Error => return status.state = "error".to_owned(),
        Status::Running(stats) => stats,
    };
    status.state = "running".to_owned();
    let mode = match stats.mode {
        Mode::ReadWrite => "rw",
        Mode::ReadOnly => "ro",
    };
    status.mode = Some(mode.to_owned());
    status.complete = stats.hydrated == stats.regions;
    status.hydrated_regions = stats.hydrated;
    status.regions = stats.regions;
    status.hydrating_regions = stats.hydrating;
    status.metadata_used_blocks = stats.metadata_used;
    status.metadata_total_blocks = stats.metadata_total;
}

fn set(settings: &Settings) -> Set {
    let Settings { options, hydration_rate, hydrate_on_read, max_failures, .. } = *settings;
    Set {
        hydration: options.hydration,
        discard_passdown: options.discard_passdown,
        hydration_threshold: options.hydration_threshold,
        hydration_batch_size: options.hydration_batch_size,
        hydration_rate,
        hydrate_on_read,
        max_failures,
    }
}

/// Converts an event of the clone `name`.
pub(super) fn event(name: &str, dated: DatedEvent) -> Event {
    let DatedEvent { event, time } = dated;
    let (what, details) = details(&event.kind);
    let time = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Event {
        name: name.to_owned(),
        number: event.number,
        time: time.as_secs_f64(),
        what: what.to_owned(),
        text: shortened(event.kind.to_string(), REASON_MAX),
        details,
    }
}

fn details(what: &EventKind) -> (&'static str, BTreeMap<String, Value>) {
    let mut details = BTreeMap::new();
    let mut add = |name: &str, value: Value| details.insert(name.to_owned(), value);
    let mut add_failure = |Failure { device, reason, .. }: &Failure| {
        add("device", device.to_string().into());
        add("reason", shortened(reason.clone(), REASON_MAX).into());
    };
    let name = match what {
        EventKind::Finished => "finished",
        EventKind::ReadOnly(failure) => {
            add_failure(failure);
            "read_only"
        }
        EventKind::FlushFailed(failure) => {
            add_failure(failure);
            "flush_failed"
        }
        EventKind::Failed(failure) => {
            add_failure(failure);
            "failed"
        }
        EventKind::HydrationStopped { failures, range, failure } => {
            add_failure(failure);
            add("failures", (*failures).into());
            add("start", range.start.into());
            add("end", range.end.into());
            "hydration_stopped"
        }
        EventKind::SourceChanged { reason } => {
            add("reason", shortened(reason.clone(), REASON_MAX).into());
            "source_changed"
        }
        EventKind::LimitReached => "limit_reached",
        EventKind::Suspended => "suspended",
        EventKind::Resumed => "resumed",
        _ => "other",
    };
    (name, details)
}

/// Returns the complete current state of a clone, with a map of at most `cells` cells.
pub(super) fn snapshot(clone: &ServedClone, cells: u32) -> Snapshot {
    let volume = clone.volume();
    let region_bytes = volume.region_bytes();
    let regions = volume.size_bytes().div_ceil(region_bytes.max(1));
    let cell_regions = hydration_map::regions_per_cell(regions, cells.clamp(1, CELLS_MAX));
    let user = volume.user();
    let run = |range: &_| user.hydrated(range);
    let progress = clone.running().progress();
    let events = clone.running().wait_for_dated(0, Duration::ZERO);
    let last = events.len().saturating_sub(EVENTS);
    Snapshot {
        clone: status(clone, false),
        source: shortened(clone.spec().source.to_string(), REASON_MAX),
        micros: micros(),
        fetched_bytes: progress.fetched_bytes,
        copied_bytes: progress.copied_bytes,
        zeroed_bytes: progress.zeroed_bytes,
        source_read_bytes: progress.source_read_bytes,
        commits: progress.commits,
        in_flight: volume.stats().in_flight(),
        requests: requests(volume.stats()),
        cell_regions,
        cells: hydration_map::draw(
            volume.size_bytes(),
            cell_regions.saturating_mul(region_bytes),
            run,
        ),
        events: events.into_iter().skip(last).map(|dated| event(clone.name(), dated)).collect(),
    }
}

fn micros() -> u64 {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    let since = BEGINNING.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn requests(stats: &Stats) -> BTreeMap<String, Requests> {
    let of_kind = |kind: Kind| {
        let mut sum = Requests::default();
        for counts in [true, false].map(|hydrated| stats.counts(kind, hydrated)) {
            let Counts { classes, micros, bytes, failed } = counts;
            let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            sum.count += classes.iter().map(get).sum::<u64>();
            sum.micros += get(micros);
            sum.bytes += get(bytes);
            sum.failed += get(failed);
        }
        (kind.name().to_owned(), sum)
    };
    Kind::ALL.into_iter().map(of_kind).collect()
}
