//! A clone that is handed over between the kernel's target and the project's engine or daemon.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use clone_core::engine::Discards;
use clone_core::geometry::{RegionSize, Sectors};
use clone_core::dm_target::{StatusCounts, Mode, Status as Told, StatusLine};

use crate::content::{SOURCE, authors_of};
use crate::context::Context;
use crate::data::{DataClone, expect_authors};
use crate::guest::Status;
use crate::images::Images;
use crate::life::{Life, Step};
use crate::ours::{self, Ways};
use crate::requests::Requests;
use crate::script::{Op, Regions, runs, set};
use crate::served;
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "a clone that the kernel began the engine or cloned carries on, and the kernel ends it; and \
     the reverse";

/// The user of the clone's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Kernel,
    /// The engine, with this discard mode.
    Engine(Discards),
    /// The daemon, with this discard mode. Its clients speak NBD.
    Daemon(Discards),
}

const KERNEL: Who = Who::Kernel;
const LIKE_IT: Who = Who::Engine(Discards::AsKernel);
const ENGINE: Who = Who::Engine(Discards::Zero);
const DAEMON: Who = Who::Daemon(Discards::Zero);
const DAEMON_LIKE_IT: Who = Who::Daemon(Discards::AsKernel);

/// The users of the clone in order, and its regions. The last user hydrates it completely.
///
/// The clones end with a whole block of the files' file system: a discard of a hydrated region
/// makes no hole in part of a block, and leaves undefined content there.
const CASES: &[(&[Who], Regions)] = &[
    (&[KERNEL, ENGINE, KERNEL], Regions { size: 16, target: 400 * 16 + 8 }),
    (&[ENGINE, KERNEL, ENGINE], Regions { size: 8, target: 600 * 8 }),
    (&[KERNEL, LIKE_IT, KERNEL, ENGINE], Regions { size: 32, target: 250 * 32 + 24 }),
    (&[LIKE_IT, KERNEL, ENGINE, KERNEL], Regions { size: 64, target: 300 * 64 + 16 }),
    (&[DAEMON, KERNEL, DAEMON], Regions { size: 8, target: 700 * 8 }),
    (&[KERNEL, DAEMON, KERNEL, DAEMON_LIKE_IT, KERNEL], Regions { size: 16, target: 500 * 16 + 8 }),
];

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut vm = context.vm()?;
    let (mut lives, mut partly, mut hydrated) = (0, 0, 0);
    for (nr, (owners, regions)) in (0..).zip(CASES) {
        let images = Images::new(*regions, vec![SOURCE; regions.target as usize], true);
        let mut clone = Clone {
            context,
            files: DataClone::of(context, &format!("clone{nr}"), &images, 2048)?,
            images,
            requests: Requests::new(*regions, context.rng(nr)),
        };
        for (life, who) in owners.iter().enumerate() {
            let is_last = life + 1 == owners.len();
            hydrated += clone
                .live(&mut vm, *who, &format!("clone{nr}-{life}"), is_last)
                .with_context(|| format!("clone {nr}, life {life}: {who:?}"))?;
            let is_complete = clone.images.hydrated.iter().all(|hydrated| *hydrated);
            ensure!(is_complete || !is_last, "clone {nr} is not complete");
            partly += u64::from(!is_complete);
        }
        lives += owners.len() as u64;
        clone.files.remove()?;
    }
    let clones = CASES.len() as u64;
    let handovers = lives - clones;
    context.say(format!(
        "{clones} clones, {handovers} handovers, {partly} of them of clones that were not \
         complete; {hydrated} regions were hydrated in the background before"
    ));
    ensure!(partly >= 3 && hydrated >= 30, "that proves too little");
    Ok(())
}

/// A clone, and the known state of it.
struct Clone<'a> {
    context: &'a Context<'a>,
    files: DataClone,
    images: Images,
    requests: Requests,
}

