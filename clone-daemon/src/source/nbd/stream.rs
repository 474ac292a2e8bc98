//! A connection as a byte stream for several threads. Each call has a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use clone_core::sync::lock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
    connect, recv, send, shutdown, socket_with, sockopt,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::source::uri::NbdEndpoint;

/// A connected socket, with or without TLS.
///
/// One thread reads at a time; any number of threads write.
pub(super) struct Stream {
    socket: OwnedFd,
    /// Held during a write, so that the bytes of one write stay together.
    writing: Mutex<()>,
    tls: Option<Mutex<ClientConnection>>,
    /// True if no thread may wait any longer.
    end: Arc<AtomicBool>,
}

/// Interval at which a waiting thread checks `end`; less than a second.
const END_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Sockets do not block: every wait has a deadline.
const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);
/// Pause before the next attempt to connect to a Unix socket whose backlog is full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

impl Stream {
    /// Connects to a server. This and all later waits stop soon after `end` has become true. The
    /// system resolves host names, which can take longer than the deadline allows.
    pub(super) fn connect(
        endpoint: &NbdEndpoint,
        deadline: Instant,
        end: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let socket = match endpoint {
            NbdEndpoint::Tcp { host, port } => connect_tcp(host, *port, deadline, &end)?,
            NbdEndpoint::Unix(path) => connect_unix(path, deadline, &end)?,
        };
        Ok(Self { socket, writing: Mutex::default(), tls: None, end })
    }

    /// Starts TLS with a server whose certificate must be valid for `name`.
    pub(super) fn secure(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        deadline: Instant,
    ) -> io::Result<()> {
        let mut tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            if flush(&self.socket, &mut tls)? {
                wait(&self.socket, PollFlags::OUT, deadline, &self.end)?;
            } else if !receive(&self.socket, &mut tls)? {
                wait(&self.socket, PollFlags::IN, deadline, &self.end)?;
            }
        }
        // The last message of the client may still be unsent.
        while flush(&self.socket, &mut tls)? {
            wait(&self.socket, PollFlags::OUT, deadline, &self.end)?;
        }
        self.tls = Some(Mutex::new(tls));
        Ok(())
    }

    /// Reads at least one byte.
    ///
    /// # Errors
    /// `UnexpectedEof` at the end of the stream, `TimedOut` after the deadline, `ConnectionAborted`
    /// after `end` has become true, and errors of the socket or TLS.
    pub(super) fn read(&self, into: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            let got = match &self.tls {
                None => read_now(&self.socket, into),
                Some(tls) => read_tls_now(&self.socket, &mut lock(tls), into),
            };
            match got {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&self.socket, PollFlags::IN, deadline, &self.end)?;
                }
                got => return got,
            }
        }
    }

    /// Fills `into`.
    pub(super) fn read_all(&self, mut into: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !into.is_empty() {
            let got = self.read(into, deadline)?;
            into = into.get_mut(got..).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes all of `data`. After an error an unknown part of it has been written.
    pub(super) fn write(&self, data: &[u8], deadline: Instant) -> io::Result<()> {
        let _turn = lock(&self.writing);
        let Some(tls) = &self.tls else {
            let mut left = data;
            while !left.is_empty() {
                match Direct(&self.socket).write(left) {
                    Ok(sent) => left = left.get(sent..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        wait(&self.socket, PollFlags::OUT, deadline, &self.end)?;
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        };
        lock(tls).writer().write_all(data)?;
        while flush(&self.socket, &mut lock(tls))? {
            wait(&self.socket, PollFlags::OUT, deadline, &self.end)?;
        }
        Ok(())
    }

    /// Returns whether the server has closed the connection and all its data have been read.
    pub(super) fn is_over(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&self.socket, &mut [0_u8; 1][..], flags) {
            Ok((got, _)) => got == 0,
            Err(error) => !matches!(error, Errno::AGAIN | Errno::INTR),
        }
    }

    /// Shuts the connection down for all threads.
    pub(super) fn close(&self) {
        // It fails if the server closed the connection first.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// A socket whose operations never block.
struct Direct<'a>(&'a OwnedFd);

impl Read for Direct<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_now(self.0, into)
    }
}

impl Write for Direct<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            match send(self.0, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return Ok(sent?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_now(socket: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(socket, &mut *into, RecvFlags::DONTWAIT) {
            Err(Errno::INTR) => {}
            got => return Ok(got?.0),
        }
    }
}

/// Reads decrypted data, and decrypts received data if there are none.
fn read_tls_now(
    socket: &OwnedFd,
    tls: &mut ClientConnection,
    into: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.reader().read(into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !receive(socket, tls)? {
                    return Err(error);
                }
                // TLS may have to answer; the next writer sends what does not fit now.
                flush(socket, tls)?;
            }
            got => return got,
        }
    }
}

/// Receives and decrypts the available data; false if there are none.
fn receive(socket: &OwnedFd, tls: &mut ClientConnection) -> io::Result<bool> {
    match tls.read_tls(&mut Direct(socket)) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => {
            let taken = tls.process_new_packets();
            taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends without blocking; true if some data are left.
fn flush(socket: &OwnedFd, tls: &mut ClientConnection) -> io::Result<bool> {
    while tls.wants_write() {
        match tls.write_tls(&mut Direct(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            sent => sent?,
        };
    }
    Ok(false)
}

/// Returns the time that is left.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn not_ended(end: &AtomicBool) -> io::Result<()> {
    match end.load(Ordering::Relaxed) {
        true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "unused")),
        false => Ok(()),
    }
}

fn wait(socket: &OwnedFd, what: PollFlags, deadline: Instant, end: &AtomicBool) -> io::Result<()> {
    loop {
        not_ended(end)?;
        let left = left(deadline)?.min(END_POLL_INTERVAL);
        let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(socket, what)], Some(&timeout)) {
            Ok(0) | Err(Errno::INTR) => {}
            done => return Ok(done.map(drop)?),
        }
    }
}

/// Tries to connect to one address after another.
fn connect_tcp(host: &str, port: u16, deadline: Instant, end: &AtomicBool) -> io::Result<OwnedFd> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (at, address) in addresses.iter().enumerate() {
        // An address that does not answer must leave time for the others.
        let share = left(deadline)? / u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        match connect_address(address, Instant::now() + share, end) {
            Ok(socket) => {
                sockopt::set_tcp_nodelay(&socket, true)?;
                sockopt::set_socket_keepalive(&socket, true)?;
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn connect_address(
    address: &SocketAddr,
    deadline: Instant,
    end: &AtomicBool,
) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, FLAGS, None)?;
    match connect(&socket, address) {
        Err(Errno::INPROGRESS | Errno::INTR) => {
            wait(&socket, PollFlags::OUT, deadline, end)?;
            sockopt::socket_error(&socket)??;
        }
        done => done?,
    }
    Ok(socket)
}

fn connect_unix(path: &Path, deadline: Instant, end: &AtomicBool) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    let address = SocketAddrUnix::new(path)?;
    // With a blocking socket, a server that does not accept could block the thread for ever.
    while let Err(error) = connect(&socket, &address) {
        if !matches!(error, Errno::AGAIN | Errno::INTR) {
            return Err(error.into());
        }
        not_ended(end)?;
        thread::sleep(BACKLOG_PAUSE.min(left(deadline)?));
    }
    Ok(socket)
}
