//! One clone of a daemon.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use anyhow::{Context, Result};
use clone_core::dm_target::{Message, Status, StatusLine, TableLine};
use clone_core::driver::{Dated, DriverError, DriverOptions, HydrationProgress, RunningClone};
use clone_core::engine::Trace;
use clone_core::engine::{Command, Failure, Happening, Notice, SetAside, Settings};
use clone_core::geometry::{Geometry, Sectors};
use clone_tools::common::units::{Share, in_units};
use persistent_data::device::FileDevice;

use crate::config::clone_spec::CloneSpec;
use crate::export::volume::Volume;
use crate::host::setup::Ready;
use crate::source::{RemoteHandle, SourceFigures};

/// A clone that runs.
pub struct Hosted {
    spec: CloneSpec,
    table: TableLine,
    /// The line of the clonetab that it is from.
    line: Option<String>,
    clone: RunningClone<FileDevice>,
    volume: Arc<Volume>,
    remote: Option<RemoteHandle>,
    exports: Mutex<Vec<String>>,
    /// Dropped when the clone has ended, if somebody waits for that.
    has_ended: Mutex<Option<Sender<()>>>,
}

/// How long what is being fetched is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Workers beside those that copy, for what users wait for.
const FOR_USERS: usize = 8;

impl Hosted {
    /// Has a clone run that `line` of a clonetab made, or nobody's.
    ///
    /// # Errors
    /// Why it does not run.
    pub(super) fn start(ready: Ready, line: Option<String>) -> Result<Self> {
        let Ready { spec, line: table, mut settings, devices, remote, prefetch: first } = ready;
        let name = spec.name.clone();
        let options = DriverOptions {
            workers: settings.copies as usize + FOR_USERS,
            listener: Some(Box::new(move |notice| log(&name, notice))),
        };
        let hydration = settings.options.hydration;
        settings.options.hydration = hydration && first.is_none();
        let clone = RunningClone::start(devices, settings, options)?;
        if spec.record.is_some() {
            clone.command(Command::Record(true));
        }
        for range in first.iter().flat_map(Trace::ranges) {
            clone.command(Command::Hydrate(range.clone()));
        }
        if hydration && first.is_some() {
            clone.command(Command::Kernel(Message::EnableHydration));
        }
        let region = table.geometry().region_size().sectors();
        let region_bytes = region.to_bytes().context("a region of so many bytes")?;
        let volume = Arc::new(Volume::new(&spec.name, region_bytes, clone.client()));
        let (exports, has_ended) = Default::default();
        Ok(Self { spec, table, line, clone, volume, remote, exports, has_ended })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it is made of.
    pub fn spec(&self) -> &CloneSpec {
        &self.spec
    }

    /// The clone as those see it who serve it.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// The line of the clonetab that it is from, if it is from one.
    pub fn line(&self) -> Option<&str> {
        self.line.as_deref()
    }

    /// The sizes of the clone.
    pub fn geometry(&self) -> Geometry {
        self.table.geometry()
    }

    /// The kernel's table line.
    pub fn table(&self) -> String {
        self.table.to_string()
    }

    /// What `dmsetup status` would print; `flush` commits before that, so that it is current.
    pub fn status(&self, flush: bool) -> StatusLine {
        let status = if flush { self.clone.status() } else { self.clone.status_now() };
        StatusLine { place: Some((Sectors(0), self.geometry().target_size())), status }
    }

    /// Gives it a message.
    ///
    /// # Errors
    /// Why nothing can come of it: see [`RunningClone::try_command`].
    pub fn command(&self, command: Command) -> Result<(), DriverError> {
        tracing::info!(clone = self.name(), "message: {command}");
        self.clone.try_command(command)
    }

    /// Brings it to rest: what is under way is ended and committed, and requests wait from then on.
    ///
    /// # Errors
    /// That it has failed, was resumed before it came to rest, or ends.
    pub fn suspend(&self) -> Result<(), DriverError> {
        self.clone.suspend()
    }

    /// Lets it go on, and ends the wait of those who suspend it.
    ///
    /// # Errors
    /// That it ends.
    pub fn resume(&self) -> Result<(), DriverError> {
        self.clone.resume()
    }

    /// How many panics were caught of those who are told answers and events.
    pub fn caught_panics(&self) -> u64 {
        self.clone.caught_panics()
    }

    /// The notices after number `after`; waits for one, but no longer than `timeout`.
    pub fn wait_for(&self, after: u64, timeout: Duration) -> Vec<Notice> {
        self.clone.wait_for(after, timeout)
    }

    /// The same, and when they came.
    pub fn wait_for_dated(&self, after: u64, timeout: Duration) -> Vec<Dated> {
        self.clone.wait_for_dated(after, timeout)
    }

    /// How far it is.
    pub fn progress(&self) -> HydrationProgress {
        self.clone.progress()
    }

    /// What could not be copied.
    pub fn set_aside(&self) -> Vec<SetAside> {
        self.clone.set_aside()
    }

    /// What is set now.
    pub fn settings(&self) -> Settings {
        self.clone.settings()
    }

    /// Where it is served, for people.
    pub fn exports(&self) -> Vec<String> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn add_exports(&self, places: Vec<String>) {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).extend(places);
    }

