//! A client that keeps many requests in flight, and checks every byte of every reply.

use std::collections::BTreeMap;
use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};
use clone_daemon::export::nbd::reply::ReplyFormat;
use clone_daemon::nbd_protocol::{chunk, errno};
use rand::Rng;
use rand::rngs::StdRng;

use super::super::raw::{Chunk, Raw};
use super::pump::Pump;
use super::requests::{Kind, Planner, Request};
use super::world::{is_apart, written_by};

pub(super) struct Client {
    pub(super) number: u64,
    pub(super) style: ReplyFormat,
    pub(super) raw: Raw<Pump>,
    pub(super) rng: StdRng,
    /// The expected contents of the clone, except for the ranges of other clients.
    pub(super) model: Vec<u8>,
    pub(super) bad: Vec<Range<u64>>,
    pub(super) figures: Figures,
}

/// Counters of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) bytes: u64,
}

/// A request in flight.
struct Asked {
    request: Request,
    /// The ranges of the data that have arrived.
    got: Vec<Range<u64>>,
    /// True if some data were zeroes in place of the expected ones: an error must follow.
    padded: bool,
    contexts: Vec<u32>,
}

impl Client {
    /// Sends a number of requests, and receives their replies.
    pub(super) fn round(&mut self, requests: u64) {
        let (client, style, size) = (self.number, self.style, self.model.len() as u64);
        let used = Vec::new();
        let mut planner = Planner { rng: &mut self.rng, client, style, size, used };
        let requests: Vec<Request> = (0..requests).map(|_| planner.next()).collect();
        let mut under_way = BTreeMap::new();
        for (place, request) in (0..).zip(&requests) {
            let cookie = (self.rng.next_u64() << 8) | place;
            self.raw.send(&request.bytes(style == ReplyFormat::Extended, cookie));
            // Some are sent before the next ones are queued.
            if self.rng.next_u64().is_multiple_of(4) {
                std::io::Write::flush(&mut self.raw.stream).unwrap();
            }
            let (got, contexts) = Default::default();
            let asked = Asked { request: request.clone(), got, padded: false, contexts };
            under_way.insert(cookie, asked);
        }
        let mut failed = Vec::new();
        while !under_way.is_empty() {
            let reply = self.raw.reply();
            let cookie = reply.cookie;
            let asked = under_way.get_mut(&cookie);
            let asked =
                asked.unwrap_or_else(|| panic!("nobody asked for {:x?}", (cookie, reply.kind)));
            let error = self.take(asked, &reply);
            if reply.flags & chunk::DONE != 0 {
                let asked = under_way.remove(&cookie).unwrap();
                self.check(&asked, error);
                self.figures.requests += 1;
                if error.is_some() {
                    self.figures.errors += 1;
                    failed.push(asked.request.range);
                }
            }
        }
        for Request { kind, range, .. } in requests {
            let bytes = || range.start as usize..range.end as usize;
            match kind {
                Kind::Write { byte } => self.model[bytes()].fill(byte),
                Kind::Zero => self.model[bytes()].fill(0),
                Kind::FastZero if !failed.contains(&range) => self.model[bytes()].fill(0),
                _ => {}
            }
        }
    }

    /// Handles a reply or a chunk of one, and returns its error.
    fn take(&mut self, asked: &mut Asked, reply: &Chunk) -> Option<u32> {
        let range = asked.request.range.clone();
        if self.style == ReplyFormat::Extended {
            assert_eq!(reply.offset, range.start);
        }
        match reply.kind {
            // A simple reply, or the final chunk of a reply.
            0 if asked.request.is_read() && self.style == ReplyFormat::Simple => {
                if reply.error().is_none() {
                    let data = self.raw.receive((range.end - range.start) as usize);
                    self.take_data(asked, range.start, &data);
                }
            }
            // A read without data cannot end like this.
            0 => assert!(!asked.request.is_read() || !asked.got.is_empty(), "{:?}", asked.request),
            chunk::OFFSET_DATA => {
                let (offset, data) = reply.data.split_at(8);
                self.take_data(asked, BigEndian::read_u64(offset), data);
            }
            chunk::OFFSET_HOLE => {
                assert!(!asked.request.is_whole() && reply.data.len() == 12);
                let len = BigEndian::read_u32(&reply.data[8..]) as usize;
                self.take_data(asked, BigEndian::read_u64(&reply.data), &vec![0; len]);
                assert!(!asked.padded, "a hole where there is none");
            }
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => take_status(asked, reply),
            chunk::ERROR => {
                let told = usize::from(BigEndian::read_u16(&reply.data[4..]));
                assert_eq!(reply.data.len(), 6 + told);
                assert!(std::str::from_utf8(&reply.data[6..]).is_ok());
            }
            kind => panic!("a chunk of kind {kind}"),
        }
        reply.error()
    }

