//! The queue of operations, in three classes by what each operation waits for.
//!
//! A class with no operation in flight comes first; otherwise workers take operations that users
//! wait for before those in the background.
//!
//! *Invariant:* the two classes that may wait for the source together leave one worker free, and
//! each of them leaves one to the other. A source that hangs therefore blocks no access to the
//! destination, hydration blocks no user from the source, and users slow hydration down but do not
//! stop it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::driver::buffers::{CopyBuffer, Pending};
use crate::engine::{ByteRange, Device, OpId, RegionSet};

/// An operation that the engine has started.
pub(super) struct Job {
    pub(super) op: OpId,
    pub(super) work: Work,
    /// True if no user is known to wait for it.
    pub(super) is_background: bool,
}

/// An operation, with its buffers.
pub(super) enum Work {
    ReadSource { request: Arc<Pending>, range: ByteRange },
    ReadDestination { request: Arc<Pending>, range: ByteRange },
    Write { request: Arc<Pending>, range: ByteRange },
    Zero { range: ByteRange, deallocate: bool },
    Discard { range: ByteRange },
    Fetch { copy: Arc<CopyBuffer> },
    Store { copy: Arc<CopyBuffer>, overlays: Vec<Laid> },
    Flush,
    Commit { regions: Arc<RegionSet> },
    Abort,
}

/// Data to lay over a copy.
pub(super) struct Laid {
    pub(super) range: ByteRange,
    /// The write that holds the bytes; `None` for zeroes.
    pub(super) of: Option<Arc<Pending>>,
}

impl Work {
    /// Returns the device that failed if this operation fails.
    pub(super) fn device(&self) -> Device {
        match self {
            Self::ReadSource { .. } | Self::Fetch { .. } => Device::Source,
            Self::Commit { .. } | Self::Abort => Device::Metadata,
            _ => Device::Destination,
        }
    }
}

/// The class of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Uses only the destination or the metadata; a user waits for it.
    Near,
    /// Uses the source; a user waits for it.
    Far,
    /// No user waits for it.
    Background,
}

const CLASSES: [Class; 3] = [Class::Near, Class::Far, Class::Background];

impl Job {
    fn class(&self) -> Class {
        match self.work.device() {
            _ if self.is_background => Class::Background,
            Device::Source => Class::Far,
            Device::Destination | Device::Metadata => Class::Near,
        }
    }
}

/// The slot of an operation, to return when it has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct WorkerSlot(Class);

/// Short work that the engine wants done immediately and that uses no device. The thread that takes
/// it does it without the lock, before anything else.
#[derive(Default)]
pub(super) struct Completions {
    pub(super) gives: Vec<(Arc<CopyBuffer>, Arc<Pending>, ByteRange)>,
    /// To be dropped: answered requests, and buffers.
    pub(super) answered: Vec<Arc<Pending>>,
    pub(super) released: Vec<Arc<CopyBuffer>>,
    pub(super) jobs: Vec<Job>,
    /// True to close the metadata.
    pub(super) retire: bool,
    /// True if there are events for the listener.
    pub(super) tell: bool,
}

impl Completions {
    pub(super) fn is_empty(&self) -> bool {
        let Self { gives, answered, released, jobs, retire, tell } = self;
        let has_none = gives.is_empty() && answered.is_empty();
        has_none && released.is_empty() && jobs.is_empty() && !retire && !tell
    }
}

/// The work queue.
pub(super) struct Queue {
    completions: VecDeque<Completions>,
    waiting: [VecDeque<Job>; 3],
    running: [usize; 3],
    workers: usize,
}

/// Minimum number of workers: one for each class.
pub(super) const WORKERS_MIN: usize = 3;

impl Queue {
    /// Creates a queue for this number of workers.
    pub(super) fn new(workers: usize) -> Self {
        assert!(workers >= WORKERS_MIN, "each class has a worker");
        Self { completions: VecDeque::new(), waiting: Default::default(), running: [0; 3], workers }
    }

    pub(super) fn push(&mut self, job: Job) {
        self.waiting[job.class() as usize].push_back(job);
    }

    /// Moves a queued background operation to the operations of users. No effect if it has begun.
    pub(super) fn promote(&mut self, op: OpId) {
        let waiting = &mut self.waiting[Class::Background as usize];
        let found = waiting.iter().position(|job| job.op == op);
        if let Some(mut job) = found.and_then(|index| waiting.remove(index)) {
            job.is_background = false;
            self.push(job);
        }
    }

    pub(super) fn push_completions(&mut self, completions: Completions) {
        if !completions.is_empty() {
            self.completions.push_back(completions);
        }
    }

    pub(super) fn next_completions(&mut self) -> Option<Completions> {
        self.completions.pop_front()
    }

    pub(super) fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    /// Removes and returns the next operation that may begin, if there is one.
    pub(super) fn next_job(&mut self) -> Option<Job> {
        let class = self.next_class()?;
        self.waiting[class as usize].pop_front()
    }

