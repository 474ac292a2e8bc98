//! Hydration: the background copy of all regions.
//!
//! Users go first: while a user's request is in flight, at most one background copy runs, followed
//! by a pause of nine times its duration, but 1 ms to 100 ms. Hydration therefore always makes some
//! progress. The engine calls `hydrate` after each event.

use std::time::Duration;

use crate::engine::api::event::EventKind;
use crate::engine::api::input::Failure;
use crate::engine::regions::claim::{CopyReason, Priority, RegionCopy};
use crate::engine::regions::failed_regions::{FailedRegion, FailedRegions};
use crate::engine::work::plan::State;
use crate::engine::work::rate::Rate;
use crate::engine::{Engine, Mode, RunState};
use crate::geometry::RegionRange;

/// Ratio of the pause after a copy to the duration of the copy, while user requests are in flight.
const REST_FACTOR: u32 = 9;
/// Shortest and longest pause.
const RESTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// Interval for checking whether users are idle: requests on the fast path send no event.
const GLANCE: Duration = Duration::from_millis(5);

/// The state of hydration.
#[derive(Debug, Default)]
pub(in crate::engine) struct Hydration {
    /// The next region to look at.
    cursor: u64,
    /// True if a whole pass over the regions found none free, and none has become free since.
    exhausted: bool,
    /// Number of regions in flight in background copies.
    regions: u64,
    pub(in crate::engine) failed: FailedRegions,
    pub(in crate::engine) rate: Rate,
    /// Bytes that may still be copied; `None` for no limit.
    budget: Option<u64>,
    /// Number of failed copies since the last success.
    failures: u32,
    /// True if the change was reported and hydration was not switched on since.
    source_changed: bool,
    /// While user requests are in flight, no copy begins before this time.
    patient_until: Duration,
    /// The time to look again.
    look_at: Option<Duration>,
}

impl Hydration {
    /// Returns `bytes` to the limit: they were not copied after all.
    pub(in crate::engine) fn refund(&mut self, bytes: u64) {
        self.budget = self.budget.map(|budget| budget.saturating_add(bytes));
    }
}

impl Engine {
    /// Begins all copies that may begin now.
    pub(in crate::engine) fn hydrate(&mut self) {
        self.hydration.look_at = None;
        self.window.expire(self.now);
        self.fetch_stalled(&[Priority::Demand, Priority::User]);
        if self.mode != Mode::ReadWrite || self.run_state != RunState::Running {
            self.fetch_stalled(&[Priority::Background]);
            return;
        }
        self.copy_for_requests();
        self.fetch_stalled(&[Priority::Background]);
        self.copy_prefetched();
        while self.settings.options.hydration && self.has_patience() {
            let Some(regions) = self.next_in_background() else { break };
            self.spend(&regions);
            self.hydration.regions += regions.end - regions.start;
            self.begin_copy(regions, CopyReason::Background, None);
        }
        self.stop_at_limit();
    }

    /// Returns the time at which [`Self::hydrate`] has to run if no event comes first.
    pub(in crate::engine) fn hydration_due(&self) -> Option<Duration> {
        if self.mode != Mode::ReadWrite || self.run_state != RunState::Running {
            return None;
        }
        let is_on = self.settings.options.hydration;
        let retry = self.hydration.failed.next_due(self.now).filter(|_| is_on);
        let window = self.window.expires_at();
        [self.hydration.look_at, retry, window].into_iter().flatten().min()
    }

    /// Returns true if a copy that no user waits for may begin or continue. If not, sets the time
    /// to check again. Copies of a clone that is being suspended are not paced.
    pub(in crate::engine) fn has_patience(&mut self) -> bool {
        if self.run_state != RunState::Running {
            return true;
        }
        let hydration = &self.hydration;
        let mut wait_until = hydration.rate.ready_at();
        // An idle line need not be shared.
        if self.buffers.bulk_bytes > 0 {
            wait_until = wait_until.max(self.window.paced_at());
        }
        if self.users > 0 || self.fast_path.passes() > 0 {
            // Copies that users wait for do not count: they may never leave a gap.
            if self.buffers.background_bytes > 0 {
                // The end of that copy is an event, which leads here again.
                return false;
            }
            if hydration.patient_until > self.now {
                wait_until = wait_until.max(hydration.patient_until.min(self.now + GLANCE));
            }
        }
        if wait_until <= self.now {
            return true;
        }
        let look_at = self.hydration.look_at.map_or(wait_until, |at| at.min(wait_until));
        self.hydration.look_at = Some(look_at);
        false
    }

    /// Charges the bytes of `regions` to the limit.
    pub(in crate::engine) fn spend(&mut self, regions: &RegionRange) {
        let bytes = self.sizes.bytes_of(regions);
        let bytes = bytes.end - bytes.start;
        self.hydration.budget = self.hydration.budget.map(|budget| budget.saturating_sub(bytes));
    }

    /// Sets the pause after a background copy that took `took`: while users are active, the next
    /// background copy waits nine times as long.
    pub(in crate::engine) fn be_patient(&mut self, took: Duration) {
        let rest = took.saturating_mul(REST_FACTOR);
        self.hydration.patient_until = self.now + rest.clamp(RESTS.0, RESTS.1);
    }

