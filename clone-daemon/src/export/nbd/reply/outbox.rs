//! The outbox of a connection: replies to send, and the requests in flight that will add some.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clone_core::sync::lock;

use super::Message;
use crate::export::nbd::channel::{Channel, Writer};
use crate::export::nbd::memory::MemoryLease;

/// Maximum number of requests of a connection that are in flight, or answered but not sent.
const REQUESTS_MAX: usize = 256;

/// Maximum size of the buffers of these requests in bytes.
const BYTES_MAX: u64 = 64 << 20;

/// Interval at which a waiting thread checks whether the connection was cut.
pub(in crate::export::nbd) const CUT_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A reply that is ready to be sent.
#[derive(Debug)]
struct Reply {
    /// A chunk before the last one.
    front: Option<Message>,
    last: Message,
    /// Released when the reply has been sent.
    _slot: Slot,
}

impl Reply {
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let front = self.front.iter().flat_map(Message::parts);
        front.chain(self.last.parts())
    }
}

/// The place of a request among those in flight.
#[derive(Debug)]
pub(in crate::export::nbd) struct Slot {
    outbox: Arc<Outbox>,
    lease: MemoryLease,
}

/// The replies of one connection.
#[derive(Debug)]
pub(in crate::export::nbd) struct Outbox {
    channel: Arc<Channel>,
    state: Mutex<State>,
    /// Signalled when there is a reply, or when no more will come.
    work: Condvar,
    /// Signalled when a slot or the right to send was released.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Reply>,
    /// Number of threads that wait for `room`. Waking costs a system call even without a waiter.
    waiting: usize,
    /// Number of slots, and bytes of their leases.
    slots: usize,
    bytes: u64,
    /// The writer, unless a thread has taken it. Only its owner can send.
    writer: Option<Writer>,
    /// True if no more requests will come.
    is_ending: bool,
    /// True if nothing can be sent any more.
    is_broken: bool,
}

/// The right to send, until this is dropped.
///
/// *Invariant:* no other thread sends in the meantime. Replies of other threads are sent together
/// with the first bytes, before any message has begun, or after the turn. If a turn is dropped
/// within a message, the connection ends: the client would take later bytes for the rest of that
/// message.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    outbox: &'a Outbox,
    /// Present until this is dropped.
    writer: Option<Writer>,
    /// Replies to send before the first bytes.
    waiting: VecDeque<Reply>,
    is_within: bool,
}

/// The position in a message after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// The end of a message.
    Whole,
    /// Inside a message.
    Within,
}

impl Turn<'_> {
    /// Sends the waiting replies, then `bytes`.
    pub(super) fn send(&mut self, bytes: &[u8], ends: Ends) -> io::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        self.is_within = true;
        if self.waiting.is_empty() {
            writer.send(&mut [IoSlice::new(bytes)])?;
        } else {
            let waiting = std::mem::take(&mut self.waiting);
            let parts = waiting.iter().flat_map(Reply::parts);
            let parts = parts.chain([bytes]).filter(|part| !part.is_empty());
            writer.send(&mut parts.map(IoSlice::new).collect::<Vec<_>>())?;
        }
        self.is_within = ends == Ends::Within;
        Ok(())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.is_within {
            self.outbox.give_up();
        }
        let mut state = self.outbox.lock();
        state.writer = self.writer.take();
        if !self.waiting.is_empty() {
            self.waiting.append(&mut state.queue);
            std::mem::swap(&mut self.waiting, &mut state.queue);
        }
        let (is_work, is_awaited) = (!state.queue.is_empty(), state.waiting > 0);
        drop(state);
        if is_work {
            self.outbox.work.notify_one();
        }
        if is_awaited {
            self.outbox.room.notify_all();
        }
    }
}

