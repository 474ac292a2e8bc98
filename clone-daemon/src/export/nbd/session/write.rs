//! Writes: on the fast path to the destination, submitted as a whole if data have to be copied, or
//! in pieces.

use clone_core::engine::{ByteRange, Operation, RequestError};

use crate::export::nbd::buffers::PIECE;
use crate::export::nbd::reply::ReplyHeader;
use crate::export::nbd::session::{Session, SessionEnd, answer};

/// Maximum length of one fast-path write in bytes. The destination passes data to the page cache in
/// strips of this length anyway. It could take a longer write for a copy, whose pages it writes
/// back early and drops.
const STRIP: usize = 64 << 10;

impl Session {
    /// Handles a write to `range`; the data follow in the input.
    pub(super) fn write(
        &mut self,
        header: ReplyHeader,
        range: ByteRange,
        durable: bool,
    ) -> Result<(), SessionEnd> {
        // The parser has limited the length.
        let mut range = range;
        let mut len = (range.end - range.start) as usize;
        if len <= PIECE && !durable {
            self.need(len)?;
            let written = self.write_now(range.start, &self.inbox.have()[..len]);
            let done = *written.as_ref().unwrap_or(&len);
            self.inbox.consume(done);
            if done == len {
                self.answer(header, Operation::Write, written.map(drop));
                return Ok(());
            }
            range.start += done as u64;
            len -= done;
        }
        let lease = match len > PIECE && !durable && self.volume.is_there(&range) {
            true => None,
            false => self.lease(len as u64)?,
        };
        let Some(lease) = lease else {
            return self.write_pieces(header, range, durable);
        };
        let slot = self.replies.outbox().slot(lease);
        let mut buffer = vec![0; len];
        if len > self.inbox.have().len() {
            self.replies.flush()?;
        }
        self.inbox.fill(&mut buffer)?;
        self.volume.user.submit(Operation::Write, range, durable, buffer, move |result, _| {
            slot.answer(None, answer(header, Operation::Write, result));
        });
        Ok(())
    }

    /// Writes the beginning of `data` on the fast path, up to the first strip that needs a copy.
    /// Returns the number of bytes written.
    ///
    /// *Invariant:* the caller does not write these bytes again for the same request. Other clients
    /// have seen them, and may have been answered for later writes to the same bytes.
    fn write_now(&self, offset: u64, data: &[u8]) -> Result<usize, RequestError> {
        let mut done = 0;
        for strip in data.chunks(STRIP) {
            match self.volume.user.write_now(offset + done as u64, strip) {
                Some(result) => result?,
                None => break,
            }
            done += strip.len();
        }
        Ok(done)
    }

    /// Writes piece by piece, and waits for each. After a failed piece, the others are discarded.
    fn write_pieces(
        &mut self,
        header: ReplyHeader,
        range: ByteRange,
        durable: bool,
    ) -> Result<(), SessionEnd> {
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
        self.answer(header, Operation::Write, result);
        Ok(())
    }

    fn write_piece(
        &mut self,
        range: ByteRange,
        durable: bool,
    ) -> Result<Result<(), RequestError>, SessionEnd> {
        let data = &self.inbox.have()[..(range.end - range.start) as usize];
        let done = match if durable { Ok(0) } else { self.write_now(range.start, data) } {
            Ok(done) if done == data.len() => return Ok(Ok(())),
            Ok(done) => done,
            Err(error) => return Ok(Err(error)),
        };
        let (rest, data) = (range.start + done as u64..range.end, data[done..].to_vec());
        self.replies.flush()?;
        Ok(self.volume.submit_and_wait(Operation::Write, rest, durable, data)?.0)
    }
}
