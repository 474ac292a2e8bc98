//! The connections to a server: made when they are needed, and made anew when they are lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clone_core::block_io::SourceChanged;

use crate::nbd_protocol::export;
use crate::source::nbd::NbdOptions;
use crate::source::nbd::connection::{Connection, Lease};
use crate::source::nbd::error::NbdError;
use crate::source::nbd::handshake::{Export, Tls, greet};
use crate::source::nbd::stream::{Stream, lock};
use crate::source::uri::NbdAddress;

/// The connections to one export.
pub(super) struct Pool {
    address: NbdAddress,
    options: NbdOptions,
    tls: Option<Tls>,
    /// What was found when it was opened: every connection must find the same.
    pinned: Export,
    state: Mutex<State>,
    /// Somebody is done with connecting.
    connected: Condvar,
    /// Whether nobody is to wait any more.
    end: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    open: Vec<Arc<Connection>>,
    /// Whether somebody makes the only connection there is.
    connecting: bool,
    /// Whether a connection beside others is being made.
    adding: bool,
    /// Until when none is, for the server did not take one.
    refused: Option<Instant>,
    /// How many connections were lost.
    losses: u64,
}

/// How long no connection beside others is tried after one failed.
const ADD_PAUSE: Duration = Duration::from_secs(60);

impl Pool {
    /// Makes the first connection.
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

    /// A connection, and how many were lost so far: the one with the least to do. If all are busy
    /// another is made, for those who come later.
    pub(super) fn get(self: &Arc<Self>, deadline: Instant) -> Result<(Lease, u64), NbdError> {
        let mut state = lock(&self.state);
        loop {
            if self.end.load(Ordering::Relaxed) {
                return Err(NbdError::Closed("nobody wants it any more".into()));
            }
            let before = state.open.len();
            state.open.retain(|connection| !connection.is_closed());
            state.losses += (before - state.open.len()) as u64;
            if let Some(idlest) = state.open.iter().min_by_key(|it| it.users()).cloned() {
                if idlest.users() > 0 {
                    self.add(&mut state);
                } else if idlest.is_over() {
                    // It was lost while nobody used it, which is nobody's trouble.
                    continue;
                }
                return Ok((Lease::new(idlest), state.losses));
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
        Ok((Lease::new(made?), state.losses))
    }

    /// Ends what is under way, for good.
    pub(super) fn abandon(&self) {
        self.end.store(true, Ordering::Relaxed);
        for connection in lock(&self.state).open.drain(..) {
            connection.abandon();
        }
        self.connected.notify_all();
    }

    /// Has another connection made, unless there are enough, or one is being made.
    fn add(self: &Arc<Self>, state: &mut State) {
        let may_share = self.pinned.flags & (export::CAN_MULTI_CONN | export::READ_ONLY) != 0;
        let refused = state.refused.is_some_and(|until| Instant::now() < until);
        let is_full = state.open.len() >= self.options.connections;
        if !may_share || refused || is_full || state.adding {
            return;
        }
        let pool = self.clone();
        let add = move || {
            // There are servers that let others wait until the first one leaves.
            let made = pool.connect(Instant::now() + pool.options.connect_timeout);
            let mut state = lock(&pool.state);
            state.adding = false;
            match made {
                Ok(connection) => state.open.push(Arc::new(connection)),
                Err(_) => state.refused = Some(Instant::now() + ADD_PAUSE),
            }
        };
        // Where there are no more threads those who come later share what there is.
        state.adding = thread::Builder::new().name("nbd-connect".into()).spawn(add).is_ok();
    }

    /// Makes a connection to the same export.
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