impl Outbox {
    /// Creates an outbox. `writer` belongs to `channel`.
    pub(in crate::export::nbd) fn new(channel: Arc<Channel>, writer: Writer) -> Arc<Self> {
        let state = State { writer: Some(writer), ..State::default() };
        let (work, room) = Default::default();
        Arc::new(Self { channel, state: Mutex::new(state), work, room })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns whether a request with a buffer of `bytes` bytes may start now.
    pub(in crate::export::nbd) fn has_room(&self, bytes: u64) -> bool {
        self.lock().has_room(bytes)
    }

    /// Waits until [`has_room`](Self::has_room) is true.
    ///
    /// # Errors
    /// `ConnectionAborted` if the connection was cut or nothing can be sent any more.
    pub(in crate::export::nbd) fn wait_for_room(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.lock();
        while !state.has_room(bytes) {
            if state.is_broken || self.channel.is_cut() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            state = self.wait(state, CUT_POLL_INTERVAL);
        }
        Ok(())
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let waited = self.room.wait_timeout(state, time);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting -= 1;
        state
    }

    /// Returns a slot for a request. `lease` accounts for its buffer.
    pub(in crate::export::nbd) fn slot(self: &Arc<Self>, lease: MemoryLease) -> Slot {
        let mut state = self.lock();
        state.slots += 1;
        state.bytes += lease.bytes();
        self.channel.note_in_flight(state.slots);
        drop(state);
        Slot { outbox: self.clone(), lease }
    }

    /// Queues a reply for the next sender.
    fn push(&self, reply: Reply) {
        let mut state = self.lock();
        if state.is_broken {
            // Dropping the reply releases its slot, which takes the lock.
            drop(state);
            return;
        }
        state.queue.push_back(reply);
        // A thread that is sending checks the queue when it is done.
        let is_free = state.writer.is_some();
        drop(state);
        if is_free {
            self.work.notify_one();
        }
    }

    /// Waits for the right to send, and takes it.
    pub(super) fn turn(&self) -> Turn<'_> {
        let mut state = self.lock();
        loop {
            match state.writer.take() {
                Some(writer) => return self.begin(state, writer),
                None => state = self.wait(state, Duration::MAX),
            }
        }
    }

    fn begin(&self, mut state: MutexGuard<'_, State>, writer: Writer) -> Turn<'_> {
        let waiting = std::mem::take(&mut state.queue);
        Turn { outbox: self, writer: Some(writer), waiting, is_within: false }
    }

    /// Sends replies until no more will come.
    pub(in crate::export::nbd) fn keep_sending(&self) {
        let mut state = self.lock();
        loop {
            if state.is_broken || state.is_ending && state.queue.is_empty() {
                return;
            }
            let writer = match state.queue.is_empty() {
                true => None,
                false => state.writer.take(),
            };
            let Some(writer) = writer else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if self.begin(state, writer).send(&[], Ends::Whole).is_err() {
                return;
            }
            state = self.lock();
        }
    }

    /// Ends the connection: nothing can be sent any more. The receiver notices it too.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        state.is_broken = true;
        let dropped = std::mem::take(&mut state.queue);
        drop(state);
        self.channel.cut();
        self.work.notify_all();
        self.room.notify_all();
        drop(dropped);
    }

    /// Waits until all requests are answered or until `deadline`, and makes
    /// [`keep_sending`](Self::keep_sending) return.
    pub(in crate::export::nbd) fn finish(&self, deadline: Instant) {
        let mut state = self.lock();
        while state.slots > 0 && !state.is_broken && !self.channel.is_cut() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.wait(state, left.min(CUT_POLL_INTERVAL));
        }
        state.is_ending = true;
        let is_done = state.slots == 0;
        drop(state);
        if !is_done {
            self.give_up();
        }
        self.work.notify_all();
    }
}

impl State {
    fn has_room(&self, bytes: u64) -> bool {
        // A request whose buffer exceeds the limit runs alone.
        let fits = self.bytes.saturating_add(bytes) <= BYTES_MAX;
        self.slots == 0 || self.slots < REQUESTS_MAX && fits
    }
}

impl Slot {
    /// Answers the request with `last`, preceded by the chunk `front` if there is one. This waits
    /// for nothing but a lock that is only held briefly.
    pub(in crate::export::nbd) fn answer(self, front: Option<Message>, last: Message) {
        let outbox = self.outbox.clone();
        outbox.push(Reply { front, last, _slot: self });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        state.slots -= 1;
        state.bytes -= self.lease.bytes();
        self.outbox.channel.note_in_flight(state.slots);
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.outbox.room.notify_all();
        }
    }
}
