//! Traces of reads, as `--record` writes them.

use std::path::Path;

use anyhow::{Context, Result};
use clone_core::engine::Trace;
use clone_core::engine::trace::RANGES_MAX;

use crate::common::small_file;

/// The most bytes that a trace of as many lines as are taken can have.
const TRACE_MAX: u64 = RANGES_MAX as u64 * 48;

/// Reads the ranges that are to be copied first.
///
/// # Errors
/// That it cannot be read, or is no trace.
pub fn read_trace(path: &Path) -> Result<Trace> {
    let name = path.display();
    let text = small_file::read_text(path, TRACE_MAX)
        .with_context(|| format!("cannot read the trace {name}"))?;
    Trace::parse(&text).with_context(|| format!("{name} is no trace"))
}
