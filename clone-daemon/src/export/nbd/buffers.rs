//! The buffers of a connection: what was received and not looked at, and replies that were not
//! sent. They grow as they are needed, and are used again.

use std::io;
use std::sync::Arc;

use crate::export::nbd::channel::{Channel, Intake, Patience};
use crate::export::nbd::memory::Lease;

/// The most bytes of data that the buffers of a connection hold; longer requests are done in
/// pieces, or in a buffer of their own.
pub(super) const PIECE: usize = 256 << 10;

/// Bytes that are received at a time if nothing says that there are more.
const USUAL: usize = 4 << 10;

/// The most bytes that are received at a time without need.
const PLENTY: usize = 64 << 10;

/// What was received.
#[derive(Debug)]
pub(super) struct Inbox {
    channel: Arc<Channel>,
    intake: Intake,
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether there was no more room when something was received.
    was_filled: bool,
    lease: Lease,
}

/// There is no more to be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End;

impl Inbox {
    /// `lease` is one of a connection's own.
    pub(super) fn new(channel: Arc<Channel>, lease: Lease, patience: Patience) -> Self {
        let mut intake = Intake::default();
        intake.set_patience(Some(patience));
        Self { channel, intake, bytes: Vec::new(), start: 0, end: 0, was_filled: false, lease }
    }

    /// The handshake is over.
    pub(super) fn be_patient(&mut self) -> io::Result<()> {
        self.intake.set_patience(None);
        self.channel.be_patient()
    }

    /// What is there.
    pub(super) fn have(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The first `len` bytes have been used.
    pub(super) fn consume(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// Receives once, with room for `want` bytes in all.
    pub(super) fn receive(&mut self, want: usize) -> io::Result<Result<(), End>> {
        self.make_room(want);
        let got = self.channel.receive(&mut self.intake, &mut self.bytes[self.end..])?;
        self.end += got;
        self.was_filled = self.end == self.bytes.len();
        Ok(if got == 0 { Err(End) } else { Ok(()) })
    }

    /// Receives until `want` bytes are there.
    pub(super) fn receive_all(&mut self, want: usize) -> io::Result<Result<(), End>> {
        while self.have().len() < want {
            if self.receive(want)?.is_err() {
                return Ok(Err(End));
            }
        }
        Ok(Ok(()))
    }

    /// Fills `into`, by what is there and by receiving more.
    pub(super) fn fill(&mut self, mut into: &mut [u8]) -> io::Result<Result<(), End>> {
        let some = into.len().min(self.have().len());
        let (first, rest) = into.split_at_mut(some);
        first.copy_from_slice(&self.have()[..some]);
        self.consume(some);
        into = rest;
        while !into.is_empty() {
            let got = self.channel.receive(&mut self.intake, into)?;
            if got == 0 {
                return Ok(Err(End));
            }
            into = &mut into[got..];
        }
        Ok(Ok(()))
    }

    /// Receives `len` bytes and forgets them.
    pub(super) fn skip(&mut self, mut len: usize) -> io::Result<Result<(), End>> {
        loop {
            let some = len.min(self.have().len());
            self.consume(some);
            len -= some;
            if len == 0 {
                return Ok(Ok(()));
            }
            if self.receive(1)?.is_err() {
                return Ok(Err(End));
            }
        }
    }

    /// What TLS has to begin with.
    pub(super) fn intake(&mut self) -> &mut Intake {
        &mut self.intake
    }

    fn make_room(&mut self, want: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        // What filled the buffer the last time may have left more behind.
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

/// Replies that were not sent.
#[derive(Debug)]
pub(super) struct Batch {
    /// Longer than what is used of it, so that it is filled with zeroes only once.
    bytes: Vec<u8>,
    used: usize,
    lease: Lease,
}

impl Batch {
    /// `lease` is one of a connection's own.
    pub(super) fn new(lease: Lease) -> Self {
        Self { bytes: Vec::new(), used: 0, lease }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Only the first `len` bytes stay.
    pub(super) fn truncate(&mut self, len: usize) {
        self.used = self.used.min(len);
    }

    /// So many bytes more, which hold anything.
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
