//! Volumes served to NBD clients.
//!
//! Each connection has two threads. One receives: it does at once what is on the destination
//! already, gathers the replies, and sends them together when nothing else has been received. All
//! else it submits; the other thread sends the replies to that as they are ready. What a connection
//! has in flight is bounded, and so is what all of them have: a connection that gets no room goes
//! on piece by piece with buffers of its own, so that no client waits for another one's.

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

/// Bytes of the stacks of a connection's threads.
const STACK_BYTES: usize = 512 << 10;

/// How long it is waited when the system has no more files or threads.
const SHORTAGE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What can be set on a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// With it, all clients have to use TLS.
    pub tls: Option<TlsOptions>,
    /// The most connections that have chosen a volume: half of them, rounded up, to one volume;
    /// half of them from one peer, and a quarter from one peer to one volume. A peer is an address
    /// of TCP, or a process at a socket of a path. Beside them there may be as many that have not
    /// chosen, half of them from one peer; the oldest of those make way for new ones.
    pub connections_max: usize,
    /// When one of these limits is reached, a connection makes way that has been silent for so long
    /// and has never asked for anything; of the peer that has most of them, if there are several.
    pub unused_max: Duration,
    /// The same, for a connection that has asked for something.
    pub idle_max: Duration,
    /// How long a client may take to choose a volume.
    pub handshake: Duration,
    /// How long it may be silent, or take nothing of what it is sent, before it has chosen one.
    pub handshake_silence: Duration,
    /// How long requests that are under way when a connection ends may take to be answered.
    pub grace: Duration,
    /// The most bytes of buffers that requests of all connections share. Beside them a connection
    /// has some of its own, up to 1 MiB.
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

/// What the threads of a server share.
struct Shared {
    volumes: Arc<dyn Volumes>,
    options: ServerOptions,
    memory: Arc<Memory>,
    registry: Arc<Registry>,
    is_stopping: AtomicBool,
}

/// The connections of a server, for those who count them.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Registry>);

impl Connections {
    /// How many have chosen the volume called `name`.
    pub fn of(&self, name: &str) -> usize {
        self.0.len_of(name)
    }

    /// How many have not chosen a volume yet.
    pub fn handshakes(&self) -> usize {
        self.0.haggling()
    }

    /// [How many there may be](ServerOptions::connections_max).
    pub fn max(&self) -> usize {
        self.0.most()
    }

    /// How many got no volume by now for want of room.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// How many were idle and made way for others by now.
    pub fn evicted(&self) -> u64 {
        self.0.evicted.load(Ordering::Relaxed)
    }
}

/// A server that runs. It stops when it is dropped, as by [`stop`](Self::stop).
pub struct Server {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    /// Readable when the acceptor is to end.
    end: Arc<OwnedFd>,
}

impl Server {
    /// Serves `volumes` to whoever connects to one of `listeners`.
    ///
    /// # Errors
    /// If the system gives no thread.
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
        let (for_thread, told) = (shared.clone(), end.clone());
        let acceptor = Builder::new().name("nbd-acceptor".into());
        let acceptor = acceptor.spawn(move || accept_all(&for_thread, &listeners, &told))?;
        Ok(Self { shared, acceptor: Some(acceptor), end })
    }

    /// Serves the client at the other end of `stream`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn serve(&self, stream: UnixStream) -> io::Result<()> {
        begin(&self.shared, Stream::Unix(stream))
    }

    /// How many connections there are, with those that are about to end.
    pub fn connections(&self) -> usize {
        self.shared.registry.len()
    }

    /// What is counted of them.
    pub fn figures(&self) -> Connections {
        Connections(self.shared.registry.clone())
    }

    /// Bytes of buffers that all connections have now: those that requests share, and their own.
    pub fn buffer_bytes(&self) -> u64 {
        self.shared.memory.used()
    }

    /// Ends the connections to the volume called `name`. It has to be gone from the volumes
    /// before, or clients come back.
    pub fn disconnect(&self, name: &str) {
        self.shared.registry.cut_volume(name);
    }

    /// Takes no more connections and no more requests, gives those under way
    /// [some time](ServerOptions::grace) to be answered, and ends.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.is_stopping.store(true, Ordering::Release);
        // A counter that is 0 takes any number.
        let _ = rustix::io::write(&*self.end, &1_u64.to_le_bytes());
        // What it panicked of, if it did, has been told on stderr.
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
                Err(error) if is_passing(&error) => debug!("a connection is gone: {error}"),
                Err(error) => {
                    warn!("cannot take a connection: {error}");
                    pause(end);
                }
            }
        }
    }
}

/// Whether accepting failed because of the client, and not because the system is short of
/// something.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

/// Waits a little, unless it is to end.
fn pause(end: &OwnedFd) {
    let mut file = [PollFd::new(end, PollFlags::IN)];
    // If it cannot wait, it does not.
    let _ = poll(&mut file, Some(&SHORTAGE));
}

/// Serves a client with a thread of its own.
fn begin(shared: &Arc<Shared>, stream: Stream) -> io::Result<()> {
    let (channel, writer) = Channel::new(stream);
    // Nobody is waited for here: who comes next must not wait for who came before.
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

/// A connection that is in the registry until this is dropped.
struct Entry {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.registry.remove(self.id);
    }
}
