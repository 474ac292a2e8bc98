//! One running clone of a daemon, with its volume and its exports.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::Builder;
use std::time::Duration;

use anyhow::{Context, Result};
use clone_core::dm_target::{Message, Status, StatusLine, TableLine};
use clone_core::driver::{DriverError, DriverOptions, HydrationProgress, RunningClone};
use clone_core::engine::{Command, Event, EventKind, Failure, Trace};
use clone_core::geometry::{Geometry, Sectors};
use clone_core::sync::lock;
use clone_tools::common::units::{Share, in_units};
use persistent_data::device::FileDevice;

use crate::config::clone_spec::CloneSpec;
use crate::export::volume::Volume;
use crate::host::setup::Ready;
use crate::source::{RemoteHandle, SourceStats};

/// A running clone.
pub struct ServedClone {
    spec: CloneSpec,
    table: TableLine,
    /// The clonetab line that describes it.
    line: Option<String>,
    clone: RunningClone<FileDevice>,
    volume: Arc<Volume>,
    remote: Option<RemoteHandle>,
    exports: Mutex<Vec<String>>,
    /// Dropped when the clone has stopped, if a thread waits for that.
    has_ended: Mutex<Option<Sender<()>>>,
}

/// Time that fetches in flight have left at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Worker threads in addition to those that copy, for user I/O.
const FOR_USERS: usize = 8;

impl ServedClone {
    /// Starts a clone. `line` is its clonetab line, if it has one.
    ///
    /// # Errors
    /// [`DriverError::TooSmall`] if a device is shorter than the clone, [`DriverError::Thread`] if
    /// a thread cannot be started; an error if a region is too large to count in bytes.
    pub(super) fn start(ready: Ready, line: Option<String>) -> Result<Self> {
        let Ready { spec, line: table, mut settings, devices, remote, prefetch: first } = ready;
        let name = spec.name.clone();
        let options = DriverOptions {
            workers: settings.copies as usize + FOR_USERS,
            listener: Some(Box::new(move |event| log(&name, event))),
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

    /// Returns the name of the clone.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Returns the description of the clone.
    pub fn spec(&self) -> &CloneSpec {
        &self.spec
    }

    /// Returns the block-device view of the clone.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Returns the clonetab line that describes the clone, if it has one.
    pub fn line(&self) -> Option<&str> {
        self.line.as_deref()
    }

    /// Returns the geometry of the clone.
    pub fn geometry(&self) -> Geometry {
        self.table.geometry()
    }

    /// Returns the kernel's table line for the clone.
    pub fn table(&self) -> &TableLine {
        &self.table
    }

    /// Returns the running clone. [`command`](Self::command) also logs a message to it, and
    /// [`status`](Self::status) adds its place in the table.
    pub fn running(&self) -> &RunningClone<FileDevice> {
        &self.clone
    }

    /// Returns the line that `dmsetup status` would print. With `flush` it commits first, so that
    /// the line is current.
    pub fn status(&self, flush: bool) -> StatusLine {
        let status = if flush { self.clone.status() } else { self.clone.status_now() };
        StatusLine { place: Some((Sectors(0), self.geometry().target_size())), status }
    }

    /// Sends a message to the clone.
    ///
    /// # Errors
    /// [`DriverError::Ending`], [`DriverError::Failed`], [`DriverError::ReadOnly`] and
    /// [`DriverError::SourceChanged`]: see [`RunningClone::try_command`].
    pub fn command(&self, command: Command) -> Result<(), DriverError> {
        tracing::info!(clone = self.name(), "message: {command}");
        self.clone.try_command(command)
    }

    /// Returns the addresses of its exports, for users.
    pub fn exports(&self) -> Vec<String> {
        lock(&self.exports).clone()
    }

    pub(super) fn add_exports(&self, places: Vec<String>) {
        lock(&self.exports).extend(places);
    }

    /// Returns whether the clone has failed.
    pub fn has_failed(&self) -> bool {
        matches!(self.clone.status_now(), Status::Fail)
    }

    /// Writes the trace of the reads, if one was requested.
    pub(super) fn write_record(&self) -> Result<()> {
        let (Some(path), Some(trace)) = (&self.spec.record, self.clone.trace()) else {
            return Ok(());
        };
        super::write_file(path, &trace.to_text())
    }

    /// Returns the counters of the source, if it is remote.
    pub fn source_figures(&self) -> Option<&Arc<SourceStats>> {
        self.remote.as_ref().map(|remote| &remote.stats)
    }

    /// Begins to stop the clone. It stops hydrating and can no longer be suspended, resumed or
    /// changed. A remote source is abandoned if the clone has not [stopped](Self::end) within
    /// [`STOP_TIMEOUT`]. Clients are served until then.
    pub(super) fn begin_end(&self) {
        self.clone.command(Command::Kernel(Message::DisableHydration));
        self.clone.begin_end();
        let mut place = lock(&self.has_ended);
        let Some(remote) = self.remote.clone().filter(|_| place.is_none()) else { return };
        let (has_ended, ended) = mpsc::channel();
        *place = Some(has_ended);
        let giving_up = remote.clone();
        let thread = Builder::new().name("stop-timeout".into()).spawn(move || {
            if ended.recv_timeout(STOP_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                giving_up.abandon();
            }
        });
        if thread.is_err() {
            // No thread could end the wait later.
            remote.abandon();
        }
    }

    /// Stops the clone. Its metadata and destination can be opened again afterwards. Returns a
    /// failure if data that was acknowledged may not be stored, or if the last hydrated regions may
    /// not be committed.
    pub(super) fn end(&self) -> Option<Failure> {
        self.begin_end();
        let failure = self.clone.end();
        *lock(&self.has_ended) = None;
        failure
    }

    /// Returns a summary of the clone in one line.
    pub fn summary(&self) -> String {
        let HydrationProgress { hydrated, regions, .. } = self.clone.progress();
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

/// Logs an event of the clone called `name`.
fn log(name: &str, event: &Event) {
    let Event { number, kind } = event;
    match kind {
        EventKind::ReadOnly(_) | EventKind::FlushFailed(_) | EventKind::Failed(_) => {
            tracing::error!(clone = name, event = number, "{kind}");
        }
        EventKind::HydrationStopped { .. } | EventKind::SourceChanged { .. } => {
            tracing::warn!(clone = name, event = number, "{kind}");
        }
        _ => tracing::info!(clone = name, event = number, "{kind}"),
    }
}
