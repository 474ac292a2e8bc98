//! Copies of regions, from their first chunk to the end of their claim.
//!
//! `hydration.rs`, `wanted.rs` and `plan.rs` begin copies. Each chunk is fetched from the source,
//! then stored on the destination together with the overlays on it. When all chunks have ended, the
//! regions are marked as hydrated and the claim ends.

use std::mem;
use std::time::Duration;

use crate::engine::api::action::{Action, BufferId, Io, Overlay};
use crate::engine::api::input::{Done, Failure};
use crate::engine::api::request::{ByteRange, Device, RequestId};
use crate::engine::regions::claim::{
    Chunk, ChunkState, Claim, ClaimId, CopyReason, LaidOver, Part, Priority, RegionCopy, Work,
    overlap,
};
use crate::engine::work::buffer_budget::{BufferBudget, HOLE_BYTES};
use crate::engine::work::plan::State;
use crate::engine::{Engine, Mode, Op};
use crate::geometry::RegionRange;

/// If a hole is zeroed within this time, the limit for the next one doubles.
const HOLE_TIME: Duration = Duration::from_millis(50);

/// The result of an attempt to continue a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// All chunks have begun.
    Begun,
    /// There is no room for the next chunk, or it has to be paced.
    Stalled,
}

impl Engine {
    /// Begins to copy `regions`, which are free.
    pub(in crate::engine) fn begin_copy(
        &mut self,
        regions: RegionRange,
        reason: CopyReason,
        overlay: Option<LaidOver>,
    ) -> ClaimId {
        let nr_begun = regions.end - regions.start;
        let mut copy = RegionCopy::new(reason, self.now, nr_begun, self.sizes.bytes_of(&regions));
        copy.overlays.extend(overlay);
        let priority = copy.priority;
        let id = self.claims.add(regions, Work::Copy(copy));
        // Copies that writes wait for get room in order of arrival.
        let must_wait = priority == Priority::Demand && !self.buffers.demand.stalled.is_empty();
        if must_wait || self.fetch_more(id) == Progress::Stalled {
            self.buffers.stalled(priority).push_back(id);
        }
        id
    }

    /// Continues copies of these priorities that found no room or had to be paced.
    pub(in crate::engine) fn fetch_stalled(&mut self, priorities: &[Priority]) {
        for &priority in priorities {
            while let Some(first) = self.buffers.stalled(priority).pop_front() {
                if self.fetch_more(first) == Progress::Stalled {
                    self.buffers.stalled(priority).push_front(first);
                    break;
                }
            }
        }
    }

    /// Begins as many chunks of a copy as there is room for.
    fn fetch_more(&mut self, id: ClaimId) -> Progress {
        loop {
            let copy = self.claims.copy(id);
            if copy.is_begun() {
                return Progress::Begun;
            }
            let (reason, priority, start) = (copy.reason, copy.priority, copy.begun);
            let (whole, is_first) = (copy.range.clone(), start == copy.range.start);
            let most = match priority {
                Priority::Demand => self.chunk_bytes,
                _ if !reason.is_bulk() => self.chunk_bytes,
                Priority::User | Priority::Background => self.piece_bytes(),
            };
            let end = whole.end.min(start + most);
            if !self.has_room(end - start, reason, priority) {
                return Progress::Stalled;
            }
            // The pacing of the first chunk was checked before the copy began.
            let is_background = priority == Priority::Background;
            if is_background && !is_first && !self.has_patience() {
                return Progress::Stalled;
            }
            self.fetch_chunk(id, start..end);
        }
    }

    /// Returns true if a chunk of `bytes` bytes finds room, in memory and in the window of the
    /// source.
    fn has_room(&mut self, bytes: u64, reason: CopyReason, priority: Priority) -> bool {
        if priority == Priority::Background && self.is_background_idle() {
            return true;
        }
        let used = self.buffers.share(priority).bytes;
        if used > 0 && used + bytes > self.share_bytes {
            return false;
        }
        let bulk = self.buffers.bulk_bytes;
        let is_limited = reason.is_bulk() && priority != Priority::Demand;
        !is_limited || bulk == 0 || bytes <= self.window.room(self.now, bulk)
    }

