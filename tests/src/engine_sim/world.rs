//! The state that outlives the process that runs a clone.

use std::sync::Arc;

use clone_core::geometry::RegionRange;
use clone_core::metadata::Metadata;
use clone_core::metadata::ir::Header;
use clone_core::metadata::metadata_size::MetadataSize;
use persistent_data::sim::SimDisk;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::counts::Counts;
use super::destination::Destination;
use super::model::Model;
use super::plan::Plan;
use super::saboteur::{Mutant, Sight};
use super::source::Source;
use super::unit::{Cells, Tag, named, of_write};
use super::violation::{Oracle, Violation, require};

/// The devices, and the known state of them.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) mutant: Option<Mutant>,
    pub(super) sight: Sight,
    pub(super) rng: StdRng,
    pub(super) source: Source,
    pub(super) destination: Destination,
    pub(super) disk: Arc<SimDisk>,
    pub(super) model: Model,
    /// True for regions in the last commit that is known to have succeeded.
    pub(super) committed: Vec<bool>,
    /// True for regions of commits that failed or did not end: they may be hydrated after a
    /// restart.
    pub(super) in_doubt: Vec<bool>,
    /// Nanoseconds since the beginning.
    pub(super) now: u64,
    pub(super) counts: Counts,
    nr_writes: u32,
}

impl World {
    pub(super) fn new(seed: u64, mutant: Option<Mutant>, sight: Sight) -> Self {
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
            sight,
            source,
            destination: Destination::new(len, plan.clone),
            disk,
            model,
            committed: vec![false; regions],
            in_doubt: vec![false; regions],
            now: 0,
            counts: Counts::default(),
            nr_writes: 0,
            rng,
            plan,
        }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Returns whether one of the judges of time is active.
    pub(super) fn judges(&self, oracle: Oracle) -> bool {
        match self.sight {
            Sight::All => true,
            Sight::Users => false,
            Sight::Without(other) => other != oracle,
            Sight::Timeless => !oracle.is_of_time(),
        }
    }

    pub(super) fn nr_regions(&self) -> usize {
        self.committed.len()
    }

    /// Returns the content for a new write.
    pub(super) fn new_tag(&mut self) -> Tag {
        self.nr_writes += 1;
        of_write(self.nr_writes)
    }

    /// Returns `true` at random, once in `times` on average; never for 0.
    pub(super) fn one_in(&mut self, times: u32) -> bool {
        times > 0 && self.rng.random_range(0..times) == 0
    }

    /// Returns the regions that contain some cells.
    pub(super) fn regions(&self, cells: &Cells) -> std::ops::Range<usize> {
        let region = self.plan.region;
        cells.start / region..cells.end.div_ceil(region).min(self.nr_regions())
    }

    /// Returns the cells of some regions.
    pub(super) fn cells_of(&self, regions: std::ops::Range<usize>) -> Cells {
        let cell = |region: usize| (region * self.plan.region).min(self.plan.clone);
        cell(regions.start)..cell(regions.end)
    }

    /// Returns a region that is not committed, if all oracles are active.
    pub(super) fn uncommitted(&self) -> Option<usize> {
        let first = self.committed.iter().position(|&it| !it);
        first.filter(|_| self.sight == Sight::All)
    }

    /// Checks that at least `least` regions are committed.
    pub(super) fn check_committed(&self, least: u64) -> Result<(), Violation> {
        let committed = self.committed.iter().filter(|&&it| it).count() as u64;
        let is_enough = committed >= least || self.sight == Sight::Users;
        require!(is_enough, Committed, "{committed} regions are committed of {least}");
        Ok(())
    }

    /// Checks that the data of these regions is on the medium, because their metadata is about to
    /// be written.
    pub(super) fn check_vouched(&self, run: RegionRange) -> Result<(), Violation> {
        if self.sight == Sight::Users {
            return Ok(());
        }
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

    /// Checks that a loss of power now, with the metadata as last committed, would lose nothing.
    pub(super) fn check_crash(&self) -> Result<(), Violation> {
        if self.sight == Sight::Users {
            return Ok(());
        }
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

    /// Checks that nothing outside the clone has changed.
    pub(super) fn check_bounds(&self) -> Result<(), Violation> {
        let trespass = self.destination.trespass();
        require!(trespass.is_none(), Bounds, "cell {trespass:?} was written, behind the end");
        Ok(())
    }
}
