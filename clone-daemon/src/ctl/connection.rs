//! A client connection to the daemon.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::control::line::{self, Lines};
use crate::control::protocol::{Item, Refusal, Reply, Request, VERSION, Verb};
use crate::control::{default_path, service_path};

/// The time limit for an answer: none in practice, since the daemon answers when it is done.
const FOREVER: Duration = Duration::from_secs(1 << 32);

/// The time limit for the rest of a line.
const LINE_TIME: Duration = Duration::from_secs(10);

/// Returns the path of the control socket: `given`, or `CLONED_SOCKET`, or that of the systemd
/// unit, or the default.
///
/// # Errors
/// There is no default, because `XDG_RUNTIME_DIR` is not set.
pub(super) fn socket(given: Option<&Path>) -> Result<PathBuf> {
    let from_environment = || std::env::var_os("CLONED_SOCKET").filter(|path| !path.is_empty());
    let path = given.map(Path::to_owned).or_else(|| from_environment().map(PathBuf::from));
    path.or_else(service_path).or_else(default_path).ok_or_else(|| {
        anyhow!(
            "the control socket of cloned is unknown: XDG_RUNTIME_DIR is not set; give it with \
             --socket or CLONED_SOCKET"
        )
    })
}

/// A connection to the daemon, with one request at a time.
pub(super) struct Connection {
    path: PathBuf,
    stream: UnixStream,
}

impl Connection {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// The connection fails. The message says what to do.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let stream = UnixStream::connect(&path).map_err(|error| not_there(&path, &error))?;
        Ok(Self { path, stream })
    }

    /// Sends a request, and passes each item of the answer to `each`.
    ///
    /// # Errors
    /// [`Refused`] if the daemon refuses the request; an error of `each`; or the connection is
    /// lost, or the daemon has another protocol version.
    pub(super) fn ask(&self, verb: Verb, mut each: impl FnMut(Item) -> Result<()>) -> Result<()> {
        let lost = || format!("the connection to cloned at {} was lost", self.path.display());
        // A daemon with too many connections sends an error and closes: that error can still be
        // read.
        let sent = line::write(&mut &self.stream, &Request::new(verb));
        let mut lines = Lines::new(&self.stream);
        loop {
            let reply: Option<Reply> = match lines.next(FOREVER, LINE_TIME) {
                Ok(reply) => reply,
                Err(error) => {
                    sent.with_context(lost)?;
                    return Err(error).with_context(lost);
                }
            };
            let Some(Reply { v, item, end, error }) = reply else { bail!("{}", lost()) };
            if let Some(refusal) = error {
                return Err(Refused(refusal).into());
            }
            if v != VERSION {
                bail!(
                    "cloned at {} speaks version {v} of the control protocol, and this clonectl \
                     version {VERSION}: use the clonectl that came with it",
                    self.path.display()
                );
            }
            item.map_or(Ok(()), &mut each)?;
            if end {
                return Ok(());
            }
        }
    }

    /// Sends a request that has an answer of one item.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask), and if no item is one that `take` accepts.
    pub(super) fn ask_one<T>(&self, verb: Verb, take: impl Fn(Item) -> Option<T>) -> Result<T> {
        let mut found = None;
        self.ask(verb, |item| {
            found = take(item).or(found.take());
            Ok(())
        })?;
        found.context("this clonectl does not know the answer of cloned")
    }
}

/// The daemon's refusal of a request.
#[derive(Debug)]
pub(super) struct Refused(pub(super) Refusal);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Refused {}

fn not_there(path: &Path, error: &io::Error) -> anyhow::Error {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "cloned is not running: socket {path} does not exist. Start it, or give its control \
             socket with --socket or CLONED_SOCKET"
        ),
        io::ErrorKind::ConnectionRefused => {
            anyhow!("cloned is no longer running: nothing listens on socket {path}. Start it again")
        }
        io::ErrorKind::PermissionDenied => anyhow!(
            "{path}: permission denied. Only root and the user that cloned runs as can connect: \
             try sudo, or sudo -u with that user"
        ),
        _ => anyhow!("cannot connect to cloned at {path}: {error}"),
    }
}
