//! The tools with `--live` beside a kernel that commits.

use std::ops::Range;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::context::Context;
use crate::guest::CloneLine;
use crate::history::{History, Known};
use crate::script::{Op, Regions, text};
use crate::tools::Check;
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "what is read with --live while a kernel commits is what it had at some moment";

/// A clone, and the operations on it.
struct Case {
    regions: Regions,
    /// Sectors of the metadata device.
    metadata: u64,
    /// Number of operations between two pauses.
    burst: usize,
    /// Length of a pause in microseconds. The tools need two passes without a commit.
    pause: u32,
    /// Number of reads by each tool.
    reads: u32,
    /// Features and core arguments of the table line.
    options: &'static str,
}

const HYDRATING: &str = "0 4 hydration_threshold 2 hydration_batch_size 1";

const CASES: &[Case] = &[
    // Few metadata blocks, so that they are soon reused.
    Case {
        regions: Regions { size: 8, target: 6000 * 8 + 5 },
        metadata: 256,
        burst: 8,
        pause: 30_000,
        reads: 8,
        options: "1 no_hydration",
    },
    Case {
        regions: Regions { size: 8, target: 130_000 * 8 },
        metadata: 1024,
        burst: 8,
        pause: 30_000,
        reads: 6,
        options: HYDRATING,
    },
    // A bitset whose btree has two levels.
    Case {
        regions: Regions { size: 8, target: 1 << 26 },
        metadata: 16 * 2048,
        burst: 8,
        pause: 400_000,
        reads: 3,
        options: "1 no_hydration",
    },
];

/// Number of bursts of a script: more than the time allows.
const BURSTS: usize = 2000;

/// Prints for each read the command, its exit code, how many operations had ended before and after,
/// and its output, one line each.
const READ: &str = r#"
read_live() {
    before=$(wc -c < /tmp/progress)
    "$@" > /tmp/said 2>&1
    code=$?
    echo "$1 $code $before $(wc -c < /tmp/progress)"
    tr '\n' ' ' < /tmp/said
    echo
}
"#;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut vm = context.vm()?;
    for tool in ["clone_dump", "clone_check", "clone_map"] {
        vm.put_program(&context.tools.program(tool))?;
    }
    let mut seen = Seen::default();
    for (nr, case) in (0u64..).zip(CASES) {
        judge(context, &mut vm, nr, case, &mut seen).with_context(|| format!("case {nr}"))?;
    }
    let Seen { reads, commits, meanwhile } = seen;
    context.say(format!("{reads} reads, {meanwhile} of them during one of {commits} commits"));
    ensure!(reads >= 30 && commits >= 60 && meanwhile > 0, "that proves too little");
    Ok(())
}

/// Counts of outcomes.
#[derive(Default)]
struct Seen {
    reads: u64,
    /// Lower bound on the number of commits.
    commits: usize,
    /// Reads during which there was a commit.
    meanwhile: u64,
}

fn judge(
    context: &Context<'_>,
    vm: &mut Vm,
    nr: u64,
    case: &Case,
    seen: &mut Seen,
) -> Result<()> {
    let image = context.empty(&format!("metadata{nr}.img"), case.metadata)?;
    let name = format!("clone{nr}");
    let sizes = (case.regions.size, case.regions.target);
    let clone = vm.clone_of_zeroes(&name, &image, sizes, case.options)?;
    let script: Vec<Op> = (0..BURSTS)
        .flat_map(|burst| {
            let mut rng = context.rng(nr << 32 | burst as u64);
            let mut ops = case.regions.random_script(&mut rng, case.burst, 1);
            ops.push(Op::Flush);
            ops
        })
        .collect();
    vm.create(&clone)?;
    let said = read_beside(vm, case, &clone, &script)?;

    let history = History::new(case.regions, &script);
    let mut before = Read::default();
    for pair in said.lines().collect::<Vec<_>>().chunks(2) {
        let [what, said] = *pair else { bail!("{pair:?}") };
        let mut read = Read::parse(what, said).with_context(|| format!("{what}: {said}"))?;
        let known = Known {
            flushed: history.flushed(read.ended.start),
            begun: read.ended.end + 1,
            hydrating: case.options == HYDRATING,
        };
        read.judge(&history, known, &before).with_context(|| format!("{what}: {known:?}"))?;
        seen.reads += 1;
        let meanwhile = &script[read.ended.clone()];
        seen.meanwhile += u64::from(meanwhile.contains(&Op::Flush));
        read.runs = read.runs.or(before.runs);
        before = read;
    }
    let flushes = script[..before.ended.end].iter().filter(|op| **op == Op::Flush);
    seen.commits += flushes.count();
    at_rest(vm, &clone).context("at rest")?;
    is_refused(vm, &clone)?;
    vm.remove(&[&name, &format!("{name}-source"), &format!("{name}-destination")])
}

