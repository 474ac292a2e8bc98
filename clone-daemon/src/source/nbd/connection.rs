//! A connection that many callers use at the same time.
//!
//! There is no reader thread. One of the waiting callers reads, and handles the messages of the
//! others too. Data are the exception: each caller receives its data itself, from the socket
//! directly into its own buffer. So the right to read passes to another caller whenever data arrive
//! for that one. The reader state is consistent at any time, also in the middle of a message: a
//! caller that reaches its deadline stops, and the next caller continues. Replies to abandoned
//! requests are read and discarded.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use clone_core::sync::lock;

use crate::nbd_protocol::command;
use crate::source::nbd::error::NbdError;
use crate::source::nbd::handshake::Export;
use crate::source::nbd::inbound::Inbound;
use crate::source::nbd::request::{Request, encode};
use crate::source::nbd::stream::Stream;

/// A connection after its negotiation.
pub(super) struct Connection {
    stream: Stream,
    export: Export,
    state: Mutex<State>,
    /// Number of leases.
    users: AtomicUsize,
    begun: Instant,
    /// Time of the last received byte, in milliseconds since `begun`.
    heard: AtomicU64,
    /// A server that owes replies and sends no byte for this long counts as dead.
    silence: Duration,
}

/// The use of a connection by one caller.
pub(super) struct ConnectionLease(Arc<Connection>);

impl ConnectionLease {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        connection.users.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Deref for ConnectionLease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for ConnectionLease {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

/// State that all callers share.
pub(super) struct State {
    /// The input; `None` while a caller reads.
    pub(super) inbound: Option<Inbound>,
    pub(super) requests: HashMap<u64, Request>,
    /// Number of requests so far.
    count: u64,
    /// Number of abandoned requests that are unanswered.
    abandoned: usize,
    /// Callers that wait for the right to read.
    pub(super) waiting: Vec<Arc<Condvar>>,
    /// The reason why the connection was closed.
    pub(super) closed: Option<String>,
}

/// Maximum number of abandoned requests.
const ABANDONED_MAX: usize = 256;
/// An odd number. Cookies are multiples of it, so a wrong cookie hardly matches another request.
const COOKIE_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Time limit for sending the disconnect request.
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

    /// Returns the number of leases.
    pub(super) fn users(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    /// Returns whether the server has closed the connection, and closes this side then. Only for a
    /// connection that is not in use.
    pub(super) fn is_over(&self) -> bool {
        let is_over = self.stream.is_over();
        if is_over {
            let why = NbdError::Closed("the server ended it".into());
            self.close(&mut lock(&self.state), &why);
        }
        is_over
    }

    /// Closes the connection because it is no longer needed.
    pub(super) fn abandon(&self) {
        let why = NbdError::Closed("unused".into());
        self.close(&mut lock(&self.state), &why);
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed.is_some()
    }

    /// Sends encoded requests. They must be in [`State::requests`] already.
    pub(super) fn send(&self, requests: &[u8], deadline: Instant) -> Result<(), NbdError> {
        self.stream.write(requests, deadline).map_err(|error| {
            let error = NbdError::io("cannot write to the NBD server", error);
            // Part of a request may have been sent.
            self.close(&mut lock(&self.state), &error);
            error
        })
    }

    /// Receives at least one byte.
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

    /// Closes the connection and wakes all callers.
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

    /// Handles a caller that abandoned requests and began to wait at `since`: the connection is
    /// closed if the server seems to be dead, or if it owes too many replies.
    pub(super) fn given_up(&self, state: &mut State, since: Instant) {
        let heard = self.begun + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        let silent = heard.max(since).elapsed() >= self.silence;
        if silent || state.abandoned > ABANDONED_MAX {
            self.close(state, &NbdError::Late);
        }
    }
}

impl State {
    /// Returns a cookie that no other request of the connection has.
    pub(super) fn next_cookie(&mut self) -> u64 {
        self.count = self.count.wrapping_add(1);
        self.count.wrapping_mul(COOKIE_STEP)
    }

    /// Abandons a request: its reply will be discarded.
    pub(super) fn abandon(&mut self, cookie: u64) {
        match self.requests.get_mut(&cookie) {
            Some(request) if !request.is_answered() => {
                request.caller = None;
                self.abandoned += 1;
            }
            _ => drop(self.requests.remove(&cookie)),
        }
    }

    /// Handles the progress of a request. If it is answered, its caller is woken; if it was
    /// abandoned, it is removed.
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

    /// Wakes the caller that has to read next, unless that is `me`.
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
            encode(self.export.format, command::DISC, 0, 0, 0, &mut bytes);
            // If the server does not take it in time, the connection is closed without it.
            let _ = self.stream.write(&bytes, Instant::now() + LEAVE);
            self.stream.close();
        }
    }
}
