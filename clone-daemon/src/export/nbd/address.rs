//! Addresses of a server, and the sockets that listen on them.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use listenfd::ListenFd;
use thiserror::Error;

use crate::export::nbd::channel::Stream;
use crate::unix_socket::{SocketError, SocketFile};

/// An address to listen on: `unix:PATH`, `tcp:ADDRESS:PORT` or `systemd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// All addresses of a host name, or one IP address.
    Tcp {
        /// An IP address or a host name.
        host: String,
        /// The port; 0 for any free port.
        port: u16,
    },
    /// The sockets passed in `LISTEN_FDS`; see sd_listen_fds(3).
    Systemd,
}

/// A text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not an address: it must be unix:PATH, tcp:ADDRESS:PORT or systemd")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.into());
        if text == "systemd" {
            return Ok(Self::Systemd);
        }
        match text.split_once(':').ok_or_else(wrong)? {
            ("unix", path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            ("tcp", rest) => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
                let port = port.parse().map_err(|_| wrong())?;
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                let is_good = match bare {
                    Some(address) => address.contains(':'),
                    None => !host.is_empty() && !host.contains([':', '[', ']']),
                };
                let host = bare.unwrap_or(host).into();
                is_good.then_some(Self::Tcp { host, port }).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Systemd => f.write_str("systemd"),
        }
    }
}

/// Options that decide whether an address is safe to listen on.
#[derive(Clone, Copy, Debug, Default)]
pub struct BindOptions {
    /// True to allow addresses on which other machines can connect without TLS.
    pub insecure: bool,
    /// True if clients have to use TLS.
    pub has_tls: bool,
}

/// An error of [`Listener::bind`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Other machines could read and write the volumes without TLS.
    #[error(
        "{0} is not a loopback address, and requires --tls-cert; or use --insecure if everyone who \
         can reach it may read and write"
    )]
    Insecure(SocketAddr),
    /// The path is not a socket.
    #[error("{} exists and is not a socket", .0.display())]
    NoSocket(PathBuf),
    /// Another process listens on the path.
    #[error("another program listens on {}", .0.display())]
    InUse(PathBuf),
    /// No sockets were passed.
    #[error("systemd passed on no sockets (LISTEN_FDS)")]
    NonePassed,
    /// A passed socket cannot be used.
    #[error("socket {0} from systemd is not a listening stream socket")]
    Passed(usize, #[source] io::Error),
    /// A system call failed.
    #[error("cannot listen on {0}")]
    System(Address, #[source] io::Error),
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// Removes the socket file when this is dropped.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Listener {
    /// Listens on `address`, with several sockets if it has several addresses.
    ///
    /// A Unix socket can be used by its owner only (mode 0600), replaces a stale socket file that
    /// no process listens on, and is removed when the listener is dropped.
    ///
    /// # Errors
    /// - [`BindError::Insecure`]: an address is not a loopback address, and `options` do not allow
    ///   that.
    /// - [`BindError::NoSocket`], [`BindError::InUse`]: the path is not a socket, or another
    ///   process listens on it.
    /// - [`BindError::NonePassed`], [`BindError::Passed`]: systemd passed no socket, or an unusable
    ///   one.
    /// - [`BindError::System`]: a system call failed.
    pub fn bind(address: &Address, options: &BindOptions) -> Result<Vec<Self>, BindError> {
        let listeners = match address {
            Address::Unix(path) => vec![bind_path(address, path)?],
            Address::Tcp { host, port } => bind_tcp(address, host, *port, options)?,
            Address::Systemd => passed(options)?,
        };
        for listener in &listeners {
            listener
                .set_nonblocking()
                .map_err(|error| BindError::System(address.clone(), error))?;
        }
        Ok(listeners)
    }

    /// Returns the address of a TCP socket, with the actual port.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(socket) => socket.set_nonblocking(true),
            Socket::Unix(socket) => socket.set_nonblocking(true),
        }
    }

    /// Accepts a connection, without blocking.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(socket) => socket.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Socket::Unix(socket) => socket.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl BindOptions {
    fn check(&self, address: SocketAddr) -> Result<(), BindError> {
        let is_safe = self.has_tls || self.insecure || address.ip().to_canonical().is_loopback();
        if is_safe { Ok(()) } else { Err(BindError::Insecure(address)) }
    }
}

fn bind_tcp(
    address: &Address,
    host: &str,
    port: u16,
    options: &BindOptions,
) -> Result<Vec<Listener>, BindError> {
    let failed = |error| BindError::System(address.clone(), error);
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(failed)?.collect();
    addresses.iter().try_for_each(|&address| options.check(address))?;
    let bind = |address| {
        let socket = TcpListener::bind(address).map_err(failed)?;
        Ok(Listener { socket: Socket::Tcp(socket), _file: None })
    };
    addresses.into_iter().map(bind).collect()
}

fn bind_path(address: &Address, path: &Path) -> Result<Listener, BindError> {
    let (file, socket) =
        SocketFile::listen(path.to_owned(), BACKLOG).map_err(|error| match error {
            SocketError::InUse => BindError::InUse(path.to_owned()),
            SocketError::NoSocket => BindError::NoSocket(path.to_owned()),
            SocketError::Io(error) => BindError::System(address.clone(), error),
        })?;
    Ok(Listener { socket: Socket::Unix(socket.into()), _file: Some(file) })
}

/// The maximum number of connections that wait to be accepted at a Unix socket.
const BACKLOG: i32 = 1024;

fn passed(options: &BindOptions) -> Result<Vec<Listener>, BindError> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for at in 0..passed.len() {
        let socket = match passed.take_unix_listener(at) {
            Ok(socket) => socket.map(Socket::Unix),
            Err(_) => {
                let socket = passed.take_tcp_listener(at);
                socket.map_err(|error| BindError::Passed(at, error))?.map(Socket::Tcp)
            }
        };
        let Some(socket) = socket else { continue };
        let listener = Listener { socket, _file: None };
        listener.tcp_address().map_or(Ok(()), |address| options.check(address))?;
        listeners.push(listener);
    }
    if listeners.is_empty() { Err(BindError::NonePassed) } else { Ok(listeners) }
}

#[cfg(test)]
mod tests;
