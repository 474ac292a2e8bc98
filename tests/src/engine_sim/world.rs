//! What outlives the process that runs a clone.

use std::sync::Arc;

use clone_core::geometry::RegionRange;
use clone_core::ir::Header;
use clone_core::metadata::Metadata;
use clone_core::restore::MetadataSize;
use persistent_data::sim::SimDisk;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::destination::Destination;
use super::model::Model;
use super::plan::Plan;
use super::saboteur::Mutant;
use super::source::Source;
use super::unit::{Cells, Tag, named, of_write};
use super::violation::{Violation, require};

/// How often something has come about, so that a test can tell whether it proves anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests of clients that were answered.
    pub answered: u64,
    /// Requests that took the short way.
    pub passes: u64,
    /// Answers that were errors.
    pub errors: u64,
    /// Reads that were given what had been copied.
    pub gives: u64,
    /// Copies with writes laid over them.
    pub overlays: u64,
    /// Copies of which the source knew that they were zeroes.
    pub holes: u64,
    /// Copies stored.
    pub stores: u64,
    /// Commits that succeeded.
    pub commits: u64,
    /// Times that a clone became read-only.
    pub read_only: u64,
    /// Times that a clone failed.
    pub failed: u64,
    /// Regions that went back to the source after a failure.
    pub reverted: u64,
    /// Times that hydration stopped after failures.
    pub stopped: u64,
    /// Times that a clone came to rest when it was suspended.
    pub suspended: u64,
    /// Clones that were completed.
    pub finished: u64,
    /// Losses of power.
    pub power_cuts: u64,
    /// Those among them in the midst of a commit.
    pub power_cuts_in_commits: u64,
    /// Processes killed.
    pub kills: u64,
    /// Discards that had to make zeroes of what was not hydrated.
    pub zeroed: u64,
}

impl Figures {
    /// Adds what another run has seen.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.answered, other.answered),
            (&mut self.passes, other.passes),
            (&mut self.errors, other.errors),
            (&mut self.gives, other.gives),
            (&mut self.overlays, other.overlays),
            (&mut self.holes, other.holes),
            (&mut self.stores, other.stores),
            (&mut self.commits, other.commits),
            (&mut self.read_only, other.read_only),
            (&mut self.failed, other.failed),
            (&mut self.reverted, other.reverted),
            (&mut self.stopped, other.stopped),
            (&mut self.suspended, other.suspended),
            (&mut self.finished, other.finished),
            (&mut self.power_cuts, other.power_cuts),
            (&mut self.power_cuts_in_commits, other.power_cuts_in_commits),
            (&mut self.kills, other.kills),
            (&mut self.zeroed, other.zeroed),
        ];
        for (sum, more) in pairs {
            *sum += more;
        }
    }
}

/// Devices, and what is known of them.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) mutant: Option<Mutant>,
    pub(super) rng: StdRng,
    pub(super) source: Source,
    pub(super) destination: Destination,
    pub(super) disk: Arc<SimDisk>,
    pub(super) model: Model,
    /// Regions in the last commit that is known to have succeeded.
    pub(super) committed: Vec<bool>,
    /// Regions of commits that failed or did not end: they may be hydrated after a restart.
    pub(super) in_doubt: Vec<bool>,
    /// Nanoseconds since the beginning.
    pub(super) now: u64,
    pub(super) figures: Figures,
    nr_writes: u32,
}

impl World {
    pub(super) fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let plan = Plan::new(&mut rng);
        let len = plan.clone + plan.guard;
        let source = Source::new(len, plan.region, plan.holes, &mut rng);
        let blocks = MetadataSize::of(plan.geometry).total_blocks();
        let disk = Arc::new(SimDisk::new(blocks as usize));
        disk.set_seed(rng.random());
        let header = Header { uuid: [0; 16], geometry: plan.geometry };
        Metadata::format(disk.clone(), header).expect("a disk without faults");
        let model = Model::new(source.all()[..plan.clone].iter().copied());
        let regions = plan.geometry.nr_regions() as usize;
        Self {
            mutant,
            source,
            destination: Destination::new(len, plan.clone),
            disk,
            model,
            committed: vec![false; regions],
            in_doubt: vec![false; regions],
            now: 0,
            figures: Figures::default(),
            nr_writes: 0,
            rng,
            plan,
        }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(super) fn nr_regions(&self) -> usize {
        self.committed.len()
    }

    /// What a new write stores.
    pub(super) fn new_tag(&mut self) -> Tag {
        self.nr_writes += 1;
        of_write(self.nr_writes)
    }

    /// Whether something happens that does so once in `times`; never for 0.
    pub(super) fn one_in(&mut self, times: u32) -> bool {
        times > 0 && self.rng.random_range(0..times) == 0
    }

    /// The regions that some cells lie in.
    pub(super) fn regions(&self, cells: &Cells) -> std::ops::Range<usize> {
        let region = self.plan.region;
        cells.start / region..cells.end.div_ceil(region).min(self.nr_regions())
    }

    /// The cells of some regions.
    pub(super) fn cells_of(&self, regions: std::ops::Range<usize>) -> Cells {
        let cell = |region: usize| (region * self.plan.region).min(self.plan.clone);
        cell(regions.start)..cell(regions.end)
    }

    /// Metadata of these regions is about to be written: their data must be on the medium.
    pub(super) fn check_vouched(&self, run: RegionRange) -> Result<(), Violation> {
        let cells = self.cells_of(run.start as usize..run.end as usize);
        let lost = self.destination.lost(cells, |cell, tag| self.model.survives(cell, tag));
        let Some((cell, tag)) = lost else { return Ok(()) };
        let (now, model) = (self.model.now(), self.model.explain(cell));
        let held = named(tag);
        require!(
            false,
            Durable,
            "region {} is about to be committed, but a crash at {now} could leave {held} in cell \
             {cell}: {model}",
            cell / self.plan.region
        );
        Ok(())
    }

    /// If the power went now, with metadata as it was last committed, nothing would be lost.
    pub(super) fn check_crash(&self) -> Result<(), Violation> {
        let mut start = 0;
        for piece in self.committed.chunk_by(|a, b| a == b) {
            let end = start + piece.len();
            if piece[0] {
                self.check_vouched(start as u64..end as u64)?;
            } else {
                for cell in self.cells_of(start..end) {
                    self.check_survives(cell, self.source.all()[cell])?;
                }
            }
            start = end;
        }
        self.check_bounds()
    }

    pub(super) fn check_survives(&self, cell: usize, tag: Tag) -> Result<(), Violation> {
        require!(
            self.model.survives(cell, tag),
            Durable,
            "a crash at {} leaves {} in cell {cell} of region {}: {}",
            self.model.now(),
            named(tag),
            cell / self.plan.region,
            self.model.explain(cell)
        );
        Ok(())
    }

    /// Nothing outside of the clone has changed.
    pub(super) fn check_bounds(&self) -> Result<(), Violation> {
        let trespass = self.destination.trespass();
        require!(trespass.is_none(), Bounds, "cell {trespass:?} was written, behind the end");
        Ok(())
    }
}
