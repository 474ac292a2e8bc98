//! A round, from opening a clone to its end: simulated time, and the queue of future events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clone_core::engine::{Action, Engine, Input, Lane, Pass, Settings};
use clone_core::metadata::Metadata;
use persistent_data::sim::SimDisk;
use rand::RngExt;

use super::late::Late;
use super::model::Moment;
use super::operation::{CopyBuffer, Op};
use super::plan::{Ending, RoundPlan};
use super::request::Slot;
use super::unit::Cells;
use super::violation::{Halt, require};
use super::watch::Watch;
use super::world::World;

/// Number of consecutive ticks without any other event or action after which the clone counts as
/// stuck.
const IDLE_TICKS_MAX: u32 = 1000;

/// Environment variable that prints all inputs and actions, to debug the run of one seed.
const TRACE: &str = "TEST_TRACE";

/// A future event of the simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// A part of an operation takes effect.
    Land { op: u64, cells: Cells },
    /// An operation ends.
    End { op: u64 },
    /// A client submits a request.
    Client { slot: usize },
    /// A user sends a message, or checks the status.
    Command,
    /// A delayed operation begins.
    Begin { op: u64 },
    /// The delayed event for a complete clone is delivered.
    Finish,
    /// The delayed suspend reaches the clone.
    Suspend,
}

/// The suspend state of the clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspension {
    Running,
    /// The engine was asked to suspend, and perhaps to resume afterwards.
    Asked {
        to_go_on: bool,
    },
    /// The engine has reported that the clone is suspended.
    AtRest,
}

/// Failures in a round, and the engine's reports of them.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// A read of the source has failed.
    pub(super) source: bool,
    /// Regions with spots of the source that have failed.
    pub(super) bad_regions: BTreeSet<usize>,
    /// An operation on the destination has failed.
    pub(super) destination: bool,
    /// An operation that changes the destination or the metadata has failed.
    pub(super) is_failing: bool,
    /// The moment at which the engine learned that a flush or a commit had failed.
    pub(super) since: Option<Moment>,
    pub(super) commit_failed: bool,
    /// A flush of a complete clone has failed, and whether the engine has reported it.
    pub(super) is_unflushed: bool,
    pub(super) told_unflushed: bool,
    pub(super) abort_failed: bool,
    /// Number of failed copies.
    pub(super) failed_copies: u32,
    pub(super) told_read_only: bool,
    /// The moment at which the engine reported that the clone had failed.
    pub(super) told_failed: Option<Moment>,
    /// Hydration has stopped, and was not enabled since then.
    pub(super) is_stopped: bool,
}

impl Trouble {
    /// Returns whether the devices hold everything that was sent to them.
    pub(super) fn is_nothing_lost(&self) -> bool {
        !(self.is_failing || self.destination || self.commit_failed)
    }
}

/// A running clone.
pub(super) struct Round<'l> {
    pub(super) world: &'l mut World,
    pub(super) plan: RoundPlan,
    pub(super) engine: Engine,
    pub(super) lanes: &'l [Lane],
    /// Fast-path permits, by slot.
    pub(super) passes: Vec<Option<Pass<'l>>>,
    /// `None` once the clone is complete.
    pub(super) metadata: Option<Metadata<Arc<SimDisk>>>,
    /// Future events, ordered by time and then by the order of scheduling.
    coming: BTreeMap<(u64, u64), Coming>,
    scheduled: u64,
    /// Delay of the next tick, in nanoseconds.
    late: u64,
    idle_ticks: u32,
    actions_left: Option<u32>,
    actions: Vec<Action>,
    pub(super) ops: BTreeMap<u64, Op>,
    pub(super) lane_ops: u64,
    pub(super) last_op: Option<u64>,
    pub(super) copies: BTreeMap<u64, CopyBuffer>,
    pub(super) slots: Vec<Slot>,
    pub(super) nr_requests: u64,
    /// True once clients send no more requests.
    pub(super) is_closing: bool,
    /// Number of requests since the last flush.
    pub(super) changes: u32,
    pub(super) requests_left: u32,
    pub(super) commands_left: u32,
    pub(super) settings: Settings,
    /// While the engine records changed regions, it gives no fast-path permits.
    pub(super) is_recording: bool,
    pub(super) suspension: Suspension,
    pub(super) nr_events: u64,
    pub(super) trouble: Trouble,
    pub(super) commits_begun: u32,
    /// True for regions that are known to be hydrated.
    pub(super) hydrated: Vec<bool>,
    /// The moment at which each region reverted to the source.
    pub(super) reverted: Vec<Option<Moment>>,
    /// True if every region was hydrated when the clone was opened.
    pub(super) was_complete: bool,
    pub(super) told_finished: bool,
    pub(super) is_retired: bool,
    /// True if all inputs and actions are printed.
    is_traced: bool,
    pub(super) watch: Watch,
    pub(super) kept: Late,
}

impl<'l> Round<'l> {
    /// Returns whether the fast path is open for hydrated regions.
    pub(super) fn is_open(&self) -> bool {
        let runs = self.suspension == Suspension::Running;
        runs && !self.is_recording && !self.trouble.is_failing
    }

