//! The client side of the NBD protocol, in each reply style. Every unexpected message is an error.

#![allow(clippy::big_endian_bytes, reason = "numbers of the protocol are big-endian")]

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use clone_daemon::nbd_protocol::{
    self, chunk, command, export, flag, handshake, info, option, option_reply,
};

/// Maximum size of a reply in bytes: more than any request of these tests asks for.
const REPLY_MAX: u64 = 64 << 20;

/// The reply style that a client negotiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyFormat {
    Simple,
    Structured,
    Extended,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) command: u16,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A connection that has chosen an export.
pub(super) struct Wire {
    stream: BufReader<UnixStream>,
    style: ReplyFormat,
    pub(super) size_bytes: u64,
    /// Names of metadata contexts by id.
    contexts: Vec<(u32, String)>,
}

/// A reply, or the part of one that has its own header.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) cookie: u64,
    pub(super) is_last: bool,
    pub(super) what: What,
}

/// The content of a part.
#[derive(Debug)]
pub(super) enum What {
    /// Success. The data of a read with simple replies follow and have not been received yet.
    Done,
    Error(u32, String),
    Data(u64, Vec<u8>),
    Hole(u64, u64),
    /// A context and its extents: lengths and flags.
    Extents(String, Vec<(u64, u64)>),
}

/// Returns the error for an unexpected message.
pub(super) fn wrong(told: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, told)
}

impl Wire {
    /// Connects to the export called `name` of the server at a socket.
    pub(super) fn connect(socket: &Path, name: &str, style: ReplyFormat) -> io::Result<Self> {
        let stream = BufReader::with_capacity(256 << 10, UnixStream::connect(socket)?);
        let mut wire = Self { stream, style, size_bytes: 0, contexts: Vec::new() };
        wire.expect(nbd_protocol::MAGIC, "the first magic")?;
        wire.expect(nbd_protocol::OPTION_MAGIC, "the second magic")?;
        let flags = wire.u16()?;
        let both = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        if flags & both != both {
            return Err(wrong(format!("the server's flags are {flags:#x}")));
        }
        wire.send(&u32::from(both).to_be_bytes())?;
        match style {
            ReplyFormat::Simple => {}
            ReplyFormat::Structured => wire.option(option::STRUCTURED_REPLY, &[])?,
            ReplyFormat::Extended => wire.option(option::EXTENDED_HEADERS, &[])?,
        }
        let named = |name: &str| {
            let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
            [&len.to_be_bytes()[..], name.as_bytes()].concat()
        };
        if style != ReplyFormat::Simple {
            let contexts =
                [nbd_protocol::BASE_ALLOCATION, nbd_protocol::CLONE_HYDRATED].map(named).concat();
            let data = [named(name), 2_u32.to_be_bytes().to_vec(), contexts].concat();
            wire.option(option::SET_META_CONTEXT, &data)?;
        }
        wire.option(option::GO, &[named(name), vec![0, 0]].concat())?;
        Ok(wire)
    }

