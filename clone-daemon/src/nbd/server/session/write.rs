//! Writes: at once to the destination, whole where something has to be copied, or in pieces.

use clone_core::engine::{ByteRange, Operation, RequestError};

use crate::nbd::server::buffers::PIECE;
use crate::nbd::server::reply::Ticket;
use crate::nbd::server::session::{Ended, Session, answer};

/// What is written at once goes in strips that are no longer: that is how a destination gives it
/// to the page cache anyway, and what is longer it may take for a copy, which it has stored early
/// and forgotten.
const STRIP: usize = 64 << 10;

impl Session {
    /// Writes what follows to `range`.
    pub(super) fn write(
        &mut self,
        ticket: Ticket,
        range: ByteRange,
        durable: bool,
    ) -> Result<(), Ended> {
        // Nobody may send more at once than fits.
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

    /// Writes `data`, if nothing has to be copied for it. What was written before that was found
    /// out is written again.
    fn write_now(&self, offset: u64, data: &[u8]) -> Option<Result<(), RequestError>> {
        for (strip, at) in data.chunks(STRIP).zip((offset..).step_by(STRIP)) {
            if let Err(error) = self.asker.user.write_now(at, strip)? {
                return Some(Err(error));
            }
        }
        Some(Ok(()))
    }

    /// Writes piece after piece, and waits for each. What follows one that failed is not written.
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
