//! The daemon's control socket: inspects and changes clones while they are served.
//!
//! The protocol is one JSON object per line in each direction, see [`protocol`]. A connected peer
//! may do everything, so the socket has mode 0600, and only root and the daemon's user are served.
//!
//! *Invariant:* each connection has its own thread, so that a connection that waits for an event
//! blocks no other one. There are at most [`CONNECTIONS_MAX`] connections, each with at most one
//! line of [`LINE_MAX`](line::LINE_MAX) bytes in memory. If a further one arrives, the connection
//! that has waited longest for a request is closed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use self::commands::Commands;
use self::line::{LineError, Lines};
use self::protocol::{ErrorKind, Refusal, Reply, Request};
pub use self::socket::{BindError, check_place, default_path, service_path};
use crate::connection_server::{ConnectionServer, ConnectionState, Serve};
use crate::host::Host;
use crate::unix_socket::SocketFile;

mod commands;
pub mod hydration_map;
pub mod line;
pub mod protocol;
pub(crate) mod report;
mod socket;

/// The maximum number of connections.
pub const CONNECTIONS_MAX: usize = 64;

/// The time that a peer has to finish a line, or to read one.
const LINE_TIME: Duration = Duration::from_secs(10);

/// The maximum time between two requests of a connection.
const IDLE_TIME: Duration = Duration::from_secs(120);

/// A control socket that is bound but not served yet.
pub struct BoundSocket {
    file: SocketFile,
    socket: OwnedFd,
}

impl BoundSocket {
    /// Creates the socket at `path`. A stale socket of a daemon that no longer runs is replaced.
    ///
    /// # Errors
    /// [`BindError::InUse`] if another daemon has the socket, [`BindError::NoSocket`] if another
    /// file is in its place, and [`BindError::Io`].
    pub fn bind(path: impl Into<PathBuf>) -> Result<Self, BindError> {
        let (file, socket) = socket::listen(path.into())?;
        Ok(Self { file, socket })
    }

    /// Serves the clones of `host` on the socket.
    ///
    /// # Errors
    /// The thread of the listener cannot be started.
    pub fn serve(self, host: Arc<Host>) -> io::Result<Server> {
        let Self { file, socket } = self;
        let control = Control { commands: Commands { host } };
        let listening = ConnectionServer::start("control", socket, CONNECTIONS_MAX, control)?;
        Ok(Server { listening, file })
    }
}

/// A control socket that is being served, until this is stopped or dropped.
pub struct Server {
    listening: ConnectionServer,
    file: SocketFile,
}

impl Server {
    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Accepts no more connections, and closes those that wait for an event or are idle. Requests
    /// in progress are still answered.
    pub fn close(&self) {
        self.listening.close();
    }

    /// Ends all connections and removes the socket.
    pub fn stop(mut self) {
        self.listening.stop();
    }
}

struct Control {
    commands: Commands,
}

impl Serve for Control {
    fn serve(&self, socket: OwnedFd, connection: &ConnectionState) {
        let stream = UnixStream::from(socket);
        if let Err(error) = self.serve_requests(&stream, connection) {
            tracing::debug!("a control connection ended: {error}");
        }
    }

    fn refuse(&self, socket: OwnedFd) {
        let stream = UnixStream::from(socket);
        let prepared = stream.set_nonblocking(true).map_err(LineError::Io);
        let refusal = Refusal::new(
            ErrorKind::Busy,
            format!("{CONNECTIONS_MAX} connections wait for answers; close some and try again"),
        );
        // A peer that does not read the refusal sees a closed connection.
        let _ = prepared.and_then(|()| line::write(&mut &stream, &Reply::error(refusal)));
    }
}

impl Control {
    fn serve_requests(
        &self,
        stream: &UnixStream,
        connection: &ConnectionState,
    ) -> Result<(), LineError> {
        stream.set_write_timeout(Some(LINE_TIME))?;
        if !is_trusted(stream)? {
            let text = "only root and the user that the daemon runs as may do that".to_owned();
            return line::write(
                &mut &*stream,
                &Reply::error(Refusal::new(ErrorKind::Denied, text)),
            );
        }
        let mut lines = Lines::new(stream);
        while !connection.is_ending() {
            connection.wait_for_peer(true);
            let request = lines.next::<Request>(IDLE_TIME, LINE_TIME);
            connection.wait_for_peer(false);
            let request = match request {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(error) => {
                    // The start of the next line is unknown.
                    let refusal = Refusal::new(ErrorKind::Request, error.to_string());
                    let _ = line::write(&mut &*stream, &Reply::error(refusal));
                    return Err(error);
                }
            };
            let last = match self.commands.answer(request, stream, connection) {
                Ok(()) => Reply::end(),
                Err(commands::Stop::Refused(refusal)) => Reply::error(refusal),
                Err(commands::Stop::Gone(error)) => return Err(error),
            };
            line::write(&mut &*stream, &last)?;
        }
        Ok(())
    }
}

/// Returns whether the peer is root or the daemon's user. The mode of the socket should ensure that
/// already, but it can be changed by mistake.
fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let peer = socket_peercred(stream)?.uid;
    Ok(peer.is_root() || peer == geteuid())
}
