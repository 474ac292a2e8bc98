//! Commits: each flushes the destination and then commits the metadata.
//!
//! The engine calls `begin_round` after each event. A round begins one second after a change, or
//! earlier if a request waits for it, the clone is being suspended, all regions are marked or there
//! are too many changes.
//!
//! *Invariants:* a round commits the regions that were marked before its flush of the destination
//! began, and no others: regions marked later belong to the next round. It answers the requests
//! that arrived before it began. After a failed flush or commit there are no more commits: requests
//! that wait for one fail.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::api::action::{Action, Io};
use crate::engine::api::event::EventKind;
use crate::engine::api::input::{Done, Failure};
use crate::engine::api::request::{Operation, RequestError, RequestId};
use crate::engine::regions::region_set::RegionSet;
use crate::engine::{Engine, Mode, Op, RunState};
use crate::geometry::RegionRange;

/// Maximum time from a change to its commit.
const PERIOD: Duration = Duration::from_secs(1);

/// Maximum number of pieces of uncommitted changes, which limits their memory to a few MiB.
const PIECES_MAX: usize = 1 << 15;

/// Changes that are not durable yet, and requests that wait for them.
#[derive(Debug, Default)]
pub(in crate::engine) struct Commits {
    state: State,
    /// Regions marked since the current round began, or since the last one.
    changed: RegionSet,
    /// Time of the first change in `changed`.
    changed_since: Option<Duration>,
    /// Regions marked before the current round began.
    committing: Arc<RegionSet>,
    /// Requests that the next round answers.
    waiting: Vec<Waiter>,
    /// Requests that the current round answers.
    served: Vec<Waiter>,
    /// The error of all later flushes after one failed, if the clone is not read-only.
    flush_failed: Option<RequestError>,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    request: RequestId,
    /// True if the request needs a flush of the destination even if there is nothing to commit.
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

impl Commits {
    /// Records that `regions` were marked.
    pub(in crate::engine) fn note(&mut self, now: Duration, regions: RegionRange) {
        self.changed_since.get_or_insert(now);
        self.changed.insert(regions);
    }

    /// Makes a request wait for the next round.
    pub(in crate::engine) fn join(&mut self, request: RequestId, operation: Operation) {
        let needs_flush = operation != Operation::Commit;
        self.waiting.push(Waiter { request, needs_flush });
    }

    /// Returns true if no round is in progress and no change is left to commit.
    pub(in crate::engine) fn is_settled(&self) -> bool {
        self.state == State::Idle && self.changed.is_empty()
    }

    /// Returns true if all marked regions are committed. A flush of the destination may be in
    /// flight.
    pub(in crate::engine) fn is_committed(&self) -> bool {
        self.changed.is_empty() && self.committing.is_empty()
    }

    /// Returns the time at which a round has to begin without other cause.
    pub(in crate::engine) fn due(&self) -> Option<Duration> {
        let since = self.changed_since.filter(|_| self.state == State::Idle);
        since.map(|since| since.saturating_add(PERIOD))
    }
}

impl Engine {
    /// Begins a round if there is a reason to.
    pub(in crate::engine) fn begin_round(&mut self) {
        if self.commits.state != State::Idle {
            return;
        }
        if self.mode != Mode::ReadWrite {
            self.fail_waiters();
            return;
        }
        let commits = &mut self.commits;
        if commits.changed.is_empty() {
            // With no changes, requests that need only a commit are complete.
            let (flush, commit) =
                mem::take(&mut commits.waiting).into_iter().partition(|w| w.needs_flush);
            commits.waiting = flush;
            let commit: Vec<Waiter> = commit;
            self.answer_waiters(commit, Ok(()));
        }
        if let Some(error) = self.commits.flush_failed {
            let flush = mem::take(&mut self.commits.waiting);
            self.answer_waiters(flush, Err(error));
        }
        let is_all_marked = self.hydrated == self.sizes.nr_regions;
        let commits = &mut self.commits;
        let hurry = is_all_marked
            || self.run_state == RunState::Suspending
            || commits.changed.nr_pieces() >= PIECES_MAX
            || commits.due().is_some_and(|due| due <= self.now);
        if commits.waiting.is_empty() && (commits.changed.is_empty() || !hurry) {
            return;
        }
        commits.state = State::Flushing;
        commits.served = mem::take(&mut commits.waiting);
        commits.committing = Arc::new(mem::take(&mut commits.changed));
        commits.changed_since = None;
        self.start(Op::Flush, Io::Flush);
    }

