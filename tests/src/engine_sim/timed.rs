//! A simulated world of time alone: an engine, the line to its source, a destination, and users. It
//! holds no data, so that regions can be as large as in practice. `scenario.rs` runs it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use clone_core::dm_target::Status;
use clone_core::engine::{
    Action, ByteRange, Command, Done, Engine, EventKind, Input, Io, OpId, Opened, Operation,
    Request, RequestId, Settings,
};
use clone_core::geometry::{Geometry, RegionSize, Sectors};

use super::line::{Discipline, Line};

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;

/// A fault in behaviour that makes something take longer than necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// The engine is told at once that a background fetch has ended, and so asks for more than the
    /// line can carry.
    BlindWindow,
    /// Background fetches are sent one at a time.
    OneByOne,
    /// All fetches keep to the rate of hydration, including those that users wait for.
    KeptRate,
    /// Background fetches always give way to all others.
    Starved,
    /// The event for a complete clone is delayed until no flush is in flight.
    LateFinish,
}

/// The devices of a clone, and its settings. Times are in nanoseconds, rates in bytes per second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    /// Bytes per region.
    pub(super) region: u64,
    pub(super) regions: u64,
    pub(super) settings: Settings,
    pub(super) discipline: Discipline,
    /// Rate of the line to the source, and the latency of the source.
    pub(super) line: u64,
    pub(super) latency: u64,
    /// Latency of an operation on the destination, and the destination's rate.
    pub(super) destination: u64,
    pub(super) destination_rate: u64,
    /// Durations of a flush of the destination and of a commit.
    pub(super) flush: u64,
    pub(super) commit: u64,
}

impl Setup {
    /// Returns the time to copy `bytes` in pieces of `piece` bytes, one after the other, in
    /// nanoseconds.
    pub(super) fn copy_time(&self, bytes: u64, piece: u64) -> u64 {
        let pieces = bytes.div_ceil(piece);
        let carried = u128::from(bytes) * u128::from(SECOND);
        let transfer =
            carried / u128::from(self.line) + carried / u128::from(self.destination_rate);
        pieces * (self.latency + self.destination) + transfer as u64
    }
}

/// An action of a user.
#[derive(Clone, Debug)]
pub(super) enum Turn {
    /// Sends a request; the next turn comes with its answer.
    Ask(Operation, ByteRange),
    /// Waits this many nanoseconds.
    Wait(u64),
    /// Sends a message; the next turn comes at once.
    Tell(Command),
    /// Stops.
    Leave,
}

#[derive(Debug)]
enum Coming {
    /// A fetch request reaches the source.
    Arrive {
        op: u64,
        bytes: u64,
    },
    End {
        op: u64,
    },
    User {
        user: usize,
    },
}

/// An operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Fetch(Fetch),
    Flush,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fetch {
    bytes: u64,
    is_background: bool,
    /// True if it was sent to the source.
    is_sent: bool,
    /// True if the engine was told that it has ended.
    is_told: bool,
}

/// A running clone.
pub(super) struct Timed {
    pub(super) setup: Setup,
    pub(super) engine: Engine,
    pub(super) line: Line,
    pub(super) now: u64,
    delay: Option<Delay>,
    actions: Vec<Action>,
    coming: BTreeMap<(u64, u64), Coming>,
    scheduled: u64,
    ops: HashMap<u64, Op>,
    /// Background fetches that a `Delay` holds back.
    held: VecDeque<u64>,
    /// The time up to which the hydration rate is used up, if all fetches keep to it.
    paid_at: u64,
    flushes: u32,
    is_finish_held: bool,
    /// The user and the submission time of each request in flight.
    requests: HashMap<u64, (usize, u64)>,
    nr_requests: u64,
    /// Durations of all answered requests, in nanoseconds.
    pub(super) took: Vec<u64>,
    /// Number of background fetches that were begun.
    pub(super) background: u64,
    /// The times of the last region's hydration and of the event for a complete clone.
    pub(super) hydrated_at: Option<u64>,
    pub(super) finished_at: Option<u64>,
}

