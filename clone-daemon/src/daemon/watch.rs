//! Waiting for what ends the daemon, and telling systemd how it is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::Builder;
use std::time::Duration;

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use clone_tools::signals::is_ignored;

use crate::host::Host;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The table is to be read again.
    Reload,
    /// It is to end.
    Stop,
}

/// Signals, as they come.
pub(super) struct Watch {
    signals: Receiver<i32>,
    /// How often systemd wants to hear that all is well.
    watchdog: Option<Duration>,
}

impl Watch {
    /// Catches SIGTERM and SIGINT, which end the daemon, and SIGHUP, which reloads its table; where
    /// there is none it ends it too, unless it was ignored from the start. A second signal to end
    /// ends it at once: it loses nothing that was flushed.
    ///
    /// # Errors
    /// Whatever the system says.
    pub(super) fn start(reloads: bool) -> Result<Self> {
        let (noted, signals) = mpsc::channel();
        let caught = || -> io::Result<Signals> {
            let is_second = Arc::new(AtomicBool::new(false));
            let ends = [SIGINT, SIGTERM];
            let hangup = [SIGHUP].into_iter().filter(|_| reloads || !is_ignored(SIGHUP));
            let signals = Signals::new(ends.into_iter().chain(hangup))?;
            for signal in ends {
                flag::register_conditional_default(signal, is_second.clone())?;
                flag::register(signal, is_second.clone())?;
            }
            Ok(signals)
        };
        let mut caught = caught().context("cannot wait for signals")?;
        Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in caught.forever() {
                    // If nobody waits any more it is ending already.
                    let _ = noted.send(signal);
                }
            })
            .context("cannot start a thread")?;
        // Half of it, as systemd advises.
        let watchdog = sd_notify::watchdog_enabled().map(|period| period / 2);
        Ok(Self { signals, watchdog })
    }

    /// Waits for a signal. Meanwhile systemd is told that all is well, as long as every clone
    /// answers.
    pub(super) fn wait(&self, host: &Host) -> Asked {
        loop {
            let signal = match self.watchdog {
                Some(period) => self.signals.recv_timeout(period),
                None => self.signals.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match signal {
                Ok(SIGHUP) if host.has_table() => {
                    tracing::info!("SIGHUP: reading the table again");
                    say(&[NotifyState::Reloading]);
                    return Asked::Reload;
                }
                Ok(signal) => {
                    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
                    tracing::info!("{name}: stopping");
                    return Asked::Stop;
                }
                Err(RecvTimeoutError::Timeout) => {
                    // One that hangs with its lock held is waited for here, and systemd sees it.
                    let clones = host.list();
                    let failed = clones.iter().filter(|hosted| hosted.has_failed()).count();
                    tracing::trace!(failed, "all clones answer");
                    say(&[NotifyState::Watchdog]);
                }
                Err(RecvTimeoutError::Disconnected) => return Asked::Stop,
            }
        }
    }
}

/// Tells systemd that clones are served.
pub(super) fn say_ready(host: &Host) {
    let clones = host.list().len();
    let status = format!("serving {clones} clone{}", if clones == 1 { "" } else { "s" });
    say(&[NotifyState::Ready, NotifyState::Status(&status)]);
    tracing::info!("{status}");
}

/// Tells systemd that it ends.
pub(super) fn say_stopping() {
    say(&[NotifyState::Stopping]);
}

/// Tells systemd something. Where it does not listen there is nobody to be told.
fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("systemd cannot be told: {error}");
    }
}
