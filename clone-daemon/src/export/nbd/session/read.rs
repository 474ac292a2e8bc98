//! Reads: on the fast path from the destination, submitted as a whole, or in pieces.

use std::io;

use clone_core::engine::{ByteRange, Operation};

use crate::export::nbd::buffers::PIECE;
use crate::export::nbd::reply::{Data, Message, ReplyFormat, ReplyHeader};
use crate::export::nbd::session::{Session, SessionEnd, failure};

/// Shorter reads, in bytes, are not checked for holes: that would take as long as the read.
const LONG: u64 = 64 << 10;

impl Session {
    pub(super) fn read(
        &mut self,
        header: ReplyHeader,
        range: ByteRange,
        whole: bool,
    ) -> Result<(), SessionEnd> {
        if range.is_empty() {
            self.replies.put(&header.done(true));
            return Ok(());
        }
        let (hole, range) = match self.format {
            ReplyFormat::Structured | ReplyFormat::Extended if !whole => {
                self.find_hole(header, range)?
            }
            _ => (None, range),
        };
        let len = range.end - range.start;
        if len == 0 {
            hole.iter().for_each(|hole| self.replies.put(hole));
            return Ok(());
        }
        let is_long = len > PIECE as u64;
        if !is_long && self.read_now(header, &range, hole.as_ref()) {
            return Ok(());
        }
        // A short read that the fast path did not do is submitted, wherever its data are.
        let lease = if is_long && self.volume.is_there(&range) { None } else { self.lease(len)? };
        let Some(lease) = lease else {
            hole.iter().for_each(|hole| self.replies.put(hole));
            return match whole || self.format == ReplyFormat::Simple {
                true => self.read_in_one(header, range),
                false => self.read_in_chunks(header, range),
            };
        };
        let slot = self.replies.outbox().slot(lease);
        let offset = range.start;
        let buffer = vec![0; len as usize];
        self.volume.user.submit(Operation::Read, range, false, buffer, move |result, data| {
            match result {
                Ok(()) => slot.answer(hole, header.data(offset, data, true)),
                Err(error) => slot.answer(None, failure(header, Operation::Read, error)),
            }
        });
        Ok(())
    }

    /// Looks for a hole at the start of a long `range`. Returns the hole as a chunk, and the rest
    /// of the range.
    fn find_hole(
        &mut self,
        header: ReplyHeader,
        range: ByteRange,
    ) -> Result<(Option<Message>, ByteRange), io::Error> {
        let is_data = self.data.start <= range.start && range.end <= self.data.end;
        if range.end - range.start < LONG || is_data {
            return Ok((None, range));
        }
        self.before_source(&range)?;
        let Ok(Some(extent)) = self.volume.user.extent(&range) else { return Ok((None, range)) };
        if !extent.zeroes {
            self.data = range.start..extent.end;
            return Ok((None, range));
        }
        let end = extent.end.min(range.end);
        // The length of a read fits into 32 bits.
        let len = (end - range.start) as u32;
        Ok((Some(header.hole(range.start, len, end == range.end)), end..range.end))
    }

    /// Reads `range` on the fast path, and adds the reply after the chunk `front`; false if that is
    /// not possible.
    fn read_now(
        &mut self,
        header: ReplyHeader,
        range: &ByteRange,
        front: Option<&Message>,
    ) -> bool {
        let len = (range.end - range.start) as usize;
        let data = Data { offset: range.start, len, last: true };
        let user = &self.volume.user;
        let read = |into: &mut [u8]| user.read_now(range.start, into);
        let result = self.replies.data(header, &data, front, read);
        if let Some(Err(error)) = result {
            self.replies.put(&failure(header, Operation::Read, error));
        }
        result.is_some()
    }

    /// Reads piece by piece, waits for each, and sends each as a chunk.
    fn read_in_chunks(&mut self, header: ReplyHeader, range: ByteRange) -> Result<(), SessionEnd> {
        for piece in pieces(&range) {
            let (offset, len) = (piece.start, (piece.end - piece.start) as usize);
            let data = Data { offset, len, last: piece.end == range.end };
            let user = &self.volume.user;
            let read = |into: &mut [u8]| user.read_now(offset, into);
            let result = match self.replies.data(header, &data, None, read) {
                Some(result) => result,
                None => {
                    self.replies.flush()?;
                    let buffer = vec![0; len];
                    let (result, read) =
                        self.volume.submit_and_wait(Operation::Read, piece, false, buffer)?;
                    let message = || header.data(offset, read, data.last);
                    result.map(|()| self.replies.put(&message()))
                }
            };
            if let Err(error) = result {
                self.replies.put(&failure(header, Operation::Read, error));
                return Ok(());
            }
            self.replies.flush_many()?;
        }
        Ok(())
    }

    /// Reads piece by piece, waits for each, and sends all of them in one message.
    fn read_in_one(&mut self, header: ReplyHeader, range: ByteRange) -> Result<(), SessionEnd> {
        let len = (range.end - range.start) as usize;
        let (volume, mut reply) = (&self.volume, self.replies.long(header, len));
        for piece in pieces(&range) {
            let (offset, len) = (piece.start, (piece.end - piece.start) as usize);
            let result = match reply.data(len, |into| volume.user.read_now(offset, into)) {
                Some(result) => result,
                None => {
                    reply.flush()?;
                    let (result, read) =
                        volume.submit_and_wait(Operation::Read, piece, false, vec![0; len])?;
                    result.map(|()| reply.put(&read))
                }
            };
            if let Err(error) = result {
                return Ok(reply.fail(&failure(header, Operation::Read, error))?);
            }
            reply.flush()?;
        }
        Ok(reply.finish()?)
    }
}

/// Splits a range into pieces that are read one after another.
fn pieces(range: &ByteRange) -> impl Iterator<Item = ByteRange> {
    let end = range.end;
    (range.start..end).step_by(PIECE).map(move |at| at..end.min(at.saturating_add(PIECE as u64)))
}