    fn option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let magic = nbd_protocol::OPTION_MAGIC.to_be_bytes();
        let asked = [&magic[..], &option.to_be_bytes(), &len.to_be_bytes(), data].concat();
        self.send(&asked)?;
        loop {
            self.expect(nbd_protocol::OPTION_REPLY_MAGIC, "the magic of a reply to an option")?;
            let (about, kind, len) = (self.u32()?, self.u32()?, self.u32()?);
            if about != option {
                return Err(wrong(format!("a reply to option {about} in place of {option}")));
            }
            let answer = self.bytes(len.into())?;
            let number = |bytes: &[u8]| {
                bytes.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
            };
            match kind {
                option_reply::ACK => return Ok(()),
                option_reply::META_CONTEXT if answer.len() > 4 => {
                    let name = String::from_utf8_lossy(&answer[4..]).into_owned();
                    self.contexts.push((number(&answer[..4]) as u32, name));
                }
                option_reply::INFO
                    if answer.starts_with(&info::EXPORT.to_be_bytes()) && answer.len() == 12 =>
                {
                    self.size_bytes = number(&answer[2..10]);
                    let flags = number(&answer[10..]) as u16;
                    let wanted = export::HAS_FLAGS | export::CAN_MULTI_CONN;
                    if flags & wanted != wanted {
                        return Err(wrong(format!("the export has the flags {flags:#x}")));
                    }
                }
                option_reply::INFO => {}
                error => {
                    let told = String::from_utf8_lossy(&answer).into_owned();
                    return Err(io::Error::other(format!("the server said {error:#x}: {told}")));
                }
            }
        }
    }

    /// Returns another handle of the connection, for sending.
    pub(super) fn sender(&self) -> io::Result<UnixStream> {
        self.stream.get_ref().try_clone()
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Appends a request to `to`.
    pub(super) fn put(
        style: ReplyFormat,
        cookie: u64,
        request: &Request,
        data: &[u8],
        to: &mut Vec<u8>,
    ) {
        let is_extended = style == ReplyFormat::Extended;
        let magic = if is_extended {
            nbd_protocol::EXTENDED_REQUEST_MAGIC
        } else {
            nbd_protocol::REQUEST_MAGIC
        };
        let has_payload = is_extended && request.command == command::WRITE;
        let payload = if has_payload { flag::PAYLOAD_LEN } else { 0 };
        to.extend(magic.to_be_bytes());
        to.extend((request.flags | payload).to_be_bytes());
        to.extend(request.command.to_be_bytes());
        to.extend(cookie.to_be_bytes());
        to.extend(request.offset.to_be_bytes());
        match is_extended {
            true => to.extend(request.length.to_be_bytes()),
            false => to.extend(u32::try_from(request.length).unwrap_or(u32::MAX).to_be_bytes()),
        }
        to.extend(data);
    }

    /// Receives the next part of a reply. Returns `None` if the server has hung up between two
    /// parts.
    pub(super) fn part(&mut self) -> io::Result<Option<Part>> {
        let mut magic = [0; 4];
        let mut have = 0;
        while have < magic.len() {
            match self.stream.read(&mut magic[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                some => have += some,
            }
        }
        match (u32::from_be_bytes(magic), self.style) {
            (nbd_protocol::SIMPLE_REPLY_MAGIC, ReplyFormat::Simple | ReplyFormat::Structured) => {
                let (error, cookie) = (self.u32()?, self.u64()?);
                let what = match error {
                    0 => What::Done,
                    error => What::Error(error, String::new()),
                };
                Ok(Some(Part { cookie, is_last: true, what }))
            }
            (nbd_protocol::STRUCTURED_REPLY_MAGIC, ReplyFormat::Structured)
            | (nbd_protocol::EXTENDED_REPLY_MAGIC, ReplyFormat::Extended) => self.chunk().map(Some),
            (magic, style) => {
                let mut next = [0; 12];
                let some = self.stream.read(&mut next).unwrap_or(0);
                let next = &next[..some];
                Err(wrong(format!("no {style:?} reply begins with {magic:#x}; then {next:x?}")))
            }
        }
    }

    fn chunk(&mut self) -> io::Result<Part> {
        let (flags, kind, cookie) = (self.u16()?, self.u16()?, self.u64()?);
        let is_extended = self.style == ReplyFormat::Extended;
        if is_extended {
            // The offset of the request.
            self.u64()?;
        }
        let len = if is_extended { self.u64()? } else { self.u32()?.into() };
        let payload = |least: u64| match len.checked_sub(least) {
            Some(rest) => Ok(rest),
            None => Err(wrong(format!("a chunk of kind {kind} with {len} bytes"))),
        };
        let what = match kind {
            chunk::NONE if payload(0)? == 0 => What::Done,
            chunk::OFFSET_DATA => What::Data(self.u64()?, self.bytes(payload(8)?)?),
            chunk::OFFSET_HOLE if payload(12)? == 0 => What::Hole(self.u64()?, self.u32()?.into()),
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => self.extents(kind, len)?,
            chunk::ERROR | chunk::ERROR_OFFSET => {
                let error = self.u32()?;
                self.u16()?;
                let text = self.bytes(payload(6)?)?;
                What::Error(error, String::from_utf8_lossy(&text).into_owned())
            }
            _ => return Err(wrong(format!("a chunk of kind {kind} with {len} bytes"))),
        };
        Ok(Part { cookie, is_last: flags & chunk::DONE != 0, what })
    }

    fn extents(&mut self, kind: u16, len: u64) -> io::Result<What> {
        let is_long = kind == chunk::BLOCK_STATUS_EXT;
        let id = self.u32()?;
        let name = self.contexts.iter().find(|(known, _)| *known == id);
        let name = name.ok_or_else(|| wrong(format!("a context {id} that nobody chose")))?;
        let (name, each) = (name.1.clone(), if is_long { 16 } else { 8 });
        let rest = len.checked_sub(if is_long { 8 } else { 4 });
        if is_long {
            self.u32()?;
        }
        let bytes = self.bytes(rest.ok_or_else(|| wrong("a short chunk of extents".into()))?)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n: u64, byte| n << 8 | u64::from(*byte));
        let pairs = bytes.chunks_exact(each);
        let pairs = pairs.map(|pair| (number(&pair[..each / 2]), number(&pair[each / 2..])));
        Ok(What::Extents(name, pairs.collect()))
    }

    /// Receives `len` bytes, such as the data of a simple reply.
    pub(super) fn bytes(&mut self, len: u64) -> io::Result<Vec<u8>> {
        if len > REPLY_MAX {
            return Err(wrong(format!("{len} bytes to come")));
        }
        let mut bytes = vec![0; len as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn expect(&mut self, number: u64, what: &str) -> io::Result<()> {
        let found = self.u64()?;
        let is_right = found == number;
        if is_right { Ok(()) } else { Err(wrong(format!("{found:#x} in place of {what}"))) }
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
