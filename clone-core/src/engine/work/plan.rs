//! Planning: splits requests into operations, only at borders between hydrated and other regions
//! and at regions with other work in flight.
//!
//! `requests.rs` calls it for each new request, and for parts that waited for a claim.

use crate::engine::api::action::{Io, OverlayBytes};
use crate::engine::api::request::{ByteRange, RequestError, RequestId};
use crate::engine::api::settings::Discards;
use crate::engine::regions::claim::{ClaimId, CopyReason, LaidOver, Part, Priority, Work};
use crate::engine::{Engine, Mode, Op, RunState};
use crate::geometry::RegionRange;

/// Maximum number of pieces of a discard that are in flight at a time.
const DISCARDS_AT_ONCE: u32 = 1024;

/// The state of regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum State {
    Hydrated,
    /// Not hydrated, and not claimed.
    Free,
    /// Becoming hydrated.
    Claimed(ClaimId),
}

/// Bytes that are changed on the destination by one operation.
#[derive(Debug)]
struct Group {
    range: ByteRange,
    /// The smallest range that contains all regions of the group that are not hydrated, if any.
    claim: Option<RegionRange>,
}

impl Group {
    fn at(offset: u64) -> Self {
        Self { range: offset..offset, claim: None }
    }

    fn add(&mut self, end: u64, claim: Option<RegionRange>) {
        self.range.end = end;
        if let Some(more) = claim {
            let start = self.claim.as_ref().map_or(more.start, |claim| claim.start);
            self.claim = Some(start..more.end);
        }
    }
}

impl Engine {
    /// Returns the end of the run of regions with the same state as `regions.start`, and that
    /// state.
    pub(in crate::engine) fn look(&self, regions: RegionRange) -> (u64, State) {
        let Some(map) = &self.map else {
            return (regions.end, State::Hydrated);
        };
        let (end, hydrated) = map.run(regions.clone());
        if hydrated {
            return (end, State::Hydrated);
        }
        match self.claims.at(regions.start) {
            Some((id, claimed)) => (end.min(claimed), State::Claimed(id)),
            None => (end.min(self.claims.next_from(regions.start)), State::Free),
        }
    }

    /// Like [`Self::look`], for bytes.
    fn look_at(&self, range: &ByteRange) -> (ByteRange, State) {
        let (end, state) = self.look(self.sizes.touched(range));
        let end = range.end.min(end << self.sizes.region_shift);
        (range.start..end, state)
    }

    /// Plans a read: each piece is read from the device that holds it.
    pub(in crate::engine) fn plan_read(&mut self, part: &Part) {
        let hydrates = self.settings.hydrate_on_read
            && self.mode == Mode::ReadWrite
            && self.run_state == RunState::Running;
        let Part { request, mut range } = part.clone();
        let whole = range.clone();
        // Bytes to read from the source in one operation, up to the next piece.
        let mut from_source = range.start..range.start;
        while range.start < range.end {
            let (piece, state) = self.look_at(&range);
            range.start = piece.end;
            let end = match state {
                State::Hydrated => {
                    self.read_source(request, &from_source);
                    let io = Io::ReadDestination { request, range: piece.clone() };
                    self.start_part(request, io);
                    piece.end
                }
                State::Free if hydrates => self.read_and_hydrate(request, &piece, &from_source),
                State::Claimed(id) if hydrates => match self.attach_read(id, request, &piece) {
                    Some(end) => {
                        self.read_source(request, &from_source);
                        range.start = end;
                        end
                    }
                    None => {
                        from_source.end = piece.end;
                        continue;
                    }
                },
                State::Free | State::Claimed(_) => {
                    from_source.end = piece.end;
                    continue;
                }
            };
            from_source = end..range.start;
        }
        self.read_source(request, &from_source);
        if hydrates {
            self.read_ahead(&whole);
        }
    }

    /// Reads from the source, regardless of copies in flight.
    pub(in crate::engine) fn read_source(&mut self, request: RequestId, range: &ByteRange) {
        if range.start < range.end {
            self.start_part(request, Io::ReadSource { request, range: range.clone() });
        }
    }

