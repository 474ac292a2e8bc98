//! Replies that wait to be sent, and requests that will have one.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Message;
use crate::export::nbd::channel::{Channel, Writer};
use crate::export::nbd::memory::Lease;

/// The most requests of a connection that are under way, or answered and not sent.
const REQUESTS_MAX: usize = 256;

/// The most bytes of their buffers.
const BYTES_MAX: u64 = 64 << 20;

/// How often it is looked whether a connection was cut.
pub(in crate::export::nbd) const GLANCE: Duration = Duration::from_millis(100);

/// A reply that is ready.
#[derive(Debug)]
struct Reply {
    /// Chunks that come before the last one.
    front: Option<Message>,
    last: Message,
    /// Given back when it is sent.
    _slot: Slot,
}

impl Reply {
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let front = self.front.iter().flat_map(Message::parts);
        front.chain(self.last.parts())
    }
}

/// A request's place among those that are under way.
#[derive(Debug)]
pub(in crate::export::nbd) struct Slot {
    outbox: Arc<Outbox>,
    lease: Lease,
}

/// The replies of one connection.
#[derive(Debug)]
pub(in crate::export::nbd) struct Outbox {
    channel: Arc<Channel>,
    state: Mutex<State>,
    /// There is a reply, or there will be none any more.
    work: Condvar,
    /// A slot was given back, or whoever sent has ended.
    room: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Reply>,
    /// Threads that wait for `room`. Waking costs a system call, also if nobody is there.
    waiting: usize,
    /// Slots, and bytes of their leases.
    slots: usize,
    bytes: u64,
    /// What sends, unless somebody has it. Only its owner can send anything.
    writer: Option<Writer>,
    /// No more requests come.
    is_ending: bool,
    /// Nothing can be sent any more.
    is_broken: bool,
}

/// The right to send, until this is dropped.
///
/// *Invariant:* nobody else sends meanwhile. Replies of other threads go out with the first bytes,
/// before which no message has begun, or wait until there is no turn. If it is dropped within a
/// message the connection ends: what came then would be taken for the rest of that message.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    outbox: &'a Outbox,
    /// It is there until this is dropped.
    writer: Option<Writer>,
    /// Replies that go out with the first bytes.
    waiting: VecDeque<Reply>,
    is_within: bool,
}

/// Where a message is after some of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// At its end.
    Whole,
    /// There is more of it to come.
    Within,
}

impl Turn<'_> {
    /// Sends what waits, and then `bytes`.
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
    /// `writer` is that of `channel`.
    pub(in crate::export::nbd) fn new(channel: Arc<Channel>, writer: Writer) -> Arc<Self> {
        let state = State { writer: Some(writer), ..State::default() };
        let (work, room) = Default::default();
        Arc::new(Self { channel, state: Mutex::new(state), work, room })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request with a buffer of so many bytes may begin now.
    pub(in crate::export::nbd) fn has_room(&self, bytes: u64) -> bool {
        self.lock().has_room(bytes)
    }

    /// Waits until [`has_room`](Self::has_room); fails if the connection has been cut.
    pub(in crate::export::nbd) fn wait_for_room(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.lock();
        while !state.has_room(bytes) {
            if state.is_broken || self.channel.is_cut() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            state = self.wait(state, GLANCE);
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

    /// A place for a request whose buffer is accounted for by `lease`.
    pub(in crate::export::nbd) fn slot(self: &Arc<Self>, lease: Lease) -> Slot {
        let mut state = self.lock();
        state.slots += 1;
        state.bytes += lease.bytes();
        self.channel.note_in_flight(state.slots);
        drop(state);
        Slot { outbox: self.clone(), lease }
    }

    /// Leaves a reply to whoever sends next.
    fn push(&self, reply: Reply) {
        let mut state = self.lock();
        if state.is_broken {
            // It gives its slot back, which takes the lock.
            drop(state);
            return;
        }
        state.queue.push_back(reply);
        // Whoever sends now looks for more when that is done.
        let is_free = state.writer.is_some();
        drop(state);
        if is_free {
            self.work.notify_one();
        }
    }

    /// Waits for whoever sends, and takes its place.
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

    /// Sends replies as they come, until no more do.
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

    /// Nothing can be sent any more. Whoever receives finds that out too.
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

    /// Waits until all requests are answered, but no longer than until `deadline`, and has
    /// [`keep_sending`](Self::keep_sending) return.
    pub(in crate::export::nbd) fn finish(&self, deadline: Instant) {
        let mut state = self.lock();
        while state.slots > 0 && !state.is_broken && !self.channel.is_cut() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.wait(state, left.min(GLANCE));
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
        // One that is longer than what is allowed is alone.
        let fits = self.bytes.saturating_add(bytes) <= BYTES_MAX;
        self.slots == 0 || self.slots < REQUESTS_MAX && fits
    }
}

impl Slot {
    /// The request that has it is answered by `last`, and by a chunk in `front` of that if there
    /// is one. This waits for nothing but a lock that is never held for long.
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
