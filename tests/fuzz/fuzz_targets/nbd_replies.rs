//! An NBD client with many requests in flight while the clone is suspended and resumed, with or
//! without recording and memory for buffers: every reply is complete and right.

#![no_main]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clone_core::block_io::ReadData;
use clone_core::block_io::{Extent, Source};
use clone_core::engine::Command;
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::{Server, ServerOptions};
use clone_daemon::export::volume::Volume;
use clone_daemon::nbd_protocol::{
    EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC, chunk, command, flag,
};
use clone_fuzz::memory::{One, start};
use libfuzzer_sys::fuzz_target;

const SIZE: Sectors = Sectors(2048);
const BYTES: u64 = SIZE.0 * 512;

/// The bytes that the source cannot read.
const BAD: Range<u64> = 700 << 10..704 << 10;

/// The bytes that are discarded and zeroed. Reads of them are not checked.
const VOID: Range<u64> = BYTES - (128 << 10)..BYTES;

/// A longer read is sent in pieces of this many bytes.
const PIECE: u64 = 256 << 10;

/// Returns the byte at an offset. It is the same in the source and in all writes.
fn byte(offset: u64) -> u8 {
    (offset ^ offset >> 8 ^ offset >> 15) as u8
}

/// A source with a bad spot.
struct Spotted;

impl ReadData for Spotted {
    fn size_bytes(&self) -> u64 {
        BYTES
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset + into.len() as u64;
        if offset < BAD.end && BAD.start < end {
            return Err(io::Error::other("a spot is bad"));
        }
        into.iter_mut().zip(offset..).for_each(|(into, at)| *into = byte(at));
        Ok(())
    }
}

impl Source for Spotted {
    fn extent(&self, _: u64) -> io::Result<Extent> {
        Ok(Extent { zeroes: false, end: BYTES })
    }
}

/// The reply format of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReplyFormat {
    Simple,
    Structured,
    Extended,
}

/// A request in flight.
struct Asked {
    command: u16,
    range: Range<u64>,
    /// True if it must fail.
    fails: bool,
    got: u64,
    padded: bool,
}