    /// Hydrates the regions of `piece`, which are free, and reads the data that the copies fetch.
    /// If there is no room for a copy, the source is read for this request alone. `before` is the
    /// range before `piece` that is still to be read. Returns the end of the bytes that were
    /// handled.
    fn read_and_hydrate(
        &mut self,
        request: RequestId,
        piece: &ByteRange,
        before: &ByteRange,
    ) -> u64 {
        let region_bytes = self.sizes.region_bytes();
        let is_whole = piece.end - piece.start >= region_bytes;
        if region_bytes > self.chunk_bytes || !is_whole && region_bytes > self.window.user_bytes() {
            // The copy would delay the read too much on this source. Queue a prefetch instead.
            self.prefetch_hint(piece);
            return before.start;
        }
        let mut at = piece.start;
        while at < piece.end {
            let first = at >> self.sizes.region_shift;
            let last = self.sizes.touched(piece).end;
            let Some(regions) = self.room_for_copy(first..last) else { break };
            let bytes = self.sizes.bytes_of(&regions);
            let mine = at..piece.end.min(bytes.end);
            let id = self.begin_copy(regions, CopyReason::Read, None);
            let attached = self.attach_read(id, request, &mine);
            assert!(attached == Some(mine.end), "the copy was begun for this read");
            at = mine.end;
        }
        if at > piece.start {
            self.read_source(request, before);
            return at;
        }
        before.start
    }

    /// Plans a write, or a write of zeroes if `zeroes` says whether the range may be deallocated.
    pub(in crate::engine) fn plan_change(&mut self, part: &Part, zeroes: Option<bool>) {
        let Part { request, mut range } = part.clone();
        if self.mode != Mode::ReadWrite && !self.is_hydrated(&range) {
            let error = self.mode_error();
            self.fail_part(request, error);
            return;
        }
        let mut group = Group::at(range.start);
        while range.start < range.end {
            let (piece, state) = self.look_at(&range);
            range.start = piece.end;
            match state {
                State::Hydrated => group.add(piece.end, None),
                State::Claimed(id) => {
                    self.change_group(request, group, zeroes);
                    group = Group::at(piece.end);
                    self.change_claimed(id, Part { request, range: piece }, zeroes.is_some());
                }
                State::Free => {
                    let covered = self.sizes.covered(&piece);
                    let whole = self.sizes.bytes_of(&covered);
                    if covered.start >= covered.end {
                        self.change_group(request, group, zeroes);
                        group = Group::at(piece.end);
                        self.change_parts_of_regions(request, piece, zeroes.is_some());
                        continue;
                    }
                    if piece.start < whole.start {
                        self.change_group(request, group, zeroes);
                        group = Group::at(whole.start);
                        let head = piece.start..whole.start;
                        self.change_parts_of_regions(request, head, zeroes.is_some());
                    }
                    group.add(whole.end, Some(covered));
                    if whole.end < piece.end {
                        self.change_group(request, group, zeroes);
                        group = Group::at(piece.end);
                        let tail = whole.end..piece.end;
                        self.change_parts_of_regions(request, tail, zeroes.is_some());
                    }
                }
            }
        }
        self.change_group(request, group, zeroes);
    }

    /// Starts the operation of a group.
    fn change_group(&mut self, request: RequestId, group: Group, zeroes: Option<bool>) {
        let Group { range, claim } = group;
        if range.start == range.end {
            return;
        }
        let io = match zeroes {
            None => Io::Write { request, range },
            Some(deallocate) => Io::Zero { range, deallocate, urgent: true },
        };
        self.start_claimed(request, io, claim);
    }

    /// Starts the operation of a part, which makes the regions of `claim` hydrated.
    fn start_claimed(
        &mut self,
        request: RequestId,
        io: Io,
        claim: Option<RegionRange>,
    ) -> Option<ClaimId> {
        let Some(regions) = claim else {
            self.start_part(request, io);
            return None;
        };
        self.add_part(request);
        let claim = self.claims.add(regions, Work::Overwrite);
        self.start(Op::Overwrite { request, claim }, io);
        Some(claim)
    }

    /// Changes parts of free regions: copies each region with the change laid over it.
    fn change_parts_of_regions(&mut self, request: RequestId, range: ByteRange, zeroes: bool) {
        for region in self.sizes.touched(&range) {
            let bytes = self.sizes.bytes_of(&(region..region + 1));
            let range = range.start.max(bytes.start)..range.end.min(bytes.end);
            let overlay = laid_over(Part { request, range }, zeroes);
            self.add_part(request);
            self.begin_copy(region..region + 1, CopyReason::Demand, Some(overlay));
        }
    }

