//! Directs a run from start to end: starts the users and triggers the events.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clone_daemon::control::protocol::{Item, Verb};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use super::model::Mismatch;
use super::plan::{Event, Theme};
use super::process::{Daemon, Small};
use super::run::{NAME, Run};
use super::source::Source;
use super::verbs::{self, Answer, Resumes, ask};
use super::wire::{ReplyFormat, Request, What, Wire};
use super::{fuse_user, user};

pub(super) struct Director<'a> {
    run: &'a Run,
    daemon: Daemon<'a>,
    source: &'a Source,
    small: Option<Small>,
    random: StdRng,
    is_troubled: bool,
    /// Number of times that users were started.
    round: u64,
}

/// The name of the director in messages.
const WHO: &str = "the director";

impl<'a> Director<'a> {
    pub(super) fn new(
        run: &'a Run,
        daemon: Daemon<'a>,
        source: &'a Source,
        small: Option<Small>,
    ) -> Self {
        let random = StdRng::seed_from_u64(run.plan.seed ^ 0xd1_4ec7);
        Self { run, daemon, source, small, random, is_troubled: false, round: 0 }
    }

    /// Runs the whole plan.
    pub(super) fn direct(&mut self) {
        self.is_troubled = true;
        self.start();
        // The clone that users have filled would finish during such a pause.
        if self.run.plan.theme != Theme::Busy {
            self.while_users_work(Self::let_things_happen);
        }
        if self.run.plan.theme == Theme::Truncated && !self.run.is_over() {
            self.truncate();
            return;
        }
        if !self.run.is_over() {
            self.complete();
        }
    }

    /// Lets users and controllers work until `act` is done.
    fn while_users_work(&mut self, act: impl FnOnce(&mut Self)) {
        let run = self.run;
        self.round += 1;
        let round = self.round;
        run.set_ending(false);
        let resumes = Resumes::default();
        thread::scope(|scope| {
            for (number, style) in (1..).zip(&run.plan.users) {
                let mix = user::mix_of(&run.plan, number);
                scope.spawn(move || user::use_clone(run, number, *style, mix, round));
            }
            for number in 0..run.plan.fuse_users {
                scope.spawn(move || fuse_user::use_file(run, 100 + number, round));
            }
            for number in 0..run.plan.hogs {
                scope.spawn(move || user::hog(run, 200 + number));
            }
            for number in 1..=3 {
                let resumes = &resumes;
                scope.spawn(move || verbs::say_things(run, number, resumes, round));
            }
            act(self);
            run.set_ending(true);
        });
    }

    fn let_things_happen(&mut self) {
        let plan = &self.run.plan;
        if plan.theme == Theme::Stalled {
            // Before users have fetched everything.
            self.source.set_stalled(true);
        }
        let until = Instant::now() + Duration::from_millis(plan.duration_ms);
        while Instant::now() < until && !self.run.is_over() {
            let left = until.saturating_duration_since(Instant::now());
            let rest = Duration::from_millis(self.random.random_range(20..400));
            self.rest(rest.min(left));
            if plan.events.is_empty() || self.random.random_bool(0.3) || self.run.is_over() {
                continue;
            }
            let event = plan.events[self.random.random_range(0..plan.events.len())];
            self.befall(event);
        }
        if plan.theme == Theme::Stalled && !self.run.is_over() {
            self.befall(Event::Term);
        }
    }

    /// Sleeps for this time, unless there is a finding.
    fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.run.is_over() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn befall(&mut self, event: Event) {
        self.run.tally.add(&format!("event {event:?}"), 1);
        match event {
            Event::Kill => self.kill(),
            Event::FailFlush => self.fail_a_flush(),
            Event::Term => self.term(),
            Event::Stop => {
                self.daemon.signal(Signal::STOP);
                let wait = self.random.random_range(1..300);
                self.rest(Duration::from_millis(wait));
                self.daemon.signal(Signal::CONT);
            }
            Event::Remove => self.remove(false, false),
            Event::RemoveTwice => self.remove(true, false),
            Event::Renew => self.remove(false, true),
            Event::Trouble => {
                self.is_troubled = !self.is_troubled;
                self.source.set_troubled(self.is_troubled);
            }
        }
    }

