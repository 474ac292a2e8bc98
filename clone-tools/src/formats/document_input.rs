//! Documents that a tool reads: a file, a pipe, or stdin.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::common::paths::is_dash;
use crate::progress_bar::{Bar, Watched};

/// Opens a document: a file, a pipe, or stdin for `-`. `bar` shows how much of it has been read.
///
/// # Errors
/// The file cannot be opened, or is a directory.
pub fn open_document<'a>(path: &Path, bar: &'a Bar) -> Result<Box<dyn Read + 'a>> {
    if is_dash(path) {
        return Ok(Box::new(io::stdin().lock()));
    }
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let metadata = file.metadata().with_context(|| format!("cannot open {name}"))?;
    if metadata.is_dir() {
        bail!("{name} is a directory; give a file, or - for stdin");
    }
    Ok(Box::new(Watched::file(file, bar)))
}
