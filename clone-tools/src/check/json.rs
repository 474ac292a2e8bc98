//! The JSON document that `clone_check --json` prints.

use std::io::{self, Write};

use clone_core::metadata::auto_repair::Repaired;
use clone_core::metadata::check::Report;
use clone_core::metadata::damage::Damage;
use serde::Serialize;

use crate::report_json::{Superblock, problems};

#[derive(Serialize)]
struct CheckDocument<'a> {
    ok: bool,
    superblock: Option<Superblock>,
    hydrated: Option<u64>,
    metadata_blocks: Option<MetadataBlocks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<RepairedCounts>,
    #[serde(serialize_with = "problems")]
    problems: &'a [Damage],
}

#[derive(Serialize)]
struct MetadataBlocks {
    total: u64,
    used: u64,
    leaked: Option<u64>,
}

#[derive(Serialize)]
struct RepairedCounts {
    leaked_blocks: u64,
    figures: u64,
}

/// Writes a report as one JSON document. `ok` is true if the exit code is 0.
///
/// # Errors
/// The errors of `to`.
pub(super) fn write(
    to: &mut dyn Write,
    report: &Report,
    repaired: Option<&Repaired>,
    ok: bool,
) -> io::Result<()> {
    let superblock = report.header().map(Superblock::from);
    let metadata_blocks = report.metadata_blocks.as_ref().map(|blocks| MetadataBlocks {
        total: blocks.total,
        used: blocks.used,
        leaked: blocks.leaked,
    });
    let repaired = repaired.map(|repaired| RepairedCounts {
        leaked_blocks: repaired.leaked_blocks,
        figures: repaired.figures,
    });
    let hydrated = report.hydrated;
    let problems = report.damage.as_slice();
    let document = CheckDocument { ok, superblock, hydrated, metadata_blocks, repaired, problems };
    serde_json::to_writer(&mut *to, &document)?;
    writeln!(to)
}
