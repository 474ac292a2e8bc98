//! What users want copied next, whether hydration is switched on or not: ranges that somebody
//! waits for, ranges that nobody does, and what reads will probably come to.

use std::collections::VecDeque;
use std::mem;

use crate::engine::claim::Why;
use crate::engine::plan::State;
use crate::engine::request::{ByteRange, RequestError, RequestId};
use crate::engine::{Engine, Mode};
use crate::geometry::RegionRange;

/// The most ranges that wait to be copied next; what is beyond is left to hydration.
const WANTS_MAX: usize = 1 << 20;
/// The most of them up to which reads add to them.
const HINTS_MAX: usize = 64;
/// How many requests are worked for at a time; those behind have to wait for these.
const ASKED_AT_ONCE: usize = 64;

/// What users want copied.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Requests that wait for regions, with those that are left, in the order in which they came.
    asked: VecDeque<(RequestId, RegionRange)>,
    /// Regions that nobody waits for.
    wants: VecDeque<RegionRange>,
}

impl Engine {
    /// A user wants a range copied now, and waits for it.
    pub(super) fn ask(&mut self, range: &ByteRange, request: RequestId) {
        if range.start == range.end || self.is_hydrated(range) {
            self.end_part(request, Ok(()));
        } else if self.mode == Mode::ReadWrite {
            self.wanted.asked.push_back((request, self.sizes.touched(range)));
        } else {
            let error = self.mode_error();
            self.end_part(request, Err(error));
        }
    }

    /// A range is to be copied next, after those that were wanted before. What lies past the end
    /// of the clone is left out.
    pub(super) fn want(&mut self, range: &ByteRange) {
        let range = range.start..range.end.min(self.sizes.size_bytes);
        let is_of_use = self.map.is_some() && self.mode == Mode::ReadWrite;
        if range.start < range.end && is_of_use && self.wanted.wants.len() < WANTS_MAX {
            self.wanted.wants.push_back(self.sizes.touched(&range));
        }
    }

    /// Users read here: a range to be copied next, unless there are enough of them.
    pub(super) fn want_soon(&mut self, range: &ByteRange) {
        if self.wanted.wants.len() < HINTS_MAX {
            self.want(range);
        }
    }

    /// Begins copies for those who wait, as many as there is room for.
    pub(super) fn copy_asked(&mut self) {
        let mut index = 0;
        while index < self.wanted.asked.len().min(ASKED_AT_ONCE) {
            let (request, mut regions) = self.wanted.asked[index].clone();
            // What is hydrated at the beginning need not be looked at again.
            let mut is_first = true;
            while regions.start < regions.end {
                let (end, state) = self.look(self.some(&regions));
                match state {
                    State::Hydrated if is_first => self.wanted.asked[index].1.start = end,
                    State::Hydrated => {}
                    // It may fail, so that its regions are looked at again.
                    State::Claimed(_) => is_first = false,
                    State::Free => {
                        is_first = false;
                        let Some(most) = self.most_regions() else { return };
                        let end = end.min(regions.start + most);
                        let why = Why::Wanted(Some(request));
                        self.begin_copy(regions.start..end, why, None);
                        regions.start = end;
                        continue;
                    }
                }
                regions.start = end;
            }
            if is_first {
                self.wanted.asked.remove(index);
                self.end_part(request, Ok(()));
            } else {
                index += 1;
            }
        }
    }

    /// Begins copies of what is wanted and nobody waits for.
    pub(super) fn copy_wanted(&mut self) {
        while let Some(regions) = self.wanted.wants.front().cloned() {
            if regions.start == regions.end {
                self.wanted.wants.pop_front();
                continue;
            }
            let (mut end, state) = self.look(self.some(&regions));
            if state == State::Free {
                if !self.has_patience() {
                    return;
                }
                let Some(most) = self.most_regions_for_nobody() else { return };
                end = end.min(regions.start + most);
                self.spend(&(regions.start..end));
                self.begin_copy(regions.start..end, Why::Wanted(None), None);
            }
            self.wanted.wants[0].start = end;
        }
    }

    /// As many of `regions` as are worth looking at for one copy.
    fn some(&self, regions: &RegionRange) -> RegionRange {
        let most = (self.chunk_bytes >> self.sizes.region_shift).max(64);
        regions.start..regions.end.min(regions.start + most)
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

    /// A copy has failed that somebody waits for. One answer is enough.
    pub(super) fn refuse_asked(&mut self, request: RequestId) {
        let asked = &mut self.wanted.asked;
        if let Some(index) = asked.iter().position(|&(asked, _)| asked == request) {
            asked.remove(index);
            self.end_part(request, Err(RequestError::NotCopied));
        }
    }

    /// Answers those who wait: nothing can be copied any more, or need be.
    pub(super) fn end_asked(&mut self) {
        for (request, regions) in mem::take(&mut self.wanted.asked) {
            let is_done = self.map.as_ref().is_none_or(|map| map.all(regions));
            self.end_part(request, if is_done { Ok(()) } else { Err(self.mode_error()) });
        }
    }

    /// Forgets the ranges for which nobody waits.
    pub(super) fn drop_wants(&mut self) {
        self.wanted.wants.clear();
    }

    /// Whether there are ranges for which nobody waits.
    pub(super) fn has_wants(&self) -> bool {
        !self.wanted.wants.is_empty()
    }

    /// Requests that wait for ranges to be copied, and so do not end while nothing is.
    pub(super) fn nr_asked(&self) -> usize {
        self.wanted.asked.len()
    }
}
