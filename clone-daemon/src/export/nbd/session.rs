//! The transmission phase of a connection: the receiver thread handles requests, and each is
//! answered when it completes.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};

use clone_core::engine::{ByteRange, Operation, RequestError};
use thiserror::Error;

use crate::export::nbd::buffers::{Inbox, ReceiveError};
use crate::export::nbd::channel::Channel;
use crate::export::nbd::memory::{Memory, MemoryLease};
use crate::export::nbd::negotiation::{Chosen, Contexts};
use crate::export::nbd::parse::{self, Request, RequestKind, Terms, Violation};
use crate::export::nbd::reply::{
    CUT_POLL_INTERVAL, CutReply, Message, Outbox, Replies, ReplyFormat, ReplyHeader,
};
use crate::export::nbd::status;
use crate::export::volume::User;
use crate::nbd_protocol::errno;

mod read;
mod write;

/// The reason why a connection ended.
#[derive(Debug, Error)]
pub(super) enum SessionEnd {
    /// The client closed the connection, or asked for that.
    #[error("the client hung up")]
    Client,
    /// Receiving or sending failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The client violated the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// A read failed after its reply had begun, and there is no other way to report it.
    #[error("a read failed in the middle of its reply")]
    HalfRead,
    /// The volume is not exported any more.
    #[error("the volume was removed")]
    Removed,
}

impl From<ReceiveError> for SessionEnd {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::End => Self::Client,
            ReceiveError::Io(error) => Self::Io(error),
        }
    }
}

impl From<CutReply> for SessionEnd {
    fn from(error: CutReply) -> Self {
        match error {
            CutReply::Simple => Self::HalfRead,
            CutReply::Io(error) => Self::Io(error),
        }
    }
}

/// A connection to a volume.
pub(super) struct Session {
    volume: VolumeAccess,
    region_bytes: u64,
    terms: Terms,
    format: ReplyFormat,
    contexts: Contexts,
    inbox: Inbox,
    replies: Replies,
    memory: Arc<Memory>,
    /// An extent that was reported as data. Treating it as data later is always correct.
    data: ByteRange,
}

impl Session {
    pub(super) fn new(
        chosen: &Chosen,
        channel: Arc<Channel>,
        inbox: Inbox,
        outbox: Arc<Outbox>,
        memory: Arc<Memory>,
    ) -> Self {
        let Chosen { volume, format, contexts } = chosen;
        let terms = Terms {
            size_bytes: volume.size_bytes(),
            structured: *format != ReplyFormat::Simple,
            extended: *format == ReplyFormat::Extended,
            contexts: !contexts.is_empty(),
        };
        Self {
            volume: VolumeAccess { user: volume.user(), channel },
            region_bytes: volume.region_bytes(),
            terms,
            format: *format,
            contexts: *contexts,
            inbox,
            replies: Replies::new(outbox, memory.own()),
            memory,
            data: 0..0,
        }
    }

    /// Serves the client until it closes the connection or the connection has to end. Replies that
    /// are complete by then are sent.
    pub(super) fn run(&mut self) -> SessionEnd {
        let header = parse::request_bytes(self.terms.extended);
        loop {
            if let Err(ended) = self.next(header) {
                return match self.replies.flush() {
                    Err(error) if matches!(ended, SessionEnd::Client) => error.into(),
                    _ => ended,
                };
            }
        }
    }

    fn next(&mut self, header: usize) -> Result<(), SessionEnd> {
        self.need(header)?;
        let request = parse::request(&self.inbox.have()[..header], self.terms.extended)?;
        self.inbox.consume(header);
        self.volume.channel.note_request();
        self.handle(&request)?;
        Ok(self.replies.flush_many()?)
    }

    /// Receives until `len` bytes are there. All replies are sent before it waits.
    fn need(&mut self, len: usize) -> Result<(), SessionEnd> {
        while self.inbox.have().len() < len {
            self.replies.flush()?;
            self.inbox.receive(len)?;
        }
        Ok(())
    }

