//! What the engine wants done.

use std::sync::Arc;

use crate::engine::api::notice::Notice;
use crate::engine::api::request::{ByteRange, RequestError, RequestId};
use crate::engine::regions::region_set::RegionSet;

/// Names an operation on a device from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Names a buffer into which the source is read, from the [`Io::Fetch`] that fills it to
/// [`Action::Release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId(pub u64);

/// One thing to be done. Actions are begun in the order in which they come; of those that are
/// [started](Self::Start) any may end before any other.
#[derive(Debug)]
pub enum Action {
    /// Begin an operation, and send [`Event::Done`](crate::engine::Event::Done) when it has ended.
    Start {
        /// Its name in that event.
        op: OpId,
        /// What to do.
        io: Io,
    },
    /// A user waits for an operation that was begun for nobody: if it is still to be done it is as
    /// urgent as those that were begun for users.
    Promote {
        /// The operation.
        op: OpId,
    },
    /// Move bytes from the buffer of a copy into that of a read, at once.
    Give {
        /// The copy that was fetched.
        copy: CopyId,
        /// The read.
        request: RequestId,
        /// Which bytes of the clone; they lie in both.
        range: ByteRange,
    },
    /// Drop the buffer of a copy: nothing will name it again.
    Release {
        /// The copy.
        copy: CopyId,
    },
    /// Answer a request: it and its buffer are named no more.
    Answer {
        /// The request.
        request: RequestId,
        /// What came of it. After an error of a read its buffer holds anything, after one of a
        /// write the clone may hold any part of it.
        result: Result<(), RequestError>,
    },
    /// Something happened that users wait for.
    Tell(Notice),
    /// The clone is complete and that is committed: metadata can be closed, and the shared map is
    /// gone.
    Retire,
}

/// An operation on a device. All ranges are bytes of the clone, which are bytes of source and
/// destination too, and lie within it.
#[derive(Debug)]
pub enum Io {
    /// From the source into the buffer of a request.
    ReadSource {
        /// The read.
        request: RequestId,
        /// Which part of it.
        range: ByteRange,
    },
    /// From the destination into the buffer of a request.
    ReadDestination {
        /// The read.
        request: RequestId,
        /// Which part of it.
        range: ByteRange,
    },
    /// From the buffer of a request to the destination.
    Write {
        /// The write.
        request: RequestId,
        /// Which part of it.
        range: ByteRange,
    },
    /// Make the destination read as zeroes; it must, whatever it takes.
    Zero {
        /// Where.
        range: ByteRange,
        /// Whether a hole is welcome.
        deallocate: bool,
        /// Whether a user waits for it.
        urgent: bool,
    },
    /// Tell the destination that it may forget the range; it may also not be able to, which is no
    /// failure.
    Discard {
        /// Where.
        range: ByteRange,
    },
    /// From the source into a new buffer. Where the source knows that the whole range is zeroes,
    /// nothing need be read: the end is [`Done::Zeroes`](crate::engine::Done::Zeroes), and the buffer
    /// counts as zeroes.
    Fetch {
        /// The new buffer.
        copy: CopyId,
        /// Where from.
        range: ByteRange,
        /// Whether a user waits for it.
        urgent: bool,
    },
    /// From the buffer of a copy to the destination, with `overlays` laid over it, later ones over
    /// earlier ones.
    Store {
        /// The buffer.
        copy: CopyId,
        /// All of it.
        range: ByteRange,
        /// What users wrote meanwhile.
        overlays: Vec<Overlay>,
        /// Whether a user waits for it.
        urgent: bool,
    },
    /// Make durable all that was written to the destination and had ended before.
    Flush,
    /// Mark these regions as hydrated in metadata and commit them. The destination has been
    /// flushed.
    Commit {
        /// The regions that were not committed yet.
        regions: Arc<RegionSet>,
    },
    /// Bring metadata back to its last commit.
    Abort,
}

/// Bytes that a user writes over what is being copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Which bytes, all of them within what is stored.
    pub range: ByteRange,
    /// What to put there.
    pub bytes: OverlayBytes,
}

/// Where the bytes of an [`Overlay`] come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayBytes {
    /// From the buffer of this write.
    Request(RequestId),
    /// They are zeroes.
    Zeroes,
}
