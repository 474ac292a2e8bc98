//! A trial of an image by a kernel: it opens the metadata, reads, writes, and opens it again.

use std::fmt::Write as _;
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};

use crate::guest::Status;
use crate::script::{Op, Regions, text};
use crate::vm::{Death, Output};

/// Prefix on the console that marks the begin of a step of a trial.
const MARK: &str = "judge: ";

/// Size limit of regions that are written, in sectors. Larger regions are discarded, because a
/// write would have to cover one.
const WRITABLE: u64 = 1024;

/// Number of sectors whose readability shows how a kernel has read the bitset. Reads of the source
/// fail, and reads of the destination do not.
const PROBES: usize = 300;

/// A verdict that can be detected in two ways: by the mode, and by a flush.
const COMMIT_FAILS: &str = "commit fails";

/// The operations on an image, and its known content.
pub(super) struct Trial {
    regions: Regions,
    /// The hydrated regions, as maximal runs.
    truth: Vec<Range<u64>>,
    probes: Vec<u64>,
    /// Operations after each opening.
    rounds: [Vec<Op>; 2],
}

/// The result of a trial.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The verdict, in words.
    pub(super) words: Vec<&'static str>,
    /// Messages of the kernel, without timestamps.
    pub(super) said: Vec<String>,
    /// True if the guest cannot be used any more.
    pub(super) is_dead: bool,
}

fn is_in(runs: &[Range<u64>], region: u64) -> bool {
    let next = runs.partition_point(|run| run.end <= region);
    runs.get(next).is_some_and(|run| run.start <= region)
}

impl Trial {
    /// Creates a trial of the image of a clone whose hydrated regions are `truth`.
    pub(super) fn new(regions: Regions, truth: Vec<Range<u64>>) -> Self {
        let count = regions.count();
        let mut edges: Vec<u64> = truth
            .iter()
            .flat_map(|run| [run.start.saturating_sub(1), run.start, run.end - 1, run.end])
            .chain((0..count).step_by(32_576))
            .chain([count / 3, count / 2, count - 1])
            .filter(|&region| region < count)
            .collect();
        edges.sort_unstable();
        edges.dedup();
        let step = edges.len().div_ceil(PROBES);
        let probes = edges.into_iter().step_by(step).collect();
        // The last region may be short, and then the kernel does not count it as covered by a
        // write.
        let free = |nr: u64| (count * nr / 10..count - 1).find(|&region| !is_in(&truth, region));
        let mut targets: Vec<u64> = (0..10).filter_map(free).collect();
        targets.dedup();
        let round = |first: usize| {
            let regions_of = targets.iter().skip(first).step_by(2);
            let one = |(nr, region): (usize, &u64)| {
                let sectors = region * regions.size..(region + 1) * regions.size;
                let write = nr != 2 && regions.size <= WRITABLE;
                [if write { Op::Write(sectors, 1) } else { Op::Discard(sectors) }, Op::Flush]
            };
            regions_of.enumerate().flat_map(one).collect()
        };
        let rounds = [round(0), round(1)];
        Self { regions, truth, probes, rounds }
    }

    /// Returns the hydrated regions after some of the rounds.
    pub(super) fn after(&self, rounds: usize) -> Vec<Range<u64>> {
        let ops = self.rounds[..rounds].iter().flatten();
        let written = ops.map(|op| self.regions.hydrated_by(op)).filter(|run| !run.is_empty());
        clone_tests::runs::joined(self.truth.iter().cloned().chain(written).collect())
    }

