//! Making things durable: rounds of flushing the destination and committing metadata.
//!
//! *Invariants:* a round commits the regions that were marked before its flush of the destination
//! began, and no other: those that are marked meanwhile belong to the next round. It answers the
//! requests that came before it began. After a flush or a commit that failed there are no more
//! rounds: what waits for one fails.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::api::action::{Action, Io};
use crate::engine::api::event::{Done, Failure};
use crate::engine::api::notice::Happening;
use crate::engine::api::request::{Operation, RequestError, RequestId};
use crate::engine::regions::region_set::RegionSet;
use crate::engine::{Engine, Mode, Op, Rest};
use crate::geometry::RegionRange;

/// How long a change may wait for its commit.
const PERIOD: Duration = Duration::from_secs(1);

/// The most memory that changes may take before they are committed: a few MiB.
const PIECES_MAX: usize = 1 << 15;

/// What is not durable yet, and who waits for that.
#[derive(Debug, Default)]
pub(in crate::engine) struct Rounds {
    state: State,
    /// Marked since the round under way began, or since the last one.
    changed: RegionSet,
    /// When the first of them was.
    changed_since: Option<Duration>,
    /// Marked before the round under way began.
    committing: Arc<RegionSet>,
    /// Whom the next round answers.
    waiting: Vec<Waiter>,
    /// Whom the round under way answers.
    served: Vec<Waiter>,
    /// Why no flush can be believed any more, though the clone is not read-only.
    flush_failed: Option<RequestError>,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    request: RequestId,
    /// Whether it wants the destination flushed even if there is nothing to commit.
    needs_flush: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Flushing,
    Committing,
    Aborting,
}

impl Rounds {
    /// Takes down that `regions` were marked.
    pub(in crate::engine) fn note(&mut self, now: Duration, regions: RegionRange) {
        self.changed_since.get_or_insert(now);
        self.changed.insert(regions);
    }

    /// Has the next round answer a request.
    pub(in crate::engine) fn join(&mut self, request: RequestId, operation: Operation) {
        let needs_flush = operation != Operation::Commit;
        self.waiting.push(Waiter { request, needs_flush });
    }

    /// Whether nothing is under way and nothing is left to commit.
    pub(in crate::engine) fn is_settled(&self) -> bool {
        self.state == State::Idle && self.changed.is_empty()
    }

    /// Whether all that was marked is committed. A flush of the destination alone may be under way.
    pub(in crate::engine) fn is_committed(&self) -> bool {
        self.changed.is_empty() && self.committing.is_empty()
    }

    /// When a round has to begin if nothing else makes it.
    pub(in crate::engine) fn due(&self) -> Option<Duration> {
        let since = self.changed_since.filter(|_| self.state == State::Idle);
        since.map(|since| since.saturating_add(PERIOD))
    }
}

impl Engine {
    /// Begins a round if there is reason to.
    pub(in crate::engine) fn begin_round(&mut self) {
        if self.rounds.state != State::Idle {
            return;
        }
        if self.mode != Mode::ReadWrite {
            self.fail_waiters();
            return;
        }
        let rounds = &mut self.rounds;
        if rounds.changed.is_empty() {
            // Whoever wants no more than a commit has it.
            let (flush, commit) =
                mem::take(&mut rounds.waiting).into_iter().partition(|w| w.needs_flush);
            rounds.waiting = flush;
            let commit: Vec<Waiter> = commit;
            self.answer_waiters(commit, Ok(()));
        }
        if let Some(error) = self.rounds.flush_failed {
            let flush = mem::take(&mut self.rounds.waiting);
            self.answer_waiters(flush, Err(error));
        }
        let is_all_marked = self.hydrated == self.sizes.nr_regions;
        let rounds = &mut self.rounds;
        let hurry = is_all_marked
            || self.rest == Rest::Suspending
            || rounds.changed.nr_pieces() >= PIECES_MAX
            || rounds.due().is_some_and(|due| due <= self.now);
        if rounds.waiting.is_empty() && (rounds.changed.is_empty() || !hurry) {
            return;
        }
        rounds.state = State::Flushing;
        rounds.served = mem::take(&mut rounds.waiting);
        rounds.committing = Arc::new(mem::take(&mut rounds.changed));
        rounds.changed_since = None;
        self.start(Op::Flush, Io::Flush);
    }

