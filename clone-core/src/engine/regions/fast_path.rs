//! The short way: requests to regions that are hydrated pass the engine by.
//!
//! Whoever serves users has a [`Lane`] for each of its threads. A request that gets a [`Pass`] goes
//! to the destination and nowhere else, by the thread that has it. That costs one look into the map
//! and two additions to a counter that no other thread adds to.
//!
//! *Invariant:* no pass is given while lanes are closed, and when they are, the passes that were
//! given before can be counted: closing and entering a lane change the same atomic word.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;

use crate::engine::api::request::ByteRange;
use crate::engine::regions::map::Map;
use crate::geometry::{Geometry, SECTOR_SIZE};

/// What engine and lanes share.
#[derive(Debug)]
pub struct Front {
    size_bytes: u64,
    /// Regions are powers of two.
    region_shift: u32,
    /// `None` when all regions are hydrated and will stay so.
    map: ArcSwapOption<Map>,
    lanes: Mutex<Lanes>,
}

#[derive(Debug)]
struct Lanes {
    closed: bool,
    states: Vec<Weak<LaneState>>,
}

/// How many passes are out, and [`CLOSED`]. Alone in its cache lines: two of them, since
/// processors fetch in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct LaneState(AtomicU64);

const CLOSED: u64 = 1 << 63;

impl Front {
    pub(in crate::engine) fn new(geometry: Geometry, map: Option<Arc<Map>>) -> Self {
        let region_size = geometry.region_size().sectors().0 * SECTOR_SIZE;
        Self {
            size_bytes: geometry.target_size().0 * SECTOR_SIZE,
            region_shift: region_size.trailing_zeros(),
            map: ArcSwapOption::from(map),
            lanes: Mutex::new(Lanes { closed: false, states: Vec::new() }),
        }
    }

    /// A lane for one thread, or for whatever serves one request at a time.
    pub fn lane(self: &Arc<Self>) -> Lane {
        let mut lanes = self.lanes();
        lanes.states.retain(|state| state.strong_count() > 0);
        let state = Arc::new(LaneState(AtomicU64::new(if lanes.closed { CLOSED } else { 0 })));
        lanes.states.push(Arc::downgrade(&state));
        Lane { front: self.clone(), state }
    }

    /// How many passes are out.
    pub fn passes(&self) -> u64 {
        let of = |state: &Weak<LaneState>| {
            state.upgrade().map_or(0, |state| state.0.load(Ordering::SeqCst) & !CLOSED)
        };
        self.lanes().states.iter().map(of).sum()
    }

    /// Whether the clone is complete and the map gone.
    pub fn is_complete(&self) -> bool {
        self.map.load().is_none()
    }

    /// From now on no pass is given. Those that are out can be waited for.
    pub(crate) fn close(&self) {
        self.set_closed(true);
    }

    /// Passes are given again.
    pub(in crate::engine) fn open(&self) {
        self.set_closed(false);
    }

    fn set_closed(&self, closed: bool) {
        let mut lanes = self.lanes();
        lanes.closed = closed;
        for state in lanes.states.iter().filter_map(Weak::upgrade) {
            if closed {
                state.0.fetch_or(CLOSED, Ordering::SeqCst);
            } else {
                state.0.fetch_and(!CLOSED, Ordering::SeqCst);
            }
        }
    }

    /// Forgets the map: every region is hydrated, and that is committed.
    pub(in crate::engine) fn retire(&self) {
        self.map.store(None);
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where requests that need no engine go through.
#[derive(Debug)]
pub struct Lane {
    front: Arc<Front>,
    state: Arc<LaneState>,
}

impl Lane {
    /// Whether these bytes are still hydrated. A change that had a [`Pass`] asks again when it has
    /// been made: a commit that failed meanwhile may have taken the regions back, and then nobody
    /// will see the change.
    pub fn is_hydrated(&self, range: &ByteRange) -> bool {
        let shift = self.front.region_shift;
        let regions = range.start >> shift..(range.end.saturating_sub(1) >> shift) + 1;
        self.front.map.load().as_ref().is_none_or(|map| map.all(regions))
    }

    /// Whether the region is hydrated that `range` begins in, and up to where those are like it
    /// that follow, in bytes; no further than the end of the regions that `range` is in. `None` if
    /// no byte of the clone is in it.
    pub fn run(&self, range: &ByteRange) -> Option<(bool, u64)> {
        let Front { size_bytes, region_shift, .. } = *self.front;
        let (start, end) = (range.start, range.end.min(size_bytes));
        if start >= end {
            return None;
        }
        let Some(map) = &*self.front.map.load() else { return Some((true, size_bytes)) };
        let (last, hydrated) = map.run(start >> region_shift..((end - 1) >> region_shift) + 1);
        // A clone has fewer than 2^63 bytes, and so the end of a region can be counted.
        Some((hydrated, (last << region_shift).min(size_bytes)))
    }

    /// Lets a read, or a write or discard that need not be durable, of these bytes go to the
    /// destination; `None` if the engine has to see it.
    ///
    /// The pass is held until the destination has done it.
    pub fn pass(&self, range: &ByteRange) -> Option<Pass<'_>> {
        let before = self.state.0.fetch_add(1, Ordering::SeqCst);
        let pass = Pass { state: &self.state };
        let is_inside = range.start < range.end && range.end <= self.front.size_bytes;
        if before & CLOSED != 0 || !is_inside {
            return None;
        }
        self.is_hydrated(range).then_some(pass)
    }
}

/// Lets one request go to the destination while it is held.
#[derive(Debug)]
#[must_use = "it is given back when it is dropped"]
pub struct Pass<'a> {
    state: &'a LaneState,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.state.0.fetch_sub(1, Ordering::SeqCst);
    }
}
