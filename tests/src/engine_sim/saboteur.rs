//! Mutants: known faults in behaviour between an engine and its devices, or between clients and the
//! engine, to prove that the oracles detect them. A mutant that does more than change a passing
//! value is implemented at the place that it affects.

use clone_core::engine::{Device, Done, Failure, Io, Operation, Request};

use super::operation::failure;
use super::unit::{Cells, bytes, cells};
use super::violation::Oracle;

/// The set of active oracles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// All oracles.
    All,
    /// Only those that see user-visible behaviour: results of reads, and content after a crash.
    Users,
    /// All but this one, which judges time.
    Without(Oracle),
    /// All but those that judge time.
    Timeless,
}

/// One fault in behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A flush of the destination ends at once without flushing.
    NoFlush,
    /// A write to the destination ends before it lands.
    EarlyEnd,
    /// A discard is rounded to whole regions outwards.
    WideDiscard,
    /// The short last region is copied as if it were whole.
    LongLastRegion,
    /// A write to a region that is being copied does not wait.
    OvertakenCopy,
    /// A flush is answered at its submission.
    EarlyAnswer,
    /// A failed commit is treated as a success.
    ForgottenFailure,
    /// A failed flush is treated as a success.
    ForgottenFlushFailure,
    /// The writes laid over a copy are dropped.
    LostOverlay,
    /// A commit marks regions without committing them.
    NoCommit,
    /// Fetches that users wait for are delayed, as if they had to keep to a rate.
    LateFetch,
    /// A flush is not answered while the next commit round is in flight.
    LateFlush,
    /// Fetches for users are marked as not urgent, like background fetches.
    NotUrgent,
    /// The event for a complete clone is delayed.
    LateFinish,
    /// Background fetches are delayed while users are active.
    Starved,
    /// A suspend reaches the clone late.
    LateSuspend,
}

/// Returns a request as a mutant changes it.
pub(super) fn submitted(
    mutant: Option<Mutant>,
    request: Request,
    region: usize,
    clone: usize,
) -> Request {
    let is_it = mutant == Some(Mutant::WideDiscard) && request.operation == Operation::Discard;
    let range = match cells(&request.range) {
        Some(range) if is_it => {
            let end = range.end.next_multiple_of(region).min(clone);
            bytes(&(range.start / region * region..end))
        }
        _ => request.range,
    };
    Request { range, ..request }
}

/// Returns an operation that is about to start, as a mutant changes it.
pub(super) fn started(mutant: Option<Mutant>, io: Io) -> Io {
    match io {
        Io::Fetch { copy, range, .. } if mutant == Some(Mutant::NotUrgent) => {
            Io::Fetch { copy, range, urgent: false }
        }
        _ => io,
    }
}

/// Returns the cells that an operation accesses, as a mutant changes them.
pub(super) fn touched(mutant: Option<Mutant>, io: &Io, range: Cells, region: usize) -> Cells {
    match io {
        Io::Fetch { .. } | Io::Store { .. } if mutant == Some(Mutant::LongLastRegion) => {
            range.start..range.end.next_multiple_of(region)
        }
        _ => range,
    }
}

/// Returns the result of a failed commit, as a mutant changes it.
pub(super) fn failed_commit(mutant: Option<Mutant>, used: u64) -> Result<Done, Failure> {
    match mutant {
        Some(Mutant::ForgottenFailure) => Ok(Done::Blocks { used }),
        _ => Err(failure(Device::Metadata)),
    }
}
