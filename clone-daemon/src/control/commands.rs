//! Executes the requests on the control socket. Each connection's thread calls it, and it calls the
//! [`Host`].

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use clone_core::driver::{DatedEvent, DriverError};
use clone_core::engine::Command;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::line::{self, LineError};
use super::protocol::{ErrorKind, Item, Refusal, Reply, Request, VERSION, Verb};
use super::report;
use crate::connection_server::ConnectionState;
use crate::host::{Host, HostError, Reloaded, ServedClone};

/// The interval at which a wait for events checks that the client is still connected.
const PEER_POLL_INTERVAL: Duration = Duration::from_millis(200);

pub(super) struct Commands {
    pub(super) host: Arc<Host>,
}

/// The reason why an answer ends early.
pub(super) enum Stop {
    /// The request failed; the client receives the error.
    Refused(Refusal),
    /// The client is gone.
    Gone(LineError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<HostError> for Stop {
    fn from(error: HostError) -> Self {
        let kind = match error {
            HostError::NoSuch { .. } => ErrorKind::NoClone,
            HostError::Stopping => ErrorKind::Stopped,
            _ => ErrorKind::Failed,
        };
        Self::Refused(Refusal::new(kind, error.to_string()))
    }
}

impl From<DriverError> for Stop {
    fn from(error: DriverError) -> Self {
        let kind = match error {
            DriverError::Ending => ErrorKind::Stopped,
            _ => ErrorKind::Failed,
        };
        Self::Refused(Refusal::new(kind, error.to_string()))
    }
}

/// The client that receives an answer.
struct Peer<'a> {
    stream: &'a UnixStream,
    connection: &'a ConnectionState,
}

impl Peer<'_> {
    fn send(&self, item: Item) -> Result<(), Stop> {
        match line::write(&mut &*self.stream, &Reply::item(item)) {
            Err(error @ LineError::TooLong) => {
                Err(Refusal::new(ErrorKind::Failed, format!("the answer has {error}")).into())
            }
            written => written.map_err(Stop::Gone),
        }
    }

    /// Fails if the client is gone, or the daemon is stopping. Pending input of the client stays
    /// unread.
    fn expect_there(&self) -> Result<(), Stop> {
        if self.connection.is_ending() {
            return Err(Refusal::new(ErrorKind::Stopped, "the daemon is stopping").into());
        }
        let mut byte = [0];
        match recv(self.stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Err(Stop::Gone(LineError::Cut)),
            Err(error) if error != Errno::WOULDBLOCK && error != Errno::INTR => {
                Err(Stop::Gone(LineError::Io(error.into())))
            }
            _ => Ok(()),
        }
    }
}

impl Commands {
    /// Executes `request` and writes all of the answer except its end to `stream`.
    pub(super) fn answer(
        &self,
        request: Request,
        stream: &UnixStream,
        connection: &ConnectionState,
    ) -> Result<(), Stop> {
        if request.v != VERSION {
            let text = format!(
                "the daemon speaks version {VERSION} of the control protocol, and this is \
                 version {}: use the clonectl that came with the daemon",
                request.v
            );
            return Err(Refusal::new(ErrorKind::Request, text).into());
        }
        let peer = Peer { stream, connection };
        match request.verb {
            Verb::Status { name, flush } => self.each(name.as_deref(), |clone| {
                peer.send(Item::Clone(Box::new(report::status(clone, flush))))
            }),
            Verb::Table { name } => self.each(name.as_deref(), |clone| {
                peer.send(Item::Table {
                    name: clone.name().to_owned(),
                    line: clone.table().to_string(),
                })
            }),
            Verb::Message { name, message } => self.message(&name, &message),
            Verb::Suspend { name } => Ok(self.host.get(&name)?.running().suspend()?),
            Verb::Resume { name } => Ok(self.host.get(&name)?.running().resume()?),
            Verb::Wait { name, after } => self.wait(&name, after, &peer),
            Verb::Events { name: Some(name), follow } => self.events_of(&name, follow, &peer),
            Verb::Events { name: None, follow } => self.events(follow, &peer),
            Verb::Create { line } => self.host.create(&line).map(drop).map_err(Stop::from),
            Verb::Remove { name } => Ok(self.host.remove(&name)?),
            Verb::Reload => {
                let Reloaded { added, removed, changed, failed } = self.host.reload()?;
                peer.send(Item::Reloaded { added, removed, changed, failed })
            }
            Verb::Snapshot { name, cells } => {
                let clone = self.host.get(&name)?;
                peer.send(Item::Snapshot(Box::new(report::snapshot(&clone, cells))))
            }
        }
    }

