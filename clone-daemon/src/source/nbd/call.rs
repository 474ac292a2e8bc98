//! A caller that waits for replies, and reads them while nobody else does.

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Condvar, PoisonError};
use std::time::Instant;

use crate::source::nbd::connection::{Connection, State};
use crate::source::nbd::error::NbdError;
use crate::source::nbd::reply::{Message, Parsed, Run, Violation, parse, violation};
use crate::source::nbd::request::{Request, Wish};

/// What has been read of a connection, and belongs to no caller.
#[derive(Default)]
pub(super) struct Inbound {
    buffer: Vec<u8>,
    /// Where in it are bytes that nobody has seen.
    unseen: Range<usize>,
    /// Data that are on their way.
    pub(super) data: Option<Data>,
}

/// Data on their way.
pub(super) struct Data {
    /// Which request they belong to.
    pub(super) cookie: u64,
    /// Which bytes of the export are still to come.
    range: Range<u64>,
}

/// Requests of one caller, a thread, which waits for them.
pub(super) struct Call<'a> {
    connection: &'a Connection,
    /// Wakes it.
    wake: Arc<Condvar>,
    /// Those that have not been answered.
    cookies: Vec<u64>,
    /// Where data go, of which the first byte is at `offset` of the export.
    into: &'a mut [u8],
    offset: u64,
    /// What the server told of extents.
    extents: Vec<Run>,
    failure: Option<NbdError>,
    begun: Instant,
    deadline: Instant,
}

/// Where bytes of the export are in what begins at `offset` of it.
fn place(range: &Range<u64>, offset: u64) -> Option<Range<usize>> {
    let start = usize::try_from(range.start.checked_sub(offset)?).ok()?;
    let end = usize::try_from(range.end.checked_sub(offset)?).ok()?;
    Some(start..end)
}

/// Bytes that are read at once while nothing is known of what they are: some headers, or a small
/// reply.
const AHEAD: usize = 4096;
/// Bytes that are read at once in order to throw them away.
const DRAINED: usize = 64 << 10;

impl Inbound {
    fn bytes(&self) -> &[u8] {
        self.buffer.get(self.unseen.clone()).unwrap_or_default()
    }

    /// Takes away up to `len` bytes that have come.
    fn seen(&mut self, len: usize) {
        self.unseen.start = self.unseen.end.min(self.unseen.start.saturating_add(len));
    }

    /// Reads until there are `need` bytes. The buffer grows with what comes, not with what is
    /// announced.
    fn fill(&mut self, need: usize, from: &Connection, until: Instant) -> Result<(), NbdError> {
        self.buffer.copy_within(self.unseen.clone(), 0);
        self.unseen = 0..self.unseen.len();
        while self.unseen.len() < need {
            let size = need.min(2 * self.unseen.len()).max(AHEAD);
            self.buffer.resize(size, 0);
            self.buffer.shrink_to(DRAINED);
            let room = self.buffer.get_mut(self.unseen.end..).unwrap_or_default();
            self.unseen.end += from.receive(room, until)?;
        }
        Ok(())
    }
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

    /// How many requests it waits for.
    pub(super) fn waits_for(&self) -> usize {
        self.cookies.len()
    }

    /// Whether the server could not do one of them.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// What came of all of them.
    pub(super) fn end(mut self) -> Result<Vec<Run>, NbdError> {
        self.failure.take().map_or_else(|| Ok(mem::take(&mut self.extents)), Err)
    }

    /// Sends requests.
    pub(super) fn send(&mut self, wanted: Vec<(Wish, Range<u64>)>) -> Result<(), NbdError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let style = self.connection.export().style;
        let mut bytes = Vec::new();
        let mut state = self.connection.state();
        if let Some(why) = &state.closed {
            return Err(NbdError::Closed(why.clone()));
        }
        for (wish, range) in wanted {
            let request = Request::new(wish, range, self.wake.clone());
            let cookie = state.next_cookie();
            request.encode(style, cookie, &mut bytes);
            state.requests.insert(cookie, request);
            self.cookies.push(cookie);
        }
        drop(state);
        self.connection.send(&bytes, self.deadline)
    }

    /// Waits until at least one more request is answered.
    ///
    /// # Errors
    /// What ends the call: that the connection is lost, or that there is no more time.
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
                // There is an answer, or it is another's turn, or there is no more time.
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

    /// Takes what has been answered; false if nothing has.
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

    /// The right to read, if nobody else has it, and what comes next is not for somebody else.
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

    /// Reads until a request of this call is answered, or data come for another.
    fn read(&mut self, inbound: &mut Inbound) -> Result<(), NbdError> {
        let connection = self.connection;
        let style = connection.export().style;
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
            match parse(style, inbound.bytes()).map_err(refuse)? {
                Parsed::Need(need) => inbound.fill(need, connection, self.deadline)?,
                Parsed::Message(len, message) => {
                    inbound.seen(len);
                    if self.heed(inbound, message).map_err(refuse)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes a message, whomever it is for; true if this call should not read on.
    fn heed(&self, inbound: &mut Inbound, message: Message) -> Result<bool, Violation> {
        let style = self.connection.export().style;
        let cookie = message.cookie;
        let mut state = self.connection.state();
        let Some(request) = state.requests.get_mut(&cookie) else {
            return violation("a reply to nothing that was asked");
        };
        if let Some(range) = request.take(style, message)? {
            inbound.data = Some(Data { cookie, range });
            return Ok(request.caller.is_some() && !self.cookies.contains(&cookie));
        }
        Ok(self.settle(&mut state, cookie))
    }

    /// Whether a request is answered, and is one of this call.
    fn settle(&self, state: &mut State, cookie: u64) -> bool {
        state.settle(cookie);
        let is_answered = state.requests.get(&cookie).is_some_and(Request::is_answered);
        is_answered && self.cookies.contains(&cookie)
    }

    /// Reads the data that come next, which belong to this call or to nobody.
    fn read_data(&mut self, inbound: &mut Inbound) -> Result<(), NbdError> {
        let Some(data) = &mut inbound.data else { return Ok(()) };
        let mut scratch = Vec::new();
        let mut into = None;
        if self.cookies.contains(&data.cookie) {
            into = place(&data.range, self.offset).and_then(|place| self.into.get_mut(place));
            if into.is_none() {
                return Err(NbdError::Violation("data that nobody has room for".into()));
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
    /// What is not answered yet is given up.
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
