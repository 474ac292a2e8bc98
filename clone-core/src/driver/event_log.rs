//! The event log: keeps the last events for later queries, and passes them to a listener.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use crate::engine::{Event, EventKind, Failure};
use crate::sync::lock;

/// Maximum number of kept events.
pub const EVENTS_MAX: usize = 1024;

/// Receives each event, in order. A panic is caught and [counted]; the clone continues, and the
/// listener receives the next event.
///
/// [counted]: super::RunningClone::caught_panics
pub type Listener = Box<dyn FnMut(&Event) + Send>;

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatedEvent {
    /// The event.
    pub event: Event,
    /// Time by the system clock, which may be set back.
    pub time: SystemTime,
}

/// The event log.
pub(super) struct EventLog {
    book: Mutex<Book>,
    changed: Condvar,
    /// Taken out while it runs, so that it can cause further events.
    listener: Mutex<Option<Listener>>,
    /// Number of panics of the listener and of callbacks.
    panics: AtomicU64,
}

#[derive(Default)]
struct Book {
    last: VecDeque<DatedEvent>,
    /// Events that the listener has not received yet, if there is a listener.
    untold: VecDeque<Event>,
    has_listener: bool,
    is_at_rest: bool,
    /// The reason why no region can become hydrated any more, or why all requests fail.
    failure: Option<Failure>,
    has_failed: bool,
    /// The reason why the source is no longer usable.
    source_changed: Option<String>,
    /// The clone ends: suspend, resume and messages are refused.
    is_ending: bool,
    /// No more events will follow.
    is_over: bool,
    /// Calls that wait.
    waits: Vec<Arc<Wait>>,
}

/// The state that a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The clone is suspended.
    Rest,
    /// The hydrated regions are committed.
    Commit,
}

/// The result of a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WaitEnd {
    /// The awaited state was reached.
    Done,
    /// The clone resumes, so it does not stay suspended.
    Resumed,
    /// The clone has failed.
    Failed(Failure),
    /// The clone ends.
    Ending,
}

/// A waiting call.
///
/// *Invariant:* the first cause of its end counts, even if the waiting thread does not run before
/// the next one. A state that is undone a moment later is therefore not missed.
#[derive(Debug)]
pub(super) struct Wait {
    awaited: Awaited,
    end: OnceLock<WaitEnd>,
}

impl Wait {
    /// Returns true if the wait has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }
}

/// The overall state of a clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// The clone ends: suspend, resume and messages are refused.
    pub(super) is_ending: bool,
    pub(super) has_failed: bool,
    pub(super) failure: Option<Failure>,
    /// The reason why the source is no longer usable.
    pub(super) source_changed: Option<String>,
}

impl EventLog {
    pub(super) fn new(listener: Option<Listener>) -> Self {
        let book = Book { has_listener: listener.is_some(), ..Book::default() };
        let (book, listener) = (Mutex::new(book), Mutex::new(listener));
        Self { book, changed: Condvar::new(), listener, panics: AtomicU64::new(0) }
    }

    /// Records an event.
    pub(super) fn push(&self, event: Event) {
        let mut book = lock(&self.book);
        match &event.kind {
            EventKind::Suspended => {
                book.is_at_rest = true;
                book.end_waits(|awaited| awaited == Awaited::Rest, &WaitEnd::Done);
            }
            EventKind::Resumed => book.is_at_rest = false,
            EventKind::ReadOnly(failure) | EventKind::FlushFailed(failure) => {
                book.failure = Some(failure.clone());
            }
            EventKind::Failed(failure) => {
                book.failure = Some(failure.clone());
                book.has_failed = true;
                book.end_waits(|_| true, &WaitEnd::Failed(failure.clone()));
            }
            EventKind::SourceChanged { reason } => book.source_changed = Some(reason.clone()),
            _ => {}
        }
        if book.last.len() == EVENTS_MAX {
            book.last.pop_front();
        }
        book.last.push_back(DatedEvent { event: event.clone(), time: SystemTime::now() });
        if book.has_listener {
            // If the listener hangs, it misses events instead of exhausting memory.
            if book.untold.len() == EVENTS_MAX {
                book.untold.pop_front();
            }
            book.untold.push_back(event);
        }
        self.changed.notify_all();
    }

    /// Records that the clone has failed for a reason unknown to the engine.
    pub(super) fn push_failed(&self, failure: Failure) {
        let number = lock(&self.book).last.back().map_or(1, |last| last.event.number + 1);
        self.push(Event { number, kind: EventKind::Failed(failure) });
    }

    /// Passes new events to the listener. If another thread is doing so, leaves them to that
    /// thread, so that the listener receives all events in order.
    pub(super) fn notify(&self) {
        if lock(&self.book).untold.is_empty() {
            return;
        }
        let Some(mut listener) = lock(&self.listener).take() else { return };
        loop {
            let next = lock(&self.book).untold.pop_front();
            if let Some(event) = next {
                self.guard(|| listener(&event));
                continue;
            }
            let mut place = lock(&self.listener);
            // Events that arrived meanwhile were left to this thread.
            if lock(&self.book).untold.is_empty() {
                *place = Some(listener);
                return;
            }
        }
    }