    fn each(
        &self,
        name: Option<&str>,
        report: impl Fn(&ServedClone) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        match name {
            Some(name) => report(&*self.host.get(name)?),
            None => self.host.list().iter().try_for_each(|clone| report(clone)),
        }
    }

    fn message(&self, name: &str, message: &str) -> Result<(), Stop> {
        let clone = self.host.get(name)?;
        let command = Command::parse(message)
            .map_err(|error| Refusal::new(ErrorKind::Message, error.to_string()))?;
        Ok(clone.command(command)?)
    }

    /// Fails if `clone` is no longer served: it will have no more events.
    fn expect_served(&self, clone: &Arc<ServedClone>) -> Result<(), Stop> {
        let now = self.host.find(clone.name());
        if now.is_some_and(|now| Arc::ptr_eq(&now, clone)) {
            return Ok(());
        }
        let text = format!("the clone {:?} has been stopped", clone.name());
        Err(Refusal::new(ErrorKind::Stopped, text).into())
    }

    fn wait(&self, name: &str, after: u64, peer: &Peer) -> Result<(), Stop> {
        let clone = self.host.get(name)?;
        loop {
            let events = clone.running().wait_for_dated(after, PEER_POLL_INTERVAL);
            if !events.is_empty() {
                return send_events(&clone, events, peer).map(drop);
            }
            self.expect_served(&clone)?;
            peer.expect_there()?;
        }
    }

    fn events_of(&self, name: &str, follow: bool, peer: &Peer) -> Result<(), Stop> {
        let clone = self.host.get(name)?;
        let mut after = 0;
        loop {
            let wait = if follow { PEER_POLL_INTERVAL } else { Duration::ZERO };
            let events = clone.running().wait_for_dated(after, wait);
            let is_empty = events.is_empty();
            after = send_events(&clone, events, peer)?.unwrap_or(after);
            if !follow {
                return Ok(());
            }
            if is_empty {
                self.expect_served(&clone)?;
                peer.expect_there()?;
            }
        }
    }

    /// Writes the events of all clones. Events that are found in the same pass are sorted by time.
    fn events(&self, follow: bool, peer: &Peer) -> Result<(), Stop> {
        let mut known: Vec<(Arc<ServedClone>, u64)> = Vec::new();
        loop {
            let list = self.host.list();
            // The last events of a stopped clone are reported before it is dropped.
            let is_listed = |known: &Arc<ServedClone>| list.iter().any(|c| Arc::ptr_eq(c, known));
            let (mut stay, mut gone): (Vec<_>, Vec<_>) =
                known.into_iter().partition(|(clone, _)| is_listed(clone));
            for clone in &list {
                if !stay.iter().any(|(old, _)| Arc::ptr_eq(old, clone)) {
                    stay.push((clone.clone(), 0));
                }
            }
            let mut news: Vec<(String, DatedEvent)> = Vec::new();
            for (clone, after) in gone.iter_mut().chain(&mut stay) {
                let events = clone.running().wait_for_dated(*after, Duration::ZERO);
                *after = events.last().map_or(*after, |dated| dated.event.number);
                news.extend(events.into_iter().map(|dated| (clone.name().to_owned(), dated)));
            }
            news.sort_by_key(|(_, dated)| dated.time);
            for (name, dated) in news {
                peer.send(Item::Event(report::event(&name, dated)))?;
            }
            if !follow {
                return Ok(());
            }
            peer.expect_there()?;
            std::thread::sleep(PEER_POLL_INTERVAL);
            known = stay;
        }
    }
}

/// Writes all events, and returns the number of the last one.
fn send_events(
    clone: &ServedClone,
    events: Vec<DatedEvent>,
    peer: &Peer,
) -> Result<Option<u64>, Stop> {
    let last = events.last().map(|dated| dated.event.number);
    for dated in events {
        peer.send(Item::Event(report::event(clone.name(), dated)))?;
    }
    Ok(last)
}
