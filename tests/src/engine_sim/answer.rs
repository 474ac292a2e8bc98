//! Checks of answers to requests.

use clone_core::engine::{Device, Operation, RequestError, RequestId};
use rand::RngExt;

use super::model::Force;
use super::request::Slot;
use super::round::{Coming, Round};
use super::unit::{CELL, bytes, named};
use super::violation::{Halt, Violation, require};

impl Round<'_> {
    /// Checks the answer to a request, and frees its slot.
    pub(super) fn answer(
        &mut self,
        request: RequestId,
        result: Result<(), RequestError>,
    ) -> Result<(), Halt> {
        let slot = self.slot_of(request)?;
        let mut of = std::mem::take(&mut self.slots[slot]);
        require!(of.names == 0, Protocol, "answered while operations name it: {of:?}");
        self.world.counts.answered += 1;
        self.world.counts.errors += u64::from(result.is_err());
        match result {
            Ok(()) => self.judge_success(&of)?,
            Err(error) => self.judge_error(&of, error)?,
        }
        if of.is_read() && !of.is_past_end {
            if result.is_ok() {
                self.judge_read(&of)?;
            }
            self.world.model.end_read(of.submitted);
        }
        for effect in std::mem::take(&mut of.effects) {
            let is_full = result.is_ok()
                && !(of.operation == Some(Operation::Discard) && self.trouble.is_failing);
            let force =
                if is_full || effect.force != Force::Full { effect.force } else { Force::Partial };
            self.world.model.end(effect.record, force, of.durable && result.is_ok());
        }
        if result.is_ok() && of.operation == Some(Operation::Flush) {
            self.world.model.flush(of.submitted);
        }
        self.slots[slot].buffer = of.buffer;
        let think = self.world.plan.think;
        let after = if think > 0 { self.world.rng.random_range(0..=think) } else { 0 };
        if !self.is_closing && self.requests_left > 0 {
            self.schedule(after, Coming::Client { slot });
        }
        Ok(())
    }

    fn judge_success(&mut self, of: &Slot) -> Result<(), Violation> {
        require!(!of.is_past_end, Errors, "past the end, and no error: {of:?}");
        let has_failed = self.trouble.told_failed.is_some_and(|at| at < of.submitted);
        require!(!has_failed, Mode, "the clone has failed, and yet succeeds: {of:?}");
        let promises = of.operation == Some(Operation::Flush)
            || of.durable
                && matches!(of.operation, Some(Operation::Write | Operation::WriteZeroes { .. }));
        if let (Some(since), true) = (self.trouble.since, promises) {
            let is_before = of.submitted <= since;
            require!(is_before, Mode, "a flush or a commit failed at {since}, and yet: {of:?}");
        }
        if self.trouble.is_failing {
            return Ok(());
        }
        if of.operation == Some(Operation::Commit) {
            self.world.check_committed(of.hydrated)?;
        }
        if of.operation == Some(Operation::Hydrate) && !of.cells.is_empty() && self.is_open() {
            let is_done = self.lanes[0].pass(&bytes(&of.cells)).is_some();
            require!(is_done, Hydrated, "hydrated, and it is not: {of:?}");
            for region in self.world.regions(&of.cells) {
                self.hydrated[region] = true;
            }
        }
        Ok(())
    }

    fn judge_read(&mut self, of: &Slot) -> Result<(), Violation> {
        for (cell, &tag) in of.cells.clone().zip(&of.buffer) {
            let region = cell / self.world.plan.region;
            let of_source = self.world.source.all()[cell];
            let is_right = match self.reverted[region] {
                Some(at) if at < of.submitted => tag == of_source,
                None if !self.trouble.is_failing || self.world.committed[region] => {
                    self.world.model.read(cell, tag, of.submitted)
                }
                _ => tag == of_source || self.world.model.read(cell, tag, of.submitted),
            };
            require!(
                is_right,
                Read,
                "a read submitted at {} of bytes {:?} returns {} for cell {cell} (byte {}) of \
                 region {region}: {}",
                of.submitted,
                bytes(&of.cells),
                named(tag),
                cell as u64 * CELL,
                self.world.model.explain(cell)
            );
        }
        Ok(())
    }

    /// Checks that an error has a reason.
    fn judge_error(&mut self, of: &Slot, error: RequestError) -> Result<(), Violation> {
        let trouble = &self.trouble;
        let is_change = !matches!(of.operation, Some(Operation::Read));
        let wants_marks = matches!(of.operation, Some(Operation::Flush | Operation::Commit))
            || of.durable
            || self.world.regions(&of.cells).any(|region| !self.world.committed[region]);
        let is_fair = match error {
            RequestError::PastEnd => of.is_past_end,
            RequestError::Failed => trouble.abort_failed,
            _ if of.is_past_end => false,
            RequestError::Device(Device::Source) => {
                self.world.regions(&of.cells).any(|it| trouble.bad_regions.contains(&it))
            }
            RequestError::Device(Device::Destination) => trouble.destination,
            RequestError::Device(Device::Metadata) => {
                trouble.commit_failed && is_change && wants_marks
            }
            // Once no more copies are made, requests that wait for copies fail together, without a
            // look at each of them.
            RequestError::ReadOnly if of.operation == Some(Operation::Hydrate) => {
                trouble.is_failing
                    && (wants_marks || trouble.since.is_some_and(|at| of.submitted <= at))
            }
            RequestError::ReadOnly => trouble.is_failing && is_change && wants_marks,
            RequestError::NotCopied => {
                let has_failed = trouble.failed_copies > 0 || trouble.destination;
                of.operation == Some(Operation::Hydrate) && has_failed
            }
            _ => false,
        };
        require!(is_fair, Errors, "{error:?} of {of:?}, after {trouble:?}");
        Ok(())
    }
}
