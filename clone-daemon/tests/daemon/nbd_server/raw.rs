//! A client that sends whatever bytes a test needs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::support::LONG;
use byteorder::{BigEndian, ByteOrder, WriteBytesExt};
use clone_daemon::nbd_protocol::{
    EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, option, option_reply,
};

/// A connection as bytes. Every operation has a time limit.
pub(crate) struct Raw<S = UnixStream> {
    pub(crate) stream: S,
    extended: bool,
}

pub(crate) fn be32(number: u32) -> [u8; 4] {
    let mut bytes = [0; 4];
    BigEndian::write_u32(&mut bytes, number);
    bytes
}

pub(crate) fn be64(number: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    BigEndian::write_u64(&mut bytes, number);
    bytes
}

/// A chunk of a reply. For a simple reply `kind` is 0, and `data` are not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) flags: u16,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    /// The error of a simple reply.
    pub(crate) error: u32,
    /// The offset of an extended reply.
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
}

impl Chunk {
    /// Returns the error of the reply, if it has one.
    pub(crate) fn error(&self) -> Option<u32> {
        match self.kind {
            chunk::ERROR => Some(BigEndian::read_u32(&self.data)),
            _ => (self.error != 0).then_some(self.error),
        }
    }
}

impl Raw {
    /// Reads the greeting of the server, and sends nothing.
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        let mut raw = Self::over(stream);
        raw.read_greeting();
        raw
    }

    /// Exchanges greetings.
    pub(crate) fn greeted(stream: UnixStream) -> Self {
        let mut raw = Self::new(stream);
        raw.send(&[0, 0, 0, 3]);
        raw
    }

    /// Sends `options` without data, and selects the volume `disk`.
    pub(crate) fn chosen(stream: UnixStream, options: &[u32]) -> Self {
        let mut raw = Self::greeted(stream);
        for &option in options {
            assert_eq!(raw.option(option, &[]), [(option_reply::ACK, vec![])]);
            raw.extended |= option == option::EXTENDED_HEADERS;
        }
        raw.go();
        raw
    }

    /// Returns an encoded option.
    pub(crate) fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.write_u64::<BigEndian>(OPTION_MAGIC).unwrap();
        bytes.write_u32::<BigEndian>(option).unwrap();
        bytes.write_u32::<BigEndian>(data.len() as u32).unwrap();
        [bytes, data.to_vec()].concat()
    }

    /// Returns an encoded request; `what` is its flags and command.
    pub(crate) fn request_bytes(
        extended: bool,
        what: (u16, u16),
        cookie: u64,
        offset: u64,
        length: u64,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        bytes.write_u32::<BigEndian>(magic).unwrap();
        bytes.write_u16::<BigEndian>(what.0).unwrap();
        bytes.write_u16::<BigEndian>(what.1).unwrap();
        bytes.write_u64::<BigEndian>(cookie).unwrap();
        bytes.write_u64::<BigEndian>(offset).unwrap();
        match extended {
            true => bytes.write_u64::<BigEndian>(length).unwrap(),
            false => bytes.write_u32::<BigEndian>(length as u32).unwrap(),
        }
        bytes
    }
}

impl<S: Read + Write> Raw<S> {
    /// Continues over `stream`, without extended headers.
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, extended: false }
    }

    pub(crate) fn read_greeting(&mut self) {
        let greeting = self.receive(18);
        assert_eq!(BigEndian::read_u64(&greeting), MAGIC);
        assert_eq!(BigEndian::read_u64(&greeting[8..]), OPTION_MAGIC);
        assert_eq!(greeting[16..], [0, 3]);
    }

    pub(crate) fn go(&mut self) {
        assert_eq!(self.try_go("disk"), Ok(()));
    }

    /// Selects a volume; fails with the error and the message of the server.
    pub(crate) fn try_go(&mut self, name: &str) -> Result<(), (u32, String)> {
        let name = [&be32(name.len() as u32)[..], name.as_bytes(), &[0, 0]].concat();
        match self.option(option::GO, &name).pop() {
            Some((option_reply::ACK, _)) => Ok(()),
            Some((kind, why)) => Err((kind, String::from_utf8(why).unwrap())),
            None => panic!("there is no reply"),
        }
    }

    /// Expects extended headers from now on.
    pub(crate) fn speak_extended(&mut self) {
        self.extended = true;
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends an option, and returns all replies to it: their kinds and data.
    pub(crate) fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send(&Raw::option_bytes(option, data));
        self.option_replies(option)
    }

    pub(crate) fn option_replies(&mut self, option: u32) -> Vec<(u32, Vec<u8>)> {
        let mut replies = Vec::new();
        loop {
            let header = self.receive(20);
            assert_eq!(BigEndian::read_u64(&header), OPTION_REPLY_MAGIC);
            assert_eq!(BigEndian::read_u32(&header[8..]), option);
            let kind = BigEndian::read_u32(&header[12..]);
            let data = self.receive(BigEndian::read_u32(&header[16..]) as usize);
            replies.push((kind, data));
            if kind == option_reply::ACK || kind & option_reply::ERROR != 0 {
                return replies;
            }
        }
    }

    pub(crate) fn request(&mut self, what: (u16, u16), cookie: u64, offset: u64, length: u64) {
        self.send(&Raw::request_bytes(self.extended, what, cookie, offset, length));
    }

    /// Receives the next reply, or chunk of one.
    pub(crate) fn reply(&mut self) -> Chunk {
        let magic = BigEndian::read_u32(&self.receive(4));
        let mut chunk =
            Chunk { flags: chunk::DONE, kind: 0, cookie: 0, error: 0, offset: 0, data: vec![] };
        if magic == SIMPLE_REPLY_MAGIC {
            assert!(!self.extended);
            let rest = self.receive(12);
            chunk.error = BigEndian::read_u32(&rest);
            chunk.cookie = BigEndian::read_u64(&rest[4..]);
            return chunk;
        }
        let wanted = if self.extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        assert_eq!(magic, wanted);
        let rest = self.receive(if self.extended { 28 } else { 16 });
        chunk.flags = BigEndian::read_u16(&rest);
        chunk.kind = BigEndian::read_u16(&rest[2..]);
        chunk.cookie = BigEndian::read_u64(&rest[4..]);
        let len = if self.extended {
            chunk.offset = BigEndian::read_u64(&rest[12..]);
            BigEndian::read_u64(&rest[20..])
        } else {
            BigEndian::read_u32(&rest[12..]).into()
        };
        assert!(len <= (32 << 20) + 8, "{len}");
        chunk.data = self.receive(len as usize);
        chunk
    }

    pub(crate) fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Waits until the server closes the connection, and returns its output before that.
    pub(crate) fn hung_up(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => rest,
            Err(error) => panic!("it does not hang up: {error}"),
        }
    }

    /// Asserts that the server still answers.
    pub(crate) fn is_served(&mut self) {
        self.request((0, 3), 77, 0, 0);
        let reply = self.reply();
        assert_eq!((reply.cookie, reply.error()), (77, None));
    }
}
