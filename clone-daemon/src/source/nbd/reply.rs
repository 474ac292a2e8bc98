//! Parsing of replies.
//!
//! Parsing depends on the received bytes only. [`request`](super::request) checks whether a reply
//! matches its request.

use std::fmt;
use std::ops::Range;

use nom::number::complete::{be_u16, be_u32, be_u64};
use nom::{IResult, Parser};

use crate::nbd_protocol::{
    EXTENDED_REPLY_BYTES, EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_BYTES, STRUCTURED_REPLY_MAGIC, allocation, chunk,
};
use crate::source::nbd::error::printable;

/// The negotiated format of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyFormat {
    /// One header, then the data.
    Simple,
    /// A sequence of chunks.
    Structured,
    /// A sequence of chunks with lengths of 64 bits.
    Extended,
}

/// A message: a reply or a chunk of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Cookie of the request.
    pub(super) cookie: u64,
    /// Offset of the request in bytes, in the extended format.
    pub(super) offset: Option<u64>,
    /// True if this is the last message of the reply.
    pub(super) done: bool,
    pub(super) body: Body,
}

/// The contents of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Success.
    Nothing,
    /// Success; if the request is a read, the data follow.
    Simple,
    /// Data of this range of the export; they follow.
    Data(Range<u64>),
    /// This range of the export reads as zeroes.
    Hole(Range<u64>),
    /// Extents, from the start of the request on.
    Status { context: u32, extents: Vec<Run> },
    /// The request failed.
    Error { error: u32, text: String },
}

/// An extent as reported by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Length in bytes, at least 1.
    pub(super) len: u64,
    /// True if the extent is known to read as zeroes.
    pub(super) zeroes: bool,
}

/// The result of parsing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The message is incomplete: at least this number of bytes is needed, which is more than there
    /// are.
    Need(usize),
    /// A message and its length in bytes, without the data that may follow.
    Message(usize, Message),
}

/// A violation of the protocol by the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation(pub(super) String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn violation<T>(what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(what.into()))
}

/// Maximum number of extents in one reply. "`NBD_CMD_BLOCK_STATUS`" lets a server send fewer
/// extents than there are; common servers stop at 2^20.
const EXTENTS_MAX: u64 = 1 << 20;
/// Maximum length of the payload of a block status: the context, the count, and the extents.
const STATUS_MAX: u64 = 8 + 16 * EXTENTS_MAX;
/// Maximum length of the payload of an error: a text of 4096 bytes, and the fields around it.
const ERROR_MAX: u64 = 8192;

/// Parses the first message of `bytes`.
pub(super) fn parse(format: ReplyFormat, bytes: &[u8]) -> Result<Parsed, Violation> {
    let Ok((_, magic)) = be_u32::<_, Nothing>(bytes) else {
        return Ok(Parsed::Need(SIMPLE_REPLY_BYTES));
    };
    let header = match (magic, format) {
        (SIMPLE_REPLY_MAGIC, ReplyFormat::Simple | ReplyFormat::Structured) => SIMPLE_REPLY_BYTES,
        (STRUCTURED_REPLY_MAGIC, ReplyFormat::Structured) => STRUCTURED_REPLY_BYTES,
        (EXTENDED_REPLY_MAGIC, ReplyFormat::Extended) => EXTENDED_REPLY_BYTES,
        _ => return violation(format!("a reply that begins with {magic:#010x}")),
    };
    match bytes.get(4..header) {
        None => Ok(Parsed::Need(header)),
        Some(rest) if magic == SIMPLE_REPLY_MAGIC => simple(rest),
        Some(rest) => chunk(magic == EXTENDED_REPLY_MAGIC, rest, bytes, header),
    }
}

/// The error of nom if the input is too short; no other error can occur.
type Nothing<'a> = nom::error::Error<&'a [u8]>;

/// Applies `parser`, and rejects input that is too short for it.
fn fields<'a, O>(
    parser: impl Parser<&'a [u8], Output = O, Error = Nothing<'a>>,
    bytes: &'a [u8],
) -> Result<(&'a [u8], O), Violation> {
    let mut parser = parser;
    let parsed: IResult<_, _, _> = parser.parse(bytes);
    parsed.or_else(|_| violation("a chunk is too short"))
}

fn simple(fields_of: &[u8]) -> Result<Parsed, Violation> {
    let (_, (error, cookie)) = fields((be_u32, be_u64), fields_of)?;
    let body = match error {
        0 => Body::Simple,
        error => Body::Error { error, text: String::new() },
    };
    Ok(Parsed::Message(SIMPLE_REPLY_BYTES, Message { cookie, offset: None, done: true, body }))
}

