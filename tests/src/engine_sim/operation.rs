//! Operations on the devices, as they start: checks that the engine may start them, their latency,
//! and their outcome.

use clone_core::engine::{ByteRange, Device, Done, Failure, Io, Overlay, OverlayBytes, RequestId};
use rand::RngExt;

use super::destination::{FlushStart, WriteNr};
use super::model::RecordId;
use super::round::{Coming, Round, Suspension};
use super::saboteur::{self, Mutant};
use super::unit::{Cells, Tag, ZERO, cells};
use super::violation::{Halt, Violation, require};

/// Bit in the key of an operation that a client does itself on the fast path.
pub(super) const LANE: u64 = 1 << 63;

/// The cells and requests that an operation refers to.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) cells: Cells,
    /// Slots of the requests that it names.
    pub(super) slots: Vec<usize>,
    /// The content that a write stores.
    pub(super) tag: Tag,
    pub(super) record: Option<RecordId>,
    /// Writes that are laid over a copy.
    pub(super) overlays: Vec<(Cells, Tag)>,
}

/// An operation in flight.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) io: Io,
    pub(super) about: About,
    pub(super) write: WriteNr,
    pub(super) flush: FlushStart,
    /// The failure that it will end with.
    pub(super) failure: Option<Failure>,
    /// Number of parts that have not landed.
    pub(super) landings: u32,
    pub(super) has_ended: bool,
    pub(super) is_lane: bool,
    /// True if the operation belongs to a copy that hydration began.
    pub(super) is_background: bool,
    /// Its result on the metadata device.
    pub(super) done: Option<Result<Done, Failure>>,
}

impl Op {
    /// Returns whether the operation changes the destination.
    pub(super) fn is_change(&self) -> bool {
        is_change(&self.io)
    }
}

fn is_change(io: &Io) -> bool {
    matches!(io, Io::Write { .. } | Io::Zero { .. } | Io::Discard { .. } | Io::Store { .. })
}

/// A buffer that data of the source is read into.
#[derive(Debug)]
pub(super) struct CopyBuffer {
    pub(super) cells: Cells,
    /// True if the fetch has succeeded.
    pub(super) is_filled: bool,
    /// True if hydration began the copy.
    pub(super) is_background: bool,
    /// Number of operations in flight that name the buffer.
    pub(super) users: u32,
}

pub(super) fn failure(device: Device) -> Failure {
    Failure { device, reason: "a simulated fault".to_owned(), is_full: false }
}

/// Returns the device that an operation accesses.
pub(super) fn device_of(io: &Io) -> Device {
    match io {
        Io::ReadSource { .. } | Io::Fetch { .. } => Device::Source,
        Io::Commit { .. } | Io::Abort => Device::Metadata,
        _ => Device::Destination,
    }
}

