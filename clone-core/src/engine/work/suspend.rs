//! Suspending and resuming a clone.

use crate::engine::api::event::EventKind;
use crate::engine::regions::claim::Priority;
use crate::engine::{Engine, Mode, RunState};
use std::time::Duration;

/// Interval for counting passes while the engine waits for them.
const GLANCE: Duration = Duration::from_millis(1);

impl Engine {
    /// Suspends the clone: no new work begins.
    pub(in crate::engine) fn suspend(&mut self) {
        match self.run_state {
            RunState::Running => {
                self.run_state = RunState::Suspending;
                self.resume_then = false;
                self.set_gate();
                // A large region may take minutes. A cancelled copy starts over after the clone
                // resumes.
                self.cancel_copies(|copy| copy.priority != Priority::Demand);
            }
            RunState::Suspending => self.resume_then = false,
            RunState::Suspended => {}
        }
    }

    /// Resumes the clone, immediately or as soon as it is suspended.
    pub(in crate::engine) fn resume(&mut self) {
        match self.run_state {
            RunState::Running => {}
            RunState::Suspending => self.resume_then = true,
            RunState::Suspended => {
                self.run_state = RunState::Running;
                self.set_gate();
                self.emit(EventKind::Resumed);
                self.take_held();
            }
        }
    }

    /// Completes and reports a suspend if the clone is idle. Returns true if the clone resumes at
    /// once.
    pub(in crate::engine) fn rest_if_idle(&mut self) -> bool {
        if self.run_state != RunState::Suspending || !self.is_idle() || self.fast_path.passes() > 0
        {
            return false;
        }
        self.run_state = RunState::Suspended;
        self.emit(EventKind::Suspended);
        if self.resume_then {
            self.resume();
        }
        self.resume_then
    }

    /// Returns the time to count the passes again, if only passes keep the clone from being
    /// suspended.
    pub(in crate::engine) fn rest_due(&self) -> Option<Duration> {
        let waits = self.run_state == RunState::Suspending && self.is_idle();
        waits.then(|| self.now + GLANCE)
    }

    /// Returns true if nothing is in flight and all that can be committed is committed.
    fn is_idle(&self) -> bool {
        self.requests.len() == self.nr_hydrate_requests()
            && self.claims.is_empty()
            && self.ops.is_empty()
            && self.commits.is_settled()
    }

    /// Opens the fast path, or closes it if the engine has to see every request.
    pub(in crate::engine) fn set_gate(&mut self) {
        let is_open =
            self.run_state == RunState::Running && self.mode != Mode::Failed && !self.is_recording;
        if is_open {
            self.fast_path.open();
        } else {
            self.fast_path.close();
        }
    }
}
