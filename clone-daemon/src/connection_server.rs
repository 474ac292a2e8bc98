//! Servers on a listening socket: one thread for each connection, and a limited number of them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use clone_core::sync::lock;
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

/// Pause after accepting has failed, for example because of a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Maximum wait for the threads of evicted connections, and the interval at which they are checked.
const LEAVING_TIME: Duration = Duration::from_secs(1);
const EVICTED_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A listening socket with its acceptor thread, until it is stopped or dropped.
pub(crate) struct ConnectionServer {
    shared: Arc<Shared>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    socket: OwnedFd,
    is_ending: AtomicBool,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    /// The open connections, which are shut down at the end.
    open: HashMap<u64, Connection>,
    /// Threads of evicted connections that may not have ended.
    leaving: Vec<JoinHandle<()>>,
}

struct Connection {
    socket: OwnedFd,
    thread: Option<JoinHandle<()>>,
    /// Start of the current wait for the peer, if the connection waits.
    idle_since: Option<Instant>,
}

/// A server for connections.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Serves one peer until it disconnects, or until the connection [has to end](ConnectionState::is_ending). The socket is blocking.
    fn serve(&self, socket: OwnedFd, connection: &ConnectionState);

    /// Refuses a connection because there are too many. This must not wait for the peer.
    fn refuse(&self, socket: OwnedFd) {
        drop(socket);
    }
}

/// The state that a connection shares with the listening socket.
pub(crate) struct ConnectionState {
    shared: Arc<Shared>,
    id: u64,
}

impl ConnectionState {
    /// Returns whether the connection has to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.shared.is_ending.load(Ordering::SeqCst)
    }

    /// Records whether the connection waits for its peer; it does at the beginning. A waiting
    /// connection may be evicted for a new one.
    pub(crate) fn wait_for_peer(&self, waits: bool) {
        if let Some(connection) = lock(&self.shared.connections).open.get_mut(&self.id) {
            let since = connection.idle_since.or_else(|| Some(Instant::now()));
            connection.idle_since = since.filter(|_| waits);
        }
    }
}

impl ConnectionServer {
    /// Starts a thread that lets `server` serve the connections to `socket`, up to
    /// `connections_max` at a time.
    ///
    /// # Errors
    /// The error of the system if it cannot create a thread.
    pub(crate) fn start(
        name: &str,
        socket: OwnedFd,
        connections_max: usize,
        server: impl Serve,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket,
            is_ending: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let (theirs, server, thread) = (shared.clone(), Arc::new(server), name.to_owned());
        let acceptor = Builder::new().name(name.into()).spawn(move || {
            accept_all(&theirs, &server, connections_max, &thread);
        })?;
        Ok(Self { shared, acceptor: Mutex::new(Some(acceptor)) })
    }

    /// Stops accepting connections and requests. Replies can still be sent.
    pub(crate) fn close(&self) {
        let acceptor = lock(&self.acceptor).take();
        let Some(acceptor) = acceptor else { return };
        self.shared.is_ending.store(true, Ordering::SeqCst);
        // This wakes the acceptor. It fails if the socket was shut down before.
        let _ = shutdown(&self.shared.socket, Shutdown::Both);
        let _ = acceptor.join();
        for connection in lock(&self.shared.connections).open.values() {
            let _ = shutdown(&connection.socket, Shutdown::Read);
        }
    }

    /// Stops accepting connections, closes all of them, and waits for their threads.
    pub(crate) fn stop(&mut self) {
        self.close();
        let mut connections = lock(&self.shared.connections);
        let open: Vec<Connection> = connections.open.drain().map(|(_, open)| open).collect();
        let mut threads = std::mem::take(&mut connections.leaving);
        drop(connections);
        for connection in &open {
            let _ = shutdown(&connection.socket, Shutdown::Both);
        }
        threads.extend(open.into_iter().filter_map(|connection| connection.thread));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Drop for ConnectionServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Connections {
    /// Makes room for a connection if there are `most`: evicts the one that has waited for its peer
    /// for the longest time. False if none can be evicted.
    fn make_room(&mut self, most: usize) -> bool {
        if self.open.len() < most {
            return true;
        }
        let since = |(id, connection): (&u64, &Connection)| Some((connection.idle_since?, *id));
        let Some((_, id)) = self.open.iter().filter_map(since).min() else { return false };
        let Some(connection) = self.open.remove(&id) else { return false };
        // Its thread finds the end of the input.
        let _ = shutdown(&connection.socket, Shutdown::Both);
        self.leaving.extend(connection.thread);
        true
    }
}

/// Makes room for a connection; false if there are `most` and none can be evicted. Usually few
/// threads of evicted connections are left; if there are too many, this waits a limited time for
/// them.
fn make_room(shared: &Shared, most: usize) -> bool {
    let until = Instant::now() + LEAVING_TIME;
    loop {
        let mut connections = lock(&shared.connections);
        connections.leaving.retain(|thread| !thread.is_finished());
        if connections.leaving.len() < most {
            return connections.make_room(most);
        }
        drop(connections);
        if shared.is_ending.load(Ordering::SeqCst) || Instant::now() >= until {
            return false;
        }
        thread::sleep(EVICTED_POLL_INTERVAL);
    }
}

fn accept_all<S: Serve>(shared: &Arc<Shared>, server: &Arc<S>, most: usize, name: &str) {
    let is_ending = || shared.is_ending.load(Ordering::SeqCst);
    while !is_ending() {
        match accept_with(&shared.socket, SocketFlags::CLOEXEC) {
            Ok(_) if is_ending() => {}
            Ok(socket) if !make_room(shared, most) => server.refuse(socket),
            Ok(socket) => {
                if let Err(error) = begin(shared, server, socket, name) {
                    tracing::warn!("{name}: a connection is not served: {error}");
                }
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) if is_ending() => {}
            Err(error) => {
                tracing::warn!("{name}: cannot accept: {error}");
                thread::sleep(PAUSE);
            }
        }
    }
}

fn begin<S: Serve>(
    shared: &Arc<Shared>,
    server: &Arc<S>,
    socket: OwnedFd,
    name: &str,
) -> io::Result<()> {
    let ours = socket.as_fd().try_clone_to_owned()?;
    let mut connections = lock(&shared.connections);
    let id = connections.next;
    connections.next += 1;
    let (theirs, server) = (shared.clone(), server.clone());
    // The thread waits for this lock before it removes its entry, so the entry exists by then.
    let thread = Builder::new().name(name.into()).spawn(move || {
        let _entry = EntryGuard { shared: theirs.clone(), id };
        server.serve(socket, &ConnectionState { shared: theirs, id });
    })?;
    let idle_since = Some(Instant::now());
    connections.open.insert(id, Connection { socket: ours, thread: Some(thread), idle_since });
    Ok(())
}

/// Removes a connection from the list when its thread ends for any reason.
struct EntryGuard {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for EntryGuard {
    fn drop(&mut self) {
        lock(&self.shared.connections).open.remove(&self.id);
    }
}
