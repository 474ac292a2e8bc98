//! An NBD server that exports volumes.
//!
//! An acceptor thread gives each connection a receiver thread (`connection`), which negotiates
//! (`negotiation`) and then handles requests (`session`). The receiver runs requests on the fast
//! path itself, collects their replies, and sends them together when no more input is available. It
//! submits all other requests; a second thread of the connection sends their replies as they
//! complete.
//!
//! *Invariant:* the requests in flight of each connection and of all connections together are
//! bounded. A connection that gets no shared buffer continues piece by piece with its own buffers,
//! so no client waits for another one.

#![allow(clippy::big_endian_bytes, reason = "numbers of the protocol are big-endian")]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use tracing::{debug, warn};

use crate::export::nbd::channel::{Channel, Stream};
use crate::export::nbd::limits::Peer;
use crate::export::nbd::memory::Memory;
use crate::export::nbd::registry::{Limits, Registry};
use crate::export::volume::Volumes;

pub use address::{Address, AddressError, BindError, BindOptions, Listener};
pub use exporter::NbdExporter;
pub use tls::{TlsError, TlsOptions};

mod address;
mod buffers;
mod channel;
mod connection;
mod exporter;
mod limits;
mod memory;
pub mod negotiation;
pub mod parse;
mod registry;
pub mod reply;
mod session;
mod status;
mod tls;

/// Stack size of the threads of a connection in bytes.
const STACK_BYTES: usize = 512 << 10;

/// Pause when the system is out of descriptors or threads.
const SHORTAGE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Settings for TLS. If they are there, all clients have to use TLS.
    pub tls: Option<TlsOptions>,
    /// Maximum number of connections that have selected a volume: up to half of them, rounded up,
    /// to one volume, half from one peer, and a quarter from one peer to one volume. A peer is a
    /// TCP address (an IPv6 network), or a process for a Unix socket. In addition there may be as
    /// many connections that are still negotiating, half of them from one peer; the oldest of them
    /// are closed for new ones.
    pub connections_max: usize,
    /// When a limit is reached, a connection that never sent a request and has been silent for this
    /// long may be closed for a new one: a connection of the peer that has the most.
    pub unused_max: Duration,
    /// The same for a connection that has sent a request.
    pub idle_max: Duration,
    /// Time limit for the negotiation.
    pub handshake: Duration,
    /// During the negotiation, maximum time in which the client sends or takes no bytes.
    pub handshake_silence: Duration,
    /// Time limit for replies to the requests in flight when a connection ends.
    pub grace: Duration,
    /// Maximum size in bytes of the buffers that the requests of all connections share. In addition
    /// each connection has buffers of its own, up to 1 MiB.
    pub shared_bytes: u64,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            tls: None,
            connections_max: 256,
            unused_max: Duration::from_secs(10 * 60),
            idle_max: Duration::from_secs(24 * 60 * 60),
            handshake: Duration::from_secs(5 * 60),
            handshake_silence: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            shared_bytes: 256 << 20,
        }
    }
}

/// State that the threads of a server share.
struct Shared {
    volumes: Arc<dyn Volumes>,
    options: ServerOptions,
    memory: Arc<Memory>,
    registry: Arc<Registry>,
    is_stopping: AtomicBool,
}

/// Counters of the connections of a server, for the metrics.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Registry>);

impl Connections {
    /// Returns the number of connections to the volume called `name`.
    pub fn of(&self, name: &str) -> usize {
        self.0.len_of(name)
    }

    /// Returns the number of connections that are still negotiating.
    pub fn handshakes(&self) -> usize {
        self.0.negotiating()
    }

    /// Returns the [maximum number of connections](ServerOptions::connections_max).
    pub fn max(&self) -> usize {
        self.0.most()
    }

    /// Returns the number of connections that were refused so far because of a limit.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Returns the number of idle connections that were closed for others so far.
    pub fn evicted(&self) -> u64 {
        self.0.evicted.load(Ordering::Relaxed)
    }
}

/// A running server. Dropping it stops it like [`stop`](Self::stop).
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    /// Readable when the acceptor has to end.
    end: Arc<OwnedFd>,
}