    /// Returns true if there is work for one more worker.
    pub(super) fn has_work(&self) -> bool {
        !self.completions.is_empty() || self.next_class().is_some()
    }

    fn next_class(&self) -> Option<Class> {
        let can = |class: &Class| !self.waiting[*class as usize].is_empty() && self.may(*class);
        let is_idle = |class: &Class| self.running[*class as usize] == 0;
        let idle = CLASSES.into_iter().filter(is_idle);
        idle.chain(CLASSES).find(can)
    }

    /// Returns true if one more operation of the class leaves enough workers to the others.
    fn may(&self, class: Class) -> bool {
        let [_, far, background] = self.running;
        let leaves_one_to_near = far + background < self.workers - 1;
        match class {
            Class::Near => true,
            Class::Far => leaves_one_to_near && far < self.workers - 2,
            Class::Background => leaves_one_to_near && background < self.workers - 2,
        }
    }

    /// Records the start of an operation.
    pub(super) fn begin(&mut self, job: &Job) -> WorkerSlot {
        self.running[job.class() as usize] += 1;
        WorkerSlot(job.class())
    }

    /// Records the end of an operation.
    pub(super) fn end(&mut self, place: WorkerSlot) {
        self.running[place.0 as usize] -= 1;
    }

    /// Removes and returns all operations that have not begun.
    pub(super) fn drain(&mut self) -> Vec<Job> {
        self.waiting.iter_mut().flat_map(|waiting| waiting.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Job, Queue, WORKERS_MIN, Work, WorkerSlot};
    use crate::driver::buffers::CopyBuffer;
    use crate::engine::OpId;

    fn near(op: u64) -> Job {
        Job { op: OpId(op), work: Work::Flush, is_background: false }
    }

    fn fetch(op: u64, is_background: bool) -> Job {
        let copy = Arc::new(CopyBuffer::new(0..1));
        Job { op: OpId(op), work: Work::Fetch { copy }, is_background }
    }

    fn begin(queue: &mut Queue) -> Option<(u64, WorkerSlot)> {
        let job = queue.next_job()?;
        Some((job.op.0, queue.begin(&job)))
    }

    fn begin_all(queue: &mut Queue) -> Vec<u64> {
        std::iter::from_fn(|| begin(queue)).map(|(op, _)| op).collect()
    }

    #[test]
    fn each_class_leaves_a_worker_to_those_before_it() {
        let mut queue = Queue::new(5);
        for op in 0..9 {
            queue.push(fetch(100 + op, true));
        }
        assert_eq!(begin_all(&mut queue), [100, 101, 102]);
        for op in 0..9 {
            queue.push(fetch(200 + op, false));
        }
        assert_eq!(begin_all(&mut queue), [200]);
        queue.push(near(300));
        assert!(queue.has_work());
        assert_eq!(begin_all(&mut queue), [300]);
        assert!(!queue.has_work());
    }

    #[test]
    fn a_source_that_hangs_for_users_and_hydration_has_all_workers_but_one() {
        for workers in WORKERS_MIN..10 {
            for background_first in [false, true] {
                let mut queue = Queue::new(workers);
                let of_source = |queue: &mut Queue, is_background| {
                    (0..20).for_each(|op| queue.push(fetch(op, is_background)));
                    begin_all(queue).len()
                };
                assert_eq!(of_source(&mut queue, background_first), workers - 2);
                assert_eq!(of_source(&mut queue, !background_first), 1);
                assert!(!queue.has_work());
                // The remaining worker performs one operation after the other.
                for op in 100..110 {
                    queue.push(near(op));
                    let (begun, place) = begin(&mut queue).unwrap();
                    assert_eq!(begun, op);
                    queue.end(place);
                }
            }
        }
    }

    #[test]
    fn who_ends_makes_room_for_the_class_that_had_least() {
        let mut queue = Queue::new(4);
        (0..9).for_each(|op| queue.push(fetch(op, true)));
        let (_, place) = begin(&mut queue).unwrap();
        assert_eq!(begin_all(&mut queue), [1]);
        (10..19).for_each(|op| queue.push(fetch(op, false)));
        assert_eq!(begin_all(&mut queue), [10]);
        queue.end(place);
        assert_eq!(begin_all(&mut queue), [11]);
    }

    #[test]
    fn users_come_first_and_hydration_is_never_without_a_worker() {
        let mut queue = Queue::new(5);
        for op in 0..3 {
            queue.push(fetch(op, true));
            queue.push(near(10 + op));
        }
        // First one of each class with none in flight, then the operations of users.
        let (first, _) = begin(&mut queue).unwrap();
        let (second, place) = begin(&mut queue).unwrap();
        assert_eq!((first, second), (10, 0));
        assert_eq!(begin(&mut queue).unwrap().0, 11);
        queue.end(place);
        assert_eq!(begin(&mut queue).unwrap().0, 1);
    }
}
