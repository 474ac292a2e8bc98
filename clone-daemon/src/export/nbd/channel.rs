//! The way to a client: a socket, with TLS or without.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg, sockopt};
use rustls::ServerConnection;

use crate::export::nbd::tls::TlsOptions;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    /// Of TCP.
    Tcp(TcpStream),
    /// Of a path, or of none.
    Unix(UnixStream),
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// Small replies are not held back, a peer that has gone is found out within a minute if
    /// nothing is under way, and there is room for a piece of a long reply, so that the next one
    /// can be read while the client takes it.
    ///
    /// TCP_USER_TIMEOUT is not set: it would also end the connection of a client that is alive, and
    /// does not read for a minute what it has asked for, because its own disk has stalled. A peer
    /// that has gone while it was owed something is found out by the system (tcp_retries2).
    fn prepare(&self) {
        // Without any of them it works too.
        match self {
            Self::Tcp(stream) => {
                let _ = stream.set_nodelay(true);
                let _ = sockopt::set_socket_keepalive(stream, true);
                let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER);
                let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY);
                let _ = sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES);
            }
            Self::Unix(stream) => {
                let _ = sockopt::set_socket_send_buffer_size(stream, SEND_BYTES);
            }
        }
    }

    /// Nothing may take longer from now on, if there is a limit.
    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)
            }
        }
    }

    /// Ends one direction, or both, for everybody who uses it.
    pub(super) fn shut_down(&self, how: Shutdown) {
        // If it is not connected any more there is nothing left to do.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }

    fn send_all(
        &self,
        mut pieces: &mut [IoSlice<'_>],
        patience: Option<Patience>,
    ) -> io::Result<()> {
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            if let Some(patience) = patience {
                self.set_patience(Some(patience.left()?))?;
            }
            let some = &pieces[..pieces.len().min(PIECES_MAX)];
            let sent = retry_on_intr(|| {
                let mut none = SendAncillaryBuffer::default();
                sendmsg(self, some, &mut none, SendFlags::NOSIGNAL)
            })?;
            IoSlice::advance_slices(&mut pieces, sent);
        }
        Ok(())
    }
}

/// A peer that was silent for so long is asked whether it is there, and again and again, so often;
/// after 60 seconds in all it is gone.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// As many pieces as the kernel takes at a time (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

/// Bytes that are read from the socket at a time under TLS.
const CIPHER_BYTES: usize = 64 << 10;

/// Bytes of replies that are in a socket of a path; the kernel may give less.
const SEND_BYTES: usize = 1 << 20;

/// How long a client may take to hear that it is over.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a client is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long for each step that it makes: for some bytes to come, or to go.
    pub(super) silence: Duration,
    /// When it ends, whatever steps are made.
    pub(super) until: Instant,
}