    /// Limits the number of bytes that hydration copies from now on.
    pub(in crate::engine) fn set_limit(&mut self, bytes: Option<u64>) {
        self.hydration.budget = bytes;
    }

    /// Returns true if one more region would exceed the limit.
    fn is_at_limit(&self) -> bool {
        self.hydration.budget.is_some_and(|budget| budget < self.sizes.region_bytes())
    }

    /// Switches hydration off once the limit is used up.
    fn stop_at_limit(&mut self) {
        let has_more = self.hydrated < self.sizes.nr_regions;
        // A copy in flight may turn out to be a hole, which leaves room for more.
        let is_idle = self.buffers.background_bytes == 0;
        let is_on = self.settings.options.hydration || self.has_prefetch();
        if self.is_at_limit() && is_idle && has_more && is_on {
            self.settings.options.hydration = false;
            self.hydration.budget = None;
            self.drop_prefetch();
            self.emit(EventKind::LimitReached);
        }
    }

    /// Returns the failed regions in ascending order.
    pub fn failed_regions(&self) -> impl Iterator<Item = FailedRegion> + '_ {
        self.hydration.failed.places()
    }

    /// Returns as many of the free `regions`, from their start, as one copy may have now; `None` if
    /// there is no room, or if one region is larger than a copy.
    pub(in crate::engine) fn room_for_copy(&self, regions: RegionRange) -> Option<RegionRange> {
        let used = self.buffers.other.bytes;
        let room = self.share_bytes.saturating_sub(used).min(self.chunk_bytes);
        let most = room >> self.sizes.region_shift;
        (most > 0).then(|| regions.start..regions.end.min(regions.start + most))
    }

    /// Returns the next regions to copy in the background, within threshold and batch size.
    fn next_in_background(&mut self) -> Option<RegionRange> {
        let room = self.most_regions_for_nobody()?;
        let options = &self.settings.options;
        let threshold = u64::from(options.hydration_threshold);
        let batch = u64::from(options.hydration_batch_size.max(1));
        let most = batch.min(threshold.saturating_sub(self.hydration.regions)).min(room);
        if most == 0 {
            return None;
        }
        if let Some(regions) = self.next_due(most) {
            return Some(regions);
        }
        if self.hydration.exhausted {
            return None;
        }
        let from = self.hydration.cursor;
        let nr_regions = self.sizes.nr_regions;
        let found = self.next_free(from..nr_regions, most);
        let Some(free) = found.or_else(|| self.next_free(0..from, most)) else {
            self.hydration.exhausted = true;
            return None;
        };
        self.hydration.cursor = if free.end == nr_regions { 0 } else { free.end };
        Some(free)
    }

    /// Returns at most `most` failed regions that are due and free.
    fn next_due(&mut self, most: u64) -> Option<RegionRange> {
        let due: Vec<RegionRange> = self.hydration.failed.due(self.now).collect();
        for mut place in due {
            while place.start < place.end {
                let end = place.end.min(place.start + most);
                let (end, state) = self.look(place.start..end);
                match state {
                    State::Free => return Some(place.start..end),
                    State::Hydrated => self.hydration.failed.remove(place.start..end),
                    State::Claimed(_) => {}
                }
                place.start = end;
            }
        }
        None
    }

    /// Returns the chunk size for copies that no user reads, in bytes.
    pub(in crate::engine) fn piece_bytes(&self) -> u64 {
        self.window.piece_bytes().min(self.chunk_bytes)
    }

    /// Returns the maximum number of regions of the next copy, given the room in buffers and in the
    /// window of the source; `None` if there is no room.
    pub(in crate::engine) fn most_regions(&mut self) -> Option<u64> {
        let piece = self.piece_bytes();
        let bulk = self.buffers.bulk_bytes;
        let line = if bulk == 0 { u64::MAX } else { self.window.room(self.now, bulk) };
        let room = self.share_bytes.saturating_sub(self.buffers.other.bytes).min(line);
        if self.sizes.region_bytes() > piece {
            // The chunks of a large region find room one by one.
            return (room > 0 && line >= piece).then_some(1);
        }
        Some(room.min(piece) >> self.sizes.region_shift).filter(|&most| most > 0)
    }

    /// Like [`Self::most_regions`] for a copy that no user waits for: however much users copy, one
    /// such copy may be in flight.
    pub(in crate::engine) fn most_regions_for_nobody(&mut self) -> Option<u64> {
        let most = if self.is_background_idle() {
            (self.piece_bytes() >> self.sizes.region_shift).max(1)
        } else {
            self.most_regions()?
        };
        let allowed = self.hydration.budget.map(|budget| budget >> self.sizes.region_shift);
        Some(most.min(allowed.unwrap_or(most))).filter(|&most| most > 0)
    }

    /// Returns the first of `regions` that are free and not failed, at most `most` of them.
    ///
    /// The search skips only hydrated regions in one step up to their end: the cursor does not
    /// return to skipped regions before it has looked at all others.
    fn next_free(&self, regions: RegionRange, most: u64) -> Option<RegionRange> {
        let map = self.map.as_ref()?;
        let mut at = regions.start;
        while at < regions.end {
            if map.all(at..at + 1) {
                (at, _) = map.run(at..regions.end);
            } else if let Some((_, end)) = self.claims.at(at) {
                at = end;
            } else {
                let (end, _) = self.look(at..regions.end.min(at + most));
                match self.hydration.failed.look(at) {
                    (Some(inside), _) => at = inside,
                    (None, next) => return Some(at..end.min(next)),
                }
            }
        }
        None
    }

    /// Makes hydration look again at regions that another claim failed to make hydrated.
    pub(in crate::engine) fn look_again(&mut self, regions: RegionRange, failure: Failure) {
        let hydration = &mut self.hydration;
        if !hydration.exhausted {
            // The cursor will reach them.
        } else if hydration.failed.is_full() {
            hydration.exhausted = false;
        } else {
            hydration.failed.add_due(self.now, regions, failure);
        }
    }

    /// Handles the end of a copy: counts it, and adds its regions to the failed ones on failure.
    pub(in crate::engine) fn copy_ended(&mut self, regions: RegionRange, copy: RegionCopy) {
        let RegionCopy { reason, since, nr_begun, failure, is_cancelled, .. } = copy;
        if regions.end - regions.start > nr_begun {
            self.learn_of_hole(self.now.saturating_sub(since));
        }
        let hydration = &mut self.hydration;
        if reason == CopyReason::Background {
            hydration.regions -= nr_begun;
        }
        match (failure, reason) {
            (None, _) if is_cancelled => self.copy_later(regions, reason),
            (None, CopyReason::Demand) => {}
            (None, _) => hydration.failures = 0,
            (Some(failure), CopyReason::Demand | CopyReason::Read) => {
                self.look_again(regions, failure);
            }
            (Some(failure), CopyReason::Prefetch(Some(request))) => {
                self.fail_request(request);
                self.look_again(regions, failure);
            }
            (Some(failure), CopyReason::Prefetch(None) | CopyReason::Background) => {
                if self.mode == Mode::ReadWrite {
                    self.note_failed(regions, failure);
                }
            }
        }
    }

    /// Makes the regions of a cancelled copy available again: it starts over when the clone
    /// resumes.
    fn copy_later(&mut self, regions: RegionRange, reason: CopyReason) {
        if reason.has_limit() {
            let bytes = self.sizes.bytes_of(&regions);
            self.hydration.refund(bytes.end - bytes.start);
        }
        // Also for other reasons than hydration: the queue of prefetches may be dropped.
        self.hydration.exhausted = false;
        match reason {
            CopyReason::Background => self.hydration.cursor = regions.start,
            CopyReason::Prefetch(None) => self.prefetch_first(regions),
            // These requests look at their regions again.
            CopyReason::Prefetch(Some(_)) | CopyReason::Read | CopyReason::Demand => {}
        }
    }

    fn note_failed(&mut self, regions: RegionRange, failure: Failure) {
        let hydration = &mut self.hydration;
        let is_known = hydration.failed.look(regions.start).0.is_some();
        let is_half = is_known && regions.end - regions.start > 1;
        let is_too_many = hydration.failed.is_full() && !is_known;
        if is_too_many {
            hydration.exhausted = false;
        } else {
            hydration.failed.add(self.now, regions.clone(), failure.clone());
        }
        // The failure of a half is not counted: that of the whole was.
        hydration.failures = hydration.failures.saturating_add(u32::from(!is_half));
        let max = self.settings.max_failures;
        let is_enough = max > 0 && hydration.failures >= max || is_too_many;
        let failures = hydration.failures;
        if is_enough && (self.settings.options.hydration || self.has_prefetch()) {
            self.settings.options.hydration = false;
            self.drop_prefetch();
            let range = self.sizes.bytes_of(&regions);
            self.emit(EventKind::HydrationStopped { failures, range, failure });
        }
    }

    /// Switches hydration on, with an immediate retry of all failed regions, or off.
    pub(in crate::engine) fn set_hydration(&mut self, on: bool) {
        self.settings.options.hydration = on;
        if !on {
            let is_it = |copy: &RegionCopy| {
                copy.reason == CopyReason::Background && copy.priority == Priority::Background
            };
            self.cancel_copies(is_it);
        } else {
            self.hydration.failures = 0;
            self.hydration.source_changed = false;
            self.hydration.failed.make_due(self.now);
        }
    }

    /// Stops hydration, and reports the reason once until hydration is switched on again.
    pub(in crate::engine) fn source_changed(&mut self, reason: String) {
        self.settings.options.hydration = false;
        if !self.hydration.source_changed {
            self.hydration.source_changed = true;
            self.emit(EventKind::SourceChanged { reason });
        }
    }

    /// Ends hydration when nothing can or need be copied any more.
    pub(in crate::engine) fn hydration_is_over(&mut self) {
        self.drop_prefetch();
        self.end_requests();
        self.hydration.failed = FailedRegions::default();
    }
}
