//! A clone that runs, for whoever is in charge of it.

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
use crate::driver::backends::{Hands, Tally, is_full};
use crate::driver::buffers::Pool;
use crate::driver::client::Client;
use crate::driver::event_log::{Awaited, Dated, Listener, Notices, WaitEnd};
use crate::driver::queue::WORKERS_MIN;
use crate::driver::state::panicked;
use crate::driver::workers::Crew;
use crate::engine::Trace;
use crate::engine::{
    Command, Device, Engine, Event, Failure, Notice, Opened, Operation, RequestError, SetAside,
    Settings,
};
use crate::metadata::Metadata;
use crate::sync::lock;

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
    /// It ends, or has ended.
    #[error("the clone is being stopped")]
    Ending,
    /// It was resumed before it had come to rest.
    #[error("the clone was resumed before it had come to rest")]
    Resumed,
    /// Nothing can become hydrated any more.
    #[error("nothing can be hydrated: the clone is read-only ({0}); start it again")]
    ReadOnly(Failure),
    /// The source cannot be used any more.
    #[error("nothing can be hydrated: the source has changed ({0}); start the clone again")]
    SourceChanged(String),
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
    /// Whether the destination stays claimed when it is dropped: the caller of [`Self::stop`] has
    /// it.
    keeps_claim: bool,
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
            lost: Mutex::default(),
        };
        let workers = options.workers.max(WORKERS_MIN);
        let crew = Crew::new(engine, hands, Notices::new(options.listener), workers);
        let clone = Self {
            crew: Arc::new(crew),
            metadata,
            threads: Mutex::default(),
            keeps_claim: false,
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

    /// Gives the clone a message. See [`Self::try_command`] for one that says whether it took it.
    pub fn command(&self, command: Command) {
        self.tell(Event::Command(command));
    }

    /// Gives the clone a message, if it can do what that says. This waits for no device.
    ///
    /// # Errors
    /// [`DriverError::Ending`] and [`DriverError::Failed`]. For messages that ask for hydration
    /// also [`DriverError::ReadOnly`] and [`DriverError::SourceChanged`]. Nothing has changed then.
    pub fn try_command(&self, command: Command) -> Result<(), DriverError> {
        let hydrates =
            matches!(command, Command::Hydrate(_) | Command::Kernel(Message::EnableHydration));
        let mut state = self.crew.lock();
        let standing = self.crew.notices.standing();
        if standing.is_ending {
            return Err(DriverError::Ending);
        }
        match standing.failure {
            Some(failure) if standing.has_failed => return Err(DriverError::Failed(failure)),
            Some(failure) if hydrates => return Err(DriverError::ReadOnly(failure)),
            _ => {}
        }
        if let Some(reason) = standing.source_changed.filter(|_| hydrates)
            && !self.crew.front.is_complete()
        {
            return Err(DriverError::SourceChanged(reason));
        }
        self.crew.tell(&mut state, Event::Command(command));
        Ok(())
    }

    fn tell(&self, event: Event) {
        self.crew.tell(&mut self.crew.lock(), event);
    }

    /// What the clone tells of itself, after a commit, so that it is current. There is no commit
    /// if the clone is at rest, for then all is committed, nor if it has failed or ends.
    pub fn status(&self) -> Status {
        let wait = self.crew.notices.begin_wait(Awaited::Commit);
        if !wait.has_ended() {
            let (crew, theirs) = (self.crew.clone(), wait.clone());
            let callback = Box::new(move |_, _| crew.notices.end_wait(&theirs));
            self.crew.submit(Operation::Commit, 0..0, false, Vec::new(), callback);
            // What came of it the status says.
            self.crew.notices.wait_to_end(&wait);
        }
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
    /// Several may do this at a time. None keeps another call waiting.
    ///
    /// # Errors
    /// [`DriverError::Failed`]; [`DriverError::Resumed`] if it was told to go on before it had come
    /// to rest; [`DriverError::Ending`] if it ends. The last two come at once, whatever the devices
    /// do.
    pub fn suspend(&self) -> Result<(), DriverError> {
        let mut state = self.crew.lock();
        let wait = self.crew.notices.begin_wait(Awaited::Rest);
        if !wait.has_ended() {
            self.crew.tell(&mut state, Event::Suspend);
        }
        drop(state);
        match self.crew.notices.wait_to_end(&wait) {
            WaitEnd::Done => Ok(()),
            WaitEnd::Resumed => Err(DriverError::Resumed),
            WaitEnd::Failed(failure) => Err(DriverError::Failed(failure)),
            WaitEnd::Ending => Err(DriverError::Ending),
        }
    }

    /// Lets a suspended clone go on. This waits for no device. If the clone is still coming to
    /// rest, it goes on as soon as what is under way has ended, and whoever waits for its rest is
    /// told so at once.
    ///
    /// # Errors
    /// [`DriverError::Ending`]: a clone that ends does not go on.
    pub fn resume(&self) -> Result<(), DriverError> {
        let mut state = self.crew.lock();
        if self.crew.notices.standing().is_ending {
            return Err(DriverError::Ending);
        }
        self.crew.notices.end_waits_for_rest();
        self.crew.tell(&mut state, Event::Resume);
        Ok(())
    }

    /// From now on nobody can suspend, resume or change the clone, and calls that wait for it
    /// return at once. Requests of users go on until [`end`](Self::end), which does this too.
    pub fn begin_end(&self) {
        self.crew.notices.begin_end();
    }

    /// How many panics of the listener and of callbacks of requests were caught. They do the clone
    /// no harm; an answer may be lost.
    pub fn caught_panics(&self) -> u64 {
        self.crew.notices.panics()
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
    /// devices has ended all the same. The destination stays claimed while somebody holds it.
    pub fn stop(mut self) -> Stopped<D> {
        self.halt();
        self.keeps_claim = true;
        let metadata = lock(&self.metadata).take();
        let hands = &self.crew.hands;
        Stopped {
            metadata,
            source: hands.source.clone(),
            destination: hands.destination.clone(),
            failure: self.crew.notices.standing().failure,
        }
    }

    /// Stops it like [`stop`](Self::stop), where several share it, closes its metadata and gives up
    /// the claim on its destination: both can be opened again when this returns, though clients
    /// still hold the destination. Whoever does it while another is at it waits for the end of it
    /// too.
    ///
    /// Returns `None` if everything that was answered is on stable storage, and what is hydrated is
    /// committed; otherwise why it may not be.
    pub fn end(&self) -> Option<Failure> {
        self.halt();
        let metadata = lock(&self.metadata).take();
        drop(metadata);
        self.crew.hands.destination.release();
        self.crew.notices.standing().failure
    }

    fn halt(&self) {
        let mut threads = lock(&self.threads);
        if threads.is_empty() {
            return;
        }
        // Both under the one lock: a resume comes before them, and is undone, or is refused.
        let mut state = self.crew.lock();
        self.crew.notices.begin_end();
        self.crew.tell(&mut state, Event::Suspend);
        drop(state);
        // If it fails there is nothing to wait for. The failure is in the notices.
        let standing = self.crew.notices.wait_for_rest();
        self.crew.end(RequestError::Stopped);
        for ended in threads.drain(..) {
            // What a thread panicked of is in the notices.
            let _ = ended.join();
        }
        // A clone that has failed does not come to rest, but its users end what they have begun.
        while self.crew.front.passes() > 0 {
            thread::sleep(GLANCE);
        }
        if standing.failure.is_none() {
            self.flush_at_end();
        }
        self.crew.notices.end();
    }

    /// Flushes what users have written to hydrated regions since the last commit, of which the
    /// engine knows nothing.
    fn flush_at_end(&self) {
        let flush = AssertUnwindSafe(|| self.crew.hands.destination.flush());
        let device = Device::Destination;
        let failure = match catch_unwind(flush) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                Failure { device, reason: error.to_string(), is_full: is_full(&error) }
            }
            Err(panic) => panicked(device, "what drives it", &*panic),
        };
        self.crew.notices.note_failure(failure);
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
        if self.keeps_claim {
            return;
        }
        // Clients that are still there do not keep the devices. What failed is in the notices.
        self.end();
    }
}
