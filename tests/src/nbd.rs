//! An NBD client that sends one request at a time and takes simple replies only: enough to test a
//! served clone, and simple enough to be trusted.

#![allow(clippy::big_endian_bytes, reason = "numbers of the protocol are big-endian")]

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;

use clone_daemon::nbd_protocol::{
    self, command, errno, export, flag, handshake, info, option, option_reply,
};

/// A connection to an export.
#[derive(Debug)]
pub struct NbdClient {
    stream: UnixStream,
    size_bytes: u64,
    flags: u16,
    cookie: u64,
}

/// Maximum length of an option reply that this client accepts, in bytes.
const ANSWER_MAX: u32 = 64 << 10;

fn wrong(told: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, told)
}

impl NbdClient {
    /// Connects to the export `name` of the server at a socket.
    ///
    /// # Errors
    /// If there is no server or no such export, or if the server breaks the protocol.
    pub fn connect(socket: &Path, name: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let mut client = Self { stream, size_bytes: 0, flags: 0, cookie: 0 };
        client.expect(&nbd_protocol::MAGIC.to_be_bytes(), "the first magic")?;
        client.expect(&nbd_protocol::OPTION_MAGIC.to_be_bytes(), "the second magic")?;
        let flags = client.u16()?;
        let both = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        if flags & both != both {
            return Err(wrong(format!("the server's flags are {flags:#x}")));
        }
        client.stream.write_all(&u32::from(both).to_be_bytes())?;
        client.go(name)?;
        Ok(client)
    }

    fn go(&mut self, name: &str) -> io::Result<()> {
        let mut data = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend([0, 0]);
        let mut asked = nbd_protocol::OPTION_MAGIC.to_be_bytes().to_vec();
        asked.extend(option::GO.to_be_bytes());
        asked.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        asked.extend(data);
        self.stream.write_all(&asked)?;
        loop {
            self.expect(&nbd_protocol::OPTION_REPLY_MAGIC.to_be_bytes(), "the magic of a reply")?;
            self.expect(&option::GO.to_be_bytes(), "the option that is answered")?;
            let (kind, len) = (self.u32()?, self.u32()?);
            if len > ANSWER_MAX {
                return Err(wrong(format!("an answer of {len} bytes")));
            }
            let mut answer = vec![0; len as usize];
            self.stream.read_exact(&mut answer)?;
            match kind {
                option_reply::ACK => return Ok(()),
                option_reply::INFO if answer.starts_with(&info::EXPORT.to_be_bytes()) => {
                    let (size, flags) = (answer.get(2..10), answer.get(10..12));
                    let number = |bytes: Option<&[u8]>| {
                        let bytes = bytes.unwrap_or_default();
                        bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
                    };
                    self.size_bytes = number(size);
                    self.flags = number(flags) as u16;
                }
                option_reply::INFO => {}
                error => {
                    let told = String::from_utf8_lossy(&answer).into_owned();
                    return Err(io::Error::other(format!("the server said {error:#x}: {told}")));
                }
            }
        }
    }

    /// Returns the size of the export in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Returns whether the export has a flag, which is one of [`export`].
    pub fn has(&self, flag: u16) -> bool {
        self.flags & (flag | export::HAS_FLAGS) == flag | export::HAS_FLAGS
    }

    /// Reads from byte `offset` on.
    ///
    /// # Errors
    /// The server's error by its number, `NotConnected` if the server shuts down, `InvalidData` for
    /// a wrong reply, or an error of the connection.
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.ask(command::READ, 0, offset..offset + into.len() as u64, &[])?;
        self.answer()?;
        self.stream.read_exact(into)
    }

    /// Writes `data` at byte `offset`, with FUA if `durable` is set.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write(&mut self, offset: u64, data: &[u8], durable: bool) -> io::Result<()> {
        let flags = if durable { flag::FUA } else { 0 };
        self.ask(command::WRITE, flags, offset..offset + data.len() as u64, data)?;
        self.answer()
    }

    /// Writes zeroes to `range`, in bytes; `no_hole` forbids the server to deallocate it.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn write_zeroes(&mut self, range: Range<u64>, no_hole: bool) -> io::Result<()> {
        let flags = if no_hole { flag::NO_HOLE } else { 0 };
        self.ask(command::WRITE_ZEROES, flags, range, &[])?;
        self.answer()
    }

    /// Trims `range`, in bytes.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn trim(&mut self, range: Range<u64>) -> io::Result<()> {
        self.ask(command::TRIM, 0, range, &[])?;
        self.answer()
    }

    /// Makes all answered requests durable.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn flush(&mut self) -> io::Result<()> {
        self.ask(command::FLUSH, 0, 0..0, &[])?;
        self.answer()
    }

    fn ask(&mut self, what: u16, flags: u16, range: Range<u64>, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(range.end - range.start);
        let len = len.map_err(|_| wrong("more than a request can ask for".into()))?;
        self.cookie += 1;
        let mut asked = Vec::with_capacity(nbd_protocol::REQUEST_BYTES + data.len());
        asked.extend(nbd_protocol::REQUEST_MAGIC.to_be_bytes());
        asked.extend(flags.to_be_bytes());
        asked.extend(what.to_be_bytes());
        asked.extend(self.cookie.to_be_bytes());
        asked.extend(range.start.to_be_bytes());
        asked.extend(len.to_be_bytes());
        asked.extend(data);
        self.stream.write_all(&asked)
    }

    fn answer(&mut self) -> io::Result<()> {
        self.expect(&nbd_protocol::SIMPLE_REPLY_MAGIC.to_be_bytes(), "the magic of a reply")?;
        let error = self.u32()?;
        self.expect(&self.cookie.to_be_bytes(), "the cookie of a reply")?;
        match error {
            0 => Ok(()),
            errno::ESHUTDOWN => Err(io::ErrorKind::NotConnected.into()),
            error => Err(io::Error::from_raw_os_error(error.cast_signed())),
        }
    }

    fn expect(&mut self, bytes: &[u8], what: &str) -> io::Result<()> {
        let mut found = vec![0; bytes.len()];
        self.stream.read_exact(&mut found)?;
        if found == bytes { Ok(()) } else { Err(wrong(format!("{found:x?} in place of {what}"))) }
    }

    fn u16(&mut self) -> io::Result<u16> {
        let mut bytes = [0; 2];
        self.stream.read_exact(&mut bytes)?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.stream.read_exact(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }
}

impl Drop for NbdClient {
    fn drop(&mut self) {
        // The server may already have gone.
        let _ = self.ask(command::DISC, 0, 0..0, &[]);
    }
}
