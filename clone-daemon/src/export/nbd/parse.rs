//! What clients send, as functions on bytes. Nothing that is read here is trusted further than it
//! was checked here.

use byteorder::{BigEndian, ByteOrder};
use thiserror::Error;

use crate::nbd_protocol::{
    EXTENDED_REQUEST_BYTES, EXTENDED_REQUEST_MAGIC, OPTION_MAGIC, REQUEST_BYTES, REQUEST_MAGIC,
    STRING_MAX, command, errno, flag, handshake,
};

/// The longest payload of a request or of a chunk, in bytes: what every client may count on
/// ("Size constraints").
pub const PAYLOAD_MAX: u32 = 32 << 20;

/// Bytes before the data of an option: magic 8, option 4, length 4.
pub const OPTION_BYTES: usize = 16;

/// The longest data of an option that are looked at, in bytes.
pub const OPTION_DATA_MAX: u32 = 64 << 10;

/// Why a client is hung up on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// Flags in the client's greeting that were not offered.
    #[error("unknown flags {0:#x} in the greeting")]
    Greeting(u32),
    /// What should be an option begins with something else.
    #[error("no option begins with {0:#x}")]
    OptionMagic(u64),
    /// What should be a request begins with something else.
    #[error("no request begins with {0:#x}")]
    RequestMagic(u32),
    /// More data than anybody may send at once.
    #[error("{0} bytes of data, more than the {PAYLOAD_MAX} that a client may send")]
    Payload(u64),
    /// Something was sent before TLS began that would count as sent under it.
    #[error("data between NBD_OPT_STARTTLS and its reply")]
    BeforeTls,
}

/// Whether the client wants no zeroes after the answer to `NBD_OPT_EXPORT_NAME`.
///
/// # Errors
/// [`Violation::Greeting`]: "the server MUST drop the TCP connection if the client sets an unknown
/// flag" ("Client flags").
pub fn greeting(bytes: [u8; 4]) -> Result<bool, Violation> {
    let flags = BigEndian::read_u32(&bytes);
    let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
    if flags & !known != 0 {
        return Err(Violation::Greeting(flags));
    }
    Ok(flags & u32::from(handshake::NO_ZEROES) != 0)
}

/// The number of an option, and the length of its data.
///
/// # Errors
/// [`Violation::OptionMagic`].
pub fn option(bytes: &[u8; OPTION_BYTES]) -> Result<(u32, u32), Violation> {
    let magic = BigEndian::read_u64(&bytes[..8]);
    if magic != OPTION_MAGIC {
        return Err(Violation::OptionMagic(magic));
    }
    Ok((BigEndian::read_u32(&bytes[8..12]), BigEndian::read_u32(&bytes[12..])))
}

/// Takes bytes off the front of data of an option.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2).map(BigEndian::read_u16)
    }

    fn u32(&mut self) -> Option<u32> {
        self.bytes(4).map(BigEndian::read_u32)
    }

    fn string(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.u32()?).ok()?;
        string(self.bytes(len)?)
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A string as the protocol wants it ("Conventions").
pub fn string(bytes: &[u8]) -> Option<&str> {
    let is_good = bytes.len() <= STRING_MAX && !bytes.contains(&0);
    std::str::from_utf8(bytes).ok().filter(|_| is_good)
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`: the export, and what is to be told of it. `None` if
/// they make no sense.
pub fn info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u16()?;
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<Vec<u16>>>()?;
    fields.end()?;
    Some((name, wanted))
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`: the export, and the
/// queries. `None` if they make no sense.
pub fn meta_context(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u32()?;
    // Each takes four bytes at least, so that no count makes this longer than the data.
    let queries = (0..count).map(|_| fields.string()).collect::<Option<Vec<&str>>>()?;
    fields.end()?;
    Some((name, queries))
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Flags of [`flag`].
    pub flags: u16,
    /// One of [`command`].
    pub command: u16,
    /// What the reply begins with.
    pub cookie: u64,
    /// Where the range begins, in bytes.
    pub offset: u64,
    /// Bytes of the range, or of the payload.
    pub length: u64,
}

/// Bytes of the header of a request.
pub fn request_bytes(extended: bool) -> usize {
    if extended { EXTENDED_REQUEST_BYTES } else { REQUEST_BYTES }
}

/// The request that `bytes`, [`request_bytes`] of them, begin.
///
/// # Errors
/// [`Violation::RequestMagic`].
pub fn request(bytes: &[u8], extended: bool) -> Result<Request, Violation> {
    let (wanted, len) = match extended {
        true => (EXTENDED_REQUEST_MAGIC, BigEndian::read_u64(&bytes[24..32])),
        false => (REQUEST_MAGIC, BigEndian::read_u32(&bytes[24..28]).into()),
    };
    let magic = BigEndian::read_u32(&bytes[..4]);
    if magic != wanted {
        return Err(Violation::RequestMagic(magic));
    }
    Ok(Request {
        flags: BigEndian::read_u16(&bytes[4..6]),
        command: BigEndian::read_u16(&bytes[6..8]),
        cookie: BigEndian::read_u64(&bytes[8..16]),
        offset: BigEndian::read_u64(&bytes[16..24]),
        length: len,
    })
}

/// What was agreed on, as far as it decides which requests make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of the export.
    pub size_bytes: u64,
    /// Replies may have chunks.
    pub structured: bool,
    /// Headers are extended.
    pub extended: bool,
    /// There are metadata contexts.
    pub contexts: bool,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Read; in one chunk, if it must be.
    Read {
        /// In one chunk.
        whole: bool,
    },
    /// Write what follows.
    Write,
    /// Hang up, when all is answered.
    Disconnect,
    /// Make durable what was answered.
    Flush,
    /// Discard.
    Trim,
    /// Hydrate.
    Cache,
    /// Write zeroes.
    Zero {
        /// It may become a hole.
        deallocate: bool,
        /// Only if it takes no writing.
        fast: bool,
    },
    /// Tell of a range.
    Status {
        /// One extent.
        one: bool,
        /// Of contexts that are named in the payload, together with the length of the range.
        chosen: bool,
    },
}

