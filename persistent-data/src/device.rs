//! What the library asks of a place to keep blocks. Nothing else in the crate does I/O.

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

/// A device that can be read. A type that has this and not [`Device`] cannot be written to.
pub trait ReadDevice: Send + Sync {
    /// Whole blocks on the device.
    fn nr_blocks(&self) -> u64;

    /// Fills `into` with the blocks from `first` on, all of which lie on the device.
    ///
    /// # Errors
    /// Whatever the device says, and [`io::ErrorKind::UnexpectedEof`] past its end. What `into`
    /// holds then is unspecified.
    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()>;

    /// The first block from `from` on that may hold anything but zeroes; the end of the device if
    /// there is none. Whoever looks at all blocks need not read the holes of a sparse file.
    fn skip_hole(&self, from: BlockNr) -> BlockNr {
        from
    }
}

/// A device that can also be written.
pub trait Device: ReadDevice {
    /// Writes `from` to the blocks from `first` on. It may stay in a volatile cache, and after a
    /// failure or a crash any subset of its sectors may have been written.
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()>;

    /// Returns when all that was written before is on the medium.
    ///
    /// After a failure nobody knows what is there: it must not be tried again as if nothing had
    /// happened.
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

/// Checks that `count` blocks from `first` on lie on a device of `nr_blocks`.
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
