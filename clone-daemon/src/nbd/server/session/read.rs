//! Reads: at once from the destination, whole from the source, or in pieces.

use clone_core::engine::{ByteRange, Operation, RequestError};

use crate::nbd::server::buffers::PIECE;
use crate::nbd::server::reply::{Bytes, Style, Ticket};
use crate::nbd::server::session::{ENOUGH, Ended, Session, errno_of, error_bytes};

/// Reads that are shorter are not looked at for holes: that would take as long as the read.
const LONG: u64 = 64 << 10;

impl Session {
    pub(super) fn read(
        &mut self,
        ticket: Ticket,
        range: ByteRange,
        whole: bool,
    ) -> Result<(), Ended> {
        if range.is_empty() {
            self.batch.put(ticket.done(true).as_slice());
            return Ok(());
        }
        let range = match self.style {
            Style::Structured | Style::Extended if !whole => self.read_hole(ticket, range),
            _ => range,
        };
        let len = range.end - range.start;
        if len == 0 || len <= PIECE as u64 && self.read_now(ticket, &range) {
            return Ok(());
        }
        let is_there = matches!(self.user.hydrated(&range), Some((true, end)) if end >= range.end);
        let lease = if is_there { None } else { self.lease(len)? };
        let Some(lease) = lease else {
            return self.read_pieces(ticket, range, whole);
        };
        // What tells of a hole in front must not come after the end of the reply.
        self.flush()?;
        let slot = self.outbox.slot(lease);
        let (offset, len) = (range.start, len as u32);
        let buffer = vec![0; len as usize];
        self.user.submit(Operation::Read, range, false, buffer, move |result, data| match result {
            Ok(()) => slot.answer(ticket.data(offset, len, true).as_slice().to_vec(), data),
            Err(error) => slot.answer(error_bytes(ticket, Operation::Read, error), Vec::new()),
        });
        Ok(())
    }

    /// Tells of the hole that a long `range` begins with, if it does; returns what is left.
    fn read_hole(&mut self, ticket: Ticket, range: ByteRange) -> ByteRange {
        let is_data = self.data.start <= range.start && range.end <= self.data.end;
        if range.end - range.start < LONG || is_data {
            return range;
        }
        let Ok(Some(stretch)) = self.user.stretch(&range) else { return range };
        if !stretch.zeroes {
            self.data = range.start..stretch.end;
            return range;
        }
        let end = stretch.end.min(range.end);
        let mut bytes = Bytes::default();
        // No read is longer than 32 bits.
        let len = (end - range.start) as u32;
        ticket.hole(&mut bytes, range.start, len, end == range.end);
        self.batch.put(&bytes.0);
        end..range.end
    }

    /// Reads a piece, if it is on the destination; whether it was.
    fn read_now(&mut self, ticket: Ticket, range: &ByteRange) -> bool {
        let before = self.batch.len();
        let len = range.end - range.start;
        self.batch.put(ticket.data(range.start, len as u32, true).as_slice());
        let result = self.user.read_now(range.start, self.batch.add(len as usize));
        if result != Some(Ok(())) {
            self.batch.truncate(before);
        }
        if let Some(Err(error)) = result {
            self.fail(ticket, errno_of(Operation::Read, error), &error.to_string());
        }
        result.is_some()
    }

    /// Reads piece after piece, and waits for each.
    fn read_pieces(&mut self, ticket: Ticket, range: ByteRange, whole: bool) -> Result<(), Ended> {
        if !(whole || self.style == Style::Simple) {
            return self.read_each(ticket, range, whole, false);
        }
        self.outbox.hold();
        let read = self.read_each(ticket, range, whole, true).and_then(|()| self.flush());
        self.outbox.let_go();
        read
    }

    /// Reads pieces, in one chunk or in one each.
    fn read_each(
        &mut self,
        ticket: Ticket,
        range: ByteRange,
        whole: bool,
        in_one: bool,
    ) -> Result<(), Ended> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + PIECE as u64);
            let before = self.batch.len();
            if !in_one || at == range.start {
                // The rest may fail, so that a chunk with all of it is not the last one.
                let (chunk_end, last) =
                    if in_one { (range.end, false) } else { (end, end == range.end) };
                let head = ticket.data(at, (chunk_end - at) as u32, last);
                self.batch.put(head.as_slice());
            }
            if let Err(error) = self.read_piece(at..end)? {
                self.batch.truncate(before);
                if in_one && at > range.start {
                    return self.fail_in_chunk(ticket, range.end - at, error);
                }
                self.fail(ticket, errno_of(Operation::Read, error), &error.to_string());
                return Ok(());
            }
            at = end;
            if self.batch.len() >= ENOUGH {
                self.flush()?;
            }
        }
        if whole {
            self.batch.put(ticket.done(true).as_slice());
        }
        Ok(())
    }

    /// Puts a piece of data behind the replies.
    fn read_piece(&mut self, range: ByteRange) -> Result<Result<(), RequestError>, Ended> {
        let len = (range.end - range.start) as usize;
        let before = self.batch.len();
        if let Some(result) = self.user.read_now(range.start, self.batch.add(len)) {
            return Ok(result);
        }
        self.batch.truncate(before);
        let (result, data) = self.ask(Operation::Read, range, false, vec![0; len])?;
        self.batch.put(&data);
        Ok(result)
    }

    /// After the first piece of a chunk a read failed. `left` bytes of the chunk are missing.
    fn fail_in_chunk(
        &mut self,
        ticket: Ticket,
        left: u64,
        error: RequestError,
    ) -> Result<(), Ended> {
        if self.style == Style::Simple {
            // Nothing that came now would be understood.
            self.channel.cut();
            return Err(Ended::HalfRead);
        }
        // "it MUST use padding bytes which SHOULD be zero" ("`NBD_CMD_READ`").
        let mut left = left as usize;
        while left > 0 {
            let some = left.min(ENOUGH);
            self.batch.add(some).fill(0);
            left -= some;
            self.flush()?;
        }
        self.fail(ticket, errno_of(Operation::Read, error), &error.to_string());
        Ok(())
    }
}