impl Round<'_> {
    /// Starts an operation of the engine.
    pub(super) fn start_op(&mut self, op: u64, io: Io) -> Result<(), Halt> {
        let is_new = self.last_op.is_none_or(|last| last < op) && op & LANE == 0;
        require!(is_new || !self.ops.contains_key(&op), Protocol, "{op} is under way: {io:?}");
        self.last_op = self.last_op.max(Some(op));
        let rests = self.suspension == Suspension::AtRest;
        require!(!rests, Protocol, "{io:?} starts while the clone is suspended");
        self.begin(op, io, None)
    }

    /// Starts an operation that a client does itself on the destination, on the fast path.
    pub(super) fn start_lane_op(&mut self, io: Io, slot: usize) -> Result<(), Halt> {
        self.lane_ops += 1;
        self.begin(LANE | self.lane_ops, io, Some(slot))
    }

    fn begin(&mut self, key: u64, io: Io, lane: Option<usize>) -> Result<(), Halt> {
        let mut op = self.op(saboteur::started(self.world.mutant, io), lane)?;
        let (latency, device) = (self.latency(&op), device_of(&op.io));
        op.failure = self.fails(&op, device);
        self.note_hydrated(&op)?;
        op.is_background = self.watch_start(&op)?;
        let early = self.world.is(Mutant::EarlyEnd) && lane.is_none();
        let delay =
            if early && matches!(op.io, Io::Write { .. } | Io::Store { .. } | Io::Zero { .. }) {
                latency + 1
            } else {
                0
            };
        let landings = self.landings(&op);
        op.landings = landings.len() as u32;
        for cells in landings {
            let after = match self.world.rng.random_range(0..4) {
                0 => 0,
                1 => latency,
                _ => self.world.rng.random_range(0..=latency),
            };
            self.schedule(delay + after, Coming::Land { op: key, cells });
        }
        self.schedule(latency, Coming::End { op: key });
        self.ops.insert(key, op);
        Ok(())
    }

    /// Builds an operation that has not started yet, and checks that it is allowed.
    fn op(&mut self, io: Io, lane: Option<usize>) -> Result<Op, Halt> {
        let mut about = self.about(&io, lane)?;
        if self.world.is(Mutant::LostOverlay) {
            about.overlays.clear();
        }
        let region = self.world.plan.region;
        about.cells = saboteur::touched(self.world.mutant, &io, about.cells, region);
        for &slot in &about.slots {
            self.slots[slot].names += 1;
        }
        let (write, flush) = match &io {
            Io::Flush => (0, self.world.destination.begin_flush()),
            io if is_change(io) => (self.world.destination.begin(), 0),
            _ => (0, 0),
        };
        let is_lane = lane.is_some();
        Ok(Op {
            io,
            about,
            write,
            flush,
            failure: None,
            landings: 0,
            has_ended: false,
            is_lane,
            is_background: false,
            done: None,
        })
    }

    /// Returns the cells and requests that an operation names, and checks that it may name them.
    fn about(&mut self, io: &Io, lane: Option<usize>) -> Result<About, Violation> {
        let mut about = About::default();
        match io {
            Io::ReadSource { request, range } | Io::ReadDestination { request, range } => {
                about.cells = self.inside(range, io)?;
                let named = || self.named(*request, true, &about.cells, io);
                about.slots.push(lane.map_or_else(named, Ok)?);
            }
            Io::Write { request, range } => {
                about.cells = self.inside(range, io)?;
                let named = || self.named(*request, false, &about.cells, io);
                let slot = lane.map_or_else(named, Ok)?;
                about.slots.push(slot);
                (about.tag, about.record) = self.stored_by(slot);
            }
            Io::Zero { range, .. } => about.cells = self.inside(range, io)?,
            Io::Discard { range } => {
                let passes = self.settings.options.discard_passdown;
                require!(passes, Protocol, "{io:?}, but discards are not passed down");
                about.cells = self.inside(range, io)?;
                about.slots.extend(lane);
            }
            Io::Fetch { copy, range, .. } => {
                about.cells = self.inside(range, io)?;
                let cells = about.cells.clone();
                let buffer = CopyBuffer { cells, is_filled: false, is_background: false, users: 1 };
                let before = self.copies.insert(copy.0, buffer);
                require!(before.is_none(), Protocol, "{io:?}, but that buffer is in use");
            }
            Io::Store { copy, range, overlays, .. } => {
                about.cells = self.inside(range, io)?;
                let buffer = self.copies.get_mut(&copy.0);
                let is_all = (buffer.as_ref())
                    .is_some_and(|buffer| buffer.is_filled && buffer.cells == about.cells);
                require!(is_all, Protocol, "{io:?}, but the buffer is {buffer:?}");
                if let Some(buffer) = buffer {
                    buffer.users += 1;
                }
                self.lay_over(&mut about, overlays, io)?;
                self.world.counts.stores += 1;
                self.world.counts.overlays += u64::from(!overlays.is_empty());
            }
            Io::Flush => {
                let since = self.trouble.since;
                require!(
                    since.is_none(),
                    Mode,
                    "a flush, but one or a commit had failed: {since:?}"
                );
            }
            Io::Commit { regions } => {
                self.may_commit(io)?;
                for run in regions.runs() {
                    self.world.check_vouched(run.clone())?;
                    self.world.in_doubt[run.start as usize..run.end as usize].fill(true);
                }
            }
            Io::Abort => self.may_commit(io)?,
        }
        Ok(about)
    }

    fn lay_over(&self, about: &mut About, over: &[Overlay], io: &Io) -> Result<(), Violation> {
        for overlay in over {
            let cells = self.inside(&overlay.range, io)?;
            let is_within = about.cells.start <= cells.start && cells.end <= about.cells.end;
            require!(is_within, Protocol, "an overlay reaches out: {io:?}");
            let tag = match overlay.bytes {
                OverlayBytes::Zeroes => ZERO,
                OverlayBytes::Request(request) => {
                    let slot = self.named(request, false, &cells, io)?;
                    about.slots.push(slot);
                    self.stored_by(slot).0
                }
            };
            about.overlays.push((cells, tag));
        }
        Ok(())
    }

    /// Returns the cells of a range that an operation names, and checks that they are inside the
    /// clone.
    fn inside(&self, range: &ByteRange, io: &Io) -> Result<Cells, Violation> {
        let found = cells(range);
        let clone = self.world.plan.clone;
        let is_inside =
            found.as_ref().is_some_and(|cells| cells.start < cells.end && cells.end <= clone);
        require!(is_inside, Bounds, "the clone ends with cell {clone}: {io:?}");
        Ok(found.unwrap_or_default())
    }

    /// Returns the slot of a request that an operation names.
    fn named(
        &self,
        request: RequestId,
        is_read: bool,
        range: &Cells,
        io: &Io,
    ) -> Result<usize, Violation> {
        let slot = self.slot_of(request)?;
        let of = &self.slots[slot];
        let fits = of.is_busy() && of.is_read() == is_read && of.has_data();
        require!(fits, Protocol, "{io:?} for {of:?}");
        let is_within = of.cells.start <= range.start && range.end <= of.cells.end;
        require!(is_within, Protocol, "{io:?} reaches out of {of:?}");
        Ok(slot)
    }

    fn may_commit(&mut self, io: &Io) -> Result<(), Violation> {
        require!(self.metadata.is_some(), Protocol, "{io:?} after metadata was let go");
        let is_alone = !self.ops.values().any(|op| device_of(&op.io) == Device::Metadata);
        require!(is_alone, Protocol, "{io:?}, but metadata is at work already");
        if let (Io::Commit { .. }, Some(since)) = (io, self.trouble.since) {
            require!(false, Mode, "a commit, but one or a flush had failed at {since}");
        }
        Ok(())
    }

    /// Checks the state of regions: only hydrated regions are read on the destination, and only
    /// other regions on the source.
    fn note_hydrated(&mut self, op: &Op) -> Result<(), Violation> {
        let regions = self.world.regions(&op.about.cells);
        match &op.io {
            Io::ReadDestination { .. } => {
                for region in regions {
                    let is_gone = self.reverted[region].is_some();
                    require!(!is_gone, Hydrated, "region {region} is not hydrated: {:?}", op.io);
                    self.hydrated[region] = true;
                }
            }
            Io::ReadSource { .. } | Io::Fetch { .. } => {
                for region in regions {
                    // A failure reverts regions that were not committed.
                    let may_be_gone = self.trouble.is_failing && !self.world.committed[region];
                    let is_here = self.hydrated[region] && !may_be_gone;
                    require!(!is_here, Hydrated, "region {region} is hydrated: {:?}", op.io);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn latency(&mut self, op: &Op) -> u64 {
        let latency = self.world.plan.latency;
        let most =
            if self.world.one_in(latency.stalls_one_in) { latency.stall } else { latency.usual };
        let base = self.world.rng.random_range(most / 10..=most);
        match device_of(&op.io) {
            Device::Source if self.world.source.is_slow(&op.about.cells) => {
                20 * latency.source * base
            }
            Device::Source => latency.source * base,
            _ => base,
        }
    }

    /// Decides whether an operation fails.
    fn fails(&mut self, op: &Op, device: Device) -> Option<Failure> {
        let faults = self.plan.faults;
        let one_in = match &op.io {
            Io::ReadSource { .. } | Io::Fetch { .. } => {
                let spot = self.world.source.failure(&op.about.cells)?;
                self.trouble.source = true;
                let regions = self.world.regions(&spot);
                self.trouble.bad_regions.extend(regions);
                return Some(failure(Device::Source));
            }
            Io::ReadDestination { .. } => faults.destination_reads,
            Io::Write { .. } | Io::Zero { .. } | Io::Discard { .. } | Io::Store { .. } => {
                faults.destination_writes
            }
            Io::Flush => faults.destination_flushes,
            Io::Commit { .. } | Io::Abort => 0,
        };
        self.world.one_in(one_in).then(|| {
            self.trouble.destination = true;
            failure(device)
        })
    }

    /// Splits an operation into the parts in which it takes effect.
    fn landings(&mut self, op: &Op) -> Vec<Cells> {
        match op.io {
            Io::Commit { .. } | Io::Abort => return vec![0..0],
            Io::Flush | Io::Fetch { .. } | Io::ReadSource { .. } => return Vec::new(),
            _ => {}
        }
        let Cells { start, end } = op.about.cells;
        let rng = &mut self.world.rng;
        let mut cuts = vec![start];
        if end - start > 1 && rng.random_bool(self.world.plan.latency.pieces) {
            let mut more: Vec<usize> =
                (0..rng.random_range(1..=3)).map(|_| rng.random_range(start + 1..end)).collect();
            more.sort_unstable();
            cuts.extend(more);
        }
        cuts.push(end);
        cuts.dedup();
        let mut pieces: Vec<Cells> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        if op.failure.is_some() {
            pieces.retain(|_| rng.random_bool(0.5));
        }
        pieces
    }
}
