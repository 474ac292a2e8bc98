//! The threads that drive a clone.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::driver::backends::Hands;
use crate::driver::buffers::{Callback, Pending};
use crate::driver::event_log::Notices;
use crate::driver::queue::{Chores, Job, Place, Work};
use crate::driver::state::{Outcome, State, panicked};
use crate::engine::{
    ByteRange, Device, Engine, Event, Failure, Front, Operation, Request, RequestError,
};
use crate::sync::lock;

/// What threads share that drive a clone, and those that use it.
pub(super) struct Crew {
    /// The one lock.
    state: Mutex<State>,
    /// There is work for somebody who is idle.
    work: Condvar,
    /// The alarm is to be set earlier.
    timer: Condvar,
    began: Instant,
    pub(super) hands: Hands,
    pub(super) notices: Notices,
    pub(super) front: Arc<Front>,
}

/// What a worker does next.
enum Task {
    Chores(Chores),
    Job(Job, Place),
}

impl Crew {
    pub(super) fn new(engine: Engine, hands: Hands, notices: Notices, workers: usize) -> Self {
        Self {
            front: engine.front().clone(),
            state: Mutex::new(State::new(engine, workers)),
            work: Condvar::new(),
            timer: Condvar::new(),
            began: Instant::now(),
            hands,
            notices,
        }
    }

