//! Copying in the background, and what users want copied next.
//!
//! Users go first: while a request of theirs is under way, at most one copy is, and between two of
//! them there is nine times as much rest as the first one took. So there is always some progress.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::aside::{Aside, PLACES_MAX, SetAside};
use crate::engine::claim::{Copy, Why};
use crate::engine::event::Failure;
use crate::engine::notice::Happening;
use crate::engine::plan::State;
use crate::engine::rate::Rate;
use crate::engine::request::{ByteRange, RequestError, RequestId};
use crate::engine::{Engine, Mode, Rest};
use crate::geometry::RegionRange;

/// How much longer than a copy the rest after it is, while users are at work.
const REST_FACTOR: u32 = 9;
/// The shortest of these rests, and the longest.
const RESTS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// How often it is looked whether users have gone: those that pass the engine by do not tell.
const GLANCE: Duration = Duration::from_millis(5);
/// The most ranges that wait to be copied next; what is beyond is left to hydration.
const WANTS_MAX: usize = 1 << 20;
/// The most of them up to which reads add to them.
const HINTS_MAX: usize = 64;

/// Where hydration is.
#[derive(Debug, Default)]
pub(super) struct Hydration {
    /// The region to look at next.
    cursor: u64,
    /// Whether nothing was free in a whole round from there.
    exhausted: bool,
    /// Regions under way for nobody in particular.
    regions: u64,
    aside: Aside,
    wants: VecDeque<Want>,
    pub(super) rate: Rate,
    /// How many bytes may still be copied; `None` for all.
    budget: Option<u64>,
    /// Copies that failed since one succeeded.
    failures: u32,
    /// No copy begins before this while users are at work.
    patient_until: Duration,
    /// When to look again.
    look_at: Option<Duration>,
}

/// A range that is to be copied next.
#[derive(Debug)]
struct Want {
    regions: RegionRange,
    request: Option<RequestId>,
}

