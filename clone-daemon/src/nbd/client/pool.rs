//! The connections to a server: made when they are needed, and made anew when they are lost.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clone_core::driver::SourceChanged;

use crate::nbd::client::NbdOptions;
use crate::nbd::client::connection::{Connection, Lease};
use crate::nbd::client::error::NbdError;
use crate::nbd::client::handshake::{Export, Tls, greet};
use crate::nbd::client::stream::{Stream, lock};
use crate::nbd::wire::export;
use crate::source::spec::NbdAddress;

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

/// How long a connection beside others may take that are there already.
const ADD_LIMIT: Duration = Duration::from_secs(10);
/// How long none is tried after one failed.
const ADD_PAUSE: Duration = Duration::from_secs(60);

impl Pool {
    /// Makes the first connection.
    pub(super) fn open(
        address: NbdAddress,
        options: NbdOptions,
        tls: Option<Tls>,
        deadline: Instant,
    ) -> Result<Arc<Self>, NbdError> {
        let first = connect(&address, &options, tls.as_ref(), deadline)?;
        let pinned = first.export().clone();
        let state = State { open: vec![Arc::new(first)], ..State::default() };
        let (state, connected) = (Mutex::new(state), Condvar::new());
        Ok(Arc::new(Self { address, options, tls, pinned, state, connected }))
    }

    pub(super) fn pinned(&self) -> &Export {
        &self.pinned
    }

    /// A connection, and how many were lost so far: the one with the least to do. If all are busy another is made, for those who come later.
    pub(super) fn get(self: &Arc<Self>, deadline: Instant) -> Result<(Lease, u64), NbdError> {
        let mut state = lock(&self.state);
        loop {
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
            let made = pool.connect(Instant::now() + ADD_LIMIT);
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
        let made = connect(&self.address, &self.options, self.tls.as_ref(), deadline)?;
        match difference(&self.pinned, made.export()) {
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
) -> Result<Connection, NbdError> {
    let stream = Stream::connect(&address.endpoint, deadline);
    let mut stream =
        stream.map_err(|error| NbdError::io("cannot connect to the NBD server", error))?;
    let export = greet(&mut stream, &address.export, tls, deadline)?;
    Ok(Connection::new(stream, export, options.silence))
}

/// What tells that an export is not the one it was. What a server can do may differ, for it may
/// have been updated.
fn difference(pinned: &Export, found: &Export) -> Option<String> {
    const NATURE: u16 = export::READ_ONLY | export::ROTATIONAL;
    if pinned.size != found.size {
        return Some(format!("the export had {} bytes, and has {}", pinned.size, found.size));
    }
    if (pinned.flags ^ found.flags) & NATURE != 0 {
        let (was, is) = (pinned.flags, found.flags);
        return Some(format!("the flags of the export were {was:#06x}, and are {is:#06x}"));
    }
    if pinned.description != found.description {
        return Some(format!(
            "the description of the export was {:?}, and is {:?}",
            pinned.description, found.description
        ));
    }
    None
}
