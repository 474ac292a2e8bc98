//! A simulated world in which the engine runs a clone. Devices are slow, fail and lose power, and
//! many clients send requests; everything is drawn from one seed. Client-visible results and the
//! state after each crash are checked against a model of a plain copy of the source.
//!
//! Time is simulated: operations end in any order, some of them very late, without slowing the run
//! down. The judges in `watch.rs` still detect a client that waits too long. `timed.rs` is a world
//! without data, for tests in which only time matters. A run consists of a few rounds, and each
//! of them opens the clone anew. `tests/tests/engine.rs` runs the seeds.

use std::time::Duration;

use clone_core::dm_target::{Message, Status};
use clone_core::engine::{Command, Engine, Lane, Opened};
use rand::RngExt;

pub use self::counts::Counts;
use self::plan::{Ending, RoundPlan};
use self::request::Slot;
use self::round::{Coming, Round, Suspension, Trouble};
pub use self::saboteur::{Mutant, Sight};
pub use self::scenario::{
    Beside, Bounded, SlowLine, run_beside_large_region, run_beside_readers, run_flushes,
    run_on_slow_line,
};
pub use self::timed::Delay;
use self::violation::{Halt, require};
pub use self::violation::{Oracle, Violation};
use self::world::World;

mod action;
mod answer;
mod counts;
mod destination;
mod effect;
mod late;
mod line;
mod model;
mod operation;
mod plan;
mod recovery;
mod request;
mod round;
mod saboteur;
mod scenario;
mod source;
mod timed;
mod unit;
mod violation;
mod watch;
mod world;

/// Number of requests after a clone is complete.
const AFTERWARDS: u32 = 30;

/// Runs a clone from creation to its end, through all crashes that `seed` yields.
///
/// # Errors
/// The promise that was broken.
pub fn run(seed: u64) -> Result<Counts, Violation> {
    run_with(seed, None, Sight::All)
}

/// Like [`run`], with an injected fault in behaviour, and optionally with some oracles disabled.
///
/// # Errors
/// The promise that was broken.
pub fn run_with(seed: u64, mutant: Option<Mutant>, sight: Sight) -> Result<Counts, Violation> {
    let mut world = World::new(seed, mutant, sight);
    for plan in world.plan.rounds.clone() {
        world.run_round(plan)?;
    }
    Ok(world.counts)
}

/// Progress of hydration while users are never idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Number of stored copies.
    pub stores: u64,
    /// True if the clone was complete before the users were done.
    pub is_complete: bool,
    /// Simulated time that has passed.
    pub passed: Duration,
}

/// Runs a clone under constant reads, so that only hydration can make progress.
///
/// # Errors
/// The promise that was broken.
pub fn run_under_load(seed: u64) -> Result<Load, Violation> {
    let mut world = World::new(seed, None, Sight::All);
    world.plan.make_busy();
    for plan in world.plan.rounds.clone() {
        world.run_round(plan)?;
    }
    let passed = Duration::from_nanos(world.now);
    let Counts { stores, finished, .. } = world.counts;
    Ok(Load { stores, is_complete: finished > 0, passed })
}

impl World {
    /// Opens the clone, serves clients, and ends the round.
    fn run_round(&mut self, plan: RoundPlan) -> Result<(), Violation> {
        self.spoil_source(plan);
        let metadata = self.open()?;
        let (metadata_used, metadata_total) = metadata.block_use();
        let opened = Opened { geometry: self.plan.geometry, metadata_used, metadata_total };
        let engine = Engine::new(opened, metadata.hydrated_words(), self.plan.settings);
        let nr_lanes = 1 + self.plan.lanes;
        let lanes: Vec<Lane> = (0..nr_lanes).map(|_| engine.fast_path().lane()).collect();
        let mut round = Round::new(self, plan, engine, &lanes, metadata);
        let ended = round.run();
        let (is_healthy, left) = (round.trouble.is_nothing_lost(), round.left());
        let is_at_rest = round.suspension == Suspension::AtRest;
        drop(round);
        match ended {
            Err(Halt::Violation(violation)) => Err(violation),
            Err(Halt::Crash) if matches!(plan.ending, Ending::Kill(_)) && is_healthy => {
                self.kill(left)
            }
            Err(Halt::Crash) => self.cut_power(),
            Ok(()) if is_healthy && is_at_rest => self.stop(),
            Ok(()) if is_healthy && self.rng.random_bool(0.3) => self.kill(left),
            Ok(()) => self.cut_power(),
        }
    }