impl Server {
    /// Starts to export `volumes` on `listeners`.
    ///
    /// # Errors
    /// The error of the system if it cannot create the event descriptor or a thread.
    pub fn start(
        listeners: Vec<Listener>,
        volumes: Arc<dyn Volumes>,
        options: ServerOptions,
    ) -> io::Result<Self> {
        let memory = Memory::new(options.shared_bytes);
        let ServerOptions { connections_max: most, unused_max: unused, idle_max: idle, .. } =
            options;
        let registry = Arc::new(Registry::new(Limits { most, unused, idle }));
        let is_stopping = AtomicBool::new(false);
        let shared = Arc::new(Shared { volumes, options, memory, registry, is_stopping });
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (for_thread, end_event) = (shared.clone(), end.clone());
        let acceptor = Builder::new().name("nbd-acceptor".into());
        let acceptor = acceptor.spawn(move || accept_all(&for_thread, &listeners, &end_event))?;
        Ok(Self { shared, acceptor: Some(acceptor), end })
    }

    /// Serves the client at the other end of `stream`.
    ///
    /// # Errors
    /// The error of the system if it cannot create a thread.
    pub fn serve(&self, stream: UnixStream) -> io::Result<()> {
        begin(&self.shared, Stream::Unix(stream))
    }

    /// Returns the number of connections, including those that are negotiating or ending.
    pub fn connections(&self) -> usize {
        self.shared.registry.len()
    }

    /// Returns the counters of the connections.
    pub fn stats(&self) -> Connections {
        Connections(self.shared.registry.clone())
    }

    /// Returns the current size in bytes of all buffers, shared ones and those of connections. It
    /// lets users of the library check that hostile clients stay within their limits, as the tests
    /// of this crate do.
    pub fn buffer_bytes(&self) -> u64 {
        self.shared.memory.used()
    }

    /// Closes the connections to the volume called `name`. The volume must have been removed
    /// before; otherwise clients reconnect.
    pub fn disconnect(&self, name: &str) {
        self.shared.registry.cut_volume(name);
    }

    /// Stops the server: it accepts no more connections and requests, and ends when the requests in
    /// flight are answered or their [time](ServerOptions::grace) is over.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.is_stopping.store(true, Ordering::Release);
        // The counter is 0, so it takes any number.
        let _ = rustix::io::write(&*self.end, &1_u64.to_le_bytes());
        // If it panicked, the message is on stderr already.
        let _ = acceptor.join();
        self.shared.registry.end(Instant::now() + self.shared.options.grace);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Accepts connections until `end` is readable.
///
/// [`ConnectionServer`](crate::connection_server::ConnectionServer) does not suit: it has one
/// socket, may wait for threads that end before it takes a new connection, and evicts the
/// connection that is idle for longest, where the [registry](registry::Registry) counts peers and
/// volumes.
fn accept_all(shared: &Arc<Shared>, listeners: &[Listener], end: &OwnedFd) {
    while !shared.is_stopping.load(Ordering::Acquire) {
        let mut files = vec![PollFd::new(end, PollFlags::IN)];
        files.extend(listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)));
        match poll(&mut files, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                warn!("cannot wait for connections: {error}");
                pause(end);
            }
        }
        let ready = files[1..].iter().map(|file| !file.revents().is_empty());
        for (listener, _) in listeners.iter().zip(ready).filter(|(_, is_ready)| *is_ready) {
            match listener.accept().and_then(|stream| begin(shared, stream)) {
                Ok(()) => {}
                Err(error) if is_passing(&error) => debug!("a connection was lost: {error}"),
                Err(error) => {
                    warn!("cannot accept a connection: {error}");
                    pause(end);
                }
            }
        }
    }
}

/// Returns whether accepting failed because of the client, and not because the system lacks a
/// resource.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

/// Pauses for a short time, or until the server has to end.
fn pause(end: &OwnedFd) {
    let mut file = [PollFd::new(end, PollFlags::IN)];
    // If poll fails, there is no pause.
    let _ = poll(&mut file, Some(&SHORTAGE));
}

/// Starts a thread that serves a client.
fn begin(shared: &Arc<Shared>, stream: Stream) -> io::Result<()> {
    let (channel, writer) = Channel::new(stream);
    // Nothing blocks here: a new client must not wait for an earlier one.
    let Some(id) = shared.registry.add(&channel, Peer::of(channel.stream())) else {
        return Ok(());
    };
    let entry = Entry { shared: shared.clone(), id };
    let thread = Builder::new().name("nbd-receiver".into()).stack_size(STACK_BYTES);
    let thread = thread.spawn(move || connection::serve(&entry.shared, entry.id, &channel, writer));
    let thread = thread?;
    shared.registry.started(thread);
    Ok(())
}

/// Keeps a connection in the registry until it is dropped.
struct Entry {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.registry.remove(self.id);
    }
}
