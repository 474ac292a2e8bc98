//! Which version of a source a clone is of.

use std::path::Path;

use super::{SourceError, SourceSpec};

/// What a source is known by.
#[derive(Clone, Debug)]
pub struct Identity {}

/// What was noted beside the metadata.
///
/// # Errors
/// [`SourceError`].
pub fn load(_: &Path) -> Result<Option<Identity>, SourceError> {
    Ok(None)
}

/// Notes it there.
///
/// # Errors
/// [`SourceError`].
pub fn store(_: &Path, _: &SourceSpec, _: &Identity) -> Result<(), SourceError> {
    Ok(())
}
