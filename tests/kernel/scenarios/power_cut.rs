//! A clone whose machine is killed while it is in use, repeatedly.
//!
//! Data that the machine has sent to its disks stays, flushed or not; `write_log` covers disks that
//! forget writes. A discard is passed down to the destination, whose file then has a hole: zeroes.
//! An unflushed discard may instead leave the old content of the destination, because its regions
//! count as hydrated, and are not copied, before the discard gets there. According to the kernel's
//! source, a discard also does not wait for a background copy in flight, which may land after it.

use std::collections::BTreeSet;
use std::fs;
use std::mem;
use std::ops::Range;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::content::{SOURCE, ZEROES, authors_of, spread};
use crate::context::Context;
use crate::data::expect_authors;
use crate::guest::CloneLine;
use crate::script::{Op, Regions, set, text};
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "a machine that is killed leaves sound metadata, and no region without what was written to it";

/// A clone that is killed several times.
struct Case {
    regions: Regions,
    /// Sectors of the metadata device.
    metadata: u64,
    /// Features and core arguments of the table line, for each life.
    lives: &'static [&'static str],
}

const REST: &str = "1 no_hydration";
const SLOW: &str = "0 4 hydration_threshold 1 hydration_batch_size 1";
const BATCHES: &str = "0 4 hydration_threshold 8 hydration_batch_size 3";
const FAST: &str = "0 4 hydration_threshold 64 hydration_batch_size 32";

const CASES: &[Case] = &[
    Case {
        regions: Regions { size: 8, target: 900 * 8 + 5 },
        metadata: 256,
        lives: &[REST; 5],
    },
    Case {
        regions: Regions { size: 64, target: 90 * 64 + 13 },
        metadata: 256,
        lives: &[REST, REST, SLOW, REST],
    },
    Case {
        regions: Regions { size: 8, target: 1500 * 8 + 1 },
        metadata: 2048,
        lives: &[SLOW, BATCHES, REST, FAST],
    },
    Case {
        regions: Regions { size: 64, target: 200 * 64 + 63 },
        metadata: 2048,
        lives: &[SLOW, SLOW, BATCHES],
    },
];

/// Number of scripts that run at the same time.
const WRITERS: usize = 2;

/// Number of operations of each script, more than a life has time for.
const OPERATIONS: usize = 2500;

/// Maximum number of records that may be in flight from the guest when it is killed: the size of
/// its port's queue.
const UNREPORTED: usize = 128;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut seen = Seen::default();
    for (nr, case) in (0u64..).zip(CASES) {
        let name = |what: &str| format!("{what}{nr}.img");
        let target = case.regions.target;
        let mut clone = Clone {
            context,
            regions: case.regions,
            metadata: context.empty(&name("metadata"), case.metadata)?,
            source: context.filled(&name("source"), SOURCE, target)?,
            destination: context.empty(&name("destination"), target)?,
            rng: context.rng(nr),
            sectors: vec![SOURCE; target as usize],
            hydrated: vec![false; case.regions.count() as usize],
            below: vec![ZEROES; target as usize],
            next_seed: 1,
            seen: &mut seen,
        };
        for (life, options) in case.lives.iter().enumerate() {
            clone
                .live_and_die(options)
                .with_context(|| format!("clone {nr}, life {life}: {options}"))?;
        }
        clone.complete().with_context(|| format!("clone {nr}, its last life"))?;
    }
    let Seen { kills, ended, flushed, uncertain } = seen;
    context.say(format!(
        "{kills} kills, {ended} operations, {flushed} of them flushed; {uncertain} sectors could \
         have been by several"
    ));
    ensure!(kills >= 15 && flushed > 0 && ended > flushed, "that proves too little");
    Ok(())
}

/// Counts of outcomes.
#[derive(Default)]
struct Seen {
    kills: u64,
    ended: usize,
    flushed: usize,
    /// Sectors that could have had several authors.
    uncertain: u64,
}

/// A clone, and the known state of it since it was last opened.
struct Clone<'a> {
    context: &'a Context<'a>,
    regions: Regions,
    metadata: PathBuf,
    source: PathBuf,
    destination: PathBuf,
    rng: StdRng,
    /// The author of each sector, as the kernel reads it.
    sectors: Vec<u64>,
    hydrated: Vec<bool>,
    /// The author of each sector on the destination, where old content may lie below a region that
    /// is not hydrated.
    below: Vec<u64>,
    next_seed: u64,
    seen: &'a mut Seen,
}

