//! Sources across a network, which fail now and then.

use std::io;
use std::time::{Duration, Instant};

use clone_core::block_io::{Extent, SourceChanged};
use thiserror::Error;

/// Why something could not be had from afar.
#[derive(Debug, Error)]
pub enum Trouble {
    /// It may go better the next time: a connection was lost, a server was busy.
    #[error(transparent)]
    Passing(io::Error),
    /// It will not: the object is gone, or access is denied.
    #[error(transparent)]
    Final(io::Error),
    /// It is another version of the object, or another object: nothing of it may be used.
    #[error(transparent)]
    Changed(#[from] SourceChanged),
}

/// The error of a server that is busy, inside the [`io::Error`] of [`Trouble::Passing`]: it said
/// when to come back.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{told}")]
pub struct Busy {
    /// What it said.
    pub told: String,
    /// How long it wants to be left alone.
    pub wait: Duration,
}

impl Busy {
    /// How long the server wants to be left alone, if `error` says so.
    pub fn wait_of(error: &io::Error) -> Option<Duration> {
        error.get_ref()?.downcast_ref::<Self>().map(|busy| busy.wait)
    }
}

/// A source across a network, which does what it does once: when to try again, how often and for
/// how long is decided around it. Many threads use it at a time.
pub trait Remote: Send + Sync + 'static {
    /// Bytes that can be read, as they were found when it was opened.
    fn size_bytes(&self) -> u64;

    /// Reads from `offset` on; every byte of `into` is of the version that was opened.
    ///
    /// # Errors
    /// [`Trouble`]. It is [passing](Trouble::Passing) if `deadline` passes before all is read.
    fn read_at(&self, offset: u64, into: &mut [u8], deadline: Instant) -> Result<(), Trouble>;

    /// The stretch that begins at `offset`, as far as the other side knows; see
    /// [`Source::extent`](clone_core::block_io::Source::extent).
    ///
    /// # Errors
    /// As for a read.
    fn extent(&self, offset: u64, deadline: Instant) -> Result<Extent, Trouble> {
        let (_, _) = (offset, deadline);
        Ok(Extent { zeroes: false, end: self.size_bytes() })
    }

    /// Ends what is under way, so that no thread waits for it any more. Nothing is asked for
    /// afterwards. One that does nothing here ends when its deadlines pass.
    fn abandon(&self) {}
}