    fn take_data(&mut self, asked: &mut Asked, offset: u64, data: &[u8]) {
        assert!(asked.request.is_read() && !asked.padded, "{:?}", asked.request);
        let range = offset..offset + data.len() as u64;
        let all = &asked.request.range;
        assert!(all.start <= range.start && range.end <= all.end && !range.is_empty());
        assert!(asked.got.iter().all(|got| is_apart(got, &range)), "{range:?} comes twice");
        let right = &self.model[range.start as usize..range.end as usize];
        if data != right {
            let same = data.iter().zip(right).take_while(|(data, right)| data == right).count();
            let zeroes = data[same..].iter().all(|&byte| byte == 0);
            let request = &asked.request;
            assert!(zeroes, "garbage at {} in {range:?} of {request:?}", offset + same as u64);
            asked.padded = true;
        }
        self.figures.bytes += data.len() as u64;
        asked.got.push(range);
    }

    /// Checks a request that is answered.
    fn check(&self, asked: &Asked, error: Option<u32>) {
        let Asked { request, got, padded, contexts } = asked;
        let got: u64 = got.iter().map(|range| range.end - range.start).sum();
        let len = request.range.end.saturating_sub(request.range.start);
        let touches_bad = self.bad.iter().any(|bad| !is_apart(bad, &request.range));
        match (request.kind, error) {
            (Kind::Read, None) => assert!(got == len && !touches_bad && !padded, "{request:?}"),
            (Kind::Read, Some(error)) => {
                assert!(touches_bad && error == errno::EIO, "{request:?}: {error}");
            }
            (Kind::Bad(wanted), error) => assert_eq!(error, Some(wanted), "{request:?}"),
            (Kind::FastZero, Some(errno::ENOTSUP)) | (_, None) => {}
            (_, Some(error)) => panic!("{request:?}: {error}"),
        }
        if request.kind == Kind::Status {
            assert_eq!(contexts[..], [1, 2]);
        }
    }

    /// Reads the range that this client has written.
    pub(super) fn read_all(&mut self) {
        let range = written_by(self.number);
        let len = range.end - range.start;
        let what = (0, clone_daemon::nbd_protocol::command::READ);
        let extended = self.style == ReplyFormat::Extended;
        self.raw.send(&Raw::request_bytes(extended, what, 1, range.start, len));
        let request = Request::read(range.clone());
        let mut asked = Asked { request, got: vec![], padded: false, contexts: vec![] };
        loop {
            let reply = self.raw.reply();
            let error = self.take(&mut asked, &reply);
            if reply.flags & chunk::DONE != 0 {
                return self.check(&asked, error);
            }
        }
    }
}

/// Checks the extents of a context: there is at least one, none is empty, and none extends past the
/// range.
fn take_status(asked: &mut Asked, reply: &Chunk) {
    let Request { kind, range, .. } = &asked.request;
    assert_eq!(*kind, Kind::Status);
    let extended = reply.kind == chunk::BLOCK_STATUS_EXT;
    let (header, extents) = reply.data.split_at(if extended { 8 } else { 4 });
    asked.contexts.push(BigEndian::read_u32(header));
    let lengths: Vec<u64> = match extended {
        true => extents.chunks(16).map(BigEndian::read_u64).collect(),
        false => extents.chunks(8).map(|extent| BigEndian::read_u32(extent).into()).collect(),
    };
    assert!(!lengths.is_empty() && lengths.iter().all(|&len| len > 0));
    assert!(lengths.iter().sum::<u64>() <= range.end - range.start);
}