    /// Returns the script for the guest. Every device is called `clone`; `table` is its line.
    pub(super) fn script(&self, table: &str) -> String {
        let mut probes = String::new();
        for region in &self.probes {
            let _ = writeln!(probes, "{}", region * self.regions.size);
        }
        let [first, second] = self.rounds.each_ref().map(|ops| text(ops));
        format!(
            "step() {{ echo \"<3>{MARK}$1\" > /dev/kmsg; echo \"== $1\"; }}
             end() {{ [ ! -b /dev/mapper/clone ] || dmsetup remove clone; dmesg -c; }}
             trap end EXIT
             step open
             dmsetup create clone --table '{table}' || exit
             dmsetup status clone
             block_io --readable /dev/mapper/clone << END\n{probes}END
             step write
             block_io /dev/mapper/clone << END || echo failed\n{first}END
             status=$(dmsetup status clone)
             echo $status
             case $status in *rw*) ;; *) exit ;; esac
             step remove
             dmsetup remove clone || exit
             step reopen
             dmsetup create clone --table '{table}' || exit
             step rewrite
             block_io /dev/mapper/clone << END || echo failed\n{second}END
             dmsetup status clone
             step remove
             dmsetup remove clone
             step end\n"
        )
    }

    /// Interprets the guest's answer.
    ///
    /// # Errors
    /// If the answer is incomplete.
    pub(super) fn outcome(&self, answer: Result<Output, Death>) -> Result<Outcome> {
        match answer {
            Ok(output) => self.judge(&output.text).with_context(|| output.text.clone()),
            Err(death) => Ok(dead(&death)),
        }
    }

    fn judge(&self, text: &str) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut step = "";
        let (mut is_open, mut is_read, mut has_failed) = (false, false, false);
        for line in text.lines() {
            if let Some(next) = line.strip_prefix("== ") {
                step = next;
            } else if let Some(said) = line.split_once("] device-mapper: ").map(|(_, said)| said) {
                outcome.said.push(said.to_owned());
            } else if line.starts_with("0 ") && line.contains(" clone ") {
                is_open |= step == "open";
                outcome.add(self.verdict_on(&Status::parse(line)?, step));
            } else if step == "open" && line.len() == self.probes.len() && is_open {
                let read: Vec<u8> =
                    self.probes.iter().map(|&at| b'0' + u8::from(is_in(&self.truth, at))).collect();
                outcome.add((line.as_bytes() != read).then_some("misread"));
                is_read = true;
            } else if line == "failed" {
                has_failed = true;
            }
        }
        // A kernel that lets a flush fail may still report itself as writable for a while.
        let fails = outcome.words.contains(&"fails");
        outcome.add((has_failed && !fails).then_some(COMMIT_FAILS));
        outcome.add(match step {
            "open" => Some("refused"),
            "reopen" if outcome.words.is_empty() => Some("refused then"),
            _ => None,
        });
        ensure!(step == "open" || (is_open && is_read), "no look at what the kernel has read");
        Ok(outcome)
    }

    fn verdict_on(&self, status: &Status, step: &str) -> Option<&'static str> {
        let (rounds, otherwise) = match step {
            "open" => (0, "misread"),
            "write" => (1, "harmed"),
            _ => (2, "harmed"),
        };
        match &*status.mode {
            "Fail" => Some("fails"),
            "ro" => Some(COMMIT_FAILS),
            _ => {
                let hydrated = clone_tests::runs::count(&self.after(rounds));
                (status.regions.0 != hydrated).then_some(otherwise)
            }
        }
    }
}

impl Outcome {
    pub(super) fn add(&mut self, verdict: Option<&'static str>) {
        if let Some(verdict) = verdict.filter(|verdict| !self.words.contains(verdict)) {
            self.words.push(verdict);
        }
    }
}

fn dead(death: &Death) -> Outcome {
    let (Death::Died(console) | Death::Silent(console)) = death;
    let last = console.rsplit_once(MARK).map_or(&**console, |(_, last)| last);
    let opens = matches!(last.lines().next(), Some("open" | "reopen"));
    let verdict = match (death, opens) {
        (Death::Died(_), true) => "dies when it opens it",
        (Death::Died(_), false) => "dies of a commit",
        (Death::Silent(_), true) => "hangs when it opens it",
        (Death::Silent(_), false) => "hangs in a commit",
    };
    let lines = last.lines().map(|line| line.split_once("] ").map_or(line, |(_, rest)| rest));
    let said = lines.filter(|line| {
        ["device-mapper: ", "kernel BUG at ", "BUG: "].iter().any(|begin| line.starts_with(begin))
    });
    let said = said.map(|line| line.trim_start_matches("device-mapper: ").to_owned()).collect();
    Outcome { words: vec![verdict], said, is_dead: true }
}
