//! Copying in the background.
//!
//! Users go first: while a request of theirs is under way, at most one copy is, and between two of
//! them there is nine times as much rest as the first one took. So there is always some progress.

use std::time::Duration;

use crate::engine::api::event::Failure;
use crate::engine::api::notice::Happening;
use crate::engine::regions::claim::{Copy, Priority, Why};
use crate::engine::regions::failed_regions::{Aside, SetAside};
use crate::engine::work::plan::State;
use crate::engine::work::rate::Rate;
use crate::engine::{Engine, Mode, Rest};
use crate::geometry::RegionRange;

/// How much longer than a copy the rest after it is, while users are at work.
const REST_FACTOR: u32 = 9;
/// The shortest of these rests, and the longest.
const RESTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// How often it is looked whether users have gone: those that pass the engine by do not tell.
const GLANCE: Duration = Duration::from_millis(5);

/// Where hydration is.
#[derive(Debug, Default)]
pub(in crate::engine) struct Hydration {
    /// The region to look at next.
    cursor: u64,
    /// Whether nothing was free in a whole round from there, nor has become so since.
    exhausted: bool,
    /// Regions under way for nobody in particular.
    regions: u64,
    pub(in crate::engine) aside: Aside,
    pub(in crate::engine) rate: Rate,
    /// How many bytes may still be copied; `None` for all.
    budget: Option<u64>,
    /// Copies that failed since one succeeded.
    failures: u32,
    /// It was told, and hydration not switched on since.
    source_changed: bool,
    /// No copy begins before this while users are at work.
    patient_until: Duration,
    /// When to look again.
    look_at: Option<Duration>,
}

impl Hydration {
    /// So many bytes were not copied after all: the limit has room for others.
    pub(in crate::engine) fn refund(&mut self, bytes: u64) {
        self.budget = self.budget.map(|budget| budget.saturating_add(bytes));
    }
}

impl Engine {
    /// Begins what may be copied now.
    pub(in crate::engine) fn hydrate(&mut self) {
        self.hydration.look_at = None;
        self.window.expire(self.now);
        self.fetch_stalled(&[Priority::Demand, Priority::User]);
        if self.mode != Mode::ReadWrite || self.rest != Rest::Running {
            self.fetch_stalled(&[Priority::Background]);
            return;
        }
        self.copy_asked();
        self.fetch_stalled(&[Priority::Background]);
        self.copy_wanted();
        while self.settings.options.hydration && self.has_patience() {
            let Some(regions) = self.next_in_background() else { break };
            self.spend(&regions);
            self.hydration.regions += regions.end - regions.start;
            self.begin_copy(regions, Why::Background, None);
        }
        self.stop_at_limit();
    }

    /// When [`Self::hydrate`] has to be called if nothing happens.
    pub(in crate::engine) fn hydration_due(&self) -> Option<Duration> {
        if self.mode != Mode::ReadWrite || self.rest != Rest::Running {
            return None;
        }
        let is_on = self.settings.options.hydration;
        let retry = self.hydration.aside.next_due(self.now).filter(|_| is_on);
        let window = self.window.expires_at();
        [self.hydration.look_at, retry, window].into_iter().flatten().min()
    }