impl Request {
    /// Whether it is to be answered only when it is durable.
    pub fn durable(&self) -> bool {
        self.flags & flag::FUA != 0
    }

    /// Bytes of payload that follow the header.
    ///
    /// A write always has a payload. With extended headers its flag must say so too, but QEMU's
    /// client (10.0) does not set the flag, and QEMU's server takes such writes.
    ///
    /// # Errors
    /// [`Violation::Payload`].
    pub fn payload(&self, extended: bool) -> Result<u32, Violation> {
        let is_write = self.command == command::WRITE;
        let told = extended && self.flags & flag::PAYLOAD_LEN != 0;
        if !(is_write || told) {
            return Ok(0);
        }
        let len = u32::try_from(self.length).ok().filter(|&len| len <= PAYLOAD_MAX);
        len.ok_or(Violation::Payload(self.length))
    }

    /// What it asks for, if it makes sense; else the error that it is answered with. The payload
    /// follows in both cases. The range of [`Task::Status`] with a payload has to be
    /// [checked](Self::check_range) when its length is known.
    ///
    /// # Errors
    /// One of [`errno`].
    pub fn task(&self, terms: &Terms) -> Result<Task, u32> {
        let has = |flag| self.flags & flag != 0;
        let (task, allowed) = match self.command {
            command::READ => {
                let allowed = if terms.structured { flag::DF } else { 0 };
                (Task::Read { whole: has(flag::DF) }, allowed)
            }
            command::WRITE => (Task::Write, if terms.extended { flag::PAYLOAD_LEN } else { 0 }),
            command::DISC => return Ok(Task::Disconnect),
            command::FLUSH => (Task::Flush, 0),
            command::TRIM => (Task::Trim, 0),
            command::CACHE => (Task::Cache, 0),
            command::WRITE_ZEROES => {
                let (deallocate, fast) = (!has(flag::NO_HOLE), has(flag::FAST_ZERO));
                (Task::Zero { deallocate, fast }, flag::NO_HOLE | flag::FAST_ZERO)
            }
            command::BLOCK_STATUS if terms.contexts => {
                let (one, chosen) = (has(flag::REQ_ONE), has(flag::PAYLOAD_LEN));
                let allowed = if terms.extended { flag::PAYLOAD_LEN } else { 0 };
                (Task::Status { one, chosen }, flag::REQ_ONE | allowed)
            }
            _ => return Err(errno::EINVAL),
        };
        // FUA is allowed on all of them ("Command flags").
        if self.flags & !(allowed | flag::FUA) != 0 {
            return Err(errno::EINVAL);
        }
        match task {
            Task::Flush if (self.offset, self.length) != (0, 0) => return Err(errno::EINVAL),
            Task::Flush | Task::Status { chosen: true, .. } => {}
            _ => self.check_range(task, self.length, terms)?,
        }
        Ok(task)
    }

    /// Checks the range of `length` bytes that `task` is about.
    ///
    /// # Errors
    /// One of [`errno`].
    pub fn check_range(&self, task: Task, length: u64, terms: &Terms) -> Result<(), u32> {
        let end = self.offset.checked_add(length);
        if end.is_none_or(|end| end > terms.size_bytes) {
            let writes = matches!(task, Task::Write | Task::Zero { .. });
            return Err(if writes { errno::ENOSPC } else { errno::EINVAL });
        }
        match task {
            Task::Read { .. } if length > PAYLOAD_MAX.into() => {
                Err(if terms.structured { errno::EOVERFLOW } else { errno::EINVAL })
            }
            // A reply has one extent at least, and none is empty.
            Task::Status { .. } if length == 0 => Err(errno::EINVAL),
            _ => Ok(()),
        }
    }
}

/// The payload of `NBD_CMD_BLOCK_STATUS`: the length of the range, and the contexts to tell of.
/// `None` if it makes no sense.
pub fn status_payload(payload: &[u8]) -> Option<(u64, Vec<u32>)> {
    let (length, ids) = payload.split_at_checked(8)?;
    let (ids, rest) = ids.as_chunks::<4>();
    let ids: Vec<u32> = ids.iter().map(|id| BigEndian::read_u32(id)).collect();
    rest.is_empty().then(|| (BigEndian::read_u64(length), ids))
}

#[cfg(test)]
mod tests;
