//! What can be made to go wrong with a simulated disk.

use std::error::Error;
use std::io;

use thiserror::Error;

use super::order::OperationKind;

/// Which operations a [`Fault`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    Any,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
    /// Writes and flushes: a crash between two of them is the same wherever the reads are.
    Change,
}

impl Which {
    /// Whether `kind` is one of them.
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

/// Something that is going to go wrong. Operations count from when the fault is
/// [injected](super::SimDisk::inject): the next one has number 0.
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
    /// Number `nth` of `which` operations fails, and the ones after it do not.
    pub fn fail_once(which: Which, nth: u64) -> Self {
        Self { which, nth, effect: Effect::FailOnce }
    }

    /// Number `nth` of `which` operations fails, and so do all of them after it.
    pub fn fail_from(which: Which, nth: u64) -> Self {
        Self { which, nth, effect: Effect::FailFromThenOn }
    }

    /// The power goes at number `nth` of `which` operations. This one and all operations after
    /// it, of every kind, fail with [`Died`].
    pub fn die_at(which: Which, nth: u64) -> Self {
        Self { which, nth, effect: Effect::Die }
    }

    /// What the fault does to an operation of `kind`, which it counts.
    pub(super) fn strike(&mut self, kind: OperationKind) -> Outcome {
        if !self.which.includes(kind) {
            return Outcome::Success;
        }
        let strikes = self.nth == 0;
        match self.effect {
            // Wraps at the operation that it is for: it will not count down to another one.
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

/// How an operation goes; the worse is the greater.
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

/// In an [`io::Error`]: a [`Fault`] made the operation fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("injected fault: {kind:?}")]
pub struct Injected {
    /// The operation.
    pub kind: OperationKind,
}

impl Injected {
    /// Whether `error`, or what caused it, is an injected fault.
    pub fn caused(error: &(dyn Error + 'static)) -> bool {
        caused_by::<Self>(error)
    }
}

/// In an [`io::Error`]: the simulated disk has no power.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the simulated disk has no power")]
pub struct Died;

impl Died {
    /// Whether `error`, or what caused it, is the loss of power.
    pub fn caused(error: &(dyn Error + 'static)) -> bool {
        caused_by::<Self>(error)
    }
}

fn caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // The source of an I/O error is the source of what it holds, which is thereby skipped.
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