/// Parses a chunk ("Structured reply chunk message", "Extended reply chunk message") at the
/// beginning of `bytes`. `header` is the length of its header, and `rest` the header without the
/// magic.
fn chunk(wide: bool, rest: &[u8], bytes: &[u8], header: usize) -> Result<Parsed, Violation> {
    let (rest, (flags, kind, cookie)) = fields((be_u16, be_u16, be_u64), rest)?;
    let (offset, len) = match wide {
        true => {
            let (_, (offset, len)) = fields((be_u64, be_u64), rest)?;
            (Some(offset), len)
        }
        false => (None, fields(be_u32, rest)?.1.into()),
    };
    let Payload { len: fixed, limit } = payload(kind);
    if len > limit || len < fixed {
        return violation(format!("a chunk of type {kind} has {len} bytes"));
    }
    // Data stay outside the message; all other payloads are part of it.
    let kept = if kind == chunk::OFFSET_DATA { fixed } else { len };
    let end = usize::try_from(kept).ok().and_then(|kept| kept.checked_add(header));
    let Some(end) = end else { return violation("a chunk does not fit into memory") };
    let Some(payload) = bytes.get(header..end) else { return Ok(Parsed::Need(end)) };
    let body = body(kind, payload, len)?;
    let done = flags & chunk::DONE != 0;
    if body == Body::Nothing && !done {
        return violation("an empty chunk that does not end the reply");
    }
    Ok(Parsed::Message(end, Message { cookie, offset, done, body }))
}

/// The limits of the length of a payload, which depend on its type.
struct Payload {
    /// Minimum number of bytes.
    len: u64,
    /// Maximum number of bytes.
    limit: u64,
}

fn payload(kind: u16) -> Payload {
    let (len, limit) = match kind {
        chunk::NONE => (0, 0),
        chunk::OFFSET_DATA => (8, u64::MAX),
        chunk::OFFSET_HOLE => (12, 12),
        chunk::BLOCK_STATUS => (12, STATUS_MAX),
        chunk::BLOCK_STATUS_EXT => (24, STATUS_MAX),
        chunk::ERROR_OFFSET => (14, ERROR_MAX),
        // Unknown errors begin like the known ones.
        kind if kind & chunk::ERROR_BIT != 0 => (6, ERROR_MAX),
        // An unknown type is a violation; there is no payload to wait for.
        _ => (0, 0),
    };
    Payload { len, limit }
}

/// Parses the contents of a chunk. Its payload has `len` bytes and begins with `payload`.
fn body(kind: u16, payload: &[u8], len: u64) -> Result<Body, Violation> {
    match kind {
        chunk::NONE => Ok(Body::Nothing),
        chunk::OFFSET_DATA => {
            let (_, start) = fields(be_u64, payload)?;
            Ok(Body::Data(extent(start, len.saturating_sub(8))?))
        }
        chunk::OFFSET_HOLE => {
            let (_, (start, len)) = fields((be_u64, be_u32), payload)?;
            Ok(Body::Hole(extent(start, len.into())?))
        }
        chunk::BLOCK_STATUS => {
            let (mut rest, context) = fields(be_u32, payload)?;
            let mut extents = Vec::with_capacity(rest.len() / 8);
            while !rest.is_empty() {
                let (after, (len, flags)) = fields((be_u32, be_u32), rest)?;
                extents.push(run(len.into(), flags.into())?);
                rest = after;
            }
            Ok(Body::Status { context, extents })
        }
        chunk::BLOCK_STATUS_EXT => {
            let (mut rest, (context, count)) = fields((be_u32, be_u32), payload)?;
            if rest.len() as u64 != u64::from(count) * 16 {
                return violation(format!("{count} extents in {} bytes", rest.len()));
            }
            let mut extents = Vec::with_capacity(rest.len() / 16);
            while !rest.is_empty() {
                let (after, (len, flags)) = fields((be_u64, be_u64), rest)?;
                extents.push(run(len, flags)?);
                rest = after;
            }
            Ok(Body::Status { context, extents })
        }
        kind if kind & chunk::ERROR_BIT != 0 => {
            let (rest, (error, text)) = fields((be_u32, be_u16), payload)?;
            let Some(text) = rest.get(..text.into()) else {
                return violation("the text of an error is longer than its chunk");
            };
            if error == 0 {
                return violation("an error of number 0");
            }
            Ok(Body::Error { error, text: printable(text) })
        }
        _ => violation(format!("a chunk of type {kind}")),
    }
}

fn extent(start: u64, len: u64) -> Result<Range<u64>, Violation> {
    match start.checked_add(len) {
        Some(end) if len > 0 => Ok(start..end),
        _ => violation(format!("a chunk of {len} bytes at {start}")),
    }
}

