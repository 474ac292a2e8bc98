//! What a run can be found guilty of.

use std::fmt;

/// Who found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Oracle {
    /// A read returned what no plain copy of the source could have.
    Read,
    /// After a crash a cell does not hold what was flushed, nor what was written later.
    Durable,
    /// Metadata calls regions hydrated that it must not, or has forgotten some.
    Committed,
    /// Something landed on the destination that was older than what had been answered.
    Landing,
    /// Something outside of the clone changed, or was about to be touched.
    Bounds,
    /// A request was not answered, or the clone did not come to an end.
    Progress,
    /// What follows a failure was not as promised.
    Mode,
    /// Notices do not fit what happened.
    Notices,
    /// An action names what it must not.
    Protocol,
    /// A request failed for no reason.
    Errors,
    /// A status is wrong.
    Status,
    /// A request waits while nothing is under way that it could wait for.
    Waiting,
    /// A request is overtaken too often.
    Turns,
    /// A user waits for what is copied as if nobody did.
    Urgency,
    /// A clone of which every region is hydrated does not become complete.
    Completion,
    /// Hydration does not go on.
    Background,
    /// A clone does not come to rest, or begins something new before it does.
    Rest,
    /// A region that was hydrated is treated as if it were not, or the other way round.
    Hydrated,
}

impl Oracle {
    /// Whether it judges how long something takes.
    pub(super) fn is_of_time(self) -> bool {
        use Oracle::{Background, Completion, Rest, Turns, Urgency, Waiting};
        matches!(self, Waiting | Turns | Urgency | Completion | Background | Rest)
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which kind of promise.
    pub oracle: Oracle,
    /// What was seen.
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

/// Why a round ends early.
#[derive(Clone, Debug)]
pub(super) enum Halt {
    /// It was meant to.
    Crash,
    /// Something is wrong.
    Violation(Violation),
}

impl From<Violation> for Halt {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

/// Leaves the function with a violation unless a condition holds.
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
