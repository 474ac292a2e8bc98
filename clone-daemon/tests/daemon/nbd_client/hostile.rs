//! The client with servers that break the protocol, by accident or on purpose.
#![expect(clippy::big_endian_bytes, reason = "that is the order of the protocol")]

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clone_daemon::nbd_protocol::{
    EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, command, export, handshake, info, option,
    option_reply,
};
use clone_daemon::source::nbd::{NbdError, NbdOptions, NbdRemote};
use clone_daemon::source::remote::{Remote, RemoteError};
use clone_daemon::source::uri::{NbdAddress, NbdEndpoint};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::servers::{LONG, noise, soon};

/// Size of the export in bytes.
const SIZE: usize = 64 << 10;
/// Length of a request in bytes; the tested read needs four of them.
const PIECE: u32 = 16 << 10;
/// Number of the context `base:allocation`.
const CONTEXT: u32 = 7;

/// Damage to the output of a server, apart from data.
#[derive(Clone, Copy, Debug)]
enum Harm {
    None,
    /// Changes the byte at this offset.
    Change(usize, u8),
    /// Inserts a byte at this offset; `Leave` removes one.
    Insert(usize, u8),
    Leave(usize),
    /// Ends the connection at this offset.
    End(usize),
}

/// The features of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skill {
    Old,
    Simple,
    Structured,
    Extended,
}

/// The server's side of a connection.
struct Talk {
    stream: UnixStream,
    harm: Harm,
    skill: Skill,
    /// The negotiated format of replies.
    style: Skill,
    /// Offset of the current request in bytes.
    asked: u64,
    said: usize,
}

impl Talk {
    /// Sends bytes, with the damage applied.
    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        let place = |at: usize| at.checked_sub(self.said).filter(|&at| at < bytes.len());
        let said = bytes.len();
        let mut ends = false;
        match self.harm {
            Harm::None => {}
            Harm::Change(at, by) => {
                if let Some(at) = place(at) {
                    bytes[at] ^= by;
                }
            }
            Harm::Insert(at, byte) => {
                if let Some(at) = place(at) {
                    bytes.insert(at, byte);
                }
            }
            Harm::Leave(at) => {
                if let Some(at) = place(at) {
                    bytes.remove(at);
                }
            }
            Harm::End(at) => {
                if let Some(at) = place(at) {
                    bytes.truncate(at);
                    ends = true;
                }
            }
        }
        self.said += said;
        self.stream.write_all(&bytes)?;
        if ends { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }

    fn hear<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn reply(&mut self, option: u32, reply: u32, payload: &[u8]) -> io::Result<()> {
        let numbers = [option, reply, payload.len() as u32].map(u32::to_be_bytes).concat();
        self.say(&[&OPTION_REPLY_MAGIC.to_be_bytes()[..], &numbers, payload].concat())
    }

    /// Negotiates with the client.
    fn greet(&mut self) -> io::Result<()> {
        let flags = match self.skill {
            Skill::Old => 0,
            _ => handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES,
        };
        let magics = [MAGIC, OPTION_MAGIC].map(u64::to_be_bytes).concat();
        self.say(&[&magics[..], &flags.to_be_bytes()].concat())?;
        let zeroes = self.hear::<4>()?[3] & handshake::NO_ZEROES as u8 == 0;
        let flags = (export::HAS_FLAGS | export::READ_ONLY).to_be_bytes();
        let about = [&(SIZE as u64).to_be_bytes()[..], &flags].concat();
        loop {
            let header = self.hear::<16>()?;
            let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            let (asked, len) = (number(8), number(12).min(8192));
            let mut data = vec![0; len as usize];
            self.stream.read_exact(&mut data)?;
            match (asked, self.skill) {
                (option::EXPORT_NAME, _) => {
                    let zeroes = if zeroes { 124 } else { 0 };
                    return self.say(&[&about[..], &vec![0; zeroes]].concat());
                }
                (option::GO, _) => {
                    self.reply(asked, option_reply::INFO, &tell(info::EXPORT, &about))?;
                    let told = tell(info::DESCRIPTION, b"a disk");
                    self.reply(asked, option_reply::INFO, &told)?;
                    let blocks = [512_u32, 4096, 1 << 20].map(u32::to_be_bytes).concat();
                    self.reply(asked, option_reply::INFO, &tell(info::BLOCK_SIZE, &blocks))?;
                    return self.reply(asked, option_reply::ACK, &[]);
                }
                (option::EXTENDED_HEADERS, Skill::Extended) => {
                    self.style = Skill::Extended;
                    self.reply(asked, option_reply::ACK, &[])?;
                }
                (option::STRUCTURED_REPLY, Skill::Structured | Skill::Extended) => {
                    self.style = Skill::Structured;
                    self.reply(asked, option_reply::ACK, &[])?;
                }
                (option::SET_META_CONTEXT, Skill::Structured | Skill::Extended) => {
                    let name = [&CONTEXT.to_be_bytes()[..], b"base:allocation"].concat();
                    self.reply(asked, option_reply::META_CONTEXT, &name)?;
                    self.reply(asked, option_reply::ACK, &[])?;
                }
                _ => self.reply(asked, option_reply::ERR_UNSUP, b"no")?,
            }
        }
    }

