//! A clone that runs, for whoever is in charge of it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use persistent_data::device;
use thiserror::Error;

use crate::driver::buffers::{Pool, lock};
use crate::driver::client::Client;
use crate::driver::crew::Crew;
use crate::driver::device::{Destination, Source};
use crate::driver::notices::{Dated, Listener, Notices};
use crate::driver::perform::{Hands, Tally};
use crate::driver::queue::WORKERS_MIN;
use crate::engine::{
    Command, Device, Engine, Event, Failure, Notice, Opened, Operation, RequestError, SetAside,
    Settings, Trace,
};
use crate::metadata::Metadata;
use crate::target::Status;

/// What a clone runs on.
pub struct Devices<D> {
    /// The metadata, open for writing; it has the clone's sizes.
    pub metadata: Metadata<D>,
    /// What is cloned.
    pub source: Arc<dyn Source>,
    /// What it is cloned to.
    pub destination: Arc<dyn Destination>,
}

/// What can be set on the driver.
pub struct DriverOptions {
    /// Threads that do I/O. There are three at least, whatever this says: one for what is on the
    /// destination, one for what is on the source, and one for hydration.
    pub workers: usize,
    /// Hears of each notice, on a worker's thread, which does nothing else meanwhile.
    pub listener: Option<Listener>,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self { workers: 8, listener: None }
    }
}

/// Why a clone does not run, or does not any more.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DriverError {
    /// A device ends before the clone does.
    #[error("the {device} has {has} bytes, and the clone {needed}")]
    TooSmall {
        /// Which device.
        device: Device,
        /// Its bytes.
        has: u64,
        /// Bytes of the clone.
        needed: u64,
    },
    /// The system gives no more threads.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// Nothing works any more.
    #[error("the clone has failed: {0}")]
    Failed(Failure),
}

/// What is left of a clone that was stopped.
pub struct Stopped<D> {
    /// `None` if the clone was complete: nobody needs it then.
    pub metadata: Option<Metadata<D>>,
    /// What was cloned. Clients that are still there hold it too.
    pub source: Arc<dyn Source>,
    /// What it was cloned to. Clients that are still there hold it too.
    pub destination: Arc<dyn Destination>,
    /// Why what was hydrated last is not committed, if it is not.
    pub failure: Option<Failure>,
}

/// How far a clone is, and what has been done since it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HydrationProgress {
    /// Regions that are hydrated; 0 if the clone has failed.
    pub hydrated: u64,
    /// All regions.
    pub regions: u64,
    /// Bytes read from the source in order to copy them.
    pub fetched_bytes: u64,
    /// Bytes of copies written to the destination.
    pub copied_bytes: u64,
    /// Bytes of copies that are zeroes, and were not written as such.
    pub zeroed_bytes: u64,
    /// Bytes read from the source for users, who got them and nobody else.
    pub source_read_bytes: u64,
    /// Commits of metadata that were begun.
    pub commits: u64,
}

/// A clone that runs on real devices.
///
/// When it is dropped it is stopped, as by [`Self::stop`]; neither may be done by a callback or a
/// listener, which run on the threads that have to end.
pub struct RunningClone<D: device::Device + 'static> {
    pub(super) crew: Arc<Crew>,
    metadata: Arc<Mutex<Option<Metadata<D>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held by whoever suspends or resumes, or must not be suspended meanwhile.
    control: Mutex<()>,
    regions: u64,
    size_bytes: u64,
}

