//! The state behind the one lock: the engine, and the buffers that its ids stand for.

use std::any::Any;
use std::collections::HashMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::driver::buffers::{CopyBuffer, Pending};
use crate::driver::event_log::EventLog;
use crate::driver::queue::{Completions, Job, Laid, Queue, Work};
use crate::engine::{
    Action, BufferId, Device, Engine, Failure, Input, Io, Overlay, OverlayBytes, RequestError,
    RequestId,
};

/// The state behind the one lock.
pub(super) struct State {
    engine: Engine,
    /// Empty, except while the engine handles an event.
    actions: Vec<Action>,
    requests: HashMap<RequestId, Arc<Pending>>,
    copies: HashMap<BufferId, Arc<CopyBuffer>>,
    next_request: u64,
    /// The error of all requests once the clone is over; the engine then receives no more events.
    over: Option<RequestError>,
    pub(super) queue: Queue,
    /// Workers that have not exited. They look for work before they exit.
    pub(super) workers: usize,
    /// Workers that wait for work.
    pub(super) idle: usize,
    /// Time of the next check by the timer thread; `None` for never.
    pub(super) alarm: Option<Duration>,
    /// True if threads exit as soon as there is no work left.
    pub(super) is_ending: bool,
}

/// The work that follows from an event.
#[derive(Default)]
pub(super) struct Outcome {
    /// Operations to begin, in this order.
    pub(super) jobs: Vec<Job>,
    pub(super) completions: Completions,
}

impl State {
    pub(super) fn new(engine: Engine, workers: usize) -> Self {
        Self {
            engine,
            actions: Vec::new(),
            requests: HashMap::new(),
            copies: HashMap::new(),
            next_request: 0,
            over: None,
            queue: Queue::new(workers),
            workers,
            idle: 0,
            alarm: None,
            is_ending: false,
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns the error of all requests, if the clone is over.
    pub(super) fn over(&self) -> Option<RequestError> {
        self.over
    }

    /// Assigns an id to a request.
    pub(super) fn add(&mut self, request: Arc<Pending>) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(id, request);
        id
    }

    /// Returns the time of the engine's next tick.
    pub(super) fn next_tick(&self) -> Option<Duration> {
        if self.over.is_some() { None } else { self.engine.next_tick() }
    }

    /// Passes an event to the engine, and returns the resulting work.
    ///
    /// A panic of the engine is caught here, since this also runs on threads of users: the clone
    /// has then failed.
    pub(super) fn handle(&mut self, now: Duration, event: Input, events: &EventLog) -> Outcome {
        let mut outcome = Outcome::default();
        if self.over.is_some() {
            return outcome;
        }
        let handled = catch_unwind(AssertUnwindSafe(|| {
            self.engine.handle(now, event, &mut self.actions);
            let mut actions = mem::take(&mut self.actions);
            for action in actions.drain(..) {
                self.take(action, events, &mut outcome);
            }
            self.actions = actions;
        }));
        if let Err(panic) = handled {
            let failure = panicked(Device::Metadata, "the engine", &*panic);
            self.fail(failure, events);
            outcome.completions.jobs.append(&mut outcome.jobs);
        }
        outcome
    }

    fn take(&mut self, action: Action, events: &EventLog, outcome: &mut Outcome) {
        let Outcome { jobs, completions } = outcome;
        match action {
            Action::Start { op, io } => {
                let (work, is_background) = self.resolve(io);
                jobs.push(Job { op, work, is_background });
            }
            Action::Promote { op } => {
                // The operation may be part of this outcome, or have begun already.
                let job = jobs.iter_mut().find(|job| job.op == op);
                let promoted = job.map(|job| job.is_background = false);
                if promoted.is_none() {
                    self.queue.promote(op);
                }
            }
            Action::Give { copy, request, range } => {
                let copy = self.copies[&copy].clone();
                completions.gives.push((copy, self.requests[&request].clone(), range));
            }
            Action::Release { copy } => {
                let copy = self.copies.remove(&copy).expect("a copy is released once");
                completions.released.push(copy);
            }
            Action::Answer { request, result } => {
                let request = self.requests.remove(&request).expect("one answer a request");
                request.decide(result);
                completions.answered.push(request);
            }
            Action::Emit(event) => {
                events.push(event);
                completions.tell = true;
            }
            Action::Retire => completions.retire = true,
        }
    }

    /// Replaces ids by buffers.
    fn resolve(&mut self, io: Io) -> (Work, bool) {
        let request = |id: RequestId| self.requests[&id].clone();
        let work = match io {
            Io::ReadSource { request: id, range } => {
                Work::ReadSource { request: request(id), range }
            }
            Io::ReadDestination { request: id, range } => {
                Work::ReadDestination { request: request(id), range }
            }
            Io::Write { request: id, range } => Work::Write { request: request(id), range },
            Io::Zero { range, deallocate, urgent } => {
                return (Work::Zero { range, deallocate }, !urgent);
            }
            Io::Discard { range } => Work::Discard { range },
            Io::Fetch { copy: id, range, urgent } => {
                let is_background = !urgent;
                let copy = Arc::new(CopyBuffer::new(range));
                self.copies.insert(id, copy.clone());
                return (Work::Fetch { copy }, is_background);
            }
            Io::Store { copy: id, range, overlays, urgent } => {
                let copy = self.copies[&id].clone();
                assert!(*copy.range() == range, "a copy is stored as it was fetched");
                let lay = |Overlay { range, bytes }: Overlay| match bytes {
                    OverlayBytes::Request(id) => Laid { range, of: Some(request(id)) },
                    OverlayBytes::Zeroes => Laid { range, of: None },
                };
                let overlays = overlays.into_iter().map(lay).collect();
                return (Work::Store { copy, overlays }, !urgent);
            }
            Io::Flush => Work::Flush,
            Io::Commit { regions } => Work::Commit { regions },
            Io::Abort => Work::Abort,
        };
        (work, false)
    }

    /// Fails the clone if the driver itself cannot continue: all requests get an error.
    pub(super) fn fail(&mut self, failure: Failure, events: &EventLog) {
        if self.over.is_none() {
            events.push_failed(failure);
            self.end(RequestError::Failed);
        }
    }

    /// Answers all current and future requests with `error`. Operations in flight end by
    /// themselves.
    pub(super) fn end(&mut self, error: RequestError) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(error);
        self.engine.fast_path().close();
        self.actions.clear();
        let answered: Vec<_> = self.requests.drain().map(|(_, request)| request).collect();
        for request in &answered {
            request.decide(Err(error));
        }
        let released = self.copies.drain().map(|(_, copy)| copy).collect();
        let jobs = self.queue.drain();
        self.queue.push_completions(Completions {
            answered,
            released,
            jobs,
            tell: true,
            ..Completions::default()
        });
    }
}

/// Returns the failure for a panic of `who` that concerns `device`.
pub(super) fn panicked(device: Device, who: &str, panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let reason = format!("{who} panicked: {}", text.unwrap_or("it did not say why"));
    Failure { device, reason, is_full: false }
}
