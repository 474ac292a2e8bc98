//! Reads and writes lines of JSON on a socket, with limits on length and time. The daemon and
//! `clonectl` both use it.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The maximum length of a line in bytes, including its newline.
pub const LINE_MAX: usize = 64 << 10;

/// The reason why a line was not read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LineError {
    /// An I/O error of the socket.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The rest of a line did not arrive in time.
    #[error("timed out before the end of a line")]
    Late,
    /// The peer closed the connection inside a line.
    #[error("the connection ended in the middle of a line")]
    Cut,
    /// The line exceeds [`LINE_MAX`].
    #[error("a line of more than {LINE_MAX} bytes")]
    TooLong,
    /// The line is not JSON, or not of the expected type.
    #[error("{0}")]
    Json(#[source] serde_json::Error),
}

/// Writes one line.
///
/// # Errors
/// [`LineError::TooLong`], without writing anything; [`LineError::Json`] if `value` cannot be
/// serialized; [`LineError::Io`].
pub fn write(to: &mut impl Write, value: &impl Serialize) -> Result<(), LineError> {
    let mut line = serde_json::to_vec(value).map_err(LineError::Json)?;
    line.push(b'\n');
    if line.len() > LINE_MAX {
        return Err(LineError::TooLong);
    }
    Ok(to.write_all(&line)?)
}

/// Reads the lines that arrive on a socket.
pub struct Lines<'a> {
    stream: &'a UnixStream,
    /// The bytes received but not consumed yet: fewer than [`LINE_MAX`].
    buffer: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// Creates a reader. It changes the read timeout of `stream`.
    pub fn new(stream: &'a UnixStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Reads the next line. Returns `None` if the peer has closed the connection, or nothing
    /// arrives within `idle`. A line that has begun must be complete within `line`.
    ///
    /// # Errors
    /// [`LineError`]. Only after [`LineError::Json`] can another line be read.
    pub fn next<T: DeserializeOwned>(
        &mut self,
        idle: Duration,
        line: Duration,
    ) -> Result<Option<T>, LineError> {
        let mut looked = 0;
        let mut until = Instant::now() + if self.buffer.is_empty() { idle } else { line };
        loop {
            if let Some(end) = self.buffer[looked..].iter().position(|&byte| byte == b'\n') {
                let parsed = serde_json::from_slice(&self.buffer[..looked + end]);
                self.buffer.drain(..=looked + end);
                return parsed.map(Some).map_err(LineError::Json);
            }
            if self.buffer.len() >= LINE_MAX {
                return Err(LineError::TooLong);
            }
            looked = self.buffer.len();
            let left = until.saturating_duration_since(Instant::now());
            match self.more(left) {
                Ok(0) if looked == 0 => return Ok(None),
                Ok(0) => return Err(LineError::Cut),
                Ok(_) if looked == 0 => until = Instant::now() + line,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_late(&error) && looked == 0 => return Ok(None),
                Err(error) if is_late(&error) => return Err(LineError::Late),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn more(&mut self, wait: Duration) -> io::Result<usize> {
        if wait.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(wait))?;
        let mut bytes = [0; 4096];
        let room = bytes.len().min(LINE_MAX - self.buffer.len());
        let len = (&mut &*self.stream).read(&mut bytes[..room])?;
        self.buffer.extend_from_slice(&bytes[..len]);
        Ok(len)
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::{LINE_MAX, LineError, Lines, write};

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn lines_come_one_by_one_however_they_were_cut() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(&theirs);
        for part in ["1\n\"t", "wo\"", "\n3\nbad\n4\n"] {
            ours.write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(lines.next(LONG, LONG).unwrap(), Some(1));
        assert_eq!(lines.next(LONG, LONG).unwrap(), Some("two".to_owned()));
        assert_eq!(lines.next(LONG, LONG).unwrap(), Some(3));
        assert!(matches!(lines.next::<u64>(LONG, LONG), Err(LineError::Json(_))));
        assert_eq!(lines.next(LONG, LONG).unwrap(), Some(4));
        drop(ours);
        assert_eq!(lines.next::<u64>(LONG, LONG).unwrap(), None);
    }

    #[test]
    fn a_line_that_does_not_end_is_an_error_and_one_that_does_not_begin_is_none() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut lines = Lines::new(&theirs);
        assert_eq!(lines.next::<u64>(SHORT, LONG).unwrap(), None);
        ours.write_all(b"1").unwrap();
        assert!(matches!(lines.next::<u64>(LONG, SHORT), Err(LineError::Late)));
        drop(ours);
        assert!(matches!(lines.next::<u64>(LONG, LONG), Err(LineError::Cut)));
    }

    #[test]
    fn a_line_has_a_length_that_it_cannot_exceed() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let most = "x".repeat(LINE_MAX - 3);
        write(&mut ours, &most).unwrap();
        let mut lines = Lines::new(&theirs);
        assert_eq!(lines.next(LONG, LONG).unwrap(), Some(most.clone()));
        assert!(matches!(write(&mut ours, &(most + "x")), Err(LineError::TooLong)));
        ours.write_all(&vec![b' '; LINE_MAX]).unwrap();
        assert!(matches!(lines.next::<u64>(LONG, LONG), Err(LineError::TooLong)));
    }
}
