//! A worker pool: threads process jobs in parallel; their results are returned in the order of the
//! jobs.
//!
//! A remote device has a high latency; several concurrent requests keep it busy.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Number of worker threads.
pub(super) const WORKERS: usize = 8;

/// Maximum number of jobs whose results have not been taken: one in progress and one queued per
/// worker, so that no worker is idle while the caller looks at results.
pub(super) const JOBS_MAX: usize = 2 * WORKERS;

/// A job or result with its sequence number.
type Numbered<T> = (u64, T);

/// The worker pool, for the thread that leads it.
pub(super) struct ParallelMap<J, R> {
    to_do: Sender<Numbered<J>>,
    done: Receiver<Numbered<thread::Result<R>>>,
    /// The number of the first job in `open`.
    first: u64,
    /// Jobs whose results have not been taken, in order, with the results that have arrived.
    open: VecDeque<(J, Option<R>)>,
}

/// Calls `lead` with a worker pool that runs `work`, with separate `tools` for each worker. All
/// workers have exited when it returns.
///
/// # Errors
/// The error of the system if it cannot start a thread. `lead` was then not called.
pub(super) fn gather<T, J: Clone + Send, R: Send, L>(
    tools: impl Fn() -> T + Sync,
    work: impl Fn(&mut T, &J) -> R + Sync,
    lead: impl FnOnce(&mut ParallelMap<J, R>) -> L,
) -> io::Result<L> {
    let (to_do, queue) = channel();
    let (results, done) = channel();
    let queue = Mutex::new(queue);
    let worker = |results: Sender<_>| {
        let mut tools = tools();
        loop {
            // The lock is held while waiting. Once the sender of jobs is gone, the worker exits.
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((number, job)) = job else { return };
            // Unwinding here would leave the leader waiting for a result forever. The panic resumes
            // where the result is taken.
            let result = catch_unwind(AssertUnwindSafe(|| work(&mut tools, &job)));
            if results.send((number, result)).is_err() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        let mut map = ParallelMap { to_do, done, first: 0, open: VecDeque::new() };
        for _ in 0..WORKERS {
            let results = results.clone();
            let worker = &worker;
            thread::Builder::new().spawn_scoped(scope, move || worker(results))?;
        }
        drop(results);
        Ok(lead(&mut map))
    })
}

impl<J: Clone, R> ParallelMap<J, R> {
    /// Returns true if another job may be handed out now.
    pub(super) fn has_room(&self) -> bool {
        self.open.len() < JOBS_MAX
    }

    /// Queues a job for the workers.
    pub(super) fn hand_out(&mut self, job: J) {
        let number = self.first + self.open.len() as u64;
        self.open.push_back((job.clone(), None));
        self.to_do.send((number, job)).expect("the map waits for jobs as long as it has a leader");
    }

    /// Waits for the result of the first job not yet taken. Returns `None` if all results were
    /// taken.
    ///
    /// # Panics
    /// If a worker panicked.
    pub(super) fn next_done(&mut self) -> Option<(J, R)> {
        while self.open.front()?.1.is_none() {
            let (number, result) = self.done.recv().expect("each job has its result");
            let result = result.unwrap_or_else(|panic| resume_unwind(panic));
            self.open[(number - self.first) as usize].1 = Some(result);
        }
        let (job, result) = self.open.pop_front()?;
        self.first += 1;
        Some((job, result?))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{JOBS_MAX, WORKERS, gather};

    /// Runs `work` on the numbers below `end`, and returns each job with its result.
    fn work_on(end: u64, work: impl Fn(u64) -> u64 + Sync) -> Vec<(u64, u64)> {
        let mut jobs = 0..end;
        let mut done = Vec::new();
        gather(
            || (),
            |(), &job| work(job),
            |map| {
                loop {
                    while map.has_room() {
                        let Some(job) = jobs.next() else { break };
                        map.hand_out(job);
                    }
                    let Some(result) = map.next_done() else { break };
                    done.push(result);
                }
            },
        )
        .unwrap();
        done
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs_whoever_is_faster() {
        // Each even job ends only after the odd one behind it.
        let odd_ones = AtomicU64::new(0);
        let results = work_on(200, |job| {
            if job % 2 == 1 {
                odd_ones.fetch_add(1, Ordering::SeqCst);
            }
            while job % 2 == 0 && odd_ones.load(Ordering::SeqCst) <= job / 2 {
                std::thread::yield_now();
            }
            job * job
        });
        assert!(results.into_iter().eq((0..200).map(|job| (job, job * job))));
    }

    #[test]
    fn as_many_jobs_are_in_work_at_once_as_there_are_workers() {
        let together = Barrier::new(WORKERS);
        let results = work_on(3 * WORKERS as u64, |job| {
            together.wait();
            job
        });
        assert_eq!(results.len(), 3 * WORKERS);
    }

    #[test]
    fn no_more_jobs_are_handed_out_than_there_is_room_for() {
        let handed_out = Cell::new(0);
        gather(
            || (),
            |(), &()| (),
            |map| {
                while map.has_room() {
                    map.hand_out(());
                    handed_out.set(handed_out.get() + 1);
                }
                assert!(map.next_done().is_some() && map.has_room());
            },
        )
        .unwrap();
        assert_eq!(handed_out.get(), JOBS_MAX);
    }

    #[test]
    fn a_worker_that_panics_is_heard_of_and_nobody_waits_for_its_result() {
        for bad in [0, 7, 50, 99] {
            let work = |job| if job == bad { panic!("job {job}") } else { job };
            let panic = catch_unwind(AssertUnwindSafe(|| work_on(100, work))).unwrap_err();
            assert_eq!(panic.downcast_ref(), Some(&format!("job {bad}")));
        }
    }

    #[test]
    fn a_leader_who_panics_leaves_nobody_waiting() {
        let lead = || {
            gather(
                || (),
                |(), &()| (),
                |map| {
                    map.hand_out(());
                    panic!("the leader");
                },
            )
        };
        let panic = catch_unwind(AssertUnwindSafe(lead)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"the leader"));
    }
}