    /// The destination was flushed, or could not be.
    pub(in crate::engine) fn flushed(&mut self, result: Result<Done, Failure>) {
        match result {
            Ok(_) if self.rounds.committing.is_empty() => self.end_round(),
            Ok(_) => {
                self.rounds.state = State::Committing;
                let regions = Arc::clone(&self.rounds.committing);
                self.start(Op::Commit, Io::Commit { regions });
            }
            // No bit depends on it any more.
            Err(failure) if self.map.is_none() => self.flush_failed(failure),
            Err(failure) => self.become_read_only(failure),
        }
    }

    /// A complete clone could not be flushed. What was lost is still lost when the destination is
    /// well again, and nobody knows whose it was: later flushes fail, too.
    fn flush_failed(&mut self, failure: Failure) {
        let error = RequestError::Device(failure.device);
        self.rounds.state = State::Idle;
        self.rounds.flush_failed = Some(error);
        let served = mem::take(&mut self.rounds.served);
        self.answer_waiters(served, Err(error));
        self.tell(Happening::FlushFailed(failure));
    }

    /// Metadata was committed, or could not be.
    pub(in crate::engine) fn committed(&mut self, result: Result<Done, Failure>) {
        match result {
            Ok(done) => {
                if let Done::Blocks { used } = done {
                    self.metadata_used = used;
                }
                self.end_round();
            }
            Err(failure) => self.become_read_only(failure),
        }
    }

    fn end_round(&mut self) {
        self.rounds.state = State::Idle;
        self.rounds.committing = Arc::default();
        let served = mem::take(&mut self.rounds.served);
        self.answer_waiters(served, Ok(()));
    }

    /// A write or a flush failed: what it held is unknown, so that nothing can be marked any more.
    /// What is not committed is taken back, as it would be by a crash.
    fn become_read_only(&mut self, failure: Failure) {
        self.mode = Mode::ReadOnly;
        let committing = mem::take(&mut self.rounds.committing);
        let changed = mem::take(&mut self.rounds.changed);
        self.rounds.changed_since = None;
        let needs_abort = !(committing.is_empty() && changed.is_empty());
        if let Some(map) = &self.map {
            let marked = committing.runs().chain(changed.runs());
            self.hydrated -= marked.map(|regions| map.clear(regions)).sum::<u64>();
        }
        let error = RequestError::Device(failure.device);
        self.tell(Happening::ReadOnly(failure));
        let served = mem::take(&mut self.rounds.served);
        self.answer_waiters(served, Err(error));
        self.rounds.state = if needs_abort { State::Aborting } else { State::Idle };
        if needs_abort {
            self.start(Op::Abort, Io::Abort);
        }
        self.fail_waiters();
        self.hydration_is_over();
        self.end_stalled();
    }

    /// Metadata is back at its last commit, or cannot be brought there.
    pub(in crate::engine) fn aborted(&mut self, result: Result<Done, Failure>) {
        self.rounds.state = State::Idle;
        match result {
            Ok(Done::Blocks { used }) => self.metadata_used = used,
            Ok(_) => {}
            Err(failure) => {
                self.mode = Mode::Failed;
                self.tell(Happening::Failed(failure));
                self.set_gate();
                // Nobody need wait any more to hear that.
                self.take_held();
            }
        }
    }

    /// Whoever waits for a round that will not be.
    fn fail_waiters(&mut self) {
        let waiting = mem::take(&mut self.rounds.waiting);
        // A status is told in any mode.
        let (flush, commit): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|w| w.needs_flush);
        let error = self.mode_error();
        self.answer_waiters(flush, Err(error));
        self.answer_waiters(commit, Ok(()));
    }

    fn answer_waiters(&mut self, waiters: Vec<Waiter>, result: Result<(), RequestError>) {
        for Waiter { request, .. } in waiters {
            self.requests.remove(&request);
            self.actions.push(Action::Answer { request, result });
        }
    }

    /// Once every region is hydrated and that is committed, neither map nor metadata is needed.
    pub(in crate::engine) fn retire_if_complete(&mut self) {
        let is_complete = self.map.is_some()
            && self.mode == Mode::ReadWrite
            && self.hydrated == self.sizes.nr_regions
            && self.rounds.is_committed()
            && self.claims.is_empty();
        if is_complete {
            self.map = None;
            self.front.retire();
            self.hydration_is_over();
            self.actions.push(Action::Retire);
            self.tell(Happening::Finished);
        }
    }
}
