//! The JSON form of a dump, with half-open ranges.

mod read;
mod write;

pub use read::read;
pub use write::Writer;
