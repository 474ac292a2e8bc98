//! A stream that one thread reads and writes, with or without TLS.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConnection;

/// Time limit of a wait, sufficient for any machine.
const PATIENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };

/// A stream that sends its output while it is read. So neither side waits for the other to read,
/// however much is sent in advance.
pub(super) struct Pump {
    socket: UnixStream,
    tls: Option<Box<ClientConnection>>,
    /// Written bytes that have not been sent.
    out: Vec<u8>,
    /// Received bytes that have not been read.
    come: Vec<u8>,
    is_over: bool,
}

impl Pump {
    pub(super) fn new(socket: UnixStream, tls: Option<ClientConnection>) -> Self {
        socket.set_nonblocking(true).unwrap();
        let (tls, out, come) = (tls.map(Box::new), Vec::new(), Vec::new());
        Self { socket, tls, out, come, is_over: false }
    }

    /// Waits until the socket can send or receive, and does both if possible.
    fn exchange(&mut self) -> io::Result<()> {
        let owes = match &mut self.tls {
            None => !self.out.is_empty(),
            Some(tls) => {
                // TLS takes no more than its buffer holds.
                let took = tls.writer().write(&self.out)?;
                self.out.drain(..took);
                tls.wants_write()
            }
        };
        let wanted = if owes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut files = [PollFd::new(&self.socket, wanted)];
        if poll(&mut files, Some(&PATIENCE))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"));
        }
        let ready = files[0].revents();
        if ready.contains(PollFlags::OUT) {
            would_block(self.write_out())?;
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            would_block(self.read_in())?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.write_tls(&mut self.socket).map(drop),
            None => {
                let sent = self.socket.write(&self.out)?;
                self.out.drain(..sent);
                Ok(())
            }
        }
    }

    fn read_in(&mut self) -> io::Result<()> {
        let mut some = [0; 64 << 10];
        let Some(tls) = &mut self.tls else {
            let len = self.socket.read(&mut some)?;
            self.come.extend(&some[..len]);
            self.is_over = len == 0;
            return Ok(());
        };
        self.is_over = tls.read_tls(&mut self.socket)? == 0;
        tls.process_new_packets().map_err(io::Error::other)?;
        loop {
            match tls.reader().read(&mut some) {
                Ok(0) => self.is_over = true,
                Ok(len) => {
                    self.come.extend(&some[..len]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}

fn would_block(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    })
}

impl Write for Pump {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write()) {
            self.exchange()?;
        }
        Ok(())
    }
}

impl Read for Pump {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.come.is_empty() && !self.is_over {
            self.exchange()?;
        }
        let len = into.len().min(self.come.len());
        into[..len].copy_from_slice(&self.come[..len]);
        self.come.drain(..len);
        Ok(len)
    }
}
