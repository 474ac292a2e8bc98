//! Encoding of replies, and their way to the client.
//!
//! *Invariant:* headers of replies exist only in this module, and each is tied to its payload. A
//! `Message` is a header with its whole payload. For data that are read directly into the send
//! buffer, `Replies::data` adds the header and the data, or nothing. Data that are too long for
//! a buffer are sent by a `LongReply`. It owns the only `Writer` of the connection from its first
//! to its last byte; if it is dropped before its end, the connection ends. So nothing can come
//! between a header and its payload, whatever other threads do.

use byteorder::{BigEndian, ByteOrder};

pub(super) use self::outbox::{CUT_POLL_INTERVAL, Outbox};
pub(super) use self::outgoing::{CutReply, Data, Replies};
use crate::nbd_protocol::{
    EXTENDED_REPLY_MAGIC, OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
};

mod outbox;
mod outgoing;

/// The format of replies that was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyFormat {
    /// Simple replies only.
    Simple,
    /// Simple replies and chunks.
    Structured,
    /// Chunks with extended headers only.
    Extended,
}

/// The part of a request that its reply needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The format of the reply.
    pub format: ReplyFormat,
    /// The client's cookie for the request.
    pub cookie: u64,
    /// Offset of the request in bytes, which extended replies repeat.
    pub offset: u64,
}

/// A byte string that is built from big-endian numbers.
#[derive(Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Bytes {
    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        let mut bytes = [0; 2];
        BigEndian::write_u16(&mut bytes, value);
        self.raw(&bytes)
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        let mut bytes = [0; 4];
        BigEndian::write_u32(&mut bytes, value);
        self.raw(&bytes)
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        let mut bytes = [0; 8];
        BigEndian::write_u64(&mut bytes, value);
        self.raw(&bytes)
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Maximum length of a header in bytes, including the offset before the data of a read.
const HEAD_MAX: usize = 40;

/// A header, including the offset before the data of a read. It is useless without its payload, so
/// nothing outside this module can obtain one.
#[derive(Clone, Copy, Debug)]
struct Head {
    bytes: [u8; HEAD_MAX],
    len: usize,
}

impl Head {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A whole simple reply, or a whole chunk: a header with the payload that it announces.
#[derive(Debug)]
pub(super) struct Message {
    head: Head,
    payload: Vec<u8>,
}

impl Message {
    fn parts(&self) -> [&[u8]; 2] {
        [self.head.as_slice(), &self.payload]
    }
}

impl ReplyHeader {
    fn chunk_head(&self, flags: u16, kind: u16, payload: usize) -> Head {
        let mut bytes = [0; HEAD_MAX];
        BigEndian::write_u16(&mut bytes[4..6], flags);
        BigEndian::write_u16(&mut bytes[6..8], kind);
        BigEndian::write_u64(&mut bytes[8..16], self.cookie);
        let (magic, len) = if self.format == ReplyFormat::Extended {
            BigEndian::write_u64(&mut bytes[16..24], self.offset);
            BigEndian::write_u64(&mut bytes[24..32], payload as u64);
            (EXTENDED_REPLY_MAGIC, 32)
        } else {
            // No payload approaches 4 GiB: a read has at most 32 MiB.
            let payload = u32::try_from(payload).unwrap_or(u32::MAX);
            BigEndian::write_u32(&mut bytes[16..20], payload);
            (STRUCTURED_REPLY_MAGIC, 20)
        };
        BigEndian::write_u32(&mut bytes[..4], magic);
        Head { bytes, len }
    }

    fn simple_head(&self, error: u32) -> Head {
        let mut bytes = [0; HEAD_MAX];
        BigEndian::write_u32(&mut bytes[..4], SIMPLE_REPLY_MAGIC);
        BigEndian::write_u32(&mut bytes[4..8], error);
        BigEndian::write_u64(&mut bytes[8..16], self.cookie);
        Head { bytes, len: 16 }
    }

    /// Returns the header for `len` bytes of data at `offset`; `last` if they complete the reply.
    /// A simple reply has all data of its request, so it always completes it.
    fn data_head(&self, offset: u64, len: usize, last: bool) -> Head {
        if self.format == ReplyFormat::Simple {
            return self.simple_head(0);
        }
        let mut head = self.chunk_head(done(last), chunk::OFFSET_DATA, len.saturating_add(8));
        BigEndian::write_u64(&mut head.bytes[head.len..head.len + 8], offset);
        head.len += 8;
        head
    }

    fn chunk(&self, flags: u16, kind: u16, payload: Vec<u8>) -> Message {
        Message { head: self.chunk_head(flags, kind, payload.len()), payload }
    }

    fn simple(&self, error: u32) -> Message {
        Message { head: self.simple_head(error), payload: Vec::new() }
    }

    /// Returns the message for success without further data. `is_read` is true for a read, which is
    /// answered by chunks if they were negotiated ("Structured reply chunk message").
    pub(super) fn done(&self, is_read: bool) -> Message {
        match self.format {
            ReplyFormat::Simple => self.simple(0),
            ReplyFormat::Structured if !is_read => self.simple(0),
            ReplyFormat::Structured | ReplyFormat::Extended => {
                self.chunk(chunk::DONE, chunk::NONE, Vec::new())
            }
        }
    }

    /// Returns a message with the data at `offset`; `last` if they complete the reply.
    pub(super) fn data(&self, offset: u64, data: Vec<u8>, last: bool) -> Message {
        Message { head: self.data_head(offset, data.len(), last), payload: data }
    }

    /// Returns a chunk for a hole of `len` bytes at `offset`. Simple replies have no holes.
    pub(super) fn hole(&self, offset: u64, len: u32, last: bool) -> Message {
        let mut bytes = Bytes::default();
        bytes.u64(offset).u32(len);
        self.chunk(done(last), chunk::OFFSET_HOLE, bytes.0)
    }

    /// Returns the message for a failed request; `reason` is a text for people.
    pub(super) fn error(&self, error: u32, reason: &str) -> Message {
        if self.format == ReplyFormat::Simple {
            return self.simple(error);
        }
        let len = u16::try_from(reason.len()).unwrap_or(0);
        let mut bytes = Bytes::default();
        bytes.u32(error).u16(len).raw(&reason.as_bytes()[..len.into()]);
        self.chunk(chunk::DONE, chunk::ERROR, bytes.0)
    }

    /// Returns a chunk with the extents of a context: their lengths in bytes and their flags.
    pub(super) fn status(&self, context: u32, extents: &[(u64, u32)], last: bool) -> Message {
        let mut bytes = Bytes::default();
        bytes.u32(context);
        if self.format == ReplyFormat::Extended {
            bytes.u32(u32::try_from(extents.len()).unwrap_or(u32::MAX));
            for &(len, state) in extents {
                bytes.u64(len).u64(state.into());
            }
            return self.chunk(done(last), chunk::BLOCK_STATUS_EXT, bytes.0);
        }
        for &(len, state) in extents {
            bytes.u32(u32::try_from(len).unwrap_or(u32::MAX)).u32(state);
        }
        self.chunk(done(last), chunk::BLOCK_STATUS, bytes.0)
    }
}

/// Returns the flags of a chunk.
fn done(last: bool) -> u16 {
    if last { chunk::DONE } else { 0 }
}

/// Appends a reply to an option.
pub(super) fn option(out: &mut Bytes, option: u32, kind: u32, data: &[u8]) {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    out.u64(OPTION_REPLY_MAGIC).u32(option).u32(kind).u32(len).raw(data);
}