    fn handle(&mut self, request: &Request) -> Result<(), SessionEnd> {
        let payload = request.payload(self.terms.extended)? as usize;
        let header = self.header(request);
        let task = match request.task(&self.terms) {
            Ok(task) => task,
            Err(error) => {
                self.skip(payload)?;
                self.refuse(header, error);
                return Ok(());
            }
        };
        // The range was checked against the size of the export.
        let range = request.offset..request.offset.saturating_add(request.length);
        match task {
            RequestKind::Read { whole } => self.read(header, range, whole),
            RequestKind::Write => self.write(header, range, request.durable()),
            RequestKind::Disconnect => Err(SessionEnd::Client),
            RequestKind::Flush => self.submit(header, Operation::Flush, 0..0, false),
            RequestKind::Status { one, chosen } => self.status(request, payload, one, chosen),
            _ if range.is_empty() => {
                self.done(header);
                Ok(())
            }
            RequestKind::Trim => self.submit(header, Operation::Discard, range, request.durable()),
            RequestKind::Cache => self.submit(header, Operation::Hydrate, range, false),
            RequestKind::Zero { fast: true, deallocate }
                if !(deallocate && self.is_fast(&range)) =>
            {
                self.refuse(header, errno::ENOTSUP);
                Ok(())
            }
            RequestKind::Zero { deallocate, .. } => {
                let operation = Operation::WriteZeroes { deallocate };
                self.submit(header, operation, range, request.durable())
            }
        }
    }

    fn header(&self, request: &Request) -> ReplyHeader {
        ReplyHeader { format: self.format, cookie: request.cookie, offset: request.offset }
    }

    fn skip(&mut self, len: usize) -> Result<(), SessionEnd> {
        if len > self.inbox.have().len() {
            self.replies.flush()?;
        }
        Ok(self.inbox.skip(len)?)
    }

    fn done(&mut self, header: ReplyHeader) {
        self.replies.put(&header.done(false));
    }

    fn refuse(&mut self, header: ReplyHeader, error: u32) {
        let reason = match error {
            errno::ENOTSUP => "it would have to be written",
            errno::EOVERFLOW => "too long for one read",
            errno::ENOSPC => "past the end of the export",
            _ => "the request is invalid",
        };
        self.fail(header, error, reason);
    }

    fn fail(&mut self, header: ReplyHeader, error: u32, reason: &str) {
        self.replies.put(&header.error(error, reason));
    }

    fn answer(
        &mut self,
        header: ReplyHeader,
        operation: Operation,
        result: Result<(), RequestError>,
    ) {
        self.replies.put(&answer(header, operation, result));
    }

    /// Returns whether zeroing `range` needs no copy and little writing: regions that it covers in
    /// part must be hydrated, and the range must contain something to punch. The destination is
    /// assumed to support holes, since only trying would show it.
    fn is_fast(&self, range: &ByteRange) -> bool {
        let is_there = |at: u64| {
            let covers = at.is_multiple_of(self.region_bytes) || at == self.terms.size_bytes;
            covers
                || matches!(self.volume.user.hydrated(&(at..at.saturating_add(1))), Some((true, _)))
        };
        // Wherever the range starts, it then contains a whole block, which can become a hole.
        let enough = self.volume.user.block_bytes().saturating_mul(2);
        range.end - range.start >= enough && is_there(range.start) && is_there(range.end)
    }

    /// Sends the pending replies before the source is asked for extents of `range`, because it may
    /// be slow. Not needed if the range is hydrated.
    fn before_source(&mut self, range: &ByteRange) -> io::Result<()> {
        if self.volume.is_there(range) { Ok(()) } else { self.replies.flush() }
    }

    /// Reserves memory for the buffer of a request. Waits until the connection may have more;
    /// `None` if all connections together use too much, and the request has to be done in pieces.
    fn lease(&mut self, bytes: u64) -> Result<Option<MemoryLease>, SessionEnd> {
        if !self.replies.outbox().has_room(bytes) {
            self.replies.flush()?;
            self.replies.outbox().wait_for_room(bytes)?;
        }
        Ok(self.memory.lease(bytes))
    }

