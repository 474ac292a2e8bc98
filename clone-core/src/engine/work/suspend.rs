//! Suspending a clone, and going on.

use crate::engine::api::notice::Happening;
use crate::engine::regions::claim::Priority;
use crate::engine::{Engine, Mode, Rest};
use std::time::Duration;

/// How often passes are counted while they are waited for.
const GLANCE: Duration = Duration::from_millis(1);

impl Engine {
    /// Begins nothing new.
    pub(in crate::engine) fn suspend(&mut self) {
        match self.rest {
            Rest::Running => {
                self.rest = Rest::Suspending;
                self.resume_then = false;
                self.set_gate();
                // A large region may take minutes, and is whole again when it is begun anew.
                self.cancel_copies(|copy| copy.priority != Priority::Demand);
            }
            Rest::Suspending => self.resume_then = false,
            Rest::Suspended => {}
        }
    }

    /// Goes on, at once or when the clone has come to rest.
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

    /// Tells that the clone is at rest, once it is; whether it goes on again at once.
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

    /// When to count the passes that are out, if nothing else keeps the clone from its rest.
    pub(in crate::engine) fn rest_due(&self) -> Option<Duration> {
        let waits = self.rest == Rest::Suspending && self.is_idle();
        waits.then(|| self.now + GLANCE)
    }

    /// Whether nothing is under way, and all is committed that can be.
    fn is_idle(&self) -> bool {
        self.requests.len() == self.nr_asked()
            && self.claims.is_empty()
            && self.ops.is_empty()
            && self.rounds.is_settled()
    }

    /// Opens the short way past the engine, or closes it where every request has to be seen.
    pub(in crate::engine) fn set_gate(&mut self) {
        let is_open = self.rest == Rest::Running && self.mode != Mode::Failed && !self.is_recording;
        if is_open {
            self.front.open();
        } else {
            self.front.close();
        }
    }
}
