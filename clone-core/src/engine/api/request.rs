//! Requests of users, and their errors.

use std::ops::Range;

use thiserror::Error;

/// Half-open range in bytes of the clone.
pub type ByteRange = Range<u64>;

/// Identifies a request from its submission to its answer. The submitter chooses the number, which
/// must not be in use by another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read the range into the buffer of the request.
    Read,
    /// Write the data of the request.
    Write,
    /// Make the range read as zeroes.
    WriteZeroes {
        /// True if the destination may punch a hole.
        deallocate: bool,
    },
    /// The content of the range is no longer needed. Only fully covered regions count, as in the
    /// kernel.
    Discard,
    /// Copy the regions of the range that are not hydrated, and answer when all of them are.
    Hydrate,
    /// Make all changes durable that were answered before this request was submitted. Ignores the
    /// range.
    Flush,
    /// Commit the changes, if there are any; otherwise do not touch the destination. The kernel
    /// does this before it reports its status. Ignores the range.
    Commit,
}

/// A request of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Identifies the request in actions.
    pub id: RequestId,
    /// The operation.
    pub operation: Operation,
    /// Bytes of the clone; any alignment is allowed.
    pub range: ByteRange,
    /// Answer only when the change is durable (FUA). Ignored for reads.
    pub durable: bool,
}

/// The reason why a request failed. The error of the device is in the event, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The range ends past the end of the clone.
    #[error("past the end of the clone")]
    PastEnd,
    /// A device that the request needed failed.
    #[error("the {0} failed")]
    Device(Device),
    /// A device that the request needed is out of space. Existing data can still be read and
    /// written.
    #[error("no room is left on the {0}")]
    Full(Device),
    /// A region would have to be marked as hydrated, and the metadata is read-only.
    #[error("the clone is read-only: a write or a flush of it failed")]
    ReadOnly,
    /// The clone has failed: all requests fail.
    #[error("the clone has failed")]
    Failed,
    /// Regions of a hydrate request could not be copied.
    #[error("regions cannot be copied")]
    NotCopied,
    /// The clone no longer runs.
    #[error("the clone has been stopped")]
    Stopped,
}

/// A device of a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Device {
    /// The device that is cloned; it is only read.
    Source,
    /// The device that receives the copy.
    Destination,
    /// The device that records which regions are hydrated.
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