    /// Whether a copy that no user waits for may begin, or go on; if not, when to ask again is
    /// noted. A clone that comes to rest has no time for patience.
    pub(in crate::engine) fn has_patience(&mut self) -> bool {
        if self.rest != Rest::Running {
            return true;
        }
        let hydration = &self.hydration;
        let mut wait_until = hydration.rate.ready_at();
        // A line that is idle need not be shared.
        if self.buffers.bulk_bytes > 0 {
            wait_until = wait_until.max(self.window.paced_at());
        }
        if self.users > 0 || self.front.passes() > 0 {
            // Copies that users wait for do not count: they may never leave a gap.
            if self.buffers.background_bytes > 0 {
                // Its end will be heard of.
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

    /// Takes what is going to be copied off the limit.
    pub(in crate::engine) fn spend(&mut self, regions: &RegionRange) {
        let bytes = self.sizes.bytes_of(regions);
        let bytes = bytes.end - bytes.start;
        self.hydration.budget = self.hydration.budget.map(|budget| budget.saturating_sub(bytes));
    }

    /// A copy that nobody waited for has taken so long: while users are at work the next one
    /// leaves them nine times as long.
    pub(in crate::engine) fn be_patient(&mut self, took: Duration) {
        let rest = took.saturating_mul(REST_FACTOR);
        self.hydration.patient_until = self.now + rest.clamp(RESTS.0, RESTS.1);
    }

    /// Limits how much is copied from now on of what no user waits for.
    pub(in crate::engine) fn set_limit(&mut self, bytes: Option<u64>) {
        self.hydration.budget = bytes;
    }

    /// Whether one more region would be too much.
    fn is_at_limit(&self) -> bool {
        self.hydration.budget.is_some_and(|budget| budget < self.sizes.region_bytes())
    }

    /// Switches hydration off when all has been copied that was allowed.
    fn stop_at_limit(&mut self) {
        let has_more = self.hydrated < self.sizes.nr_regions;
        // What is under way may turn out to be a hole, and leave room for more.
        let is_idle = self.buffers.background_bytes == 0;
        let is_on = self.settings.options.hydration || self.has_wants();
        if self.is_at_limit() && is_idle && has_more && is_on {
            self.settings.options.hydration = false;
            self.hydration.budget = None;
            self.drop_wants();
            self.tell(Happening::LimitReached);
        }
    }

    /// What could not be copied, ascending.
    pub fn set_aside(&self) -> impl Iterator<Item = SetAside> + '_ {
        self.hydration.aside.places()
    }

    /// Free regions that begin at `regions.start`, as many as one copy may have now; `None` if
    /// there is no room, or if one region takes more than a copy.
    pub(in crate::engine) fn room_for_copy(&self, regions: RegionRange) -> Option<RegionRange> {
        let used = self.buffers.other.bytes;
        let room = self.share_bytes.saturating_sub(used).min(self.chunk_bytes);
        let most = room >> self.sizes.region_shift;
        (most > 0).then(|| regions.start..regions.end.min(regions.start + most))
    }

    /// The next regions for a copy in the background, within threshold and batch size.
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

    /// At most `most` regions that were set aside, are due and free.
    fn next_due(&mut self, most: u64) -> Option<RegionRange> {
        let due: Vec<RegionRange> = self.hydration.aside.due(self.now).collect();
        for mut place in due {
            while place.start < place.end {
                let end = place.end.min(place.start + most);
                let (end, state) = self.look(place.start..end);
                match state {
                    State::Free => return Some(place.start..end),
                    State::Hydrated => self.hydration.aside.remove(place.start..end),
                    State::Claimed(_) => {}
                }
                place.start = end;
            }
        }
        None
    }

    /// How many bytes one chunk of what nobody reads should have.
    pub(in crate::engine) fn piece_bytes(&self) -> u64 {
        self.window.piece_bytes().min(self.chunk_bytes)
    }

    /// How many regions the next copy may have, going by the room in buffers and on the line to
    /// the source; `None` if none.
    pub(in crate::engine) fn most_regions(&mut self) -> Option<u64> {
        let piece = self.piece_bytes();
        let bulk = self.buffers.bulk_bytes;
        let line = if bulk == 0 { u64::MAX } else { self.window.room(self.now, bulk) };
        let room = self.share_bytes.saturating_sub(self.buffers.other.bytes).min(line);
        if self.sizes.region_bytes() > piece {
            // Its chunks find room one by one.
            return (room > 0 && line >= piece).then_some(1);
        }
        Some(room.min(piece) >> self.sizes.region_shift).filter(|&most| most > 0)
    }

    /// The same where no user waits for it: however much users copy, one such copy may be under
    /// way.
    pub(in crate::engine) fn most_regions_for_nobody(&mut self) -> Option<u64> {
        let most = if self.is_background_idle() {
            (self.piece_bytes() >> self.sizes.region_shift).max(1)
        } else {
            self.most_regions()?
        };
        let allowed = self.hydration.budget.map(|budget| budget >> self.sizes.region_shift);
        Some(most.min(allowed.unwrap_or(most))).filter(|&most| most > 0)
    }

    /// The first of `regions` that are free and were not set aside, at most `most` of them.
    ///
    /// Only what is hydrated is walked over as far as it goes: the cursor does not come back to it
    /// before all else was looked at.
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
                match self.hydration.aside.look(at) {
                    (Some(inside), _) => at = inside,
                    (None, next) => return Some(at..end.min(next)),
                }
            }
        }
        None
    }

    /// Somebody else could not make regions hydrated: hydration looks at them again.
    pub(in crate::engine) fn look_again(&mut self, regions: RegionRange, failure: Failure) {
        let hydration = &mut self.hydration;
        if !hydration.exhausted {
            // It will come by.
        } else if hydration.aside.is_full() {
            hydration.exhausted = false;
        } else {
            hydration.aside.add_due(self.now, regions, failure);
        }
    }

    /// A copy has ended: counts it, and sets aside what failed.
    pub(in crate::engine) fn copy_ended(&mut self, regions: RegionRange, copy: Copy) {
        let Copy { why, since, nr_begun, failure, is_cancelled, .. } = copy;
        if regions.end - regions.start > nr_begun {
            self.learn_of_hole(self.now.saturating_sub(since));
        }
        let hydration = &mut self.hydration;
        if why == Why::Background {
            hydration.regions -= nr_begun;
        }
        match (failure, why) {
            (None, _) if is_cancelled => self.copy_later(regions, why),
            (None, Why::Demand) => {}
            (None, _) => hydration.failures = 0,
            (Some(failure), Why::Demand | Why::Read) => self.look_again(regions, failure),
            (Some(failure), Why::Wanted(Some(request))) => {
                self.refuse_asked(request);
                self.look_again(regions, failure);
            }
            (Some(failure), Why::Wanted(None) | Why::Background) => {
                if self.mode == Mode::ReadWrite {
                    self.put_aside(regions, failure);
                }
            }
        }
    }

    /// A copy was given up before it was complete: it is begun anew when the clone goes on.
    fn copy_later(&mut self, regions: RegionRange, why: Why) {
        if why.has_limit() {
            let bytes = self.sizes.bytes_of(&regions);
            self.hydration.refund(bytes.end - bytes.start);
        }
        // Also where somebody else wanted the copy: what is wanted may be dropped.
        self.hydration.exhausted = false;
        match why {
            Why::Background => self.hydration.cursor = regions.start,
            Why::Wanted(None) => self.want_first(regions),
            // What is asked for is looked at again.
            Why::Wanted(Some(_)) | Why::Read | Why::Demand => {}
        }
    }

    fn put_aside(&mut self, regions: RegionRange, failure: Failure) {
        let hydration = &mut self.hydration;
        let is_known = hydration.aside.look(regions.start).0.is_some();
        let is_half = is_known && regions.end - regions.start > 1;
        let is_too_many = hydration.aside.is_full() && !is_known;
        if is_too_many {
            hydration.exhausted = false;
        } else {
            hydration.aside.add(self.now, regions.clone(), failure.clone());
        }
        // That a half fails tells nothing new: the whole did.
        hydration.failures = hydration.failures.saturating_add(u32::from(!is_half));
        let max = self.settings.max_failures;
        let is_enough = max > 0 && hydration.failures >= max || is_too_many;
        let failures = hydration.failures;
        if is_enough && (self.settings.options.hydration || self.has_wants()) {
            self.settings.options.hydration = false;
            self.drop_wants();
            let range = self.sizes.bytes_of(&regions);
            self.tell(Happening::HydrationStopped { failures, range, failure });
        }
    }

    /// Switches hydration on, with what failed before tried again at once, or off.
    pub(in crate::engine) fn set_hydration(&mut self, on: bool) {
        self.settings.options.hydration = on;
        if !on {
            let is_it =
                |copy: &Copy| copy.why == Why::Background && copy.priority == Priority::Background;
            self.cancel_copies(is_it);
        } else {
            self.hydration.failures = 0;
            self.hydration.source_changed = false;
            self.hydration.aside.make_due(self.now);
        }
    }

    /// Stops hydration, and tells why, once until hydration is switched on again.
    pub(in crate::engine) fn source_changed(&mut self, reason: String) {
        self.settings.options.hydration = false;
        if !self.hydration.source_changed {
            self.hydration.source_changed = true;
            self.tell(Happening::SourceChanged { reason });
        }
    }

    /// Nothing can be copied any more, or need be.
    pub(in crate::engine) fn hydration_is_over(&mut self) {
        self.drop_wants();
        self.end_asked();
        self.hydration.aside = Aside::default();
    }
}