    /// Submits a request without data.
    fn submit(
        &mut self,
        header: ReplyHeader,
        operation: Operation,
        range: ByteRange,
        durable: bool,
    ) -> Result<(), SessionEnd> {
        // An empty buffer needs no memory, and `lease` waits for a free slot.
        let Some(lease) = self.lease(0)? else { return Err(io::Error::other("no room").into()) };
        let slot = self.replies.outbox().slot(lease);
        self.volume.user.submit(operation, range, durable, Vec::new(), move |result, _| {
            slot.answer(None, answer(header, operation, result));
        });
        Ok(())
    }

    /// Handles a request for the status of a range.
    fn status(
        &mut self,
        request: &Request,
        payload: usize,
        one: bool,
        chosen: bool,
    ) -> Result<(), SessionEnd> {
        let header = self.header(request);
        let task = RequestKind::Status { one, chosen };
        let (mut length, mut contexts) = (request.length, Some(self.contexts));
        if chosen {
            if payload > STATUS_PAYLOAD_MAX {
                self.skip(payload)?;
                self.refuse(header, errno::EINVAL);
                return Ok(());
            }
            self.need(payload)?;
            let parsed = parse::status_payload(&self.inbox.have()[..payload]);
            self.inbox.consume(payload);
            (length, contexts) = match parsed {
                Some((length, ids)) => (length, self.contexts.only(&ids)),
                None => (0, None),
            };
        }
        let is_good = request.check_range(task, length, &self.terms).is_ok();
        let Some(contexts) = contexts.filter(|contexts| is_good && !contexts.is_empty()) else {
            self.refuse(header, errno::EINVAL);
            return Ok(());
        };
        let range = request.offset..request.offset.saturating_add(length);
        self.before_source(&range)?;
        let mut left = contexts.iter().count();
        for context in contexts.iter() {
            left -= 1;
            let extents = status::extents(&self.volume.user, context, &range, one);
            self.replies.put(&header.status(context.id(), &extents, left == 0));
        }
        Ok(())
    }
}

/// Maximum length in bytes of the payload of a status request: room for a length and more contexts
/// than exist.
const STATUS_PAYLOAD_MAX: usize = 4096;

/// Returns the error of the protocol ("Error values").
fn errno_of(operation: Operation, error: RequestError) -> u32 {
    let writes =
        matches!(operation, Operation::Write | Operation::WriteZeroes { .. } | Operation::Discard);
    match error {
        RequestError::PastEnd if matches!(operation, Operation::Discard) => errno::EINVAL,
        RequestError::PastEnd | RequestError::Full(_) if writes => errno::ENOSPC,
        RequestError::PastEnd => errno::EINVAL,
        // A flush does not get EPERM: earlier writes may be lost, which is worse.
        RequestError::ReadOnly if writes => errno::EPERM,
        RequestError::Stopped => errno::ESHUTDOWN,
        _ => errno::EIO,
    }
}

/// Returns the reply to a request without data.
fn answer(header: ReplyHeader, operation: Operation, result: Result<(), RequestError>) -> Message {
    match result {
        Ok(()) => header.done(false),
        Err(error) => failure(header, operation, error),
    }
}

fn failure(header: ReplyHeader, operation: Operation, error: RequestError) -> Message {
    header.error(errno_of(operation, error), &error.to_string())
}

/// The volume, as this connection uses it.
struct VolumeAccess {
    user: User,
    channel: Arc<Channel>,
}

impl VolumeAccess {
    /// Returns whether all of `range` is hydrated.
    fn is_there(&self, range: &ByteRange) -> bool {
        matches!(self.user.hydrated(range), Some((true, end)) if end >= range.end)
    }

    /// Submits a request and waits for it, unless the connection is cut. The caller must have sent
    /// the pending replies.
    fn submit_and_wait(
        &self,
        operation: Operation,
        range: ByteRange,
        durable: bool,
        buffer: Vec<u8>,
    ) -> Result<(Result<(), RequestError>, Vec<u8>), SessionEnd> {
        let (done, wait) = mpsc::sync_channel(1);
        self.user.submit(operation, range, durable, buffer, move |result, buffer| {
            // The receiver is gone if the connection was cut.
            let _ = done.send((result, buffer));
        });
        loop {
            match wait.recv_timeout(CUT_POLL_INTERVAL) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) if !self.channel.is_cut() => {}
                Err(_) => return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
            }
        }
    }
}
