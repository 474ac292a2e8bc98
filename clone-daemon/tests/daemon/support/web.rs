//! A web server that follows a script, including responses that no server should send.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The action of a server for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Responds correctly.
    Serve,
    /// Responds correctly after this delay.
    Late(Duration),
    /// Sends nothing and keeps the connection.
    Stall,
    /// Sends this many bytes of the body, and nothing more.
    StallAfter(usize),
    /// Sends this many bytes of the body, and hangs up.
    HangUpAfter(usize),
    /// A response without data, with this status and these header lines.
    Status(u16, &'static str),
    /// The body lacks its last byte; its length matches.
    Short,
    /// The body has an extra byte; its length matches.
    Long,
    /// Bytes of another range; the header is correct for them.
    Other(Range<usize>),
    /// The requested bytes; the header states this total size.
    Total(u64),
    /// The whole object.
    Whole,
    /// This many bytes at a time, with this delay.
    Drip(usize, Duration),
    /// A redirect with this status and target.
    Redirect(u16, String),
    /// Valid chunked encoding.
    Chunks,
    /// Chunked encoding; the second chunk has no length.
    BrokenChunks,
    /// The header claims a compressed body.
    Encoded,
    /// The header lacks the version and the range.
    Silent,
    /// These raw bytes.
    Raw(Vec<u8>),
    /// Bytes of another range. The header first claims the requested range, and then the real one.
    Contradict(Range<usize>),
}

impl Act {
    /// Returns whether the client waits for bytes that never come.
    pub(crate) fn stalls(&self) -> bool {
        matches!(self, Self::Stall | Self::StallAfter(_))
    }
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Number of requests received before.
    pub(crate) number: usize,
    pub(crate) path: String,
    /// Names are in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) range: Option<Range<usize>>,
    /// Number of the connection that it came on.
    pub(crate) connection: usize,
    /// Time of arrival.
    pub(crate) at: Instant,
}

impl Ask {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

type Script = Box<dyn Fn(&Ask) -> Act + Send + Sync>;

/// The object of the server.
#[derive(Clone, Default)]
pub(crate) struct Object {
    pub(crate) content: Arc<Vec<u8>>,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
}

#[derive(Default)]
struct State {
    object: Object,
    asked: Vec<Ask>,
    under_way: usize,
    under_way_max: usize,
    is_over: bool,
}

struct Shared {
    state: Mutex<State>,
    script: Mutex<Arc<Script>>,
    over: Condvar,
    tls: Option<Arc<ServerConfig>>,
}

/// A server. Dropping it stops it.
pub(crate) struct Web {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Web {
    /// Starts a server of one object with a strong ETag that responds correctly.
    pub(crate) fn start(content: &[u8]) -> Self {
        Self::listen(content, None)
    }

    /// As [`start`](Self::start), with TLS.
    pub(crate) fn start_tls(content: &[u8], config: ServerConfig) -> Self {
        Self::listen(content, Some(Arc::new(config)))
    }

