//! Signals that ask a process to stop.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

const SIGNALS: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

/// A request to stop. The first signal is recorded; the second one ends the process as if no
/// handler were installed.
#[derive(Debug)]
pub struct StopSignals {
    received: Arc<AtomicUsize>,
}

impl StopSignals {
    /// Records SIGINT, SIGTERM and SIGHUP from now on, except those that were ignored when the
    /// process started, for example by `nohup`.
    ///
    /// # Errors
    /// A handler cannot be registered.
    pub fn catch() -> io::Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let is_second = Arc::new(AtomicBool::new(false));
        let ignored = ignored();
        for (signal, _) in SIGNALS {
            if ignored >> (signal - 1) & 1 == 1 {
                continue;
            }
            // Handlers run in the order of registration. A signal that arrives between two
            // registrations is not lost: the first handler records it.
            flag::register_usize(signal, received.clone(), signal as usize)?;
            flag::register_conditional_default(signal, is_second.clone())?;
            flag::register(signal, is_second.clone())?;
        }
        Ok(Self { received })
    }

    /// Returns the name of the last signal received, if any.
    pub fn received(&self) -> Option<&'static str> {
        let number = self.received.load(Ordering::SeqCst);
        SIGNALS.iter().find(|(signal, _)| *signal as usize == number).map(|&(_, name)| name)
    }
}

/// Returns whether `signal` was ignored when the process started, for example by `nohup`, and must
/// stay ignored. Call it before a handler is installed.
pub fn is_ignored(signal: i32) -> bool {
    ignored() >> (signal - 1) & 1 == 1
}

/// Returns the mask of ignored signals, the first signal in the lowest bit. If the kernel does not
/// report it, no signal counts as ignored.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
