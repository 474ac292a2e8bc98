//! The JSON format of a dump, with half-open ranges of regions. `clone_dump` writes it and
//! `clone_restore` reads it.

mod read;
mod write;

pub use read::read;
pub use write::Writer;
