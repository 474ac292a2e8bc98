//! Clients: their requests, the path that each request takes, and its effects on the model.

use std::fmt;

use clone_core::engine::{
    Device, Discards, Input, Io, Operation, Request, RequestError, RequestId,
};
use rand::RngExt;

use super::model::{Force, Moment, RecordId};
use super::plan::Wish;
use super::round::{Round, Suspension};
use super::saboteur::{self, Mutant};
use super::unit::{CELL, Cells, POISON, SECTOR, Tag, ZERO, bytes, overlap};
use super::violation::{Halt, Violation, require};
use super::watch::Wait;

/// Upper bound on requests without a flush; beyond it a client flushes. The model keeps every
/// version of a cell that a crash could bring back.
const CHANGES_MAX: u32 = 100;

/// Effect of a write on its cells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    pub(super) record: RecordId,
    pub(super) force: Force,
}

/// A slot for one request at a time.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) id: u64,
    pub(super) operation: Option<Operation>,
    pub(super) cells: Cells,
    pub(super) durable: bool,
    pub(super) submitted: Moment,
    pub(super) effects: Vec<Effect>,
    tag: Tag,
    /// The data that a read has got.
    pub(super) buffer: Vec<Tag>,
    /// Number of operations in flight that name the request.
    pub(super) names: u32,
    pub(super) is_past_end: bool,
    pub(super) wait: Wait,
    /// Number of hydrated regions at submission.
    pub(super) hydrated: u64,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, operation, cells, durable, submitted, names, wait, .. } = self;
        write!(f, "request {id}, {operation:?} of cells {cells:?}, submitted at {submitted}")?;
        write!(f, ", durable {durable}, named by {names}, {wait:?}")
    }
}

impl Slot {
    pub(super) fn is_busy(&self) -> bool {
        self.operation.is_some()
    }

    pub(super) fn is_read(&self) -> bool {
        self.operation == Some(Operation::Read)
    }

    /// Returns whether the request has a buffer.
    pub(super) fn has_data(&self) -> bool {
        matches!(self.operation, Some(Operation::Read | Operation::Write))
    }

    fn may_change(&self) -> bool {
        !matches!(
            self.operation,
            None | Some(Operation::Read | Operation::Flush | Operation::Commit)
        )
    }
}

