//! A call: the requests of one thread. The thread waits for their replies, and reads from the
//! connection when no other thread does.

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Condvar, PoisonError};
use std::time::Instant;

use crate::source::nbd::connection::{Connection, State};
use crate::source::nbd::error::NbdError;
use crate::source::nbd::inbound::{DRAINED, Data, Inbound};
use crate::source::nbd::reply::{Message, Parsed, Run, Violation, parse, violation};
use crate::source::nbd::request::{Command, Request};

/// Approximate maximum number of requests in flight. They must fit into the buffers of the socket:
/// otherwise writers would wait for a server that waits for readers.
const REQUESTS_MAX: usize = 128;
impl Connection {
    /// Fills `into` from `offset` on. `piece` is the length of a request in bytes, `window` the
    /// maximum number of requests in flight.
    pub(super) fn read(
        &self,
        offset: u64,
        into: &mut [u8],
        (piece, window): (u64, usize),
        deadline: Instant,
    ) -> Result<(), NbdError> {
        let end = offset.saturating_add(into.len() as u64);
        let mut at = offset;
        let mut call = Call::new(self, offset, into, deadline);
        loop {
            let window = window.min(REQUESTS_MAX / self.users().max(1)).max(1);
            let mut wanted = Vec::new();
            // After a failure no more requests are sent, but those in flight are waited for.
            while at < end && !call.has_failed() && call.waits_for() + wanted.len() < window {
                let until = (at / piece + 1).saturating_mul(piece).min(end);
                wanted.push((Command::Read, at..until));
                at = until;
            }
            call.send(wanted)?;
            if call.waits_for() == 0 {
                return call.end().map(drop);
            }
            call.collect()?;
        }
    }

    /// Reads the extents of `range` in the context with the number `context`. They begin at the
    /// start of the range, and may cover less or more than it.
    pub(super) fn status(
        &self,
        range: Range<u64>,
        context: u32,
        deadline: Instant,
    ) -> Result<Vec<Run>, NbdError> {
        let mut call = Call::new(self, range.start, &mut [], deadline);
        call.send(vec![(Command::Status { context }, range)])?;
        call.collect()?;
        call.end()
    }
}

/// The requests of one caller, a thread that waits for them.
pub(super) struct Call<'a> {
    connection: &'a Connection,
    /// Wakes the caller.
    wake: Arc<Condvar>,
    /// Cookies of the unanswered requests.
    cookies: Vec<u64>,
    /// Buffer for data; its first byte is the byte `offset` of the export.
    into: &'a mut [u8],
    offset: u64,
    /// Extents from the replies.
    extents: Vec<Run>,
    failure: Option<NbdError>,
    begun: Instant,
    deadline: Instant,
}

/// Converts a range of the export to a range of a buffer whose first byte is the byte `offset` of
/// the export.
fn place(range: &Range<u64>, offset: u64) -> Option<Range<usize>> {
    let start = usize::try_from(range.start.checked_sub(offset)?).ok()?;
    let end = usize::try_from(range.end.checked_sub(offset)?).ok()?;
    Some(start..end)
}

