//! Replays all writes of a kernel to a metadata device, as recorded by the log-writes target.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clone_core::metadata::check::read;
use clone_tests::log_writes::{Entry, UNIT, parse};
use persistent_data::block::RawBlock;
use persistent_data::device::{Device as _, MemoryDevice, ReadDevice as _};
use persistent_data::number::{BLOCK_SIZE, BlockNr};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::context::Context;
use crate::guest::CloneLine;
use crate::history::{History, Known};
use crate::script::{Op, Regions, text};
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "whatever a power cut leaves of a kernel's writes is the last commit or the one in flight";

/// A clone, and the operations on it.
struct Case {
    regions: Regions,
    /// Sectors of the metadata device.
    metadata: u64,
    /// Number of scripts. Each ends with a flush and a mark in the log.
    scripts: usize,
    /// Number of operations per script.
    operations: usize,
    /// Features and core arguments of the table line.
    options: &'static str,
    /// Number of power cuts that are tried between two flushes.
    cuts: usize,
}

const HYDRATING: &str = "0 4 hydration_threshold 16 hydration_batch_size 4";

const CASES: &[Case] = &[
    // Few metadata blocks, so that they are soon reused, and a short last region.
    Case {
        regions: Regions { size: 8, target: 3000 * 8 + 5 },
        metadata: 512,
        scripts: 45,
        operations: 12,
        options: "1 no_hydration",
        cuts: 12,
    },
    Case {
        regions: Regions { size: 64, target: 100_000 * 64 + 13 },
        metadata: 2048,
        scripts: 25,
        operations: 12,
        options: HYDRATING,
        cuts: 12,
    },
    // A bitset whose btree has two levels.
    Case {
        regions: Regions { size: 8, target: 1 << 27 },
        metadata: 16 * 2048,
        scripts: 12,
        operations: 12,
        options: "1 no_hydration",
        cuts: 3,
    },
];

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut vm = context.vm()?;
    let mut seen = Seen::default();
    for (nr, case) in (0u64..).zip(CASES) {
        let mut rng = context.rng(nr);
        let scripts: Vec<_> = (0..case.scripts)
            .map(|_| {
                let mut ops = case.regions.random_script(&mut rng, case.operations, 1);
                ops.push(Op::Flush);
                ops
            })
            .collect();
        let (image, log) = churn(context, &mut vm, nr, case, &scripts)?;
        let entries = parse(&log);
        let per_script = case.operations + 1;
        let hydrating = case.options == HYDRATING;
        let mut replay = Replay {
            context,
            case,
            rng,
            history: History::new(case.regions, &scripts.concat()),
            per_script,
            device: MemoryDevice::new(image.len() / BLOCK_SIZE),
            pending: Vec::new(),
            last: None,
            known: Known { flushed: 0, begun: per_script, hydrating },
            seen: &mut seen,
        };
        if let Err(error) = replay.run(&entries) {
            let state = context.path("state.img");
            fs::write(&state, replay.device.to_bytes())?;
            return Err(error.context(format!("case {nr}; the device then is state.img")));
        }
        ensure!(replay.known.flushed == scripts.concat().len(), "a mark is missing");
        ensure!(replay.device.to_bytes() == image, "the log does not hold all that was written");
    }
    let Seen { commits, states, in_flight, programs } = seen;
    context.say(format!(
        "{commits} commits, {states} power cuts, {in_flight} with the one in flight; programs: \
         {programs}"
    ));
    ensure!(commits >= 150 && in_flight > 0 && programs > 0, "that proves too little");
    Ok(())
}

/// Lets the kernel write. Returns the metadata device and the log afterwards.
fn churn(
    context: &Context<'_>,
    vm: &mut Vm,
    nr: u64,
    case: &Case,
    scripts: &[Vec<Op>],
) -> Result<(Vec<u8>, Vec<u8>)> {
    let Regions { size, target } = case.regions;
    let image = context.empty(&format!("metadata{nr}.img"), case.metadata)?;
    let log = context.empty(&format!("log{nr}.img"), 1 << 18)?;
    let (metadata, logged) = (vm.attach(&image)?, vm.attach(&log)?);
    vm.script(&format!(
        "dmsetup create log --table '0 {} log-writes {metadata} {logged}'",
        case.metadata
    ))?;
    let clone = CloneLine {
        name: "clone".into(),
        length: target,
        metadata: "/dev/mapper/log".into(),
        destination: vm.zero_device("destination", target)?,
        source: vm.zero_device("source", target)?,
        region_size: size,
        options: case.options.into(),
    };
    vm.create(&clone)?;
    let files: String = (0..)
        .zip(scripts)
        .map(|(nr, ops): (u64, _)| format!("cat > /tmp/{nr} << END\n{}END\n", text(ops)))
        .collect();
    vm.script(&files)?;
    vm.script(&format!(
        "for i in $(seq 0 {}); do
             block_io --script /tmp/$i {} && dmsetup message log 0 mark $i || exit
         done",
        scripts.len() - 1,
        clone.node()
    ))?;
    vm.remove(&["clone", "log", "destination", "source"])?;
    vm.detach(&metadata)?;
    vm.detach(&logged)?;
    Ok((fs::read(image)?, fs::read(log)?))
}

/// Counts of outcomes.
#[derive(Default)]
struct Seen {
    commits: u64,
    states: u64,
    /// States of the commit in flight, before it was flushed.
    in_flight: u64,
    /// States that the programs checked too.
    programs: u64,
}

/// The hydrated regions of the metadata; `None` before it is formatted.
type State = Option<Vec<Range<u64>>>;