    /// Calls code outside of the driver. A panic there says nothing about the clone: it is caught
    /// and counted.
    pub(super) fn guard(&self, call: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            self.panics.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of caught panics.
    pub(super) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Returns the events with numbers after `after`. Waits for one, but at most `timeout`.
    pub(super) fn wait_for(&self, after: u64, timeout: Duration) -> Vec<DatedEvent> {
        let is_new = |dated: &&DatedEvent| dated.event.number > after;
        let book = lock(&self.book);
        let waits = |book: &mut Book| !book.is_over && !book.last.iter().any(|n| is_new(&n));
        let (book, _) = self
            .changed
            .wait_timeout_while(book, timeout, waits)
            .unwrap_or_else(PoisonError::into_inner);
        book.last.iter().filter(is_new).cloned().collect()
    }

    /// Begins a wait, which may end at once.
    pub(super) fn begin_wait(&self, awaited: Awaited) -> Arc<Wait> {
        let mut book = lock(&self.book);
        let wait = Arc::new(Wait { awaited, end: OnceLock::new() });
        let end = match &book.failure {
            _ if book.is_ending || book.is_over => Some(WaitEnd::Ending),
            Some(failure) if book.has_failed => Some(WaitEnd::Failed(failure.clone())),
            _ if book.is_at_rest => Some(WaitEnd::Done),
            _ => None,
        };
        match end {
            // Only the first result counts, and this is it.
            Some(end) => drop(wait.end.set(end)),
            None => book.waits.push(wait.clone()),
        }
        wait
    }

    /// Ends `wait` with success, unless it ended before.
    pub(super) fn end_wait(&self, wait: &Wait) {
        let mut book = lock(&self.book);
        let _ = wait.end.set(WaitEnd::Done);
        book.waits.retain(|wait| wait.end.get().is_none());
        drop(book);
        self.changed.notify_all();
    }

    /// Waits for the end of `wait`.
    pub(super) fn wait_to_end(&self, wait: &Wait) -> WaitEnd {
        let waits = |_: &mut Book| wait.end.get().is_none();
        drop(self.changed.wait_while(lock(&self.book), waits));
        wait.end.get().cloned().unwrap_or(WaitEnd::Ending)
    }

    /// Ends calls that wait for the clone to be suspended: it is about to resume.
    pub(super) fn end_waits_for_rest(&self) {
        lock(&self.book).end_waits(|awaited| awaited == Awaited::Rest, &WaitEnd::Resumed);
        self.changed.notify_all();
    }

    /// Refuses suspend, resume and messages from now on. Waiting calls end.
    pub(super) fn begin_end(&self) {
        let mut book = lock(&self.book);
        book.is_ending = true;
        book.end_waits(|_| true, &WaitEnd::Ending);
        drop(book);
        self.changed.notify_all();
    }

    /// Waits until the clone is suspended, has failed or is over. Requires [`Self::begin_end`] and
    /// a suspend before: then nothing undoes that state.
    pub(super) fn wait_for_rest(&self) -> Standing {
        let waits = |book: &mut Book| !(book.is_at_rest || book.has_failed || book.is_over);
        let book = self.changed.wait_while(lock(&self.book), waits);
        book.unwrap_or_else(PoisonError::into_inner).standing()
    }

    pub(super) fn standing(&self) -> Standing {
        lock(&self.book).standing()
    }

    /// Records why answered changes may not be on stable storage, unless an earlier reason is
    /// known.
    pub(super) fn note_failure(&self, failure: Failure) {
        lock(&self.book).failure.get_or_insert(failure);
    }

    /// Ends all waits: no more events will follow.
    pub(super) fn end(&self) {
        lock(&self.book).is_over = true;
        self.changed.notify_all();
    }
}

impl Book {
    fn standing(&self) -> Standing {
        let Self { is_ending, has_failed, ref failure, ref source_changed, .. } = *self;
        let (failure, source_changed) = (failure.clone(), source_changed.clone());
        Standing { is_ending, has_failed, failure, source_changed }
    }

    /// Ends the waits selected by `which`.
    fn end_waits(&mut self, which: impl Fn(Awaited) -> bool, end: &WaitEnd) {
        for wait in self.waits.iter().filter(|wait| which(wait.awaited)) {
            let _ = wait.end.set(end.clone());
        }
        self.waits.retain(|wait| wait.end.get().is_none());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::{EVENTS_MAX, EventLog};
    use crate::engine::{Event, EventKind};
    use crate::sync::lock;

    fn event(number: u64) -> Event {
        Event { number, kind: EventKind::Finished }
    }

    #[test]
    fn whoever_asks_gets_what_came_after_and_the_oldest_are_forgotten() {
        let events = EventLog::new(None);
        let numbers = |after| -> Vec<u64> {
            let dated = events.wait_for(after, Duration::ZERO);
            dated.iter().map(|dated| dated.event.number).collect()
        };
        assert!(numbers(0).is_empty());
        let count = EVENTS_MAX as u64 + 10;
        (1..=count).for_each(|number| events.push(event(number)));
        assert_eq!(numbers(count - 2), [count - 1, count]);
        assert_eq!(numbers(0).len(), EVENTS_MAX);
        assert_eq!(numbers(0)[0], 11);
        assert!(numbers(count).is_empty());
        events.end();
        assert!(events.wait_for(count, Duration::MAX).is_empty());
    }

    #[test]
    fn a_listener_hears_everything_in_order_even_what_it_causes_itself() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::new_cyclic(|events: &std::sync::Weak<EventLog>| {
            let (heard, events) = (heard.clone(), events.clone());
            EventLog::new(Some(Box::new(move |told| {
                lock(&heard).push(told.number);
                let events = events.upgrade().unwrap();
                if told.number < 5 {
                    events.push(event(told.number + 1));
                    events.notify();
                }
            })))
        });
        events.push(event(1));
        events.notify();
        assert_eq!(*lock(&heard), [1, 2, 3, 4, 5]);
    }
}
