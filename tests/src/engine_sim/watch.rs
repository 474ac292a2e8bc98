//! Judges of time. None of them compares a clock with a bound that was found by experiment: a
//! request may wait for operations only, and their durations are set by the world.
//!
//! - `Waiting`: a request waits for operations and for nothing else. At any moment at least one is
//!   in flight that it may wait for; it never waits for the clock, as a request limited by a rate
//!   or a retry policy would.
//! - `Turns`: no request is overtaken for ever. A turn ends when all operations have ended that the
//!   request might have waited for at its beginning, so that it lasts at most as long as one
//!   operation. A read takes two turns: the fetch for it, and a read of the source if that failed.
//!   A flush takes four: flush and commit of the round in flight, and those of its own round.
//!   Others take as many as there are claims and buffers that they may have to wait for: see
//!   [`Round::turns_max`]. A request is therefore answered within its number of turns, times the
//!   longest operation.
//! - `Urgency`: a fetch for a region that a user waits for is marked urgent, even if hydration
//!   began the copy. Hydrate requests have a place in a queue, and so only the copy that the first
//!   of them waits for is judged, once it has begun.
//! - `Completion`: once every region is hydrated, there is at most one more flush of the
//!   destination before the clone is complete: the flush of the round that commits the last
//!   regions. Until then a flush or a commit is in flight.
//! - `Background`: while hydration is enabled and has something to copy and room for it, it has no
//!   copy in flight for at most one pause, whatever users do. The wait for its rate comes on top:
//!   the cost of one chunk at that rate.
//! - `Rest`: a clone that is being suspended starts no more fetches without a waiting user, not
//!   even for the rest of a region. Until it is suspended, an operation is in flight.

use std::collections::BTreeSet;

use clone_core::dm_target::Status;
use clone_core::engine::{Io, Operation};

use super::operation::{LANE, Op};
use super::request::Slot;
use super::round::{Round, Suspension};
use super::unit::{CELL, Cells, bytes, overlap};
use super::violation::{Oracle, Violation, require};

/// The longest pause between two background copies while users are active, including the poll for
/// their activity. In nanoseconds.
const REST: u64 = 105_000_000;

/// The interval at which a clone that is being suspended polls the fast path for passes. In
/// nanoseconds.
const GLANCE: u64 = 1_000_000;

/// Minimum size of a buffer, in bytes.
const CHUNK_MIN: u64 = 64 << 10;

/// The wait of a request.
#[derive(Debug, Default)]
pub(super) struct Wait {
    /// True if the request came while the clone did not run.
    pub(super) is_held: bool,
    /// The oldest operation in flight that it may wait for.
    reason: Option<u64>,
    /// The key of the last operation of this turn.
    turn_until: u64,
    turns: u32,
}

/// Records of the past that the judges need.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Number of flushes of the destination that were started, now and at the last event.
    flushes: u32,
    flushes_before: u32,
    /// The value of `flushes` when the last region was hydrated.
    complete_since: Option<u32>,
    /// Number of operations in flight for copies that hydration began.
    background: u32,
    /// Regions that hydration has fetched at least in part.
    begun: BTreeSet<usize>,
    /// The time since which hydration could copy something and has no operation in flight.
    idle_since: Option<u64>,
    /// True if hydration is limited and has not reported that the limit is reached.
    pub(super) is_limited: bool,
    /// The time since which nothing prevents the suspend.
    rest_since: Option<u64>,
}

impl Watch {
    /// Forgets the begun regions: copies may have been dropped, and may begin anew.
    pub(super) fn forget_begun(&mut self) {
        self.begun.clear();
    }
}

impl Wait {
    /// A request that comes now.
    pub(super) fn new(is_held: bool) -> Self {
        Self { is_held, ..Self::default() }
    }
}

