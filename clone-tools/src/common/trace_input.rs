//! Traces of reads, as `--record` writes them.

use std::path::Path;

use anyhow::{Context, Result};
use clone_core::engine::Trace;
use clone_core::engine::trace::RANGES_MAX;

use crate::common::small_file;

/// The maximum length of a trace file in bytes: the maximum number of lines times their length.
const TRACE_MAX: u64 = RANGES_MAX as u64 * 48;

/// Reads the trace of the ranges that are to be copied first.
///
/// # Errors
/// The file cannot be read, or is not a trace.
pub fn read_trace(path: &Path) -> Result<Trace> {
    let name = path.display();
    let text = small_file::read_text(path, TRACE_MAX)
        .with_context(|| format!("cannot read the trace {name}"))?;
    Trace::parse(&text).with_context(|| format!("{name} is not a trace file"))
}
