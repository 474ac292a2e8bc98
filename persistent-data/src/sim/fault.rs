//! The faults that can be injected into a simulated disk.

use std::error::Error;
use std::io;

use thiserror::Error;

use super::order::OperationKind;

/// The operations that a [`Fault`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All operations.
    Any,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
    /// Writes and flushes: the result of a crash between two of them does not depend on reads.
    Change,
}

impl Which {
    /// Returns whether `kind` is one of them.
    pub fn includes(self, kind: OperationKind) -> bool {
        match self {
            Self::Any => true,
            Self::Read => kind == OperationKind::Read,
            Self::Write => kind == OperationKind::Write,
            Self::Flush => kind == OperationKind::Flush,
            Self::Change => kind != OperationKind::Read,
        }
    }
}

/// A planned fault. Operations are counted from the call of
/// [`inject`](super::SimDisk::inject): the next one has number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    which: Which,
    nth: u64,
    effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    FailOnce,
    FailFromThenOn,
    Die,
}

impl Fault {
    /// Makes number `nth` of the `which` operations fail, but not the ones after it.
    pub fn fail_once(which: Which, nth: u64) -> Self {
        Self { which, nth, effect: Effect::FailOnce }
    }

    /// Makes number `nth` of the `which` operations fail, and all of them after it.
    pub fn fail_from(which: Which, nth: u64) -> Self {
        Self { which, nth, effect: Effect::FailFromThenOn }
    }

    /// Cuts the power at number `nth` of the `which` operations. This one and all later operations,
    /// of every kind, fail with [`Died`].
    pub fn die_at(which: Which, nth: u64) -> Self {
        Self { which, nth, effect: Effect::Die }
    }

    /// Counts an operation of `kind` and returns the effect of the fault on it.
    pub(super) fn strike(&mut self, kind: OperationKind) -> Outcome {
        if !self.which.includes(kind) {
            return Outcome::Success;
        }
        let strikes = self.nth == 0;
        match self.effect {
            // Wraps after the operation that fails, so it does not reach zero again.
            Effect::FailOnce => self.nth = self.nth.wrapping_sub(1),
            Effect::FailFromThenOn | Effect::Die => self.nth = self.nth.saturating_sub(1),
        }
        match self.effect {
            _ if !strikes => Outcome::Success,
            Effect::FailOnce | Effect::FailFromThenOn => Outcome::Failure,
            Effect::Die => Outcome::Death,
        }
    }
}

/// Outcome of an operation; a worse one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Success,
    Failure,
    Death,
}

impl Outcome {
    pub(super) fn of(self, kind: OperationKind) -> io::Result<()> {
        match self {
            Self::Success => Ok(()),
            Self::Failure => Err(io::Error::other(Injected { kind })),
            Self::Death => Err(io::Error::other(Died)),
        }
    }
}

/// The source of an [`io::Error`] when a [`Fault`] made the operation fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("injected fault: {kind:?}")]
pub struct Injected {
    /// The operation.
    pub kind: OperationKind,
}

impl Injected {
    /// Returns whether `error` or one of its causes is an injected fault.
    pub fn caused(error: &(dyn Error + 'static)) -> bool {
        caused_by::<Self>(error)
    }
}

/// The source of an [`io::Error`] when the simulated disk has no power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the simulated disk has no power")]
pub struct Died;

impl Died {
    /// Returns whether `error` or one of its causes is the loss of power.
    pub fn caused(error: &(dyn Error + 'static)) -> bool {
        caused_by::<Self>(error)
    }
}

fn caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // `source` of an I/O error skips the inner error, so the inner one is checked here.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if error.is::<E>() || held.is_some_and(<dyn Error + Send + Sync>::is::<E>) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Died, Fault, Injected, Outcome, Which};
    use crate::number::BlockNr;
    use crate::sim::OperationKind;

    const KINDS: [OperationKind; 6] = [
        OperationKind::Read,
        OperationKind::Write,
        OperationKind::Flush,
        OperationKind::Read,
        OperationKind::Write,
        OperationKind::Flush,
    ];

    fn outcomes(mut fault: Fault) -> String {
        let letter = |outcome| match outcome {
            Outcome::Success => '.',
            Outcome::Failure => 'F',
            Outcome::Death => 'D',
        };
        KINDS.iter().map(|&kind| letter(fault.strike(kind))).collect()
    }

    #[test]
    fn a_fault_strikes_the_operations_that_it_counts_and_no_others() {
        assert_eq!(outcomes(Fault::fail_once(Which::Any, 0)), "F.....");
        assert_eq!(outcomes(Fault::fail_once(Which::Any, 3)), "...F..");
        assert_eq!(outcomes(Fault::fail_once(Which::Any, 6)), "......");
        assert_eq!(outcomes(Fault::fail_once(Which::Write, 1)), "....F.");
        assert_eq!(outcomes(Fault::fail_from(Which::Any, 2)), "..FFFF");
        assert_eq!(outcomes(Fault::fail_from(Which::Read, 0)), "F..F..");
        assert_eq!(outcomes(Fault::fail_from(Which::Flush, 1)), ".....F");
        assert_eq!(outcomes(Fault::fail_once(Which::Change, 2)), "....F.");
        assert_eq!(outcomes(Fault::die_at(Which::Change, 1)), "..D.DD");
    }

    #[test]
    fn the_cause_is_found_through_the_errors_around_it() {
        let died = || Outcome::Death.of(OperationKind::Flush).unwrap_err();
        let injected = || Outcome::Failure.of(OperationKind::Flush).unwrap_err();
        assert!(Died::caused(&died()) && !Injected::caused(&died()));
        assert!(Injected::caused(&injected()) && !Died::caused(&injected()));
        assert!(Died::caused(&crate::Error::Write { at: BlockNr(1), source: died() }));
        assert!(Died::caused(&io::Error::other(crate::Error::Flush { source: died() })));
        assert!(!Died::caused(&crate::Error::NoSpace));
    }
}
