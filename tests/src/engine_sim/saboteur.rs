//! Known bad behaviour, between an engine and its devices or between its clients and it, to prove
//! that the oracles see it.

use clone_core::engine::{Device, Done, Failure, Io, Operation, Request};

use super::unit::{Cells, bytes, cells};

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
}

/// The engine's clients, as a mutant has them.
pub(super) fn submitted(mutant: Option<Mutant>, request: Request, region: usize) -> Request {
    let range = match cells(&request.range) {
        Some(range)
            if mutant == Some(Mutant::WideDiscard) && request.operation == Operation::Discard =>
        {
            bytes(&(range.start / region * region..range.end.next_multiple_of(region)))
        }
        _ => request.range,
    };
    Request { range, ..request }
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

/// How an operation ends, as a mutant has it.
pub(super) fn ended(
    mutant: Option<Mutant>,
    result: Result<Done, Failure>,
    used: u64,
) -> Result<Done, Failure> {
    match (mutant, result) {
        (Some(Mutant::ForgottenFailure), Err(Failure { device: Device::Metadata, .. })) => {
            Ok(Done::Blocks { used })
        }
        (_, result) => result,
    }
}