    /// Handles the end of the flush of the destination.
    pub(in crate::engine) fn flushed(&mut self, result: Result<Done, Failure>) {
        match result {
            Ok(_) if self.commits.committing.is_empty() => self.end_round(),
            Ok(_) => {
                self.commits.state = State::Committing;
                let regions = Arc::clone(&self.commits.committing);
                self.start(Op::Commit, Io::Commit { regions });
            }
            // On a complete clone no bit depends on the flush.
            Err(failure) if self.map.is_none() => self.flush_failed(failure),
            Err(failure) => self.become_read_only(failure),
        }
    }

    /// Handles a failed flush of a complete clone. Lost data stays lost even if the destination
    /// recovers, and the engine does not know which data it was: all later flushes fail, too.
    fn flush_failed(&mut self, failure: Failure) {
        let error = RequestError::Device(failure.device);
        self.commits.state = State::Idle;
        self.commits.flush_failed = Some(error);
        let served = mem::take(&mut self.commits.served);
        self.answer_waiters(served, Err(error));
        self.emit(EventKind::FlushFailed(failure));
    }

    /// Handles the end of the metadata commit.
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
        self.commits.state = State::Idle;
        self.commits.committing = Arc::default();
        let served = mem::take(&mut self.commits.served);
        self.answer_waiters(served, Ok(()));
    }

    /// Makes the clone read-only after a failed flush or commit: the state on disk is unknown, so
    /// no more regions can be marked. Uncommitted bits are cleared, as after a crash.
    fn become_read_only(&mut self, failure: Failure) {
        self.mode = Mode::ReadOnly;
        let committing = mem::take(&mut self.commits.committing);
        let changed = mem::take(&mut self.commits.changed);
        self.commits.changed_since = None;
        let needs_abort = !(committing.is_empty() && changed.is_empty());
        if let Some(map) = &self.map {
            let marked = committing.runs().chain(changed.runs());
            self.hydrated -= marked.map(|regions| map.clear(regions)).sum::<u64>();
        }
        let error = RequestError::Device(failure.device);
        self.emit(EventKind::ReadOnly(failure));
        let served = mem::take(&mut self.commits.served);
        self.answer_waiters(served, Err(error));
        self.commits.state = if needs_abort { State::Aborting } else { State::Idle };
        if needs_abort {
            self.start(Op::Abort, Io::Abort);
        }
        self.fail_waiters();
        self.hydration_is_over();
        self.end_stalled();
    }

    /// Handles the end of the restore of the metadata to its last commit.
    pub(in crate::engine) fn aborted(&mut self, result: Result<Done, Failure>) {
        self.commits.state = State::Idle;
        match result {
            Ok(Done::Blocks { used }) => self.metadata_used = used,
            Ok(_) => {}
            Err(failure) => {
                self.mode = Mode::Failed;
                self.emit(EventKind::Failed(failure));
                self.set_gate();
                // Held requests can fail immediately.
                self.take_held();
            }
        }
    }

    /// Answers the requests that wait for a round that will not take place.
    fn fail_waiters(&mut self) {
        let waiting = mem::take(&mut self.commits.waiting);
        // The status is reported in any mode.
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

    /// Retires the map and the metadata once every region is hydrated and committed.
    pub(in crate::engine) fn retire_if_complete(&mut self) {
        let is_complete = self.map.is_some()
            && self.mode == Mode::ReadWrite
            && self.hydrated == self.sizes.nr_regions
            && self.commits.is_committed()
            && self.claims.is_empty();
        if is_complete {
            self.map = None;
            self.fast_path.retire();
            self.hydration_is_over();
            self.actions.push(Action::Retire);
            self.emit(EventKind::Finished);
        }
    }
}
