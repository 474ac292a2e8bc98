//! What a user asks of a clone, and what can come of it.

use std::ops::Range;

use thiserror::Error;

/// Bytes of the clone, half-open.
pub type ByteRange = Range<u64>;

/// Names a request from its submission to its answer. Whoever submits it chooses the number, and
/// does not use it twice at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Fill the request's buffer.
    Read,
    /// Store the request's data.
    Write,
    /// Make the range read as zeroes; `deallocate` lets the destination give up the room.
    WriteZeroes {
        /// Whether the destination may punch a hole.
        deallocate: bool,
    },
    /// The range is needed no more. Only regions that it covers count, as in the kernel.
    Discard,
    /// Copy what is not hydrated in the range now, and answer when all of it is.
    Hydrate,
    /// Make durable whatever was answered before this was submitted. The range is of no account.
    Flush,
    /// Commit what changed, if anything did, and leave the destination alone otherwise: what the
    /// kernel does before it tells its status. The range is of no account.
    Commit,
}

/// A request of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its name in what follows.
    pub id: RequestId,
    /// What is to be done.
    pub operation: Operation,
    /// With which bytes of the clone, of any alignment.
    pub range: ByteRange,
    /// Answer only when the outcome is durable (FUA). Of no account for reads.
    pub durable: bool,
}

/// Why a request failed. The reason of the device is in the notice that goes with it, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The range goes past the end of the clone.
    #[error("past the end of the clone")]
    PastEnd,
    /// A device that it needed failed.
    #[error("the {0} failed")]
    Device(Device),
    /// A device that it needed has no room left. What was there before can be read and written.
    #[error("no room is left on the {0}")]
    Full(Device),
    /// A region would have to be marked as hydrated, and metadata is read-only.
    #[error("the clone is read-only: a write or a flush of it failed")]
    ReadOnly,
    /// Nothing works any more.
    #[error("the clone has failed")]
    Failed,
    /// Hydration gave these regions up.
    #[error("regions cannot be copied")]
    NotCopied,
    /// The clone does not run any more.
    #[error("the clone has been stopped")]
    Stopped,
}

/// A device of a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// What is cloned; only ever read.
    Source,
    /// What it is cloned to.
    Destination,
    /// Which regions have been.
    Metadata,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Metadata => "metadata device",
        })
    }
}
