//! The report about a hydration, for people and for scripts.

use std::io::{self, Write};

use anyhow::{Error, anyhow};
use clone_core::engine::{ByteRange, FailedRegion, Failure};
use clone_core::geometry::{Geometry, SECTOR_SIZE};
use serde::Serialize;

use super::args::HydrateArgs;
use super::session::{End, SessionOutcome};
use crate::common::exit::Tool;
use crate::common::throughput::per_second;
use crate::common::units::{Counted, Share, human_bytes, human_rate};

/// The number of failed ranges that are listed; the rest are only counted.
const LISTED: usize = 20;

/// The data of the final report.
pub(super) struct Summary<'a> {
    pub(super) args: &'a HydrateArgs,
    pub(super) geometry: Geometry,
    /// The number of hydrated regions at the start.
    pub(super) before: u64,
    /// `None` if the clone was complete at the start.
    pub(super) outcome: Option<&'a SessionOutcome>,
}

/// A range of bytes that could not be copied, with the reason.
#[derive(Debug, PartialEq, Eq)]
struct Bad<'a> {
    range: ByteRange,
    /// True if each region was tried by itself. Otherwise some of them may be readable.
    alone: bool,
    failure: &'a Failure,
}

impl Bad<'_> {
    fn goes_on_with(&self, next: &Self) -> bool {
        let is_alike = self.alone == next.alone && self.failure == next.failure;
        is_alike && self.range.end == next.range.start
    }
}

