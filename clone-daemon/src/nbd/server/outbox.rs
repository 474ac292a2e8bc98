//! Replies that wait to be sent, and requests that will have one.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::nbd::server::channel::Channel;
use crate::nbd::server::memory::Lease;

/// The most requests of a connection that are under way, or answered and not sent.
const REQUESTS_MAX: usize = 256;

/// The most bytes of their buffers.
const BYTES_MAX: u64 = 64 << 20;

/// How often it is looked whether a connection was cut.
pub(super) const GLANCE: Duration = Duration::from_millis(100);

/// A reply that is ready.
#[derive(Debug)]
struct Reply {
    head: Vec<u8>,
    data: Vec<u8>,
    /// Given back when it is sent.
    _slot: Slot,
}

/// A request's place among those that are under way.
#[derive(Debug)]
pub(super) struct Slot {
    outbox: Arc<Outbox>,
    lease: Lease,
}

/// The replies of one connection.
#[derive(Debug)]
pub(super) struct Outbox {
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
    /// Slots, and bytes of their leases.
    slots: usize,
    bytes: u64,
    /// Somebody sends what was taken off the queue.
    is_sending: bool,
    /// A reply has been sent in part by the thread that receives: no other may come between.
    is_held: bool,
    /// No more requests come.
    is_ending: bool,
    /// Nothing can be sent any more.
    is_broken: bool,
}

impl Outbox {
    pub(super) fn new(channel: Arc<Channel>) -> Arc<Self> {
        let (state, work, room) = Default::default();
        Arc::new(Self { channel, state, work, room })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request with a buffer of so many bytes may begin now.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.lock().has_room(bytes)
    }

    /// Waits until [`has_room`](Self::has_room); fails if the connection has been cut.
    pub(super) fn wait_for_room(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.lock();
        while !state.has_room(bytes) {
            if state.is_broken || self.channel.is_cut() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            state = self.wait(state, GLANCE);
        }
        Ok(())
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.room.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// A place for a request whose buffer is accounted for by `lease`.
    pub(super) fn slot(self: &Arc<Self>, lease: Lease) -> Slot {
        let mut state = self.lock();
        state.slots += 1;
        state.bytes += lease.bytes();
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
        drop(state);
        self.work.notify_one();
    }

    /// Sends what waits, and then `bytes`. Only the thread that receives does that.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let waiting = self.begin(self.lock());
        let sent = self.transmit(&waiting, bytes);
        self.end();
        sent
    }

    /// Until it is [let go](Self::let_go), nothing is sent but by [`send`](Self::send): what is
    /// sent so is one reply. Only the thread that receives does that.
    pub(super) fn hold(&self) {
        self.lock().is_held = true;
    }

    /// The reply is complete, or has failed for good.
    pub(super) fn let_go(&self) {
        self.lock().is_held = false;
        self.work.notify_one();
    }

    /// Waits for whoever sends, and takes what waits. Nobody else sends before [`Self::end`].
    fn begin(&self, mut state: MutexGuard<'_, State>) -> Vec<Reply> {
        while state.is_sending {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_sending = true;
        if state.is_held { Vec::new() } else { state.queue.drain(..).collect() }
    }

    fn end(&self) {
        self.lock().is_sending = false;
        self.work.notify_one();
        self.room.notify_all();
    }

    fn transmit(&self, replies: &[Reply], bytes: &[u8]) -> io::Result<()> {
        let parts = replies.iter().flat_map(|reply| [&reply.head[..], &reply.data]);
        let parts = parts.chain([bytes]).filter(|part| !part.is_empty());
        let mut pieces: Vec<IoSlice<'_>> = parts.map(IoSlice::new).collect();
        if pieces.is_empty() {
            return Ok(());
        }
        self.channel.send(&mut pieces).inspect_err(|_| self.give_up())
    }

    /// Sends replies as they come, until no more do.
    pub(super) fn keep_sending(&self) {
        let mut state = self.lock();
        loop {
            if state.is_broken || state.is_ending && state.queue.is_empty() {
                return;
            }
            if state.queue.is_empty() || state.is_held || state.is_sending {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let replies = self.begin(state);
            let sent = self.transmit(&replies, &[]);
            drop(replies);
            self.end();
            if sent.is_err() {
                return;
            }
            state = self.lock();
        }
    }

    /// Nothing can be sent any more. Whoever receives finds that out too.
    fn give_up(&self) {
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
    pub(super) fn finish(&self, deadline: Instant) {
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
    /// The request that has it is answered. This waits for nothing but a lock that is never held
    /// for long.
    pub(super) fn answer(self, head: Vec<u8>, data: Vec<u8>) {
        let outbox = self.outbox.clone();
        outbox.push(Reply { head, data, _slot: self });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.outbox.lock();
        state.slots -= 1;
        state.bytes -= self.lease.bytes();
        drop(state);
        self.outbox.room.notify_all();
    }
}