    /// Answers requests.
    fn serve(&mut self, content: &[u8]) -> io::Result<()> {
        loop {
            let mut header = self.hear::<28>()?.to_vec();
            if header[..4] == EXTENDED_REQUEST_MAGIC.to_be_bytes() {
                header.extend(self.hear::<4>()?);
                header.drain(24..28);
            }
            let asked = u16::from_be_bytes(header[6..8].try_into().unwrap());
            let cookie: [u8; 8] = header[8..16].try_into().unwrap();
            let offset = u64::from_be_bytes(header[16..24].try_into().unwrap());
            let len = u64::from(u32::from_be_bytes(header[24..28].try_into().unwrap()));
            let end = offset.saturating_add(len) as usize;
            self.asked = offset;
            match (asked, content.get(offset as usize..end)) {
                (command::READ, Some(data)) => self.read(cookie, offset, data)?,
                (command::BLOCK_STATUS, Some(_)) => {
                    let wide = [CONTEXT, 2, 0, 16384, 0, 3, 0, 49152, 0, 0];
                    let (kind, numbers) = match self.style {
                        Skill::Extended => (chunk::BLOCK_STATUS_EXT, wide.to_vec()),
                        _ => (chunk::BLOCK_STATUS, vec![CONTEXT, 16384, 3, 49152, 0]),
                    };
                    let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_be_bytes).collect();
                    self.chunk(cookie, kind, true, &bytes, bytes.len())?;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Sends the data in the wrong order, and the first half of them as a hole if it is one.
    fn read(&mut self, cookie: [u8; 8], offset: u64, data: &[u8]) -> io::Result<()> {
        if matches!(self.style, Skill::Old | Skill::Simple) {
            let magic = SIMPLE_REPLY_MAGIC.to_be_bytes();
            self.say(&[&magic[..], &[0; 4], &cookie].concat())?;
            return self.stream.write_all(data);
        }
        let middle = data.len() / 2;
        let start = (offset + middle as u64).to_be_bytes();
        self.chunk(cookie, chunk::OFFSET_DATA, false, &start, 8 + data.len() - middle)?;
        self.stream.write_all(&data[middle..])?;
        if data[..middle].iter().all(|&byte| byte == 0) {
            let hole = [&offset.to_be_bytes()[..], &(middle as u32).to_be_bytes()].concat();
            self.chunk(cookie, chunk::OFFSET_HOLE, false, &hole, 12)?;
            return self.chunk(cookie, chunk::NONE, true, &[], 0);
        }
        self.chunk(cookie, chunk::OFFSET_DATA, true, &offset.to_be_bytes(), 8 + middle)?;
        self.stream.write_all(&data[..middle])
    }

    fn chunk(
        &mut self,
        cookie: [u8; 8],
        kind: u16,
        done: bool,
        payload: &[u8],
        len: usize,
    ) -> io::Result<()> {
        let flags = if done { chunk::DONE } else { 0 };
        let what = [flags, kind].map(u16::to_be_bytes).concat();
        let mut bytes = match self.style {
            Skill::Extended => EXTENDED_REPLY_MAGIC.to_be_bytes().to_vec(),
            _ => STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec(),
        };
        bytes.extend([&what[..], &cookie].concat());
        match self.style {
            Skill::Extended => {
                bytes.extend([self.asked, len as u64].map(u64::to_be_bytes).concat());
            }
            _ => bytes.extend((len as u32).to_be_bytes()),
        }
        self.say(&[&bytes[..], payload].concat())
    }
}

fn tell(kind: u16, what: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], what].concat()
}

/// Returns noise with a hole in the first half of the second piece.
fn content() -> Vec<u8> {
    let mut content = noise(5, SIZE);
    content[PIECE as usize..][..PIECE as usize / 2].fill(0);
    content
}

/// Serves one connection, and returns the number of bytes sent apart from data.
fn serve(listener: &UnixListener, skill: Skill, harm: Harm, content: &[u8]) -> usize {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut talk = Talk { stream, harm, skill, style: Skill::Simple, asked: 0, said: 0 };
    // However it ends, the connection is closed.
    let _ = talk.greet().and_then(|()| talk.serve(content));
    talk.said
}

fn open(socket: &Path, deadline: Instant, options: NbdOptions) -> Result<NbdRemote, NbdError> {
    let endpoint = NbdEndpoint::Unix(socket.to_owned());
    let address = NbdAddress { endpoint, export: String::new(), tls: false };
    NbdRemote::open(address, options, deadline)
}

/// Connects, reads, and asks for an extent, until `deadline`; asserts that the data are correct.
fn try_all(socket: &Path, content: &[u8], deadline: Instant) -> Result<(), RemoteError> {
    let options = NbdOptions { request_bytes: PIECE, ..NbdOptions::default() };
    let remote = open(socket, deadline, options)?;
    let mut into = vec![0xaa; SIZE];
    remote.read_at(0, &mut into, deadline)?;
    assert!(into == content, "wrong bytes were handed out");
    let extent = remote.extent(1, deadline)?;
    assert!(extent.end > 1 && extent.end <= remote.size_bytes(), "{extent:?}");
    Ok(())
}

#[test]
fn a_server_that_says_something_else_in_any_place_is_not_believed_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nbd");
    let listener = UnixListener::bind(&socket).unwrap();
    let content = content();
    let mut random = StdRng::seed_from_u64(0x4e42);
    for skill in [Skill::Old, Skill::Simple, Skill::Structured, Skill::Extended] {
        let run = |harm: Harm| {
            thread::scope(|scope| {
                let server = scope.spawn(|| serve(&listener, skill, harm, &content));
                let deadline = match harm {
                    Harm::None => soon(),
                    // A reply that is not here soon never arrives, because each side waits for the
                    // other. On a slow machine it could have arrived later; that counts as bad too.
                    _ => Instant::now() + Duration::from_millis(200),
                };
                let result = try_all(&socket, &content, deadline);
                (server.join().unwrap(), result)
            })
        };
        let (said, result) = run(Harm::None);
        assert!(result.is_ok(), "{skill:?}: {result:?}");
        let (mut good, mut bad) = (0, 0);
        for at in 0..said {
            let bit = 1 << random.random_range(0..8);
            let harms = [
                Harm::Change(at, bit),
                Harm::Change(at, random.random_range(1..=255)),
                Harm::Insert(at, random.random()),
                Harm::Leave(at),
                Harm::End(at),
            ];
            let harm = harms[random.next_u32() as usize % harms.len()];
            match run(harm).1 {
                Ok(()) => good += 1,
                Err(RemoteError::Changed(changed)) => panic!("{harm:?}: {changed}"),
                Err(_) => bad += 1,
            }
        }
        // Most bytes of a reply matter.
        assert!(bad > said / 3, "{skill:?}: {good} went well, {bad} did not");
    }
}

