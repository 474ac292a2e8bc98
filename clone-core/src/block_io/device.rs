//! The device traits: the operations that a clone needs on its source and destination.

use std::io;
use std::ops::Range;

use thiserror::Error;

/// A device with the data of a clone.
pub trait ReadData: Send + Sync {
    /// Returns the size of the device, in bytes.
    fn size_bytes(&self) -> u64;

    /// Fills `into` from `offset`, in bytes; the whole range lies on the device. Several threads
    /// may call this at the same time.
    ///
    /// # Errors
    /// The error of the device. The content of `into` is then unspecified.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// A range of a device with the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// True if the device knows, without reading, that the extent is all zeroes.
    pub zeroes: bool,
    /// End of the extent, in bytes; not past the end of the device.
    pub end: u64,
}

/// The error of a source, inside an [`io::Error`], that has changed since it was opened: none of
/// its bytes can be used any more, and hydration stops.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the source has changed: {0}")]
pub struct SourceChanged(pub String);

impl From<SourceChanged> for io::Error {
    fn from(changed: SourceChanged) -> Self {
        Self::other(changed)
    }
}

impl SourceChanged {
    /// Returns the `SourceChanged` inside `error`, if there is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// The error of a destination, inside an [`io::Error`], that has lost stored data: none of its
/// bytes can be used any more, even if it seems to work again, and the clone fails.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0}; what was stored there is lost. End the clone, and restore the destination from a backup \
     or make the clone anew, with new metadata"
)]
pub struct DestinationLost(pub String);

impl From<DestinationLost> for io::Error {
    fn from(lost: DestinationLost) -> Self {
        Self::other(lost)
    }
}

impl DestinationLost {
    /// Returns the `DestinationLost` inside `error`, if there is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// The device that is cloned. It cannot be written.
pub trait Source: ReadData {
    /// Returns the extent at `offset`, which lies on the device. A device without such knowledge
    /// reports only data.
    ///
    /// # Errors
    /// The error of the device; [`SourceChanged`] inside it if the source has changed.
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let _ = offset;
        Ok(Extent { zeroes: false, end: self.size_bytes() })
    }
}

/// The device that receives the copy. Ranges may have any alignment.
///
/// Writes, zeroes and discards may run concurrently. Each byte ends as one of the overlapping
/// operations left it, whatever the block size: an operation changes nothing outside of its own
/// range.
///
/// A destination that may have lost stored data fails every operation with [`DestinationLost`].
pub trait Destination: ReadData {
    /// Returns the preferred alignment of writes and zeroes, in bytes: a power of two, at least
    /// 4096. Other alignments work, too, with more effort.
    fn block_bytes(&self) -> u64 {
        4096
    }

    /// Returns the current extent at `offset`, which lies on the device. A device without such
    /// knowledge reports only data.
    ///
    /// # Errors
    /// The error of the device, or [`DestinationLost`].
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let _ = offset;
        Ok(Extent { zeroes: false, end: self.size_bytes() })
    }

    /// Writes all of `data` at `offset`, in bytes. The data may stay in a volatile cache.
    ///
    /// # Errors
    /// The error of the device, or [`DestinationLost`]; any part of the data may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes `range` read as zeroes: by a hole if `deallocate` allows it and the device supports
    /// it, or else by writing zeroes if necessary.
    ///
    /// # Errors
    /// The error of the device, or [`DestinationLost`]; any part of the range may have been zeroed.
    fn zero(&self, range: Range<u64>, deallocate: bool) -> io::Result<()>;

    /// Discards `range`: its content is no longer needed, and unspecified afterwards. A device
    /// without discard support does nothing.
    ///
    /// # Errors
    /// The error of the device, or [`DestinationLost`]. Missing support is not an error.
    fn discard(&self, range: Range<u64>) -> io::Result<()>;

    /// Returns when all writes that ended before the call are on the medium.
    ///
    /// # Errors
    /// The error of the device, or [`DestinationLost`]. The content of the medium is then unknown,
    /// and a retry does not reveal it.
    fn flush(&self) -> io::Result<()>;

    /// Releases the claim on the device, so that others may open it. No read or write follows.
    fn release(&self) {}
}
