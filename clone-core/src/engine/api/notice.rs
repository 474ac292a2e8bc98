//! Events for users, with numbers, so that whoever waits for one misses none.

use std::fmt;

use crate::engine::api::event::Failure;
use crate::engine::api::request::ByteRange;

/// Something that users wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The first is 1, and each is one more than the one before.
    pub number: u64,
    /// What happened.
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happening {
    /// Every region is hydrated, and that is committed.
    Finished,
    /// A write or flush of the destination or of metadata failed: regions can no more become
    /// hydrated.
    ReadOnly(Failure),
    /// The destination of a complete clone could not be flushed: what was written to it since the
    /// last flush may be lost.
    FlushFailed(Failure),
    /// Metadata could not be brought back to its last commit: nothing works any more.
    Failed(Failure),
    /// Hydration stopped after failures; `enable_hydration` starts it again.
    HydrationStopped {
        /// Copies that failed in a row.
        failures: u32,
        /// Which bytes the last of them would have copied.
        range: ByteRange,
        /// Why it failed.
        failure: Failure,
    },
    /// The source is not what it was when the clone was started, and hydration stopped. What has
    /// been hydrated can be read and written; the rest can no more be told from a mixture of two
    /// sources. Told again if `enable_hydration` is tried and it is still so.
    SourceChanged {
        /// What about it.
        reason: String,
    },
    /// Hydration has copied as much as [`Command::HydrationLimit`](crate::engine::Command::HydrationLimit)
    /// allowed, and stopped; `enable_hydration` starts it again, without a limit.
    LimitReached,
    /// All is at rest, and committed unless the clone is not writable.
    Suspended,
    /// It goes on.
    Resumed,
}

impl fmt::Display for Happening {
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
