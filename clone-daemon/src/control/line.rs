//! Lines of JSON on a socket, of bounded length, in bounded time.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Bytes that a line has at most, its end included.
pub const LINE_MAX: usize = 64 << 10;

/// Why a line was not read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LineError {
    /// Whatever the system says.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It was begun, and its end did not come in time.
    #[error("the end of a line did not come in time")]
    Late,
    /// The other side went in the middle of a line.
    #[error("the connection ended in the middle of a line")]
    Cut,
    /// It is longer than a line may be.
    #[error("a line of more than {LINE_MAX} bytes")]
    TooLong,
    /// It is no JSON, or not what should stand there.
    #[error("{0}")]
    Json(#[source] serde_json::Error),
}

/// Writes one line.
///
/// # Errors
/// [`LineError::TooLong`], and then nothing was written; or whatever the system says.
pub fn write(to: &mut impl Write, value: &impl Serialize) -> Result<(), LineError> {
    let mut line = serde_json::to_vec(value).map_err(LineError::Json)?;
    line.push(b'\n');
    if line.len() > LINE_MAX {
        return Err(LineError::TooLong);
    }
    Ok(to.write_all(&line)?)
}

/// The lines that come on a socket.
pub struct Lines<'a> {
    stream: &'a UnixStream,
    /// What has come and was not taken yet: less than a line may have.
    buffer: Vec<u8>,
}

impl<'a> Lines<'a> {
    /// Those that come from now on. The read timeout of `stream` is changed.
    pub fn new(stream: &'a UnixStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next line; `None` if the other side has gone, or nothing came in `idle`. A line that
    /// was begun has to end within `line`.
    ///
    /// # Errors
    /// [`LineError`]. There is no next line after that, but for [`LineError::Json`].
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
