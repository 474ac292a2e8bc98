//! From the opening of a clone until it ends, one way or another: time, and what comes when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use clone_core::engine::{Action, Engine, Event, Lane, Pass, Settings};
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

/// Ticks without any other event or action, after which the clone is taken to be stuck.
const IDLE_TICKS_MAX: u32 = 1000;

/// The variable that has all events and actions printed, to look into the run of one seed.
const TRACE: &str = "TEST_TRACE";

/// What comes at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// A part of an operation takes effect.
    Land { op: u64, cells: Cells },
    /// An operation ends.
    End { op: u64 },
    /// A client wants something.
    Client { slot: usize },
    /// Someone sends a message.
    Command,
    /// An operation begins that was kept back.
    Begin { op: u64 },
    /// It is told that the clone is complete, which was kept back.
    Finish,
    /// The clone is told to suspend, which was kept back.
    Suspend,
}

/// Whether the clone is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspension {
    Running,
    /// It was asked to, and perhaps to go on.
    Asked {
        to_go_on: bool,
    },
    /// It has told that it is.
    AtRest,
}

/// What has gone wrong in a round, and what the engine has said about it.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// A read of the source has failed.
    pub(super) source: bool,
    /// Regions with spots that have failed.
    pub(super) bad_regions: BTreeSet<usize>,
    /// An operation on the destination has failed.
    pub(super) destination: bool,
    /// An operation that changes destination or metadata has failed.
    pub(super) is_failing: bool,
    /// When the engine was told that a flush or a commit had failed.
    pub(super) since: Option<Moment>,
    pub(super) commit_failed: bool,
    /// A flush of a complete clone has failed, and whether that was told.
    pub(super) is_unflushed: bool,
    pub(super) told_unflushed: bool,
    pub(super) abort_failed: bool,
    /// Copies that failed.
    pub(super) failed_copies: u32,
    pub(super) told_read_only: bool,
    /// When it told that it had failed.
    pub(super) told_failed: Option<Moment>,
    /// Hydration has stopped, and was not enabled since.
    pub(super) is_stopped: bool,
}

impl Trouble {
    /// Whether devices hold all that was sent to them.
    pub(super) fn is_nothing_lost(&self) -> bool {
        !(self.is_failing || self.destination || self.commit_failed)
    }
}

/// A clone at work.
pub(super) struct Round<'l> {
    pub(super) world: &'l mut World,
    pub(super) plan: RoundPlan,
    pub(super) engine: Engine,
    pub(super) lanes: &'l [Lane],
    /// By slot.
    pub(super) passes: Vec<Option<Pass<'l>>>,
    /// Until the clone is complete.
    pub(super) metadata: Option<Metadata<Arc<SimDisk>>>,
    /// By time, and then in the order in which it was scheduled.
    coming: BTreeMap<(u64, u64), Coming>,
    scheduled: u64,
    /// How late the next tick is.
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
    /// Clients want nothing any more.
    pub(super) is_closing: bool,
    /// Requests since the last flush.
    pub(super) changes: u32,
    pub(super) requests_left: u32,
    pub(super) commands_left: u32,
    pub(super) settings: Settings,
    /// While it is, no pass is given.
    pub(super) is_recording: bool,
    pub(super) suspension: Suspension,
    pub(super) notices: u64,
    pub(super) trouble: Trouble,
    pub(super) commits_begun: u32,
    /// Regions that are known to be hydrated.
    pub(super) hydrated: Vec<bool>,
    /// When regions went back to the source.
    pub(super) reverted: Vec<Option<Moment>>,
    /// Every region was hydrated when it was opened.
    pub(super) was_complete: bool,
    pub(super) told_finished: bool,
    pub(super) is_retired: bool,
    /// Whether all that goes in and out is printed.
    is_traced: bool,
    pub(super) watch: Watch,
    pub(super) kept: Late,
}

impl<'l> Round<'l> {
    /// Whether passes are given for what is hydrated.
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
            notices: 0,
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

    /// Has something come after so many nanoseconds.
    pub(super) fn schedule(&mut self, after: u64, what: Coming) {
        self.scheduled += 1;
        self.coming.insert((self.world.now + after, self.scheduled), what);
    }

    /// Nothing is to come but ticks.
    pub(super) fn is_quiet(&self) -> bool {
        self.coming.is_empty()
    }

    /// Takes all that is to come.
    pub(super) fn drain_coming(&mut self) -> Vec<Coming> {
        std::mem::take(&mut self.coming).into_values().collect()
    }

    /// Lets the clients go.
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

    /// Lets the next thing happen. `false` if there is none.
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
                        let notice = self.kept_finish();
                        notice.map_or(Ok(()), |notice| self.hear(&notice))?;
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
        self.tell(Event::Tick)?;
        let (next, now) = (self.engine.next_tick(), Duration::from_nanos(self.world.now));
        require!(
            next.is_none_or(|next| next > now),
            Progress,
            "a tick at {now:?}, and the next one is wanted at {next:?}"
        );
        Ok(())
    }

    /// Tells the engine something, and does what it wants.
    pub(super) fn tell(&mut self, event: Event) -> Result<(), Halt> {
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
        require!(is_told, Notices, "a flush of a complete clone has failed, and nobody was told");
        if self.suspension == Suspension::AtRest {
            self.judge_rest()?;
        }
        Ok(self.judge_time()?)
    }

    /// Notes that the engine hears of a failure. Of a complete clone nothing is taken back.
    pub(super) fn note_failure(&mut self, of_flush_or_commit: bool) {
        if of_flush_or_commit {
            self.trouble.since.get_or_insert(self.world.model.now());
            self.trouble.is_unflushed |= self.engine.front().is_complete();
        }
        self.trouble.is_failing |= !(of_flush_or_commit && self.trouble.is_unflushed);
    }
}