/// Starts a server that sends `bytes` to its first client, and then `more` repeatedly.
fn chatter(folder: &Path, bytes: Vec<u8>, more: Vec<u8>) -> (PathBuf, JoinHandle<()>) {
    let socket = folder.join("nbd");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut said = stream.write_all(&bytes);
        while said.is_ok() && !more.is_empty() {
            said = stream.write_all(&more);
        }
        // Until the client disconnects.
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    (socket, server)
}

#[test]
fn a_server_that_never_comes_to_an_end_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let magics = [MAGIC, OPTION_MAGIC].map(u64::to_be_bytes).concat();
    let greeting = [&magics[..], &[0, 3]].concat();
    let header = |kind: u32, len: u32| {
        let numbers = [option::EXTENDED_HEADERS, kind, len].map(u32::to_be_bytes).concat();
        [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &numbers].concat()
    };
    let long = header(option_reply::ERR_UNSUP, u32::MAX);
    let infos = header(option_reply::INFO, 0);
    for (what, bytes, more, is_late) in [
        ("silence", vec![], vec![], true),
        ("a greeting", greeting.clone(), vec![], true),
        ("half a reply", [&greeting[..], &infos[..7]].concat(), vec![], true),
        ("a reply of 4 GiB", [&greeting[..], &long].concat(), vec![], false),
        ("replies for ever", greeting, infos, false),
    ] {
        let (socket, server) = chatter(folder.path(), bytes, more);
        let patience = if is_late { Duration::from_millis(200) } else { LONG };
        let deadline = Instant::now() + patience;
        let error = open(&socket, deadline, NbdOptions::default()).err().unwrap();
        assert_eq!(matches!(error, NbdError::Late), is_late, "{what}: {error}");
        server.join().unwrap();
    }
}

