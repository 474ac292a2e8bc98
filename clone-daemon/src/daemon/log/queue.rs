//! The queue of log lines in front of stderr.
//!
//! *Invariant:* adding a line never waits and never fails. One thread writes; while it waits for a
//! reader or cannot write, lines are dropped and counted. When writing works again, a line reports
//! the number of lost lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use clone_core::sync::lock;
use rustix::event::{PollFd, PollFlags, poll};

use crate::lost_lines;

/// Limits of the queue, in lines and in bytes.
const LINES_MAX: usize = 8192;
const BYTES_MAX: usize = 4 << 20;

/// The queued lines.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signals that a line was added or written.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// True while a line taken from the queue is being written.
    is_writing: bool,
}

impl Queue {
    /// Starts the thread that writes to stderr.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        // A file of its own: the lock of the standard library would make other threads wait.
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let queue = Arc::new(Self::new());
        let lines = queue.clone();
        Builder::new().name("log".into()).spawn(move || lines.write_all_to(&stderr))?;
        Ok(queue)
    }

    fn new() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns a writer for one line.
    pub(super) fn line(self: &Arc<Self>) -> Line {
        Line(self.clone())
    }

    fn put(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() >= LINES_MAX || state.bytes.saturating_add(line.len()) > BYTES_MAX {
            lost_lines::add();
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        drop(state);
        self.changed.notify_all();
    }

    /// Removes the next line. Waits for one.
    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end_line(&self) {
        self.lock().is_writing = false;
        self.changed.notify_all();
    }

    /// Waits until all lines are written or lost, at most for `time`. Returns whether they are.
    pub(super) fn flush(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.lock();
        while state.is_writing || !state.lines.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// The loop of the writer thread.
    fn write_all_to(&self, to: &(impl AsFd + AsRawFd)) {
        let mut output = Output { to, is_cut: false };
        let mut reported = 0;
        loop {
            let line = self.next();
            match output.write(&line) {
                Ok(()) => {
                    let lost = lost_lines::count();
                    if lost > reported {
                        let count = lost - reported;
                        reported = lost;
                        // This line passes through the queue again.
                        tracing::warn!("{count} log lines could not be written");
                    }
                }
                // Each error may have another cause, and there is nowhere to report it.
                Err(_) => lost_lines::add(),
            }
            self.end_line();
        }
    }
}

/// A writer that queues what it receives as one line.
pub(super) struct Line(Arc<Queue>);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The output stream.
struct Output<'a, T> {
    to: &'a T,
    /// True if only a part of the last line was written.
    is_cut: bool,
}

impl<T: AsFd> Output<'_, T> {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_cut {
            self.write_bytes(b"\n")?;
            self.is_cut = false;
        }
        self.write_bytes(line)
    }

    fn write_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let whole = bytes.len();
        while !bytes.is_empty() {
            match rustix::io::write(self.to, bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => bytes = &bytes[len..],
                Err(rustix::io::Errno::INTR) => {}
                // The process that passed stderr on may have made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => {
                    poll(&mut [PollFd::new(self.to, PollFlags::OUT)], None)?;
                }
                Err(error) => {
                    self.is_cut |= bytes.len() < whole;
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write, pipe};
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::{LINES_MAX, Output, Queue};
    use crate::lost_lines;

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody_and_what_has_no_room_is_counted() {
        let (mut reader, writer) = pipe().unwrap();
        let queue = Arc::new(Queue::new());
        let lines = queue.clone();
        thread::spawn(move || lines.write_all_to(&writer));
        let before = lost_lines::count();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        // The pipe takes some of the lines; the queue takes no more than its limit.
        for _ in 0..2 * LINES_MAX {
            queue.line().write_all(&line).unwrap();
        }
        assert!(!queue.flush(Duration::ZERO));
        let lost = (lost_lines::count() - before) as usize;
        assert!(lost > LINES_MAX / 2, "{lost}");
        let mut read = vec![0; (2 * LINES_MAX - lost) * line.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read.chunks(line.len()).all(|read| read == line));
        assert!(queue.flush(Duration::from_secs(120)));
        assert_eq!(queue.lock().bytes, 0);
    }

    #[test]
    fn a_line_after_one_that_was_cut_begins_anew() {
        let (mut reader, writer) = pipe().unwrap();
        let mut output = Output { to: &writer, is_cut: true };
        output.write(b"whole\n").unwrap();
        output.write(b"next\n").unwrap();
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\nwhole\nnext\n");
    }
}