/// Runs the tools beside a script. Returns the output of [`READ`] for each of them.
fn read_beside(vm: &mut Vm, case: &Case, clone: &CloneLine, script: &[Op]) -> Result<String> {
    let Case { burst, pause, reads, .. } = case;
    let (node, metadata, operations) = (clone.node(), &clone.metadata, burst + 1);
    vm.script(&format!("cat > /tmp/operations << END\n{}END", text(script)))?;
    vm.script(&format!(
        "{READ}
         : > /tmp/progress
         : > /tmp/go
         while [ -e /tmp/go ] && read -r line; do
             echo $line
             nr=$((nr + 1))
             [ $((nr % {operations})) -ne 0 ] || usleep {pause}
         done < /tmp/operations | block_io --progress /tmp/progress {node} &
         churn=$!
         for i in $(seq {reads}); do
             read_live clone_dump --live --format json {metadata}
             read_live clone_check --live --json {metadata}
             read_live clone_map --live --width 40 {metadata}
         done
         rm /tmp/go
         wait $churn"
    ))
}

/// The result of a tool.
#[derive(Default)]
struct Read {
    /// Number of operations that had ended before it began, and after it had ended.
    ended: Range<usize>,
    /// Number of hydrated regions.
    hydrated: u64,
    /// The hydrated regions; only a dump contains them.
    runs: Option<Vec<Range<u64>>>,
}

impl Read {
    fn parse(what: &str, said: &str) -> Result<Self> {
        let words: Vec<&str> = what.split(' ').collect();
        let [tool, code, begin, end] = *words else { bail!("no record of a read") };
        ensure!(code == "0", "it ended with {code}");
        let ended = begin.parse::<usize>()? / 8..end.parse::<usize>()? / 8;
        if tool == "clone_map" {
            let (_, rest) = said.split_once("hydrated:").context("no figure of regions")?;
            let figure = rest.split_whitespace().next().context("no figure of regions")?;
            return Ok(Self { ended, hydrated: figure.parse()?, runs: None });
        }
        let said: Value = serde_json::from_str(said)?;
        let hydrated = said["hydrated"].as_u64().context("no figure of regions")?;
        if tool == "clone_check" {
            ensure!(said["problems"].as_array().is_some_and(Vec::is_empty), "it found damage");
            return Ok(Self { ended, hydrated, runs: None });
        }
        let runs: Vec<(u64, u64)> = serde_json::from_value(said["runs"].clone())?;
        let runs = runs.into_iter().map(|(begin, end)| begin..end).collect();
        Ok(Self { ended, hydrated, runs: Some(runs) })
    }

    /// Checks the result against the script and against earlier results.
    fn judge(&self, history: &History, known: Known, before: &Self) -> Result<()> {
        let Self { hydrated, .. } = *self;
        let (least, most) = (history.count(known.flushed), history.count(known.begun));
        ensure!(hydrated >= least, "{hydrated} regions, and {least} were flushed");
        ensure!(hydrated <= most || known.hydrating, "{hydrated} regions, of {most} that begun");
        ensure!(hydrated >= before.hydrated, "{hydrated} regions after {}", before.hydrated);
        let Some(runs) = &self.runs else { return Ok(()) };
        let sum: u64 = runs.iter().map(|run| run.end - run.start).sum();
        ensure!(sum == hydrated, "{sum} regions, and it says {hydrated}");
        history.judge(runs, known)?;
        for run in before.runs.iter().flatten() {
            let next = runs.partition_point(|now| now.end < run.end);
            let is_there = runs.get(next).is_some_and(|now| now.start <= run.start);
            ensure!(is_there, "of {run:?}, not all is there any more");
        }
        Ok(())
    }
}

/// Once no more writes are in flight, the tools and the status line agree.
fn at_rest(vm: &mut Vm, clone: &CloneLine) -> Result<()> {
    let CloneLine { name, metadata, .. } = clone;
    vm.message(name, "disable_hydration")?;
    // A suspend waits for the operations in flight, and commits them.
    vm.script(&format!("dmsetup suspend {name} && dmsetup resume {name}"))?;
    let status = vm.status(name)?;
    let check = vm.script(&format!("clone_check --live --json {metadata}"))?;
    let figures = serde_json::from_str::<Check>(&check)?.figures()?;
    ensure!(status.mode == "rw", "{}", status.line);
    ensure!(figures == (status.metadata, status.regions), "{}, and {check}", status.line);
    let ended = "clone_dump 0 0 0";
    let dump = vm.script(&format!("clone_dump --live --format json {metadata}"))?;
    let dump = Read::parse(ended, &dump)?;
    let sum: u64 = dump.runs.iter().flatten().map(|run| run.end - run.start).sum();
    ensure!(sum == status.regions.0, "{}, and {:?}", status.line, dump.runs);
    Ok(())
}

/// Without `--live`, a metadata device in use is refused, and the message names its user.
fn is_refused(vm: &mut Vm, clone: &CloneLine) -> Result<()> {
    let CloneLine { name, metadata, .. } = clone;
    for tool in ["clone_dump", "clone_check", "clone_map"] {
        let refused = vm.run(&format!("{tool} {metadata}"))?;
        let reason = format!("{metadata} is in use by dm device `{name}`");
        ensure!(refused.code == 1 && refused.text.contains(&reason), "{tool}: {refused:?}");
        ensure!(refused.text.contains("--live"), "{tool}: {refused:?}");
    }
    Ok(())
}
