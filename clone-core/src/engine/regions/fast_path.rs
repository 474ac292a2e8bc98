//! The fast path: requests to hydrated regions bypass the engine.
//!
//! Each thread that serves users has a [`Lane`]. A request with a [`Pass`] goes directly to the
//! destination, on the thread that holds the pass. This costs one lookup in the map and two
//! additions to a counter that no other thread adds to. The engine closes the lanes to suspend the
//! clone or to record reads.
//!
//! *Invariant:* no pass is given while lanes are closed, and the passes given before can then be
//! counted: closing a lane and entering it change the same atomic word.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;

use crate::engine::api::request::ByteRange;
use crate::engine::regions::map::Map;
use crate::geometry::{Geometry, SECTOR_SIZE};

/// The state that the engine shares with the lanes.
#[derive(Debug)]
pub struct FastPath {
    size_bytes: u64,
    /// Base-2 logarithm of the region size in bytes.
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

/// The number of passes held, and [`CLOSED`]. Aligned to two cache lines, since processors prefetch
/// them in pairs: lanes must not share any.
#[derive(Debug)]
#[repr(align(128))]
struct LaneState(AtomicU64);

const CLOSED: u64 = 1 << 63;

impl FastPath {
    pub(in crate::engine) fn new(geometry: Geometry, map: Option<Arc<Map>>) -> Self {
        let region_size = geometry.region_size().sectors().0 * SECTOR_SIZE;
        Self {
            size_bytes: geometry.target_size().0 * SECTOR_SIZE,
            region_shift: region_size.trailing_zeros(),
            map: ArcSwapOption::from(map),
            lanes: Mutex::new(Lanes { closed: false, states: Vec::new() }),
        }
    }

    /// Creates a lane for one thread, or for another user that serves one request at a time.
    pub fn lane(self: &Arc<Self>) -> Lane {
        let mut lanes = self.lanes();
        lanes.states.retain(|state| state.strong_count() > 0);
        let state = Arc::new(LaneState(AtomicU64::new(if lanes.closed { CLOSED } else { 0 })));
        lanes.states.push(Arc::downgrade(&state));
        Lane { fast_path: self.clone(), state }
    }

    /// Returns the number of passes held.
    pub fn passes(&self) -> u64 {
        let of = |state: &Weak<LaneState>| {
            state.upgrade().map_or(0, |state| state.0.load(Ordering::SeqCst) & !CLOSED)
        };
        self.lanes().states.iter().map(of).sum()
    }

    /// Returns true if the clone is complete and the map is gone.
    pub fn is_complete(&self) -> bool {
        self.map.load().is_none()
    }

    /// Stops giving passes. The caller can wait for those that are held.
    pub(crate) fn close(&self) {
        self.set_closed(true);
    }

    /// Gives passes again.
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

    /// Drops the map: every region is hydrated and committed.
    pub(in crate::engine) fn retire(&self) {
        self.map.store(None);
    }

    fn lanes(&self) -> std::sync::MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's access to the fast path.
#[derive(Debug)]
pub struct Lane {
    fast_path: Arc<FastPath>,
    state: Arc<LaneState>,
}

impl Lane {
    /// Returns true if all bytes of `range` are hydrated. After a change under a [`Pass`] the
    /// caller checks again: a commit that failed meanwhile may have cleared the bits, and then no
    /// read will see the change.
    pub fn is_hydrated(&self, range: &ByteRange) -> bool {
        let shift = self.fast_path.region_shift;
        let regions = range.start >> shift..(range.end.saturating_sub(1) >> shift) + 1;
        self.fast_path.map.load().as_ref().is_none_or(|map| map.all(regions))
    }

    /// Returns whether the first region of `range` is hydrated, and the end, in bytes, of the run
    /// of regions in that state; the run ends with the last region of `range` at the latest.
    /// Returns `None` if `range` contains no byte of the clone.
    pub fn run(&self, range: &ByteRange) -> Option<(bool, u64)> {
        let FastPath { size_bytes, region_shift, .. } = *self.fast_path;
        let (start, end) = (range.start, range.end.min(size_bytes));
        if start >= end {
            return None;
        }
        let Some(map) = &*self.fast_path.map.load() else { return Some((true, size_bytes)) };
        let (last, hydrated) = map.run(start >> region_shift..((end - 1) >> region_shift) + 1);
        // A clone has fewer than 2^63 bytes, so the shift does not overflow.
        Some((hydrated, (last << region_shift).min(size_bytes)))
    }

    /// Returns a pass for a read, or for a write or discard that need not be durable, of these
    /// bytes; `None` if the request must go to the engine.
    ///
    /// The caller holds the pass until the destination has completed the request.
    pub fn pass(&self, range: &ByteRange) -> Option<Pass<'_>> {
        let before = self.state.0.fetch_add(1, Ordering::SeqCst);
        let pass = Pass { state: &self.state };
        let is_inside = range.start < range.end && range.end <= self.fast_path.size_bytes;
        if before & CLOSED != 0 || !is_inside {
            return None;
        }
        self.is_hydrated(range).then_some(pass)
    }
}

/// The right to send one request to the destination, for as long as it is held.
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
