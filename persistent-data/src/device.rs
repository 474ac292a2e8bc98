//! The device traits, and their implementations for files and for memory.
//!
//! All I/O of the crate goes through them.

use std::io;
use std::sync::Arc;

use crate::block::RawBlock;
use crate::number::BlockNr;

mod file;
mod holders;
mod memory;
mod open;

pub use file::{FileDevice, ReadOnly, ReadWrite};
pub use memory::MemoryDevice;
pub use open::{Caching, OpenError, Purpose, open, unlock};

/// A device that can be read. A type without [`Device`] cannot be written to.
pub trait ReadDevice: Send + Sync {
    /// Returns the number of whole blocks on the device.
    fn nr_blocks(&self) -> u64;

    /// Fills `into` with the blocks from `first` on, which must all lie on the device.
    ///
    /// # Errors
    /// The I/O error of the device, and [`io::ErrorKind::UnexpectedEof`] past its end. The content
    /// of `into` is then unspecified.
    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()>;

    /// Returns the first block at or after `from` that may hold anything but zeroes, or the end of
    /// the device if there is none. A scan of all blocks can thus skip the holes of a sparse file.
    fn skip_hole(&self, from: BlockNr) -> BlockNr {
        from
    }
}

/// A device that can also be written.
pub trait Device: ReadDevice {
    /// Writes `from` to the blocks from `first` on. The data may stay in a volatile cache. After a
    /// failure or a crash any subset of the sectors may have been written.
    ///
    /// # Errors
    /// The I/O error of the device.
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()>;

    /// Flushes the device: returns when all earlier writes are on the medium.
    ///
    /// After a failure the content of the medium is unknown: a second flush that succeeds does not
    /// mean that the data are durable.
    ///
    /// # Errors
    /// The I/O error of the device.
    fn flush(&self) -> io::Result<()>;
}

macro_rules! forward_device {
    ($($pointer:ty),*) => { $(
        impl<D: ReadDevice + ?Sized> ReadDevice for $pointer {
            fn nr_blocks(&self) -> u64 {
                (**self).nr_blocks()
            }
            fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
                (**self).read(first, into)
            }
            fn skip_hole(&self, from: BlockNr) -> BlockNr {
                (**self).skip_hole(from)
            }
        }
        impl<D: Device + ?Sized> Device for $pointer {
            fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
                (**self).write(first, from)
            }
            fn flush(&self) -> io::Result<()> {
                (**self).flush()
            }
        }
    )* };
}
forward_device!(&D, Arc<D>, Box<D>);

/// Checks that `count` blocks from `first` on lie on a device of `nr_blocks` blocks.
pub(crate) fn check_range(nr_blocks: u64, first: BlockNr, count: usize) -> io::Result<()> {
    let end = first.0.checked_add(count as u64);
    if end.is_some_and(|end| end <= nr_blocks) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("{count} blocks from block {first} on reach past the end at block {nr_blocks}"),
    ))
}
