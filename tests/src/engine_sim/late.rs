//! Bad behaviour that makes something late, to prove that the judges of time see it. What comes
//! late comes all the same, so that no other oracle sees it.

use std::collections::BTreeMap;

use clone_core::engine::{Event, Happening, Io, Notice, Operation, RequestError, RequestId};
use rand::RngExt;

use super::request::Slot;
use super::round::{Coming, Round, Suspension};
use super::saboteur::Mutant;
use super::violation::Halt;

const MS: u64 = 1_000_000;

/// How late an operation begins for which a user waits, and one for which nobody does.
const FETCH: (u64, u64) = (2 * MS, 400 * MS);

/// How late it is told that a clone is complete.
const FINISH: u64 = 50 * MS;

/// Beyond so many ends of flushes and commits a flush is answered all the same.
const BARRIERS: u32 = 12;

/// What is kept back.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// Operations that have not begun, but for the engine.
    held: BTreeMap<u64, Io>,
    /// So many were kept back.
    nr_held: u32,
    /// Answers of flushes, and how many flushes and commits had ended by then.
    answers: Vec<(RequestId, Result<(), RequestError>, u32)>,
    /// Flushes and commits that have ended.
    pub(super) barriers: u32,
    /// That the clone is complete.
    finish: Option<Notice>,
    /// That the clone is to be suspended.
    suspends: bool,
}

impl Round<'_> {
    /// What the engine wants begun, unless it is kept back.
    pub(super) fn keep_op(&mut self, key: u64, io: Io) -> Option<Io> {
        let is_urgent = match &io {
            Io::Fetch { urgent, .. } => *urgent,
            _ => return Some(io),
        };
        let is_kept = match self.world.mutant {
            // One is enough, where nobody takes many turns more for it.
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

    /// Whether users are at work, and do nothing but read.
    fn do_users_read(&self) -> bool {
        let mut busy = self.slots.iter().filter(|slot| slot.is_busy()).peekable();
        busy.peek().is_some() && busy.all(Slot::is_read)
    }

    /// Whether any operation is kept back.
    pub(super) fn is_op_kept(&self) -> bool {
        !self.kept.held.is_empty()
    }

    /// An operation is begun that was kept back.
    pub(super) fn begin_kept(&mut self, key: u64) -> Result<(), Halt> {
        self.kept.held.remove(&key).map_or(Ok(()), |io| self.start_op(key, io))
    }

    /// All operations are begun that were kept back.
    pub(super) fn begin_all_kept(&mut self) -> Result<(), Halt> {
        for (key, io) in std::mem::take(&mut self.kept.held) {
            self.start_op(key, io)?;
        }
        Ok(())
    }

    /// Whether an answer is kept back.
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

    /// Gives the answers that cannot be kept back any more.
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

    /// Notices as a mutant passes them on.
    pub(super) fn keep_notice(&mut self, notice: Notice) -> Option<Notice> {
        if self.world.is(Mutant::LateFinish) && notice.what == Happening::Finished {
            self.kept.finish = Some(notice);
            self.schedule(FINISH, Coming::Finish);
            return None;
        }
        let number = notice.number - u64::from(self.kept.finish.is_some());
        Some(Notice { number, ..notice })
    }

    /// It is told that the clone is complete.
    pub(super) fn kept_finish(&mut self) -> Option<Notice> {
        let notice = self.kept.finish.take()?;
        Some(Notice { number: self.notices + 1, ..notice })
    }

    /// Whether the clone hears only later that it is to be suspended.
    pub(super) fn keep_suspend(&mut self) -> bool {
        let is_it = self.world.is(Mutant::LateSuspend);
        if is_it && !std::mem::replace(&mut self.kept.suspends, true) {
            let after = self.world.rng.random_range(0..=50 * MS);
            self.schedule(after, Coming::Suspend);
        }
        is_it
    }

    /// It hears that it is to be suspended.
    pub(super) fn give_kept_suspend(&mut self) -> Result<(), Halt> {
        if std::mem::take(&mut self.kept.suspends) { self.tell(Event::Suspend) } else { Ok(()) }
    }
}