impl<D: device::Device + 'static> RunningClone<D> {
    /// Has a clone run.
    ///
    /// # Errors
    /// [`DriverError::TooSmall`] and [`DriverError::Thread`]. Nothing was read or written then.
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
        let hands = Hands {
            source,
            destination,
            ledger: metadata.clone(),
            pool: Arc::new(Pool::new(pool_bytes(&settings))),
            tally: Tally::default(),
            changed: Mutex::default(),
        };
        let workers = options.workers.max(WORKERS_MIN);
        let crew = Crew::new(engine, hands, Notices::new(options.listener), workers);
        let clone = Self {
            crew: Arc::new(crew),
            metadata,
            threads: Mutex::default(),
            control: Mutex::new(()),
            regions: geometry.nr_regions(),
            size_bytes,
        };
        clone.start_threads(workers).map_err(DriverError::Thread)?;
        clone.tell(Event::Tick);
        Ok(clone)
    }

    /// Those that were started end with the clone if there are too few.
    fn start_threads(&self, workers: usize) -> io::Result<()> {
        for _ in 0..workers {
            lock(&self.threads).push(self.crew.start_worker()?);
        }
        let crew = self.crew.clone();
        let timer = Builder::new().name("clone-timer".into());
        lock(&self.threads).push(timer.spawn(move || crew.keep_time())?);
        Ok(())
    }

    /// Somebody who uses the clone.
    pub fn client(&self) -> Client {
        Client::new(self.crew.clone(), self.size_bytes)
    }

    /// Gives the clone a message.
    pub fn command(&self, command: Command) {
        self.tell(Event::Command(command));
    }

    fn tell(&self, event: Event) {
        self.crew.tell(&mut self.crew.lock(), event);
    }

    /// What the clone tells of itself, after a commit, so that it is current; unless it is
    /// suspended.
    pub fn status(&self) -> Status {
        // Without that it might be suspended meanwhile, and the commit would wait for its end.
        let control = lock(&self.control);
        let standing = self.crew.notices.standing();
        if !(standing.is_at_rest || standing.has_failed) {
            let (done, wait) = mpsc::channel();
            let callback = Box::new(move |_, _| drop(done));
            self.crew.submit(Operation::Commit, 0..0, false, Vec::new(), callback);
            // It ends with an error: nothing is ever sent. What came of it the status says.
            let _: Result<(), _> = wait.recv();
        }
        drop(control);
        self.status_now()
    }

    /// What the clone tells of itself now.
    pub fn status_now(&self) -> Status {
        let state = self.crew.lock();
        if state.over() == Some(RequestError::Failed) {
            return Status::Fail;
        }
        state.engine().status()
    }

    /// What is set now.
    pub fn settings(&self) -> Settings {
        *self.crew.lock().engine().settings()
    }

    /// What was read since [`Command::Record`] was last switched on. The clone waits while it is
    /// copied, which takes milliseconds if it is long.
    pub fn trace(&self) -> Option<Trace> {
        self.crew.lock().engine().trace().cloned()
    }

    /// Waits until all that is under way has ended and is committed, and lets nothing begin.
    /// Requests that come wait until the clone [goes on](Self::resume).
    ///
    /// # Errors
    /// [`DriverError::Failed`].
    pub fn suspend(&self) -> Result<(), DriverError> {
        let _control = lock(&self.control);
        self.suspend_alone()
    }

    fn suspend_alone(&self) -> Result<(), DriverError> {
        let standing = self.crew.notices.standing();
        let standing = if standing.is_at_rest || standing.has_failed {
            standing
        } else {
            self.tell(Event::Suspend);
            self.crew.notices.wait_for_rest()
        };
        match standing.failure.filter(|_| standing.has_failed) {
            Some(failure) => Err(DriverError::Failed(failure)),
            None => Ok(()),
        }
    }

    /// Lets a suspended clone go on.
    pub fn resume(&self) {
        let _control = lock(&self.control);
        self.tell(Event::Resume);
    }

    /// The notices after number `after`: those that are kept, the last [`super::NOTICES_MAX`].
    /// Waits until there is one, but no longer than `timeout`.
    pub fn wait_for(&self, after: u64, timeout: Duration) -> Vec<Notice> {
        let dated = self.wait_for_dated(after, timeout);
        dated.into_iter().map(|dated| dated.notice).collect()
    }

    /// The same, and when they came.
    pub fn wait_for_dated(&self, after: u64, timeout: Duration) -> Vec<Dated> {
        self.crew.notices.wait_for(after, timeout)
    }

    /// How far the clone is.
    pub fn progress(&self) -> HydrationProgress {
        let hydrated = match self.status_now() {
            Status::Running(figures) => figures.hydrated,
            Status::Fail | Status::Error => 0,
        };
        let Tally { fetched, read_source, copied, zeroed, commits } = &self.crew.hands.tally;
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

    /// What could not be copied, ascending; nothing if the clone has failed or is not writable.
    pub fn set_aside(&self) -> Vec<SetAside> {
        self.crew.lock().engine().set_aside().collect()
    }

    /// Waits until all that is under way has ended and is committed, and ends it. Requests that
    /// come later fail. If the clone has failed nothing is committed, but what is under way on its
    /// devices has ended all the same.
    pub fn stop(self) -> Stopped<D> {
        self.halt();
        let metadata = lock(&self.metadata).take();
        let hands = &self.crew.hands;
        Stopped {
            metadata,
            source: hands.source.clone(),
            destination: hands.destination.clone(),
            failure: self.crew.notices.standing().failure,
        }
    }

    /// Stops it like [`stop`](Self::stop), where several share it, and closes its metadata. Whoever
    /// does it while another is at it waits for the end of it too. Returns why what was hydrated
    /// last is not committed, if it is not.
    pub fn end(&self) -> Option<Failure> {
        self.halt();
        let metadata = lock(&self.metadata).take();
        drop(metadata);
        self.crew.notices.standing().failure
    }

    fn halt(&self) {
        let mut threads = lock(&self.threads);
        if threads.is_empty() {
            return;
        }
        // If it fails there is nothing to wait for. The failure is in the notices.
        let _ = self.suspend_alone();
        self.crew.end(RequestError::Stopped);
        for ended in threads.drain(..) {
            // What a thread panicked of is in the notices.
            let _ = ended.join();
        }
        // A clone that has failed does not come to rest, but its users end what they have begun.
        while self.crew.front.passes() > 0 {
            thread::sleep(GLANCE);
        }
        self.crew.notices.end();
    }
}

/// How often passes are counted while they are waited for.
const GLANCE: Duration = Duration::from_millis(1);

/// The most bytes that are being copied: the engine has as much for copies that users wait for as
/// for others. Their buffers take up to twice that, for they are as long as powers of two.
pub(super) fn pool_bytes(settings: &Settings) -> u64 {
    settings.copy_bytes.saturating_mul(settings.copies.into()).saturating_mul(2)
}

impl<D: device::Device + 'static> Drop for RunningClone<D> {
    fn drop(&mut self) {
        // Clients that are still there do not keep the device. What failed is in the notices.
        self.end();
    }
}
