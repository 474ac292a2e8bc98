//! Reports of damage and lost regions: text for people and JSON for scripts.
//!
//! All tools that read metadata list damage through this module, so that its words and its JSON are
//! the same everywhere.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use clone_core::metadata::auto_repair::Repaired;
use clone_core::metadata::check::Report;
use clone_core::metadata::damage::{Damage, Severity};
use clone_core::metadata::ir::{Header, METADATA_VERSION};
use clone_core::metadata::region_map::RegionMap;
use serde::{Serialize, Serializer};

use crate::common::exit::Tool;
use crate::common::units::Counted;
use crate::common::units::format_uuid;

/// The number of problems of one kind, or of lost ranges, that are listed; the rest are only
/// counted.
pub(crate) const LISTED: usize = 50;

/// The selection of problems to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// All problems.
    All,
    /// The first problems of each kind.
    Short,
}

/// Lists damage on stderr, one line per problem.
pub fn list_damage(tool: &Tool, path: &Path, damage: &[Damage], listing: Listing) {
    let path = path.display();
    let mut of_kind = BTreeMap::<&str, usize>::new();
    for problem in damage {
        let code = problem.code();
        let count = of_kind.entry(code).or_default();
        *count += 1;
        if listing == Listing::All || *count <= LISTED {
            let severity = problem.severity().name();
            tool.say(format_args!("{path}: {severity}: {code}: {problem}"));
        }
    }
    for (code, count) in of_kind {
        if listing == Listing::Short && count > LISTED {
            let more = count - LISTED;
            tool.say(format_args!("{path}: and {more} more {code} (--verbose lists all)"));
        }
    }
}

/// The amount of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Only the reason why the exit code is not 0.
    Quiet,
    /// The important messages.
    Usual,
    /// All messages.
    Verbose,
}

impl Verbosity {
    /// Returns the level for `--quiet` and `--verbose`.
    pub fn of(quiet: bool, verbose: bool) -> Self {
        match (quiet, verbose) {
            (_, true) => Self::Verbose,
            (true, false) => Self::Quiet,
            (false, false) => Self::Usual,
        }
    }

    pub(crate) fn listing(self) -> Listing {
        if self == Self::Verbose { Listing::All } else { Listing::Short }
    }
}

/// Reports the damage of metadata that is read to make `what` from it. Damage that does not affect
/// `what` is counted, and listed only with `--verbose`.
pub fn report_damage(
    tool: &Tool,
    path: &Path,
    damage: &[Damage],
    verbosity: Verbosity,
    what: &str,
) {
    if verbosity == Verbosity::Verbose || count(damage, Severity::Fatal) > 0 {
        list_damage(tool, path, damage, verbosity.listing());
    } else if verbosity == Verbosity::Usual && !damage.is_empty() {
        let harmless = Counted(damage.len() as u64, "problem");
        let path = path.display();
        tool.say(format_args!("{path}: {harmless} that do not touch the {what}; see clone_check"));
    }
}

/// Lists the regions whose state is unknown on stderr, one line per range.
pub fn list_lost(tool: &Tool, path: &Path, regions: &RegionMap, verbosity: Verbosity) {
    let path = path.display();
    let listed = if verbosity == Verbosity::Verbose { usize::MAX } else { LISTED };
    for range in regions.lost().take(listed) {
        tool.say(format_args!("{path}: lost: regions {}..{}", range.start, range.end));
    }
    let more = regions.lost().skip(listed).count();
    if more > 0 {
        tool.say(format_args!("{path}: and {more} more lost ranges (--verbose lists all)"));
    }
}

/// Returns the number of problems of one severity.
pub fn count(damage: &[Damage], severity: Severity) -> usize {
    damage.iter().filter(|problem| problem.severity() == severity).count()
}

/// The JSON document that `clone_check --json` prints.
#[derive(Serialize)]
struct Json<'a> {
    ok: bool,
    superblock: Option<Superblock>,
    hydrated: Option<u64>,
    metadata_blocks: Option<MetadataBlocks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repaired: Option<RepairedCounts>,
    #[serde(serialize_with = "problems")]
    problems: &'a [Damage],
}

/// The content of the superblock.
#[derive(Serialize)]
pub(crate) struct Superblock {
    uuid: String,
    version: u32,
    region_size: u64,
    target_size: u64,
    nr_regions: u64,
}

impl From<Header> for Superblock {
    fn from(header: Header) -> Self {
        Self {
            uuid: format_uuid(&header.uuid),
            version: METADATA_VERSION,
            region_size: header.geometry.region_size().sectors().0,
            target_size: header.geometry.target_size().0,
            nr_regions: header.geometry.nr_regions(),
        }
    }
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

#[derive(Serialize)]
struct Problem {
    severity: &'static str,
    kind: &'static str,
    block: Option<u64>,
    regions: Option<(u64, u64)>,
    message: String,
}

/// Serializes damage in the form that all `--json` documents share.
pub(crate) fn problems<S: Serializer>(
    damage: &&[Damage],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(damage.iter().map(|problem| Problem {
        severity: problem.severity().name(),
        kind: problem.code(),
        block: problem.block().map(|block| block.0),
        regions: problem.regions().map(|regions| (regions.start, regions.end)),
        message: problem.to_string(),
    }))
}

/// Writes a report as one JSON document. `ok` is true if the exit code is 0.
///
/// # Errors
/// The errors of `to`.
pub fn write_json(
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
    let json = Json { ok, superblock, hydrated, metadata_blocks, repaired, problems };
    serde_json::to_writer(&mut *to, &json)?;
    writeln!(to)
}
