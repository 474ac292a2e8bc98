//! Copies, from their beginning to the end of their claim.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use crate::engine::action::{Action, CopyId, Io, Overlay};
use crate::engine::claim::{
    Chunk, ChunkState, Claim, ClaimId, Copy, LaidOver, Part, Why, Work, overlap,
};
use crate::engine::event::{Done, Failure};
use crate::engine::plan::State;
use crate::engine::request::{ByteRange, Device, RequestId};
use crate::engine::{Engine, Mode, Op};
use crate::geometry::RegionRange;

/// How far a hole is followed in one go, at first and at the most: a user who writes there has to
/// wait for it, and not every destination can make a hole without writing all of it.
const HOLE_BYTES: (u64, u64) = (64 << 20, 1 << 30);

/// A hole that took no longer than this lets the next one be twice as long.
const HOLE_TIME: Duration = Duration::from_millis(50);

/// Bytes that are in buffers, for what users wait for and for everything else: neither can starve
/// the other.
#[derive(Debug)]
pub(super) struct Buffers {
    demand: Share,
    other: Share,
    /// How far a hole is followed.
    hole_bytes: u64,
}

#[derive(Debug, Default)]
struct Share {
    bytes: u64,
    /// Claims with chunks that found no room, in the order in which they came.
    stalled: VecDeque<ClaimId>,
}

impl Default for Buffers {
    fn default() -> Self {
        let (demand, other) = (Share::default(), Share::default());
        Self { demand, other, hole_bytes: HOLE_BYTES.0 }
    }
}

impl Buffers {
    fn share(&mut self, why: Why) -> &mut Share {
        if why.is_demand() { &mut self.demand } else { &mut self.other }
    }

    /// Bytes that copies have in buffers which nobody waits for.
    pub(super) fn other_bytes(&self) -> u64 {
        self.other.bytes
    }
}

impl Engine {
    /// Begins to copy regions that are free.
    pub(super) fn begin_copy(
        &mut self,
        regions: RegionRange,
        why: Why,
        overlay: Option<LaidOver>,
    ) -> ClaimId {
        let nr_begun = regions.end - regions.start;
        let mut copy = Copy::new(why, self.now, nr_begun, self.sizes.bytes_of(&regions));
        copy.overlays.extend(overlay);
        let id = self.claims.add(regions, Work::Copy(copy));
        // Writes that wait for room are served as they came.
        let must_wait = why.is_demand() && !self.buffers.demand.stalled.is_empty();
        if must_wait || !self.fetch_more(id) {
            self.buffers.share(why).stalled.push_back(id);
        }
        id
    }

    /// Lets those go on that found no room, or had to be patient.
    pub(super) fn fetch_stalled(&mut self) {
        for why in [Why::Demand, Why::Background] {
            while let Some(first) = self.buffers.share(why).stalled.pop_front() {
                if !self.fetch_more(first) {
                    self.buffers.share(why).stalled.push_front(first);
                    break;
                }
            }
        }
    }

    /// Begins as many chunks of a copy as there is room for; whether there was enough.
    fn fetch_more(&mut self, id: ClaimId) -> bool {
        loop {
            let copy = self.claims.copy(id);
            if copy.failure.is_some() || copy.begun == copy.range.end {
                return true;
            }
            let why = copy.why;
            let start = copy.begun;
            let end = copy.range.end.min(start + self.chunk_bytes);
            let is_first = start == copy.range.start;
            let share = self.buffers.share(why);
            if share.bytes > 0 && share.bytes + (end - start) > self.share_bytes {
                return false;
            }
            // Whoever began the copy has asked for its first chunk.
            if why.is_background() && !is_first && !self.has_patience() {
                return false;
            }
            if why.is_background() {
                self.hydration.rate.spend(self.now, end - start);
            }
            self.buffers.share(why).bytes += end - start;
            let copy = self.claims.copy(id);
            copy.begun = end;
            let buffer = CopyId(self.next_copy);
            self.next_copy += 1;
            let range = start..end;
            let state = ChunkState::Fetching(Vec::new());
            let room = end - start;
            copy.chunks.push(Chunk { copy: buffer, range: range.clone(), room, state });
            let op = Op::Fetch { claim: id, copy: buffer };
            let urgent = !why.is_background();
            self.start(op, Io::Fetch { copy: buffer, range, urgent });
        }
    }