    fn listen(content: &[u8], tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let object = Object {
            content: Arc::new(content.to_vec()),
            etag: Some("\"one\"".into()),
            last_modified: Some("Mon, 23 Nov 2026 02:00:00 GMT".into()),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State { object, ..State::default() }),
            script: Mutex::new(Arc::new(Box::new(|_| Act::Serve))),
            over: Condvar::new(),
            tls,
        });
        let server = shared.clone();
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                if server.lock().is_over {
                    return;
                }
                let server = server.clone();
                // A client that hangs up ends the thread, and so does the end of the server.
                thread::spawn(move || drop(server.talk(stream, connection)));
            }
        });
        Self { address, shared }
    }

    /// Follows `script` from now on.
    pub(crate) fn script(&self, script: impl Fn(&Ask) -> Act + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(Box::new(script));
    }

    /// Changes the object or its metadata.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Object)) {
        change(&mut self.shared.lock().object);
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}/disk", self.port())
    }

    /// Returns all requests so far.
    pub(crate) fn asked(&self) -> Vec<Ask> {
        self.shared.lock().asked.clone()
    }

    /// Returns the maximum number of requests in flight at the same time.
    pub(crate) fn under_way_max(&self) -> usize {
        self.shared.lock().under_way_max
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.over.notify_all();
        // Wakes the accepting thread, which then sees the end.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn talk(&self, stream: TcpStream, connection: usize) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let end = stream.try_clone()?;
        let result = match &self.tls {
            None => self.converse(BufReader::new(stream), connection),
            Some(config) => {
                let tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                self.converse(BufReader::new(StreamOwned::new(tls, stream)), connection)
            }
        };
        end.shutdown(Shutdown::Both)?;
        result
    }

    fn converse<S: Read + Write>(
        &self,
        mut stream: BufReader<S>,
        connection: usize,
    ) -> io::Result<()> {
        while let Some(mut ask) = read_ask(&mut stream, connection)? {
            let object = {
                let mut state = self.lock();
                ask.number = state.asked.len();
                state.asked.push(ask.clone());
                state.under_way += 1;
                state.under_way_max = state.under_way_max.max(state.under_way);
                state.object.clone()
            };
            let script = self.script.lock().unwrap().clone();
            let act = script(&ask);
            let result = self.answer(stream.get_mut(), &ask, &object, act);
            self.lock().under_way -= 1;
            if !result? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits for the end of the server.
    fn stall(&self) {
        let state = self.over.wait_while(self.lock(), |state| !state.is_over);
        drop(state.unwrap());
    }

    /// Sends a response. Returns false if the connection ends with it.
    fn answer(
        &self,
        to: &mut impl Write,
        ask: &Ask,
        object: &Object,
        act: Act,
    ) -> io::Result<bool> {
        let size = object.content.len();
        if let Some(status) = refused(ask, object).filter(|_| act == Act::Serve) {
            let range = format!("content-range: bytes */{size}\r\n");
            write!(to, "HTTP/1.1 {status} No\r\n{range}content-length: 0\r\n\r\n")?;
            return Ok(true);
        }
        let asked = ask.range.clone().unwrap_or(0..size);
        let asked = asked.start.min(size)..asked.end.min(size);
        let mut sent = Answer::new(object, asked.clone());
        match act {
            Act::Serve => {}
            Act::Late(wait) => thread::sleep(wait),
            Act::Stall => {
                self.stall();
                return Ok(false);
            }
            Act::StallAfter(bytes) => {
                to.write_all(&sent.bytes()[..sent.head().len() + bytes])?;
                to.flush()?;
                self.stall();
                return Ok(false);
            }
            Act::HangUpAfter(bytes) => {
                to.write_all(&sent.bytes()[..sent.head().len() + bytes])?;
                to.flush()?;
                return Ok(false);
            }
            Act::Status(status, lines) => {
                write!(to, "HTTP/1.1 {status} No\r\n{lines}content-length: 2\r\n\r\nno")?;
                return Ok(true);
            }
            Act::Redirect(status, place) => {
                let head = format!("HTTP/1.1 {status} There\r\nlocation: {place}\r\n");
                write!(to, "{head}content-length: 5\r\n\r\nthere")?;
                return Ok(true);
            }
            Act::Raw(bytes) => {
                to.write_all(&bytes)?;
                to.flush()?;
                return Ok(true);
            }
            Act::Short => drop(sent.body.pop()),
            Act::Long => sent.body.push(0),
            Act::Other(range) => sent = Answer::new(object, range),
            Act::Total(total) => sent.total = total,
            Act::Whole => {
                sent = Answer::new(object, 0..size);
                sent.is_part = false;
            }
            Act::Drip(bytes, wait) => {
                for part in sent.bytes().chunks(bytes) {
                    to.write_all(part)?;
                    to.flush()?;
                    thread::sleep(wait);
                }
                return Ok(true);
            }
            Act::Chunks | Act::BrokenChunks => {
                sent.lines.push_str("transfer-encoding: chunked\r\n");
                let half = sent.body.len() / 2;
                let (first, second) = sent.body.split_at(half);
                let length = |part: &[u8]| format!("{:x}\r\n", part.len()).into_bytes();
                let second_length =
                    if act == Act::Chunks { length(second) } else { b"zz\r\n".to_vec() };
                let parts = [&length(first), first, b"\r\n", &second_length, second];
                sent.body = [parts.concat(), b"\r\n0\r\n\r\n".to_vec()].concat();
                sent.has_length = false;
            }
            Act::Encoded => sent.lines.push_str("content-encoding: gzip\r\n"),
            Act::Silent => sent.tells = false,
            Act::Contradict(range) => {
                sent = Answer::new(object, range);
                let (first, last) = (asked.start, asked.end.saturating_sub(1));
                write!(sent.lines, "content-range: bytes {first}-{last}/{size}\r\n").unwrap();
            }
        }
        to.write_all(&sent.bytes())?;
        to.flush()?;
        Ok(true)
    }
}

/// Returns the error status if a condition does not hold or the range does not exist.
fn refused(ask: &Ask, object: &Object) -> Option<&'static str> {
    let etag = object.etag.as_deref();
    // A strong comparison: a weak ETag never matches.
    let is_other = |wanted: &str| etag != Some(wanted) || wanted.starts_with("W/");
    if ask.header("if-match").is_some_and(is_other) {
        return Some("412");
    }
    let then = ask.header("if-unmodified-since");
    if then.is_some() && then != object.last_modified.as_deref() {
        return Some("412");
    }
    let is_outside = |range: &Range<usize>| range.start >= object.content.len();
    ask.range.as_ref().is_some_and(is_outside).then_some("416")
}

struct Answer {
    is_part: bool,
    range: Range<usize>,
    total: u64,
    tells: bool,
    has_length: bool,
    lines: String,
    body: Vec<u8>,
}

impl Answer {
    fn new(object: &Object, range: Range<usize>) -> Self {
        let mut lines = String::new();
        for (name, value) in [("etag", &object.etag), ("last-modified", &object.last_modified)] {
            if let Some(value) = value {
                write!(lines, "{name}: {value}\r\n").unwrap();
            }
        }
        let body = object.content[range.clone()].to_vec();
        let total = object.content.len() as u64;
        Self { is_part: true, range, total, tells: true, has_length: true, lines, body }
    }

    fn head(&self) -> String {
        let mut head = String::from("HTTP/1.1 ");
        head.push_str(if self.is_part { "206 Partial Content\r\n" } else { "200 OK\r\n" });
        if self.tells {
            head.push_str(&self.lines);
            if self.is_part {
                let (first, last) = (self.range.start, self.range.end.saturating_sub(1));
                write!(head, "content-range: bytes {first}-{last}/{}\r\n", self.total).unwrap();
            }
        }
        if self.has_length {
            write!(head, "content-length: {}\r\n", self.body.len()).unwrap();
        }
        head.push_str("\r\n");
        head
    }

    fn bytes(&self) -> Vec<u8> {
        [self.head().into_bytes(), self.body.clone()].concat()
    }
}

fn read_ask(stream: &mut impl BufRead, connection: usize) -> io::Result<Option<Ask>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut ask = Ask { number: 0, path, headers, range: None, connection, at: Instant::now() };
    ask.range = ask.header("range").map(|text| {
        let (first, last) = text.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
    });
    Ok(Some(ask))
}
