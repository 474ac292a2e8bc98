//! The connections of a server.

use std::collections::{BTreeMap, HashMap};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::export::nbd::channel::Channel;
use crate::export::nbd::limits::{Limit, Peer};

/// Refusals are logged no more often than this.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How long a connection that was cut may take to end before it is left alone.
const CUT: Duration = Duration::from_secs(1);

/// How many connections there may be that were cut and have not ended.
const CUT_MAX: usize = 1024;

/// All connections.
///
/// *Invariant:* of those that have a volume there are never more than the [`Limit`]s say. Those
/// that are still haggling have the limits of a peer and of all for themselves, so that who is
/// refused can be told why; the oldest of them make way for new ones. One that was cut does not
/// count any more, and nobody waits for its end.
#[derive(Debug)]
pub(super) struct Registry {
    limits: Limits,
    state: Mutex<State>,
    /// A connection is gone.
    gone: Condvar,
    /// Connections that got no volume for want of room, and those that were cut to make room.
    pub(super) refused: AtomicU64,
    pub(super) evicted: AtomicU64,
}

/// What bounds connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections that have a volume.
    pub(super) most: usize,
    /// One that has never asked for anything may be cut when it has been silent so long.
    pub(super) unused: Duration,
    /// One that has asked for something.
    pub(super) idle: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// By number, in the order in which they came.
    connections: BTreeMap<u64, Connection>,
    last: u64,
    /// Their threads, also of those that are gone but for that.
    threads: Vec<JoinHandle<()>>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    channel: Arc<Channel>,
    peer: Peer,
    /// The name of its volume, once it has one.
    volume: Option<String>,
}

impl Connection {
    /// Whether it counts.
    fn is_here(&self) -> bool {
        !self.channel.is_cut()
    }

    fn haggles(&self) -> bool {
        self.volume.is_none() && self.is_here()
    }
}

impl State {
    /// Those of `limit` that have a volume, as seen by `peer` that is about to have `volume`.
    fn group<'a>(
        &'a self,
        limit: Limit,
        peer: Peer,
        volume: &'a str,
    ) -> impl Iterator<Item = &'a Connection> + Clone {
        let is_in = move |connection: &&Connection| {
            let Some(of) = &connection.volume else { return false };
            let (its_peer, its_volume) = (connection.peer == peer, of == volume);
            connection.is_here()
                && match limit {
                    Limit::PeerOfVolume => its_peer && its_volume,
                    Limit::Peer => its_peer,
                    Limit::Volume => its_volume,
                    Limit::All => true,
                }
        };
        self.connections.values().filter(is_in)
    }
}

/// How many of the connections each peer has.
fn by_peer<'a>(connections: impl Iterator<Item = &'a Connection>) -> HashMap<Peer, usize> {
    let mut counts = HashMap::new();
    connections.for_each(|connection| *counts.entry(connection.peer).or_default() += 1);
    counts
}

