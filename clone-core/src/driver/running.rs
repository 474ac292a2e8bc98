//! A running clone, for its owner: start, control, status and end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use persistent_data::device;
use thiserror::Error;

use crate::block_io::{Destination, Source};
use crate::dm_target::{Message, Status};
use crate::driver::backends::{Backends, Tally, is_full};
use crate::driver::buffers::BufferPool;
use crate::driver::client::Client;
use crate::driver::event_log::{Awaited, DatedEvent, EventLog, Listener, WaitEnd};
use crate::driver::queue::WORKERS_MIN;
use crate::driver::state::panicked;
use crate::driver::workers::WorkerPool;
use crate::engine::Trace;
use crate::engine::{
    Command, Device, Engine, Event, FailedRegion, Failure, Input, Opened, Operation, RequestError,
    Settings,
};
use crate::metadata::Metadata;
use crate::sync::lock;

/// The devices of a clone.
pub struct Devices<D> {
    /// The metadata, open for writing; it contains the sizes of the clone.
    pub metadata: Metadata<D>,
    /// The device that is cloned.
    pub source: Arc<dyn Source>,
    /// The device that receives the copy.
    pub destination: Arc<dyn Destination>,
}

/// Settings of the driver.
pub struct DriverOptions {
    /// Number of threads for I/O, at least three: one each for the destination, the source, and
    /// hydration. Smaller values are raised.
    pub workers: usize,
    /// Receives each event, on a worker, which does nothing else meanwhile.
    pub listener: Option<Listener>,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self { workers: 8, listener: None }
    }
}

/// The reason why a clone does not run, or refuses a call.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DriverError {
    /// A device is smaller than the clone.
    #[error("the {device} has {has} bytes, and the clone {needed}")]
    TooSmall {
        /// The device.
        device: Device,
        /// Size of the device, in bytes.
        has: u64,
        /// Size of the clone, in bytes.
        needed: u64,
    },
    /// The system cannot start another thread.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The clone has failed: all requests fail.
    #[error("the clone has failed: {0}")]
    Failed(Failure),
    /// The clone ends, or has ended.
    #[error("the clone is being stopped")]
    Ending,
    /// The clone was resumed before it was suspended completely.
    #[error("the clone was resumed before it had come to rest")]
    Resumed,
    /// The clone is read-only: no region can become hydrated.
    #[error("nothing can be hydrated: the clone is read-only ({0}); start it again")]
    ReadOnly(Failure),
    /// The source has changed, and can no longer be used.
    #[error("nothing can be hydrated: the source has changed ({0}); start the clone again")]
    SourceChanged(String),
}

/// The remains of a stopped clone.
pub struct Stopped<D> {
    /// `None` if the clone was complete: the metadata is not needed then.
    pub metadata: Option<Metadata<D>>,
    /// The source. Remaining clients hold it, too.
    pub source: Arc<dyn Source>,
    /// The destination. Remaining clients hold it, too.
    pub destination: Arc<dyn Destination>,
    /// The reason why the latest changes may not be committed, if there is one.
    pub failure: Option<Failure>,
}

/// Progress and counters of a clone since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HydrationProgress {
    /// Number of hydrated regions; 0 if the clone has failed.
    pub hydrated: u64,
    /// Total number of regions.
    pub regions: u64,
    /// Bytes read from the source for copies.
    pub fetched_bytes: u64,
    /// Bytes of copies written to the destination.
    pub copied_bytes: u64,
    /// Bytes of copies that are zeroes, and were not written as data.
    pub zeroed_bytes: u64,
    /// Bytes read from the source only for users, without a copy.
    pub source_read_bytes: u64,
    /// Number of metadata commits that began.
    pub commits: u64,
}

/// A clone that runs on real devices.
///
/// Dropping it stops it, like [`Self::stop`]. Neither may happen in a callback or a listener, which
/// run on the threads that have to end.
pub struct RunningClone<D: device::Device + 'static> {
    pub(super) pool: Arc<WorkerPool>,
    metadata: Arc<Mutex<Option<Metadata<D>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// True if the destination stays claimed when this is dropped, because the caller of
    /// [`Self::stop`] holds it.
    keeps_claim: bool,
    regions: u64,
    size_bytes: u64,
}

