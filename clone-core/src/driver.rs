//! Drives an [engine](crate::engine) on real devices.

pub use self::device::{Destination, Extent, Source};

mod device;
