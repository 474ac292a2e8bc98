//! Mutants that delay something, to prove that the judges of time event. The delayed action still
//! happens, so that no other oracle nr_events.

use std::collections::BTreeMap;

use clone_core::engine::{Event, EventKind, Input, Io, Operation, RequestError, RequestId};
use rand::RngExt;

use super::request::Slot;
use super::round::{Coming, Round, Suspension};
use super::saboteur::Mutant;
use super::violation::Halt;

const MS: u64 = 1_000_000;

/// Nanoseconds by which a fetch is delayed: with a user waiting for it, and without.
const FETCH: (u64, u64) = (2 * MS, 400 * MS);

/// Nanoseconds by which the event for a complete clone is delayed.
const FINISH: u64 = 50 * MS;

/// A delayed answer to a flush is given after this many ends of flushes and commits.
const BARRIERS: u32 = 12;

/// Delayed operations, answers and events.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// Operations that the engine has started and that have not begun.
    held: BTreeMap<u64, Io>,
    /// Number of operations delayed so far.
    nr_held: u32,
    /// Delayed answers to flushes, with the value of `barriers` at that time.
    answers: Vec<(RequestId, Result<(), RequestError>, u32)>,
    /// Number of flushes and commits that have ended.
    pub(super) barriers: u32,
    /// The delayed event for a complete clone.
    finish: Option<Event>,
    /// True if a suspend is delayed.
    suspends: bool,
}

impl Round<'_> {
    /// Returns the operation that the engine wants to start, unless a mutant delays it.
    pub(super) fn keep_op(&mut self, key: u64, io: Io) -> Option<Io> {
        let is_urgent = match &io {
            Io::Fetch { urgent, .. } => *urgent,
            _ => return Some(io),
        };
        let is_kept = match self.world.mutant {
            // One delayed fetch is enough if the latency keeps it from taking many more turns.
            Some(Mutant::LateFetch) => {
                is_urgent && self.kept.nr_held == 0 && self.world.plan.latency.usual >= MS
            }
            Some(Mutant::Starved) => !is_urgent && self.do_users_read(),
            _ => false,
        };
        if !is_kept || self.is_closing || self.suspension != Suspension::Running {
            return Some(io);
        }
        self.kept.nr_held += 1;
        self.kept.held.insert(key, io);
        let late = if is_urgent { FETCH.0 } else { FETCH.1 + self.world.plan.late };
        self.schedule(late, Coming::Begin { op: key });
        None
    }

    /// Returns whether users are active and only read.
    fn do_users_read(&self) -> bool {
        let mut busy = self.slots.iter().filter(|slot| slot.is_busy()).peekable();
        busy.peek().is_some() && busy.all(Slot::is_read)
    }

    /// Returns whether any operation is delayed.
    pub(super) fn is_op_kept(&self) -> bool {
        !self.kept.held.is_empty()
    }

    /// Begins a delayed operation.
    pub(super) fn begin_kept(&mut self, key: u64) -> Result<(), Halt> {
        self.kept.held.remove(&key).map_or(Ok(()), |io| self.start_op(key, io))
    }

    /// Begins all delayed operations.
    pub(super) fn begin_all_kept(&mut self) -> Result<(), Halt> {
        for (key, io) in std::mem::take(&mut self.kept.held) {
            self.start_op(key, io)?;
        }
        Ok(())
    }

    /// Delays an answer if the mutant does so. Returns whether the answer is delayed.
    pub(super) fn keep_answer(
        &mut self,
        request: RequestId,
        result: Result<(), RequestError>,
    ) -> bool {
        let is_it = self.world.is(Mutant::LateFlush)
            && self
                .slot_of(request)
                .is_ok_and(|slot| self.slots[slot].operation == Some(Operation::Flush));
        if is_it {
            self.kept.answers.push((request, result, self.kept.barriers));
        }
        is_it
    }

    /// Gives the delayed answers that are due.
    pub(super) fn give_kept_answers(&mut self) -> Result<(), Halt> {
        if self.kept.answers.is_empty() {
            return Ok(());
        }
        let is_waiting = self.is_barrier_under_way();
        for (request, result, barriers) in std::mem::take(&mut self.kept.answers) {
            if is_waiting && self.kept.barriers - barriers < BARRIERS {
                self.kept.answers.push((request, result, barriers));
            } else {
                self.answer(request, result)?;
            }
        }
        Ok(())
    }

    /// Passes an event on, unless a mutant delays it.
    pub(super) fn keep_event(&mut self, event: Event) -> Option<Event> {
        if self.world.is(Mutant::LateFinish) && event.kind == EventKind::Finished {
            self.kept.finish = Some(event);
            self.schedule(FINISH, Coming::Finish);
            return None;
        }
        let number = event.number - u64::from(self.kept.finish.is_some());
        Some(Event { number, ..event })
    }

    /// Returns the delayed event for a complete clone.
    pub(super) fn kept_finish(&mut self) -> Option<Event> {
        let event = self.kept.finish.take()?;
        Some(Event { number: self.nr_events + 1, ..event })
    }

    /// Delays a suspend if the mutant does so. Returns whether it is delayed.
    pub(super) fn keep_suspend(&mut self) -> bool {
        let is_it = self.world.is(Mutant::LateSuspend);
        if is_it && !std::mem::replace(&mut self.kept.suspends, true) {
            let after = self.world.rng.random_range(0..=50 * MS);
            self.schedule(after, Coming::Suspend);
        }
        is_it
    }

    /// Sends the delayed suspend to the engine.
    pub(super) fn give_kept_suspend(&mut self) -> Result<(), Halt> {
        if std::mem::take(&mut self.kept.suspends) { self.tell(Input::Suspend) } else { Ok(()) }
    }
}