impl<D: device::Device + 'static> RunningClone<D> {
    /// Starts a clone.
    ///
    /// # Errors
    /// [`DriverError::TooSmall`] if source or destination are smaller than the clone, and
    /// [`DriverError::Thread`] if a thread cannot be started. No device was then accessed.
    pub fn start(
        devices: Devices<D>,
        settings: Settings,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let Devices { metadata, source, destination } = devices;
        let geometry = metadata.header().geometry;
        let size_bytes = geometry.target_size().to_bytes().unwrap_or(u64::MAX);
        let sizes = [
            (Device::Source, source.size_bytes()),
            (Device::Destination, destination.size_bytes()),
        ];
        for (device, has) in sizes {
            if has < size_bytes {
                return Err(DriverError::TooSmall { device, has, needed: size_bytes });
            }
        }
        let (metadata_used, metadata_total) = metadata.block_use();
        let opened = Opened { geometry, metadata_used, metadata_total };
        let engine = Engine::new(opened, metadata.hydrated_words(), settings);
        let metadata = Arc::new(Mutex::new(Some(metadata)));
        let backends = Backends {
            source,
            destination,
            metadata_store: metadata.clone(),
            buffers: Arc::new(BufferPool::new(pool_bytes(&settings))),
            tally: Tally::default(),
            changed: Mutex::default(),
            lost: Mutex::default(),
        };
        let workers = options.workers.max(WORKERS_MIN);
        let pool = WorkerPool::new(engine, backends, EventLog::new(options.listener), workers);
        let clone = Self {
            pool: Arc::new(pool),
            metadata,
            threads: Mutex::default(),
            keeps_claim: false,
            regions: geometry.nr_regions(),
            size_bytes,
        };
        clone.start_threads(workers).map_err(DriverError::Thread)?;
        clone.input(Input::Tick);
        Ok(clone)
    }

    /// If it fails, the threads already started end with the clone.
    fn start_threads(&self, workers: usize) -> io::Result<()> {
        for _ in 0..workers {
            lock(&self.threads).push(self.pool.start_worker()?);
        }
        let pool = self.pool.clone();
        let timer = Builder::new().name("clone-timer".into());
        lock(&self.threads).push(timer.spawn(move || pool.keep_time())?);
        Ok(())
    }

    /// Creates a handle to use the clone.
    pub fn client(&self) -> Client {
        Client::new(self.pool.clone(), self.size_bytes)
    }

    /// Sends a message to the clone. [`Self::try_command`] also reports whether it was accepted.
    pub fn command(&self, command: Command) {
        self.input(Input::Command(command));
    }

    /// Sends a message to the clone if it can be obeyed. This waits for no device.
    ///
    /// # Errors
    /// [`DriverError::Ending`] if the clone ends, and [`DriverError::Failed`] if it has failed. For
    /// messages that start hydration also [`DriverError::ReadOnly`] if the clone is read-only, and
    /// [`DriverError::SourceChanged`] if its source has changed. Nothing has then changed.
    pub fn try_command(&self, command: Command) -> Result<(), DriverError> {
        let hydrates =
            matches!(command, Command::Hydrate(_) | Command::Kernel(Message::EnableHydration));
        let mut state = self.pool.lock();
        let standing = self.pool.events.standing();
        if standing.is_ending {
            return Err(DriverError::Ending);
        }
        match standing.failure {
            Some(failure) if standing.has_failed => return Err(DriverError::Failed(failure)),
            Some(failure) if hydrates => return Err(DriverError::ReadOnly(failure)),
            _ => {}
        }
        if let Some(reason) = standing.source_changed.filter(|_| hydrates)
            && !self.pool.fast_path.is_complete()
        {
            return Err(DriverError::SourceChanged(reason));
        }
        self.pool.input(&mut state, Input::Command(command));
        Ok(())
    }

    fn input(&self, input: Input) {
        self.pool.input(&mut self.pool.lock(), input);
    }

    /// Returns the status after a commit, so that it is current. There is no commit if the clone is
    /// suspended, since everything is then committed, or if it has failed or ends.
    pub fn status(&self) -> Status {
        let wait = self.pool.events.begin_wait(Awaited::Commit);
        if !wait.has_ended() {
            let (pool, theirs) = (self.pool.clone(), wait.clone());
            let callback = Box::new(move |_, _| pool.events.end_wait(&theirs));
            self.pool.submit(Operation::Commit, 0..0, false, Vec::new(), callback);
            // The status contains the result of the commit.
            self.pool.events.wait_to_end(&wait);
        }
        self.status_now()
    }

    /// Returns the status without a commit.
    pub fn status_now(&self) -> Status {
        let state = self.pool.lock();
        if state.over() == Some(RequestError::Failed) {
            return Status::Fail;
        }
        state.engine().status()
    }

    /// Returns the current settings.
    pub fn settings(&self) -> Settings {
        *self.pool.lock().engine().settings()
    }

    /// Returns the reads recorded since [`Command::Record`] was last switched on. The clone is
    /// blocked during the copy of the trace, which takes milliseconds for a long one.
    pub fn trace(&self) -> Option<Trace> {
        self.pool.lock().engine().trace().cloned()
    }

    /// Suspends the clone: waits until all work in flight has ended and is committed. New requests
    /// wait until the clone [resumes](Self::resume).
    ///
    /// Several threads may call this at the same time, independently of each other.
    ///
    /// # Errors
    /// [`DriverError::Failed`] if the clone has failed, [`DriverError::Resumed`] if it was resumed
    /// before it was suspended, and [`DriverError::Ending`] if it ends. The last two are returned
    /// immediately, even if the devices do not respond.
    pub fn suspend(&self) -> Result<(), DriverError> {
        let mut state = self.pool.lock();
        let wait = self.pool.events.begin_wait(Awaited::Rest);
        if !wait.has_ended() {
            self.pool.input(&mut state, Input::Suspend);
        }
        drop(state);
        match self.pool.events.wait_to_end(&wait) {
            WaitEnd::Done => Ok(()),
            WaitEnd::Resumed => Err(DriverError::Resumed),
            WaitEnd::Failed(failure) => Err(DriverError::Failed(failure)),
            WaitEnd::Ending => Err(DriverError::Ending),
        }
    }

    /// Resumes a suspended clone. This waits for no device. A clone that is still being suspended
    /// resumes as soon as the work in flight has ended; calls that wait for the suspend return at
    /// once.
    ///
    /// # Errors
    /// [`DriverError::Ending`] if the clone ends: it does not resume.
    pub fn resume(&self) -> Result<(), DriverError> {
        let mut state = self.pool.lock();
        if self.pool.events.standing().is_ending {
            return Err(DriverError::Ending);
        }
        self.pool.events.end_waits_for_rest();
        self.pool.input(&mut state, Input::Resume);
        Ok(())
    }

    /// Returns whether the clone is suspended: all work has ended and is committed, and new
    /// requests wait.
    pub fn is_suspended(&self) -> bool {
        self.pool.lock().engine().is_suspended()
    }

    /// Refuses suspend, resume and messages from now on; calls that wait for them return at once.
    /// User requests continue until [`end`](Self::end), which does this, too.
    pub fn begin_end(&self) {
        self.pool.events.begin_end();
    }

    /// Returns the number of caught panics of the listener and of callbacks. They do not harm the
    /// clone, but an answer may be lost.
    pub fn caught_panics(&self) -> u64 {
        self.pool.events.panics()
    }

    /// Returns the events with numbers after `after`, of the last [`super::EVENTS_MAX`] that are
    /// kept. Waits for one, but at most `timeout`.
    pub fn wait_for(&self, after: u64, timeout: Duration) -> Vec<Event> {
        let dated = self.wait_for_dated(after, timeout);
        dated.into_iter().map(|dated| dated.event).collect()
    }

    /// Like [`Self::wait_for`], with the time of each event.
    pub fn wait_for_dated(&self, after: u64, timeout: Duration) -> Vec<DatedEvent> {
        self.pool.events.wait_for(after, timeout)
    }

    /// Returns the progress of the clone.
    pub fn progress(&self) -> HydrationProgress {
        let hydrated = match self.status_now() {
            Status::Running(figures) => figures.hydrated,
            Status::Fail | Status::Error => 0,
        };
        let Tally { fetched, read_source, copied, zeroed, commits } = &self.pool.backends.tally;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HydrationProgress {
            hydrated,
            regions: self.regions,
            fetched_bytes: get(fetched),
            copied_bytes: get(copied),
            zeroed_bytes: get(zeroed),
            source_read_bytes: get(read_source),
            commits: get(commits),
        }
    }

    /// Returns the failed regions in ascending order; none if the clone has failed or is read-only.
    pub fn failed_regions(&self) -> Vec<FailedRegion> {
        self.pool.lock().engine().failed_regions().collect()
    }

    /// Stops the clone: waits until all work in flight has ended and is committed. Later requests
    /// fail. If the clone has failed, nothing is committed, but no I/O is in flight on its devices.
    /// The destination stays claimed for as long as it is held.
    pub fn stop(mut self) -> Stopped<D> {
        self.halt();
        self.keeps_claim = true;
        let metadata = lock(&self.metadata).take();
        let backends = &self.pool.backends;
        Stopped {
            metadata,
            source: backends.source.clone(),
            destination: backends.destination.clone(),
            failure: self.pool.events.standing().failure,
        }
    }

    /// Stops a shared clone like [`stop`](Self::stop), closes its metadata and releases the claim
    /// on its destination. When this returns, both can be opened again, even if clients still hold
    /// the destination. A concurrent call waits for the end, too.
    ///
    /// Returns `None` if everything that was answered is on stable storage and all hydrated regions
    /// are committed; otherwise the reason why it may not be.
    pub fn end(&self) -> Option<Failure> {
        self.halt();
        let metadata = lock(&self.metadata).take();
        drop(metadata);
        self.pool.backends.destination.release();
        self.pool.events.standing().failure
    }

    fn halt(&self) {
        let mut threads = lock(&self.threads);
        if threads.is_empty() {
            return;
        }
        // Under one lock: a resume happens before both, and is undone, or it is refused.
        let mut state = self.pool.lock();
        self.pool.events.begin_end();
        self.pool.input(&mut state, Input::Suspend);
        drop(state);
        // After a failure there is nothing to wait for. The failure is in the event log.
        let standing = self.pool.events.wait_for_rest();
        self.pool.end(RequestError::Stopped);
        for ended in threads.drain(..) {
            // The panic of a thread is in the event log.
            let _ = ended.join();
        }
        // A failed clone does not get suspended, but requests on the fast path still end.
        while self.pool.fast_path.passes() > 0 {
            thread::sleep(GLANCE);
        }
        if standing.failure.is_none() {
            self.flush_at_end();
        }
        self.pool.events.end();
    }

    /// Flushes user writes to hydrated regions since the last commit. The engine does not know of
    /// them.
    fn flush_at_end(&self) {
        let flush = AssertUnwindSafe(|| self.pool.backends.destination.flush());
        let device = Device::Destination;
        let failure = match catch_unwind(flush) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                Failure { device, reason: error.to_string(), is_full: is_full(&error) }
            }
            Err(panic) => panicked(device, "what drives it", &*panic),
        };
        self.pool.events.note_failure(failure);
    }
}

/// Interval for counting passes while waiting for them.
const GLANCE: Duration = Duration::from_millis(1);

/// Returns the maximum number of bytes in copy buffers: the engine has one share for copies that
/// changes wait for, and an equal one for all others. The buffers may take up to twice that memory,
/// since their sizes are powers of two.
pub(super) fn pool_bytes(settings: &Settings) -> u64 {
    settings.copy_bytes.saturating_mul(settings.copies.into()).saturating_mul(2)
}

impl<D: device::Device + 'static> Drop for RunningClone<D> {
    fn drop(&mut self) {
        if self.keeps_claim {
            return;
        }
        // Remaining clients do not keep the devices. A failure is in the event log.
        self.end();
    }
}
