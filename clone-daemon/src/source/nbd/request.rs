//! Requests in flight, and the check that their replies match them.

use std::ops::Range;
use std::sync::{Arc, Condvar};

use byteorder::{BigEndian, ByteOrder};

use crate::nbd_protocol::{
    EXTENDED_REQUEST_BYTES, EXTENDED_REQUEST_MAGIC, REQUEST_BYTES, REQUEST_MAGIC, command,
};
use crate::source::nbd::error::NbdError;
use crate::source::nbd::reply::{Body, Message, ReplyFormat, Run, Violation, violation};

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Status { context: u32 },
}

impl Command {
    fn code(self) -> u16 {
        match self {
            Self::Read => command::READ,
            Self::Status { .. } => command::BLOCK_STATUS,
        }
    }
}

/// A request in flight, and the state of its reply.
pub(super) struct Request {
    /// Wakes the caller; `None` if the request was abandoned.
    pub(super) caller: Option<Arc<Condvar>>,
    command: Command,
    /// Range of the export in bytes.
    range: Range<u64>,
    /// The bytes that the reply has delivered, including those being received.
    covered: Covered,
    holes: Vec<Range<u64>>,
    extents: Option<Vec<Run>>,
    /// The first error in the reply; `errors` counts all of them.
    error: Option<(u32, String)>,
    errors: u32,
    /// True while data of the reply are being received.
    receiving: bool,
    /// True if the last message has arrived.
    done: bool,
}

/// Maximum number of errors in one reply.
const ERRORS_MAX: u32 = 1024;
/// Maximum number of disjoint pieces in which a reply has arrived at any time.
const PIECES_MAX: usize = 4096;

impl Request {
    pub(super) fn new(command: Command, range: Range<u64>, caller: Arc<Condvar>) -> Self {
        Self {
            caller: Some(caller),
            command,
            range,
            covered: Covered::default(),
            holes: Vec::new(),
            extents: None,
            error: None,
            errors: 0,
            receiving: false,
            done: false,
        }
    }

    /// Appends the encoded request ("Request message") to `into`.
    pub(super) fn encode(&self, format: ReplyFormat, cookie: u64, into: &mut Vec<u8>) {
        let len = self.range.end - self.range.start;
        encode(format, self.command.code(), cookie, self.range.start, len, into);
    }

    /// Handles a message of the reply. Returns the range of the export whose data follow.
    pub(super) fn take(
        &mut self,
        format: ReplyFormat,
        message: Message,
    ) -> Result<Option<Range<u64>>, Violation> {
        if self.done {
            return violation("a reply continues after its end");
        }
        // The cookie and the offset both identify the request.
        if message.offset.is_some_and(|offset| offset != self.range.start) {
            return violation(format!("a reply to {:?} is for another offset", self.range));
        }
        let follows = match (message.body, self.command) {
            (Body::Simple, Command::Read) if format == ReplyFormat::Simple => {
                self.covered.add(&self.range, self.range.clone())?;
                Some(self.range.clone())
            }
            (Body::Data(data), Command::Read) => {
                self.covered.add(&self.range, data.clone())?;
                Some(data)
            }
            (Body::Hole(hole), Command::Read) => {
                self.covered.add(&self.range, hole.clone())?;
                self.holes.push(hole);
                None
            }
            (Body::Status { context, extents }, Command::Status { context: agreed }) => {
                if context != agreed || self.extents.is_some() {
                    return violation("a block status that was not requested");
                }
                self.check(&extents)?;
                self.extents = Some(extents);
                None
            }
            (Body::Error { error, text }, _) => {
                self.errors += 1;
                if self.errors > ERRORS_MAX {
                    return violation("a reply with too many errors");
                }
                self.error.get_or_insert((error, text));
                None
            }
            (Body::Nothing, _) => None,
            (body, command) => {
                return violation(format!("{body:?} in reply to {command:?}"));
            }
        };
        self.done = message.done;
        if self.done && self.error.is_none() && !self.is_complete() {
            return violation("a reply ends before it is complete");
        }
        self.receiving = follows.is_some();
        Ok(follows)
    }