    /// Changes bytes of claimed regions: together with the copy, or after the claim.
    fn change_claimed(&mut self, id: ClaimId, part: Part, zeroes: bool) {
        self.add_part(part.request);
        let claim = self.claims.get(id);
        match &mut claim.work {
            // A later change must not overtake one that waits already.
            Work::Copy(copy) if claim.waiters.is_empty() && copy.takes_overlay(&part.range) => {
                copy.overlays.push(laid_over(part, zeroes));
            }
            _ => claim.waiters.push(part),
        }
        self.promote(id, Priority::Demand);
    }

    /// Plans a discard of the regions that it covers.
    pub(in crate::engine) fn plan_discard(&mut self, part: &Part) {
        let Part { request, range } = part.clone();
        let zeroes = self.settings.discards == Discards::Zero;
        let passdown = self.settings.options.discard_passdown;
        let mut covered = self.sizes.covered(&range);
        if !zeroes {
            covered.end = range.end >> self.sizes.region_shift;
        }
        if covered.start >= covered.end {
            return;
        }
        let bytes = self.sizes.bytes_of(&covered);
        if self.mode != Mode::ReadWrite && !self.is_hydrated(&bytes) {
            return;
        }
        let mut group = Group::at(bytes.start);
        let mut at = covered.start;
        let mut groups = 0;
        while at < covered.end {
            let (end, state) = self.look(at..covered.end);
            let piece = self.sizes.bytes_of(&(at..end));
            match state {
                State::Hydrated if passdown => group.add(piece.end, None),
                State::Hydrated => {
                    let last = self.discard_group(request, group);
                    group = Group::at(piece.end);
                    groups += 1;
                    // The rest of the discard waits for the end of this claim.
                    if let Some(last) = last.filter(|_| groups >= DISCARDS_AT_ONCE) {
                        self.add_part(request);
                        let range = piece.end..bytes.end;
                        self.claims.get(last).waiters.push(Part { request, range });
                        return;
                    }
                }
                State::Free if zeroes => group.add(piece.end, Some(at..end)),
                State::Free => {
                    self.mark(at..end);
                    group.add(piece.end, None);
                }
                State::Claimed(id) => {
                    self.discard_group(request, group);
                    group = Group::at(piece.end);
                    self.add_part(request);
                    self.claims.get(id).waiters.push(Part { request, range: piece });
                    self.promote(id, Priority::Demand);
                }
            }
            at = end;
        }
        self.discard_group(request, group);
    }

    /// Starts the operation of a group, and returns its claim, if it has one.
    fn discard_group(&mut self, request: RequestId, group: Group) -> Option<ClaimId> {
        let Group { range, claim } = group;
        let passdown = self.settings.options.discard_passdown;
        if range.start == range.end {
            return None;
        }
        if claim.is_some() {
            let io = Io::Zero { range, deallocate: passdown, urgent: true };
            return self.start_claimed(request, io, claim);
        }
        if passdown {
            self.start_part(request, Io::Discard { range });
        }
        None
    }

    /// Returns true if all bytes of `range`, which is not empty, are hydrated.
    pub(in crate::engine) fn is_hydrated(&self, range: &ByteRange) -> bool {
        let regions = self.sizes.touched(range);
        self.map.as_ref().is_none_or(|map| map.all(regions))
    }

    fn start_part(&mut self, request: RequestId, io: Io) {
        self.add_part(request);
        let changes = match &io {
            Io::Write { range, .. } | Io::Zero { range, .. } => Some(range.clone()),
            _ => None,
        };
        self.start(Op::Part { request, changes }, io);
    }

    pub(in crate::engine) fn fail_part(&mut self, request: RequestId, error: RequestError) {
        self.add_part(request);
        self.end_part(request, Err(error));
    }
}

fn laid_over(part: Part, zeroes: bool) -> LaidOver {
    let bytes = if zeroes { OverlayBytes::Zeroes } else { OverlayBytes::Request(part.request) };
    LaidOver { part, bytes }
}
