//! Sockets that others connect to: a thread for each connection, and never too many of them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

/// How long nothing is accepted after that has failed, for want of descriptors perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that accepts connections, until it is stopped or dropped.
pub(crate) struct Listening {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
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
}

struct Connection {
    socket: OwnedFd,
    thread: Option<JoinHandle<()>>,
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

/// Whether all that is served has to end.
pub(crate) struct Over(Arc<Shared>);

impl Over {
    /// Whether it has to.
    pub(crate) fn is_now(&self) -> bool {
        self.0.is_over.load(Ordering::SeqCst)
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
        Ok(Self { shared, acceptor: Some(acceptor) })
    }

    /// Accepts nobody any more, ends all connections, and waits for their threads.
    pub(crate) fn stop(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.is_over.store(true, Ordering::SeqCst);
        // It wakes whoever accepts. There is nothing to be done about one that is closed already.
        let _ = shutdown(&self.shared.socket, Shutdown::Both);
        let _ = acceptor.join();
        let open: Vec<Connection> = lock(&self.shared).open.drain().map(|(_, open)| open).collect();
        for connection in &open {
            let _ = shutdown(&connection.socket, Shutdown::Both);
        }
        for thread in open.into_iter().filter_map(|connection| connection.thread) {
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

fn accept_all<S: Serve>(shared: &Arc<Shared>, server: &Arc<S>, most: usize, name: &str) {
    let is_over = || shared.is_over.load(Ordering::SeqCst);
    while !is_over() {
        match accept_with(&shared.socket, SocketFlags::CLOEXEC) {
            Ok(_) if is_over() => {}
            Ok(socket) if lock(shared).open.len() >= most => server.refuse(socket),
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
        server.serve(socket, &Over(theirs));
    })?;
    connections.open.insert(id, Connection { socket: ours, thread: Some(thread) });
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
