//! The connections to one server: opened on demand, and replaced when they are lost.
//!
//! `NbdRemote` takes a lease on a connection for each read.
//!
//! *Invariant:* all connections are to an export with the same identity as the first one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clone_core::block_io::SourceChanged;
use clone_core::sync::lock;

use crate::nbd_protocol::export;
use crate::source::nbd::NbdOptions;
use crate::source::nbd::connection::{Connection, ConnectionLease};
use crate::source::nbd::error::NbdError;
use crate::source::nbd::handshake::{Export, Tls, greet};
use crate::source::nbd::stream::Stream;
use crate::source::uri::NbdAddress;

/// The connections to one export.
pub(super) struct Pool {
    address: NbdAddress,
    options: NbdOptions,
    tls: Option<Tls>,
    /// The export of the first connection; every other connection must have the same identity.
    pinned: Export,
    state: Mutex<State>,
    /// Signalled when a thread has finished connecting.
    connected: Condvar,
    /// True if no thread may wait any longer.
    end: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    open: Vec<Arc<Connection>>,
    /// True while a caller opens the only connection.
    connecting: bool,
    /// True while an additional connection is being opened.
    adding: bool,
    /// No additional connection is tried before this time, because one failed.
    refused: Option<Instant>,
    /// Number of lost connections.
    losses: u64,
}

/// Pause after an additional connection failed.
const ADD_PAUSE: Duration = Duration::from_secs(60);

impl Pool {
    /// Opens the first connection.
    pub(super) fn open(
        address: NbdAddress,
        options: NbdOptions,
        tls: Option<Tls>,
        deadline: Instant,
    ) -> Result<Arc<Self>, NbdError> {
        let end = Arc::default();
        let first = connect(&address, &options, tls.as_ref(), deadline, &end)?;
        let pinned = first.export().clone();
        let state = State { open: vec![Arc::new(first)], ..State::default() };
        let (state, connected) = (Mutex::new(state), Condvar::new());
        Ok(Arc::new(Self { address, options, tls, pinned, state, connected, end }))
    }

    pub(super) fn pinned(&self) -> &Export {
        &self.pinned
    }

    /// Returns the least used connection, and the number of connections lost so far. If all are in
    /// use, another one is opened in the background for later callers.
    pub(super) fn get(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<(ConnectionLease, u64), NbdError> {
        let mut state = lock(&self.state);
        loop {
            if self.end.load(Ordering::Relaxed) {
                return Err(NbdError::Closed("unused".into()));
            }
            let before = state.open.len();
            state.open.retain(|connection| !connection.is_closed());
            state.losses += (before - state.open.len()) as u64;
            if let Some(idlest) = state.open.iter().min_by_key(|it| it.users()).cloned() {
                if idlest.users() > 0 {
                    self.add(&mut state);
                } else if idlest.is_over() {
                    // It was lost while unused, so no caller has to see an error.
                    continue;
                }
                return Ok((ConnectionLease::new(idlest), state.losses));
            }
            if !state.connecting {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NbdError::Late);
            }
            let woken = self.connected.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.connecting = true;
        state.refused = None;
        drop(state);
        let made = self.connect(deadline).map(Arc::new);
        let mut state = lock(&self.state);
        state.connecting = false;
        if let Ok(connection) = &made {
            state.open.push(connection.clone());
        }
        self.connected.notify_all();
        Ok((ConnectionLease::new(made?), state.losses))
    }

    /// Closes all connections, for good.
    pub(super) fn abandon(&self) {
        self.end.store(true, Ordering::Relaxed);
        for connection in lock(&self.state).open.drain(..) {
            connection.abandon();
        }
        self.connected.notify_all();
    }

    /// Opens another connection in the background, unless there are enough or one is being opened.
    fn add(self: &Arc<Self>, state: &mut State) {
        let may_share = self.pinned.flags & (export::CAN_MULTI_CONN | export::READ_ONLY) != 0;
        let refused = state.refused.is_some_and(|until| Instant::now() < until);
        let is_full = state.open.len() >= self.options.connections;
        if !may_share || refused || is_full || state.adding {
            return;
        }
        let pool = self.clone();
        let add = move || {
            // Some servers keep a second client waiting until the first one leaves.
            let made = pool.connect(Instant::now() + pool.options.connect_timeout);
            let mut state = lock(&pool.state);
            state.adding = false;
            match made {
                Ok(connection) => state.open.push(Arc::new(connection)),
                Err(_) => state.refused = Some(Instant::now() + ADD_PAUSE),
            }
        };
        // Without a thread for it, later callers share the existing connections.
        state.adding = thread::Builder::new().name("nbd-connect".into()).spawn(add).is_ok();
    }

    /// Opens a connection and checks that it is to the same export.
    fn connect(&self, deadline: Instant) -> Result<Connection, NbdError> {
        let (address, options, tls) = (&self.address, &self.options, self.tls.as_ref());
        let made = connect(address, options, tls, deadline, &self.end)?;
        match self.pinned.identity().difference(&made.export().identity()) {
            Some(what) => Err(SourceChanged(what).into()),
            None => Ok(made),
        }
    }
}

fn connect(
    address: &NbdAddress,
    options: &NbdOptions,
    tls: Option<&Tls>,
    deadline: Instant,
    end: &Arc<AtomicBool>,
) -> Result<Connection, NbdError> {
    let deadline = deadline.min(Instant::now() + options.connect_timeout);
    let stream = Stream::connect(&address.endpoint, deadline, end.clone());
    let mut stream =
        stream.map_err(|error| NbdError::io("cannot connect to the NBD server", error))?;
    let export = greet(&mut stream, &address.export, tls, deadline)?;
    Ok(Connection::new(stream, export, options.silence))
}
