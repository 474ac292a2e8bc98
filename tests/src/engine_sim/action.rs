//! Actions of the engine that are executed at once, events that it reports, and its inputs other
//! than requests.

use clone_core::dm_target::{Message, Mode, Status};
use clone_core::engine::{Action, BufferId, Command, Event, EventKind, Input, RequestId};
use rand::RngExt;

use super::round::{Round, Suspension};
use super::unit::{Cells, bytes, cells};
use super::violation::{Halt, Violation, require};

impl Round<'_> {
    /// Executes an action of the engine.
    pub(super) fn perform(&mut self, action: Action) -> Result<(), Halt> {
        match action {
            Action::Start { op, io } => {
                let io = self.keep_op(op.0, io);
                io.map_or(Ok(()), |io| self.start_op(op.0, io))
            }
            Action::Promote { op } => {
                self.begin_kept(op.0)?;
                require!(
                    self.ops.contains_key(&op.0),
                    Protocol,
                    "{op:?} is promoted after its end"
                );
                Ok(())
            }
            Action::Give { copy, request, range } => {
                let given = cells(&range);
                require!(given.is_some(), Protocol, "{range:?} is given to {request:?}");
                Ok(self.give(copy, request, given.unwrap_or_default())?)
            }
            Action::Release { copy } => {
                let buffer = self.copies.remove(&copy.0);
                let is_free = buffer.as_ref().is_some_and(|buffer| buffer.users == 0);
                require!(is_free, Protocol, "{copy:?} is released: {buffer:?}");
                Ok(())
            }
            Action::Answer { request, result } if self.keep_answer(request, result) => Ok(()),
            Action::Answer { request, result } => self.answer(request, result),
            Action::Emit(event) => {
                let event = self.keep_event(event);
                Ok(event.map_or(Ok(()), |event| self.hear(&event))?)
            }
            Action::Retire => Ok(self.retire()?),
        }
    }

    fn give(&mut self, copy: BufferId, request: RequestId, range: Cells) -> Result<(), Violation> {
        let buffer = self.copies.get(&copy.0);
        let holds = buffer.is_some_and(|buffer| {
            buffer.is_filled && buffer.cells.start <= range.start && range.end <= buffer.cells.end
        });
        require!(holds, Protocol, "{range:?} of {copy:?} is given: {buffer:?}");
        let slot = self.slot_of(request)?;
        let of = &mut self.slots[slot];
        let is_within = of.cells.start <= range.start && range.end <= of.cells.end;
        require!(of.is_read() && is_within, Protocol, "{range:?} is given to {of:?}");
        let into = range.start - of.cells.start..range.end - of.cells.start;
        of.buffer[into].copy_from_slice(&self.world.source.all()[range]);
        self.world.counts.gives += 1;
        Ok(())
    }

    pub(super) fn hear(&mut self, event: &Event) -> Result<(), Violation> {
        self.nr_events += 1;
        require!(event.number == self.nr_events, Events, "number {} is {event:?}", self.nr_events);
        let trouble = &mut self.trouble;
        match &event.kind {
            EventKind::Finished => {
                let is_first = !std::mem::replace(&mut self.told_finished, true);
                require!(is_first, Events, "finished twice");
                let open = self.world.uncommitted();
                require!(
                    open.is_none(),
                    Committed,
                    "finished, but region {open:?} is not committed"
                );
                self.world.counts.finished += 1;
            }
            EventKind::FlushFailed(_) => {
                require!(trouble.is_unflushed, Events, "no flush of a complete clone has failed");
                let is_first = !std::mem::replace(&mut trouble.told_unflushed, true);
                require!(is_first, Events, "told twice that a flush has failed");
                self.world.counts.unflushed += 1;
            }
            EventKind::ReadOnly(_) => {
                require!(trouble.is_failing, Mode, "read-only, but nothing has failed");
                let is_first = !std::mem::replace(&mut trouble.told_read_only, true);
                require!(is_first, Events, "read-only twice");
                self.world.counts.read_only += 1;
            }
            EventKind::Failed(_) => {
                require!(trouble.abort_failed, Mode, "failed, but no abort has");
                let now = self.world.model.now();
                require!(trouble.told_failed.replace(now).is_none(), Events, "failed twice");
                self.world.counts.failed += 1;
            }
            EventKind::HydrationStopped { failures, .. } => {
                let most = trouble.failed_copies;
                let is_true = *failures > 0 && *failures <= most;
                require!(is_true, Events, "{failures} copies failed, but of {most} that did");
                trouble.is_stopped = true;
                self.world.counts.stopped += 1;
            }
            EventKind::LimitReached => {
                let was_limited = std::mem::replace(&mut self.watch.is_limited, false);
                require!(was_limited, Events, "a limit is reached, but there is none");
                self.settings.options.hydration = false;
                self.world.counts.limited += 1;
            }
            EventKind::SourceChanged { .. } => {
                require!(false, Events, "the source changed, and nobody said so");
            }
            EventKind::Suspended => {
                let is_asked = matches!(self.suspension, Suspension::Asked { .. });
                require!(is_asked, Events, "suspended unasked");
                self.suspension = Suspension::AtRest;
                self.world.counts.suspended += 1;
                let under_way = self.ops.values().find(|op| !op.has_ended);
                require!(under_way.is_none(), Protocol, "suspended, but there is {under_way:?}");
                let passes = self.engine.fast_path().passes();
                require!(passes == 0, Protocol, "suspended, but {passes} passes are out");
            }
            EventKind::Resumed => {
                let rests = self.suspension != Suspension::Running;
                require!(rests, Events, "resumed unasked");
                self.suspension = Suspension::Running;
                self.slots.iter_mut().for_each(|slot| slot.wait.is_held = false);
            }
            other => require!(false, Events, "unknown: {other:?}"),
        }
        Ok(())
    }

    /// Checks that a suspended clone has committed all hydrated regions, unless an operation
    /// failed.
    pub(super) fn judge_rest(&mut self) -> Result<(), Violation> {
        let Status::Running(counts) = self.engine.status() else { return Ok(()) };
        if self.trouble.is_failing {
            return Ok(());
        }
        self.world.check_committed(counts.hydrated)
    }

    fn retire(&mut self) -> Result<(), Violation> {
        let open = self.world.uncommitted();
        require!(open.is_none(), Committed, "retired, but region {open:?} is not committed");
        require!(!self.is_retired, Protocol, "retired twice");
        self.is_retired = true;
        self.metadata = None;
        Ok(())
    }

    /// Sends a random message, or checks the status.
    pub(super) fn command(&mut self) -> Result<(), Halt> {
        if self.is_closing {
            return Ok(());
        }
        self.judge_status()?;
        self.commands_left = self.commands_left.saturating_sub(1);
        if self.commands_left == 0 {
            return if self.suspension == Suspension::Running { Ok(()) } else { self.resume() };
        }
        self.schedule_command();
        let small = [0, 1, 2, 5, 40][self.world.rng.random_range(0..5)];
        let region_bytes = self.world.plan.region as u64 * 64;
        let command = match self.world.rng.random_range(0..13) {
            0 => Command::Kernel(Message::DisableHydration),
            1 | 2 => Command::Kernel(Message::EnableHydration),
            3 => Command::Kernel(Message::HydrationThreshold(small)),
            4 => Command::Kernel(Message::HydrationBatchSize(small)),
            5 => {
                let rates = [None, Some(region_bytes), Some(1 << 30)];
                Command::HydrationRate(rates[self.world.rng.random_range(0..3)])
            }
            6 => Command::HydrateOnRead(self.world.rng.random_bool(0.5)),
            7 => Command::Hydrate(bytes(&self.some_cells())),
            8 => Command::MaxFailures(small),
            9 => Command::Record(self.world.rng.random_bool(0.5)),
            10 => {
                let limits = [None, Some(0), Some(5 * region_bytes)];
                Command::HydrationLimit(limits[self.world.rng.random_range(0..3)])
            }
            _ if self.world.plan.suspends => return self.suspend_or_resume(),
            _ => return Ok(()),
        };
        self.send(command)
    }

    pub(super) fn send(&mut self, command: Command) -> Result<(), Halt> {
        let options = &mut self.settings.options;
        match &command {
            Command::Kernel(Message::DisableHydration) => {
                options.hydration = false;
                self.watch.forget_begun();
            }
            Command::Kernel(Message::EnableHydration) => {
                options.hydration = true;
                self.trouble.is_stopped = false;
            }
            Command::Kernel(Message::HydrationThreshold(to)) => options.hydration_threshold = *to,
            Command::Kernel(Message::HydrationBatchSize(to)) => options.hydration_batch_size = *to,
            Command::Record(on) => self.is_recording = *on,
            Command::HydrationLimit(limit) => self.watch.is_limited = limit.is_some(),
            _ => {}
        }
        self.tell(Input::Command(command))
    }

    fn suspend_or_resume(&mut self) -> Result<(), Halt> {
        match self.suspension {
            Suspension::Running => self.suspend(),
            Suspension::Asked { .. } => match self.world.rng.random_range(0..10) {
                0..=5 => Ok(()),
                6 | 7 => self.suspend(),
                _ => self.resume(),
            },
            Suspension::AtRest => self.resume(),
        }
    }

    pub(super) fn suspend(&mut self) -> Result<(), Halt> {
        if self.suspension == Suspension::Running {
            self.watch.forget_begun();
        }
        self.suspension = Suspension::Asked { to_go_on: false };
        self.begin_all_kept()?;
        if self.keep_suspend() { Ok(()) } else { self.tell(Input::Suspend) }
    }

    pub(super) fn resume(&mut self) -> Result<(), Halt> {
        if self.suspension != Suspension::AtRest {
            self.suspension = Suspension::Asked { to_go_on: true };
        }
        self.give_kept_suspend()?;
        self.tell(Input::Resume)
    }

    /// Checks that the status matches the known state of the clone.
    pub(super) fn judge_status(&mut self) -> Result<(), Violation> {
        let counts = match self.engine.status() {
            Status::Running(counts) => counts,
            status => {
                let is_true = status == Status::Fail && self.trouble.told_failed.is_some();
                require!(is_true, Status, "{status:?}");
                return Ok(());
            }
        };
        require!(self.trouble.told_failed.is_none(), Status, "the clone has failed: {counts:?}");
        let known = if self.trouble.is_failing {
            0
        } else {
            self.hydrated.iter().filter(|&&it| it).count() as u64
        };
        let all = self.world.nr_regions() as u64;
        let is_known = known <= counts.hydrated && counts.hydrated <= all;
        require!(is_known, Status, "at least {known} regions of {all} are hydrated: {counts:?}");
        require!(counts.regions == all, Status, "{all} regions: {counts:?}");
        let geometry = self.world.plan.geometry;
        require!(counts.region_size == geometry.region_size(), Status, "{counts:?}");
        let mut options = self.settings.options;
        if self.trouble.is_stopped {
            options.hydration = counts.options.hydration;
        }
        require!(counts.options == options, Status, "set is {options:?}: {counts:?}");
        let is_read_only = counts.mode == Mode::ReadOnly;
        require!(is_read_only == self.trouble.told_read_only, Status, "{counts:?}");
        if let Some(metadata) = &self.metadata {
            let total = metadata.block_use().1;
            require!(counts.metadata_total == total, Status, "{total} blocks: {counts:?}");
        }
        Ok(())
    }
}
