//! Block devices and files that a clone reads and writes, with the traits that stand for them.

pub use self::aligned::AlignedBuf;
pub use self::data_file::Access;
pub use self::device::{Destination, DestinationLost, Extent, ReadData, Source, SourceChanged};
pub use self::file_destination::FileDestination;
pub use self::file_source::FileSource;
pub use self::zero_runs::zero_runs;

mod aligned;
mod data_file;
mod device;
mod direct;
mod file_destination;
mod file_source;
mod range_locks;
#[cfg(test)]
mod scratch;
mod tail;
mod writes;
mod zero_runs;