impl Timed {
    pub(super) fn new(setup: Setup, delay: Option<Delay>) -> Self {
        let sectors = |bytes: u64| Sectors(bytes / 512);
        let region_size = RegionSize::new(sectors(setup.region)).expect("a region size");
        let size = sectors(setup.region * setup.regions);
        let geometry = Geometry::new(region_size, size).expect("a geometry");
        let opened = Opened { geometry, metadata_used: 1, metadata_total: 2 };
        Self {
            setup,
            engine: Engine::new(opened, [], setup.settings),
            line: Line::new(setup.discipline, setup.line),
            now: 0,
            delay,
            actions: Vec::new(),
            coming: BTreeMap::new(),
            scheduled: 0,
            ops: HashMap::new(),
            held: VecDeque::new(),
            paid_at: 0,
            flushes: 0,
            is_finish_held: false,
            requests: HashMap::new(),
            nr_requests: 0,
            took: Vec::new(),
            background: 0,
            hydrated_at: None,
            finished_at: None,
        }
    }

    fn schedule(&mut self, at: u64, what: Coming) {
        self.scheduled += 1;
        self.coming.insert((at, self.scheduled), what);
    }

    /// Runs `users` until the time `until`, or until the clone is complete if `ends_complete` is
    /// set.
    pub(super) fn run(
        &mut self,
        until: u64,
        users: usize,
        ends_complete: bool,
        turn: &mut dyn FnMut(&mut Self, usize) -> Turn,
    ) {
        for user in 0..users {
            self.schedule(self.now, Coming::User { user });
        }
        self.tell(Input::Tick);
        while !(ends_complete && self.finished_at.is_some()) {
            let coming = self.coming.first_key_value().map(|((at, _), _)| *at);
            let tick = self.engine.next_tick().map(|at| (at.as_nanos() as u64).max(self.now));
            let line = self.line.next_end();
            let Some(next) = [coming, tick, line].into_iter().flatten().min() else { break };
            if next > until {
                break;
            }
            self.now = next;
            if line == Some(next) {
                while let Some(op) = self.line.take_ended(next) {
                    self.carried(op);
                }
            } else if coming == Some(next) {
                let (_, what) = self.coming.pop_first().expect("it is there");
                match what {
                    Coming::Arrive { op, bytes } => self.line.begin(self.now, op, bytes),
                    Coming::End { op } => self.end(op),
                    Coming::User { user } => self.act(user, turn),
                }
            } else {
                self.tell(Input::Tick);
            }
        }
    }

    fn act(&mut self, user: usize, turn: &mut dyn FnMut(&mut Self, usize) -> Turn) {
        match turn(self, user) {
            Turn::Leave => {}
            Turn::Wait(time) => self.schedule(self.now + time, Coming::User { user }),
            Turn::Tell(command) => {
                self.schedule(self.now, Coming::User { user });
                self.tell(Input::Command(command));
            }
            Turn::Ask(operation, range) => {
                self.nr_requests += 1;
                let id = self.nr_requests;
                self.requests.insert(id, (user, self.now));
                // Reads of hydrated regions bypass the engine.
                let is_here = operation == Operation::Read && self.is_hydrated(&range);
                if is_here {
                    self.answered(id);
                } else {
                    let id = RequestId(id);
                    self.tell(Input::Submit(Request { id, operation, range, durable: false }));
                }
            }
        }
    }

    /// Returns whether all of a range is hydrated.
    pub(super) fn is_hydrated(&self, range: &ByteRange) -> bool {
        let lane = self.engine.fast_path().lane();
        lane.is_hydrated(range)
    }

    fn answered(&mut self, request: u64) {
        let asked = self.requests.remove(&request);
        let (user, at) = asked.expect("it was asked, and not answered");
        self.took.push(self.now - at);
        self.schedule(self.now, Coming::User { user });
    }

