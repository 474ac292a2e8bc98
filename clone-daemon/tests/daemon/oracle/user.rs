//! NBD users: each has a connection with many requests in flight.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clone_daemon::nbd_protocol::{command, flag};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::judge;
use super::model::{Force, Moment, WriteId};
use super::plan::{Mix, Plan, Theme};
use super::run::{Inside, NAME, Run};
use super::wire::{Part, ReplyFormat, Request, What, Wire};
use crate::oracle::content::Value;

/// The expected effect of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Doing {
    Read(Moment),
    /// It changes bytes; [`Force`] tells the effect.
    Change(WriteId, Force),
    Flush(Moment),
    Status(Moment),
    Cache,
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) doing: Doing,
    pub(super) since: Instant,
    /// The parts of the reply received so far.
    pub(super) parts: Vec<What>,
}

/// The requests in flight on a connection.
#[derive(Default)]
pub(super) struct Flight {
    state: Mutex<FlightState>,
    /// Signals that a request has ended, or that no more replies will come.
    room: Condvar,
}

#[derive(Default)]
struct FlightState {
    asked: HashMap<u64, Asked>,
    is_broken: bool,
    /// True if the user has hung up with requests in flight.
    is_left: bool,
}

impl Flight {
    fn lock(&self) -> MutexGuard<'_, FlightState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until fewer than `depth` requests are in flight. Returns false if no more replies will
    /// come.
    fn wait_for_room(&self, depth: usize) -> bool {
        let mut state = self.lock();
        while !state.is_broken && state.asked.len() >= depth {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.is_broken
    }

    fn add(&self, cookie: u64, asked: Asked) {
        self.lock().asked.insert(cookie, asked);
    }

    /// Records that no more replies will come. Returns the number of requests in flight, or `None`
    /// if the user has hung up.
    fn end(&self) -> Option<usize> {
        let mut state = self.lock();
        state.is_broken = true;
        self.room.notify_all();
        (!state.is_left).then_some(state.asked.len())
    }

    /// Returns the oldest request in flight.
    pub(super) fn oldest(&self) -> Option<(String, Instant)> {
        let state = self.lock();
        let oldest = state.asked.values().min_by_key(|asked| asked.since)?;
        Some((told(&oldest.request), oldest.since))
    }

    /// Describes all requests in flight, the oldest first.
    pub(super) fn told(&self) -> String {
        let state = self.lock();
        let mut all: Vec<&Asked> = state.asked.values().collect();
        all.sort_by_key(|asked| asked.since);
        let mut text = String::new();
        for asked in all.iter().take(20) {
            let (since, request) = (asked.since.elapsed(), told(&asked.request));
            let _ = writeln!(text, "  {since:?}: {request}, {} parts have come", asked.parts.len());
        }
        let _ = writeln!(text, "  {} in all", all.len());
        text
    }
}

/// Describes a request.
pub(super) fn told(request: &Request) -> String {
    let Request { command, flags, offset, length } = *request;
    let end = offset + length;
    format!("{} {offset}..{end} with flags {flags:#x}", name(command))
}

/// Returns the name of a command.
pub(super) fn name(command: u16) -> &'static str {
    match command {
        command::READ => "read",
        command::WRITE => "write",
        command::FLUSH => "flush",
        command::TRIM => "trim",
        command::CACHE => "cache",
        command::WRITE_ZEROES => "zeroes",
        command::BLOCK_STATUS => "block status",
        _ => "other",
    }
}

/// Uses the clone on one connection after another.
pub(super) fn use_clone(run: &Run, number: u32, style: ReplyFormat, mix: Mix, round: u64) {
    let seed = run.plan.seed << 20 ^ round << 8 ^ u64::from(number);
    let mut random = StdRng::seed_from_u64(seed);
    while let Some(inside) = run.gate.enter(run) {
        let waiting = run.waits.begin(format!("user {number} connects"));
        let wire = Wire::connect(&run.socket(), NAME, style);
        drop(waiting);
        match wire {
            Ok(wire) => {
                run.tally.add("connections", 1);
                let user = User { run, inside: &inside, number, style, mix };
                user.go_on(wire, &mut random);
            }
            Err(_) if run.gate.is_disturbed(inside.mark) || run.is_over() => {}
            Err(error) => run.find(format!("user {number} cannot connect: {error}")),
        }
    }
}

struct User<'a> {
    run: &'a Run,
    inside: &'a Inside<'a>,
    number: u32,
    style: ReplyFormat,
    mix: Mix,
}