impl Patience {
    /// How long the next step may take.
    fn left(&self) -> io::Result<Duration> {
        let left = self.silence.min(self.until.saturating_duration_since(Instant::now()));
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// The right to send to the client: there is one for each channel, so that whoever has it sends
/// whole messages, and nobody else sends anything between their parts.
#[derive(Debug)]
pub(super) struct Writer {
    channel: Arc<Channel>,
    patience: Option<Patience>,
}

impl Writer {
    /// From now on sending has a limit, or none any more.
    pub(super) fn set_patience(&mut self, patience: Option<Patience>) {
        self.patience = patience;
    }

    /// Sends all of `pieces`.
    pub(super) fn send(&mut self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.channel.send(pieces, self.patience)
    }
}

/// The way to a client. One thread receives; whoever has its [`Writer`] sends.
#[derive(Debug)]
pub(super) struct Channel {
    stream: Stream,
    tls: OnceLock<Mutex<ServerConnection>>,
    /// Held while something is sent, so that records go out in the order in which they were made;
    /// and what is used for that. It is taken before the lock of `tls`.
    sending: Mutex<Vec<u8>>,
    is_cut: AtomicBool,
    activity: Activity,
}

/// What a connection does, as the one who looks for idle ones sees it.
#[derive(Debug)]
struct Activity {
    began: Instant,
    /// Since when bytes are waited for: seconds since it began, and 1; 0 if they are not.
    waits_since: AtomicU64,
    /// A request has come.
    has_asked: AtomicBool,
    /// Requests that are under way, or answered and not sent.
    in_flight: AtomicUsize,
}

/// A client that says nothing, and waits for nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// How long it has said nothing.
    pub(super) time: Duration,
    /// It has asked for something before.
    pub(super) has_asked: bool,
}

/// What belongs to the thread that receives.
#[derive(Debug, Default)]
pub(super) struct Intake {
    patience: Option<Patience>,
    /// What was read under TLS; from `start` to `end` it was not looked at.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Intake {
    /// From now on receiving has a limit, or none any more.
    pub(super) fn set_patience(&mut self, patience: Option<Patience>) {
        self.patience = patience;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    pub(super) fn new(stream: Stream) -> (Arc<Self>, Writer) {
        stream.prepare();
        let channel = Arc::new(Self {
            stream,
            tls: OnceLock::new(),
            sending: Mutex::default(),
            is_cut: AtomicBool::new(false),
            activity: Activity {
                began: Instant::now(),
                waits_since: AtomicU64::new(0),
                has_asked: AtomicBool::new(false),
                in_flight: AtomicUsize::new(0),
            },
        });
        (channel.clone(), Writer { channel, patience: None })
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// A request has come.
    pub(super) fn note_request(&self) {
        self.activity.has_asked.store(true, Ordering::Relaxed);
    }

    /// So many requests are under way, or answered and not sent.
    pub(super) fn note_in_flight(&self, requests: usize) {
        self.activity.in_flight.store(requests, Ordering::Relaxed);
    }

    /// How long the client has said nothing, if nothing is under way for it.
    pub(super) fn silence(&self) -> Option<Silence> {
        let Activity { began, waits_since, has_asked, in_flight } = &self.activity;
        let since = waits_since.load(Ordering::Relaxed).checked_sub(1)?;
        let is_idle = in_flight.load(Ordering::Relaxed) == 0;
        let time = began.elapsed().saturating_sub(Duration::from_secs(since));
        is_idle.then(|| Silence { time, has_asked: has_asked.load(Ordering::Relaxed) })
    }

    /// Nothing has a limit any more.
    pub(super) fn be_patient(&self) -> io::Result<()> {
        self.stream.set_patience(None)
    }

    /// Receives some bytes; 0 if there are no more.
    pub(super) fn receive(&self, intake: &mut Intake, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = self.tls.get() else {
            return self.receive_raw(intake.patience, into);
        };
        loop {
            match lock(tls).reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A client that hangs up without a farewell has hung up.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            if !self.feed(tls, intake)? {
                return Ok(0);
            }
        }
    }

    fn receive_raw(&self, patience: Option<Patience>, into: &mut [u8]) -> io::Result<usize> {
        if let Some(patience) = patience {
            self.stream.set_patience(Some(patience.left()?))?;
        }
        let Activity { began, waits_since, .. } = &self.activity;
        waits_since.store(began.elapsed().as_secs().saturating_add(1), Ordering::Relaxed);
        let received = retry_on_intr(|| recv(&self.stream, &mut *into, RecvFlags::empty()));
        waits_since.store(0, Ordering::Relaxed);
        received.map(|(_, len)| len).map_err(io::Error::from)
    }

    /// Gives TLS what has been read, or reads more; whether there was anything.
    fn feed(&self, tls: &Mutex<ServerConnection>, intake: &mut Intake) -> io::Result<bool> {
        if intake.start == intake.end {
            intake.bytes.resize(CIPHER_BYTES, 0);
            (intake.start, intake.end) = (0, self.receive_raw(intake.patience, &mut intake.bytes)?);
            if intake.end == 0 {
                return Ok(false);
            }
        }
        let mut connection = lock(tls);
        let took = connection.read_tls(&mut &intake.bytes[intake.start..intake.end])?;
        intake.start += took;
        let processed = connection.process_new_packets();
        let owes = connection.wants_write();
        drop(connection);
        if owes {
            // Also why it does not go on, if it does not.
            self.send(&mut [], intake.patience)?;
        }
        processed.map_err(io::Error::other)?;
        // After a farewell nothing is taken.
        Ok(took > 0)
    }

    /// Sends all of `pieces`. Only a [`Writer`] sends any; without them, records of TLS are sent
    /// that it owes.
    fn send(&self, pieces: &mut [IoSlice<'_>], patience: Option<Patience>) -> io::Result<()> {
        let mut records = lock(&self.sending);
        let Some(tls) = self.tls.get() else {
            return self.stream.send_all(pieces, patience);
        };
        self.send_records(tls, &mut records, patience)?;
        for piece in pieces {
            let mut left: &[u8] = piece;
            while !left.is_empty() {
                // It takes no more than its buffer holds.
                let took = lock(tls).writer().write(left)?;
                left = &left[took..];
                self.send_records(tls, &mut records, patience)?;
            }
        }
        Ok(())
    }

    fn send_records(
        &self,
        tls: &Mutex<ServerConnection>,
        records: &mut Vec<u8>,
        patience: Option<Patience>,
    ) -> io::Result<()> {
        let mut connection = lock(tls);
        while connection.wants_write() {
            connection.write_tls(records)?;
        }
        drop(connection);
        let sent = match records.is_empty() {
            true => Ok(()),
            false => self.stream.send_all(&mut [IoSlice::new(records)], patience),
        };
        records.clear();
        sent
    }

    /// Begins TLS, and returns when both sides agree on keys.
    pub(super) fn start_tls(&self, options: &TlsOptions, intake: &mut Intake) -> io::Result<()> {
        let connection = ServerConnection::new(options.config()).map_err(io::Error::other)?;
        let tls = self.tls.get_or_init(|| Mutex::new(connection));
        while lock(tls).is_handshaking() {
            if !self.feed(tls, intake)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Nobody receives or sends any more from now on.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.stream.shut_down(Shutdown::Both);
    }

    /// Whether it was cut.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Says farewell and hangs up. What others send fails from then on.
    pub(super) fn close(&self) {
        if let Some(tls) = self.tls.get() {
            lock(tls).send_close_notify();
            let patience = Patience { silence: FAREWELL, until: Instant::now() + FAREWELL };
            // Nobody has to hear it.
            let _ = self.send(&mut [], Some(patience));
        }
        self.stream.shut_down(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use rustix::net::sockopt;

    use super::{Channel, Stream};

    #[test]
    fn a_peer_of_tcp_that_has_gone_is_found_out_within_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (channel, _writer) = Channel::new(Stream::Tcp(listener.accept().unwrap().0));
        let stream = channel.stream();
        assert!(sockopt::socket_keepalive(stream).unwrap());
        let idle = sockopt::tcp_keepidle(stream).unwrap();
        let every = sockopt::tcp_keepintvl(stream).unwrap();
        let probes = sockopt::tcp_keepcnt(stream).unwrap();
        assert_eq!(idle + every * probes, Duration::from_secs(60));
        // With it, it would not be these that count.
        assert_eq!(sockopt::tcp_user_timeout(stream).unwrap(), 0);
    }
}
