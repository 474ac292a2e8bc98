//! The registry of a server's connections. `connection` registers each one, and enters it for its
//! volume at the end of the negotiation.

use std::collections::{BTreeMap, HashMap};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clone_core::sync::lock;
use tracing::{info, warn};

use crate::export::nbd::channel::Channel;
use crate::export::nbd::limits::{Limit, Peer};

/// Minimum interval between log messages about refusals.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Time limit for a cut connection to end before it is abandoned.
const CUT: Duration = Duration::from_secs(1);

/// Maximum number of connections that were cut and have not ended.
const CUT_MAX: usize = 1024;

/// All connections of a server.
///
/// *Invariant:* the connections that have a volume never exceed the [`Limit`]s. Connections that
/// are still negotiating have separate limits (for each peer and in all), so that a refused client
/// can be told the reason; the oldest of them are cut for new ones. A cut connection does not count
/// any more, and no thread waits for its end.
#[derive(Debug)]
pub(super) struct Registry {
    limits: Limits,
    state: Mutex<State>,
    /// Signalled when a connection has ended.
    gone: Condvar,
    /// Number of connections refused because of a limit, and of those cut for others.
    pub(super) refused: AtomicU64,
    pub(super) evicted: AtomicU64,
}

/// The limits of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Maximum number of connections that have a volume.
    pub(super) most: usize,
    /// A connection that never sent a request may be cut after this time of silence.
    pub(super) unused: Duration,
    /// The same for a connection that has sent a request.
    pub(super) idle: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// Connections by number, in the order of their arrival.
    connections: BTreeMap<u64, Connection>,
    last: u64,
    /// The threads of the connections, including threads that have not quite ended.
    threads: Vec<JoinHandle<()>>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Connection {
    channel: Arc<Channel>,
    peer: Peer,
    /// Name of the volume, after the negotiation.
    volume: Option<String>,
}

impl Connection {
    /// Returns whether the connection counts.
    fn is_here(&self) -> bool {
        !self.channel.is_cut()
    }

    fn negotiates(&self) -> bool {
        self.volume.is_none() && self.is_here()
    }
}

impl State {
    /// Returns the connections with a volume that count for `limit`, for a new connection of `peer`
    /// to `volume`.
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

/// Counts the connections of each peer.
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
        lock(&self.state)
    }

    /// Registers a new connection, which is negotiating, and returns its number. `None` if too many
    /// cut connections have not ended.
    pub(super) fn add(&self, channel: &Arc<Channel>, peer: Peer) -> Option<u64> {
        let mut state = self.lock();
        let negotiating = state.connections.values().filter(|connection| connection.negotiates());
        let counts = by_peer(negotiating.clone());
        let of_peer = counts.get(&peer).copied().unwrap_or(0);
        let most = self.limits.most;
        let from = match of_peer >= Limit::Peer.of(most) {
            true => Some(peer),
            false if negotiating.clone().count() < most => None,
            false => counts.into_iter().max_by_key(|&(_, count)| count).map(|(peer, _)| peer),
        };
        if let Some(from) = from
            && let Some(oldest) = negotiating.clone().find(|connection| connection.peer == from)
        {
            oldest.channel.cut();
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        // A cut connection ends soon, unless it waits for a device.
        if state.connections.len() >= most.saturating_mul(2).saturating_add(CUT_MAX) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.tell(&mut state, peer, &"too many closed connections have not ended yet");
            return None;
        }
        state.last += 1;
        let id = state.last;
        state.connections.insert(id, Connection { channel: channel.clone(), peer, volume: None });
        Some(id)
    }

    /// Records the thread of a connection.
    pub(super) fn started(&self, thread: JoinHandle<()>) {
        let mut state = self.lock();
        state.threads.retain(|thread| !thread.is_finished());
        state.threads.push(thread);
    }

    /// Removes a connection that has ended.
    pub(super) fn remove(&self, id: u64) {
        self.lock().connections.remove(&id);
        self.gone.notify_all();
    }

    /// Enters a connection for a volume. Idle connections are cut if that is needed.
    ///
    /// # Errors
    /// The limit that is reached, if no idle connection can be cut for it.
    pub(super) fn enter(&self, id: u64, volume: &str) -> Result<(), Limit> {
        let mut state = self.lock();
        // The connection may have ended, or be about to end.
        let Some(peer) = state.connections.get(&id).map(|connection| connection.peer) else {
            return Ok(());
        };
        // Nothing is cut in vain: each reached limit must have an idle connection to cut.
        let is_full = |state: &State, limit: Limit| {
            state.group(limit, peer, volume).count() >= limit.of(self.limits.most)
        };
        let stuck = Limit::ALL.into_iter().find(|&limit| {
            is_full(&state, limit) && self.find_idle(state.group(limit, peer, volume)).is_none()
        });
        if let Some(limit) = stuck {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.tell(&mut state, peer, &format_args!("{limit}; it requests {volume:?}"));
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
            info!(
                clone = of,
                "an idle NBD connection of {whose} was closed for a new one: {limit}"
            );
        }
        if let Some(connection) = state.connections.get_mut(&id) {
            connection.volume = Some(volume.into());
        }
        Ok(())
    }

    /// Finds the connection to cut: an idle one of the peer that has the most connections, and
    /// among those the one with the longest silence.
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
                "refused an NBD client, {peer}: {why}. A higher --nbd-connections, now {}, raises \
                 the limits. {refused} refused so far",
                self.limits.most
            );
        }
    }

    /// Returns the number of connections, including those that are negotiating or ending.
    pub(super) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// Returns the number of connections to `volume` that were not cut.
    pub(super) fn len_of(&self, volume: &str) -> usize {
        self.lock().group(Limit::Volume, Peer::Unknown, volume).count()
    }

    /// Returns the number of connections that are negotiating.
    pub(super) fn negotiating(&self) -> usize {
        self.lock().connections.values().filter(|connection| connection.negotiates()).count()
    }

    /// Returns the maximum number of connections that have a volume.
    pub(super) fn most(&self) -> usize {
        self.limits.most
    }

    /// Cuts the connections to a volume.
    pub(super) fn cut_volume(&self, volume: &str) {
        for connection in self.lock().connections.values() {
            if connection.volume.as_deref() == Some(volume) {
                connection.channel.cut();
            }
        }
    }

    /// Ends all connections: stops all input, waits until all requests are answered or until
    /// `deadline`, and cuts the remaining connections. A connection that does not end even then
    /// waits for a device, or for a source that will be abandoned later; it ends when that
    /// responds.
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
            warn!("{left} NBD connections still wait for a device or a source, and are abandoned");
        }
        for thread in threads {
            if left == 0 || thread.is_finished() {
                // If it panicked, the message is on stderr already.
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