impl User<'_> {
    /// Sends requests until one side hangs up.
    fn go_on(&self, mut wire: Wire, random: &mut StdRng) {
        let flight = Arc::new(Flight::default());
        let who = format!("user {} ({:?})", self.number, self.style);
        self.run.waits.add_flight(who, &flight);
        let Ok(mut stream) = wire.sender() else { return };
        thread::scope(|scope| {
            let receiver = scope.spawn(|| self.receive(&mut wire, &flight));
            self.send(&mut stream, &flight, random);
            // The receiver may have ended first.
            let _ = stream.shutdown(Shutdown::Both);
            if receiver.join().is_err() {
                self.run.find(format!("the receiver of user {} has panicked", self.number));
            }
        });
        // The remaining requests get no reply.
        let mut known = self.run.known();
        for asked in flight.lock().asked.drain().map(|(_, asked)| asked) {
            if let Doing::Read(moment) | Doing::Status(moment) = asked.doing {
                known.model.end_read(moment);
            }
        }
    }

    fn send(&self, stream: &mut UnixStream, flight: &Flight, random: &mut StdRng) {
        let depth = self.run.plan.depth;
        let mut cookie = 0;
        let mut bytes = Vec::new();
        loop {
            if self.run.is_ending() {
                // First waits for all replies.
                flight.wait_for_room(1);
                return;
            }
            if random.random_range(0..3000) == 0 {
                self.run.tally.add("hang-ups", 1);
                flight.lock().is_left = true;
                return;
            }
            if !flight.wait_for_room(depth) {
                return;
            }
            bytes.clear();
            for _ in 0..random.random_range(1..=depth.min(12)) {
                cookie += 1;
                let (request, doing, value) = self.next(random);
                let mut data = Vec::new();
                if request.command == command::WRITE {
                    data.resize(request.length as usize, 0);
                    self.run.content.fill(value, request.offset, &mut data);
                }
                let (since, parts) = (Instant::now(), Vec::new());
                flight.add(cookie, Asked { request, doing, since, parts });
                Wire::put(self.style, cookie, &request, &data, &mut bytes);
            }
            if stream.write_all(&bytes).is_err() {
                // The receiver finds the reason.
                flight.wait_for_room(1);
                return;
            }
        }
    }

    /// Creates a random request and records its submission.
    fn next(&self, random: &mut StdRng) -> (Request, Doing, Value) {
        let plan = &self.run.plan;
        let (asked, flags) = self.kind(random);
        let range = if asked == command::FLUSH { 0..0 } else { range(plan, random) };
        let request =
            Request { command: asked, flags, offset: range.start, length: range.end - range.start };
        let model = &mut self.run.known().model;
        let value = match asked {
            command::WRITE => model.tag(),
            command::TRIM if plan.discards_are_unknown => Value::Unknown,
            _ => Value::Zeroes,
        };
        let force = if asked == command::TRIM { Force::Partial } else { Force::Full };
        let doing = match asked {
            command::READ => Doing::Read(model.begin_read()),
            command::BLOCK_STATUS => Doing::Status(model.begin_read()),
            command::FLUSH => Doing::Flush(model.advance()),
            command::CACHE => Doing::Cache,
            _ => Doing::Change(model.begin(range, value, force, self.number), force),
        };
        (request, doing, value)
    }

    /// Chooses a command and flags.
    fn kind(&self, random: &mut StdRng) -> (u16, u16) {
        let mix = self.mix;
        let status = if self.style == ReplyFormat::Simple { 0 } else { mix.status };
        let weights = [
            (command::READ, mix.read),
            (command::WRITE, mix.write),
            (command::FLUSH, mix.flush),
            (command::TRIM, mix.trim),
            (command::WRITE_ZEROES, mix.zeroes),
            (command::CACHE, mix.cache),
            (command::BLOCK_STATUS, status),
        ];
        let all: u32 = weights.iter().map(|(_, weight)| weight).sum();
        let mut at = random.random_range(0..all);
        let chosen = weights.into_iter().find(|&(_, weight)| {
            let is_chosen = at < weight;
            at = at.saturating_sub(weight);
            is_chosen
        });
        let asked = chosen.map_or(command::READ, |(asked, _)| asked);
        let mut flags = 0;
        let mut maybe = |flag: u16, chance: f64| {
            if random.random_bool(chance) {
                flags |= flag;
            }
        };
        match asked {
            command::READ if self.style != ReplyFormat::Simple => maybe(flag::DF, 0.2),
            command::WRITE => maybe(flag::FUA, 0.05),
            command::WRITE_ZEROES => {
                maybe(flag::FUA, 0.05);
                maybe(flag::NO_HOLE, 0.5);
                maybe(flag::FAST_ZERO, 0.05);
            }
            command::BLOCK_STATUS => maybe(flag::REQ_ONE, 0.3),
            _ => {}
        }
        (asked, flags)
    }

    fn receive(&self, wire: &mut Wire, flight: &Flight) {
        let ended = loop {
            match wire.part() {
                Ok(Some(part)) => {
                    if let Err(error) = self.take(wire, part, flight) {
                        break Some(error);
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let Some(waits) = flight.end() else { return };
        if self.run.is_over() || self.run.gate.is_disturbed(self.inside.mark) && !is_wrong(&ended) {
            return;
        }
        let told = match ended {
            Some(error) if is_wrong(&Some(io::Error::from(error.kind()))) => {
                format!("user {} got a reply that is none: {error}", self.number)
            }
            // A simple reply has no other way to report that the rest of a read failed.
            _ if self.style == ReplyFormat::Simple && self.run.may_cut() => return,
            _ if waits == 0 => return,
            ended => format!(
                "the connection of user {} ends with {waits} requests under way, and there is no \
                 reason for that: {ended:?}",
                self.number
            ),
        };
        self.run.find(told);
    }

    fn take(&self, wire: &mut Wire, part: Part, flight: &Flight) -> io::Result<()> {
        let Part { cookie, is_last, what } = part;
        let what = {
            let mut state = flight.lock();
            let Some(asked) = state.asked.get_mut(&cookie) else {
                let told = format!("a reply to {cookie}, and no such request is under way");
                return Err(super::wire::wrong(told));
            };
            if !is_last {
                asked.parts.push(what);
                return Ok(());
            }
            let Request { command, offset, length, .. } = asked.request;
            let is_simple = self.style == ReplyFormat::Simple && command == command::READ;
            (what, is_simple.then_some((offset, length)))
        };
        let what = match what {
            (What::Done, Some((offset, length))) => What::Data(offset, wire.bytes(length)?),
            (what, _) => what,
        };
        let asked = flight.lock().asked.remove(&cookie);
        flight.room.notify_all();
        if let Some(mut asked) = asked {
            asked.parts.push(what);
            if let Err(told) = judge::judge(self.run, &asked, self.inside.mark) {
                self.run.find(format!("user {}, {}: {told}", self.number, told_of(&asked)));
            }
        }
        Ok(())
    }
}

fn told_of(asked: &Asked) -> String {
    format!("{} after {:?}", told(&asked.request), asked.since.elapsed())
}

fn is_wrong(ended: &Option<io::Error>) -> bool {
    ended.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
}

/// Chooses a range.
pub(super) fn range(plan: &Plan, random: &mut StdRng) -> std::ops::Range<u64> {
    let size = plan.size;
    let within = if random.random_bool(0.5) { plan.hot.clone() } else { 0..size };
    let mut start = random.random_range(within);
    let longest = match random.random_range(0..200) {
        0 => 1 << 20,
        1..100 => 512,
        100..170 => plan.length_max.min(8000),
        _ => plan.length_max,
    };
    let mut end = size.min(start + random.random_range(1..=longest));
    let align = match random.random_range(0..8) {
        0 => 512,
        1 => 4096,
        2 if plan.region <= 128 << 10 => plan.region,
        _ => 1,
    };
    start -= start % align;
    end = size.min(end.next_multiple_of(align));
    start..end
}

/// Requests more than the shared memory can hold, and reads the replies only after a while.
pub(super) fn hog(run: &Run, number: u32) {
    let mut random = StdRng::seed_from_u64(run.plan.seed ^ u64::from(number) << 32);
    while let Some(inside) = run.gate.enter(run) {
        let Ok(mut wire) = Wire::connect(&run.socket(), NAME, ReplyFormat::Structured) else {
            continue;
        };
        let user = User {
            run,
            inside: &inside,
            number,
            style: ReplyFormat::Structured,
            mix: Mix::default(),
        };
        let flight = Arc::new(Flight::default());
        let Ok(mut stream) = wire.sender() else { continue };
        let mut bytes = Vec::new();
        for cookie in 1..=2 {
            let (offset, length) = (random.random_range(0..1 << 20), 32 << 20);
            let request = Request { command: command::READ, flags: 0, offset, length };
            let doing = Doing::Read(run.known().model.begin_read());
            let (since, parts) = (Instant::now(), Vec::new());
            flight.add(cookie, Asked { request, doing, since, parts });
            Wire::put(ReplyFormat::Structured, cookie, &request, &[], &mut bytes);
        }
        if stream.write_all(&bytes).is_err() {
            continue;
        }
        thread::sleep(Duration::from_millis(random.random_range(200..900)));
        run.waits.add_flight(format!("hog {number}"), &flight);
        run.tally.add("hogs' turns", 1);
        thread::scope(|scope| {
            scope.spawn(|| user.receive(&mut wire, &flight));
            flight.wait_for_room(1);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

/// Returns the request mix of a user. In the theme Busy all users but one only flush, so that there
/// is always a waiting flush.
pub(super) fn mix_of(plan: &Plan, number: u32) -> Mix {
    match plan.theme {
        Theme::Busy if number > 1 => Mix { flush: 1, ..Mix::default() },
        Theme::Busy => Mix { write: 50, flush: 50, ..Mix::default() },
        _ => plan.mix,
    }
}