impl Round<'_> {
    /// Starts an operation. Returns whether it belongs to a copy that hydration began.
    pub(super) fn watch_start(&mut self, op: &Op) -> Result<bool, Violation> {
        if op.is_lane {
            return Ok(false);
        }
        let regions = self.world.regions(&op.about.cells);
        let is_background = match &op.io {
            Io::Flush => {
                self.watch.flushes += 1;
                false
            }
            Io::Fetch { urgent: false, .. } => {
                let goes_on = self.watch.begun.contains(&regions.start);
                self.judge_urgency(op, goes_on)?;
                let is_asked = matches!(self.suspension, Suspension::Asked { .. });
                let is_new = is_asked && self.world.judges(Oracle::Rest);
                require!(!is_new, Rest, "{:?} starts before the clone is at rest", op.io);
                self.watch.begun.extend(regions);
                true
            }
            Io::Zero { urgent: false, .. } => {
                self.judge_urgency(op, true)?;
                true
            }
            // A copy of hydration remains one when a user waits for it.
            Io::Fetch { .. } => self.watch.begun.contains(&regions.start),
            Io::Store { copy, .. } => {
                self.copies.get(&copy.0).is_some_and(|buffer| buffer.is_background)
            }
            _ => false,
        };
        if let Io::Fetch { copy, .. } = &op.io
            && let Some(buffer) = self.copies.get_mut(&copy.0)
        {
            buffer.is_background = is_background;
        }
        self.watch.background += u32::from(is_background);
        Ok(is_background)
    }

    /// Ends an operation.
    pub(super) fn watch_end(&mut self, key: u64, op: &Op) {
        self.watch.background -= u32::from(op.is_background);
        self.kept.barriers += u32::from(is_barrier(&op.io));
        for slot in &mut self.slots {
            slot.wait.reason.take_if(|reason| *reason == key);
        }
    }

    /// Checks that no user waits for a fetch that is not urgent. `goes_on` is true if the fetch
    /// continues a copy, and false if it begins one.
    fn judge_urgency(&self, op: &Op, goes_on: bool) -> Result<(), Violation> {
        let trouble = &self.trouble;
        let mut regions = self.world.regions(&op.about.cells);
        // A request that has already failed there may still wait for operations elsewhere.
        let is_spoilt = trouble.destination
            || trouble.is_failing
            || regions.any(|region| trouble.bad_regions.contains(&region));
        if is_spoilt || !self.world.judges(Oracle::Urgency) {
            return Ok(());
        }
        let cells = &op.about.cells;
        let here = (self.slots.iter().zip(&self.passes))
            .filter(|(of, pass)| of.is_busy() && !of.wait.is_held && pass.is_none())
            .map(|(of, _)| of);
        let is_hydrate = |of: &&Slot| of.operation == Some(Operation::Hydrate);
        // Hydrate requests are served in order, each from its beginning, as far as there is room.
        // They wait for a copy once it has begun.
        let first = here.clone().filter(|of| goes_on && is_hydrate(of));
        let first = first.min_by_key(|of| of.submitted);
        let first = first.filter(|of| overlap(&self.first_of(of), cells));
        let waits = |of: &&Slot| !is_hydrate(of) && overlap(&self.claimed_for(of), cells);
        let waiting = first.or_else(|| here.clone().find(waits));
        require!(waiting.is_none(), Urgency, "{:?} is not urgent, but for {waiting:?}", op.io);
        Ok(())
    }

    /// Returns the cells of the first region that a hydrate request waits for.
    fn first_of(&self, of: &Slot) -> Cells {
        let mut regions = self.world.regions(&of.cells).map(|at| self.world.cells_of(at..at + 1));
        regions.find(|cells| !self.lanes[0].is_hydrated(&bytes(cells))).unwrap_or(0..0)
    }

    /// Returns the cells that must be hydrated, or become so, before a request is answered.
    fn claimed_for(&self, of: &Slot) -> Cells {
        match of.operation {
            Some(Operation::Write | Operation::WriteZeroes { .. } | Operation::Hydrate)
                if !of.cells.is_empty() =>
            {
                let regions = self.world.regions(&of.cells);
                self.world.cells_of(regions)
            }
            Some(Operation::Discard) if !self.covered(&of.cells).is_empty() => {
                self.world.cells_of(self.covered(&of.cells))
            }
            // An empty range overlaps with nothing.
            _ => 0..0,
        }
    }

    /// Runs before an event: checks how long hydration or a suspend has made no progress.
    pub(super) fn judge_gaps(&mut self) -> Result<(), Violation> {
        self.watch.flushes_before = self.watch.flushes;
        let (now, late) = (self.world.now, self.world.plan.late);
        if let Some(since) = self.watch.idle_since.filter(|_| self.world.judges(Oracle::Background))
        {
            let rate = self.engine.settings().hydration_rate;
            let chunk = u128::from(self.chunk()) * 1_000_000_000;
            let cost = rate.map_or(0, |rate| (chunk / u128::from(rate.max(1))) as u64);
            let (most, passed) = (REST + late + cost, now - since);
            require!(
                passed <= most,
                Background,
                "hydration has had nothing under way for {passed} ns, of {most} at most: {:?}",
                self.engine.status()
            );
        }
        if let Some(since) = self.watch.rest_since.filter(|_| self.world.judges(Oracle::Rest)) {
            let (most, passed) = (GLANCE + late, now - since);
            require!(passed <= most, Rest, "nothing under way for {passed} ns, and no rest");
        }
        Ok(())
    }

    /// Runs after an event.
    pub(super) fn judge_time(&mut self) -> Result<(), Violation> {
        self.judge_waits()?;
        self.judge_completion()?;
        let is_idle = self.watch.background == 0 && self.could_hydrate();
        keep_since(&mut self.watch.idle_since, is_idle, self.world.now);
        let is_asked = matches!(self.suspension, Suspension::Asked { .. });
        let is_still = is_asked && self.engine.fast_path().passes() == 0 && !self.is_at_work();
        keep_since(&mut self.watch.rest_since, is_still, self.world.now);
        Ok(())
    }

    /// Returns whether an operation of the engine is in flight.
    fn is_at_work(&self) -> bool {
        self.ops.range(..LANE).any(|(_, op)| !op.has_ended)
    }

    /// Returns whether a flush, commit or abort is in flight.
    pub(super) fn is_barrier_under_way(&self) -> bool {
        self.ops.values().any(|op| is_barrier(&op.io) && !op.has_ended)
    }

    /// Returns the maximum number of bytes in a buffer.
    fn chunk(&self) -> u64 {
        1 << self.settings.copy_bytes.max(CHUNK_MIN).ilog2()
    }

    /// Returns whether so little buffer space is left that a chunk may have to wait for it. There
    /// are two shares of the same size, and one of them may be full.
    fn is_room_short(&self) -> bool {
        let used: usize = self.copies.values().map(|copy| copy.cells.len()).sum();
        let share = self.chunk() * u64::from(self.settings.copies.max(1));
        used as u64 * CELL + self.chunk() > share
    }

    /// Returns whether hydration has something to copy and only users can delay it.
    fn could_hydrate(&self) -> bool {
        let options = &self.engine.settings().options;
        if !options.hydration
            || options.hydration_threshold == 0
            || self.suspension != Suspension::Running
            || self.trouble.is_failing
            || self.watch.is_limited
        {
            return false;
        }
        let Status::Running(counts) = self.engine.status() else { return false };
        let taken = counts.hydrated + counts.hydrating;
        if taken >= counts.regions || self.is_room_short() {
            return false;
        }
        let failed =
            self.engine.failed_regions().map(|place| place.regions.end - place.regions.start);
        taken + failed.sum::<u64>() < counts.regions
    }

    fn judge_completion(&mut self) -> Result<(), Violation> {
        if self.told_finished || self.trouble.is_failing || !self.world.judges(Oracle::Completion) {
            return Ok(());
        }
        let Status::Running(counts) = self.engine.status() else { return Ok(()) };
        if counts.hydrated < counts.regions {
            return Ok(());
        }
        let before = self.watch.flushes_before;
        let since = *self.watch.complete_since.get_or_insert(before);
        let flushes = self.watch.flushes - since;
        require!(flushes <= 1, Completion, "{flushes} flushes, and the clone is not complete");
        let is_awaited = self.is_barrier_under_way();
        require!(is_awaited, Completion, "all is hydrated, nothing under way, and not complete");
        Ok(())
    }

    /// Checks that every request waits for an operation, and that no request is overtaken for ever.
    fn judge_waits(&mut self) -> Result<(), Violation> {
        for slot in 0..self.slots.len() {
            let of = &self.slots[slot];
            let is_asleep =
                of.operation == Some(Operation::Hydrate) && self.suspension != Suspension::Running;
            if of.wait.reason.is_some()
                || !of.is_busy()
                || of.wait.is_held
                || self.passes[slot].is_some()
                || is_asleep
            {
                continue;
            }
            let reason = self.reason(slot);
            if reason.is_none() {
                let waits = self.world.judges(Oracle::Waiting);
                require!(!waits, Waiting, "nothing is under way for {of:?}: {:?}", self.ops);
                continue;
            }
            let Some((key, is_lasting)) = reason else { continue };
            let last = self.last_op.unwrap_or(0);
            let wait = &mut self.slots[slot].wait;
            wait.reason = is_lasting.then_some(key);
            if wait.turns == 0 || key > wait.turn_until {
                wait.turns += 1;
                wait.turn_until = last;
                self.judge_turns(slot)?;
            }
        }
        Ok(())
    }

    fn judge_turns(&mut self, slot: usize) -> Result<(), Violation> {
        let of = &self.slots[slot];
        let (turns, most) = (of.wait.turns, self.turns_max(of));
        let is_fair = turns <= most || !self.world.judges(Oracle::Turns);
        require!(is_fair, Turns, "{turns} turns, of {most} at most: {of:?}");
        Ok(())
    }

    /// Returns the oldest operation that a request may wait for, and whether that reason holds
    /// until the operation ends.
    fn reason(&self, slot: usize) -> Option<(u64, bool)> {
        let of = &self.slots[slot];
        let claimed = self.claimed_for(of);
        let is_room_short = self.is_room_short();
        let reason = |op: &Op| {
            if op.has_ended {
                return None;
            }
            if op.about.slots.contains(&slot) {
                return Some(true);
            }
            let is_copy = matches!(op.io, Io::Fetch { .. } | Io::Store { .. } | Io::Zero { .. });
            let is_barrier = is_barrier(&op.io);
            let is_reason = match of.operation? {
                Operation::Read => {
                    matches!(op.io, Io::Fetch { .. }) && overlap(&op.about.cells, &of.cells)
                }
                Operation::Flush | Operation::Commit => is_barrier,
                _ if is_barrier => of.durable && of.operation != Some(Operation::Hydrate),
                _ if (is_copy || op.is_change()) && overlap(&op.about.cells, &claimed) => true,
                // A hydrate request comes after earlier ones, as far as there is room.
                Operation::Hydrate => is_copy,
                _ => return (is_copy && is_room_short).then_some(false),
            };
            is_reason.then_some(true)
        };
        self.ops.range(..LANE).find_map(|(&key, op)| Some((key, reason(op)?)))
    }

    /// Returns the maximum number of turns of a request.
    ///
    /// The chunks of a region are fetched and stored one after the other: two turns each. Before
    /// the region there may be as many other copies as can wait for room: two for each request that
    /// changes parts of regions, and those that hydration has begun, but no more than there are
    /// regions. Such a claim may have to end before the request has one of its own; and each time
    /// that a copy fails, the requests that waited for it retry one after the other.
    fn turns_max(&self, of: &Slot) -> u32 {
        const ROUND: u32 = 2;
        let (nr_regions, slots) = (self.world.nr_regions() as u32, self.slots.len() as u32);
        let region = self.world.plan.region as u64 * CELL;
        let chunks = 2 * region.div_ceil(self.chunk()) as u32;
        let failed = self.trouble.failed_copies;
        let barrier = if of.durable { 2 * ROUND } else { 0 };
        match of.operation {
            None => 0,
            Some(Operation::Read) => 2,
            Some(Operation::Flush | Operation::Commit) => 2 * ROUND,
            Some(Operation::Hydrate) => chunks * (nr_regions + 1 + failed),
            Some(_) => {
                let ahead = nr_regions.min(2 * slots + self.settings.copies);
                chunks * (ahead + 1) * (2 + failed.min(slots)) + barrier
            }
        }
    }
}

/// Returns whether an operation makes something durable, or reverts it.
fn is_barrier(io: &Io) -> bool {
    matches!(io, Io::Flush | Io::Commit { .. } | Io::Abort)
}

/// Sets `since` to the time since which a condition holds.
fn keep_since(since: &mut Option<u64>, is_so: bool, now: u64) {
    if is_so {
        since.get_or_insert(now);
    } else {
        *since = None;
    }
}
