//! Actions: the output of the engine, which the driver carries out.

use std::sync::Arc;

use crate::engine::api::event::Event;
use crate::engine::api::request::{ByteRange, RequestError, RequestId};
use crate::engine::regions::region_set::RegionSet;

/// Identifies an operation on a device from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Identifies a buffer for source data, from the [`Io::Fetch`] that fills it to
/// [`Action::Release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub u64);

/// One step for the driver. The driver begins actions in the order in which they are issued;
/// operations that were [started](Self::Start) may end in any order.
#[derive(Debug)]
pub enum Action {
    /// Begin an operation, and send [`Input::Done`](crate::engine::Input::Done) when it has ended.
    Start {
        /// Identifies the operation in that event.
        op: OpId,
        /// The operation.
        io: Io,
    },
    /// A user now waits for this operation, which was started in the background. If it has not
    /// begun yet, it becomes as urgent as operations started for users.
    Promote {
        /// The operation.
        op: OpId,
    },
    /// Copy bytes from the buffer of a copy to the buffer of a read, immediately.
    Give {
        /// The copy whose data was fetched.
        copy: BufferId,
        /// The read.
        request: RequestId,
        /// Bytes of the clone; both buffers contain them.
        range: ByteRange,
    },
    /// Free the buffer of a copy: no later action refers to it.
    Release {
        /// The copy.
        copy: BufferId,
    },
    /// Answer a request. No later action refers to the request or its buffer.
    Answer {
        /// The request.
        request: RequestId,
        /// The result. After a failed read the content of the buffer is undefined; after a failed
        /// write the clone may contain any part of the data.
        result: Result<(), RequestError>,
    },
    /// Report an event to users.
    Emit(Event),
    /// The clone is complete and committed: the metadata can be closed, and the shared map no
    /// longer exists.
    Retire,
}

/// An operation on a device. All ranges are half-open and in bytes of the clone. Offsets are the
/// same on source and destination, and ranges lie within the clone.
#[derive(Debug)]
pub enum Io {
    /// Read from the source into the buffer of a request.
    ReadSource {
        /// The read.
        request: RequestId,
        /// The part of the read.
        range: ByteRange,
    },
    /// Read from the destination into the buffer of a request.
    ReadDestination {
        /// The read.
        request: RequestId,
        /// The part of the read.
        range: ByteRange,
    },
    /// Write from the buffer of a request to the destination.
    Write {
        /// The write.
        request: RequestId,
        /// The part of the read.
        range: ByteRange,
    },
    /// Make the range of the destination read as zeroes, by any means; there is no best effort.
    Zero {
        /// The range.
        range: ByteRange,
        /// True if the destination may deallocate the range.
        deallocate: bool,
        /// True if a user waits for it.
        urgent: bool,
    },
    /// Tell the destination that the content of the range is no longer needed. An unsupported
    /// discard is not a failure.
    Discard {
        /// The range.
        range: ByteRange,
    },
    /// From the source into a new buffer. Where the source knows that the whole range is zeroes,
    /// nothing need be read: the end is [`Done::Zeroes`](crate::engine::Done::Zeroes), and the
    /// buffer counts as zeroes.
    Fetch {
        /// The new buffer.
        copy: BufferId,
        /// The range on the source.
        range: ByteRange,
        /// True if a user waits for it.
        urgent: bool,
    },
    /// Write the buffer of a copy to the destination, with `overlays` applied in order: later ones
    /// replace earlier ones.
    Store {
        /// The buffer.
        copy: BufferId,
        /// The range of the whole buffer.
        range: ByteRange,
        /// Data that users wrote during the copy.
        overlays: Vec<Overlay>,
        /// True if a user waits for it.
        urgent: bool,
    },
    /// Make all destination writes durable that ended before the flush began.
    Flush,
    /// Mark these regions as hydrated in the metadata, and commit. The destination was flushed
    /// before.
    Commit {
        /// Regions that are not committed yet.
        regions: Arc<RegionSet>,
    },
    /// Restore the metadata to its last commit.
    Abort,
}

/// Bytes that a user writes to a range that is being copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Bytes of the clone, all of them within the stored range.
    pub range: ByteRange,
    /// The source of the new bytes.
    pub bytes: OverlayBytes,
}

/// Origin of the bytes of an [`Overlay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayBytes {
    /// The buffer of this write.
    Request(RequestId),
    /// Zeroes.
    Zeroes,
}