/// A device on which a log is replayed.
struct Replay<'a> {
    context: &'a Context<'a>,
    case: &'a Case,
    rng: StdRng,
    history: History,
    per_script: usize,
    /// Content as of the last flush.
    device: MemoryDevice,
    /// Writes since the last flush.
    pending: Vec<&'a Entry>,
    last: State,
    known: Known,
    seen: &'a mut Seen,
}

impl<'a> Replay<'a> {
    fn run(&mut self, entries: &'a [Entry]) -> Result<()> {
        for (nr, entry) in entries.iter().enumerate() {
            ensure!(!entry.is_flush() || entry.data.is_empty(), "a flush with data of its own");
            ensure!(!entry.is_fua(), "a write that passes the cache by");
            if entry.is_flush() {
                self.flush().with_context(|| format!("entry {nr} of the log, a flush"))?;
            } else if let Some(mark) = &entry.mark {
                self.mark(mark).with_context(|| format!("entry {nr}, mark {mark}"))?;
            } else {
                self.pending.push(entry);
            }
        }
        ensure!(self.pending.is_empty(), "writes that nobody flushed");
        Ok(())
    }

    /// Handles the end of a script and of its last flush.
    fn mark(&mut self, mark: &str) -> Result<()> {
        let Ok(script) = mark.parse::<usize>() else { return Ok(()) };
        self.known.flushed = (script + 1) * self.per_script;
        // At this moment no other operation has begun.
        self.known.begun = self.known.flushed;
        self.judge(&self.last)?;
        self.known.begun += self.per_script;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let mut whole = BTreeMap::new();
        for (sector, bytes) in sectors(&pending) {
            whole.insert(sector, bytes);
        }
        let before = self.write(&whole)?;
        let next = self.state()?;
        self.judge(&next)?;
        self.write_blocks(&before)?;
        if next != self.last {
            self.seen.commits += 1;
        }
        for _ in 0..self.case.cuts {
            self.cut(&pending, &next)?;
        }
        self.write(&whole)?;
        self.last = next;
        if self.last.is_some() && self.rng.random_ratio(1, 40) {
            let state = self.last.clone();
            self.ask_programs(&state)?;
        }
        Ok(())
    }

    /// Cuts the power: some of the sectors written since the last flush are on the medium.
    fn cut(&mut self, pending: &[&Entry], next: &State) -> Result<()> {
        let mut written: Vec<_> = sectors(pending).collect();
        // Any version of a sector may survive.
        for i in (1..written.len()).rev() {
            written.swap(i, self.rng.random_range(0..=i));
        }
        let percent = [5, 50, 95, 100][self.rng.random_range(0..4)];
        written.retain(|_| self.rng.random_ratio(percent, 100));
        let before = self.write(&written.into_iter().collect())?;
        let state = self.state()?;
        ensure!(
            state == self.last || state == *next,
            "after a power cut it is {state:?}, and not {:?} or {next:?}",
            self.last
        );
        self.seen.states += 1;
        self.seen.in_flight += u64::from(state != self.last);
        if state.is_some() && self.rng.random_ratio(1, 500) {
            self.ask_programs(&state)?;
        }
        self.write_blocks(&before)
    }

    /// Writes sectors. Returns the old content of the blocks around them.
    fn write(&self, sectors: &BTreeMap<u64, &[u8]>) -> Result<BTreeMap<u64, RawBlock>> {
        let mut before = BTreeMap::new();
        for (sector, bytes) in sectors {
            let at = *sector as usize * UNIT;
            let (nr, within) = ((at / BLOCK_SIZE) as u64, at % BLOCK_SIZE);
            let mut block = [RawBlock::ZERO];
            self.device.read(BlockNr(nr), &mut block)?;
            before.entry(nr).or_insert_with(|| block[0].clone());
            block[0].bytes_mut()[within..][..UNIT].copy_from_slice(bytes);
            self.device.write(BlockNr(nr), &block)?;
        }
        Ok(before)
    }

    fn write_blocks(&self, blocks: &BTreeMap<u64, RawBlock>) -> Result<()> {
        for (nr, block) in blocks {
            self.device.write(BlockNr(*nr), std::slice::from_ref(block))?;
        }
        Ok(())
    }

    /// Reads the metadata, which must be sound.
    fn state(&self) -> Result<State> {
        let mut superblock = [RawBlock::ZERO];
        self.device.read(BlockNr(0), &mut superblock)?;
        if superblock[0].is_zero() {
            return Ok(None);
        }
        let report = read(&self.device, &());
        ensure!(report.damage.is_empty(), "{:?}", report.damage);
        let regions = report.regions.context("no regions")?;
        Ok(Some(regions.runs().collect()))
    }

    /// Checks a state against the scripts.
    fn judge(&self, state: &State) -> Result<()> {
        let Some(runs) = state else {
            ensure!(self.last.is_none(), "the superblock is gone");
            return Ok(());
        };
        self.history.judge(runs, self.known).map(drop)
    }

    /// Lets the programs check the device.
    fn ask_programs(&mut self, state: &State) -> Result<()> {
        let path = self.context.path("state.img");
        fs::write(&path, self.device.to_bytes())?;
        let hydrated = self.ask(&path)?;
        ensure!(Some(&hydrated) == state.as_ref(), "clone_dump says {hydrated:?}, not {state:?}");
        self.seen.programs += 1;
        Ok(())
    }

    fn ask(&self, path: &Path) -> Result<Vec<Range<u64>>> {
        self.context.tools.sound(path)?;
        self.context.tools.dump(path)
    }
}

/// Returns the sectors of some writes, in order.
fn sectors<'a>(writes: &[&'a Entry]) -> impl Iterator<Item = (u64, &'a [u8])> {
    writes.iter().flat_map(|entry| (entry.sector..).zip(entry.data.chunks(UNIT)))
}