    /// Whether nothing works any more.
    pub fn has_failed(&self) -> bool {
        matches!(self.clone.status_now(), Status::Fail)
    }

    /// Notes what was read, if it was asked for.
    pub(super) fn write_record(&self) -> Result<()> {
        let (Some(path), Some(trace)) = (&self.spec.record, self.clone.trace()) else {
            return Ok(());
        };
        super::write_file(path, &trace.to_text())
    }

    /// What is counted of its source, if that is across a network.
    pub fn source_figures(&self) -> Option<&Arc<SourceFigures>> {
        self.remote.as_ref().map(|remote| &remote.figures)
    }

    /// Begins its end: it hydrates no more, and nobody can suspend, resume or change it. A source
    /// across a network is given up if it has not [ended](Self::end) after [`PATIENCE`]. Users are
    /// served until then.
    pub(super) fn begin_end(&self) {
        self.clone.command(Command::Kernel(Message::DisableHydration));
        self.clone.begin_end();
        let mut place = self.has_ended.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(remote) = self.remote.clone().filter(|_| place.is_none()) else { return };
        let (has_ended, ended) = mpsc::channel();
        *place = Some(has_ended);
        let giving_up = remote.clone();
        let thread = Builder::new().name("patience".into()).spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                giving_up.abandon();
            }
        });
        if thread.is_err() {
            // Nobody would end a wait for it.
            remote.abandon();
        }
    }

    /// Ends it. Returns why what was answered may not be stored, or what was hydrated last not be
    /// committed. Its metadata and destination can be opened again then.
    pub(super) fn end(&self) -> Option<Failure> {
        self.begin_end();
        let failure = self.clone.end();
        *self.has_ended.lock().unwrap_or_else(PoisonError::into_inner) = None;
        failure
    }

    /// One line on how it stands.
    pub fn summary(&self) -> String {
        let HydrationProgress { hydrated, regions, .. } = self.progress();
        let share = Share { part: hydrated, whole: regions };
        let size = in_units(self.geometry().target_size());
        let exports = self.exports();
        let served = match &exports[..] {
            [] => String::new(),
            places => format!(", served at {}", places.join(", ")),
        };
        format!("{size} of {}, {share} hydrated{served}", self.spec.source)
    }
}

/// Tells the log what happened to the clone called `name`.
fn log(name: &str, notice: &Notice) {
    let Notice { number, what } = notice;
    match what {
        Happening::ReadOnly(_) | Happening::FlushFailed(_) | Happening::Failed(_) => {
            tracing::error!(clone = name, event = number, "{what}");
        }
        Happening::HydrationStopped { .. } | Happening::SourceChanged { .. } => {
            tracing::warn!(clone = name, event = number, "{what}");
        }
        _ => tracing::info!(clone = name, event = number, "{what}"),
    }
}
