//! The XML format of a dump, which `clone_dump` writes and `clone_restore` reads.

mod read;
mod write;

pub use read::read;
pub use write::Writer;
