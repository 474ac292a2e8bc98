//! Crashes, and reopening of a clone.

use std::sync::Arc;

use clone_core::metadata::Metadata;
use persistent_data::sim::SimDisk;
use rand::RngExt;

use super::destination::{Content, WriteNr};
use super::round::{Coming, Round};
use super::unit::{Cells, Tag, named};
use super::violation::{Oracle, Violation, require};
use super::world::World;

/// Writes that a killed process may still have sent to the destination.
#[derive(Debug)]
pub(super) struct Left(Vec<(WriteNr, Cells, Content)>);

impl World {
    /// Opens the metadata, and checks the geometry of the clone.
    pub(super) fn open(&mut self) -> Result<Metadata<Arc<SimDisk>>, Violation> {
        let opened = Metadata::open(self.disk.clone())
            .map_err(|error| Violation::new(Oracle::Committed, error.to_string()))?;
        let (found, wanted) = (opened.header().geometry, self.plan.geometry);
        require!(found == wanted, Committed, "{found:?} was opened, not {wanted:?}");
        Ok(opened)
    }

    /// Cuts the power: unflushed content may be lost.
    pub(super) fn cut_power(&mut self) -> Result<(), Violation> {
        self.counts.power_cuts += 1;
        self.check_crash()?;
        self.disk = Arc::new(self.disk.crash(&mut self.rng));
        self.destination.crash(&mut self.rng);
        let values = self.recover()?;
        for (cell, &tag) in values.iter().enumerate() {
            self.check_survives(cell, tag)?;
        }
        self.model.restart(values.into_iter());
        Ok(())
    }

    /// Kills the process. Its devices survive, and operations in flight may still reach them.
    pub(super) fn kill(&mut self, left: Left) -> Result<(), Violation> {
        self.counts.kills += 1;
        for (write, cells, content) in left.0 {
            if self.rng.random_bool(0.5) {
                self.destination.land(write, cells, content);
            }
        }
        self.destination.end_all();
        let values = self.recover()?;
        for (cell, &tag) in values.iter().enumerate() {
            self.check_survives(cell, tag)?;
        }
        self.model.interrupt(values.into_iter());
        Ok(())
    }

    /// Ends the process after the clone was suspended: every answered write must be there.
    pub(super) fn stop(&mut self) -> Result<(), Violation> {
        self.counts.stops += 1;
        let values = self.recover()?;
        for (cell, &tag) in values.iter().enumerate() {
            require!(
                self.model.may_hold(cell, tag),
                Durable,
                "closed at {}, cell {cell} of region {} holds {}: {}",
                self.model.now(),
                cell / self.plan.region,
                named(tag),
                self.model.explain(cell)
            );
        }
        self.model.interrupt(values.into_iter());
        Ok(())
    }

    /// Returns the content of the clone according to the metadata that is now on the device. Checks
    /// that the committed regions are hydrated, and no others that no commit has named.
    fn recover(&mut self) -> Result<Vec<Tag>, Violation> {
        let metadata = self.open()?;
        for region in 0..self.nr_regions() {
            let is_hydrated = metadata.is_hydrated(region as u64);
            let must = self.committed[region];
            require!(is_hydrated || !must, Committed, "region {region} is committed no more");
            let may = must || self.in_doubt[region];
            require!(may || !is_hydrated, Committed, "region {region} was never committed");
            self.committed[region] = is_hydrated;
        }
        self.in_doubt.fill(false);
        self.check_bounds()?;
        let value = |cell: usize| {
            let is_hydrated = self.committed[cell / self.plan.region];
            if is_hydrated { self.destination.live()[cell] } else { self.source.all()[cell] }
        };
        Ok((0..self.plan.clone).map(value).collect())
    }
}

impl Round<'_> {
    /// Returns the writes in flight to the destination.
    pub(super) fn left(&mut self) -> Left {
        let ops = std::mem::take(&mut self.ops);
        let mut left = Vec::new();
        for coming in self.drain_coming() {
            let Coming::Land { op, cells } = coming else { continue };
            let Some(op) = ops.get(&op).filter(|op| op.is_change()) else { continue };
            let content = self.content(op, &cells);
            left.push((op.write, cells, content));
        }
        Left(left)
    }
}