impl<'a> Call<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        offset: u64,
        into: &'a mut [u8],
        deadline: Instant,
    ) -> Self {
        Self {
            connection,
            wake: Arc::default(),
            cookies: Vec::new(),
            into,
            offset,
            extents: Vec::new(),
            failure: None,
            begun: Instant::now(),
            deadline,
        }
    }

    /// Returns the number of unanswered requests.
    pub(super) fn waits_for(&self) -> usize {
        self.cookies.len()
    }

    /// Returns whether one of the requests failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Returns the result of all requests: the extents, or the first error.
    pub(super) fn end(mut self) -> Result<Vec<Run>, NbdError> {
        self.failure.take().map_or_else(|| Ok(mem::take(&mut self.extents)), Err)
    }

    /// Sends requests.
    ///
    /// # Errors
    /// - [`NbdError::Closed`]: the connection is closed.
    /// - [`NbdError::Io`], [`NbdError::Late`]: sending fails, which closes the connection.
    pub(super) fn send(&mut self, wanted: Vec<(Command, Range<u64>)>) -> Result<(), NbdError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let format = self.connection.export().format;
        let mut bytes = Vec::new();
        let mut state = self.connection.state();
        if let Some(why) = &state.closed {
            return Err(NbdError::Closed(why.clone()));
        }
        for (command, range) in wanted {
            let request = Request::new(command, range, self.wake.clone());
            let cookie = state.next_cookie();
            request.encode(format, cookie, &mut bytes);
            state.requests.insert(cookie, request);
            self.cookies.push(cookie);
        }
        drop(state);
        self.connection.send(&bytes, self.deadline)
    }

    /// Waits until at least one more request is answered.
    ///
    /// # Errors
    /// - [`NbdError::Closed`]: the connection was closed.
    /// - [`NbdError::Late`]: the deadline has passed.
    /// - [`NbdError::Io`], [`NbdError::Violation`]: reading fails, or the server breaks the
    ///   protocol. The connection is closed.
    pub(super) fn collect(&mut self) -> Result<(), NbdError> {
        let connection = self.connection;
        let mut state = connection.state();
        let result = loop {
            if self.take_answers(&mut state) {
                break Ok(());
            }
            if let Some(why) = &state.closed {
                self.cookies.clear();
                break Err(NbdError::Closed(why.clone()));
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Err(NbdError::Late);
            }
            let Some(mut inbound) = self.turn(&mut state) else {
                state.pass_on(&self.wake);
                state.waiting.push(self.wake.clone());
                let woken = self.wake.wait_timeout(state, left);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                state.waiting.retain(|other| !Arc::ptr_eq(other, &self.wake));
                continue;
            };
            drop(state);
            let read = self.read(&mut inbound);
            state = connection.state();
            state.inbound = Some(inbound);
            match read {
                // A request is answered, or another caller has to read, or the deadline passed.
                Ok(()) | Err(NbdError::Late) => {}
                Err(error) if state.closed.is_none() => {
                    connection.close(&mut state, &error);
                    self.cookies.clear();
                    break Err(error);
                }
                Err(_) => {}
            }
        };
        state.pass_on(&self.wake);
        result
    }

    /// Takes the answered requests; false if there are none.
    fn take_answers(&mut self, state: &mut State) -> bool {
        let before = self.cookies.len();
        let mut cookies = mem::take(&mut self.cookies);
        cookies.retain(|cookie| {
            let is_answered = state.requests.get(cookie).is_some_and(Request::is_answered);
            if is_answered && let Some(request) = state.requests.remove(cookie) {
                self.take(request);
            }
            !is_answered
        });
        self.cookies = cookies;
        self.cookies.len() < before
    }

    fn take(&mut self, request: Request) {
        for hole in request.holes() {
            let place = place(hole, self.offset);
            if let Some(zeroes) = place.and_then(|place| self.into.get_mut(place)) {
                zeroes.fill(0);
            }
        }
        match request.outcome() {
            Ok(extents) => self.extents.extend(extents),
            Err(error) => {
                self.failure.get_or_insert(error);
            }
        }
    }

    /// Takes the right to read, unless another caller has it or the next data belong to another
    /// caller.
    fn turn(&self, state: &mut State) -> Option<Inbound> {
        let is_others = |data: &Data| {
            let owner = state.requests.get(&data.cookie);
            owner.is_some_and(|it| it.caller.is_some()) && !self.cookies.contains(&data.cookie)
        };
        if state.inbound.as_ref()?.data.as_ref().is_some_and(is_others) {
            return None;
        }
        state.inbound.take()
    }

    /// Reads until a request of this call is answered, or until data arrive for another caller.
    fn read(&mut self, inbound: &mut Inbound) -> Result<(), NbdError> {
        let connection = self.connection;
        let format = connection.export().format;
        let refuse = |Violation(what): Violation| NbdError::Violation(what);
        loop {
            if inbound.data.is_some() {
                self.read_data(inbound)?;
                if let Some(Data { cookie, .. }) = inbound.data.take() {
                    let mut state = connection.state();
                    if let Some(request) = state.requests.get_mut(&cookie) {
                        request.received();
                    }
                    if self.settle(&mut state, cookie) {
                        return Ok(());
                    }
                }
            }
            if Instant::now() >= self.deadline {
                return Err(NbdError::Late);
            }
            match parse(format, inbound.bytes()).map_err(refuse)? {
                Parsed::Need(need) => {
                    inbound.fill(need, |room| connection.receive(room, self.deadline))?;
                }
                Parsed::Message(len, message) => {
                    inbound.seen(len);
                    if self.handle_message(inbound, message).map_err(refuse)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Handles a message for any caller; true if this call must stop reading.
    fn handle_message(&self, inbound: &mut Inbound, message: Message) -> Result<bool, Violation> {
        let format = self.connection.export().format;
        let cookie = message.cookie;
        let mut state = self.connection.state();
        let Some(request) = state.requests.get_mut(&cookie) else {
            return violation("a reply without a request");
        };
        if let Some(range) = request.take(format, message)? {
            inbound.data = Some(Data { cookie, range });
            return Ok(request.caller.is_some() && !self.cookies.contains(&cookie));
        }
        Ok(self.settle(&mut state, cookie))
    }

    /// Wakes the caller of an answered request; true if the request belongs to this call.
    fn settle(&self, state: &mut State, cookie: u64) -> bool {
        state.settle(cookie);
        let is_answered = state.requests.get(&cookie).is_some_and(Request::is_answered);
        is_answered && self.cookies.contains(&cookie)
    }

    /// Reads the next data. They belong to this call, or to an abandoned request.
    fn read_data(&mut self, inbound: &mut Inbound) -> Result<(), NbdError> {
        let Some(data) = &mut inbound.data else { return Ok(()) };
        let mut scratch = Vec::new();
        let mut into = None;
        if self.cookies.contains(&data.cookie) {
            into = place(&data.range, self.offset).and_then(|place| self.into.get_mut(place));
            if into.is_none() {
                return Err(NbdError::Violation("data without a request".into()));
            }
        }
        while !data.range.is_empty() {
            let left = usize::try_from(data.range.end - data.range.start).unwrap_or(usize::MAX);
            let room = match &mut into {
                Some(into) => &mut **into,
                None => {
                    scratch.resize(left.min(DRAINED), 0);
                    &mut scratch[..]
                }
            };
            let at_hand = inbound.buffer.get(inbound.unseen.clone()).unwrap_or_default();
            let got = if at_hand.is_empty() {
                self.connection.receive(room, self.deadline)?
            } else {
                let got = at_hand.len().min(room.len());
                room[..got].copy_from_slice(&at_hand[..got]);
                inbound.unseen.start += got;
                got
            };
            data.range.start += got as u64;
            into = into.map(|into| into.get_mut(got..).unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for Call<'_> {
    /// Abandons the unanswered requests.
    fn drop(&mut self) {
        let mut state = self.connection.state();
        if state.closed.is_some() {
            return;
        }
        let gives_up = !self.cookies.is_empty();
        for cookie in mem::take(&mut self.cookies) {
            state.abandon(cookie);
        }
        if gives_up {
            self.connection.given_up(&mut state, self.begun);
        }
        state.pass_on(&self.wake);
    }
}
