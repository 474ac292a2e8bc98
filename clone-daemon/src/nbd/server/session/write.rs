//! Writes: on the fast path to the destination, submitted as a whole if data have to be copied, or
//! in pieces.

use clone_core::engine::{ByteRange, Operation, RequestError};

use crate::nbd::server::buffers::PIECE;
use crate::nbd::server::reply::Ticket;
use crate::nbd::server::session::{Ended, Session, answer};

/// Maximum length of one fast-path write in bytes. The destination passes data to the page cache in
/// strips of this length anyway. It could take a longer write for a copy, whose pages it writes
/// back early and drops.
const STRIP: usize = 64 << 10;

impl Session {
    /// Handles a write to `range`; the data follow in the input.
    pub(super) fn write(
        &mut self,
        ticket: Ticket,
        range: ByteRange,
        durable: bool,
    ) -> Result<(), Ended> {
        // The parser has limited the length.
        let len = (range.end - range.start) as usize;
        if len <= PIECE {
            self.need(len)?;
            let data = &self.inbox.have()[..len];
            let done = if durable { None } else { self.write_now(range.start, data) };
            if let Some(result) = done {
                self.inbox.consume(len);
                self.answer(ticket, Operation::Write, result);
                return Ok(());
            }
        }
        let lease = match len > PIECE && !durable && self.asker.is_there(&range) {
            true => None,
            false => self.lease(len as u64)?,
        };
        let Some(lease) = lease else {
            return self.write_pieces(ticket, range, durable);
        };
        let slot = self.replies.outbox().slot(lease);
        let mut buffer = vec![0; len];
        if len > self.inbox.have().len() {
            self.replies.flush()?;
        }
        self.inbox.fill(&mut buffer)??;
        self.asker.user.submit(Operation::Write, range, durable, buffer, move |result, _| {
            slot.answer(None, answer(ticket, Operation::Write, result));
        });
        Ok(())
    }

    /// Writes `data` on the fast path. If a strip needs a copy, this returns `None`, and the caller
    /// writes all of the data again.
    fn write_now(&self, offset: u64, data: &[u8]) -> Option<Result<(), RequestError>> {
        for (strip, at) in data.chunks(STRIP).zip((offset..).step_by(STRIP)) {
            if let Err(error) = self.asker.user.write_now(at, strip)? {
                return Some(Err(error));
            }
        }
        Some(Ok(()))
    }

    /// Writes piece by piece, and waits for each. After a failed piece, the others are discarded.
    fn write_pieces(
        &mut self,
        ticket: Ticket,
        range: ByteRange,
        durable: bool,
    ) -> Result<(), Ended> {
        let mut at = range.start;
        let mut result = Ok(());
        while at < range.end {
            let end = range.end.min(at + PIECE as u64);
            let len = (end - at) as usize;
            self.need(len)?;
            if result.is_ok() {
                result = self.write_piece(at..end, durable)?;
            }
            self.inbox.consume(len);
            at = end;
        }
        self.answer(ticket, Operation::Write, result);
        Ok(())
    }

    fn write_piece(
        &mut self,
        range: ByteRange,
        durable: bool,
    ) -> Result<Result<(), RequestError>, Ended> {
        let data = &self.inbox.have()[..(range.end - range.start) as usize];
        let done = if durable { None } else { self.write_now(range.start, data) };
        match done {
            Some(result) => Ok(result),
            None => {
                let data = data.to_vec();
                self.replies.flush()?;
                Ok(self.asker.ask(Operation::Write, range, durable, data)?.0)
            }
        }
    }
}
