//! The worker pool: the threads that drive a clone.
//!
//! Workers take operations from the queue, perform them, and pass the results to the engine.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::driver::backends::Backends;
use crate::driver::buffers::{Callback, Pending};
use crate::driver::event_log::EventLog;
use crate::driver::queue::{Completions, Job, Work, WorkerSlot};
use crate::driver::state::{Outcome, State, panicked};
use crate::engine::{
    ByteRange, Device, Engine, Failure, FastPath, Input, Operation, Request, RequestError,
};
use crate::sync::lock;

/// The state that the threads of a clone share with its users.
pub(super) struct WorkerPool {
    /// The one lock.
    state: Mutex<State>,
    /// Signals work for an idle worker.
    work: Condvar,
    /// Signals the timer thread that the next tick is due earlier.
    timer: Condvar,
    began: Instant,
    pub(super) backends: Backends,
    pub(super) events: EventLog,
    pub(super) fast_path: Arc<FastPath>,
}

/// The next task of a worker.
enum Task {
    Completions(Completions),
    Job(Job, WorkerSlot),
}

impl WorkerPool {
    pub(super) fn new(
        engine: Engine,
        backends: Backends,
        events: EventLog,
        nr_workers: usize,
    ) -> Self {
        Self {
            fast_path: engine.fast_path().clone(),
            state: Mutex::new(State::new(engine, nr_workers)),
            work: Condvar::new(),
            timer: Condvar::new(),
            began: Instant::now(),
            backends,
            events,
        }
    }

    /// Locks the state. If a thread panicked while it held the lock, the clone fails.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            self.state.clear_poison();
            let mut state = poisoned.into_inner();
            let reason = "a thread panicked while it had the lock".into();
            state.fail(Failure { device: Device::Metadata, reason, is_full: false }, &self.events);
            state
        })
    }

    /// Starts a worker.
    pub(super) fn start_worker(self: &Arc<Self>) -> io::Result<JoinHandle<()>> {
        let pool = self.clone();
        Builder::new().name("clone-worker".into()).spawn(move || pool.serve())
    }

    /// Submits a request; `callback` receives its result.
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
        self.input(&mut state, Input::Submit(request));
    }

    /// Leaves the answer to a worker, like every other: the submitting thread may hold locks that
    /// its callback needs. If all workers have exited, one is started for it.
    fn refuse(self: &Arc<Self>, mut state: MutexGuard<'_, State>, request: Arc<Pending>) {
        state
            .queue
            .push_completions(Completions { answered: vec![request], ..Completions::default() });
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

    /// Sends an event to the engine that is not the end of an operation. The work that follows is
    /// left to the workers: the caller may hold locks that callbacks need.
    pub(super) fn input(&self, state: &mut State, input: Input) {
        let now = self.began.elapsed();
        let Outcome { jobs, completions } = state.handle(now, input, &self.events);
        state.queue.push_completions(completions);
        for job in jobs {
            state.queue.push(job);
        }
        self.wake(state);
    }

    /// Fails the clone.
    pub(super) fn fail(&self, failure: Failure) {
        let mut state = self.lock();
        state.fail(failure, &self.events);
        self.wake(&state);
    }

    /// Answers all requests with `error`, and makes the threads exit when nothing is in flight.
    pub(super) fn end(&self, error: RequestError) {
        let mut state = self.lock();
        state.end(error);
        state.is_ending = true;
        self.work.notify_all();
        self.timer.notify_all();
    }

    /// Wakes an idle worker if there is work left, and the timer thread if it would be late.
    ///
    /// A thread that takes work calls this afterwards. Each call therefore wakes one worker, and as
    /// many wake up as are needed.
    fn wake(&self, state: &State) {
        if state.idle > 0 && state.queue.has_work() {
            self.work.notify_one();
        }
        let is_earlier = |due: Duration| state.alarm.is_none_or(|alarm| due < alarm);
        if state.next_tick().is_some_and(is_earlier) {
            self.timer.notify_one();
        }
    }

    /// Runs a worker. It returns when the clone is to end and no work is left.
    pub(super) fn serve(&self) {
        // Callbacks and the listener are guarded, so few panics reach this point. Other requests
        // still have to be answered.
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work())) {
            let who = "who was told an answer or a notice";
            self.fail(panicked(Device::Metadata, who, &*panic));
        }
    }

    fn work(&self) {
        let mut next = self.next_task();
        while let Some(task) = next {
            next = match task {
                Task::Completions(completions) => {
                    self.complete(completions);
                    self.next_task()
                }
                Task::Job(job, place) => self.do_job(job, place),
            };
        }
    }

    fn next_task(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            let completions = state.queue.next_completions().map(Task::Completions);
            if let Some(task) = completions.or_else(|| begin_next(&mut state)) {
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

    /// Performs an operation and passes its result to the engine; returns the next task. The store
    /// of a chunk that was just fetched stays on this thread.
    fn do_job(&self, job: Job, place: WorkerSlot) -> Option<Task> {
        let Job { op, work, is_background } = job;
        let perform = AssertUnwindSafe(|| self.backends.perform(&work, is_background));
        let performed = catch_unwind(perform);
        let device = work.device();
        let fetched = match &work {
            Work::Fetch { copy } => Some(copy.clone()),
            _ => None,
        };
        // The engine drops large region sets under the lock. This reference frees them after it.
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

        let changed = result.as_ref().err().and_then(|_| lock(&self.backends.changed).take());
        // Before the failure itself, after which the engine would continue.
        if let Some(lost) = result.as_ref().err().and_then(|_| lock(&self.backends.lost).take()) {
            self.fail(lost);
        }
        let mut state = self.lock();
        state.queue.end(place);
        // Before the failure itself, which would make the engine start more of the same.
        if let Some(reason) = changed {
            self.input(&mut state, Input::SourceChanged { reason });
        }
        let now = self.began.elapsed();
        let outcome = state.handle(now, Input::Done { op, result }, &self.events);
        let Outcome { mut jobs, completions } = outcome;
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
            None if state.queue.has_completions() => None,
            None => begin_next(&mut state),
        };
        self.wake(&state);
        drop(state);
        drop((fetched, committed));
        self.complete(completions);
        next.or_else(|| self.next_task())
    }

    fn complete(&self, completions: Completions) {
        let Completions { gives, answered, released, jobs, retire, tell } = completions;
        for (copy, request, range) in gives {
            copy.give(&range, &request);
        }
        drop((answered, jobs, released));
        if retire {
            self.backends.metadata_store.retire();
        }
        if tell {
            self.events.notify();
        }
    }

    /// Runs the timer thread: sends a tick to the engine exactly when it is due.
    pub(super) fn keep_time(&self) {
        let mut state = self.lock();
        while !state.is_ending {
            let now = self.began.elapsed();
            state.alarm = state.next_tick();
            match state.alarm.map(|due| due.saturating_sub(now)) {
                Some(Duration::ZERO) => {
                    self.input(&mut state, Input::Tick);
                    // Let other threads take the lock, even if the next tick is due.
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