    /// A chunk has been read, or could not be.
    pub(super) fn fetched(&mut self, id: ClaimId, buffer: CopyId, result: Result<Done, Failure>) {
        let copy = self.claims.copy(id);
        let chunk = copy.chunk(buffer);
        let state = mem::replace(&mut chunk.state, ChunkState::Storing);
        let range = chunk.range.clone();
        let ChunkState::Fetching(reads) = state else {
            unreachable!("a chunk is fetched once");
        };
        let done = match result {
            Ok(done) => done,
            Err(failure) => {
                copy.failure.get_or_insert(failure);
                self.end_chunk(id, buffer);
                // Their part of the source may be sound.
                for Part { request, range } in reads {
                    self.read_source(request, &range);
                    self.end_part(request, Ok(()));
                }
                return;
            }
        };
        for Part { request, range } in reads {
            self.actions.push(Action::Give { copy: buffer, request, range });
            self.end_part(request, Ok(()));
        }
        if self.mode != Mode::ReadWrite {
            // It cannot become hydrated any more: what others wrote must not be touched.
            self.end_chunk(id, buffer);
            return;
        }
        if let Done::Zeroes { .. } = done {
            let why = self.claims.copy(id).why;
            self.refund(why, range.end - range.start);
        }
        let op = Op::Store { claim: id, copy: buffer };
        let copy = self.claims.copy(id);
        let is_whole = copy.range == range && copy.overlays.is_empty();
        match done {
            Done::Zeroes { until } if is_whole => {
                let range = self.follow_hole(id, buffer, until);
                let urgent = !self.claims.copy(id).why.is_background();
                self.start(op, Io::Zero { range, deallocate: true, urgent });
            }
            _ => {
                let overlays = overlays_within(copy, &range);
                self.start(op, Io::Store { copy: buffer, range, overlays });
            }
        }
    }

    /// Makes the only chunk of a copy take in the free regions behind it that are zeroes too.
    fn follow_hole(&mut self, id: ClaimId, buffer: CopyId, until: u64) -> ByteRange {
        let regions = self.claims.get(id).regions.clone();
        let range = self.claims.copy(id).range.clone();
        let farthest = range.start.saturating_add(self.buffers.hole_bytes);
        let until = until.min(self.sizes.size_bytes).min(farthest);
        let end = self.sizes.covered(&(range.start..until)).end;
        let mut range = range;
        if end > regions.end {
            let (free, state) = self.look(regions.end..end);
            if state == State::Free {
                self.claims.extend(id, free);
                range = self.sizes.bytes_of(&(regions.start..free));
                let copy = self.claims.copy(id);
                copy.range = range.clone();
                copy.begun = range.end;
                copy.chunk(buffer).range = range.clone();
            }
        }
        range
    }

    /// A hole took so long to be made.
    pub(super) fn learn_of_hole(&mut self, took: Duration) {
        let hole_bytes = &mut self.buffers.hole_bytes;
        if took <= HOLE_TIME {
            *hole_bytes = (*hole_bytes * 2).min(HOLE_BYTES.1);
        } else if took > 4 * HOLE_TIME {
            *hole_bytes = (*hole_bytes / 2).max(self.chunk_bytes);
        }
    }

    /// A chunk has been written, or could not be.
    pub(super) fn stored(&mut self, id: ClaimId, buffer: CopyId, result: Result<Done, Failure>) {
        if let Err(failure) = result {
            self.claims.copy(id).failure.get_or_insert(failure);
        }
        self.end_chunk(id, buffer);
    }