    /// Returns true if a background chunk may begin regardless of the room: however much users
    /// copy, one such chunk is in flight. BufferBudget exceed their share by one chunk at most.
    pub(in crate::engine) fn is_background_idle(&self) -> bool {
        self.buffers.background_bytes == 0 && self.buffers.other.bytes <= self.share_bytes
    }

    fn fetch_chunk(&mut self, id: ClaimId, range: ByteRange) {
        let room = range.end - range.start;
        let copy = self.claims.copy(id);
        let (reason, share) = (copy.reason, copy.priority);
        let is_background = share == Priority::Background;
        if is_background {
            self.hydration.rate.spend(self.now, room);
            self.buffers.background_bytes += room;
        }
        let sample = if reason.is_bulk() {
            let sample = self.window.begin(self.now, room, self.buffers.bulk_bytes);
            self.buffers.bulk_bytes += room;
            sample
        } else {
            self.window.begin_for_user(self.now)
        };
        self.buffers.share(share).bytes += room;
        let buffer = BufferId(self.next_copy);
        self.next_copy += 1;
        let io = Io::Fetch { copy: buffer, range: range.clone(), urgent: !is_background };
        let op = self.start(Op::Fetch { claim: id, copy: buffer }, io);
        let copy = self.claims.copy(id);
        copy.begun = range.end;
        copy.chunks.push(Chunk {
            copy: buffer,
            op,
            sample,
            share,
            is_background,
            is_paid: is_background,
            range,
            room,
            state: ChunkState::Fetching(Vec::new()),
        });
    }

    /// Raises the priority of a copy for which a user now waits.
    pub(in crate::engine) fn promote(&mut self, id: ClaimId, priority: Priority) {
        let Work::Copy(copy) = &mut self.claims.get(id).work else { return };
        let before = copy.priority;
        if before <= priority {
            return;
        }
        copy.priority = priority;
        if copy.is_begun() {
            self.promote_chunks(id);
            return;
        }
        self.buffers.stalled(before).retain(|&stalled| stalled != id);
        self.promote_chunks(id);
        if self.fetch_more(id) == Progress::Stalled {
            self.buffers.stalled(priority).push_back(id);
        }
    }

    fn promote_chunks(&mut self, id: ClaimId) {
        for chunk in &mut self.claims.copy(id).chunks {
            promote_chunk(chunk, &mut self.buffers, &mut self.actions);
        }
    }

    /// Attaches a read to the chunk that is being fetched and contains `range.start`, if there is
    /// one. Returns the end of the attached part.
    pub(in crate::engine) fn attach_read(
        &mut self,
        id: ClaimId,
        request: RequestId,
        range: &ByteRange,
    ) -> Option<u64> {
        let Work::Copy(copy) = &mut self.claims.get(id).work else { return None };
        let (chunk, end) = copy.fetching(range.start)?;
        let end = end.min(range.end);
        if let ChunkState::Fetching(reads) = &mut chunk.state {
            reads.push(Part { request, range: range.start..end });
        }
        promote_chunk(chunk, &mut self.buffers, &mut self.actions);
        self.add_part(request);
        Some(end)
    }

    /// Cancels the copies selected by `is_it` that have chunks left to begin; their regions stay as
    /// they are. `is_it` must not select a copy that a change waits for.
    pub(in crate::engine) fn cancel_copies(&mut self, is_it: impl Fn(&RegionCopy) -> bool) {
        let is_cancelled = |copy: &RegionCopy| !copy.is_begun() && is_it(copy);
        let copies = self.claims.copies();
        let ids: Vec<_> = copies.filter(|(_, copy)| is_cancelled(copy)).map(|(id, _)| id).collect();
        for id in ids {
            let copy = self.claims.copy(id);
            copy.is_cancelled = true;
            let priority = copy.priority;
            self.buffers.stalled(priority).retain(|&stalled| stalled != id);
            self.end_copy_if_idle(id);
        }
    }

