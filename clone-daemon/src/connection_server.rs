//! Sockets that others connect to: a thread for each connection, and never too many of them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

/// How long nothing is accepted after that has failed, for want of descriptors perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// How long threads of connections that had to make way are waited for, and how often it is looked.
const LEAVING_TIME: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(5);

/// A socket that accepts connections, until it is stopped or dropped.
pub(crate) struct Listening {
    shared: Arc<Shared>,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    socket: OwnedFd,
    is_over: AtomicBool,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    /// Those that are open, to be shut down at the end.
    open: HashMap<u64, Connection>,
    /// Threads of those that had to make way, until they have ended.
    leaving: Vec<JoinHandle<()>>,
}

struct Connection {
    socket: OwnedFd,
    thread: Option<JoinHandle<()>>,
    /// Since when its peer is waited for, if it is.
    idle_since: Option<Instant>,
}

/// What a connection is served by: the socket, which is blocking, and whether it is to end.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Serves one peer until it goes, or until `over` says so.
    fn serve(&self, socket: OwnedFd, over: &Over);

    /// Tells one that there is no room for it, without waiting for it.
    fn refuse(&self, socket: OwnedFd) {
        drop(socket);
    }
}

/// What a connection and the socket have to tell each other.
pub(crate) struct Over {
    shared: Arc<Shared>,
    id: u64,
}

impl Over {
    /// Whether all that is served has to end.
    pub(crate) fn is_now(&self) -> bool {
        self.shared.is_over.load(Ordering::SeqCst)
    }

    /// Notes that the peer is waited for from now on, or is not. One that is waited for, as at the
    /// beginning, has to go if there is no room for a new one.
    pub(crate) fn wait_for_peer(&self, waits: bool) {
        if let Some(connection) = lock(&self.shared).open.get_mut(&self.id) {
            let since = connection.idle_since.or_else(|| Some(Instant::now()));
            connection.idle_since = since.filter(|_| waits);
        }
    }
}

impl Listening {
    /// Has `server` serve whoever connects to `socket`, up to `connections_max` at a time.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(
        name: &str,
        socket: OwnedFd,
        connections_max: usize,
        server: impl Serve,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket,
            is_over: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let (theirs, server, thread) = (shared.clone(), Arc::new(server), name.to_owned());
        let acceptor = Builder::new().name(name.into()).spawn(move || {
            accept_all(&theirs, &server, connections_max, &thread);
        })?;
        Ok(Self { shared, acceptor: Mutex::new(Some(acceptor)) })
    }

    /// Accepts nobody any more, and takes no more requests. Answers can still be sent.
    pub(crate) fn close(&self) {
        let acceptor = self.acceptor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(acceptor) = acceptor else { return };
        self.shared.is_over.store(true, Ordering::SeqCst);
        // It wakes whoever accepts. There is nothing to be done about one that is closed already.
        let _ = shutdown(&self.shared.socket, Shutdown::Both);
        let _ = acceptor.join();
        for connection in lock(&self.shared).open.values() {
            let _ = shutdown(&connection.socket, Shutdown::Read);
        }
    }

    /// Accepts nobody any more, ends all connections, and waits for their threads.
    pub(crate) fn stop(&mut self) {
        self.close();
        let mut connections = lock(&self.shared);
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

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Connections> {
    shared.connections.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    /// Whether there is room for one more of `most`. If need be the connection makes way whose peer
    /// has been waited for longest.
    fn make_room(&mut self, most: usize) -> bool {
        if self.open.len() < most {
            return true;
        }
        let since = |(id, connection): (&u64, &Connection)| Some((connection.idle_since?, *id));
        let Some((_, id)) = self.open.iter().filter_map(since).min() else { return false };
        let Some(connection) = self.open.remove(&id) else { return false };
        // Its thread finds that nothing more comes.
        let _ = shutdown(&connection.socket, Shutdown::Both);
        self.leaving.extend(connection.thread);
        true
    }
}

/// Whether there is room for one more of `most`. Threads of those that had to make way are few: if
/// there are too many they get some time to end.
fn make_room(shared: &Shared, most: usize) -> bool {
    let until = Instant::now() + LEAVING_TIME;
    loop {
        let mut connections = lock(shared);
        connections.leaving.retain(|thread| !thread.is_finished());
        if connections.leaving.len() < most {
            return connections.make_room(most);
        }
        drop(connections);
        if shared.is_over.load(Ordering::SeqCst) || Instant::now() >= until {
            return false;
        }
        thread::sleep(GLANCE);
    }
}

fn accept_all<S: Serve>(shared: &Arc<Shared>, server: &Arc<S>, most: usize, name: &str) {
    let is_over = || shared.is_over.load(Ordering::SeqCst);
    while !is_over() {
        match accept_with(&shared.socket, SocketFlags::CLOEXEC) {
            Ok(_) if is_over() => {}
            Ok(socket) if !make_room(shared, most) => server.refuse(socket),
            Ok(socket) => {
                if let Err(error) = begin(shared, server, socket, name) {
                    tracing::warn!("{name}: a connection is not served: {error}");
                }
            }
            Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(_) if is_over() => {}
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
    let mut connections = lock(shared);
    let id = connections.next;
    connections.next += 1;
    let (theirs, server) = (shared.clone(), server.clone());
    // It waits for the lock before it takes itself off the list, so it is on it by then.
    let thread = Builder::new().name(name.into()).spawn(move || {
        let _leaves = Leaves { shared: theirs.clone(), id };
        server.serve(socket, &Over { shared: theirs, id });
    })?;
    let idle_since = Some(Instant::now());
    connections.open.insert(id, Connection { socket: ours, thread: Some(thread), idle_since });
    Ok(())
}

/// Takes a connection off the list when its thread ends, however it does.
struct Leaves {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        lock(&self.shared).open.remove(&self.id);
    }
}
