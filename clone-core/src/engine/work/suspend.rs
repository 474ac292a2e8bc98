//! Suspending and resuming a clone.

use crate::engine::api::notice::Happening;
use crate::engine::regions::claim::Priority;
use crate::engine::{Engine, Mode, Rest};
use std::time::Duration;

/// Interval for counting passes while the engine waits for them.
const GLANCE: Duration = Duration::from_millis(1);

impl Engine {
    /// Suspends the clone: no new work begins.
    pub(in crate::engine) fn suspend(&mut self) {
        match self.rest {
            Rest::Running => {
                self.rest = Rest::Suspending;
                self.resume_then = false;
                self.set_gate();
                // A large region may take minutes. A cancelled copy starts over after the clone
                // resumes.
                self.cancel_copies(|copy| copy.priority != Priority::Demand);
            }
            Rest::Suspending => self.resume_then = false,
            Rest::Suspended => {}
        }
    }

    /// Resumes the clone, immediately or as soon as it is suspended.
    pub(in crate::engine) fn resume(&mut self) {
        match self.rest {
            Rest::Running => {}
            Rest::Suspending => self.resume_then = true,
            Rest::Suspended => {
                self.rest = Rest::Running;
                self.set_gate();
                self.tell(Happening::Resumed);
                self.take_held();
            }
        }
    }

    /// Completes and reports a suspend if the clone is idle. Returns true if the clone resumes at
    /// once.
    pub(in crate::engine) fn rest_if_idle(&mut self) -> bool {
        if self.rest != Rest::Suspending || !self.is_idle() || self.front.passes() > 0 {
            return false;
        }
        self.rest = Rest::Suspended;
        self.tell(Happening::Suspended);
        if self.resume_then {
            self.resume();
        }
        self.resume_then
    }

    /// Returns the time to count the passes again, if only passes keep the clone from being
    /// suspended.
    pub(in crate::engine) fn rest_due(&self) -> Option<Duration> {
        let waits = self.rest == Rest::Suspending && self.is_idle();
        waits.then(|| self.now + GLANCE)
    }

    /// Returns true if nothing is in flight and all that can be committed is committed.
    fn is_idle(&self) -> bool {
        self.requests.len() == self.nr_asked()
            && self.claims.is_empty()
            && self.ops.is_empty()
            && self.rounds.is_settled()
    }

    /// Opens the fast path, or closes it if the engine has to see every request.
    pub(in crate::engine) fn set_gate(&mut self) {
        let is_open = self.rest == Rest::Running && self.mode != Mode::Failed && !self.is_recording;
        if is_open {
            self.front.open();
        } else {
            self.front.close();
        }
    }
}
