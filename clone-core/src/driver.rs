//! Drives an [engine](crate::engine) on real devices.

pub use self::aligned::AlignedBuf;
pub use self::data_file::Access;
pub use self::device::{Destination, Extent, Source};
pub use self::file_destination::FileDestination;
pub use self::file_source::FileSource;

mod aligned;
mod data_file;
mod device;
mod direct;
mod file_destination;
mod file_source;