/// A writer's operations, and how many of them had ended or were flushed before the machine was
/// killed.
struct Writer {
    script: Vec<Op>,
    ended: usize,
    /// Operations that were followed by a flush that has ended.
    flushed: usize,
}

impl Writer {
    /// Returns the operations that may have changed something. The last of them may have been in
    /// flight, and the end of some may have gone unreported.
    fn begun(&self) -> &[Op] {
        &self.script[..(self.ended + UNREPORTED + 1).min(self.script.len())]
    }
}

impl Clone<'_> {
    /// Starts a machine with the clone, and checks its content against the known state.
    fn open(&mut self, options: &str) -> Result<(Vm, CloneLine)> {
        let mut vm = self.context.vm()?;
        let clone = CloneLine {
            name: "clone".into(),
            length: self.regions.target,
            metadata: vm.attach(&self.metadata)?.node,
            destination: vm.attach(&self.destination)?.node,
            source: vm.attach(&self.source)?.node,
            region_size: self.regions.size,
            options: REST.into(),
        };
        vm.create(&clone)?;
        let status = vm.status("clone")?;
        self.context.tools.expect_status(&self.metadata, &status)?;
        let read = spread(&vm.authors(&clone.node())?);
        expect_authors(&read, &self.sectors, self.regions).context("as the kernel reads it")?;
        if options == REST {
            return Ok((vm, clone));
        }
        vm.remove(&["clone"])?;
        let clone = CloneLine { options: options.into(), ..clone };
        vm.create(&clone)?;
        Ok((vm, clone))
    }

    fn live_and_die(&mut self, options: &str) -> Result<()> {
        let (mut vm, clone) = self.open(options)?;
        let scripts: Vec<Vec<Op>> = (0..WRITERS).map(|nr| self.script(nr)).collect();
        let files: String = (0..)
            .zip(&scripts)
            .map(|(nr, ops): (u64, _)| format!("cat > /tmp/{nr} << END\n{}END\n", text(ops)))
            .collect();
        vm.script(&files)?;
        vm.start_script(&format!(
            "block_io --progress /dev/progress --script /tmp/0 --script /tmp/1 {}",
            clone.node()
        ))?;
        let records = self.rng.random_range(1..200);
        let begin = Instant::now();
        while vm.progress()?.len() < records * 8 {
            ensure!(begin.elapsed() < Duration::from_secs(600), "it is stuck:\n{}", vm.console());
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_micros(self.rng.random_range(0..20_000)));
        let progress = vm.kill_at_work()?;
        let writers = writers(scripts, &progress)?;
        self.seen.kills += 1;
        for writer in &writers {
            ensure!(writer.ended < OPERATIONS, "a life was longer than its script");
            self.seen.ended += writer.ended;
            self.seen.flushed += writer.flushed;
        }
        self.judge(&writers, options != REST)
    }

    /// Returns operations on the sectors that belong to writer `nr`: stripes of two and a half
    /// regions, so that some regions have two writers.
    fn script(&mut self, nr: usize) -> Vec<Op> {
        let stripe = 5 * self.regions.size / 2;
        let mut ops = Vec::new();
        while ops.len() < OPERATIONS {
            let op = self.regions.random_op(&mut self.rng, self.next_seed);
            self.next_seed += 1;
            let own = |sectors: &Range<u64>| {
                let is_own = (sectors.start / stripe) as usize % WRITERS == nr;
                let end = sectors.end.min((sectors.start / stripe + 1) * stripe);
                is_own.then_some(sectors.start..end)
            };
            ops.extend(match op {
                Op::Write(sectors, seed) => own(&sectors).map(|sectors| Op::Write(sectors, seed)),
                Op::Discard(sectors) => own(&sectors).map(Op::Discard),
                op => Some(op),
            });
        }
        ops
    }

    /// Checks the metadata and the destination against the writers' operations, and takes them as
    /// the new known state.
    fn judge(&mut self, writers: &[Writer], hydrating: bool) -> Result<()> {
        let tools = self.context.tools;
        tools.sound(&self.metadata)?;
        let mut hydrated = vec![false; self.hydrated.len()];
        for run in tools.dump(&self.metadata)? {
            set(&mut hydrated, &run);
        }
        let regions = self.regions;
        let (mut least, mut most) = (self.hydrated.clone(), self.hydrated.clone());
        for writer in writers {
            for op in &writer.script[..writer.flushed] {
                regions.hydrated_by(op).for_each(|region| least[region as usize] = true);
            }
            for op in writer.begun() {
                regions.hydrated_by(op).for_each(|region| most[region as usize] = true);
            }
        }
        for (region, is_hydrated) in hydrated.iter().enumerate() {
            ensure!(*is_hydrated || !least[region], "region {region} is lost");
            ensure!(!*is_hydrated || most[region] || hydrating, "nobody wrote region {region}");
        }
        let possible = self.possible(writers, hydrating);
        for (sector, author) in authors_of(&self.destination)?.into_iter().enumerate() {
            let region = sector / regions.size as usize;
            let Some(author) = author else { bail!("sector {sector} of the destination is torn") };
            let before = mem::replace(&mut self.below[sector], author);
            if !hydrated[region] {
                continue;
            }
            ensure!(
                possible[sector].contains(&author),
                "sector {sector} of the destination, in the hydrated region {region}, is by \
                 {author}, and not by one of {:?}; it was by {} and had {before} below it",
                possible[sector],
                self.sectors[sector]
            );
            self.sectors[sector] = author;
            self.seen.uncertain += u64::from(possible[sector].len() > 1);
        }
        self.hydrated = hydrated;
        Ok(())
    }

    /// Returns the possible authors of each sector.
    fn possible(&self, writers: &[Writer], hydrating: bool) -> Vec<BTreeSet<u64>> {
        let mut possible: Vec<BTreeSet<u64>> =
            self.sectors.iter().map(|author| BTreeSet::from([*author])).collect();
        let size = self.regions.size;
        let mut overtaken = BTreeSet::new();
        for writer in writers {
            for (nr, op) in writer.begun().iter().enumerate() {
                let sectors = match (op, op.written()) {
                    (_, Some((sectors, _))) => sectors,
                    (Op::Discard(_), None) => {
                        let regions = self.regions.hydrated_by(op);
                        regions.start * size..regions.end * size
                    }
                    _ => continue,
                };
                for sector in sectors {
                    let authors = &mut possible[sector as usize];
                    let was_hydrated = self.hydrated[(sector / size) as usize];
                    if nr < writer.flushed {
                        authors.clear();
                    } else if matches!(op, Op::Discard(_)) && !was_hydrated {
                        // The region counts as hydrated before the discard reaches it.
                        authors.insert(self.below[sector as usize]);
                    }
                    if matches!(op, Op::Discard(_)) && !was_hydrated && hydrating {
                        overtaken.insert(sector);
                    }
                    authors.insert(op.written().map_or(ZEROES, |(_, seed)| seed));
                }
            }
        }
        for sector in overtaken {
            possible[sector as usize].insert(SOURCE);
        }
        possible
    }

    /// Lets the kernel hydrate all other regions, and checks the whole destination.
    fn complete(&mut self) -> Result<()> {
        let (mut vm, _) = self.open(FAST)?;
        vm.wait_hydrated("clone")?;
        vm.remove(&["clone"])?;
        vm.kill()?;
        let destination = authors_of(&self.destination)?;
        expect_authors(&destination, &self.sectors, self.regions).context("the destination")?;
        for path in [&self.metadata, &self.source, &self.destination] {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Reconstructs each writer's progress. A record in `progress` says that an operation had ended;
/// the records before it are of operations that had ended earlier.
fn writers(scripts: Vec<Vec<Op>>, progress: &[u8]) -> Result<Vec<Writer>> {
    let mut writers: Vec<Writer> =
        scripts.into_iter().map(|script| Writer { script, ended: 0, flushed: 0 }).collect();
    // For each writer, the number of operations of every writer that had ended before its present
    // one began.
    let mut before = vec![vec![0; writers.len()]; writers.len()];
    for record in progress.as_chunks::<8>().0 {
        let record = u64::from_le_bytes(*record);
        let (who, nr) = ((record >> 32) as usize, record as u32 as usize);
        ensure!(nr == writers[who].ended, "operation {nr} of writer {who}, out of turn");
        writers[who].ended = nr + 1;
        if writers[who].script[nr] == Op::Flush {
            for (writer, before) in writers.iter_mut().zip(&before[who]) {
                writer.flushed = writer.flushed.max(*before);
            }
        }
        before[who] = writers.iter().map(|writer| writer.ended).collect();
    }
    Ok(writers)
}
