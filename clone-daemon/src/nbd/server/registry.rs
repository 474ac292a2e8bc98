//! The connections of a server.

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::nbd::server::channel::Channel;

/// All connections, by number, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    /// A connection is gone.
    gone: Condvar,
}

#[derive(Debug, Default)]
struct State {
    connections: BTreeMap<u64, Connection>,
    last: u64,
    /// Their threads, also of those that are gone but for that.
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Connection {
    channel: Arc<Channel>,
    /// The name of its volume, once it has one.
    volume: Option<String>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a new connection; `None` if there are `most` already.
    pub(super) fn add(&self, channel: &Arc<Channel>, most: usize) -> Option<u64> {
        let mut state = self.lock();
        if state.connections.len() >= most {
            return None;
        }
        state.last += 1;
        let id = state.last;
        state.connections.insert(id, Connection { channel: channel.clone(), volume: None });
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

    /// A connection has a volume from now on.
    pub(super) fn enter(&self, id: u64, volume: &str) {
        if let Some(connection) = self.lock().connections.get_mut(&id) {
            connection.volume = Some(volume.into());
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().connections.len()
    }

    /// Cuts those of a volume.
    pub(super) fn cut_volume(&self, volume: &str) {
        for connection in self.lock().connections.values() {
            if connection.volume.as_deref() == Some(volume) {
                connection.channel.cut();
            }
        }
    }

    /// Cuts the one that has haggled longest, if one haggles, and waits for its end, but no longer
    /// than until `deadline`.
    pub(super) fn give_way(&self, deadline: Instant) {
        let mut state = self.lock();
        let oldest = state.connections.iter().find(|(_, connection)| connection.volume.is_none());
        let Some((&id, connection)) = oldest else { return };
        connection.channel.cut();
        while state.connections.contains_key(&id) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.gone.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets nothing more come from clients, waits until all are answered and gone, but no longer
    /// than until `deadline`, cuts the others, and waits for all threads.
    pub(super) fn end(&self, deadline: Instant) {
        let mut state = self.lock();
        for connection in state.connections.values() {
            match connection.volume {
                Some(_) => connection.channel.stream().shut_down(Shutdown::Read),
                None => connection.channel.cut(),
            }
        }
        while !state.connections.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.gone.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        for connection in state.connections.values() {
            connection.channel.cut();
        }
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        for thread in threads {
            // What it panicked of, if it did, has been told on stderr.
            let _ = thread.join();
        }
    }
}
