//! One connection, which many callers use at a time.
//!
//! There is no thread that reads. Of those who wait for a reply one reads, and takes care of what
//! comes for others too; only data go from the socket into the buffer of whoever wants them, and by
//! its own hand. So what is read is handed on whenever data come for somebody else. It is whole at
//! any time, in the middle of a message too: whoever has no more time leaves it, and the next one
//! goes on. What nobody waits for any more is read and thrown away.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::nbd_protocol::command;
use crate::source::nbd::call::{Call, Inbound};
use crate::source::nbd::error::NbdError;
use crate::source::nbd::handshake::Export;
use crate::source::nbd::reply::Run;
use crate::source::nbd::request::{Request, Wish, encode};
use crate::source::nbd::stream::{Stream, lock};

/// A connection that has been agreed upon.
pub(super) struct Connection {
    stream: Stream,
    export: Export,
    state: Mutex<State>,
    /// How many use it.
    users: AtomicUsize,
    begun: Instant,
    /// When something came last, in milliseconds since it began.
    heard: AtomicU64,
    /// After so long without a byte a server that owes some is taken for dead.
    silence: Duration,
}

/// A connection for the time that somebody uses it.
pub(super) struct Lease(Arc<Connection>);

impl Lease {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        connection.users.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What all callers share.
pub(super) struct State {
    /// What has been read; whoever reads has it.
    pub(super) inbound: Option<Inbound>,
    pub(super) requests: HashMap<u64, Request>,
    /// How many requests there have been.
    count: u64,
    /// How many of them nobody waits for.
    abandoned: usize,
    /// Callers that wait until it is their turn.
    pub(super) waiting: Vec<Arc<Condvar>>,
    /// Why it was closed.
    pub(super) closed: Option<String>,
}

/// The most requests that are under way at a time, roughly: they must fit into the buffers of the
/// socket, or writers would wait for a server that waits for readers.
const REQUESTS_MAX: usize = 128;
/// The most requests that nobody waits for.
const ABANDONED_MAX: usize = 256;
/// An odd number: cookies are its multiples, so that a wrong one is hardly that of another request.
const COOKIE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// How long taking leave of a server may take.
const LEAVE: Duration = Duration::from_millis(50);

impl Connection {
    pub(super) fn new(stream: Stream, export: Export, silence: Duration) -> Self {
        let state = State {
            inbound: Some(Inbound::default()),
            requests: HashMap::new(),
            count: 0,
            abandoned: 0,
            waiting: Vec::new(),
            closed: None,
        };
        Self {
            stream,
            export,
            state: Mutex::new(state),
            users: AtomicUsize::new(0),
            begun: Instant::now(),
            heard: AtomicU64::new(0),
            silence,
        }
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    /// How many use it.
    pub(super) fn users(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    /// Whether the server has ended it. Only for one that nobody uses; it is closed then.
    pub(super) fn is_over(&self) -> bool {
        let is_over = self.stream.is_over();
        if is_over {
            let why = NbdError::Closed("the server has ended it".into());
            self.close(&mut lock(&self.state), &why);
        }
        is_over
    }

    /// Ends it, for nobody wants it any more.
    pub(super) fn abandon(&self) {
        let why = NbdError::Closed("nobody wants it any more".into());
        self.close(&mut lock(&self.state), &why);
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed.is_some()
    }

    /// Reads from `offset` on, in pieces of so many bytes, so many at a time.
    pub(super) fn read(
        &self,
        offset: u64,
        into: &mut [u8],
        (piece, window): (u64, usize),
        deadline: Instant,
    ) -> Result<(), NbdError> {
        let end = offset.saturating_add(into.len() as u64);
        let mut at = offset;
        let mut call = Call::new(self, offset, into, deadline);
        loop {
            let window = window.min(REQUESTS_MAX / self.users().max(1)).max(1);
            let mut wanted = Vec::new();
            // After a failure nothing more is asked for, but what was is waited for.
            while at < end && !call.has_failed() && call.waits_for() + wanted.len() < window {
                let until = (at / piece + 1).saturating_mul(piece).min(end);
                wanted.push((Wish::Read, at..until));
                at = until;
            }
            call.send(wanted)?;
            if call.waits_for() == 0 {
                return call.end().map(drop);
            }
            call.collect()?;
        }
    }

    /// The extents from the beginning of `range` on, in the given context.
    pub(super) fn status(
        &self,
        range: Range<u64>,
        context: u32,
        deadline: Instant,
    ) -> Result<Vec<Run>, NbdError> {
        let mut call = Call::new(self, range.start, &mut [], deadline);
        call.send(vec![(Wish::Status { context }, range)])?;
        call.collect()?;
        call.end()
    }

    /// Sends requests, which are waiting already for their replies.
    pub(super) fn send(&self, requests: &[u8], deadline: Instant) -> Result<(), NbdError> {
        self.stream.write(requests, deadline).map_err(|error| {
            let error = NbdError::io("cannot write to the NBD server", error);
            // Part of a request may have been sent.
            self.close(&mut lock(&self.state), &error);
            error
        })
    }

    /// Reads something, at least one byte.
    pub(super) fn receive(&self, into: &mut [u8], deadline: Instant) -> Result<usize, NbdError> {
        let got = self.stream.read(into, deadline);
        let got = got.map_err(|error| NbdError::io("cannot read from the NBD server", error))?;
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(millis, Ordering::Relaxed);
        Ok(got)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Ends it, and tells all who wait.
    pub(super) fn close(&self, state: &mut State, why: &NbdError) {
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(why.to_string());
        self.stream.close();
        for request in state.requests.values() {
            if let Some(caller) = &request.caller {
                caller.notify_all();
            }
        }
        state.requests.clear();
    }

    /// Leaves a connection that somebody gave up waiting on who began at `since`: it is closed if
    /// the server seems to be dead, or owes too much.
    pub(super) fn given_up(&self, state: &mut State, since: Instant) {
        let heard = self.begun + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        let silent = heard.max(since).elapsed() >= self.silence;
        if silent || state.abandoned > ABANDONED_MAX {
            self.close(state, &NbdError::Late);
        }
    }
}

impl State {
    /// A cookie that no other request of the connection has.
    pub(super) fn next_cookie(&mut self) -> u64 {
        self.count = self.count.wrapping_add(1);
        self.count.wrapping_mul(COOKIE_STEP)
    }

    /// Nobody waits any more for the reply to this one.
    pub(super) fn abandon(&mut self, cookie: u64) {
        match self.requests.get_mut(&cookie) {
            Some(request) if !request.is_answered() => {
                request.caller = None;
                self.abandoned += 1;
            }
            _ => drop(self.requests.remove(&cookie)),
        }
    }

    /// Something has come for this one: whoever waits for it is told if it was the last.
    pub(super) fn settle(&mut self, cookie: u64) {
        let Some(request) = self.requests.get(&cookie).filter(|it| it.is_answered()) else {
            return;
        };
        match &request.caller {
            Some(caller) => caller.notify_all(),
            None => {
                self.requests.remove(&cookie);
                self.abandoned -= 1;
            }
        }
    }

    /// Wakes whoever is to read next if `me` does not.
    pub(super) fn pass_on(&self, me: &Arc<Condvar>) {
        let Some(inbound) = &self.inbound else { return };
        let owner = inbound.data.as_ref().and_then(|data| self.requests.get(&data.cookie));
        let owner = owner.and_then(|owner| owner.caller.as_ref());
        let mut next = owner.into_iter().chain(&self.waiting);
        if let Some(caller) = next.find(|caller| !Arc::ptr_eq(caller, me)) {
            caller.notify_all();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_closed() {
            let mut bytes = Vec::new();
            encode(self.export.style, command::DISC, 0, 0, 0, &mut bytes);
            // A server that does not take it is left without a word.
            let _ = self.stream.write(&bytes, Instant::now() + LEAVE);
            self.stream.close();
        }
    }
}