#[test]
fn a_server_that_stops_in_the_middle_of_a_reply_is_left_and_another_asked() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nbd");
    let listener = UnixListener::bind(&socket).unwrap();
    let content = content();
    let served = content.clone();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let (harm, skill) = (Harm::None, Skill::Structured);
        let mut talk = Talk { stream, harm, skill, style: Skill::Simple, asked: 0, said: 0 };
        talk.greet().unwrap();
        let cookie = talk.hear::<28>().unwrap()[8..16].try_into().unwrap();
        talk.chunk(cookie, chunk::OFFSET_DATA, true, &[0; 8], 8 + PIECE as usize).unwrap();
        talk.stream.write_all(&[0xbb; PIECE as usize / 2]).unwrap();
        // Until the client disconnects.
        let _ = io::copy(&mut talk.stream, &mut io::sink());
        serve(&listener, skill, harm, &served)
    });
    let silence = Duration::from_millis(100);
    let options = NbdOptions { request_bytes: PIECE, silence, ..NbdOptions::default() };
    let remote = open(&socket, soon(), options).unwrap();
    let mut into = vec![0; SIZE];
    let deadline = Instant::now() + Duration::from_secs(3);
    let RemoteError::Passing(error) = remote.read_at(0, &mut into, deadline).unwrap_err() else {
        panic!("another connection may do");
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    remote.read_at(0, &mut into, soon()).unwrap();
    assert!(into == content);
    drop(remote);
    server.join().unwrap();
}

/// Returns a negotiation in which the selection of an export has these replies, one for each
/// information.
fn greeting_with(told: &[Vec<u8>], contexts: &[u32]) -> Vec<u8> {
    let reply = |option: u32, kind: u32, payload: &[u8]| {
        let numbers = [option, kind, payload.len() as u32].map(u32::to_be_bytes).concat();
        [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &numbers, payload].concat()
    };
    let mut bytes = [MAGIC, OPTION_MAGIC].map(u64::to_be_bytes).concat();
    bytes.extend((handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES).to_be_bytes());
    bytes.extend(reply(option::EXTENDED_HEADERS, option_reply::ACK, &[]));
    for context in contexts {
        let name = [&context.to_be_bytes()[..], b"base:allocation"].concat();
        bytes.extend(reply(option::SET_META_CONTEXT, option_reply::META_CONTEXT, &name));
    }
    bytes.extend(reply(option::SET_META_CONTEXT, option_reply::ACK, &[]));
    for information in told {
        bytes.extend(reply(option::GO, option_reply::INFO, information));
    }
    bytes.extend(reply(option::GO, option_reply::ACK, &[]));
    bytes
}

#[test]
fn what_a_server_tells_twice_of_an_export_is_settled_by_neither() {
    let folder = tempfile::tempdir().unwrap();
    let size = |size: u64| tell(info::EXPORT, &[&size.to_be_bytes()[..], &[0, 3]].concat());
    let blocks =
        |most: u32| tell(info::BLOCK_SIZE, &[512, 4096, most].map(u32::to_be_bytes).concat());
    let name = |name: &str| tell(info::DESCRIPTION, name.as_bytes());
    for (told, contexts, wrong) in [
        (vec![size(4096), name("a"), blocks(4096)], vec![7], None),
        // A repetition changes nothing.
        (vec![size(4096), size(4096), name("a"), name("a")], vec![7], None),
        (vec![size(4096), size(8192)], vec![7], Some("information 0 of the export twice")),
        (vec![size(8192), size(4096)], vec![7], Some("information 0 of the export twice")),
        (vec![size(4096), name("a"), name("b")], vec![], Some("information 2 of the export twice")),
        (
            vec![size(4096), blocks(4096), blocks(8192)],
            vec![],
            Some(
                "information 3 of the export \
                                                                     twice",
            ),
        ),
        (vec![size(4096)], vec![7, 8], Some("the context is given twice")),
        (vec![name("a")], vec![7], Some("does not report the size")),
    ] {
        let (socket, server) = chatter(folder.path(), greeting_with(&told, &contexts), vec![]);
        let opened = open(&socket, soon(), NbdOptions::default());
        match (opened, wrong) {
            (Ok(remote), None) => assert_eq!(remote.size_bytes(), 4096),
            (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{error}"),
            (Ok(_), Some(words)) => panic!("{words} is taken"),
            (Err(error), None) => panic!("{error}"),
        }
        server.join().unwrap();
    }
}