    /// Gives up the buffer of a chunk, goes on with the copy or ends it, and lets others go on.
    fn end_chunk(&mut self, id: ClaimId, buffer: CopyId) {
        self.actions.push(Action::Release { copy: buffer });
        let copy = self.claims.copy(id);
        let why = copy.why;
        let chunk = copy.chunk(buffer);
        chunk.state = ChunkState::Ended;
        let room = chunk.room;
        self.buffers.share(why).bytes -= room;
        self.end_copy_if_idle(id);
    }

    /// Ends a copy of which nothing is under way and nothing will be begun.
    fn end_copy_if_idle(&mut self, id: ClaimId) {
        let copy = self.claims.copy(id);
        if copy.is_idle() && (copy.begun == copy.range.end || copy.failure.is_some()) {
            self.end_copy(id);
        }
    }

    /// Ends all copies that wait for room: nothing can become hydrated any more.
    pub(super) fn end_stalled(&mut self) {
        let mut stalled = mem::take(&mut self.buffers.demand.stalled);
        stalled.append(&mut self.buffers.other.stalled);
        for &id in &stalled {
            let reason = "the clone became read-only".to_owned();
            let failure = Failure { device: Device::Metadata, reason, is_full: false };
            self.claims.copy(id).failure.get_or_insert(failure);
        }
        for id in stalled {
            self.end_copy_if_idle(id);
        }
    }

    fn end_copy(&mut self, id: ClaimId) {
        let Claim { regions, work, waiters } = self.claims.remove(id);
        let Work::Copy(mut copy) = work else { unreachable!("only copies are ended here") };
        if copy.begun < copy.range.end {
            self.buffers.share(copy.why).stalled.retain(|&stalled| stalled != id);
        }
        let result = match &copy.failure {
            _ if self.mode != Mode::ReadWrite => Err(self.mode_error()),
            Some(failure) => Err(failure.error()),
            None => {
                self.mark(regions.clone());
                Ok(())
            }
        };
        let try_again = result.is_err() && !copy.why.is_demand();
        let overlays = mem::take(&mut copy.overlays);
        // Where somebody else wanted the copy, those whose writes were laid over it try alone.
        for LaidOver { part, .. } in overlays {
            if try_again {
                self.plan(&part);
            }
            self.end_part(part.request, if try_again { Ok(()) } else { result });
        }
        self.copy_ended(regions, copy);
        self.plan_waiters(waiters);
    }

    /// A request has written to the regions of a claim, or could not.
    pub(super) fn overwritten(
        &mut self,
        request: RequestId,
        id: ClaimId,
        result: Result<Done, Failure>,
    ) {
        let Claim { regions, waiters, .. } = self.claims.remove(id);
        let result = match result {
            Ok(_) if self.mode == Mode::ReadWrite => {
                self.mark(regions);
                Ok(())
            }
            Ok(_) => Err(self.mode_error()),
            Err(failure) => {
                let error = failure.error();
                self.look_again(regions, failure);
                Err(error)
            }
        };
        self.end_part(request, result);
        self.plan_waiters(waiters);
    }

    fn plan_waiters(&mut self, waiters: Vec<Part>) {
        for part in waiters {
            self.plan(&part);
            self.end_part(part.request, Ok(()));
        }
    }

    /// Marks regions whose data has landed on the destination.
    pub(super) fn mark(&mut self, regions: RegionRange) {
        let Some(map) = self.map.clone() else { return };
        self.hydration.aside.remove(regions.clone());
        let mut at = regions.start;
        while at < regions.end {
            let (end, hydrated) = map.run(at..regions.end);
            // What was committed before must not be taken back with what was not.
            if !hydrated {
                self.hydrated += map.set(at..end);
                self.rounds.note(self.now, at..end);
            }
            at = end;
        }
    }
}

/// The parts of all overlays of a copy that lie within `range`.
fn overlays_within(copy: &Copy, range: &ByteRange) -> Vec<Overlay> {
    let within = copy.overlays.iter().filter(|laid| overlap(&laid.part.range, range));
    within
        .map(|LaidOver { part, bytes }| Overlay {
            range: part.range.start.max(range.start)..part.range.end.min(range.end),
            bytes: *bytes,
        })
        .collect()
}
