//! The buffers of a connection: received bytes that have not been handled, and replies that have
//! not been sent. Buffers grow on demand and are reused.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::export::nbd::channel::{Channel, Intake, SendLimits};
use crate::export::nbd::memory::MemoryLease;

/// Maximum number of data bytes in the buffers of a connection. Longer requests are split into
/// pieces, or get a buffer of their own.
pub(super) const PIECE: usize = 256 << 10;

/// Number of bytes to receive if nothing indicates that more are available.
const USUAL: usize = 4 << 10;

/// Maximum number of bytes to receive beyond what is needed.
const PLENTY: usize = 64 << 10;

/// Received bytes.
#[derive(Debug)]
pub(super) struct Inbox {
    channel: Arc<Channel>,
    intake: Intake,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// True if the last receive filled the buffer.
    was_filled: bool,
    lease: MemoryLease,
}

/// The reason why the needed bytes do not arrive.
#[derive(Debug, Error)]
pub(super) enum ReceiveError {
    /// The input has ended.
    #[error("the input has ended")]
    End,
    /// Receiving failed, or the connection was cut.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Inbox {
    /// Creates an inbox. `lease` is from [`Memory::own`](super::memory::Memory::own).
    pub(super) fn new(channel: Arc<Channel>, lease: MemoryLease, limits: SendLimits) -> Self {
        let mut intake = Intake::default();
        intake.set_timeouts(Some(limits));
        Self { channel, intake, bytes: Vec::new(), start: 0, end: 0, was_filled: false, lease }
    }

    /// Removes the time limits of the negotiation.
    pub(super) fn be_patient(&mut self) -> io::Result<()> {
        self.intake.set_timeouts(None);
        self.channel.be_patient()
    }

    /// Returns the received bytes.
    pub(super) fn have(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Removes the first `len` bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Receives once. The buffer has room for at least `want` bytes in all.
    pub(super) fn receive(&mut self, want: usize) -> Result<(), ReceiveError> {
        self.make_room(want);
        let got = self.channel.receive(&mut self.intake, &mut self.bytes[self.end..])?;
        self.end += got;
        self.was_filled = self.end == self.bytes.len();
        if got == 0 { Err(ReceiveError::End) } else { Ok(()) }
    }

    /// Receives until `want` bytes are there.
    pub(super) fn receive_all(&mut self, want: usize) -> Result<(), ReceiveError> {
        while self.have().len() < want {
            self.receive(want)?;
        }
        Ok(())
    }

    /// Fills `into` with the received bytes and further input.
    pub(super) fn fill(&mut self, mut into: &mut [u8]) -> Result<(), ReceiveError> {
        let some = into.len().min(self.have().len());
        let (first, rest) = into.split_at_mut(some);
        first.copy_from_slice(&self.have()[..some]);
        self.consume(some);
        into = rest;
        while !into.is_empty() {
            let got = self.channel.receive(&mut self.intake, into)?;
            if got == 0 {
                return Err(ReceiveError::End);
            }
            into = &mut into[got..];
        }
        Ok(())
    }

    /// Receives and discards `len` bytes.
    pub(super) fn skip(&mut self, mut len: usize) -> Result<(), ReceiveError> {
        loop {
            let some = len.min(self.have().len());
            self.consume(some);
            len -= some;
            if len == 0 {
                return Ok(());
            }
            self.receive(1)?;
        }
    }

    /// Returns the intake, for the TLS handshake.
    pub(super) fn intake(&mut self) -> &mut Intake {
        &mut self.intake
    }

    fn make_room(&mut self, want: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        // If the last receive filled the buffer, more input may be available.
        let len = match self.was_filled {
            true => self.bytes.len().saturating_mul(2).min(PLENTY),
            false => USUAL,
        };
        if self.bytes.len() < len.max(want) {
            let grown = len.max(want.next_power_of_two());
            self.lease.grow(grown - self.bytes.len());
            self.bytes.resize(grown, 0);
        }
        if self.start > 0 && self.bytes.len() - self.start < want.max(USUAL) {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

/// Replies that have not been sent.
#[derive(Debug)]
pub(super) struct Batch {
    /// Longer than the used part, so that it is filled with zeroes only once.
    bytes: Vec<u8>,
    used: usize,
    lease: MemoryLease,
}

impl Batch {
    /// Creates a batch. `lease` is from [`Memory::own`](super::memory::Memory::own).
    pub(super) fn new(lease: MemoryLease) -> Self {
        Self { bytes: Vec::new(), used: 0, lease }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Keeps only the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.used = self.used.min(len);
    }

    /// Appends `len` bytes of unspecified contents, and returns them.
    pub(super) fn add(&mut self, len: usize) -> &mut [u8] {
        let (start, end) = (self.used, self.used + len);
        if self.bytes.len() < end {
            let grown = end.next_power_of_two();
            self.lease.grow(grown - self.bytes.len());
            self.bytes.resize(grown, 0);
        }
        self.used = end;
        &mut self.bytes[start..end]
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.add(bytes.len()).copy_from_slice(bytes);
    }
}