impl Clone<'_> {
    /// Runs one life of the clone. Returns the number of hydrated regions that were not predicted.
    fn live(&mut self, vm: &mut Vm, who: Who, name: &str, is_last: bool) -> Result<u64> {
        let passdown = self.requests.number(0..2) == 1;
        let life = self.life(passdown, is_last);
        fs::write(self.context.path(&format!("{name}.script")), life.to_string())?;
        let discards = match who {
            Who::Kernel => Discards::AsKernel,
            Who::Engine(discards) | Who::Daemon(discards) => discards,
        };
        self.images.pass_down(passdown);
        self.images.discard_as(discards);
        let told = match who {
            Who::Kernel => vm.live(&self.files, name, &life)?,
            Who::Engine(discards) => {
                ours::live(&self.files, &life, Ways { copy_bytes: 64 << 10, discards })?
            }
            Who::Daemon(discards) => {
                served::live(self.context, &self.files, name, &life, discards)?
            }
        };
        let reads = life.foretell(&mut self.images);
        let more = self.take_over_hydrated()?;
        life.expect(&told, &reads)?;
        let destination = authors_of(&self.files.destination)?;
        expect_authors(&destination, &self.images.destination, self.images.regions())
            .context("the destination")?;
        self.expect_status(&life, &told.status)?;
        Ok(more)
    }

    /// Returns requests with hydration in between. In the last life all regions are hydrated.
    fn life(&mut self, passdown: bool, is_last: bool) -> Life {
        let requests = &mut self.requests;
        let features =
            if passdown { "1 no_hydration" } else { "2 no_hydration no_discard_passdown" };
        let threshold = requests.number(1..5);
        let options = format!("{features} 2 hydration_threshold {threshold}");
        let mut steps = vec![Step::Io(requests.ops(8, true))];
        if is_last {
            steps.push(Step::Message("hydration_batch_size 16".into()));
            steps.push(Step::Message("hydration_threshold 64".into()));
            steps.push(Step::Message("enable_hydration".into()));
            steps.push(Step::Finish);
            steps.push(Step::Io(requests.ops(12, true)));
        } else {
            steps.push(Step::HydrateSome(requests.number(5..15)));
            // The effect of a discard depends on whether the region is hydrated.
            steps.push(Step::Io(requests.ops(12, false)));
        }
        steps.push(Step::Io(vec![Op::Read(0..self.images.regions().target)]));
        Life { options, steps }
    }

    /// Reads from the metadata which regions were hydrated besides those of the requests. Returns
    /// their number.
    fn take_over_hydrated(&mut self) -> Result<u64> {
        let mut hydrated = vec![false; self.images.hydrated.len()];
        for run in self.context.tools.dump(&self.files.metadata)? {
            set(&mut hydrated, &run);
        }
        let mut more = 0;
        for (region, is_hydrated) in (0..).zip(&hydrated) {
            let was_hydrated = self.images.hydrated[region as usize];
            ensure!(*is_hydrated || !was_hydrated, "region {region} is not hydrated");
            more += u64::from(*is_hydrated && !was_hydrated);
        }
        for run in runs(&hydrated) {
            self.images.hydrate(&run);
        }
        Ok(more)
    }

    /// Checks the status line against the operations and against `clone_check`.
    fn expect_status(&self, life: &Life, line: &str) -> Result<()> {
        self.context.tools.expect_status(&self.files.metadata, &Status::parse(line)?)?;
        let Regions { size, target } = self.images.regions();
        let ((metadata_used, metadata_total), (hydrated, regions)) =
            self.context.tools.sound(&self.files.metadata)?.figures()?;
        let figures = StatusCounts {
            metadata_used,
            metadata_total,
            region_size: RegionSize::new(Sectors(size))?,
            hydrated,
            regions,
            hydrating: 0,
            options: life.options_at_end()?,
            mode: Mode::ReadWrite,
        };
        let place = Some((Sectors(0), Sectors(target)));
        let expected = StatusLine { place, status: Told::Running(figures) }.to_string();
        ensure!(line == expected, "the status is {line:?}, not {expected:?}");
        Ok(())
    }
}