    /// Locks the state. Where somebody has panicked with it, it is not to be trusted.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            self.state.clear_poison();
            let mut state = poisoned.into_inner();
            let reason = "a thread panicked while it had the lock".into();
            state.fail(Failure { device: Device::Metadata, reason, is_full: false }, &self.notices);
            state
        })
    }

    /// Starts a worker.
    pub(super) fn start_worker(self: &Arc<Self>) -> io::Result<JoinHandle<()>> {
        let crew = self.clone();
        Builder::new().name("clone-worker".into()).spawn(move || crew.serve())
    }

    /// Asks for something; `callback` is called with the outcome.
    pub(super) fn submit(
        self: &Arc<Self>,
        operation: Operation,
        range: ByteRange,
        durable: bool,
        buffer: Vec<u8>,
        callback: Callback,
    ) {
        let pending = Pending::new(operation, range.clone(), buffer, callback);
        let pending = Arc::new(pending);
        let mut state = self.lock();
        if let Some(error) = state.over() {
            pending.decide(Err(error));
            self.refuse(state, pending);
            return;
        }
        let id = state.add(pending);
        let request = Request { id, operation, range, durable };
        self.tell(&mut state, Event::Submit(request));
    }

    /// Leaves the answer to a worker, as every other: whoever submits may hold locks that its
    /// callback wants. If all of them have gone, one comes back for it.
    fn refuse(self: &Arc<Self>, mut state: MutexGuard<'_, State>, request: Arc<Pending>) {
        state.queue.push_chores(Chores { answered: vec![request], ..Chores::default() });
        if state.workers > 0 {
            self.wake(&state);
            return;
        }
        state.workers = 1;
        drop(state);
        if self.start_worker().is_err() {
            self.serve();
        }
    }

    /// Tells the engine something that is not the end of an operation. What follows is left to the
    /// workers: whoever calls this may hold locks that callbacks want.
    pub(super) fn tell(&self, state: &mut State, event: Event) {
        let now = self.began.elapsed();
        let Outcome { jobs, chores } = state.handle(now, event, &self.notices);
        state.queue.push_chores(chores);
        for job in jobs {
            state.queue.push(job);
        }
        self.wake(state);
    }

    /// The clone cannot go on.
    pub(super) fn fail(&self, failure: Failure) {
        let mut state = self.lock();
        state.fail(failure, &self.notices);
        self.wake(&state);
    }

    /// Answers all requests by `error`, and has the threads go when nothing is under way.
    pub(super) fn end(&self, error: RequestError) {
        let mut state = self.lock();
        state.end(error);
        state.is_ending = true;
        self.work.notify_all();
        self.timer.notify_all();
    }

    /// Calls somebody if there is work left, and the thread that keeps time if it would be late.
    ///
    /// Whoever takes work calls this after it: so each call wakes one, and all are woken that are
    /// needed.
    fn wake(&self, state: &State) {
        if state.idle > 0 && state.queue.has_work() {
            self.work.notify_one();
        }
        let is_earlier = |due: Duration| state.alarm.is_none_or(|alarm| due < alarm);
        if state.next_tick().is_some_and(is_earlier) {
            self.timer.notify_one();
        }
    }

    /// What a worker lives for. It returns when the clone is to end and nothing is left to do.
    pub(super) fn serve(&self) {
        // A callback that panics comes up to here. There are other requests to be answered.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work())) {
            let who = "who was told an answer or a notice";
            self.fail(panicked(Device::Metadata, who, &*panic));
        }
    }

    fn work(&self) {
        let mut next = self.next_task();
        while let Some(task) = next {
            next = match task {
                Task::Chores(chores) => {
                    self.do_chores(chores);
                    self.next_task()
                }
                Task::Job(job, place) => self.do_job(job, place),
            };
        }
    }

    fn next_task(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            let chores = state.queue.next_chores().map(Task::Chores);
            if let Some(task) = chores.or_else(|| begin_next(&mut state)) {
                self.wake(&state);
                return Some(task);
            }
            if state.is_ending {
                state.workers -= 1;
                return None;
            }
            state.idle += 1;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Does an operation and tells the engine; returns what to do next. The store of what was just
    /// fetched is done by the same thread.
    fn do_job(&self, job: Job, place: Place) -> Option<Task> {
        let Job { op, work, is_background } = job;
        let perform = AssertUnwindSafe(|| self.hands.perform(&work, is_background));
        let performed = catch_unwind(perform);
        let device = work.device();
        let fetched = match &work {
            Work::Fetch { copy } => Some(copy.clone()),
            _ => None,
        };
        // The engine lets go of many regions under the lock. They are freed after it.
        let committed = match &work {
            Work::Commit { regions } => Some(regions.clone()),
            _ => None,
        };
        drop(work);
        let result = performed.unwrap_or_else(|panic| {
            let failure = panicked(device, "what drives it", &*panic);
            self.fail(failure.clone());
            Err(failure)
        });

        let changed = result.as_ref().err().and_then(|_| lock(&self.hands.changed).take());
        // Before the failure itself, after which the engine would go on.
        if let Some(lost) = result.as_ref().err().and_then(|_| lock(&self.hands.lost).take()) {
            self.fail(lost);
        }
        let mut state = self.lock();
        state.queue.end(place);
        // Before the failure itself, which would have more of the same begun.
        if let Some(reason) = changed {
            self.tell(&mut state, Event::SourceChanged { reason });
        }
        let now = self.began.elapsed();
        let outcome = state.handle(now, Event::Done { op, result }, &self.notices);
        let Outcome { mut jobs, chores } = outcome;
        let is_store = |job: &Job| match (&job.work, &fetched) {
            (Work::Store { copy, .. }, Some(fetched)) => Arc::ptr_eq(copy, fetched),
            _ => false,
        };
        let store = jobs.iter().position(is_store).map(|index| jobs.remove(index));
        for job in jobs {
            state.queue.push(job);
        }
        let next = match store {
            Some(job) => Some(begin(&mut state, job)),
            None if state.queue.has_chores() => None,
            None => begin_next(&mut state),
        };
        self.wake(&state);
        drop(state);
        drop((fetched, committed));
        self.do_chores(chores);
        next.or_else(|| self.next_task())
    }

    fn do_chores(&self, chores: Chores) {
        let Chores { gives, answered, released, jobs, retire, tell } = chores;
        for (copy, request, range) in gives {
            copy.give(&range, &request);
        }
        drop((answered, jobs, released));
        if retire {
            self.hands.ledger.retire();
        }
        if tell {
            self.notices.tell();
        }
    }

    /// What the thread that keeps time lives for: telling the engine, exactly when it wants it,
    /// that time has passed.
    pub(super) fn keep_time(&self) {
        let mut state = self.lock();
        while !state.is_ending {
            let now = self.began.elapsed();
            state.alarm = state.next_tick();
            match state.alarm.map(|due| due.saturating_sub(now)) {
                Some(Duration::ZERO) => {
                    self.tell(&mut state, Event::Tick);
                    // Others are let in, whatever the engine wants next.
                    drop(state);
                    state = self.lock();
                }
                Some(rest) => {
                    let waited = self.timer.wait_timeout(state, rest);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    state = self.timer.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

fn begin_next(state: &mut State) -> Option<Task> {
    let job = state.queue.next_job()?;
    Some(begin(state, job))
}

fn begin(state: &mut State, job: Job) -> Task {
    let place = state.queue.begin(&job);
    Task::Job(job, place)
}