impl Registry {
    pub(super) fn new(limits: Limits) -> Self {
        let (state, gone, refused, evicted) = Default::default();
        Self { limits, state, gone, refused, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a new connection, which haggles. `None` if there are too many that do not end
    /// though they were cut.
    pub(super) fn add(&self, channel: &Arc<Channel>, peer: Peer) -> Option<u64> {
        let mut state = self.lock();
        let haggling = state.connections.values().filter(|connection| connection.haggles());
        let counts = by_peer(haggling.clone());
        let of_peer = counts.get(&peer).copied().unwrap_or(0);
        let most = self.limits.most;
        let from = match of_peer >= Limit::Peer.of(most) {
            true => Some(peer),
            false if haggling.clone().count() < most => None,
            false => counts.into_iter().max_by_key(|&(_, count)| count).map(|(peer, _)| peer),
        };
        if let Some(from) = from
            && let Some(oldest) = haggling.clone().find(|connection| connection.peer == from)
        {
            oldest.channel.cut();
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        // Of those that were cut none takes long, unless it waits for a device.
        if state.connections.len() >= most.saturating_mul(2).saturating_add(CUT_MAX) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.tell(&mut state, peer, &"too many that were cut have not ended");
            return None;
        }
        state.last += 1;
        let id = state.last;
        state.connections.insert(id, Connection { channel: channel.clone(), peer, volume: None });
        Some(id)
    }

    /// The thread of a connection has been started.
    pub(super) fn started(&self, thread: JoinHandle<()>) {
        let mut state = self.lock();
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
    }

    /// A connection is gone.
    pub(super) fn remove(&self, id: u64) {
        self.lock().connections.remove(&id);
        self.gone.notify_all();
    }

    /// A connection has a volume from now on, unless there are too many.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn enter(&self, id: u64, volume: &str) -> Result<(), Limit> {
        let mut state = self.lock();
        // It may be gone, or be about to go.
        let Some(peer) = state.connections.get(&id).map(|connection| connection.peer) else {
            return Ok(());
        };
        // Nothing is cut in vain: for each limit that is reached there must be one that can go.
        let is_full = |state: &State, limit: Limit| {
            state.group(limit, peer, volume).count() >= limit.of(self.limits.most)
        };
        let stuck = Limit::ALL.into_iter().find(|&limit| {
            is_full(&state, limit) && self.find_idle(state.group(limit, peer, volume)).is_none()
        });
        if let Some(limit) = stuck {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.tell(&mut state, peer, &format_args!("{limit}; it wants {volume:?}"));
            return Err(limit);
        }
        for limit in Limit::ALL {
            if !is_full(&state, limit) {
                continue;
            }
            let Some(idle) = self.find_idle(state.group(limit, peer, volume)) else { continue };
            idle.channel.cut();
            self.evicted.fetch_add(1, Ordering::Relaxed);
            let (of, whose) = (idle.volume.as_deref().unwrap_or_default(), idle.peer);
            info!(clone = of, "an idle NBD connection of {whose} made way for another: {limit}");
        }
        if let Some(connection) = state.connections.get_mut(&id) {
            connection.volume = Some(volume.into());
        }
        Ok(())
    }

    /// The one that can go: of the peer that has most of them, the one that was silent longest.
    fn find_idle<'a>(
        &self,
        group: impl Iterator<Item = &'a Connection> + Clone,
    ) -> Option<&'a Connection> {
        let counts = by_peer(group.clone());
        let idle = group.filter_map(|connection| {
            let silence = connection.channel.silence()?;
            let limit = if silence.has_asked { self.limits.idle } else { self.limits.unused };
            (silence.time >= limit).then_some((silence.time, connection))
        });
        let count = |connection: &Connection| counts.get(&connection.peer).copied();
        let longest = idle.max_by_key(|(time, connection)| (count(connection), *time));
        longest.map(|(_, connection)| connection)
    }

    fn tell(&self, state: &mut State, peer: Peer, why: &dyn std::fmt::Display) {
        let now = Instant::now();
        if state.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY) {
            state.told = Some(now);
            let refused = self.refused.load(Ordering::Relaxed);
            warn!(
                "an NBD client is refused, {peer}: {why}. --nbd-connections, now {}, raises the \
                 limits. {refused} have been refused by now",
                self.limits.most
            );
        }
    }

    /// How many there are, with those that haggle and those that are about to go.
    pub(super) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// How many have chosen `volume`, and were not cut.
    pub(super) fn len_of(&self, volume: &str) -> usize {
        self.lock().group(Limit::Volume, Peer::Unknown, volume).count()
    }

    /// How many haggle.
    pub(super) fn haggling(&self) -> usize {
        self.lock().connections.values().filter(|connection| connection.haggles()).count()
    }

    /// How many may have a volume.
    pub(super) fn most(&self) -> usize {
        self.limits.most
    }

    /// Cuts those of a volume.
    pub(super) fn cut_volume(&self, volume: &str) {
        for connection in self.lock().connections.values() {
            if connection.volume.as_deref() == Some(volume) {
                connection.channel.cut();
            }
        }
    }

    /// Lets nothing more come from clients, waits until all are answered and gone, but no longer
    /// than until `deadline`, and cuts the others. One that does not end even then waits for a
    /// device, or for a source that will be given up later: it ends by itself when that answers.
    pub(super) fn end(&self, deadline: Instant) {
        let state = self.lock();
        for connection in state.connections.values() {
            match connection.volume {
                Some(_) => connection.channel.stream().shut_down(Shutdown::Read),
                None => connection.channel.cut(),
            }
        }
        let state = self.wait_until_gone(state, deadline);
        for connection in state.connections.values() {
            connection.channel.cut();
        }
        let mut state = self.wait_until_gone(state, Instant::now() + CUT);
        let (left, threads) = (state.connections.len(), std::mem::take(&mut state.threads));
        drop(state);
        if left > 0 {
            warn!("{left} NBD connections wait for a device or a source, and are left to end");
        }
        for thread in threads {
            if left == 0 || thread.is_finished() {
                // What it panicked of, if it did, has been told on stderr.
                let _ = thread.join();
            }
        }
    }

    fn wait_until_gone<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
    ) -> MutexGuard<'a, State> {
        while !state.connections.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.gone.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}
