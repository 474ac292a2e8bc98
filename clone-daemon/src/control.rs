//! The daemon's control socket: clones are looked at and changed there while they are served.
//!
//! One JSON object a line each way, see [`protocol`]. Whoever may connect may do everything, so
//! the socket has mode 0600, and only root and the daemon's own user are served.
//!
//! *Invariant:* each connection has a thread of its own, so that one that waits for an event holds
//! up nobody; there are [`CONNECTIONS_MAX`] of them at most, each with one line of
//! [`LINE_MAX`](line::LINE_MAX) bytes at most in memory. If there are so many, the one that has
//! been without a request for longest makes way for a new one.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use self::commands::Verbs;
use self::line::{LineError, Lines};
use self::protocol::{ErrorKind, Refusal, Reply, Request};
use self::socket::Bound;
pub use self::socket::{BindError, check_place, default_path, service_path};
use crate::connection_server::{Listening, Over, Serve};
use crate::host::Host;

mod commands;
pub mod hydration_map;
pub mod line;
pub mod protocol;
pub(crate) mod report;
mod socket;

/// How many may be connected at a time.
pub const CONNECTIONS_MAX: usize = 64;

/// How long a peer may take for a line that it has begun, or to read one.
const LINE_TIME: Duration = Duration::from_secs(10);

/// How long a connection may lie idle between two requests.
const IDLE_TIME: Duration = Duration::from_secs(120);

/// A control socket where nobody is served yet.
pub struct BoundSocket {
    bound: Bound,
    socket: OwnedFd,
}

impl BoundSocket {
    /// Makes the socket at `path`. One that a daemon left behind that does not run any more is
    /// replaced.
    ///
    /// # Errors
    /// [`BindError`]: also if another daemon has it.
    pub fn bind(path: impl Into<PathBuf>) -> Result<Self, BindError> {
        let (bound, socket) = Bound::bind(path.into())?;
        Ok(Self { bound, socket })
    }

    /// Serves the clones of `host` there.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn serve(self, host: Arc<Host>) -> io::Result<Server> {
        let Self { bound, socket } = self;
        let control = Control { verbs: Verbs { host } };
        let listening = Listening::start("control", socket, CONNECTIONS_MAX, control)?;
        Ok(Server { listening, bound })
    }
}

/// A control socket that is served, until it is stopped or dropped.
pub struct Server {
    listening: Listening,
    bound: Bound,
}

impl Server {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.bound.path()
    }

    /// Lets nobody in any more, and has those go who wait for an event or say nothing. What is
    /// being done for others is answered.
    pub fn close(&self) {
        self.listening.close();
    }

    /// Ends all connections, and removes the socket.
    pub fn stop(mut self) {
        self.listening.stop();
    }
}

struct Control {
    verbs: Verbs,
}

impl Serve for Control {
    fn serve(&self, socket: OwnedFd, over: &Over) {
        let stream = UnixStream::from(socket);
        if let Err(error) = self.talk(&stream, over) {
            tracing::debug!("a control connection ended: {error}");
        }
    }

    fn refuse(&self, socket: OwnedFd) {
        let stream = UnixStream::from(socket);
        let told = stream.set_nonblocking(true).map_err(LineError::Io);
        let refusal = Refusal::new(
            ErrorKind::Busy,
            format!("{CONNECTIONS_MAX} connections wait for answers; close some and try again"),
        );
        // Who does not read it finds the connection closed.
        let _ = told.and_then(|()| line::write(&mut &stream, &Reply::error(refusal)));
    }
}

impl Control {
    fn talk(&self, stream: &UnixStream, over: &Over) -> Result<(), LineError> {
        stream.set_write_timeout(Some(LINE_TIME))?;
        if !is_trusted(stream)? {
            let text = "only root and the user that the daemon runs as may do that".to_owned();
            return line::write(
                &mut &*stream,
                &Reply::error(Refusal::new(ErrorKind::Denied, text)),
            );
        }
        let mut lines = Lines::new(stream);
        while !over.is_now() {
            over.wait_for_peer(true);
            let request = lines.next::<Request>(IDLE_TIME, LINE_TIME);
            over.wait_for_peer(false);
            let request = match request {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(error) => {
                    // Where the next line would begin nobody knows.
                    let refusal = Refusal::new(ErrorKind::Request, error.to_string());
                    let _ = line::write(&mut &*stream, &Reply::error(refusal));
                    return Err(error);
                }
            };
            let last = match self.verbs.answer(request, stream, over) {
                Ok(()) => Reply::end(),
                Err(commands::Stop::Refused(refusal)) => Reply::error(refusal),
                Err(commands::Stop::Gone(error)) => return Err(error),
            };
            line::write(&mut &*stream, &last)?;
        }
        Ok(())
    }
}

/// The mode of the socket says the same; but it can be changed by whoever does not know.
fn is_trusted(stream: &UnixStream) -> io::Result<bool> {
    let peer = socket_peercred(stream)?.uid;
    Ok(peer.is_root() || peer == geteuid())
}