impl Summary<'_> {
    fn hydrated(&self) -> Option<u64> {
        match self.outcome {
            None => Some(self.before),
            Some(SessionOutcome { end: End::Failed(_), .. }) => None,
            Some(outcome) => Some(outcome.progress.hydrated),
        }
    }

    /// Returns the number of regions that were hydrated in this session.
    fn copied(&self) -> u64 {
        self.hydrated().map_or(0, |hydrated| hydrated.saturating_sub(self.before))
    }

    fn bad(&self) -> Vec<Bad<'_>> {
        let mut bad: Vec<Bad<'_>> = Vec::new();
        for FailedRegion { regions, tries, failure } in self.outcome.iter().flat_map(|o| &o.failed)
        {
            let sectors = self.geometry.sectors_of(regions.clone());
            let range = sectors.start.0 * SECTOR_SIZE..sectors.end.0 * SECTOR_SIZE;
            let more = Bad { range, alone: *tries > 0, failure };
            match bad.last_mut() {
                Some(last) if last.goes_on_with(&more) => last.range.end = more.range.end,
                _ => bad.push(more),
            }
        }
        bad
    }

    /// Writes the report for people.
    pub(super) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        let whole = self.geometry.nr_regions();
        let Some(SessionOutcome { end, progress, took, .. }) = self.outcome else {
            return writeln!(to, "already complete: all of {} hydrated", Counted(whole, "region"));
        };
        writeln!(
            to,
            "copied:       {}: {} of data written, {} of holes and zeroes skipped",
            Counted(self.copied(), "region"),
            human_bytes(progress.copied_bytes),
            human_bytes(progress.zeroed_bytes)
        )?;
        writeln!(
            to,
            "took:         {:.1} s, {} read ({}), {}",
            took.as_secs_f64(),
            human_bytes(progress.fetched_bytes),
            human_rate(per_second(progress.fetched_bytes, *took)),
            Counted(progress.commits, "commit")
        )?;
        let state = match end {
            End::Complete => ": complete",
            End::Limit => "; the same command continues",
            _ => "",
        };
        match self.hydrated() {
            Some(part) => {
                let share = Share { part, whole };
                writeln!(to, "hydrated:     {part} of {whole} regions ({share}){state}")
            }
            None => writeln!(to, "hydrated:     unknown"),
        }
    }

    /// Writes the report as JSON.
    pub(super) fn write_json(&self, to: &mut dyn Write, error: Option<&Error>) -> io::Result<()> {
        let progress = self.outcome.map(|outcome| &outcome.progress);
        let took = self.outcome.map(|outcome| outcome.took).unwrap_or_default();
        let bad = self.bad();
        let failed = bad.iter().map(|Bad { range, alone, failure }| FailedRange {
            bytes: (range.start, range.end),
            alone: *alone,
            reason: failure.to_string(),
        });
        let regions = self.geometry.nr_regions();
        let document = HydrateDocument {
            ok: error.is_none(),
            complete: self.hydrated() == Some(regions),
            ended: self.outcome.map_or("already_complete", |outcome| name(&outcome.end)),
            region_size: self.geometry.region_size().sectors().0,
            regions,
            hydrated: self.hydrated(),
            copied_regions: self.copied(),
            copied_bytes: progress.map_or(0, |progress| progress.copied_bytes),
            skipped_bytes: progress.map_or(0, |progress| progress.zeroed_bytes),
            read_bytes: progress.map_or(0, |progress| progress.fetched_bytes),
            commits: progress.map_or(0, |progress| progress.commits),
            seconds: took.as_secs_f64(),
            read_bytes_per_second: progress.map_or(0, |p| per_second(p.fetched_bytes, took)),
            failed: failed.collect(),
            error: error.map(|error| format!("{error:#}")),
        };
        serde_json::to_writer(&mut *to, &document)?;
        writeln!(to)
    }

    /// Lists the failed ranges on stderr.
    pub(super) fn list_bad(&self, tool: &Tool) {
        let bad = self.bad();
        let listed = if self.args.verbose { usize::MAX } else { LISTED };
        for Bad { range: ByteRange { start, end }, alone, failure } in bad.iter().take(listed) {
            let whole = if *alone { "" } else { " as a whole" };
            tool.say(format_args!("bytes {start}..{end} could not be copied{whole}: {failure}"));
        }
        if bad.len() > listed {
            let more = Counted((bad.len() - listed) as u64, "range");
            tool.say(format_args!("and {more} more (--verbose lists all)"));
        }
    }

    /// Returns the reason why the exit code is not 0, if it is not.
    pub(super) fn error(&self) -> Option<Error> {
        let outcome = self.outcome?;
        let whole = self.geometry.nr_regions();
        let part = outcome.progress.hydrated;
        let far = format!("{part} of {whole} regions are hydrated ({})", Share { part, whole });
        let bad: u64 = self.bad().iter().map(|bad| bad.range.end - bad.range.start).sum();
        let metadata = self.args.metadata.display();
        let again = "the same command continues from there";
        match &outcome.end {
            End::Complete | End::Limit => None,
            End::Signal(name) => Some(anyhow!("stopped by {name}: {far} and committed; {again}")),
            End::SourceChanged(what) => Some(anyhow!(
                "the source {} has changed while it was copied: {what}. {far} and committed, all \
                 of the original version; copies of the new one would make a mixture of both. \
                 Restore the original version, and {again}; or start a new clone; or use --repin \
                 if you know that both hold the same data",
                self.args.source.display()
            )),
            End::InARow(failures) => Some(anyhow!(
                "stopped after {} in a row; {far}, and all copies are committed. Once the device \
                 works again, {again}; --max-failures 0 continues past bad regions",
                Counted((*failures).into(), "failure")
            )),
            End::OnlyFailedLeft => Some(anyhow!(
                "{bad} bytes could not be copied, all others were; {far}. They are only on the \
                 source: once it can be read, {again}. Regions that the clone overwrites \
                 completely need no copy",
            )),
            End::ReadOnly(failure) => Some(anyhow!(
                "cannot continue, because it is unknown what was stored: {failure}; {far}, as of \
                 the last commit, which is sound. Once the device works again, {again}"
            )),
            End::Failed(failure) => Some(anyhow!(
                "cannot continue: {failure}; check with clone_check {metadata} whether the \
                 metadata can be read. All committed regions are sound, and {again}"
            )),
        }
    }
}

fn name(end: &End) -> &'static str {
    match end {
        End::Complete => "complete",
        End::Limit => "limit",
        End::Signal(_) => "signal",
        End::SourceChanged(_) => "source_changed",
        End::InARow(_) => "failures",
        End::OnlyFailedLeft => "only_failed_left",
        End::ReadOnly(_) => "read_only",
        End::Failed(_) => "failed",
    }
}

#[derive(Serialize)]
struct HydrateDocument {
    ok: bool,
    complete: bool,
    ended: &'static str,
    region_size: u64,
    regions: u64,
    hydrated: Option<u64>,
    copied_regions: u64,
    copied_bytes: u64,
    skipped_bytes: u64,
    read_bytes: u64,
    commits: u64,
    seconds: f64,
    read_bytes_per_second: u64,
    failed: Vec<FailedRange>,
    error: Option<String>,
}

#[derive(Serialize)]
struct FailedRange {
    bytes: (u64, u64),
    alone: bool,
    reason: String,
}
