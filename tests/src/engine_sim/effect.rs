//! Effects and ends of operations on the devices.

use clone_core::engine::{Device, Done, Failure, Input, Io, OpId};
use persistent_data::sim::{Fault, Which};
use rand::RngExt;

use super::destination::Content;
use super::operation::{Op, failure};
use super::plan::Ending;
use super::round::Round;
use super::saboteur::{self, Mutant, Sight};
use super::unit::{CELL, Cells, POISON, SECTOR, ZERO, named, overlap};
use super::violation::{Halt, Violation, require};

impl Round<'_> {
    /// Applies a part of an operation.
    pub(super) fn land(&mut self, key: u64, cells: Cells) -> Result<(), Halt> {
        let Some(mut op) = self.ops.remove(&key) else { return Ok(()) };
        op.landings -= 1;
        match &op.io {
            Io::ReadDestination { .. } => self.read_destination(&op, cells),
            Io::Commit { .. } => op.done = Some(self.commit(&op)?),
            Io::Abort => op.done = Some(self.abort()),
            _ => {
                let content = self.content(&op, &cells);
                self.judge_landing(&op, &cells, &content)?;
                self.world.destination.land(op.write, cells, content);
            }
        }
        if !op.has_ended || op.landings > 0 {
            self.ops.insert(key, op);
        }
        Ok(())
    }

    fn read_destination(&mut self, op: &Op, cells: Cells) {
        let Some(&slot) = op.about.slots.first() else { return };
        let slot = &mut self.slots[slot];
        let into = cells.start - slot.cells.start..cells.end - slot.cells.start;
        slot.buffer[into].copy_from_slice(&self.world.destination.live()[cells]);
    }

    /// Returns the content that an operation puts into some cells.
    pub(super) fn content(&mut self, op: &Op, cells: &Cells) -> Content {
        match &op.io {
            Io::Store { .. } => {
                let mut content = self.world.source.all()[cells.clone()].to_vec();
                for (over, tag) in op.about.overlays.iter().filter(|(over, _)| overlap(over, cells))
                {
                    let common = over.start.max(cells.start)..over.end.min(cells.end);
                    content[common.start - cells.start..common.end - cells.start].fill(*tag);
                }
                Content::Each(content)
            }
            Io::Discard { .. } => {
                let mut content = self.world.destination.live()[cells.clone()].to_vec();
                let way = self.world.rng.random_range(0..3);
                for at in cells.clone().step_by(SECTOR) {
                    let end = (at + SECTOR).min(cells.end);
                    if way == 0 || way == 1 && self.world.rng.random_bool(0.5) {
                        content[at - cells.start..end - cells.start].fill(ZERO);
                    }
                }
                Content::Each(content)
            }
            _ => Content::Same(op.about.tag),
        }
    }

    /// Checks that nothing lands that is older than what was already answered.
    fn judge_landing(&self, op: &Op, cells: &Cells, content: &Content) -> Result<(), Violation> {
        if self.world.sight == Sight::Users
            || op.about.record.is_some_and(|record| !self.world.model.has_ended(record))
        {
            return Ok(());
        }
        for cell in cells.start..cells.end.min(self.world.plan.clone) {
            let tag = match content {
                Content::Same(tag) => *tag,
                Content::Each(tags) => tags[cell - cells.start],
            };
            // A discard may leave the content in place.
            let is_kept = matches!(op.io, Io::Discard { .. }) && tag != ZERO;
            require!(
                is_kept || self.world.model.may_hold(cell, tag),
                Landing,
                "{:?} puts {} into cell {cell} at {}: {}",
                op.io,
                named(tag),
                self.world.model.now(),
                self.world.model.explain(cell)
            );
        }
        Ok(())
    }

    fn commit(&mut self, op: &Op) -> Result<Result<Done, Failure>, Halt> {
        let Io::Commit { regions } = &op.io else { return Ok(Ok(Done::Plain)) };
        let Some(metadata) = &mut self.metadata else { return Ok(Ok(Done::Plain)) };
        if self.world.is(Mutant::NoCommit) {
            return Ok(Ok(Done::Blocks { used: metadata.block_use().0 }));
        }
        for run in regions.runs() {
            let set = metadata.set_hydrated(run);
            require!(set.is_ok(), Bounds, "{set:?}");
        }
        let disk = self.world.disk.clone();
        match self.plan.ending {
            Ending::PowerCutInCommit(nth) if nth == self.commits_begun => {
                let at = self.world.rng.random_range(0..12);
                disk.inject(Fault::die_at(Which::Any, at));
            }
            _ if self.world.one_in(self.plan.faults.commits) => {
                let at = self.world.rng.random_range(0..8);
                disk.inject(Fault::fail_once(Which::Any, at));
            }
            _ => {}
        }
        self.commits_begun += 1;
        let result = metadata.commit();
        disk.clear_faults();
        let used = metadata.block_use().0;
        match result {
            _ if disk.is_dead() => {
                self.world.counts.power_cuts_in_commits += 1;
                Err(Halt::Crash)
            }
            Ok(()) => {
                for run in regions.runs() {
                    let run = run.start as usize..run.end as usize;
                    self.world.in_doubt[run.clone()].fill(false);
                    self.world.committed[run].fill(true);
                }
                self.world.counts.commits += 1;
                let is_small = self.world.plan.clone < 2000;
                if is_small || self.world.one_in(16) {
                    self.world.check_crash()?;
                }
                Ok(Ok(Done::Blocks { used }))
            }
            Err(_) => {
                self.trouble.commit_failed = true;
                Ok(saboteur::failed_commit(self.world.mutant, used))
            }
        }
    }

    fn abort(&mut self) -> Result<Done, Failure> {
        let Some(metadata) = &mut self.metadata else { return Ok(Done::Plain) };
        if self.world.one_in(self.plan.faults.aborts) {
            // `abort` may need no disk access because everything that it reads is in memory, so the
            // failure cannot be injected there.
            self.trouble.abort_failed = true;
            return Err(failure(Device::Metadata));
        }
        let result = metadata.abort();
        self.world.disk.clear_faults();
        self.trouble.abort_failed |= result.is_err();
        result.map(|()| Done::Plain).map_err(|_| failure(Device::Metadata))
    }

    /// Ends an operation.
    pub(super) fn end(&mut self, key: u64) -> Result<(), Halt> {
        let Some(mut op) = self.ops.remove(&key) else { return Ok(()) };
        op.has_ended = true;
        let mut result = op.failure.take().map_or(Ok(Done::Plain), Err);
        for &slot in &op.about.slots {
            self.slots[slot].names -= 1;
        }
        match &op.io {
            Io::ReadSource { .. } | Io::ReadDestination { .. } => {
                self.end_read(&op, result.is_err());
            }
            Io::Fetch { copy, .. } | Io::Store { copy, .. } => {
                if let Some(buffer) = self.copies.get_mut(&copy.0) {
                    buffer.users -= 1;
                    buffer.is_filled |= result.is_ok();
                }
                let zeroes = self.world.source.zeroes_from(&op.about.cells);
                if let (Io::Fetch { .. }, Ok(done), Some(until)) = (&op.io, &mut result, zeroes) {
                    *done = Done::Zeroes { until: until as u64 * CELL };
                    self.world.counts.holes += 1;
                }
            }
            Io::Flush => self.end_flush(&op, &mut result),
            Io::Commit { .. } | Io::Abort => {
                result = op.done.take().unwrap_or(Ok(Done::Plain));
            }
            Io::Write { .. } | Io::Zero { .. } | Io::Discard { .. } => {}
        }
        self.watch_end(key, &op);
        if op.is_change() {
            self.world.destination.end(op.write);
        }
        if op.is_lane {
            let slot = op.about.slots.first().copied();
            return slot.map_or(Ok(()), |slot| self.end_lane(slot, result.is_ok()));
        }
        self.note_end(&op, &result);
        if op.landings > 0 {
            self.ops.insert(key, op);
        }
        self.tell(Input::Done { op: OpId(key), result })
    }

    /// Makes the source work again, also for operations in flight.
    pub(super) fn heal_source(&mut self) {
        self.world.source.heal();
        for op in self.ops.values_mut() {
            op.failure.take_if(|failure| failure.device == Device::Source);
        }
    }

    fn end_read(&mut self, op: &Op, has_failed: bool) {
        let Some(&slot) = op.about.slots.first() else { return };
        let slot = &mut self.slots[slot];
        let into = op.about.cells.start - slot.cells.start..op.about.cells.end - slot.cells.start;
        if has_failed {
            slot.buffer[into].fill(POISON);
        } else if matches!(op.io, Io::ReadSource { .. }) {
            slot.buffer[into].copy_from_slice(&self.world.source.all()[op.about.cells.clone()]);
        }
    }

    fn end_flush(&mut self, op: &Op, result: &mut Result<Done, Failure>) {
        match result {
            Ok(_) if self.world.is(Mutant::NoFlush) => {}
            Ok(_) => self.world.destination.flush(op.flush),
            Err(_) => {
                self.world.destination.fail_flush(&mut self.world.rng);
                if self.world.is(Mutant::ForgottenFlushFailure) {
                    *result = Ok(Done::Plain);
                }
            }
        }
    }

    /// Records the result that the engine is about to receive.
    fn note_end(&mut self, op: &Op, result: &Result<Done, Failure>) {
        // The engine stores zeroes for a hole in the source.
        let copies = matches!(op.io, Io::Fetch { .. } | Io::Store { .. } | Io::Zero { .. });
        self.trouble.failed_copies += u32::from(copies && result.is_err());
        let vouches = matches!(op.io, Io::Flush | Io::Commit { .. });
        if result.is_err() && (op.is_change() || vouches) {
            self.note_failure(vouches);
        }
        if let (Io::Abort, Ok(_)) = (&op.io, result) {
            let now = self.world.model.advance();
            for region in 0..self.world.nr_regions() {
                if !self.world.committed[region] {
                    self.reverted[region] = Some(now);
                    self.world.counts.reverted += u64::from(self.hydrated[region]);
                    self.hydrated[region] = false;
                }
            }
        }
    }
}
