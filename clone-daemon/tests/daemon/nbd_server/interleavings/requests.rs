//! Requests of every kind, and their expected replies.

use std::ops::Range;

use clone_daemon::export::nbd::reply::ReplyFormat;
use clone_daemon::nbd_protocol::{command, errno, flag};
use rand::Rng;
use rand::rngs::StdRng;

use super::super::raw::{Raw, be32, be64};
use super::world::{KIB, SHARED, SOUND, discarded_by, is_apart, written_by};

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write {
        byte: u8,
    },
    Zero,
    /// May also fail because it is not fast.
    FastZero,
    Status,
    /// A flush, a discard, or a hydrate request.
    Other,
    /// Must fail with this error.
    Bad(u32),
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    command: u16,
    pub(super) flags: u16,
    pub(super) range: Range<u64>,
}

impl Request {
    pub(super) fn read(range: Range<u64>) -> Self {
        Self { kind: Kind::Read, command: command::READ, flags: 0, range }
    }

    pub(super) fn is_read(&self) -> bool {
        self.kind == Kind::Read
    }

    /// Returns whether the reply must have one chunk of data.
    pub(super) fn is_whole(&self) -> bool {
        self.flags & flag::DF != 0
    }

    /// Returns the encoded request with its payload.
    pub(super) fn bytes(&self, extended: bool, cookie: u64) -> Vec<u8> {
        let Self { kind, command, range, .. } = self;
        let len = range.end.wrapping_sub(range.start);
        let payload = match kind {
            Kind::Write { byte } => vec![*byte; len as usize],
            Kind::Bad(errno::ENOSPC) => vec![1; len as usize],
            Kind::Status if extended => [&be64(len)[..], &be32(1), &be32(2)].concat(),
            _ => vec![],
        };
        let told = if extended && !payload.is_empty() { flag::PAYLOAD_LEN } else { 0 };
        let len = if payload.is_empty() { len } else { payload.len() as u64 };
        let what = (self.flags | told, *command);
        [Raw::request_bytes(extended, what, cookie, range.start, len), payload].concat()
    }
}

/// Generates the requests of a client that are in flight at the same time. No two of them use the
/// same bytes, unless both read.
pub(super) struct Planner<'a> {
    pub(super) rng: &'a mut StdRng,
    pub(super) client: u64,
    pub(super) style: ReplyFormat,
    pub(super) size: u64,
    /// Ranges in the client's own part that are in use; true for those that are written.
    pub(super) used: Vec<(Range<u64>, bool)>,
}

impl Planner<'_> {
    fn below(&mut self, end: u64) -> u64 {
        self.rng.next_u64() % end
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    fn range_in(&mut self, place: &Range<u64>, most: u64) -> Range<u64> {
        let len = 1 + self.below(most.min(place.end - place.start));
        let start = place.start + self.below(place.end - place.start - len + 1);
        start..start + len
    }

    /// Returns a free range of the client's own part, if one is found.
    fn own(&mut self, writes: bool) -> Option<Range<u64>> {
        let most = self.one_of(&[600, 9000, 70 * KIB, 300 * KIB]);
        let place = written_by(self.client);
        let tried: Vec<Range<u64>> = (0..8).map(|_| self.range_in(&place, most)).collect();
        let range = tried.into_iter().find(|range| {
            let clash = |(used, written): &(Range<u64>, bool)| {
                (writes || *written) && !is_apart(used, range)
            };
            !self.used.iter().any(clash)
        })?;
        self.used.push((range.clone(), writes));
        Some(range)
    }

    pub(super) fn next(&mut self) -> Request {
        let fua = self.one_of(&[0, 0, 0, flag::FUA]);
        let request = |kind, command, flags, range| Request { kind, command, flags, range };
        match self.below(16) {
            0..=5 => self.read(),
            6 | 7 => match self.own(true) {
                Some(range) => {
                    let byte = self.below(256) as u8;
                    request(Kind::Write { byte }, command::WRITE, fua, range)
                }
                None => self.read(),
            },
            8 => match self.own(true) {
                Some(range) => {
                    let flags = self.one_of(&[0, flag::NO_HOLE, flag::FAST_ZERO]);
                    let is_fast = flags & flag::FAST_ZERO != 0;
                    let kind = if is_fast { Kind::FastZero } else { Kind::Zero };
                    request(kind, command::WRITE_ZEROES, flags | fua, range)
                }
                None => self.read(),
            },
            9 => request(Kind::Other, command::FLUSH, 0, 0..0),
            10 | 11 => {
                let range = self.range_in(&discarded_by(self.client), 40 * KIB);
                request(Kind::Other, command::TRIM, fua, range)
            }
            12 => {
                let range = self.range_in(&SOUND, 20 * KIB);
                request(Kind::Other, command::CACHE, 0, range)
            }
            13 if self.style != ReplyFormat::Simple => {
                let flags = self.one_of(&[0, flag::REQ_ONE]);
                let range = self.range_in(&(0..self.size), 200 * KIB);
                request(Kind::Status, command::BLOCK_STATUS, flags, range)
            }
            14 => self.bad(),
            _ => self.read(),
        }
    }

    fn read(&mut self) -> Request {
        let most = self.one_of(&[600, 9000, 70 * KIB, 300 * KIB, 900 * KIB]);
        // A simple reply that fails in the middle ends the connection; another test covers that.
        let simple = self.style == ReplyFormat::Simple;
        let place = if simple && most > 256 * KIB { SOUND } else { SHARED };
        let range = match self.below(4) {
            0 => self.own(false),
            _ => None,
        };
        let range = range.unwrap_or_else(|| self.range_in(&place, most));
        let flags = if simple { 0 } else { self.one_of(&[0, 0, flag::DF]) };
        Request { kind: Kind::Read, command: command::READ, flags, range }
    }

    fn bad(&mut self) -> Request {
        let end = self.size;
        let (kind, command, flags, range) = match self.below(5) {
            0 => (errno::EINVAL, command::READ, 0, end - 100..end + 100),
            1 => (errno::ENOSPC, command::WRITE, 0, end - 100..end + 9000),
            2 => (errno::EINVAL, command::FLUSH, 0, 512..1024),
            3 => (errno::EINVAL, 77, 0, 0..0),
            _ => (errno::EINVAL, command::TRIM, flag::FAST_ZERO, 0..512),
        };
        Request { kind: Kind::Bad(kind), command, flags, range }
    }
}