    fn tell(&mut self, event: Input) {
        let mut actions = std::mem::take(&mut self.actions);
        self.engine.handle(Duration::from_nanos(self.now), event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Start { op, io } => self.start(op.0, io),
                Action::Answer { request, .. } => self.answered(request.0),
                Action::Emit(event) if event.kind == EventKind::Finished => {
                    self.is_finish_held = true;
                }
                _ => {}
            }
        }
        self.actions = actions;
        let may_tell = self.delay != Some(Delay::LateFinish) || self.flushes == 0;
        if self.is_finish_held && may_tell {
            self.is_finish_held = false;
            self.finished_at = Some(self.now);
        }
        if let (None, Status::Running(counts)) = (self.hydrated_at, self.engine.status())
            && counts.hydrated == counts.regions
        {
            self.hydrated_at = Some(self.now);
        }
    }

    fn start(&mut self, key: u64, io: Io) {
        let setup = self.setup;
        let written = |range: &ByteRange| {
            let bytes = u128::from(range.end - range.start) * u128::from(SECOND);
            setup.destination + (bytes / u128::from(setup.destination_rate)) as u64
        };
        let took = match &io {
            Io::ReadSource { range, .. } | Io::Fetch { range, .. } => {
                let is_background = matches!(io, Io::Fetch { urgent: false, .. });
                self.background += u64::from(is_background);
                let bytes = range.end - range.start;
                let fetch = Fetch { bytes, is_background, is_sent: false, is_told: false };
                return self.send_fetch(key, fetch);
            }
            Io::Store { range, .. }
            | Io::Write { range, .. }
            | Io::ReadDestination { range, .. } => written(range),
            Io::Zero { .. } | Io::Discard { .. } => setup.destination,
            Io::Flush => {
                self.flushes += 1;
                setup.flush
            }
            Io::Commit { .. } | Io::Abort => setup.commit,
        };
        let op = if matches!(io, Io::Flush) { Op::Flush } else { Op::Other };
        self.ops.insert(key, op);
        self.schedule(self.now + took, Coming::End { op: key });
    }

    /// Sends a fetch to the source, unless a `Delay` holds it back.
    fn send_fetch(&mut self, key: u64, mut fetch: Fetch) {
        let mut others = self.ops.values().filter_map(|op| match op {
            Op::Fetch(other) if other.is_sent && !other.is_told => Some(other.is_background),
            _ => None,
        });
        let is_kept = match self.delay {
            Some(Delay::OneByOne) if fetch.is_background => others.any(|it| it),
            Some(Delay::Starved) if fetch.is_background => others.any(|it| !it),
            _ => false,
        };
        fetch.is_sent = !is_kept;
        self.ops.insert(key, Op::Fetch(fetch));
        if is_kept {
            self.held.push_back(key);
            return;
        }
        let mut at = self.now;
        if let (Some(Delay::KeptRate), Some(rate)) =
            (self.delay, self.setup.settings.hydration_rate)
        {
            at = at.max(self.paid_at);
            self.paid_at = at + fetch.bytes * SECOND / rate;
        }
        if fetch.is_background && self.delay == Some(Delay::BlindWindow) {
            self.schedule(at + 1000, Coming::End { op: key });
        }
        let arrives = at + self.setup.latency / 2;
        self.schedule(arrives, Coming::Arrive { op: key, bytes: fetch.bytes });
    }

    /// Ends the transfer of a fetch.
    fn carried(&mut self, key: u64) {
        if matches!(self.ops.get(&key), Some(Op::Fetch(fetch)) if fetch.is_told) {
            self.ops.remove(&key);
        } else {
            self.schedule(self.now + self.setup.latency.div_ceil(2), Coming::End { op: key });
        }
    }

    fn end(&mut self, key: u64) {
        match self.ops.remove(&key) {
            Some(Op::Flush) => self.flushes -= 1,
            Some(Op::Fetch(fetch)) if fetch.is_background => {
                let is_told = true;
                if self.delay == Some(Delay::BlindWindow) {
                    self.ops.insert(key, Op::Fetch(Fetch { is_told, ..fetch }));
                }
            }
            _ => {}
        }
        for held in std::mem::take(&mut self.held) {
            if let Some(&Op::Fetch(fetch)) = self.ops.get(&held) {
                self.send_fetch(held, fetch);
            }
        }
        self.tell(Input::Done { op: OpId(key), result: Ok(Done::Plain) });
    }
}
