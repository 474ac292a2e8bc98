//! Sources across a network, whose requests can fail.

use std::io;
use std::time::{Duration, Instant};

use clone_core::block_io::{Extent, SourceChanged};
use thiserror::Error;

/// An error of a remote source.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// Temporary: a retry may succeed. Examples: a lost connection, a busy server.
    #[error(transparent)]
    Passing(io::Error),
    /// Permanent: the object is gone, or access is denied.
    #[error(transparent)]
    Final(io::Error),
    /// Another version of the object, or another object: none of its data may be used.
    #[error(transparent)]
    Changed(#[from] SourceChanged),
}

/// The error of a busy server that said when to retry. It is inside the [`io::Error`] of
/// [`RemoteError::Passing`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct Busy {
    /// The message of the server.
    pub text: String,
    /// The delay that the server asks for.
    pub wait: Duration,
}

impl Busy {
    /// Returns the delay that the server asks for, if `error` is a [`Busy`].
    pub fn wait_of(error: &io::Error) -> Option<Duration> {
        error.get_ref()?.downcast_ref::<Self>().map(|busy| busy.wait)
    }
}

/// A source across a network. Each call makes one attempt; the
/// retry policy (`retry_policy.rs`) decides about retries. Many threads call it at the same time.
pub trait Remote: Send + Sync + 'static {
    /// Size in bytes when the source was opened.
    fn size_bytes(&self) -> u64;

    /// Fills `into` with the bytes from `offset`. Every byte belongs to the version that was
    /// opened.
    ///
    /// # Errors
    /// [`RemoteError`]. It is [`RemoteError::Passing`] if `deadline` passes before everything is
    /// read.
    fn read_at(&self, offset: u64, into: &mut [u8], deadline: Instant) -> Result<(), RemoteError>;

    /// The extent that begins at `offset`, as far as the other side knows; see
    /// [`Source::extent`](clone_core::block_io::Source::extent).
    ///
    /// # Errors
    /// As for a read.
    fn extent(&self, offset: u64, deadline: Instant) -> Result<Extent, RemoteError> {
        let (_, _) = (offset, deadline);
        Ok(Extent { zeroes: false, end: self.size_bytes() })
    }

    /// Aborts requests in flight, so that no thread waits for them, and rejects new ones. With the
    /// default, which does nothing, they end at their deadlines.
    fn abandon(&self) {}
}