    fn kill(&mut self) {
        self.run.gate.close();
        self.daemon.kill();
        if !self.run.gate.wait_until_empty(self.run) {
            return;
        }
        let mut known = self.run.known();
        known.model.crash();
        known.hydrated.forget();
        drop(known);
        self.run.is_read_only.store(false, Ordering::Release);
        self.start();
    }

    /// Makes a flush of the destination fail. From then on the clone is read-only, and writes that
    /// were not committed may be lost, immediately or at the next start.
    fn fail_a_flush(&mut self) {
        self.run.known().model.is_lossy = true;
        self.run.is_read_only.store(true, Ordering::Release);
        self.daemon.fail_a_flush();
        let wait = self.random.random_range(1..800);
        self.rest(Duration::from_millis(wait));
        if self.random.random() {
            self.kill();
        } else {
            self.term();
        }
    }

    fn term(&mut self) {
        self.run.gate.close();
        self.daemon.end();
        self.source.set_stalled(false);
        if !self.run.gate.wait_until_empty(self.run) {
            return;
        }
        let mut known = self.run.known();
        known.model.stop();
        if self.run.is_read_only.swap(false, Ordering::AcqRel) {
            known.hydrated.forget();
        }
        drop(known);
        self.start();
    }

    /// Starts the daemon and admits users. The source does not fail while it is opened: the daemon
    /// would rightly refuse to start.
    fn start(&mut self) {
        self.source.set_troubled(false);
        // A failure that no flush has met yet belongs to the life of the daemon before.
        self.daemon.fail_no_flush();
        if self.daemon.start() {
            self.source.set_troubled(self.is_troubled);
            self.run.gate.open();
        }
    }

    /// Removes the clone and creates it again, or a new one.
    fn remove(&mut self, twice: bool, renew: bool) {
        let run = self.run;
        run.gate.close();
        let removed = if twice {
            let both = thread::scope(|scope| {
                let other = scope.spawn(|| verbs::remove(run, "the director's twin"));
                (verbs::remove(run, WHO), other.join())
            });
            match both {
                (Ok(()), _) | (_, Ok(Ok(()))) => Ok(()),
                (refused, _) => refused,
            }
        } else {
            verbs::remove(run, WHO)
        };
        if run.is_over() {
            return;
        }
        if let Err(refusal) = removed {
            run.find(format!("remove: {:?}: {}", refusal.kind, refusal.message));
            return;
        }
        let waiting = run.waits.begin("all users to hear that the clone is removed");
        let is_empty = run.gate.wait_until_empty(run);
        drop(waiting);
        if !is_empty {
            return;
        }
        let mut known = run.known();
        known.model.stop();
        if renew {
            self.daemon.forget();
            known.model.renew();
            known.hydrated.forget();
        }
        drop(known);
        self.source.set_troubled(false);
        let line = self.daemon.line().to_owned();
        let complaint = ask(run, WHO, Verb::Create { line }).complaint();
        match complaint {
            Some(complaint) => run.find(format!("create after remove: {complaint}")),
            None => {
                self.daemon.was_complete = self.daemon.status().is_some_and(|s| s.complete);
                self.source.set_troubled(self.is_troubled);
                run.gate.open();
            }
        }
    }

    /// Truncates the destination while the clone is not in use. From then on errors are correct,
    /// and so is all data that was there.
    fn truncate(&mut self) {
        let run = self.run;
        if !run.gate.wait_until_empty(run) {
            return;
        }
        run.is_truncated.store(true, Ordering::Release);
        let file = File::options().write(true).open(self.daemon.destination()).unwrap();
        file.set_len(self.random.random_range(0..run.plan.size)).unwrap();
        run.tally.add("truncations", 1);
        self.while_users_work(Self::let_things_happen);
        run.gate.close();
        self.daemon.end();
    }

    /// Ends all failures and completes the clone.
    fn complete(&mut self) {
        self.source.set_troubled(false);
        self.source.set_stalled(false);
        if let Some(small) = &self.small {
            small.grow(self.run.plan.size * 2 + (1 << 20));
        }
        match self.run.plan.theme {
            // Users never pause.
            Theme::Busy => self.while_users_work(|director| {
                let wait = Duration::from_millis(director.run.plan.duration_ms);
                director.rest(wait);
                director.hydrate();
            }),
            _ => self.hydrate(),
        }
        if self.run.is_over() {
            return;
        }
        self.read_all();
        self.run.gate.close();
        if self.run.is_over() {
            return;
        }
        self.daemon.end();
        self.check_destination();
    }

