//! Replies, as bytes.

use byteorder::{BigEndian, ByteOrder};

use crate::nbd::wire::{
    EXTENDED_REPLY_MAGIC, OPTION_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk,
};

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

/// The most bytes of a header of a reply, with the fields that come before the data of a read.
pub(super) const HEAD_MAX: usize = 40;

/// A header of a reply, and what it says before the data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    bytes: [u8; HEAD_MAX],
    len: usize,
}

impl Head {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Ticket {
    /// The header of a chunk with so many bytes of payload.
    fn chunk(&self, flags: u16, kind: u16, payload: u32) -> Head {
        let mut bytes = [0; HEAD_MAX];
        BigEndian::write_u16(&mut bytes[4..6], flags);
        BigEndian::write_u16(&mut bytes[6..8], kind);
        BigEndian::write_u64(&mut bytes[8..16], self.cookie);
        let (magic, len) = if self.style == Style::Extended {
            BigEndian::write_u64(&mut bytes[16..24], self.offset);
            BigEndian::write_u64(&mut bytes[24..32], payload.into());
            (EXTENDED_REPLY_MAGIC, 32)
        } else {
            BigEndian::write_u32(&mut bytes[16..20], payload);
            (STRUCTURED_REPLY_MAGIC, 20)
        };
        BigEndian::write_u32(&mut bytes[..4], magic);
        Head { bytes, len }
    }

    fn simple(&self, error: u32) -> Head {
        let mut bytes = [0; HEAD_MAX];
        BigEndian::write_u32(&mut bytes[..4], SIMPLE_REPLY_MAGIC);
        BigEndian::write_u32(&mut bytes[4..8], error);
        BigEndian::write_u64(&mut bytes[8..16], self.cookie);
        Head { bytes, len: 16 }
    }

    /// It is done, and there are no data, or all have been sent in chunks; `is_read` if it was a
    /// read, which is answered by chunks if anything is ("Structured reply chunk message").
    pub(super) fn done(&self, is_read: bool) -> Head {
        match self.style {
            Style::Simple => self.simple(0),
            Style::Structured if !is_read => self.simple(0),
            Style::Structured | Style::Extended => self.chunk(chunk::DONE, chunk::NONE, 0),
        }
    }

    /// What comes before `len` bytes of data from `offset` on. After the last of them the request
    /// is answered. A simple reply has all data of its request.
    pub(super) fn data(&self, offset: u64, len: u32, last: bool) -> Head {
        if self.style == Style::Simple {
            return self.simple(0);
        }
        let flags = if last { chunk::DONE } else { 0 };
        let mut head = self.chunk(flags, chunk::OFFSET_DATA, len.saturating_add(8));
        BigEndian::write_u64(&mut head.bytes[head.len..head.len + 8], offset);
        head.len += 8;
        head
    }

    /// A hole of `len` bytes at `offset`; no simple reply can tell of it.
    pub(super) fn hole(&self, out: &mut Bytes, offset: u64, len: u32, last: bool) {
        let flags = if last { chunk::DONE } else { 0 };
        out.raw(self.chunk(flags, chunk::OFFSET_HOLE, 12).as_slice()).u64(offset).u32(len);
    }

    /// It failed, for a reason that people may read.
    pub(super) fn error(&self, out: &mut Bytes, error: u32, reason: &str) {
        if self.style == Style::Simple {
            out.raw(self.simple(error).as_slice());
            return;
        }
        let len = u16::try_from(reason.len()).unwrap_or(0);
        let reason = &reason.as_bytes()[..len.into()];
        let head = self.chunk(chunk::DONE, chunk::ERROR, u32::from(len) + 6);
        out.raw(head.as_slice()).u32(error).u16(len).raw(reason);
    }

    /// The extents of a context: their lengths and flags.
    pub(super) fn status(&self, out: &mut Bytes, context: u32, extents: &[(u64, u32)], last: bool) {
        let flags = if last { chunk::DONE } else { 0 };
        let count = u32::try_from(extents.len()).unwrap_or(u32::MAX);
        if self.style == Style::Extended {
            let payload = count.saturating_mul(16).saturating_add(8);
            out.raw(self.chunk(flags, chunk::BLOCK_STATUS_EXT, payload).as_slice());
            out.u32(context).u32(count);
            for &(len, state) in extents {
                out.u64(len).u64(state.into());
            }
        } else {
            let payload = count.saturating_mul(8).saturating_add(4);
            out.raw(self.chunk(flags, chunk::BLOCK_STATUS, payload).as_slice()).u32(context);
            for &(len, state) in extents {
                out.u32(u32::try_from(len).unwrap_or(u32::MAX)).u32(state);
            }
        }
    }
}

/// A reply to an option.
pub(super) fn option(out: &mut Bytes, option: u32, kind: u32, data: &[u8]) {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    out.u64(OPTION_REPLY_MAGIC).u32(option).u32(kind).u32(len).raw(data);
}