    /// Records that the data after the last message have arrived.
    pub(super) fn received(&mut self) {
        self.receiving = false;
    }

    /// Returns whether the whole reply has arrived.
    pub(super) fn is_answered(&self) -> bool {
        self.done && !self.receiving
    }

    fn is_complete(&self) -> bool {
        match self.command {
            Command::Read => self.covered.is_all(&self.range),
            Command::Status { .. } => self.extents.is_some(),
        }
    }

    /// Checks that all extents but the last one end within the range
    /// ("`NBD_REPLY_TYPE_BLOCK_STATUS`").
    fn check(&self, extents: &[Run]) -> Result<(), Violation> {
        let mut at = self.range.start;
        for run in extents {
            if at >= self.range.end {
                return violation("more extents than were requested");
            }
            let Some(end) = at.checked_add(run.len) else {
                return violation(format!("an extent of {} bytes at {at}", run.len));
            };
            at = end;
        }
        Ok(())
    }

    /// Returns the ranges of the export that read as zeroes and were sent without data.
    pub(super) fn holes(&self) -> &[Range<u64>] {
        &self.holes
    }

    /// Returns the result: the extents, or the first error.
    pub(super) fn outcome(self) -> Result<Vec<Run>, NbdError> {
        let Some((error, text)) = self.error else {
            return Ok(self.extents.unwrap_or_default());
        };
        let command = match self.command {
            Command::Read => "read",
            Command::Status { .. } => "report the extents of",
        };
        Err(NbdError::Server { command, start: self.range.start, end: self.range.end, error, text })
    }
}

/// Appends an encoded request to `into`.
pub(super) fn encode(
    format: ReplyFormat,
    command: u16,
    cookie: u64,
    offset: u64,
    len: u64,
    into: &mut Vec<u8>,
) {
    let (magic, bytes) = match format {
        ReplyFormat::Extended => (EXTENDED_REQUEST_MAGIC, EXTENDED_REQUEST_BYTES),
        ReplyFormat::Simple | ReplyFormat::Structured => (REQUEST_MAGIC, REQUEST_BYTES),
    };
    let mut header = [0; EXTENDED_REQUEST_BYTES];
    BigEndian::write_u32(&mut header[0..4], magic);
    BigEndian::write_u16(&mut header[6..8], command);
    BigEndian::write_u64(&mut header[8..16], cookie);
    BigEndian::write_u64(&mut header[16..24], offset);
    match format {
        ReplyFormat::Extended => BigEndian::write_u64(&mut header[24..32], len),
        // Requests in this format are never longer.
        _ => BigEndian::write_u32(&mut header[24..28], u32::try_from(len).unwrap_or(u32::MAX)),
    }
    into.extend_from_slice(&header[..bytes]);
}

/// The delivered bytes: ascending ranges that neither touch nor overlap.
#[derive(Default)]
struct Covered(Vec<Range<u64>>);

impl Covered {
    /// Adds a range, which must lie `within` the requested one and must not be there already.
    fn add(&mut self, within: &Range<u64>, new: Range<u64>) -> Result<(), Violation> {
        if new.start < within.start || new.end > within.end || new.is_empty() {
            return violation(format!("bytes {new:?} in reply to a read of {within:?}"));
        }
        let at = self.0.partition_point(|range| range.end < new.start);
        let mut joined = new.clone();
        let mut until = at;
        while let Some(range) = self.0.get(until).filter(|range| range.start <= new.end) {
            if range.start < new.end && new.start < range.end {
                return violation(format!("bytes {new:?} twice in one reply"));
            }
            joined = joined.start.min(range.start)..joined.end.max(range.end);
            until += 1;
        }
        self.0.splice(at..until, [joined]);
        if self.0.len() > PIECES_MAX {
            return violation("a reply in too many pieces");
        }
        Ok(())
    }

