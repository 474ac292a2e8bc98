//! The daemon as a process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::LONG;

/// A daemon that runs in a directory. It is killed on drop.
pub(crate) struct Cloned {
    child: Child,
    lines: Receiver<String>,
    /// The log lines read so far.
    pub(crate) said: Vec<String>,
}

/// Returns the command to run `cloned` in `folder`.
pub(crate) fn cloned<A: AsRef<OsStr>>(folder: &Path, arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloned"));
    command.current_dir(folder).args(arguments).env_remove("CLONED_LOG");
    command
}

impl Cloned {
    /// Starts the daemon and waits until it serves.
    ///
    /// # Panics
    /// If the daemon ends instead.
    pub(crate) fn start<A: AsRef<OsStr>>(folder: &Path, arguments: &[A]) -> Self {
        let mut daemon = Self::spawn(cloned(folder, arguments));
        daemon.wait_for("serving ");
        daemon
    }

    /// Starts a command without waiting.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (said, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    /// Starts a command that logs to `stderr`, without waiting.
    pub(crate) fn spawn_telling(mut command: Command, stderr: impl Into<Stdio>) -> Self {
        let child = command.stderr(stderr).stdin(Stdio::null()).spawn().unwrap();
        Self { child, lines: mpsc::channel().1, said: Vec::new() }
    }

    /// Waits for a log line that contains `text`, and returns it.
    ///
    /// # Panics
    /// If the daemon ends without such a line, or logs nothing for [`LONG`].
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(LONG);
            let line = line.unwrap_or_else(|_| {
                panic!("it never said {text:?}, but:\n{}", self.said.join("\n"))
            });
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the daemon as systemd does, and waits for its end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for the end of the daemon.
    ///
    /// # Panics
    /// If it does not end within [`LONG`].
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + LONG;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.said.extend(self.lines.try_iter());
        panic!("it does not end; it said:\n{}", self.said.join("\n"));
    }

    /// Simulates a power cut for the process.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Cloned {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