impl Round<'_> {
    /// Returns the slot of a request in flight.
    pub(super) fn slot_of(&self, request: RequestId) -> Result<usize, Violation> {
        let slot = (request.0 & 0xff) as usize;
        let of = self.slots.get(slot);
        let is_known = of.is_some_and(|of| of.is_busy() && of.id == request.0);
        require!(is_known, Protocol, "{request:?} is not under way: {of:?}");
        Ok(slot)
    }

    /// Returns the content that the write in a slot stores.
    pub(super) fn stored_by(&self, slot: usize) -> (Tag, Option<RecordId>) {
        let of = &self.slots[slot];
        (of.tag, of.effects.first().map(|effect| effect.record))
    }

    fn wish(&mut self) -> Operation {
        let wishes = &self.world.plan.wishes;
        let all: u32 = wishes.iter().map(|(_, weight)| weight).sum();
        let mut at = self.world.rng.random_range(0..all);
        let wish = wishes.iter().find(|(_, weight)| {
            let is_it = at < *weight;
            at = at.saturating_sub(*weight);
            is_it
        });
        match wish.map_or(Wish::Read, |(wish, _)| *wish) {
            Wish::Read => Operation::Read,
            Wish::Write => Operation::Write,
            Wish::Zero => Operation::WriteZeroes { deallocate: self.world.rng.random_bool(0.5) },
            Wish::Discard => Operation::Discard,
            Wish::Hydrate => Operation::Hydrate,
            Wish::Flush => Operation::Flush,
            Wish::Commit => Operation::Commit,
        }
    }

    /// Draws a range of cells of the clone, of random size.
    pub(super) fn some_cells(&mut self) -> Cells {
        let (region, clone) = (self.world.plan.region, self.world.plan.clone);
        let nr_regions = self.world.nr_regions();
        let is_hot = self.world.rng.random_bool(self.world.plan.hot);
        let rng = &mut self.world.rng;
        let first = if is_hot {
            nr_regions / 3 + rng.random_range(0..3.min(nr_regions - nr_regions / 3))
        } else {
            rng.random_range(0..nr_regions)
        };
        let start = first * region;
        let whole = |regions: usize| start..clone.min(start + regions * region);
        let one = whole(1);
        match rng.random_range(0..20) {
            0..=4 => {
                let at = rng.random_range(one.clone());
                at..one.end.min(at + rng.random_range(1..=SECTOR))
            }
            5..=9 => {
                let at = rng.random_range(one.clone());
                at..rng.random_range(at + 1..=one.end)
            }
            10..=13 => one,
            14 | 15 => whole(rng.random_range(1..=5)),
            16..=18 => {
                let at = rng.random_range(one);
                let most = (4 * region).min(clone - at);
                at..at + rng.random_range(1..=most)
            }
            _ if rng.random_range(0..8) == 0 => 0..clone,
            _ => start..clone.min(start + 20 * region),
        }
    }

    /// Submits a random request.
    pub(super) fn submit(&mut self, slot: usize) -> Result<(), Halt> {
        if self.is_closing || self.requests_left == 0 {
            return Ok(());
        }
        self.requests_left -= 1;
        if self.world.is(Mutant::Starved) {
            self.begin_all_kept()?;
        }
        let operation = if self.changes < CHANGES_MAX { self.wish() } else { Operation::Flush };
        self.changes = if operation == Operation::Flush { 0 } else { self.changes + 1 };
        let mut cells = self.some_cells();
        if self.world.rng.random_bool(self.world.plan.empty) {
            cells.end = cells.start;
        }
        let is_past_end = self.world.rng.random_bool(self.world.plan.past_end)
            && !matches!(operation, Operation::Flush | Operation::Commit);
        let durable = self.world.rng.random_bool(self.world.plan.durable);
        self.nr_requests += 1;
        let generation = if self.world.plan.reuses_numbers { 0 } else { self.nr_requests };
        let id = generation << 8 | slot as u64;
        let effects = Vec::new();
        let is_held = self.suspension != Suspension::Running && operation != Operation::Commit;
        let buffer = std::mem::take(&mut self.slots[slot].buffer);
        let mut new = Slot {
            id,
            operation: Some(operation),
            durable,
            effects,
            buffer,
            is_past_end,
            wait: Wait::new(is_held),
            hydrated: if operation == Operation::Commit { self.count_hydrated() } else { 0 },
            ..Slot::default()
        };
        let range = if is_past_end {
            let past = self.world.rng.random_range(1..=self.world.plan.region);
            bytes(&(cells.start..self.world.plan.clone + past))
        } else {
            new.cells = cells.clone();
            bytes(&cells)
        };
        if is_past_end {
            new.submitted = self.world.model.advance();
            self.slots[slot] = new;
            let request = Request { id: RequestId(id), operation, range, durable };
            return self.tell(Input::Submit(request));
        }
        let pass = self.pass(slot, &new)?;
        self.begin_request(&mut new);
        self.slots[slot] = new;
        if let Some(io) = pass {
            self.world.counts.passes += 1;
            return self.start_lane_op(io, slot);
        }
        if self.is_stolen(slot)? {
            return Ok(());
        }
        let request = Request { id: RequestId(id), operation, range, durable };
        let (region, clone) = (self.world.plan.region, self.world.plan.clone);
        self.tell(Input::Submit(saboteur::submitted(self.world.mutant, request, region, clone)))
    }

    fn count_hydrated(&self) -> u64 {
        match self.engine.status() {
            clone_core::dm_target::Status::Running(counts) => counts.hydrated,
            _ => 0,
        }
    }

    /// Tries the fast path for a request.
    fn pass(&mut self, slot: usize, new: &Slot) -> Result<Option<Io>, Violation> {
        // The first lane is for inspection by the judges.
        let lanes = self.lanes.len() - 1;
        if lanes == 0 || !self.world.rng.random_bool(self.world.plan.lane_chance) {
            return Ok(None);
        }
        let request = RequestId(new.id);
        let (cells, io) = match new.operation {
            Some(Operation::Read) => {
                let range = bytes(&new.cells);
                (new.cells.clone(), Io::ReadDestination { request, range })
            }
            Some(Operation::Write) if !new.durable => {
                (new.cells.clone(), Io::Write { request, range: bytes(&new.cells) })
            }
            Some(Operation::Discard) if !new.durable && self.settings.options.discard_passdown => {
                let cells = self.world.cells_of(self.covered(&new.cells));
                (cells.clone(), Io::Discard { range: bytes(&cells) })
            }
            _ => return Ok(None),
        };
        if cells.is_empty() {
            return Ok(None);
        }
        let lane = &self.lanes[1 + self.world.rng.random_range(0..lanes)];
        let Some(pass) = lane.pass(&bytes(&cells)) else { return Ok(None) };
        let is_open = self.suspension != Suspension::AtRest && self.trouble.told_failed.is_none();
        require!(is_open, Hydrated, "a pass, but the clone is {:?}", self.suspension);
        for region in self.world.regions(&cells) {
            let is_gone = self.reverted[region].is_some();
            require!(!is_gone, Hydrated, "a pass for region {region}, which is not hydrated");
            self.hydrated[region] = true;
        }
        self.passes[slot] = Some(pass);
        Ok(Some(io))
    }

    /// Returns the regions that a discard covers.
    pub(super) fn covered(&self, cells: &Cells) -> std::ops::Range<usize> {
        let (region, clone) = (self.world.plan.region, self.world.plan.clone);
        let zero = self.settings.discards == Discards::Zero;
        let first = cells.start.div_ceil(region);
        let end =
            if zero && cells.end == clone { self.world.nr_regions() } else { cells.end / region };
        first..end.max(first)
    }

    /// Records the effects that a request may have from now on.
    fn begin_request(&mut self, new: &mut Slot) {
        let model = &mut self.world.model;
        match new.operation {
            Some(Operation::Read) => {
                new.submitted = model.begin_read();
                new.buffer.clear();
                new.buffer.resize(new.cells.len(), POISON);
            }
            Some(Operation::Write | Operation::WriteZeroes { .. }) => {
                let is_write = new.operation == Some(Operation::Write);
                new.tag = if is_write { self.world.new_tag() } else { ZERO };
                let cells = new.cells.clone();
                self.add_effect(new, Force::Full, cells, new.tag);
                new.submitted = self.world.model.now();
            }
            Some(Operation::Discard) => {
                new.submitted = model.advance();
                self.begin_discard(new);
            }
            _ => new.submitted = model.advance(),
        }
    }

    fn add_effect(&mut self, new: &mut Slot, force: Force, cells: Cells, tag: Tag) {
        // A write replaces nothing until it has ended, so it may be recorded before it starts.
        let record = self.world.model.begin(force);
        self.world.model.writes(record, cells, tag);
        new.effects.push(Effect { record, force });
    }

    fn begin_discard(&mut self, new: &mut Slot) {
        let covered = self.covered(&new.cells);
        let all = self.world.cells_of(covered.clone());
        let is_alone = self.is_untouched(&all);
        let mut parts: Vec<(Force, Cells)> = Vec::new();
        for region in covered {
            let cells = self.world.cells_of(region..region + 1);
            let is_hydrated = self.hydrated[region] || self.lanes[0].pass(&bytes(&cells)).is_some();
            let is_zeroing = self.settings.discards == Discards::Zero;
            let force = match is_hydrated {
                true if !self.settings.options.discard_passdown => continue,
                true => Force::Partial,
                false if !is_zeroing => Force::Anything,
                false if is_alone => Force::Full,
                false => Force::Partial,
            };
            self.world.counts.zeroed += u64::from(force == Force::Full);
            match parts.last_mut() {
                Some((last, run)) if *last == force && run.end == cells.start => {
                    run.end = cells.end;
                }
                _ => parts.push((force, cells)),
            }
        }
        for (force, cells) in parts {
            self.add_effect(new, force, cells, ZERO);
        }
    }

    fn is_hydrating(&self) -> bool {
        match self.engine.status() {
            clone_core::dm_target::Status::Running(counts) => counts.hydrating > 0,
            _ => false,
        }
    }

    /// Returns whether no operation touches these cells and the engine is free to act on a request
    /// at once.
    fn is_untouched(&self, cells: &Cells) -> bool {
        // Between two chunks of a region its copy need not have an operation in flight.
        let in_chunks = self.world.plan.region as u64 * CELL > self.settings.copy_bytes / 2;
        let is_copied = in_chunks && self.is_hydrating();
        let is_free = self.is_open() && !is_copied && !self.is_op_kept();
        let near = |of: &Cells| {
            let regions = self.world.regions(of);
            overlap(&self.world.cells_of(regions), cells)
        };
        is_free
            && !self.ops.values().any(|op| near(&op.about.cells))
            && !self.copies.values().any(|copy| near(&copy.cells))
            && !self.slots.iter().any(|slot| slot.may_change() && near(&slot.cells))
    }

    /// Returns whether a mutant handles the request instead of the engine.
    fn is_stolen(&mut self, slot: usize) -> Result<bool, Halt> {
        let of = &self.slots[slot];
        let request = RequestId(of.id);
        match of.operation {
            Some(Operation::Flush) if self.world.is(Mutant::EarlyAnswer) => {
                self.answer(request, Ok(()))?;
                Ok(true)
            }
            Some(Operation::Write) if self.world.is(Mutant::OvertakenCopy) && !of.durable => {
                let cells = of.cells.clone();
                let is_copied = self.copies.values().any(|copy| overlap(&copy.cells, &cells));
                if is_copied {
                    let range = bytes(&cells);
                    self.start_lane_op(Io::Write { request, range }, slot)?;
                }
                Ok(is_copied)
            }
            _ => Ok(false),
        }
    }

    /// Ends a request that a client has done itself on the fast path.
    pub(super) fn end_lane(&mut self, slot: usize, is_ok: bool) -> Result<(), Halt> {
        self.passes[slot] = None;
        let error = Err(RequestError::Device(Device::Destination));
        self.answer(RequestId(self.slots[slot].id), if is_ok { Ok(()) } else { error })
    }
}