    fn spoil_source(&mut self, plan: RoundPlan) {
        self.source.heal();
        let region = self.plan.region;
        for _ in 0..plan.faults.source_spots {
            let at = self.rng.random_range(0..self.plan.clone);
            let len = self.rng.random_range(1..=2 * region);
            let for_ever = plan.faults.source_for_ever && self.rng.random_bool(0.5);
            let times = if for_ever { u32::MAX } else { self.rng.random_range(1..=6) };
            self.source.spoil(at..self.plan.clone.min(at + len), times);
        }
        if self.plan.slow_source {
            let at = self.rng.random_range(0..self.plan.clone);
            self.source.slow_down(at..at + 4 * region);
        }
    }
}

impl Round<'_> {
    /// Serves clients until all requests are used up, and then ends the clone in order.
    fn run(&mut self) -> Result<(), Halt> {
        self.start();
        while self.requests_left > 0 {
            let goes_on = self.step()?;
            require!(
                goes_on,
                Progress,
                "{} requests to come, and nothing does",
                self.requests_left
            );
        }
        self.come_to_rest()?;
        if self.trouble.is_failing {
            return self.judge_broken();
        }
        if self.plan.finishes {
            self.finish()?;
            self.is_closing = false;
            self.requests_left = AFTERWARDS;
            for slot in 0..self.slots.len() {
                self.schedule(0, Coming::Client { slot });
            }
            while self.requests_left > 0 {
                let goes_on = self.step()?;
                require!(goes_on, Progress, "requests to a complete clone, and nothing comes");
            }
            self.come_to_rest()?;
        }
        if self.trouble.is_failing {
            return self.judge_broken();
        }
        if self.world.rng.random_bool(0.3) {
            self.suspend()?;
            while self.suspension != Suspension::AtRest {
                let goes_on = self.step()?;
                require!(goes_on, Progress, "the clone does not come to rest to be closed");
            }
        }
        Ok(())
    }

    /// Waits until every request is answered.
    fn come_to_rest(&mut self) -> Result<(), Halt> {
        self.is_closing = true;
        if self.suspension != Suspension::Running {
            self.resume()?;
        }
        while self.suspension != Suspension::Running {
            let goes_on = self.step()?;
            require!(goes_on, Progress, "the clone does not come to rest when suspended");
        }
        while self.slots.iter().any(Slot::is_busy) {
            let goes_on = self.step()?;
            require!(goes_on, Progress, "never answered: {:?}", self.unanswered());
        }
        Ok(self.judge_status()?)
    }

    fn unanswered(&self) -> Vec<&Slot> {
        self.slots.iter().filter(|slot| slot.is_busy()).collect()
    }

    /// Checks that hydration completes the clone once the source works and nothing blocks it.
    fn finish(&mut self) -> Result<(), Halt> {
        self.heal_source();
        let threshold = self.world.rng.random_range(1..=8);
        self.send(Command::HydrationRate(None))?;
        self.send(Command::HydrationLimit(None))?;
        self.send(Command::Kernel(Message::HydrationThreshold(threshold)))?;
        self.send(Command::Kernel(Message::EnableHydration))?;
        while !self.is_finished() && !self.trouble.is_failing {
            let goes_on = self.step()?;
            require!(goes_on, Progress, "the clone is not finished: {:?}", self.engine.status());
        }
        if self.trouble.is_failing {
            return self.judge_broken();
        }
        let is_told = self.was_complete || self.told_finished && self.is_retired;
        require!(is_told, Events, "complete, and nobody was told");
        require!(self.copies.is_empty(), Protocol, "never released: {:?}", self.copies);
        let Status::Running(counts) = self.engine.status() else {
            require!(false, Status, "complete: {:?}", self.engine.status());
            return Ok(());
        };
        let is_done = counts.hydrated == counts.regions && counts.hydrating == 0;
        require!(is_done, Status, "complete: {counts:?}");
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.engine.fast_path().is_complete() && self.is_quiet()
    }

    /// Checks the promises that hold after a write, flush or commit has failed.
    fn judge_broken(&mut self) -> Result<(), Halt> {
        while self.step()? {
            if self.ops.is_empty() && self.is_quiet() {
                break;
            }
        }
        let Trouble { told_read_only, told_failed, told_unflushed, .. } = self.trouble;
        let told = told_read_only || told_failed.is_some() || told_unflushed;
        let must_tell = self.trouble.since.is_some();
        require!(told || !must_tell, Events, "a flush or a commit has failed, and nobody was told");
        let told_failed = self.trouble.told_failed.is_some();
        require!(told_failed == self.trouble.abort_failed, Events, "failed: {told_failed}");
        require!(self.copies.is_empty(), Protocol, "never released: {:?}", self.copies);
        if let Status::Running(counts) = self.engine.status() {
            require!(counts.hydrating == 0, Status, "at rest: {counts:?}");
        }
        Ok(self.judge_status()?)
    }
}