    /// Handles the end of a fetch.
    pub(in crate::engine) fn fetched(
        &mut self,
        id: ClaimId,
        buffer: BufferId,
        result: Result<Done, Failure>,
    ) {
        let copy = self.claims.copy(id);
        let chunk = copy.chunk(buffer);
        let state = mem::replace(&mut chunk.state, ChunkState::Storing);
        let (range, sample) = (chunk.range.clone(), chunk.sample);
        match result {
            Ok(Done::Plain) => {
                let bytes = chunk.room;
                self.window.delivered(self.now, sample, bytes);
            }
            _ => self.window.ended(self.now, sample),
        }
        let ChunkState::Fetching(reads) = state else {
            unreachable!("a chunk is fetched once");
        };
        let done = match result {
            Ok(done) => done,
            Err(failure) => {
                copy.failure.get_or_insert(failure);
                self.end_chunk(id, buffer);
                // The parts of these reads may still be readable.
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
            // The regions can no longer become hydrated, so their bytes on the destination, which
            // others may have written, must not be changed.
            self.end_chunk(id, buffer);
            return;
        }
        if let Done::Zeroes { .. } = done {
            self.refund(id, buffer);
        }
        let what = Op::Store { claim: id, copy: buffer };
        let copy = self.claims.copy(id);
        let urgent = !copy.chunk(buffer).is_background;
        let is_alone = copy.chunks.len() == 1 && copy.overlays.is_empty() && !copy.is_cancelled;
        let op = match done {
            Done::Zeroes { until } if is_alone && until >= copy.range.end => {
                let rest = copy.range.end - range.end;
                if copy.reason.has_limit() {
                    self.hydration.refund(rest);
                }
                let range = self.follow_hole(id, buffer, until);
                self.start(what, Io::Zero { range, deallocate: true, urgent })
            }
            _ => {
                let overlays = overlays_within(copy, &range);
                self.start(what, Io::Store { copy: buffer, range, overlays, urgent })
            }
        };
        self.claims.copy(id).chunk(buffer).op = op;
    }

    /// Returns the cost of a chunk to the rate and the limit: it was zeroes that were not read.
    fn refund(&mut self, id: ClaimId, buffer: BufferId) {
        let copy = self.claims.copy(id);
        let has_limit = copy.reason.has_limit();
        let chunk = copy.chunk(buffer);
        let (bytes, is_paid) = (chunk.room, chunk.is_paid);
        if is_paid {
            self.hydration.rate.refund(bytes);
        }
        if has_limit {
            self.hydration.refund(bytes);
        }
    }

    /// Extends the only chunk of a copy to the rest of the copy, and to the free regions after it
    /// that are zeroes too.
    fn follow_hole(&mut self, id: ClaimId, buffer: BufferId, until: u64) -> ByteRange {
        let regions = self.claims.get(id).regions.clone();
        let range = self.claims.copy(id).range.clone();
        let priority = self.claims.copy(id).priority;
        self.buffers.stalled(priority).retain(|&stalled| stalled != id);
        let farthest = range.start.saturating_add(self.buffers.hole_bytes);
        let until = until.min(self.sizes.size_bytes).min(farthest);
        let end = self.sizes.covered(&(range.start..until)).end;
        let mut range = range;
        if end > regions.end {
            let (free, state) = self.look(regions.end..end);
            if state == State::Free {
                self.claims.extend(id, free);
                range = self.sizes.bytes_of(&(regions.start..free));
            }
        }
        let copy = self.claims.copy(id);
        copy.range = range.clone();
        copy.begun = range.end;
        copy.chunk(buffer).range = range.clone();
        range
    }

    /// Adapts the hole limit to the time that a hole took.
    pub(in crate::engine) fn learn_of_hole(&mut self, took: Duration) {
        let hole_bytes = &mut self.buffers.hole_bytes;
        if took <= HOLE_TIME {
            *hole_bytes = (*hole_bytes * 2).min(HOLE_BYTES.1);
        } else if took > 4 * HOLE_TIME {
            *hole_bytes = (*hole_bytes / 2).max(self.chunk_bytes);
        }
    }

    /// Handles the end of a store.
    pub(in crate::engine) fn stored(
        &mut self,
        id: ClaimId,
        buffer: BufferId,
        result: Result<Done, Failure>,
    ) {
        if let Err(failure) = result {
            self.claims.copy(id).failure.get_or_insert(failure);
        }
        self.end_chunk(id, buffer);
    }

    /// Releases the buffer of a chunk, and continues or ends its copy.
    fn end_chunk(&mut self, id: ClaimId, buffer: BufferId) {
        self.actions.push(Action::Release { copy: buffer });
        let copy = self.claims.copy(id);
        let is_bulk = copy.reason.is_bulk();
        let chunk = copy.chunk(buffer);
        chunk.state = ChunkState::Ended;
        let (room, share, began) = (chunk.room, chunk.share, chunk.sample.began());
        if mem::take(&mut chunk.is_background) {
            self.buffers.background_bytes -= room;
            self.be_patient(self.now.saturating_sub(began));
        }
        self.buffers.share(share).bytes -= room;
        if is_bulk {
            self.buffers.bulk_bytes -= room;
        }
        self.end_copy_if_idle(id);
    }

    /// Ends a copy with no chunk in flight and none left to begin.
    fn end_copy_if_idle(&mut self, id: ClaimId) {
        let copy = self.claims.copy(id);
        if copy.is_idle() && copy.is_begun() {
            self.end_copy(id);
        }
    }

    /// Ends all stalled copies, after the clone became read-only.
    pub(in crate::engine) fn end_stalled(&mut self) {
        let mut stalled = mem::take(&mut self.buffers.demand.stalled);
        stalled.append(&mut self.buffers.other.stalled);
        stalled.append(&mut self.buffers.background_stalled);
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
            self.buffers.stalled(copy.priority).retain(|&stalled| stalled != id);
        }
        let result = match &copy.failure {
            _ if self.mode != Mode::ReadWrite => Err(self.mode_error()),
            Some(failure) => Err(failure.error()),
            None if copy.is_cancelled => Ok(()),
            None => {
                self.mark(regions.clone());
                Ok(())
            }
        };
        let try_again = result.is_err() && copy.reason != CopyReason::Demand;
        let overlays = mem::take(&mut copy.overlays);
        // If the copy was not begun for these writes, its failure is not theirs: plan them again.
        for LaidOver { part, .. } in overlays {
            if try_again {
                self.plan(&part);
            }
            self.end_part(part.request, if try_again { Ok(()) } else { result });
        }
        self.copy_ended(regions, copy);
        self.plan_waiters(waiters);
    }

