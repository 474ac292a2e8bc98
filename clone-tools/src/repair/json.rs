//! The JSON document that `clone_repair --json` prints.

use std::io::{self, Write};

use clone_core::geometry::RegionRange;
use clone_core::metadata::damage::Damage;
use clone_core::metadata::region_map::RegionMap;
use clone_core::repair::{Candidate, CopyAge, Find, Fit, Origin, Verdict};
use serde::{Serialize, Serializer};

use super::RepairOutcome;
use super::fresh::is_fresh;
use crate::report_json::{Superblock, problems};

#[derive(Serialize)]
struct RepairDocument<'a> {
    ok: bool,
    superblock: Option<Superblock>,
    #[serde(serialize_with = "problems")]
    problems: &'a [Damage],
    origin: Option<JsonOrigin>,
    fresh: bool,
    #[serde(serialize_with = "candidates")]
    candidates: &'a [Candidate],
    #[serde(serialize_with = "finds")]
    recovered: &'a [Find],
    decided: Decided,
    #[serde(serialize_with = "lost")]
    lost: Option<&'a RegionMap>,
    hydrated: Option<u64>,
    written: bool,
    #[serde(serialize_with = "fits")]
    fits: &'a [Fit],
}

#[derive(Serialize)]
struct JsonOrigin {
    from: &'static str,
    root: Option<u64>,
    newest: Option<bool>,
}

#[derive(Serialize)]
struct JsonCandidate {
    root: u64,
    array_blocks: u64,
    missing: u64,
    hydrated: u64,
    vouched_for: bool,
    verdict: &'static str,
}

#[derive(Serialize)]
struct JsonFind {
    regions: (u64, u64),
    block: u64,
    copy: &'static str,
}

#[derive(Serialize)]
struct Decided {
    equal: u64,
    written: u64,
    undecided: u64,
    half_copied: u64,
    unreadable: u64,
    lost_as: Option<&'static str>,
    by_choice: u64,
}

#[derive(Serialize)]
struct JsonFit {
    root: u64,
    nr_regions: (u64, u64),
}

fn pair(range: &RegionRange) -> (u64, u64) {
    (range.start, range.end)
}

fn origin(origin: Origin) -> JsonOrigin {
    match origin {
        Origin::Scan { root, is_newest } => {
            JsonOrigin { from: "scan", root: Some(root.0), newest: Some(is_newest) }
        }
        _ => JsonOrigin { from: "superblock", root: None, newest: None },
    }
}

fn candidates<S: Serializer>(candidates: &&[Candidate], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(candidates.iter().map(|candidate| JsonCandidate {
        root: candidate.root.0,
        array_blocks: candidate.array_blocks,
        missing: candidate.missing,
        hydrated: candidate.hydrated,
        vouched_for: candidate.is_counted,
        verdict: match candidate.verdict {
            None => "taken",
            Some(Verdict::Older) => "older",
            Some(Verdict::Tie) => "tie",
            Some(Verdict::Contradiction) => "contradiction",
            Some(_) => "other",
        },
    }))
}

fn finds<S: Serializer>(finds: &&[Find], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(finds.iter().map(|find| JsonFind {
        regions: pair(&find.regions),
        block: find.at.0,
        copy: match find.age {
            CopyAge::Last => "last",
            _ => "older",
        },
    }))
}

fn lost<S: Serializer>(regions: &Option<&RegionMap>, serializer: S) -> Result<S::Ok, S::Error> {
    match regions {
        // The ranges may be too many to keep in memory.
        Some(regions) => serializer.collect_seq(regions.lost().map(|range| pair(&range))),
        None => serializer.serialize_none(),
    }
}

fn fits<S: Serializer>(fits: &&[Fit], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(
        fits.iter().map(|fit| JsonFit { root: fit.root.0, nr_regions: pair(&fit.nr_regions) }),
    )
}

/// Writes the results of a repair as one JSON document. `ok` is true if the exit code is 0.
///
/// # Errors
/// The errors of `to`.
pub(super) fn write(to: &mut dyn Write, outcome: &RepairOutcome, ok: bool) -> io::Result<()> {
    let found = outcome.found.as_ref();
    let recovery = found.ok();
    let by_content = outcome.by_content.as_ref();
    let by_choice = outcome.by_choice;
    let header = match found {
        Ok(recovery) => Some(recovery.header),
        Err(failure) => failure.header,
    };
    let document = RepairDocument {
        ok,
        superblock: header.map(Superblock::from),
        problems: found.map_or_else(|failure| &failure.damage, |recovery| &recovery.damage),
        origin: recovery.map(|recovery| origin(recovery.origin)),
        fresh: recovery.is_some_and(is_fresh),
        candidates: recovery.map_or(&[], |recovery| &recovery.candidates),
        recovered: recovery.map_or(&[], |recovery| &recovery.finds),
        decided: Decided {
            equal: by_content.map_or(0, |decided| decided.equal),
            written: by_content.map_or(0, |decided| decided.written),
            undecided: by_content.map_or(0, |decided| decided.undecided),
            half_copied: by_content.map_or(0, |decided| decided.half_copied),
            unreadable: by_content.map_or(0, |decided| decided.nr_unreadable),
            lost_as: by_choice.map(|c| if c.hydrated { "hydrated" } else { "unhydrated" }),
            by_choice: by_choice.map_or(0, |choice| choice.nr_regions),
        },
        lost: recovery.map(|recovery| &recovery.regions),
        hydrated: outcome.hydrated(),
        written: outcome.written,
        fits: found.err().map_or(&[], |failure| &failure.fits),
    };
    serde_json::to_writer(&mut *to, &document)?;
    writeln!(to)
}
