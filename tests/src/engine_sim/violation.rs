//! Violations: the promises that a run can break.

use std::fmt;

/// The oracle that detects a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Oracle {
    /// A read returned data that no plain copy of the source could have returned.
    Read,
    /// After a crash a cell holds neither the flushed content nor later content.
    Durable,
    /// The metadata marks regions as hydrated that must not be, or has lost some.
    Committed,
    /// Content landed on the destination that was older than what had been answered.
    Landing,
    /// A cell outside the clone changed, or an operation was about to touch one.
    Bounds,
    /// A request was not answered, or the clone did not reach its end.
    Progress,
    /// The state after a failure is not as promised.
    Mode,
    /// Events do not match the state of the clone.
    Events,
    /// An action names something that it must not name.
    Protocol,
    /// A request failed without a reason.
    Errors,
    /// A status is wrong.
    Status,
    /// A request waits while no operation is in flight that it could wait for.
    Waiting,
    /// A request is overtaken too often.
    Turns,
    /// A fetch that a user waits for is not marked as urgent.
    Urgency,
    /// A fully hydrated clone does not become complete.
    Completion,
    /// Hydration makes no progress.
    Background,
    /// A clone does not become suspended, or begins new work before it is.
    Rest,
    /// A hydrated region is treated as not hydrated, or the reverse.
    Hydrated,
}

impl Oracle {
    /// Returns whether the oracle judges durations.
    pub(super) fn is_of_time(self) -> bool {
        use Oracle::{Background, Completion, Rest, Turns, Urgency, Waiting};
        matches!(self, Waiting | Turns | Urgency | Completion | Background | Rest)
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The oracle that detected it.
    pub oracle: Oracle,
    /// Description of the observation.
    pub text: String,
}

impl Violation {
    pub(super) fn new(oracle: Oracle, text: String) -> Self {
        Self { oracle, text }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.oracle, self.text)
    }
}

impl std::error::Error for Violation {}

/// The reason why a round ends early.
#[derive(Clone, Debug)]
pub(super) enum Halt {
    /// A planned crash.
    Crash,
    /// A broken promise.
    Violation(Violation),
}

impl From<Violation> for Halt {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// Returns a violation from the function unless a condition holds.
macro_rules! require {
    ($condition:expr, $oracle:ident, $($text:tt)+) => {
        if !$condition {
            return Err($crate::engine_sim::violation::Violation::new(
                $crate::engine_sim::violation::Oracle::$oracle,
                format!($($text)+),
            )
            .into());
        }
    };
}

pub(super) use require;
