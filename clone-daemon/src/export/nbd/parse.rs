//! Parsing of client input, as pure functions. *Invariant:* no value is trusted beyond the checks
//! made here.

use byteorder::{BigEndian, ByteOrder};
use thiserror::Error;

use crate::nbd_protocol::{
    EXTENDED_REQUEST_BYTES, EXTENDED_REQUEST_MAGIC, OPTION_MAGIC, REQUEST_BYTES, REQUEST_MAGIC,
    STRING_MAX, command, errno, flag, handshake,
};

/// Maximum length in bytes of the payload of a request or a chunk: the size that every client may
/// rely on ("Size constraints").
pub const PAYLOAD_MAX: u32 = 32 << 20;

/// Length in bytes of the header of an option: magic 8, option 4, length 4.
pub const OPTION_BYTES: usize = 16;

/// Maximum length in bytes of the data of an option that is parsed.
pub const OPTION_DATA_MAX: u32 = 64 << 10;

/// A violation of the protocol that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// Flags in the client's greeting that the server did not offer.
    #[error("unknown flags {0:#x} in the greeting")]
    Greeting(u32),
    /// The wrong magic in place of that of an option.
    #[error("unknown magic of an option, {0:#x}")]
    OptionMagic(u64),
    /// The wrong magic in place of that of a request.
    #[error("unknown magic of a request, {0:#x}")]
    RequestMagic(u32),
    /// More data than a client may send at once.
    #[error("{0} bytes of data, more than the {PAYLOAD_MAX} that a client may send")]
    Payload(u64),
    /// Input before TLS that would count as sent under TLS.
    #[error("data between NBD_OPT_STARTTLS and its reply")]
    BeforeTls,
}

/// Parses the flags of the client. Returns whether it wants no zeroes after the reply to
/// `NBD_OPT_EXPORT_NAME`.
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

/// Parses the header of an option. Returns its number and the length of its data in bytes.
///
/// # Errors
/// [`Violation::OptionMagic`] if the header has another magic.
pub fn option(bytes: &[u8; OPTION_BYTES]) -> Result<(u32, u32), Violation> {
    let magic = BigEndian::read_u64(&bytes[..8]);
    if magic != OPTION_MAGIC {
        return Err(Violation::OptionMagic(magic));
    }
    Ok((BigEndian::read_u32(&bytes[8..12]), BigEndian::read_u32(&bytes[12..])))
}

/// Removes fields from the front of the data of an option.
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

/// Parses a string of the protocol ("Conventions"): UTF-8 without NUL, at most 4096 bytes.
pub fn string(bytes: &[u8]) -> Option<&str> {
    let is_good = bytes.len() <= STRING_MAX && !bytes.contains(&0);
    std::str::from_utf8(bytes).ok().filter(|_| is_good)
}

/// Parses the data of `NBD_OPT_INFO` and `NBD_OPT_GO`: the name of the export, and the kinds of
/// information that the client wants. `None` if they are malformed.
pub fn info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u16()?;
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<Vec<u16>>>()?;
    fields.end()?;
    Some((name, wanted))
}

/// Parses the data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`: the name of the
/// export, and the queries. `None` if they are malformed.
pub fn meta_context(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let name = fields.string()?;
    let count = fields.u32()?;
    // Each query takes at least four bytes, so no count makes this longer than the data.
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
    /// The client's cookie, which the reply repeats.
    pub cookie: u64,
    /// Start of the range in bytes.
    pub offset: u64,
    /// Length in bytes of the range, or of the payload.
    pub length: u64,
}

/// Returns the length of the header of a request in bytes.
pub fn request_bytes(extended: bool) -> usize {
    if extended { EXTENDED_REQUEST_BYTES } else { REQUEST_BYTES }
}

/// Parses the header of a request from the first [`request_bytes`] of `bytes`.
///
/// # Errors
/// [`Violation::RequestMagic`] if the header has another magic.
///
/// # Panics
/// If `bytes` are shorter than that.
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

/// The negotiated features that decide which requests are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// True if replies may have chunks.
    pub structured: bool,
    /// True if headers are extended.
    pub extended: bool,
    /// True if metadata contexts were selected.
    pub contexts: bool,
}

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Read.
    Read {
        /// True if the data must be one chunk.
        whole: bool,
    },
    /// Write the payload.
    Write,
    /// Close the connection after all replies.
    Disconnect,
    /// Make all answered writes durable.
    Flush,
    /// Discard.
    Trim,
    /// Hydrate.
    Cache,
    /// Write zeroes.
    Zero {
        /// True if the range may become a hole.
        deallocate: bool,
        /// True to fail if zeroes would have to be written.
        fast: bool,
    },
    /// Report the status of a range.
    Status {
        /// True to report one extent only.
        one: bool,
        /// True if the payload has the contexts and the length of the range.
        chosen: bool,
    },
}

impl Request {
    /// Returns whether the reply must wait until the data are durable.
    pub fn durable(&self) -> bool {
        self.flags & flag::FUA != 0
    }

