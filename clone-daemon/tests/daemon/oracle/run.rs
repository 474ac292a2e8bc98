//! The shared state of a run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clone_daemon::nbd_protocol::{command, errno};

use super::content::Content;
use super::hydrated::Hydrated;
use super::model::Model;
use super::plan::{Place, Plan};
use super::watchdog::Waits;

/// The name of the clone.
pub(super) const NAME: &str = "disk";

/// The known state of the clone. One lock covers both fields: they use the same moments.
pub(super) struct Known {
    pub(super) model: Model,
    pub(super) hydrated: Hydrated,
}

pub(super) struct Run {
    pub(super) plan: Plan,
    pub(super) content: Arc<Content>,
    /// The directory for sockets and small files.
    pub(super) folder: PathBuf,
    known: Mutex<Known>,
    pub(super) gate: Gate,
    pub(super) waits: Waits,
    pub(super) tally: Tally,
    finding: Mutex<Option<String>>,
    /// True after a finding: then nothing else matters.
    is_over: AtomicBool,
    /// True if users must stop.
    is_ending: AtomicBool,
    /// True if the destination has been truncated.
    pub(super) is_truncated: AtomicBool,
    /// True if a flush of the destination has failed, or will soon.
    pub(super) is_read_only: AtomicBool,
    pub(super) pid: AtomicU32,
}

impl Run {
    pub(super) fn new(plan: Plan, folder: PathBuf) -> Self {
        let content = Arc::new(Content::new(plan.seed, plan.size as usize));
        let known = Known {
            model: Model::new(content.clone()),
            hydrated: Hydrated::new(plan.size, plan.region),
        };
        Self {
            plan,
            content,
            folder,
            known: known.into(),
            gate: Gate::default(),
            waits: Waits::default(),
            tally: Tally::default(),
            finding: Mutex::default(),
            is_over: AtomicBool::default(),
            is_ending: AtomicBool::default(),
            is_truncated: AtomicBool::default(),
            is_read_only: AtomicBool::default(),
            pid: AtomicU32::default(),
        }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a finding. Only the first one counts: it may cause the others.
    pub(super) fn find(&self, told: impl Into<String>) {
        let mut finding = self.finding.lock().unwrap_or_else(PoisonError::into_inner);
        finding.get_or_insert_with(|| told.into());
        drop(finding);
        self.is_over.store(true, Ordering::Release);
        self.gate.wake();
    }

    pub(super) fn finding(&self) -> Option<String> {
        self.finding.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Returns whether users must begin nothing more.
    pub(super) fn is_ending(&self) -> bool {
        self.is_over() || self.is_ending.load(Ordering::Acquire)
    }

    pub(super) fn set_ending(&self, is_ending: bool) {
        self.is_ending.store(is_ending, Ordering::Release);
        self.gate.wake();
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("nbd")
    }

    pub(super) fn control(&self) -> PathBuf {
        self.folder.join("control")
    }

    /// Returns whether there is a reason for the clone to be in a bad state.
    pub(super) fn may_be_broken(&self) -> bool {
        self.is_truncated.load(Ordering::Acquire) || self.is_read_only.load(Ordering::Acquire)
    }

    /// Returns whether there is a reason for a request to fail with this error.
    pub(super) fn excuses(&self, asked: u16, error: u32, mark: Mark) -> bool {
        let is_io = error == errno::EIO;
        let changes = matches!(asked, command::WRITE | command::WRITE_ZEROES | command::TRIM);
        let is_full = error == errno::ENOSPC || is_io;
        let has_little = matches!(self.plan.place, Place::Small(_));
        let by_source = self.plan.source_fails() && asked != command::FLUSH && is_io;
        let by_room = has_little && is_full && (changes || asked == command::CACHE);
        let by_end = (is_io || error == errno::ESHUTDOWN) && self.gate.is_disturbed(mark);
        let by_flush = self.is_read_only.load(Ordering::Acquire) && asked != command::READ;
        by_end || by_source || by_room || by_flush || self.is_truncated.load(Ordering::Acquire)
    }
}

/// A moment in the life of the daemon: `None` if the clone did not exist.
pub(super) type Mark = Option<u64>;

/// Admits users while the clone exists, and knows when all have left.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Number of times that the gate was closed, readable without the lock.
    closed: AtomicU64,
    is_open: AtomicBool,
}

#[derive(Default)]
struct GateState {
    is_open: bool,
    inside: u32,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, GateState>) -> MutexGuard<'a, GateState> {
        let wait = Duration::from_millis(50);
        self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    pub(super) fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
        self.lock().is_open = true;
        self.wake();
    }

    /// Closes the gate: from now on every failure of a user has a reason.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        self.closed.fetch_add(1, Ordering::SeqCst);
        self.is_open.store(false, Ordering::SeqCst);
        state.is_open = false;
    }

    /// Waits until the clone exists. Returns `None` if users must stop.
    pub(super) fn enter(&self, run: &Run) -> Option<Inside<'_>> {
        let mut state = self.lock();
        while !state.is_open {
            if run.is_ending() {
                return None;
            }
            state = self.wait(state);
        }
        if run.is_ending() {
            return None;
        }
        state.inside += 1;
        let mark = Some(self.closed.load(Ordering::SeqCst));
        Some(Inside { gate: self, mark })
    }

    /// Waits until all users have left. Returns false after a finding.
    pub(super) fn wait_until_empty(&self, run: &Run) -> bool {
        let mut state = self.lock();
        while state.inside > 0 {
            if run.is_over() {
                return false;
            }
            state = self.wait(state);
        }
        true
    }

    pub(super) fn mark(&self) -> Mark {
        let closed = self.closed.load(Ordering::SeqCst);
        self.is_open.load(Ordering::SeqCst).then_some(closed)
    }

    /// Returns whether the clone was missing or being removed at some time since `mark`.
    pub(super) fn is_disturbed(&self, mark: Mark) -> bool {
        mark.is_none_or(|closed| self.closed.load(Ordering::SeqCst) != closed)
    }
}

/// An admitted user, until this is dropped.
pub(super) struct Inside<'a> {
    gate: &'a Gate,
    pub(super) mark: Mark,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.gate.lock().inside -= 1;
        self.gate.wake();
    }
}

/// Operation counters by name.
#[derive(Default)]
pub(super) struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, what: &str, count: u64) {
        let mut all = self.lock();
        match all.get_mut(what) {
            Some(known) => *known += count,
            None => drop(all.insert(what.to_owned(), count)),
        }
    }

    pub(super) fn add_all(&self, other: &Self) {
        let other = other.lock().clone();
        for (what, count) in other {
            self.add(&what, count);
        }
    }

    pub(super) fn get(&self, what: &str) -> u64 {
        self.lock().get(what).copied().unwrap_or(0)
    }

    /// Describes all counters.
    pub(super) fn told(&self) -> String {
        let all = self.lock();
        let told: Vec<String> = all.iter().map(|(what, count)| format!("{what} {count}")).collect();
        told.join(", ")
    }
}
