//! The replies of the receiver thread: several of them together, or a long one in pieces.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use super::outbox::{Ends, Outbox, Turn};
use super::{Head, Message, ReplyFormat, ReplyHeader};
use crate::export::nbd::buffers::Batch;
use crate::export::nbd::memory::MemoryLease;

/// Replies are sent when they reach this number of bytes, or when no more input is available.
const ENOUGH: usize = 64 << 10;

/// Replies that have not been sent.
///
/// *Invariant:* they are whole messages between any two calls.
#[derive(Debug)]
pub(in crate::export::nbd) struct Replies {
    outbox: Arc<Outbox>,
    batch: Batch,
}

/// Describes the data of a read, or a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::export::nbd) struct Data {
    /// Start of the data on the export in bytes.
    pub(in crate::export::nbd) offset: u64,
    /// Length in bytes.
    pub(in crate::export::nbd) len: usize,
    /// True if these data complete the reply. A simple reply has all data of its request.
    pub(in crate::export::nbd) last: bool,
}

impl Replies {
    /// Creates an empty batch. `lease` is one of the connection's own.
    pub(in crate::export::nbd) fn new(outbox: Arc<Outbox>, lease: MemoryLease) -> Self {
        Self { outbox, batch: Batch::new(lease) }
    }

    /// Returns the outbox, which holds the replies of other threads.
    pub(in crate::export::nbd) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    pub(in crate::export::nbd) fn put(&mut self, message: &Message) {
        for part in message.parts() {
            self.batch.put(part);
        }
    }

    /// Adds data of a read, after the chunk `front`. `fill` produces the data; if it returns `None`
    /// or an error, nothing is added.
    pub(in crate::export::nbd) fn data<E>(
        &mut self,
        header: ReplyHeader,
        data: &Data,
        front: Option<&Message>,
        fill: impl FnOnce(&mut [u8]) -> Option<Result<(), E>>,
    ) -> Option<Result<(), E>> {
        let before = self.batch.len();
        if let Some(front) = front {
            self.put(front);
        }
        let head = header.data_head(data.offset, data.len, data.last);
        self.batch.put(head.as_slice());
        let result = fill(self.batch.add(data.len));
        if !matches!(result, Some(Ok(()))) {
            self.batch.truncate(before);
        }
        result
    }

    /// Sends the replies if there are many.
    pub(in crate::export::nbd) fn flush_many(&mut self) -> io::Result<()> {
        if self.batch.len() >= ENOUGH { self.flush() } else { Ok(()) }
    }

    /// Sends the replies.
    pub(in crate::export::nbd) fn flush(&mut self) -> io::Result<()> {
        if self.batch.len() == 0 {
            return Ok(());
        }
        let sent = self.outbox.turn().send(self.batch.as_slice(), Ends::Whole);
        self.batch.truncate(0);
        sent
    }

    /// Begins the reply to a read of `len` bytes, which is sent as one chunk while it is read.
    pub(in crate::export::nbd) fn long(
        &mut self,
        header: ReplyHeader,
        len: usize,
    ) -> LongReply<'_> {
        // A later piece may fail, so the chunk cannot be marked as the last one.
        let head = Some(header.data_head(header.offset, len, false));
        let Self { outbox, batch } = self;
        LongReply { outbox, batch, header, head, turn: None, left: len, is_answered: false }
    }
}

/// The reply to a read: one message that is sent piece by piece.
///
/// *Invariant:* once a part of it has been sent, nothing else is sent on the connection until all
/// of it has been. If it is dropped before it [finishes](Self::finish) or [fails](Self::fail), the
/// connection ends. Before the first piece, the batch contains only other replies.
#[derive(Debug)]
#[must_use]
pub(in crate::export::nbd) struct LongReply<'a> {
    outbox: &'a Outbox,
    batch: &'a mut Batch,
    header: ReplyHeader,
    /// The header, before the first piece.
    head: Option<Head>,
    /// The right to send, from the first to the last sent byte.
    turn: Option<Turn<'a>>,
    /// Number of data bytes that have not been added to the batch.
    left: usize,
    is_answered: bool,
}

/// The reason why a reply that has begun cannot end with an error message.
#[derive(Debug, Error)]
pub(in crate::export::nbd) enum CutReply {
    /// The simple format has no way to report an error after the start of a reply.
    #[error("a simple reply was cut")]
    Simple,
    /// Sending failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl LongReply<'_> {
    /// Adds the next `len` bytes of data. `fill` produces them; if it returns `None` or an error,
    /// nothing is added.
    pub(in crate::export::nbd) fn data<E>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<Result<(), E>>,
    ) -> Option<Result<(), E>> {
        let (before, len) = (self.batch.len(), len.min(self.left));
        if let Some(head) = &self.head {
            self.batch.put(head.as_slice());
        }
        let result = fill(self.batch.add(len));
        if matches!(result, Some(Ok(()))) {
            self.head = None;
            self.left -= len;
        } else {
            self.batch.truncate(before);
        }
        result
    }

    /// Adds the next bytes of data.
    pub(in crate::export::nbd) fn put(&mut self, data: &[u8]) {
        let copy = |into: &mut [u8]| {
            into.copy_from_slice(&data[..into.len()]);
            Some(Ok::<(), ()>(()))
        };
        let _ = self.data(data.len(), copy);
    }

    /// Sends the batch. Replies of other threads go first, unless a part of this reply was sent
    /// before.
    pub(in crate::export::nbd) fn flush(&mut self) -> io::Result<()> {
        if self.batch.len() == 0 {
            return Ok(());
        }
        let ends = match self.head.is_some() || self.left == 0 {
            true => Ends::Whole,
            false => Ends::Within,
        };
        let mut turn = match self.turn.take() {
            Some(turn) => turn,
            None => self.outbox.turn(),
        };
        let sent = turn.send(self.batch.as_slice(), ends);
        self.batch.truncate(0);
        if ends == Ends::Within {
            self.turn = Some(turn);
        }
        sent
    }

    /// Ends a reply whose data have all been added.
    pub(in crate::export::nbd) fn finish(mut self) -> io::Result<()> {
        debug_assert_eq!(self.left, 0);
        self.flush()?;
        self.is_answered = self.left == 0;
        if self.is_answered && self.header.format != ReplyFormat::Simple {
            self.add(&self.header.done(true));
        }
        Ok(())
    }

    /// Ends a reply that lacks some of its data; `error` is the reason. If a part has been sent,
    /// zeroes replace the rest ("it MUST use padding bytes which SHOULD be zero", `NBD_CMD_READ`),
    /// and `error` follows as a separate chunk. The simple format has no chunks; there the
    /// connection has to end instead.
    pub(in crate::export::nbd) fn fail(mut self, error: &Message) -> Result<(), CutReply> {
        if self.head.is_none() {
            if self.header.format == ReplyFormat::Simple {
                return Err(CutReply::Simple);
            }
            while self.left > 0 {
                self.data(ENOUGH, |into| {
                    into.fill(0);
                    Some(Ok::<(), ()>(()))
                });
                self.flush()?;
            }
        }
        self.add(error);
        self.is_answered = true;
        Ok(())
    }

    /// Adds a whole message, before or after the reply.
    fn add(&mut self, message: &Message) {
        for part in message.parts() {
            self.batch.put(part);
        }
    }
}

impl Drop for LongReply<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.outbox.give_up();
        }
    }
}
