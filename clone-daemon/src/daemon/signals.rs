//! Waiting for what ends the daemon, and telling systemd how it is.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::Builder;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use clone_tools::common::signals::is_ignored;

use super::notify::notify;
use crate::host::Host;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The table is to be read again.
    Reload,
    /// It is to end.
    Stop,
}

/// What came of something that was done while signals were heard.
pub(super) enum Attended<T> {
    /// It was done.
    Done(T),
    /// It is to end; the thread that does it has been left alone.
    Stop,
}

/// What happens to the daemon.
enum Event {
    Signal(i32),
    /// What is [attended](Watch::attend) has been done.
    Done,
}

/// Signals, as they come.
pub(super) struct Watch {
    events: Receiver<Event>,
    told: Sender<Event>,
    /// The table is to be read again as soon as that can be done.
    is_reload_due: Cell<bool>,
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
        let (told, events) = mpsc::channel();
        let noted = told.clone();
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
                    let _ = noted.send(Event::Signal(signal));
                }
            })
            .context("cannot start a thread")?;
        // Half of it, as systemd advises.
        let watchdog = sd_notify::watchdog_enabled().map(|period| period / 2);
        Ok(Self { events, told, is_reload_due: Cell::new(false), watchdog })
    }

    /// Waits for a signal. Meanwhile systemd is told that all is well, as long as every clone
    /// answers.
    pub(super) fn wait(&self, host: &Host) -> Asked {
        loop {
            if self.is_reload_due.take() {
                say(&[NotifyState::Reloading]);
                return Asked::Reload;
            }
            match self.next(host) {
                Event::Signal(SIGHUP) if host.has_table() => self.note_reload(),
                Event::Signal(signal) => return stop(signal),
                // Nothing is attended.
                Event::Done => {}
            }
        }
    }

    /// Has a thread do something that may wait for sources and devices, and hears signals
    /// meanwhile.
    ///
    /// # Errors
    /// The system gives no thread, or it panicked.
    pub(super) fn attend<T: Send + 'static>(
        &self,
        host: &Arc<Host>,
        act: impl FnOnce(&Host) -> T + Send + 'static,
    ) -> Result<Attended<T>> {
        let (theirs, told) = (host.clone(), Tells(self.told.clone()));
        let thread = Builder::new().name("attended".into()).spawn(move || {
            let _told = told;
            act(&theirs)
        });
        let thread = thread.context("cannot start a thread")?;
        loop {
            match self.next(host) {
                Event::Signal(SIGHUP) if host.has_table() => self.note_reload(),
                Event::Signal(signal) => {
                    stop(signal);
                    return Ok(Attended::Stop);
                }
                Event::Done => {
                    let done = thread.join().map_err(|_| anyhow!("a thread panicked; see the log"));
                    return done.map(Attended::Done);
                }
            }
        }
    }

    fn note_reload(&self) {
        tracing::info!("SIGHUP: reading the table again");
        self.is_reload_due.set(true);
    }

    fn next(&self, host: &Host) -> Event {
        loop {
            let event = match self.watchdog {
                Some(period) => self.events.recv_timeout(period),
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(event) => return event,
                Err(RecvTimeoutError::Timeout) => {
                    // One that hangs with its lock held is waited for here, and systemd sees it.
                    let clones = host.list();
                    let failed = clones.iter().filter(|hosted| hosted.has_failed()).count();
                    tracing::trace!(failed, "all clones answer");
                    say(&[NotifyState::Watchdog]);
                }
                // One end of it is here.
                Err(RecvTimeoutError::Disconnected) => return Event::Signal(SIGTERM),
            }
        }
    }
}

fn stop(signal: i32) -> Asked {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
    tracing::info!("{name}: stopping");
    Asked::Stop
}

/// Tells that something has been done when it is dropped, by a panic too.
struct Tells(Sender<Event>);

impl Drop for Tells {
    fn drop(&mut self) {
        // If nobody waits for it any more the daemon is ending.
        let _ = self.0.send(Event::Done);
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
    if let Err(error) = notify(states) {
        tracing::warn!("systemd cannot be told: {error}");
    }
}
