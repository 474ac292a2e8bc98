//! Signals that ask a tool to stop.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

const SIGNALS: [(i32, &str); 3] = [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")];

/// Whether somebody wants the work to stop. The first signal is noted, the second one ends the
/// process as it would have without this.
#[derive(Debug)]
pub struct StopSignals {
    received: Arc<AtomicUsize>,
}

impl StopSignals {
    /// Notes SIGINT, SIGTERM and SIGHUP from now on, but for those that were ignored when the
    /// process was started, by `nohup` for instance.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn catch() -> io::Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let is_second = Arc::new(AtomicBool::new(false));
        let ignored = ignored();
        for (signal, _) in SIGNALS {
            if ignored >> (signal - 1) & 1 == 1 {
                continue;
            }
            // They act in the order in which they are registered. A signal that comes in between is
            // not lost: noting it is first.
            flag::register_usize(signal, received.clone(), signal as usize)?;
            flag::register_conditional_default(signal, is_second.clone())?;
            flag::register(signal, is_second.clone())?;
        }
        Ok(Self { received })
    }

    /// The signal that was received, if any.
    pub fn received(&self) -> Option<&'static str> {
        let number = self.received.load(Ordering::SeqCst);
        SIGNALS.iter().find(|(signal, _)| *signal as usize == number).map(|&(_, name)| name)
    }
}

/// Whether `signal` was ignored when the process was started, by `nohup` for instance, and so is to
/// be ignored further on. To be asked before it is caught.
pub fn is_ignored(signal: i32) -> bool {
    ignored() >> (signal - 1) & 1 == 1
}

/// The signals that are ignored, the first in the lowest bit. Where the kernel does not tell, none
/// are taken to be.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
