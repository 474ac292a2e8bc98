//! Runs the hydration of a clone until an end condition is met.
//!
//! [`hydrate`] starts a [`RunningClone`], waits for its events, and suspends it, so that all copied
//! regions are committed before it returns.

use std::time::{Duration, Instant};

use clone_core::block_io::SourceChanged;
use clone_core::dm_target::Message;
use clone_core::driver::{Devices, DriverError, DriverOptions, HydrationProgress, RunningClone};
use clone_core::engine::{ByteRange, Command, EventKind, FailedRegion, Failure, Settings};
use persistent_data::device::Device;

use crate::common::pin::LocalSource;

/// The interval at which signals and progress are polled.
const PROGRESS_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The number of attempts on a failed region before it is given up, if only failed regions remain.
/// The engine waits one and two seconds after the first two attempts.
const TRIES: u32 = 3;

/// The settings of a session.
pub(super) struct Plan {
    pub(super) settings: Settings,
    /// The maximum number of copies in flight.
    pub(super) jobs: u32,
    /// The maximum number of bytes to copy.
    pub(super) limit: Option<u64>,
    /// The ranges to copy first.
    pub(super) first: Vec<ByteRange>,
}

/// The reason why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Every region is hydrated.
    Complete,
    /// The limit of bytes was reached.
    Limit,
    /// The signal that asked it to stop.
    Signal(&'static str),
    /// The source has changed since the start.
    SourceChanged(String),
    /// This number of consecutive copies failed.
    InARow(u32),
    /// Only failed regions are left.
    OnlyFailedLeft,
    /// The destination or the metadata could not be written or flushed.
    ReadOnly(Failure),
    /// The metadata could not be read back, or a thread panicked.
    Failed(Failure),
}

/// The result of a session.
#[derive(Clone, Debug)]
pub(super) struct SessionOutcome {
    pub(super) end: End,
    pub(super) progress: HydrationProgress,
    /// The failed regions.
    pub(super) failed: Vec<FailedRegion>,
    pub(super) took: Duration,
}

impl SessionOutcome {
    /// Checks a last time that the source is unchanged. Each read was followed by such a check, but
    /// some changes become visible late.
    pub(super) fn check(&mut self, source: &LocalSource) {
        let is_worse =
            matches!(self.end, End::ReadOnly(_) | End::Failed(_) | End::SourceChanged(_));
        if let Some(error) = source.check().err().filter(|_| !is_worse) {
            self.end = End::SourceChanged(match SourceChanged::of(&error) {
                Some(SourceChanged(what)) => what.clone(),
                None => error.to_string(),
            });
        }
    }
}

/// Hydrates until an end condition is met, and commits all copied regions.
///
/// `signal` is polled for a stop signal; `show` receives the progress.
///
/// # Errors
/// The errors of [`RunningClone::start`].
pub(super) fn hydrate<D: Device + 'static>(
    devices: Devices<D>,
    plan: Plan,
    signal: impl Fn() -> Option<&'static str>,
    mut show: impl FnMut(Duration, &HydrationProgress),
) -> Result<SessionOutcome, DriverError> {
    let began = Instant::now();
    let Plan { mut settings, jobs, limit, first } = plan;
    settings.options.hydration = false;
    // The driver reserves two workers for user requests in addition to those that copy.
    let options = DriverOptions { workers: jobs as usize + 2, ..DriverOptions::default() };
    let clone = RunningClone::start(devices, settings, options)?;
    clone.command(Command::HydrationLimit(limit));
    for range in first {
        clone.command(Command::Hydrate(range));
    }
    clone.command(Command::Kernel(Message::EnableHydration));

    let mut seen = 0;
    let mut end = None;
    while end.is_none() {
        for event in clone.wait_for(seen, PROGRESS_POLL_INTERVAL) {
            seen = event.number;
            end = end.or(end_of(&event.kind));
        }
        let progress = clone.progress();
        let is_stuck = || is_stuck(&progress, &clone.failed_regions());
        end = end
            .or_else(|| signal().map(End::Signal))
            .or_else(|| is_stuck().then_some(End::OnlyFailedLeft));
        show(began.elapsed(), &progress);
    }
    // A clone that becomes read-only forgets its failed regions.
    let before = clone.failed_regions();
    // A failure is also reported as an event.
    let _ = clone.suspend();
    let progress = clone.progress();
    let mut failed = clone.failed_regions();
    if failed.is_empty() && progress.hydrated < progress.regions {
        failed = before;
    }
    for event in clone.wait_for(seen, Duration::ZERO) {
        let last = end_of(&event.kind);
        // These outcomes take precedence over earlier ones.
        if matches!(last, Some(End::Complete | End::ReadOnly(_) | End::Failed(_))) {
            end = last;
        } else if let Some(End::SourceChanged(_)) = last {
            end = end.filter(|end| matches!(end, End::ReadOnly(_) | End::Failed(_))).or(last);
        }
    }
    drop(clone.stop());
    let end = end.unwrap_or(End::Complete);
    Ok(SessionOutcome { end, progress, failed, took: began.elapsed() })
}

fn end_of(what: &EventKind) -> Option<End> {
    match what {
        EventKind::Finished => Some(End::Complete),
        EventKind::LimitReached => Some(End::Limit),
        EventKind::SourceChanged { reason } => Some(End::SourceChanged(reason.clone())),
        EventKind::HydrationStopped { failures, .. } => Some(End::InARow(*failures)),
        EventKind::ReadOnly(failure) => Some(End::ReadOnly(failure.clone())),
        EventKind::Failed(failure) => Some(End::Failed(failure.clone())),
        _ => None,
    }
}

/// True if only failed regions are left, and each was tried [`TRIES`] times.
fn is_stuck(progress: &HydrationProgress, failed: &[FailedRegion]) -> bool {
    let nr_failed: u64 = failed.iter().map(|place| place.regions.end - place.regions.start).sum();
    !failed.is_empty()
        && progress.hydrated + nr_failed >= progress.regions
        && failed.iter().all(|place| place.tries >= TRIES)
}

#[cfg(test)]
mod tests;
