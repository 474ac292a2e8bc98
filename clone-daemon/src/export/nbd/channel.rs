//! The transport to a client: a socket, with or without TLS.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use clone_core::sync::lock;
use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg, sockopt};
use rustls::ServerConnection;

use crate::export::nbd::tls::TlsOptions;

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    /// A TCP socket.
    Tcp(TcpStream),
    /// A Unix socket, with or without a path.
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
    /// Sets the socket options: small replies are not delayed, a dead peer of an idle connection is
    /// detected within a minute, and the send buffer holds a piece of a long reply, so that the
    /// next piece can be read while the client receives this one.
    ///
    /// TCP_USER_TIMEOUT is not set: it would also end the connection of a live client that stops
    /// reading its replies for a minute, for example because its own disk stalls. A dead peer with
    /// unacknowledged data is detected by the system (tcp_retries2).
    fn prepare(&self) {
        // The connection also works without these options.
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

    /// Limits the time of each operation of the socket; `None` removes the limit.
    fn set_timeouts(&self, limits: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(limits)?;
                stream.set_write_timeout(limits)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(limits)?;
                stream.set_write_timeout(limits)
            }
        }
    }

    /// Shuts down one or both directions, for all threads.
    pub(super) fn shut_down(&self, how: Shutdown) {
        // If it fails, the socket is not connected any more.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        };
    }

    fn send_all(
        &self,
        mut pieces: &mut [IoSlice<'_>],
        limits: Option<SendLimits>,
    ) -> io::Result<()> {
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            if let Some(limits) = limits {
                self.set_timeouts(Some(limits.left()?))?;
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

/// TCP keepalive: a silent peer is probed after this time and at this interval. After 60 seconds in
/// all it counts as dead.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// Maximum number of buffers in one system call (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

/// Number of bytes to receive from the socket at a time under TLS.
const CIPHER_BYTES: usize = 64 << 10;

/// Size of the send buffer of a Unix socket in bytes; the kernel may grant less.
const SEND_BYTES: usize = 1 << 20;

/// Time limit for the TLS alert that closes a connection.
const FAREWELL: Duration = Duration::from_secs(1);

/// Time limits for a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendLimits {
    /// Limit for each step: receiving or sending some bytes.
    pub(super) silence: Duration,
    /// Limit for all steps together.
    pub(super) until: Instant,
}

impl SendLimits {
    /// Returns the time limit of the next step.
    fn left(&self) -> io::Result<Duration> {
        let left = self.silence.min(self.until.saturating_duration_since(Instant::now()));
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// The right to send to the client. There is one for each channel, so its owner sends whole
/// messages, and no other thread can send between their parts.
#[derive(Debug)]
pub(super) struct Writer {
    channel: Arc<Channel>,
    limits: Option<SendLimits>,
}

impl Writer {
    /// Sets or removes the time limits for sending.
    pub(super) fn set_timeouts(&mut self, limits: Option<SendLimits>) {
        self.limits = limits;
    }

    /// Sends all of `pieces`.
    pub(super) fn send(&mut self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.channel.send(pieces, self.limits)
    }
}

/// The transport to a client. One thread receives; the owner of the [`Writer`] sends.
#[derive(Debug)]
pub(super) struct Channel {
    stream: Stream,
    tls: OnceLock<Mutex<ServerConnection>>,
    /// A buffer for TLS records. Its lock is held while they are sent, so that they leave in the
    /// order of their creation. Lock order: before `tls`.
    sending: Mutex<Vec<u8>>,
    is_cut: AtomicBool,
    activity: Activity,
}

/// The activity of a connection, for the search for idle ones.
#[derive(Debug)]
struct Activity {
    began: Instant,
    /// Start of the current wait for input: seconds since `began` plus 1, or 0 without a wait.
    waits_since: AtomicU64,
    /// True once a request has arrived.
    has_asked: AtomicBool,
    /// Number of requests that are in flight, or answered but not sent.
    in_flight: AtomicUsize,
}

/// The state of a client that sends nothing and has no request in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// Time since the last input.
    pub(super) time: Duration,
    /// True if the client has sent a request before.
    pub(super) has_asked: bool,
}

/// State of the receiving thread.
#[derive(Debug, Default)]
pub(super) struct Intake {
    limits: Option<SendLimits>,
    /// Bytes received under TLS; those from `start` to `end` have not been decrypted.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Intake {
    /// Sets or removes the time limits for receiving.
    pub(super) fn set_timeouts(&mut self, limits: Option<SendLimits>) {
        self.limits = limits;
    }
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
        (channel.clone(), Writer { channel, limits: None })
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Records that a request has arrived.
    pub(super) fn note_request(&self) {
        self.activity.has_asked.store(true, Ordering::Relaxed);
    }

    /// Records the number of requests that are in flight, or answered but not sent.
    pub(super) fn note_in_flight(&self, requests: usize) {
        self.activity.in_flight.store(requests, Ordering::Relaxed);
    }

    /// Returns how long the client has been silent; `None` if a request is in flight or the
    /// receiver is busy.
    pub(super) fn silence(&self) -> Option<Silence> {
        let Activity { began, waits_since, has_asked, in_flight } = &self.activity;
        let since = waits_since.load(Ordering::Relaxed).checked_sub(1)?;
        let is_idle = in_flight.load(Ordering::Relaxed) == 0;
        let time = began.elapsed().saturating_sub(Duration::from_secs(since));
        is_idle.then(|| Silence { time, has_asked: has_asked.load(Ordering::Relaxed) })
    }

    /// Removes the time limits of the socket.
    pub(super) fn be_patient(&self) -> io::Result<()> {
        self.stream.set_timeouts(None)
    }

    /// Receives some bytes; 0 at the end of the input.
    pub(super) fn receive(&self, intake: &mut Intake, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = self.tls.get() else {
            return self.receive_raw(intake.limits, into);
        };
        loop {
            match lock(tls).reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A client may close the connection without a TLS alert.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            if !self.feed(tls, intake)? {
                return Ok(0);
            }
        }
    }

    fn receive_raw(&self, limits: Option<SendLimits>, into: &mut [u8]) -> io::Result<usize> {
        if let Some(limits) = limits {
            self.stream.set_timeouts(Some(limits.left()?))?;
        }
        let Activity { began, waits_since, .. } = &self.activity;
        waits_since.store(began.elapsed().as_secs().saturating_add(1), Ordering::Relaxed);
        let received = retry_on_intr(|| recv(&self.stream, &mut *into, RecvFlags::empty()));
        waits_since.store(0, Ordering::Relaxed);
        received.map(|(_, len)| len).map_err(io::Error::from)
    }

    /// Passes received bytes to TLS, or receives more first; false at the end of the input.
    fn feed(&self, tls: &Mutex<ServerConnection>, intake: &mut Intake) -> io::Result<bool> {
        if intake.start == intake.end {
            intake.bytes.resize(CIPHER_BYTES, 0);
            (intake.start, intake.end) = (0, self.receive_raw(intake.limits, &mut intake.bytes)?);
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
            // Also the alert that tells the client why TLS failed.
            self.send(&mut [], intake.limits)?;
        }
        processed.map_err(io::Error::other)?;
        // After a close alert TLS takes no more bytes.
        Ok(took > 0)
    }

    /// Sends all of `pieces`, after the pending records of TLS. Only a [`Writer`] passes any
    /// pieces; a call without them sends the pending records.
    fn send(&self, pieces: &mut [IoSlice<'_>], limits: Option<SendLimits>) -> io::Result<()> {
        let mut records = lock(&self.sending);
        let Some(tls) = self.tls.get() else {
            return self.stream.send_all(pieces, limits);
        };
        self.send_records(tls, &mut records, limits)?;
        for piece in pieces {
            let mut left: &[u8] = piece;
            while !left.is_empty() {
                // TLS takes no more than its buffer holds.
                let took = lock(tls).writer().write(left)?;
                left = &left[took..];
                self.send_records(tls, &mut records, limits)?;
            }
        }
        Ok(())
    }

    fn send_records(
        &self,
        tls: &Mutex<ServerConnection>,
        records: &mut Vec<u8>,
        limits: Option<SendLimits>,
    ) -> io::Result<()> {
        let mut connection = lock(tls);
        while connection.wants_write() {
            connection.write_tls(records)?;
        }
        drop(connection);
        let sent = match records.is_empty() {
            true => Ok(()),
            false => self.stream.send_all(&mut [IoSlice::new(records)], limits),
        };
        records.clear();
        sent
    }

    /// Performs the TLS handshake.
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

    /// Ends all receiving and sending.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.stream.shut_down(Shutdown::Both);
    }

    /// Returns whether the connection was cut.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// Closes the connection, under TLS with an alert. Other threads cannot send after that.
    pub(super) fn close(&self) {
        if let Some(tls) = self.tls.get() {
            lock(tls).send_close_notify();
            let limits = SendLimits { silence: FAREWELL, until: Instant::now() + FAREWELL };
            // The client does not need the alert.
            let _ = self.send(&mut [], Some(limits));
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
        // With that option the keepalive values would not apply.
        assert_eq!(sockopt::tcp_user_timeout(stream).unwrap(), 0);
    }
}