/// Returns the request of a step, and its bytes. No request writes to the bad spot. All requests of
/// an input fit into a socket, because a suspended clone may leave them there.
fn request(style: ReplyFormat, cookie: u64, step: [u8; 4]) -> (Asked, Vec<u8>) {
    let [kind, a, b, c] = step;
    let place = u64::from(u16::from_le_bytes([a, b])) * 11;
    let len = [1, 511, 4096, 5000, 70_000, 262_144, 262_145, 300_000][usize::from(c) % 8];
    let within = |end: u64, len: u64| {
        let start = place % (end - len);
        start..start + len
    };
    let simple = style == ReplyFormat::Simple;
    let touches = |range: &Range<u64>| range.start < BAD.end && BAD.start < range.end;
    let (command, flags, range, fails) = match kind {
        0..=3 => {
            // A simple reply that fails after its first piece ends the connection.
            let end = if simple && len > PIECE { BAD.start } else { VOID.start };
            let range = within(end, len);
            let flags = if kind == 3 && !simple { flag::DF } else { 0 };
            let fails = touches(&range);
            (command::READ, flags, range, fails)
        }
        4 | 5 => {
            let flags = if kind == 5 { flag::FUA } else { 0 };
            (command::WRITE, flags, within(BAD.start, len.min(511)), false)
        }
        6 => (command::FLUSH, 0, 0..0, false),
        7 | 8 => {
            let range = VOID.start + place % 4096..VOID.start + place % 4096 + len.min(70_000);
            let what = if kind == 7 { command::TRIM } else { command::WRITE_ZEROES };
            (what, 0, range, false)
        }
        9 => (command::CACHE, 0, within(BAD.start, len), false),
        10 => (99, 0, 0..0, true),
        _ => (command::READ, 0, BYTES - 10..BYTES + 10, true),
    };
    let len = range.end - range.start;
    let payload = command == command::WRITE;
    let told = if payload && style == ReplyFormat::Extended { flag::PAYLOAD_LEN } else { 0 };
    let mut bytes = match style {
        ReplyFormat::Extended => EXTENDED_REQUEST_MAGIC,
        ReplyFormat::Simple | ReplyFormat::Structured => REQUEST_MAGIC,
    }
    .to_be_bytes()
    .to_vec();
    bytes.extend((flags | told).to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(range.start.to_be_bytes());
    match style {
        ReplyFormat::Extended => bytes.extend(len.to_be_bytes()),
        ReplyFormat::Simple | ReplyFormat::Structured => bytes.extend((len as u32).to_be_bytes()),
    }
    if payload {
        bytes.extend(range.clone().map(byte));
    }
    (Asked { command, range, fails, got: 0, padded: false }, bytes)
}

/// Receives and checks replies.
struct Taker {
    stream: UnixStream,
    style: ReplyFormat,
    under_way: BTreeMap<u64, Asked>,
}

impl Taker {
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.stream.read_exact(&mut bytes).expect("a reply is whole");
        bytes
    }

    fn number(&mut self, len: u64) -> u64 {
        self.bytes(len).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Receives a reply, or a chunk of one. Returns whether a request is answered.
    fn take(&mut self) -> bool {
        let magic = self.number(4) as u32;
        if magic == SIMPLE_REPLY_MAGIC {
            assert!(self.style != ReplyFormat::Extended);
            let error = self.number(4);
            let cookie = self.number(8);
            let mut asked = self.under_way.remove(&cookie).expect("somebody asked");
            if asked.command == command::READ && error == 0 {
                assert!(self.style == ReplyFormat::Simple, "reads are answered by chunks");
                let range = asked.range.clone();
                let data = self.bytes(range.end - range.start);
                check(&mut asked, range.start, &data);
            }
            end(&asked, error != 0);
            return true;
        }
        let wanted = match self.style {
            ReplyFormat::Extended => EXTENDED_REPLY_MAGIC,
            ReplyFormat::Simple | ReplyFormat::Structured => STRUCTURED_REPLY_MAGIC,
        };
        assert!(magic == wanted && self.style != ReplyFormat::Simple, "{magic:x} begins no reply");
        let (flags, kind, cookie) = (self.number(2) as u16, self.number(2) as u16, self.number(8));
        let len = match self.style {
            ReplyFormat::Extended => {
                let offset = self.number(8);
                assert_eq!(
                    self.under_way.get(&cookie).map(|asked| asked.range.start),
                    Some(offset)
                );
                self.number(8)
            }
            ReplyFormat::Simple | ReplyFormat::Structured => self.number(4),
        };
        assert!(len <= BYTES + 8, "{len} bytes of payload");
        let payload = self.bytes(len);
        let asked = self.under_way.get_mut(&cookie).expect("somebody asked");
        match kind {
            chunk::OFFSET_DATA => {
                let (offset, data) = payload.split_at(8);
                let offset = offset.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
                check(asked, offset, data);
            }
            chunk::NONE | chunk::ERROR => {}
            kind => panic!("a chunk of kind {kind}"),
        }
        if flags & chunk::DONE == 0 {
            return false;
        }
        end(asked, kind == chunk::ERROR);
        self.under_way.remove(&cookie);
        true
    }
}

/// Checks data of a reply. Unreadable data may come as zeroes if an error follows.
fn check(asked: &mut Asked, offset: u64, data: &[u8]) {
    assert!(asked.command == command::READ && !asked.padded);
    let last = offset + data.len() as u64;
    assert!(asked.range.start <= offset && last <= asked.range.end);
    let wrong = (offset..last).zip(data).position(|(at, &is)| is != byte(at));
    if let Some(wrong) = wrong {
        assert!(data[wrong..].iter().all(|&byte| byte == 0), "garbage at {wrong} from {offset} on");
        asked.padded = true;
    }
    asked.got += data.len() as u64;
}

/// Checks an answered request.
fn end(asked: &Asked, failed: bool) {
    assert!(asked.fails == failed, "{} {:?}", asked.command, asked.range);
    if asked.command == command::READ && !failed {
        assert!(!asked.padded && asked.got == asked.range.end - asked.range.start);
    }
}

/// Connects, and chooses the only export with the options of a reply format.
fn connect(server: &Server, style: ReplyFormat) -> UnixStream {
    let (mut client, theirs) = UnixStream::pair().expect("there are sockets");
    server.serve(theirs).expect("there are threads");
    let mut send = vec![0, 0, 0, 3];
    let headers = match style {
        ReplyFormat::Simple => None,
        ReplyFormat::Structured => Some(8_u32),
        ReplyFormat::Extended => Some(11),
    };
    let options = headers.into_iter().map(|option| (option, &b""[..]));
    for (option, data) in options.chain([(7, &b"\0\0\0\0\0\0"[..])]) {
        send.extend(b"IHAVEOPT");
        send.extend(option.to_be_bytes());
        send.extend((data.len() as u32).to_be_bytes());
        send.extend(data);
    }
    client.write_all(&send).expect("it listens");
    // The greeting; an acknowledgement of the headers; the description of the export, and another
    // acknowledgement.
    let told = 18 + if headers.is_some() { 20 } else { 0 } + 20 + 12 + 20;
    client.read_exact(&mut vec![0; told]).expect("it answers");
    client
}

fuzz_target!(|input: &[u8]| {
    let Some((&how, steps)) = input.split_first() else { return };
    let styles = [ReplyFormat::Simple, ReplyFormat::Structured, ReplyFormat::Extended];
    let style = styles[usize::from(how) % 3];
    let clone = start(SIZE, Arc::new(Spotted));
    clone.command(Command::Record(how & 64 != 0));
    let volume = Arc::new(Volume::new("disk", 4096, clone.client()));
    let shared_bytes = if how & 128 != 0 { 256 << 20 } else { 0 };
    let options = ServerOptions { shared_bytes, ..ServerOptions::default() };
    let server = Server::start(Vec::new(), Arc::new(One(volume)), options);
    let server = server.expect("there are threads");
    let mut client = connect(&server, style);
    client.set_read_timeout(Some(Duration::from_secs(60))).expect("it is a socket");
    let steps: Vec<[u8; 4]> = steps.as_chunks().0.iter().take(100).copied().collect();
    let (mut under_way, mut actions) = (BTreeMap::new(), Vec::new());
    for (cookie, [kind, a, b, c]) in (1..).zip(steps) {
        match kind % 16 {
            kind @ 12..=14 => actions.push(Err(kind)),
            kind => {
                let (asked, bytes) = request(style, cookie, [kind, a, b, c]);
                under_way.insert(cookie, asked);
                actions.push(Ok(bytes));
            }
        }
    }
    let stream = client.try_clone().expect("there are files");
    let taker = Taker { stream, style, under_way };
    let answered = Arc::new(AtomicUsize::new(0));
    let counter = answered.clone();
    let reader = thread::spawn(move || {
        let mut taker = taker;
        while !taker.under_way.is_empty() {
            counter.fetch_add(usize::from(taker.take()), Ordering::Release);
        }
    });
    let (mut asked, mut is_suspended) = (0, false);
    for action in actions {
        match action {
            Ok(bytes) => {
                client.write_all(&bytes).expect("it listens");
                asked += 1;
            }
            Err(12) => {
                clone.suspend().expect("nothing fails but the source");
                is_suspended = true;
            }
            Err(13) => {
                let _ = clone.resume();
                is_suspended = false;
            }
            // Waits for all answers, unless the clone is suspended.
            Err(_) => {
                while !is_suspended && answered.load(Ordering::Acquire) < asked {
                    assert!(!reader.is_finished() || answered.load(Ordering::Acquire) == asked);
                    thread::yield_now();
                }
            }
        }
    }
    let _ = clone.resume();
    reader.join().expect("every reply is right");
    client.shutdown(Shutdown::Both).expect("it is connected");
    server.stop();
    clone.stop();
});