impl Engine {
    /// Begins what may be copied now.
    pub(super) fn hydrate(&mut self) {
        self.hydration.look_at = None;
        if self.mode != Mode::ReadWrite || self.rest != Rest::Running {
            return;
        }
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
    pub(super) fn hydration_due(&self) -> Option<Duration> {
        let runs = self.mode == Mode::ReadWrite && self.rest == Rest::Running;
        let retry = self.hydration.aside.next_due();
        let retry = retry.filter(|&due| self.settings.options.hydration && due > self.now);
        [self.hydration.look_at, retry].into_iter().flatten().min().filter(|_| runs)
    }

    /// Whether a copy that no user waits for may begin; if not, when to ask again is noted.
    fn has_patience(&mut self) -> bool {
        let hydration = &self.hydration;
        let mut wait_until = hydration.rate.ready_at();
        if self.users > 0 || self.front.passes() > 0 {
            if self.buffers.other_bytes() > 0 {
                // Its end will be heard of.
                return false;
            }
            let glance = hydration.patient_until.min(self.now + GLANCE);
            wait_until =
                wait_until.max(if hydration.patient_until > self.now { glance } else { self.now });
        }
        if wait_until <= self.now {
            return true;
        }
        let look_at = self.hydration.look_at.map_or(wait_until, |at| at.min(wait_until));
        self.hydration.look_at = Some(look_at);
        false
    }

    fn spend(&mut self, regions: &RegionRange) {
        let bytes = self.sizes.bytes_of(regions);
        let bytes = bytes.end - bytes.start;
        self.hydration.rate.spend(self.now, bytes);
        self.hydration.budget = self.hydration.budget.map(|budget| budget.saturating_sub(bytes));
    }

    /// So many bytes of a copy were zeroes that nobody had to read.
    pub(super) fn refund(&mut self, why: Why, bytes: u64) {
        if matches!(why, Why::Background | Why::Wanted(None)) {
            self.hydration.rate.refund(bytes);
            self.hydration.budget = self.hydration.budget.map(|budget| budget + bytes);
        }
    }

    /// Limits how much is copied from now on of what no user waits for.
    pub(super) fn set_limit(&mut self, bytes: Option<u64>) {
        self.hydration.budget = bytes;
    }

    /// Whether one more region would be too much.
    fn is_at_limit(&self) -> bool {
        self.hydration.budget.is_some_and(|budget| budget < self.sizes.region_bytes())
    }

    /// Switches hydration off when all has been copied that was allowed.
    fn stop_at_limit(&mut self) {
        let hydration = &self.hydration;
        let wants = hydration.wants.iter().any(|want| want.request.is_none());
        let has_more = self.hydrated < self.sizes.nr_regions;
        // What is under way may turn out to be a hole, and leave room for more.
        let is_idle = self.buffers.other_bytes() == 0;
        if self.is_at_limit() && is_idle && has_more && (self.settings.options.hydration || wants) {
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
    pub(super) fn room_for_copy(&self, regions: RegionRange) -> Option<RegionRange> {
        let used = self.buffers.other_bytes();
        let room = self.share_bytes.saturating_sub(used).min(self.chunk_bytes);
        let most = room >> self.sizes.region_shift;
        (most > 0).then(|| regions.start..regions.end.min(regions.start + most))
    }

    /// The next regions for a copy in the background, within threshold and batch size.
    fn next_in_background(&mut self) -> Option<RegionRange> {
        let options = &self.settings.options;
        let threshold = u64::from(options.hydration_threshold);
        let batch = u64::from(options.hydration_batch_size.max(1));
        let most = batch.min(threshold.saturating_sub(self.hydration.regions));
        let most = most.min(self.most_regions_for_nobody()?);
        if most == 0 {
            return None;
        }
        let due: Vec<RegionRange> = self.hydration.aside.due(self.now).collect();
        for place in due {
            let (end, state) = self.look(place.clone());
            match state {
                State::Free => return Some(place.start..end.min(place.start + most)),
                State::Hydrated => self.hydration.aside.remove(place.start..end),
                State::Claimed(_) => {}
            }
        }
        if self.hydration.exhausted {
            return None;
        }
        let from = self.hydration.cursor;
        let nr_regions = self.sizes.nr_regions;
        let found = self.next_free(from..nr_regions).or_else(|| self.next_free(0..from));
        let Some(free) = found else {
            self.hydration.exhausted = true;
            return None;
        };
        let end = free.end.min(free.start + most);
        self.hydration.cursor = if end == nr_regions { 0 } else { end };
        Some(free.start..end)
    }

    /// How many regions the next copy may have, going by the room in buffers; `None` if none.
    fn most_regions(&self) -> Option<u64> {
        let used = self.buffers.other_bytes();
        if self.sizes.region_bytes() > self.chunk_bytes {
            // Its chunks find room one by one.
            return (used < self.share_bytes).then_some(1);
        }
        let room = self.share_bytes.saturating_sub(used).min(self.chunk_bytes);
        Some(room >> self.sizes.region_shift).filter(|&most| most > 0)
    }

    /// The same where no user waits for it.
    fn most_regions_for_nobody(&self) -> Option<u64> {
        let most = self.most_regions()?;
        let allowed = self.hydration.budget.map(|budget| budget >> self.sizes.region_shift);
        Some(most.min(allowed.unwrap_or(most))).filter(|&most| most > 0)
    }

    /// The first run of `regions` that is free and was not set aside.
    fn next_free(&self, regions: RegionRange) -> Option<RegionRange> {
        let mut at = regions.start;
        while at < regions.end {
            let (end, state) = self.look(at..regions.end);
            if state != State::Free {
                at = end;
                continue;
            }
            match self.hydration.aside.look(at) {
                (Some(inside), _) => at = inside,
                (None, next) => return Some(at..end.min(next)),
            }
        }
        None
    }

    /// A user wants a range copied next, and waits for it.
    pub(super) fn want(&mut self, range: ByteRange, request: RequestId) {
        if range.start == range.end || self.is_hydrated(&range) {
            self.end_part(request, Ok(()));
        } else if self.mode == Mode::ReadWrite {
            let regions = self.sizes.touched(&range);
            self.hydration.wants.push_front(Want { regions, request: Some(request) });
        } else {
            let error = self.mode_error();
            self.end_part(request, Err(error));
        }
    }

    /// A range is to be copied next, after those that were wanted before. What lies past the end
    /// of the clone is left out.
    pub(super) fn want_next(&mut self, range: &ByteRange) {
        let range = range.start..range.end.min(self.sizes.size_bytes);
        if range.start < range.end && self.hydration.wants.len() < WANTS_MAX && self.map.is_some() {
            let regions = self.sizes.touched(&range);
            self.hydration.wants.push_back(Want { regions, request: None });
        }
    }

    /// Users read here: a range to be copied next, unless there are enough of them.
    pub(super) fn want_soon(&mut self, range: &ByteRange) {
        if self.hydration.wants.len() < HINTS_MAX {
            self.want_next(range);
        }
    }

    /// Begins copies of what is wanted. It is wanted even where hydration is switched off.
    fn copy_wanted(&mut self) {
        let mut index = 0;
        while index < self.hydration.wants.len() {
            let want = &self.hydration.wants[index];
            let (regions, request) = (want.regions.clone(), want.request);
            if regions.start == regions.end {
                self.hydration.wants.remove(index);
                if let Some(request) = request {
                    self.end_part(request, Ok(()));
                }
                continue;
            }
            let (end, state) = self.look(regions.clone());
            match state {
                State::Hydrated => self.hydration.wants[index].regions.start = end,
                // It may end in a failure, so that it is looked at again.
                State::Claimed(_) if request.is_some() => index += 1,
                State::Claimed(_) => self.hydration.wants[index].regions.start = end,
                State::Free => {
                    if request.is_none() && !self.has_patience() {
                        return;
                    }
                    let most = match request {
                        Some(_) => self.most_regions(),
                        None => self.most_regions_for_nobody(),
                    };
                    let Some(most) = most else { return };
                    let regions = regions.start..end.min(regions.start + most);
                    if request.is_none() {
                        self.hydration.wants[index].regions.start = regions.end;
                        self.spend(&regions);
                    }
                    self.begin_copy(regions, Why::Wanted(request), None);
                }
            }
        }
    }

    /// Looks ahead of reads that go on where the last one ended.
    pub(super) fn read_ahead(&mut self, read: &ByteRange) {
        let Some(ahead) = self.streams.read(read, self.chunk_bytes) else { return };
        let mut at = read.end;
        let end = (read.end.saturating_add(ahead)).min(self.sizes.size_bytes);
        while at < end {
            let regions = self.sizes.touched(&(at..end));
            let (end, state) = self.look(regions.clone());
            if state == State::Free {
                let Some(regions) = self.room_for_copy(regions.start..end) else { return };
                at = self.sizes.bytes_of(&regions).end;
                self.begin_copy(regions, Why::Read, None);
            } else {
                at = end << self.sizes.region_shift;
            }
        }
    }

    /// A region has become free again.
    pub(super) fn look_again(&mut self) {
        self.hydration.exhausted = false;
    }

    /// A copy has ended: counts it, and sets aside what failed.
    pub(super) fn copy_ended(&mut self, regions: RegionRange, copy: Copy) {
        let Copy { why, since, nr_begun, failure, .. } = copy;
        let hydration = &mut self.hydration;
        if matches!(why, Why::Background | Why::Wanted(None)) {
            let rest = self.now.saturating_sub(since).saturating_mul(REST_FACTOR);
            hydration.patient_until = self.now + rest.clamp(RESTS.0, RESTS.1);
        }
        if why == Why::Background {
            hydration.regions -= nr_begun;
        }
        let Some(failure) = failure else {
            hydration.aside.remove(regions);
            if !why.is_demand() {
                hydration.failures = 0;
            }
            return;
        };
        hydration.exhausted = false;
        match why {
            Why::Demand | Why::Read => {}
            Why::Wanted(Some(request)) => {
                let index = hydration.wants.iter().position(|want| want.request == Some(request));
                if let Some(index) = index {
                    hydration.wants.remove(index);
                    self.end_part(request, Err(RequestError::NotCopied));
                }
            }
            Why::Wanted(None) | Why::Background if self.mode == Mode::ReadWrite => {
                self.put_aside(regions, failure);
            }
            Why::Wanted(None) | Why::Background => {}
        }
    }

    fn put_aside(&mut self, regions: RegionRange, failure: Failure) {
        let hydration = &mut self.hydration;
        hydration.aside.add(self.now, regions.clone(), failure.clone());
        hydration.failures = hydration.failures.saturating_add(1);
        let max = self.settings.max_failures;
        let is_enough = max > 0 && hydration.failures >= max || hydration.aside.len() >= PLACES_MAX;
        let is_on = self.settings.options.hydration || !hydration.wants.is_empty();
        if is_enough && is_on {
            let failures = hydration.failures;
            self.settings.options.hydration = false;
            self.drop_wants();
            let range = self.sizes.bytes_of(&regions);
            self.tell(Happening::HydrationStopped { failures, range, failure });
        }
    }

    /// Switches hydration on, with what failed before tried again at once, or off.
    pub(super) fn set_hydration(&mut self, on: bool) {
        self.settings.options.hydration = on;
        if on {
            self.hydration.failures = 0;
            self.hydration.aside.make_due(self.now);
        }
    }

    /// Nothing can be copied any more.
    pub(super) fn hydration_is_over(&mut self) {
        for want in std::mem::take(&mut self.hydration.wants) {
            let result = if self.mode == Mode::ReadWrite { Ok(()) } else { Err(self.mode_error()) };
            if let Some(request) = want.request {
                self.end_part(request, result);
            }
        }
        self.hydration.aside = Aside::default();
    }

    /// Forgets the ranges for which nobody waits.
    fn drop_wants(&mut self) {
        self.hydration.wants.retain(|want| want.request.is_some());
    }

    /// Requests that wait for ranges to be copied, and so do not end while nothing is.
    pub(super) fn nr_wanting(&self) -> usize {
        self.hydration.wants.iter().filter(|want| want.request.is_some()).count()
    }
}
