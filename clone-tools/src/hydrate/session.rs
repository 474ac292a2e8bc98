//! Hydrating a clone until there is a reason to stop.

use std::time::{Duration, Instant};

use clone_core::block_io::SourceChanged;
use clone_core::dm_target::Message;
use clone_core::driver::{Devices, DriverError, DriverOptions, HydrationProgress, RunningClone};
use clone_core::engine::{ByteRange, Command, Failure, Happening, SetAside, Settings};
use persistent_data::device::Device;

use crate::common::pin::LocalSource;

/// How often signals and progress are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// How often a region is tried before it is given up, if it is one of the last. The first two waits
/// are of one and of two seconds.
const TRIES: u32 = 3;

/// What is to be done.
pub(super) struct Plan {
    pub(super) settings: Settings,
    /// How many copies at a time.
    pub(super) jobs: u32,
    /// The most bytes that are copied.
    pub(super) limit: Option<u64>,
    /// What is copied first.
    pub(super) first: Vec<ByteRange>,
}

/// Why it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Every region is hydrated.
    Complete,
    /// So much was allowed.
    Limit,
    /// Somebody wanted it to stop, by this signal.
    Signal(&'static str),
    /// The source is not what it was at the start.
    SourceChanged(String),
    /// So many copies in a row failed.
    InARow(u32),
    /// Only regions are left that cannot be copied.
    OnlyFailedLeft,
    /// The destination or the metadata could not be written or flushed.
    ReadOnly(Failure),
    /// Metadata could not be read back, or something panicked.
    Failed(Failure),
}

/// What has come of it.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) end: End,
    pub(super) progress: HydrationProgress,
    /// What could not be copied.
    pub(super) aside: Vec<SetAside>,
    pub(super) took: Duration,
}

impl Outcome {
    /// Looks a last time whether the source is what it was. Every read was followed by such a look,
    /// but there are changes that show late.
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

/// Hydrates until there is a reason to stop; then all that was copied is committed.
///
/// `signal` is asked whether somebody wants it to stop, `show` is told how far it is.
///
/// # Errors
/// Those of [`RunningClone::start`].
pub(super) fn hydrate<D: Device + 'static>(
    devices: Devices<D>,
    plan: Plan,
    signal: impl Fn() -> Option<&'static str>,
    mut show: impl FnMut(Duration, &HydrationProgress),
) -> Result<Outcome, DriverError> {
    let began = Instant::now();
    let Plan { mut settings, jobs, limit, first } = plan;
    settings.options.hydration = false;
    // Beside those that copy, the driver keeps two workers for users.
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
        for notice in clone.wait_for(seen, GLANCE) {
            seen = notice.number;
            end = end.or(end_of(&notice.what));
        }
        let progress = clone.progress();
        let is_stuck = || is_stuck(&progress, &clone.set_aside());
        end = end
            .or_else(|| signal().map(End::Signal))
            .or_else(|| is_stuck().then_some(End::OnlyFailedLeft));
        show(began.elapsed(), &progress);
    }
    // What could not be copied is forgotten by a clone that becomes read-only.
    let before = clone.set_aside();
    // That it has failed is in the notices.
    let _ = clone.suspend();
    let progress = clone.progress();
    let mut aside = clone.set_aside();
    if aside.is_empty() && progress.hydrated < progress.regions {
        aside = before;
    }
    for notice in clone.wait_for(seen, Duration::ZERO) {
        let last = end_of(&notice.what);
        // These weigh more than whatever came before them.
        if matches!(last, Some(End::Complete | End::ReadOnly(_) | End::Failed(_))) {
            end = last;
        } else if let Some(End::SourceChanged(_)) = last {
            end = end.filter(|end| matches!(end, End::ReadOnly(_) | End::Failed(_))).or(last);
        }
    }
    drop(clone.stop());
    let end = end.unwrap_or(End::Complete);
    Ok(Outcome { end, progress, aside, took: began.elapsed() })
}

fn end_of(what: &Happening) -> Option<End> {
    match what {
        Happening::Finished => Some(End::Complete),
        Happening::LimitReached => Some(End::Limit),
        Happening::SourceChanged { reason } => Some(End::SourceChanged(reason.clone())),
        Happening::HydrationStopped { failures, .. } => Some(End::InARow(*failures)),
        Happening::ReadOnly(failure) => Some(End::ReadOnly(failure.clone())),
        Happening::Failed(failure) => Some(End::Failed(failure.clone())),
        _ => None,
    }
}

/// Whether nothing is left but what was tried often enough.
fn is_stuck(progress: &HydrationProgress, aside: &[SetAside]) -> bool {
    let failed: u64 = aside.iter().map(|place| place.regions.end - place.regions.start).sum();
    !aside.is_empty()
        && progress.hydrated + failed >= progress.regions
        && aside.iter().all(|place| place.tries >= TRIES)
}

#[cfg(test)]
mod tests;
