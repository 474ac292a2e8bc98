//! What a clone asks of the devices with its data.

use std::io;
use std::ops::Range;

use thiserror::Error;

/// A device with a clone's data.
pub trait ReadData: Send + Sync {
    /// Bytes on the device.
    fn size_bytes(&self) -> u64;

    /// Fills `into` with the bytes from `offset` on, all of which lie on the device. It is called
    /// by several threads at once.
    ///
    /// # Errors
    /// Whatever the device says. What `into` holds then is unspecified.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

/// A stretch of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Whether the device knows, without being read, that all of it is zeroes.
    pub zeroes: bool,
    /// Where it ends, in bytes; not past the end of the device.
    pub end: u64,
}

/// The error of a source, inside an [`io::Error`], that is not what it was when it was opened: none
/// of its bytes can be used any more, and hydration stops.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the source has changed: {0}")]
pub struct SourceChanged(pub String);

impl From<SourceChanged> for io::Error {
    fn from(changed: SourceChanged) -> Self {
        Self::other(changed)
    }
}

impl SourceChanged {
    /// The one that `error` is, if it is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// The error of a destination, inside an [`io::Error`], that has lost what was stored on it: none
/// of its bytes can be used any more, also if it looks well again, and the clone fails.
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
    /// The one that `error` is, if it is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// What is cloned. There is no way to write to it.
pub trait Source: ReadData {
    /// The stretch that begins at `offset`, which lies on the device. A device that knows nothing
    /// says that all of it is data.
    ///
    /// # Errors
    /// Whatever the device says.
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let _ = offset;
        Ok(Extent { zeroes: false, end: self.size_bytes() })
    }
}

/// What a clone is copied to. Ranges are of any alignment.
///
/// Writes, zeroes and discards may be under way at the same time. Each byte ends as one of those
/// that cover it leaves it, whatever blocks the device has: a change takes nothing from others
/// outside of its own range.
///
/// Whatever it is asked, a destination that may have lost what was stored on it fails with
/// [`DestinationLost`].
pub trait Destination: ReadData {
    /// What writes and zeroes should begin and end at multiples of, in bytes: a power of two, 4096
    /// or more. All others are done too, with more effort.
    fn block_bytes(&self) -> u64 {
        4096
    }

    /// The stretch that begins at `offset`, which lies on the device, as it is now. A device that
    /// knows nothing says that all of it is data.
    ///
    /// # Errors
    /// Whatever the device says.
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let _ = offset;
        Ok(Extent { zeroes: false, end: self.size_bytes() })
    }

    /// Writes all of `data` to `offset`. It may stay in a volatile cache.
    ///
    /// # Errors
    /// Whatever the device says; any part of it may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes `range` read as zeroes, by a hole where `deallocate` allows it and the device can, by
    /// writing zeroes if nothing else helps.
    ///
    /// # Errors
    /// Whatever the device says; any part of it may have been written.
    fn zero(&self, range: Range<u64>, deallocate: bool) -> io::Result<()>;

    /// Tells the device that `range` is needed no more. What it reads as then is unspecified. A
    /// device that cannot do it does nothing.
    ///
    /// # Errors
    /// Whatever the device says, but that it cannot.
    fn discard(&self, range: Range<u64>) -> io::Result<()>;

    /// Returns when all writes that had ended before are on the medium.
    ///
    /// # Errors
    /// Whatever the device says. Nobody knows then what is on the medium, and trying again does
    /// not tell.
    fn flush(&self) -> io::Result<()>;

    /// Gives up its claim on what is below it, so that others may open that. Nothing is read or
    /// written afterwards.
    fn release(&self) {}
}
