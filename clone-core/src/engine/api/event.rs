//! Numbered events for users: the numbers let a waiting user detect a missed event.

use std::fmt;

use crate::engine::api::input::Failure;
use crate::engine::api::request::ByteRange;

/// An event for users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Sequence number: 1 for the first event, then one more for each.
    pub number: u64,
    /// The event itself.
    pub kind: EventKind,
}

/// The kind of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Every region is hydrated and committed.
    Finished,
    /// A write or flush of the destination or of the metadata failed: regions can no longer become
    /// hydrated.
    ReadOnly(Failure),
    /// The destination of a complete clone could not be flushed: data written since the last flush
    /// may be lost.
    FlushFailed(Failure),
    /// The metadata could not be restored to its last commit: all requests fail.
    Failed(Failure),
    /// Hydration stopped after failures; `enable_hydration` starts it again.
    HydrationStopped {
        /// Number of consecutive failed copies.
        failures: u32,
        /// Range of the last failed copy, in bytes.
        range: ByteRange,
        /// The reason for that failure.
        failure: Failure,
    },
    /// The source has changed since the clone was started, and hydration stopped. Hydrated data can
    /// be read and written; the rest can no longer be distinguished from a mixture of two sources.
    /// Reported again if `enable_hydration` is tried and the source is still different.
    SourceChanged {
        /// A description of the change.
        reason: String,
    },
    /// Hydration has copied as much as
    /// [`Command::HydrationLimit`](crate::engine::Command::HydrationLimit) allowed, and stopped;
    /// `enable_hydration` starts it again, without a limit.
    LimitReached,
    /// The clone is suspended, and committed if it is writable.
    Suspended,
    /// The clone runs again.
    Resumed,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("hydration finished"),
            Self::ReadOnly(failure) => write!(f, "the clone is read-only now: {failure}"),
            Self::FlushFailed(failure) => write!(
                f,
                "the destination could not be flushed, and what was written since the last flush \
                 may be lost: {failure}"
            ),
            Self::Failed(failure) => write!(f, "the clone has failed: {failure}"),
            Self::HydrationStopped { failures, range, failure } => write!(
                f,
                "hydration stopped after {failures} copies in a row that failed, the last one of \
                 bytes {}..{}: {failure}",
                range.start, range.end
            ),
            Self::SourceChanged { reason } => {
                write!(f, "hydration stopped, for the source has changed: {reason}")
            }
            Self::LimitReached => f.write_str("hydration stopped at its limit"),
            Self::Suspended => f.write_str("suspended"),
            Self::Resumed => f.write_str("resumed"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.device, self.reason)
    }
}
