//! Known bad behaviour, between an engine and its devices or between its clients and it, to prove
//! that the oracles see it. Where it is more than a change of what passes by, it is done in the
//! place that it is about.

use clone_core::engine::{Device, Done, Failure, Io, Operation, Request};

use super::operation::failure;
use super::unit::{Cells, bytes, cells};
use super::violation::Oracle;

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// All oracles.
    All,
    /// Only those that see what users do: what is read, and what a crash leaves.
    Users,
    /// All but this one, which is one of time.
    Without(Oracle),
    /// All but those of time.
    Timeless,
}

/// One bad behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A flush of the destination ends at once and has not flushed.
    NoFlush,
    /// A write to the destination has ended before it lands.
    EarlyEnd,
    /// A discard is rounded to whole regions outwards.
    WideDiscard,
    /// The short last region is copied as if it were whole.
    LongLastRegion,
    /// A write to a region that is being copied does not wait.
    OvertakenCopy,
    /// A flush is answered when it is submitted.
    EarlyAnswer,
    /// A commit that failed is taken for one that has not.
    ForgottenFailure,
    /// A flush that failed is taken for one that has not.
    ForgottenFlushFailure,
    /// What a write lays over a copy is left out.
    LostOverlay,
    /// A commit has marked regions, and has not committed them.
    NoCommit,
    /// What users wait for is fetched late, as if it had to keep to a rate.
    LateFetch,
    /// A flush is not answered while the next round is under way.
    LateFlush,
    /// What is fetched for users is as urgent as what is fetched for nobody.
    NotUrgent,
    /// That a clone is complete is told late.
    LateFinish,
    /// What is fetched for nobody is fetched late, while users are at work.
    Starved,
    /// A clone hears late that it is to be suspended.
    LateSuspend,
}

/// The engine's clients, as a mutant has them.
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

/// An operation that is about to start, as a mutant has it.
pub(super) fn started(mutant: Option<Mutant>, io: Io) -> Io {
    match io {
        Io::Fetch { copy, range, .. } if mutant == Some(Mutant::NotUrgent) => {
            Io::Fetch { copy, range, urgent: false }
        }
        _ => io,
    }
}

/// Which cells an operation is for, as a mutant has it.
pub(super) fn touched(mutant: Option<Mutant>, io: &Io, range: Cells, region: usize) -> Cells {
    match io {
        Io::Fetch { .. } | Io::Store { .. } if mutant == Some(Mutant::LongLastRegion) => {
            range.start..range.end.next_multiple_of(region)
        }
        _ => range,
    }
}

/// How a commit that failed ends, as a mutant has it.
pub(super) fn failed_commit(mutant: Option<Mutant>, used: u64) -> Result<Done, Failure> {
    match mutant {
        Some(Mutant::ForgottenFailure) => Ok(Done::Blocks { used }),
        _ => Err(failure(Device::Metadata)),
    }
}