    /// Handles the end of an overwrite of the regions of a claim.
    pub(in crate::engine) fn overwritten(
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

    /// Marks regions as hydrated whose data is on the destination.
    pub(in crate::engine) fn mark(&mut self, regions: RegionRange) {
        let Some(map) = self.map.clone() else { return };
        self.hydration.failed.remove(regions.clone());
        let mut at = regions.start;
        while at < regions.end {
            let (end, hydrated) = map.run(at..regions.end);
            // Only newly set bits join the commit round: an abort must not clear committed bits.
            if !hydrated {
                self.hydrated += map.set(at..end);
                self.commits.note(self.now, at..end);
            }
            at = end;
        }
    }
}

/// Turns a background chunk into one that a user waits for.
fn promote_chunk(chunk: &mut Chunk, buffers: &mut BufferBudget, actions: &mut Vec<Action>) {
    if mem::take(&mut chunk.is_background) {
        buffers.background_bytes -= chunk.room;
        actions.push(Action::Promote { op: chunk.op });
    }
}

/// Returns the parts of all overlays of a copy that lie within `range`.
fn overlays_within(copy: &RegionCopy, range: &ByteRange) -> Vec<Overlay> {
    let within = copy.overlays.iter().filter(|laid| overlap(&laid.part.range, range));
    within
        .map(|LaidOver { part, bytes }| Overlay {
            range: part.range.start.max(range.start)..part.range.end.min(range.end),
            bytes: *bytes,
        })
        .collect()
}
