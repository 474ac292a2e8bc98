//! Requests in flight, from submission to answer.
//!
//! `submit` counts the parts that `plan.rs` makes of a request; the end of the last part answers
//! the request, or makes it join a commit round.

use std::mem;

use crate::engine::api::action::Action;
use crate::engine::api::request::{ByteRange, Operation, Request, RequestError, RequestId};
use crate::engine::regions::claim::Part;
use crate::engine::{Engine, Mode, RunState};
use crate::geometry::RegionRange;

/// A request in flight.
#[derive(Debug)]
pub(in crate::engine) struct RequestProgress {
    pub(in crate::engine) operation: Operation,
    durable: bool,
    /// Number of parts that have not ended.
    parts: u32,
    /// The first error.
    error: Option<RequestError>,
}

impl Engine {
    /// Begins a request, or holds it until the clone resumes. [`Operation::Commit`], which precedes
    /// a status report, is never held.
    pub(in crate::engine) fn submit(&mut self, request: Request) {
        let is_held = self.run_state != RunState::Running && self.mode != Mode::Failed;
        if !is_held || request.operation == Operation::Commit {
            self.begin(request);
        } else {
            self.held.push_back(request);
        }
    }

    /// Begins the requests that were held while the clone was not running.
    pub(in crate::engine) fn take_held(&mut self) {
        for request in mem::take(&mut self.held) {
            self.begin(request);
        }
    }

    fn begin(&mut self, request: Request) {
        let Request { id, operation, range, durable } = request;
        let is_barrier = matches!(operation, Operation::Flush | Operation::Commit);
        let refused = if !is_barrier && !self.sizes.contains(&range) {
            Some(RequestError::PastEnd)
        } else if self.mode == Mode::Failed {
            Some(RequestError::Failed)
        } else {
            None
        };
        if let Some(error) = refused {
            self.actions.push(Action::Answer { request: id, result: Err(error) });
            return;
        }
        // An extra part prevents the answer while the request is being planned.
        let pending = RequestProgress { operation, durable, parts: 1, error: None };
        let before = self.requests.insert(id, pending);
        assert!(before.is_none(), "request {} is under way already", id.0);
        match operation {
            Operation::Flush | Operation::Commit => {
                self.commits.join(id, operation);
                return;
            }
            Operation::Hydrate => {
                self.hydrate_for(&range, id);
                return;
            }
            _ => self.users += 1,
        }
        if operation == Operation::Read {
            self.trace_read(&range);
        }
        if range.start < range.end {
            self.plan(&Part { request: id, range });
        }
        self.end_part(id, Ok(()));
    }

    /// Splits a part of a request into operations.
    pub(in crate::engine) fn plan(&mut self, part: &Part) {
        if self.mode == Mode::Failed {
            self.fail_part(part.request, RequestError::Failed);
            return;
        }
        match self.requests[&part.request].operation {
            Operation::Read => self.plan_read(part),
            Operation::Write => self.plan_change(part, None),
            Operation::WriteZeroes { deallocate } => self.plan_change(part, Some(deallocate)),
            Operation::Discard => self.plan_discard(part),
            Operation::Hydrate | Operation::Flush | Operation::Commit => {
                unreachable!("these have no parts")
            }
        }
    }

    /// Adds a part to a request.
    pub(in crate::engine) fn add_part(&mut self, request: RequestId) {
        self.pending(request).parts += 1;
    }

    /// Ends a part of a request.
    pub(in crate::engine) fn end_part(
        &mut self,
        request: RequestId,
        result: Result<(), RequestError>,
    ) {
        let pending = self.pending(request);
        pending.parts -= 1;
        if let Err(error) = result {
            pending.error.get_or_insert(error);
        }
        if pending.parts > 0 {
            return;
        }
        let RequestProgress { operation, durable, error, .. } = *pending;
        if !matches!(operation, Operation::Hydrate) {
            self.users -= 1;
        }
        let reads = matches!(operation, Operation::Read | Operation::Hydrate);
        if error.is_none() && durable && !reads {
            self.commits.join(request, operation);
            return;
        }
        self.requests.remove(&request);
        let result = error.map_or(Ok(()), Err);
        self.actions.push(Action::Answer { request, result });
    }

    fn pending(&mut self, request: RequestId) -> &mut RequestProgress {
        self.requests.get_mut(&request).expect("a request stays until it is answered")
    }

    /// Returns the error for changes in the current mode.
    pub(in crate::engine) fn mode_error(&self) -> RequestError {
        if self.mode == Mode::Failed { RequestError::Failed } else { RequestError::ReadOnly }
    }
}

/// Sizes of a clone, in bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Sizes {
    pub(in crate::engine) size_bytes: u64,
    pub(in crate::engine) region_shift: u32,
    pub(in crate::engine) nr_regions: u64,
}

impl Sizes {
    fn contains(&self, range: &ByteRange) -> bool {
        range.start <= range.end && range.end <= self.size_bytes
    }

    /// Returns the size of each region but the last, in bytes.
    pub(in crate::engine) fn region_bytes(&self) -> u64 {
        1 << self.region_shift
    }

    /// Returns the bytes of `regions`.
    pub(in crate::engine) fn bytes_of(&self, regions: &RegionRange) -> ByteRange {
        let byte = |region: u64| (region << self.region_shift).min(self.size_bytes);
        byte(regions.start)..byte(regions.end)
    }

    /// Returns the regions that contain a byte of `range`, which is not empty.
    pub(in crate::engine) fn touched(&self, range: &ByteRange) -> RegionRange {
        range.start >> self.region_shift..((range.end - 1) >> self.region_shift) + 1
    }

    /// Returns the regions that lie completely in `range`; if there are none, the end may be before
    /// the start.
    pub(in crate::engine) fn covered(&self, range: &ByteRange) -> RegionRange {
        let first = range.start.div_ceil(self.region_bytes());
        let end = if range.end == self.size_bytes {
            self.nr_regions
        } else {
            range.end >> self.region_shift
        };
        first..end
    }
}
