//! Volumes served to NBD clients.
//!
//! Each connection has two threads. One receives: it does at once what is on the destination
//! already, gathers the replies, and sends them together when nothing else has been received. All
//! else it submits; the other thread sends the replies to that as they are ready. What a connection
//! has in flight is bounded, and so is what all of them have: a connection that gets no room goes
//! on piece by piece with buffers of its own, so that no client waits for another one's.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use tracing::warn;

use crate::nbd::server::channel::{Channel, Stream};
use crate::nbd::server::memory::Memory;
use crate::nbd::server::registry::Registry;
use crate::volume::Volumes;

pub use address::{Address, AddressError, BindError, BindOptions, Listener};
pub use tls::{TlsError, TlsOptions};

mod address;
mod buffers;
mod channel;
mod connection;
pub mod haggle;
mod memory;
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

/// How long a new connection waits for one that gives way to it.
const WAY: Duration = Duration::from_secs(1);

/// What can be set on a server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// With it, all clients have to use TLS.
    pub tls: Option<TlsOptions>,
    /// The most connections at a time. When there are as many, those that have not chosen a volume
    /// make way for new ones, the oldest first.
    pub connections_max: usize,
    /// How long a client may take to choose a volume.
    pub handshake: Duration,
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
            handshake: Duration::from_secs(30),
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
    registry: Registry,
    is_stopping: AtomicBool,
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
        let (registry, is_stopping) = Default::default();
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
    /// If there are too many connections, or the system gives no thread.
    pub fn serve(&self, stream: UnixStream) -> io::Result<()> {
        begin(&self.shared, Stream::Unix(stream))
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.shared.registry.len()
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
            if let Err(error) = listener.accept().and_then(|stream| begin(shared, stream))
                && error.kind() != io::ErrorKind::WouldBlock
            {
                warn!("cannot take a connection: {error}");
                pause(end);
            }
        }
    }
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
    let most = shared.options.connections_max;
    let id = shared.registry.add(&channel, most).or_else(|| {
        shared.registry.give_way(Instant::now() + WAY);
        shared.registry.add(&channel, most)
    });
    let id = id.ok_or_else(|| io::Error::other("there are too many connections"))?;
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
