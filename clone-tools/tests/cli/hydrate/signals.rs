//! `clone_hydrate` with and without signals to stop.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::Trio;
use crate::support::{Ran, binary};

/// A running `clone_hydrate`.
pub(crate) struct Running {
    child: Child,
    line: String,
}

impl Running {
    /// Starts it, and waits until all devices are open and signals are caught.
    ///
    /// Signals have their default actions, even if the tests run under `nohup`.
    pub(crate) fn start(clone: &Trio, more: &[&str]) -> Self {
        Self::start_by("exec env --default-signal=HUP,INT,TERM", clone, more)
    }

    /// Starts it from a shell command line that begins with `prepare`.
    fn start_by(prepare: &str, clone: &Trio, more: &[&str]) -> Self {
        let args = clone.args(more);
        let line = format!("{prepare} clone_hydrate {args:?}");
        let child = Command::new("sh")
            .args(["-c", &format!("{prepare} \"$@\""), "sh"])
            .arg(binary("clone_hydrate"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut running = Self { child, line };
        while !running.has_workers() {
            assert!(running.child.try_wait().unwrap().is_none(), "{}", running.wait());
            std::thread::yield_now();
        }
        running
    }

    /// Returns whether copying has begun. That SIGTERM is caught is visible earlier than its
    /// handler is complete.
    fn has_workers(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        threads.into_iter().flatten().flatten().any(|thread| {
            let name = fs::read_to_string(thread.path().join("comm"));
            name.is_ok_and(|name| name.trim_end() == "clone-worker")
        })
    }

    /// Returns whether the process runs. A zombie does not count.
    pub(crate) fn is_running(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        status.is_ok_and(|status| !status.contains("State:\tZ"))
    }

    /// Returns a set of signals as the kernel reports it.
    fn mask(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let sent = kill_process(Pid::from_child(&self.child), signal);
        assert_eq!(sent, Ok(()), "{}: it is gone", self.line);
    }

    pub(crate) fn wait(self) -> Ran {
        Ran::new(self.line, self.child.wait_with_output().unwrap())
    }
}

#[test]
fn a_signal_stops_it_cleanly_and_the_same_command_goes_on() {
    for (signal, name) in [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::HUP, "HUP")] {
        let clone = Trio::full(32768);
        let running = Running::start(&clone, &["--rate=8", "--json"]);
        running.signal(signal);
        let ran = running.wait().exits(1).says(&format!("stopped by SIG{name}"));
        let ran = ran.says("committed; the same command continues");
        let told = ran.json();
        assert_eq!((&told["ok"], &told["ended"]), (&json!(false), &json!("signal")));
        // At 4 KiB per second there is no time for more.
        assert!(told["copied_bytes"].as_u64().unwrap() < 8 << 20, "{told}");
        assert_eq!(told["hydrated"], json!(clone.check(&[])));
        clone.run(&["-q"]).exits(0).stays_silent();
        assert_eq!(clone.check(&[]), 4096);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let clone = Trio::full(32768);
    // Two signals that arrive together may not be distinguishable as first and second.
    let was_killed = (0..50).any(|_| {
        let running = Running::start(&clone, &["--rate=8"]);
        running.signal(Signal::STOP);
        running.signal(Signal::INT);
        running.signal(Signal::TERM);
        running.signal(Signal::CONT);
        let ran = running.wait();
        clone.check(&[]);
        assert!(ran.code.is_none_or(|code| code == 1), "{ran}");
        ran.code.is_none()
    });
    assert!(was_killed);
}

#[test]
fn a_signal_that_was_ignored_before_stays_ignored() {
    let clone = Trio::full(32768);
    let running = Running::start_by("trap '' HUP; exec", &clone, &["--rate=8"]);
    assert_eq!(running.mask("SigIgn:") & 1, 1);
    running.signal(Signal::HUP);
    running.signal(Signal::TERM);
    running.wait().exits(1).says("stopped by SIGTERM");
}