fn run(len: u64, flags: u64) -> Result<Run, Violation> {
    if len == 0 {
        return violation("an extent of no bytes");
    }
    Ok(Run { len, zeroes: flags & u64::from(allocation::ZERO) != 0 })
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::{Body, Message, Parsed, ReplyFormat, Run, parse};
    use crate::nbd_protocol::{EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC};

    fn chunk(flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend([flags.to_be_bytes(), kind.to_be_bytes()].concat());
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn wide(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = EXTENDED_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend([1_u16.to_be_bytes(), kind.to_be_bytes()].concat());
        bytes.extend([7, 0, payload.len() as u64].map(u64::to_be_bytes).concat());
        bytes.extend(payload);
        bytes
    }

    fn body(bytes: &[u8]) -> Body {
        let format = match bytes[0] {
            0x6e => ReplyFormat::Extended,
            _ => ReplyFormat::Structured,
        };
        for have in 0..bytes.len() {
            let Parsed::Need(need) = parse(format, &bytes[..have]).unwrap() else {
                panic!("{have} bytes are not all");
            };
            assert!(need > have && need <= bytes.len().max(16), "{need} of {have}");
        }
        match parse(format, bytes).unwrap() {
            Parsed::Message(
                len,
                Message { cookie: 7, offset: None | Some(0), done: true, body },
            ) => {
                assert_eq!(len, bytes.len());
                body
            }
            parsed => panic!("{parsed:?}"),
        }
    }

    #[test]
    fn each_chunk_is_parsed_when_all_of_it_is_there_and_not_before() {
        assert_eq!(body(&chunk(1, 0, &[])), Body::Nothing);
        let hole = [&512_u64.to_be_bytes()[..], &512_u32.to_be_bytes()].concat();
        assert_eq!(body(&chunk(1, 2, &hole)), Body::Hole(512..1024));
        let error = [&[0, 0, 0, 5, 0, 3][..], b"bad"].concat();
        let expected = Body::Error { error: 5, text: ": bad".into() };
        assert_eq!(body(&chunk(1, 0x8001, &error)), expected);
        let unknown = [&error[..], &[0; 100]].concat();
        assert_eq!(body(&chunk(1, 0x8765, &unknown)), expected);
        let extents = [1_u32, 512, 3, 1024, 0].map(u32::to_be_bytes).concat();
        let runs = [Run { len: 512, zeroes: true }, Run { len: 1024, zeroes: false }].to_vec();
        let expected = Body::Status { context: 1, extents: runs };
        assert_eq!(body(&chunk(1, 5, &extents)), expected);
        let extents = [1_u32, 2, 0, 512, 0, 3, 0, 1024, 0, 0].map(u32::to_be_bytes).concat();
        assert_eq!(body(&wide(6, &extents)), expected);
    }

    #[test]
    fn data_follow_their_message() {
        let bytes = chunk(0, 1, &[&512_u64.to_be_bytes()[..], &[9; 100]].concat());
        let message = Message { cookie: 7, offset: None, done: false, body: Body::Data(512..612) };
        let parsed = parse(ReplyFormat::Structured, &bytes).unwrap();
        assert_eq!(parsed, Parsed::Message(bytes.len() - 100, message));
        let mut bytes = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend([&[0; 4][..], &7_u64.to_be_bytes(), &[9; 100]].concat());
        let message = Message { cookie: 7, offset: None, done: true, body: Body::Simple };
        assert_eq!(parse(ReplyFormat::Simple, &bytes).unwrap(), Parsed::Message(16, message));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let zeroes = |count| vec![0_u8; count];
        let cases = [
            ("no magic", zeroes(64)),
            ("not as agreed", wide(0, &[])),
            ("nothing, and no end", chunk(0, 0, &[])),
            ("nothing that is something", chunk(1, 0, &[0])),
            ("no data", chunk(1, 1, &zeroes(8))),
            ("data without a place", chunk(1, 1, &zeroes(7))),
            ("past all ends", chunk(1, 1, &[0xff; 9])),
            ("an empty hole", chunk(1, 2, &zeroes(12))),
            ("a long hole", chunk(1, 2, &[1; 16])),
            ("no extents", chunk(1, 5, &zeroes(4))),
            ("an empty extent", chunk(1, 5, &zeroes(12))),
            ("half an extent", chunk(1, 5, &[1; 16])),
            ("a count that is not that", chunk(1, 6, &[1; 24])),
            ("no error", chunk(1, 0x8001, &zeroes(6))),
            ("a text that is not there", chunk(1, 0x8001, &[1; 6])),
            ("no such type", chunk(1, 3, &[])),
        ];
        for (what, bytes) in cases {
            assert!(parse(ReplyFormat::Structured, &bytes).is_err(), "{what}");
        }
        let mut long = chunk(1, 5, &[1; 12]);
        long[16..20].fill(0xff);
        assert!(parse(ReplyFormat::Structured, &long).is_err(), "it is not waited for");
    }

    #[test]
    fn whatever_comes_is_parsed_or_refused_and_more_is_asked_for_within_bounds() {
        let mut random = StdRng::seed_from_u64(0x1bd);
        let seeds = [chunk(1, 5, &[1; 12]), wide(6, &[0; 24]), chunk(1, 0x8002, &[1; 300])];
        for round in 0..200_000 {
            let mut bytes = seeds[round % seeds.len()].clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(4..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(1..=bytes.len()));
            for format in [ReplyFormat::Simple, ReplyFormat::Structured, ReplyFormat::Extended] {
                match parse(format, &bytes) {
                    Ok(Parsed::Need(need)) => assert!(need > bytes.len() && need < 17 << 20),
                    Ok(Parsed::Message(len, _)) => assert!(len <= bytes.len()),
                    Err(_) => {}
                }
            }
        }
    }
}
