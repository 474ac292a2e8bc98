//! Replies: how they are written as bytes, and how they get to the client.
//!
//! *Invariant:* the headers of replies exist only in here, and each is tied to its payload. A
//! `Message` is a header with all of its payload. Where data are read straight into the buffer
//! that is sent, `Replies::data` adds header and data, or nothing. What is too long for a buffer
//! is a `LongReply`, which has the only `Writer` of the connection
//! from its first byte to its last; if it is given up before that, the connection ends. So nothing
//! can come between a header and its payload, whatever other threads do meanwhile.

use byteorder::{BigEndian, ByteOrder};

pub(super) use self::outbox::{GLANCE, Outbox};
pub(super) use self::outgoing::{Data, Replies, Torn};
use crate::nbd_protocol::{
    EXTENDED_REPLY_MAGIC, OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
};

mod outbox;
mod outgoing;

/// Which replies a client understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Simple ones.
    Simple,
    /// Chunks too.
    Structured,
    /// Only chunks, with extended headers.
    Extended,
}

/// The request that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// How it is answered.
    pub style: Style,
    /// What the client calls it.
    pub cookie: u64,
    /// Its offset, which extended replies repeat.
    pub offset: u64,
}

/// Numbers are put behind each other, as the protocol wants them.
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

/// The most bytes of a header, with the offset that comes before the data of a read.
const HEAD_MAX: usize = 40;

/// A header, and what a chunk of data says before the data. It is of no use without its payload:
/// nothing outside of this module can have one.
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

/// A whole simple reply, or a whole chunk of a reply: a header, and as much payload as it says.
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

impl Ticket {
    fn chunk_head(&self, flags: u16, kind: u16, payload: usize) -> Head {
        let mut bytes = [0; HEAD_MAX];
        BigEndian::write_u16(&mut bytes[4..6], flags);
        BigEndian::write_u16(&mut bytes[6..8], kind);
        BigEndian::write_u64(&mut bytes[8..16], self.cookie);
        let (magic, len) = if self.style == Style::Extended {
            BigEndian::write_u64(&mut bytes[16..24], self.offset);
            BigEndian::write_u64(&mut bytes[24..32], payload as u64);
            (EXTENDED_REPLY_MAGIC, 32)
        } else {
            // No payload comes near to 4 GiB: a read has 32 MiB at most.
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

    /// What comes before `len` bytes of data from `offset` on. After the `last` of them the request
    /// is answered. A simple reply has all data of its request, so it is the last one.
    fn data_head(&self, offset: u64, len: usize, last: bool) -> Head {
        if self.style == Style::Simple {
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

    /// The request is done, and there are no data, or all have been sent in chunks; `is_read` if it
    /// was a read, which is answered by chunks if anything is ("Structured reply chunk message").
    pub(super) fn done(&self, is_read: bool) -> Message {
        match self.style {
            Style::Simple => self.simple(0),
            Style::Structured if !is_read => self.simple(0),
            Style::Structured | Style::Extended => self.chunk(chunk::DONE, chunk::NONE, Vec::new()),
        }
    }

    /// Data from `offset` on. After the `last` ones the request is answered.
    pub(super) fn data(&self, offset: u64, data: Vec<u8>, last: bool) -> Message {
        Message { head: self.data_head(offset, data.len(), last), payload: data }
    }

    /// A hole of `len` bytes at `offset`; no simple reply can tell of it.
    pub(super) fn hole(&self, offset: u64, len: u32, last: bool) -> Message {
        let mut bytes = Bytes::default();
        bytes.u64(offset).u32(len);
        self.chunk(done(last), chunk::OFFSET_HOLE, bytes.0)
    }

    /// The request failed, for a reason that people may read.
    pub(super) fn error(&self, error: u32, reason: &str) -> Message {
        if self.style == Style::Simple {
            return self.simple(error);
        }
        let len = u16::try_from(reason.len()).unwrap_or(0);
        let mut bytes = Bytes::default();
        bytes.u32(error).u16(len).raw(&reason.as_bytes()[..len.into()]);
        self.chunk(chunk::DONE, chunk::ERROR, bytes.0)
    }

    /// The extents of a context: their lengths and flags.
    pub(super) fn status(&self, context: u32, extents: &[(u64, u32)], last: bool) -> Message {
        let mut bytes = Bytes::default();
        bytes.u32(context);
        if self.style == Style::Extended {
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

/// The flags of a chunk.
fn done(last: bool) -> u16 {
    if last { chunk::DONE } else { 0 }
}

/// A reply to an option.
pub(super) fn option(out: &mut Bytes, option: u32, kind: u32, data: &[u8]) {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    out.u64(OPTION_REPLY_MAGIC).u32(option).u32(kind).u32(len).raw(data);
}