    fn is_all(&self, of: &Range<u64>) -> bool {
        matches!(&self.0[..], [only] if only == of)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use super::{Command, Request};
    use crate::source::nbd::reply::{Body, Message, ReplyFormat, Run, Violation};

    fn read(range: Range<u64>) -> Request {
        Request::new(Command::Read, range, Arc::default())
    }

    fn take(request: &mut Request, done: bool, body: Body) -> Result<(), Violation> {
        request
            .take(ReplyFormat::Structured, Message { cookie: 0, offset: None, done, body })
            .map(drop)
    }

    #[test]
    fn a_read_is_complete_when_each_byte_has_come_once_in_whatever_order() {
        let mut request = read(100..200);
        take(&mut request, false, Body::Data(150..160)).unwrap();
        take(&mut request, false, Body::Hole(100..110)).unwrap();
        take(&mut request, false, Body::Data(110..150)).unwrap();
        take(&mut request, true, Body::Data(160..200)).unwrap();
        assert!(!request.is_answered(), "data follow");
        request.received();
        assert!(request.is_answered());
        assert_eq!(request.holes(), [100..110]);
        assert!(request.outcome().is_ok());
    }

    #[test]
    fn what_was_not_asked_for_what_comes_twice_and_what_is_missing_is_refused() {
        for (first, second) in [
            (100..200, 199..200),
            (150..160, 140..151),
            (150..160, 159..170),
            (150..160, 100..200),
            (100..150, 99..100),
            (100..150, 150..201),
            (100..150, 150..199),
            (100..150, 151..200),
        ] {
            let mut request = read(100..200);
            take(&mut request, false, Body::Data(first.clone())).unwrap();
            let refused = take(&mut request, true, Body::Hole(second.clone()));
            assert!(refused.is_err(), "{first:?} and {second:?}");
        }
        let mut request = read(100..200);
        assert!(take(&mut request, true, Body::Nothing).is_err());
        for (offset, is_right) in [(100, true), (0, false), (101, false)] {
            let (offset, body) = (Some(offset), Body::Hole(100..200));
            let message = Message { cookie: 0, offset, done: true, body };
            assert_eq!(read(100..200).take(ReplyFormat::Extended, message).is_ok(), is_right);
        }
        let status = Body::Status { context: 1, extents: vec![Run { len: 1, zeroes: true }] };
        assert!(take(&mut read(100..200), true, status).is_err());
        assert!(take(&mut read(100..200), true, Body::Simple).is_err());
    }

    #[test]
    fn a_reply_in_very_many_pieces_or_with_very_many_errors_ends() {
        let mut request = read(0..1 << 20);
        let refused = (0..1 << 19)
            .find(|&at| take(&mut request, false, Body::Hole(2 * at..2 * at + 1)).is_err());
        assert_eq!(refused, Some(4096));
        let mut request = read(0..1 << 20);
        let refused = (0..1 << 19).find(|_| {
            take(&mut request, false, Body::Error { error: 5, text: String::new() }).is_err()
        });
        assert_eq!(refused, Some(1024));
    }

    #[test]
    fn an_error_counts_whatever_else_comes() {
        let mut request = read(0..512);
        take(&mut request, false, Body::Data(0..512)).unwrap();
        take(&mut request, false, Body::Error { error: 5, text: String::new() }).unwrap();
        take(&mut request, true, Body::Nothing).unwrap();
        assert!(request.outcome().is_err());
        let mut request = read(0..512);
        take(&mut request, true, Body::Error { error: 5, text: String::new() }).unwrap();
        assert!(take(&mut request, true, Body::Data(0..512)).is_err(), "it had ended");
    }

    #[test]
    fn only_the_last_extent_may_end_after_what_was_asked_for() {
        let status = |lengths: &[u64]| {
            let extents = lengths.iter().map(|&len| Run { len, zeroes: true }).collect();
            let mut request = Request::new(Command::Status { context: 3 }, 0..512, Arc::default());
            take(&mut request, true, Body::Status { context: 3, extents })
        };
        assert!(status(&[256]).is_ok(), "fewer than asked for");
        assert!(status(&[256, 4096]).is_ok());
        assert!(status(&[256, 256, 1]).is_err());
        assert!(status(&[1, u64::MAX]).is_err());
    }
}