    /// Returns the length in bytes of the payload after the header.
    ///
    /// A write always has a payload. With extended headers its flag must say so too, but QEMU's
    /// client (10.0) does not set the flag, and QEMU's server accepts such writes.
    ///
    /// # Errors
    /// [`Violation::Payload`] if it is longer than [`PAYLOAD_MAX`].
    pub fn payload(&self, extended: bool) -> Result<u32, Violation> {
        let is_write = self.command == command::WRITE;
        let told = extended && self.flags & flag::PAYLOAD_LEN != 0;
        if !(is_write || told) {
            return Ok(0);
        }
        let len = u32::try_from(self.length).ok().filter(|&len| len <= PAYLOAD_MAX);
        len.ok_or(Violation::Payload(self.length))
    }

    /// Validates the request and returns its operation, or else the error for the reply. The
    /// payload follows in both cases. The range of a [`RequestKind::Status`] with a payload has to
    /// be [checked](Self::check_range) when its length is known.
    ///
    /// # Errors
    /// - [`errno::EINVAL`]: the command is unknown, a flag is not allowed, or the range is invalid.
    /// - [`errno::ENOSPC`], [`errno::EOVERFLOW`]: see [`check_range`](Self::check_range).
    pub fn task(&self, terms: &Terms) -> Result<RequestKind, u32> {
        let has = |flag| self.flags & flag != 0;
        let (task, allowed) = match self.command {
            command::READ => {
                let allowed = if terms.structured { flag::DF } else { 0 };
                (RequestKind::Read { whole: has(flag::DF) }, allowed)
            }
            command::WRITE => {
                (RequestKind::Write, if terms.extended { flag::PAYLOAD_LEN } else { 0 })
            }
            command::DISC => return Ok(RequestKind::Disconnect),
            command::FLUSH => (RequestKind::Flush, 0),
            command::TRIM => (RequestKind::Trim, 0),
            command::CACHE => (RequestKind::Cache, 0),
            command::WRITE_ZEROES => {
                let (deallocate, fast) = (!has(flag::NO_HOLE), has(flag::FAST_ZERO));
                (RequestKind::Zero { deallocate, fast }, flag::NO_HOLE | flag::FAST_ZERO)
            }
            command::BLOCK_STATUS if terms.contexts => {
                let (one, chosen) = (has(flag::REQ_ONE), has(flag::PAYLOAD_LEN));
                let allowed = if terms.extended { flag::PAYLOAD_LEN } else { 0 };
                (RequestKind::Status { one, chosen }, flag::REQ_ONE | allowed)
            }
            _ => return Err(errno::EINVAL),
        };
        // All commands may have FUA ("Command flags").
        if self.flags & !(allowed | flag::FUA) != 0 {
            return Err(errno::EINVAL);
        }
        match task {
            RequestKind::Flush if (self.offset, self.length) != (0, 0) => {
                return Err(errno::EINVAL);
            }
            RequestKind::Flush | RequestKind::Status { chosen: true, .. } => {}
            _ => self.check_range(task, self.length, terms)?,
        }
        Ok(task)
    }

    /// Checks the range of `task`, which is `length` bytes long.
    ///
    /// # Errors
    /// - [`errno::ENOSPC`]: a write extends past the end of the export.
    /// - [`errno::EOVERFLOW`]: a read is longer than [`PAYLOAD_MAX`], and replies have chunks.
    /// - [`errno::EINVAL`]: another range extends past the end or is too long, or the range of
    ///   a status request is empty.
    pub fn check_range(&self, task: RequestKind, length: u64, terms: &Terms) -> Result<(), u32> {
        let end = self.offset.checked_add(length);
        if end.is_none_or(|end| end > terms.size_bytes) {
            let writes = matches!(task, RequestKind::Write | RequestKind::Zero { .. });
            return Err(if writes { errno::ENOSPC } else { errno::EINVAL });
        }
        match task {
            RequestKind::Read { .. } if length > PAYLOAD_MAX.into() => {
                Err(if terms.structured { errno::EOVERFLOW } else { errno::EINVAL })
            }
            // A reply needs at least one extent, and no extent is empty.
            RequestKind::Status { .. } if length == 0 => Err(errno::EINVAL),
            _ => Ok(()),
        }
    }
}

/// Parses the payload of `NBD_CMD_BLOCK_STATUS`: the length of the range in bytes, and the
/// identifiers of the contexts. `None` if it is malformed.
pub fn status_payload(payload: &[u8]) -> Option<(u64, Vec<u32>)> {
    let (length, ids) = payload.split_at_checked(8)?;
    let (ids, rest) = ids.as_chunks::<4>();
    let ids: Vec<u32> = ids.iter().map(|id| BigEndian::read_u32(id)).collect();
    rest.is_empty().then(|| (BigEndian::read_u64(length), ids))
}

#[cfg(test)]
mod tests;
