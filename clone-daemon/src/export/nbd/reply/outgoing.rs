//! The replies of the thread that receives: several of them together, or a long one by pieces.

use std::io;
use std::sync::Arc;

use super::outbox::{Ends, Outbox, Turn};
use super::{Head, Message, Style, Ticket};
use crate::export::nbd::buffers::Batch;
use crate::export::nbd::memory::Lease;

/// Replies are sent when there are so many bytes of them, or nothing else is to be done.
const ENOUGH: usize = 64 << 10;

/// Replies that were not sent.
///
/// *Invariant:* they are whole messages, whenever this can be used.
#[derive(Debug)]
pub(in crate::export::nbd) struct Replies {
    outbox: Arc<Outbox>,
    batch: Batch,
}

/// Data that answer a read, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::export::nbd) struct Data {
    /// Where they begin on the export, in bytes.
    pub(in crate::export::nbd) offset: u64,
    /// Bytes of them.
    pub(in crate::export::nbd) len: usize,
    /// The request is answered after them. A simple reply has all data of its request.
    pub(in crate::export::nbd) last: bool,
}

impl Replies {
    /// `lease` is one of a connection's own.
    pub(in crate::export::nbd) fn new(outbox: Arc<Outbox>, lease: Lease) -> Self {
        Self { outbox, batch: Batch::new(lease) }
    }

    /// Where the replies of other threads come from.
    pub(in crate::export::nbd) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    pub(in crate::export::nbd) fn put(&mut self, message: &Message) {
        for part in message.parts() {
            self.batch.put(part);
        }
    }

    /// Adds data of a read, and `front` before them. `fill` makes the data; unless it does, and
    /// succeeds, nothing is added.
    pub(in crate::export::nbd) fn data<E>(
        &mut self,
        ticket: Ticket,
        data: &Data,
        front: Option<&Message>,
        fill: impl FnOnce(&mut [u8]) -> Option<Result<(), E>>,
    ) -> Option<Result<(), E>> {
        let before = self.batch.len();
        if let Some(front) = front {
            self.put(front);
        }
        let head = ticket.data_head(data.offset, data.len, data.last);
        self.batch.put(head.as_slice());
        let result = fill(self.batch.add(data.len));
        if !matches!(result, Some(Ok(()))) {
            self.batch.truncate(before);
        }
        result
    }

    /// Sends them if there are many.
    pub(in crate::export::nbd) fn flush_many(&mut self) -> io::Result<()> {
        if self.batch.len() >= ENOUGH { self.flush() } else { Ok(()) }
    }

    /// Sends them.
    pub(in crate::export::nbd) fn flush(&mut self) -> io::Result<()> {
        if self.batch.len() == 0 {
            return Ok(());
        }
        let sent = self.outbox.turn().send(self.batch.as_slice(), Ends::Whole);
        self.batch.truncate(0);
        sent
    }

    /// Begins to answer a read of `len` bytes, which go out in one chunk as they are read.
    pub(in crate::export::nbd) fn long(&mut self, ticket: Ticket, len: usize) -> LongReply<'_> {
        // The rest may fail, so that a chunk with all of it is not the last one.
        let head = Some(ticket.data_head(ticket.offset, len, false));
        let Self { outbox, batch } = self;
        LongReply { outbox, batch, ticket, head, turn: None, left: len, is_answered: false }
    }
}

/// The answer to a read, in one message that goes out piece by piece.
///
/// *Invariant:* once some of it was sent, nothing else is sent on the connection until all of it
/// was. If it is dropped before it is [finished](Self::finish) or [fails](Self::fail) the
/// connection ends. Before its first piece nothing of it is there, and what is sent meanwhile are
/// other replies.
#[derive(Debug)]
#[must_use]
pub(in crate::export::nbd) struct LongReply<'a> {
    outbox: &'a Outbox,
    batch: &'a mut Batch,
    ticket: Ticket,
    /// It comes before the first piece.
    head: Option<Head>,
    /// From the first byte that is sent to the last.
    turn: Option<Turn<'a>>,
    /// Bytes of data that are not yet in the batch.
    left: usize,
    is_answered: bool,
}

/// A read failed in the middle of a simple reply, which cannot say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::export::nbd) struct Torn;

impl LongReply<'_> {
    /// Adds the next `len` bytes of data. `fill` makes them; unless it does, and succeeds, nothing
    /// is added.
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

    /// Sends what is there: of other replies too, if nothing of this one was sent before.
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

    /// Ends the reply, all of whose data have been added.
    pub(in crate::export::nbd) fn finish(mut self) -> io::Result<()> {
        debug_assert_eq!(self.left, 0);
        self.flush()?;
        self.is_answered = self.left == 0;
        if self.is_answered && self.ticket.style != Style::Simple {
            self.add(&self.ticket.done(true));
        }
        Ok(())
    }

    /// Ends the reply, some of whose data cannot be had; `error` says why. If some have been sent
    /// zeroes take the place of the others ("it MUST use padding bytes which SHOULD be zero",
    /// `NBD_CMD_READ`), and `error` follows as a chunk of its own. The end of the connection takes
    /// the place of both in the simple style, which has no chunks.
    pub(in crate::export::nbd) fn fail(mut self, error: &Message) -> io::Result<Result<(), Torn>> {
        if self.head.is_none() {
            if self.ticket.style == Style::Simple {
                return Ok(Err(Torn));
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
        Ok(Ok(()))
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
