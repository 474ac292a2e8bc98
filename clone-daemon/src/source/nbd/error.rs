//! Errors of the NBD client.

use std::io;

use clone_core::block_io::SourceChanged;
use thiserror::Error;

use crate::nbd_protocol::{errno, option_reply};
use crate::source::remote::RemoteError;

/// An error of a server, or of the connection to it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NbdError {
    /// The server cannot be reached, or the connection is lost.
    #[error("{what}: {source}")]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The server did not answer before the deadline.
    #[error("the NBD server did not answer in time")]
    Late,
    /// The connection was closed, for example because another caller found an error.
    #[error("the connection to the NBD server was closed: {0}")]
    Closed(String),
    /// The server breaks the protocol during the negotiation: it is not an NBD server, or not a
    /// usable one.
    #[error("the NBD server violates the protocol in the handshake: {0}")]
    Greeting(String),
    /// The server breaks the protocol in a reply to a request.
    #[error("the NBD server violates the protocol: {0}")]
    Violation(String),
    /// The server refuses the export, TLS, or the connection.
    #[error("the NBD server refuses {what}: {}{text}", refusal(*.reply))]
    Refused {
        /// The refused item.
        what: &'static str,
        /// A value of [`option_reply`].
        reply: u32,
        /// The message of the server, after `": "`, or nothing.
        text: String,
    },
    /// The server replied to a request with an error.
    #[error("the NBD server cannot {command} bytes {start}..{end}: {}{text}", name(*.error))]
    Server {
        /// The requested operation, for example `read`.
        command: &'static str,
        /// Start of the range in bytes.
        start: u64,
        /// End of the range in bytes, exclusive.
        end: u64,
        /// A value of [`errno`].
        error: u32,
        /// The message of the server, after `": "`, or nothing.
        text: String,
    },
    /// TLS cannot be used as configured.
    #[error("TLS for NBD: {0}")]
    Tls(String),
    /// The range extends past the end of the export.
    #[error("bytes {start}..+{len} are not all among the {size} of the export")]
    PastEnd {
        /// Start of the range in bytes.
        start: u64,
        /// Length of the range in bytes.
        len: u64,
        /// Size of the export in bytes.
        size: u64,
    },
    /// The server has another export now.
    #[error(transparent)]
    Changed(#[from] SourceChanged),
}

impl NbdError {
    pub(super) fn io(what: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::TimedOut => Self::Late,
            _ => Self::Io { what, source },
        }
    }

    /// Returns whether the server is shutting down.
    pub(super) fn is_shutdown(&self) -> bool {
        matches!(self, Self::Server { error: errno::ESHUTDOWN, .. })
    }

    /// Returns whether a retry can succeed.
    fn is_passing(&self) -> bool {
        match self {
            Self::Io { .. } | Self::Late | Self::Closed(_) | Self::Violation(_) => true,
            Self::Refused { reply, .. } => *reply == option_reply::ERR_SHUTDOWN,
            Self::Server { error, .. } => is_passing(*error),
            Self::Greeting(_) | Self::Tls(_) | Self::PastEnd { .. } | Self::Changed(_) => false,
        }
    }

    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { source, .. } => source.kind(),
            Self::Late => io::ErrorKind::TimedOut,
            Self::Closed(_) => io::ErrorKind::ConnectionAborted,
            Self::Greeting(_) | Self::Violation(_) => io::ErrorKind::InvalidData,
            Self::Refused { reply, .. } => match *reply {
                option_reply::ERR_UNKNOWN => io::ErrorKind::NotFound,
                option_reply::ERR_POLICY | option_reply::ERR_TLS_REQD => {
                    io::ErrorKind::PermissionDenied
                }
                _ => io::ErrorKind::Other,
            },
            Self::Server { error: errno::EPERM, .. } => io::ErrorKind::PermissionDenied,
            Self::PastEnd { .. } => io::ErrorKind::InvalidInput,
            Self::Server { .. } | Self::Tls(_) | Self::Changed(_) => io::ErrorKind::Other,
        }
    }
}

impl From<NbdError> for RemoteError {
    fn from(error: NbdError) -> Self {
        match error {
            NbdError::Changed(changed) => Self::Changed(changed),
            _ => {
                let is_passing = error.is_passing();
                let error = io::Error::new(error.kind(), error);
                if is_passing { Self::Passing(error) } else { Self::Final(error) }
            }
        }
    }
}

/// Returns whether a request that failed with this error can succeed later.
fn is_passing(error: u32) -> bool {
    !matches!(error, errno::EPERM | errno::EINVAL | errno::EOVERFLOW | errno::ENOTSUP)
}

/// Returns the name of an error of the protocol.
fn name(error: u32) -> String {
    let name = match error {
        errno::EPERM => "EPERM",
        errno::EIO => "EIO",
        errno::ENOMEM => "ENOMEM",
        errno::EINVAL => "EINVAL",
        errno::ENOSPC => "ENOSPC",
        errno::EOVERFLOW => "EOVERFLOW",
        errno::ENOTSUP => "ENOTSUP",
        errno::ESHUTDOWN => "ESHUTDOWN",
        _ => return format!("error {error}"),
    };
    name.to_owned()
}

/// Describes a refusal.
fn refusal(reply: u32) -> String {
    let text = match reply {
        option_reply::ERR_UNSUP => "it does not support that",
        option_reply::ERR_POLICY => "it is not allowed",
        option_reply::ERR_INVALID => "the request is invalid",
        option_reply::ERR_PLATFORM => "its platform does not support that",
        option_reply::ERR_TLS_REQD => "TLS is required",
        option_reply::ERR_UNKNOWN => "there is no such export",
        option_reply::ERR_SHUTDOWN => "it is shutting down",
        option_reply::ERR_BLOCK_SIZE_REQD => "block sizes must be negotiated",
        option_reply::ERR_TOO_BIG => "it is too long",
        option_reply::ERR_EXT_HEADER_REQD => "extended headers are required",
        _ => return format!("reply {reply:#x}"),
    };
    text.to_owned()
}

/// Formats a message of the server for display: shortened, on one line, after a colon.
pub(super) fn printable(text: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(text.get(..SHOWN).unwrap_or(text));
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{NbdError, printable};
    use crate::nbd_protocol::{errno, option_reply};
    use crate::source::remote::RemoteError;

    fn server(error: u32) -> NbdError {
        let text = printable(b"bad\nblock");
        NbdError::Server { command: "read", start: 512, end: 1024, error, text }
    }

    #[test]
    fn errors_that_may_pass_are_told_from_those_that_do_not() {
        for error in [errno::EIO, errno::ENOMEM, errno::ESHUTDOWN, 4711] {
            assert!(matches!(RemoteError::from(server(error)), RemoteError::Passing(_)), "{error}");
        }
        for error in [errno::EPERM, errno::EINVAL, errno::EOVERFLOW, errno::ENOTSUP] {
            assert!(matches!(RemoteError::from(server(error)), RemoteError::Final(_)), "{error}");
        }
        let refused = |reply| NbdError::Refused { what: "x", reply, text: String::new() };
        let shutdown = refused(option_reply::ERR_SHUTDOWN);
        assert!(matches!(RemoteError::from(shutdown), RemoteError::Passing(_)));
        let RemoteError::Final(error) = RemoteError::from(refused(option_reply::ERR_UNKNOWN))
        else {
            panic!("there will be no such export later either");
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_error_says_which_bytes_and_what_the_server_says() {
        let text = server(errno::EIO).to_string();
        assert_eq!(text, "the NBD server cannot read bytes 512..1024: EIO: bad block");
    }
}
