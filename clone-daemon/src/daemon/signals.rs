//! Signals, and the state reports to systemd.

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

/// The request of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignalRequest {
    /// Reload the clonetab.
    Reload,
    /// Stop the daemon.
    Stop,
}

/// The result of a task during which signals are handled.
pub(super) enum TaskEnd<T> {
    /// The task is done.
    Done(T),
    /// The daemon must stop. The thread of the task has been abandoned.
    Stop,
}

/// An event of the daemon.
enum Event {
    Signal(i32),
    /// The [task](Watch::run_task) task is done.
    Done,
}

/// Receives signals.
pub(super) struct Watch {
    events: Receiver<Event>,
    sender: Sender<Event>,
    /// True if the clonetab must be reloaded as soon as possible.
    is_reload_due: Cell<bool>,
    /// Interval of the watchdog messages that systemd expects, if any.
    watchdog: Option<Duration>,
}

impl Watch {
    /// Catches SIGTERM and SIGINT, which stop the daemon, and SIGHUP. SIGHUP reloads the clonetab;
    /// without one (`reloads` is false) it stops the daemon, unless it was ignored from the start.
    /// A second SIGTERM or SIGINT ends the process at once; nothing that was flushed is lost.
    ///
    /// # Errors
    /// A signal handler cannot be installed, or the thread cannot be started.
    pub(super) fn start(reloads: bool) -> Result<Self> {
        let (sender, events) = mpsc::channel();
        let noted = sender.clone();
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
                    // A failed send means that the daemon is stopping already.
                    let _ = noted.send(Event::Signal(signal));
                }
            })
            .context("cannot start a thread")?;
        // Half the period, as systemd advises.
        let watchdog = sd_notify::watchdog_enabled().map(|period| period / 2);
        Ok(Self { events, sender, is_reload_due: Cell::new(false), watchdog })
    }

    /// Waits for a signal. Meanwhile sends watchdog messages to systemd, as long as every clone
    /// responds.
    pub(super) fn wait(&self, host: &Host) -> SignalRequest {
        loop {
            if self.is_reload_due.take() {
                say(&[NotifyState::Reloading]);
                return SignalRequest::Reload;
            }
            match self.next(host) {
                Event::Signal(SIGHUP) if host.has_table() => self.note_reload(),
                Event::Signal(signal) => return stop(signal),
                // No task runs.
                Event::Done => {}
            }
        }
    }

    /// Runs a task that may wait for sources and devices on a thread of its own, and handles
    /// signals meanwhile.
    ///
    /// # Errors
    /// The thread cannot be started, or the task panicked.
    pub(super) fn run_task<T: Send + 'static>(
        &self,
        host: &Arc<Host>,
        act: impl FnOnce(&Host) -> T + Send + 'static,
    ) -> Result<TaskEnd<T>> {
        let (theirs, done_sender) = (host.clone(), DoneSender(self.sender.clone()));
        let thread = Builder::new().name("task".into()).spawn(move || {
            let _done = done_sender;
            act(&theirs)
        });
        let thread = thread.context("cannot start a thread")?;
        loop {
            match self.next(host) {
                Event::Signal(SIGHUP) if host.has_table() => self.note_reload(),
                Event::Signal(signal) => {
                    stop(signal);
                    return Ok(TaskEnd::Stop);
                }
                Event::Done => {
                    let done = thread.join().map_err(|_| anyhow!("a thread panicked; see the log"));
                    return done.map(TaskEnd::Done);
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
                    // A clone that hangs with its lock held blocks this call, so systemd's watchdog
                    // expires.
                    let clones = host.list();
                    let failed = clones.iter().filter(|served| served.has_failed()).count();
                    tracing::trace!(failed, "all clones answer");
                    say(&[NotifyState::Watchdog]);
                }
                // Unreachable: `self` holds a sender.
                Err(RecvTimeoutError::Disconnected) => return Event::Signal(SIGTERM),
            }
        }
    }
}

fn stop(signal: i32) -> SignalRequest {
    let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
    tracing::info!("{name}: stopping");
    SignalRequest::Stop
}

/// Sends [`Event::Done`] when it is dropped, also by a panic.
struct DoneSender(Sender<Event>);

impl Drop for DoneSender {
    fn drop(&mut self) {
        // A failed send means that the daemon is ending.
        let _ = self.0.send(Event::Done);
    }
}

/// Reports to systemd that clones are served.
pub(super) fn say_ready(host: &Host) {
    let clones = host.list().len();
    let status = format!("serving {clones} clone{}", if clones == 1 { "" } else { "s" });
    say(&[NotifyState::Ready, NotifyState::Status(&status)]);
    tracing::info!("{status}");
}

/// Reports to systemd that the daemon is stopping.
pub(super) fn say_stopping() {
    say(&[NotifyState::Stopping]);
}

/// Sends a message to systemd. Does nothing if systemd does not listen.
fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}