    pub(super) fn new(
        world: &'l mut World,
        plan: RoundPlan,
        engine: Engine,
        lanes: &'l [Lane],
        metadata: Metadata<Arc<SimDisk>>,
    ) -> Self {
        let (nr_slots, nr_regions) = (world.plan.slots, world.nr_regions());
        let settings = world.plan.settings;
        let actions_left = match plan.ending {
            Ending::PowerCut(actions) | Ending::Kill(actions) => Some(actions),
            Ending::Rest | Ending::PowerCutInCommit(_) => None,
        };
        Self {
            hydrated: world.committed.clone(),
            was_complete: world.committed.iter().all(|&it| it),
            world,
            plan,
            engine,
            lanes,
            passes: (0..nr_slots).map(|_| None).collect(),
            metadata: Some(metadata),
            coming: BTreeMap::new(),
            scheduled: 0,
            late: 0,
            idle_ticks: 0,
            actions_left,
            actions: Vec::new(),
            ops: BTreeMap::new(),
            lane_ops: 0,
            last_op: None,
            copies: BTreeMap::new(),
            slots: (0..nr_slots).map(|_| Slot::default()).collect(),
            nr_requests: 0,
            is_closing: false,
            changes: 0,
            requests_left: plan.requests,
            commands_left: plan.requests,
            settings,
            is_recording: false,
            suspension: Suspension::Running,
            nr_events: 0,
            trouble: Trouble::default(),
            commits_begun: 0,
            reverted: vec![None; nr_regions],
            told_finished: false,
            is_retired: false,
            is_traced: std::env::var_os(TRACE).is_some(),
            watch: Watch::default(),
            kept: Late::default(),
        }
    }

    /// Schedules an event after so many nanoseconds.
    pub(super) fn schedule(&mut self, after: u64, what: Coming) {
        self.scheduled += 1;
        self.coming.insert((self.world.now + after, self.scheduled), what);
    }

    /// Returns whether only ticks remain.
    pub(super) fn is_quiet(&self) -> bool {
        self.coming.is_empty()
    }

    /// Removes and returns all future events.
    pub(super) fn drain_coming(&mut self) -> Vec<Coming> {
        std::mem::take(&mut self.coming).into_values().collect()
    }

    /// Starts the clients and the commands.
    pub(super) fn start(&mut self) {
        for slot in 0..self.slots.len() {
            let after = self.world.rng.random_range(0..1_000_000);
            self.schedule(after, Coming::Client { slot });
        }
        if self.world.plan.commands > 0 {
            self.schedule_command();
        }
    }

    pub(super) fn schedule_command(&mut self) {
        let after = self.world.rng.random_range(0..=self.world.plan.commands);
        self.schedule(after, Coming::Command);
    }

    /// Executes the next event. Returns `false` if there is none.
    pub(super) fn step(&mut self) -> Result<bool, Halt> {
        let next = self.coming.first_key_value().map(|((at, _), _)| *at);
        let tick = self.engine.next_tick().map(|at| at.as_nanos() as u64);
        let tick = tick.map(|at| at.max(self.world.now) + self.late);
        match (next, tick) {
            (None, None) => return Ok(false),
            (next, Some(tick)) if next.is_none_or(|next| tick < next) => {
                self.world.now = tick;
                self.tick()?;
            }
            _ => {
                let Some(((at, _), what)) = self.coming.pop_first() else { return Ok(false) };
                self.world.now = at;
                self.idle_ticks = 0;
                match what {
                    Coming::Land { op, cells } => self.land(op, cells)?,
                    Coming::End { op } => self.end(op)?,
                    Coming::Client { slot } => self.submit(slot)?,
                    Coming::Command => self.command()?,
                    Coming::Begin { op } => self.begin_kept(op)?,
                    Coming::Finish => {
                        let event = self.kept_finish();
                        event.map_or(Ok(()), |event| self.hear(&event))?;
                    }
                    Coming::Suspend => self.give_kept_suspend()?,
                }
            }
        }
        Ok(true)
    }

    fn tick(&mut self) -> Result<(), Halt> {
        let is_waiting = self.ops.is_empty();
        self.idle_ticks += u32::from(is_waiting);
        require!(
            self.idle_ticks < IDLE_TICKS_MAX,
            Progress,
            "{} ticks, and nothing came of them",
            self.idle_ticks
        );
        let late = self.world.plan.late;
        self.late = if late > 0 { self.world.rng.random_range(0..=late) } else { 0 };
        self.tell(Input::Tick)?;
        let (next, now) = (self.engine.next_tick(), Duration::from_nanos(self.world.now));
        require!(
            next.is_none_or(|next| next > now),
            Progress,
            "a tick at {now:?}, and the next one is wanted at {next:?}"
        );
        Ok(())
    }

    /// Sends an input to the engine, and executes its actions.
    pub(super) fn tell(&mut self, event: Input) -> Result<(), Halt> {
        let now = Duration::from_nanos(self.world.now);
        let mut actions = std::mem::take(&mut self.actions);
        if self.is_traced {
            eprintln!("{:?} {:?} {event:?}", self.world.model.now(), now);
        }
        self.judge_gaps()?;
        self.engine.handle(now, event, &mut actions);
        for action in actions.drain(..) {
            if self.is_traced {
                eprintln!("    {action:?}");
            }
            if let Some(left) = &mut self.actions_left {
                if *left == 0 {
                    return Err(Halt::Crash);
                }
                *left -= 1;
            }
            self.idle_ticks = 0;
            self.perform(action)?;
        }
        self.actions = actions;
        self.give_kept_answers()?;
        let trouble = &self.trouble;
        let is_told = trouble.is_unflushed == trouble.told_unflushed;
        require!(is_told, Events, "a flush of a complete clone has failed, and nobody was told");
        if self.suspension == Suspension::AtRest {
            self.judge_rest()?;
        }
        Ok(self.judge_time()?)
    }

    /// Records that the engine learns of a failure. A complete clone reverts nothing.
    pub(super) fn note_failure(&mut self, of_flush_or_commit: bool) {
        if of_flush_or_commit {
            self.trouble.since.get_or_insert(self.world.model.now());
            self.trouble.is_unflushed |= self.engine.fast_path().is_complete();
        }
        self.trouble.is_failing |= !(of_flush_or_commit && self.trouble.is_unflushed);
    }
}