    fn hydrate(&mut self) {
        let run = self.run;
        let messages = [
            "hydration_rate 0",
            "max_failures 0",
            "hydration_batch_size 256",
            "hydration_threshold 4096",
            "enable_hydration",
        ];
        let verbs = messages.map(|message| {
            let message = message.to_owned();
            Verb::Message { name: NAME.into(), message }
        });
        for verb in [Verb::Resume { name: NAME.into() }].into_iter().chain(verbs) {
            if let Some(complaint) = ask(run, WHO, verb).complaint() {
                return run.find(format!("at the end: {complaint}"));
            }
        }
        let waiting = run.waits.begin("hydration finished");
        while !(run.is_over() || self.is_complete()) {
            thread::sleep(Duration::from_millis(5));
        }
        drop(waiting);
    }

    fn is_complete(&self) -> bool {
        let Some(status) = self.daemon.status() else {
            if !self.run.is_over() {
                self.run.find("at the end there is no clone");
            }
            return false;
        };
        if !status.complete || self.daemon.was_complete {
            return status.complete;
        }
        let events = ask(self.run, WHO, Verb::Events { name: Some(NAME.into()), follow: false });
        let Answer::Done(items) = events else { return false };
        items.iter().any(|item| matches!(item, Item::Event(event) if event.what == "finished"))
    }

    /// Reads the whole clone as one user.
    fn read_all(&self) {
        let waiting = self.run.waits.begin("all of the clone is read");
        let read = self.try_to_read_all();
        drop(waiting);
        if let Err(told) = read {
            self.run.find(format!("at the end: {told}"));
        }
    }

    fn try_to_read_all(&self) -> Result<(), String> {
        let told = |error: std::io::Error| error.to_string();
        let mut wire =
            Wire::connect(&self.run.socket(), NAME, ReplyFormat::Simple).map_err(told)?;
        let mut sender = wire.sender().map_err(told)?;
        let size = self.run.plan.size;
        if wire.size_bytes != size {
            return Err(format!("the clone has {} bytes in place of {size}", wire.size_bytes));
        }
        for offset in (0..size).step_by(1 << 20) {
            let length = size.min(offset + (1 << 20)) - offset;
            let request = Request { command: 0, flags: 0, offset, length };
            let mut bytes = Vec::new();
            Wire::put(ReplyFormat::Simple, offset, &request, &[], &mut bytes);
            let submitted = self.run.known().model.begin_read();
            sender.write_all(&bytes).map_err(told)?;
            let part = wire.part().map_err(told)?.ok_or("it has hung up")?;
            if let What::Error(error, _) = part.what {
                return Err(format!("a read at {offset} fails with error {error}"));
            }
            let data = wire.bytes(length).map_err(told)?;
            let model = &mut self.run.known().model;
            model.read(offset, &data, submitted).map_err(|Mismatch(told)| told)?;
            model.end_read(submitted);
        }
        self.run.tally.add("bytes compared", size);
        Ok(())
    }

    /// Checks that the destination equals the clone, which is complete and not in use.
    fn check_destination(&self) {
        if self.run.is_over() {
            return;
        }
        let hydrated = self.daemon.check_metadata();
        let regions = self.run.plan.size.div_ceil(self.run.plan.region);
        if hydrated != regions {
            self.run.find(format!("{hydrated} of {regions} regions of a complete clone are set"));
        }
        let content = self.daemon.content();
        let model = &mut self.run.known().model;
        model.stop();
        let submitted = model.begin_read();
        if let Err(Mismatch(told)) = model.read(0, &content, submitted) {
            self.run.find(format!("the destination is not the clone: {told}"));
        }
    }
}

/// Directs a run under the watchdog.
pub(super) fn direct(mut director: Director<'_>) {
    let (run, source) = (director.run, director.source);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| super::watchdog::watch(run, source, &|| is_done.load(Ordering::Acquire)));
        let directed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| director.direct()));
        if directed.is_err() {
            run.find("the director has panicked");
        }
        drop(director);
        is_done.store(true, Ordering::Release);
    });
}
