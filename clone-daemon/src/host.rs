//! The clones of a daemon.
//!
//! A [`Host`] starts clones through [`setup`], hands them to its
//! [exporters](Exporter), and stops them. [`daemon`](crate::daemon) and [`control`](crate::control)
//! call it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder};

use anyhow::{Context, Result, anyhow};
use clone_tools::common::output::replace;
use clone_tools::common::small_file;
use thiserror::Error;

pub use self::served_clone::ServedClone;
use self::slots::{Reserved, Slots};
use crate::config::clone_spec::CloneSpec;
use crate::config::clonetab::{self, Entry};
use crate::export::exporter::Exporter;
use crate::export::volume::{Volume, Volumes};
use crate::host::setup::Plan;
use crate::source::SourceOptions;
use clone_core::sync::lock;

mod served_clone;
pub mod setup;
mod slots;

/// An error of an operation on a clone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HostError {
    /// No clone has this name.
    #[error("there is no clone {name:?}; {}", names_in(.there))]
    NoSuch {
        /// The name.
        name: String,
        /// The names that exist.
        there: Vec<String>,
    },
    /// A clone with this name exists already.
    #[error("the clone {0:?} already exists")]
    Exists(String),
    /// The clone is being set up or taken down.
    #[error("the clone {0:?} is being set up or taken down; try again when that is done")]
    Busy(String),
    /// The daemon is stopping.
    #[error("the daemon is being stopped")]
    Stopping,
    /// The daemon has no clonetab to reload.
    #[error("this daemon has no clonetab: it was started with `cloned run`")]
    NoTable,
    /// The operation failed.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

// The text already contains the causes: a `source` would print them twice.
impl From<anyhow::Error> for HostError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

fn names_in(names: &[String]) -> String {
    match names {
        [] => "there are no clones".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    }
}

/// The result of reloading the clonetab.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// Clones that were set up.
    pub added: Vec<String>,
    /// Clones that were taken down.
    pub removed: Vec<String>,
    /// Clones whose lines have changed. They keep running unchanged.
    pub changed: Vec<String>,
    /// Failed operations: clone names and reasons.
    pub failed: Vec<(String, String)>,
}

/// All clones of a daemon.
///
/// *Invariant:* the lock on the clones is never held while waiting for a device or the network.
pub struct Host {
    slots: Arc<Slots>,
    exporters: Mutex<Vec<Arc<dyn Exporter>>>,
    source: SourceOptions,
    clonetab: Option<PathBuf>,
    /// Held during a reload.
    reloading: Mutex<()>,
}

/// Maximum size of a clonetab in bytes.
const CLONETAB_MAX: u64 = 16 << 20;

impl Host {
    /// Creates a host without clones. [`reload`](Self::reload) sets up those of `clonetab`.
    pub fn new(source: SourceOptions, clonetab: Option<PathBuf>) -> Self {
        Self {
            slots: Arc::default(),
            exporters: Mutex::default(),
            source,
            clonetab,
            reloading: Mutex::default(),
        }
    }

    /// Returns whether the host has a clonetab.
    pub fn has_table(&self) -> bool {
        self.clonetab.is_some()
    }

    /// Adds an exporter for clones that are set up from now on.
    pub fn add_exporter(&self, exporter: Arc<dyn Exporter>) {
        lock(&self.exporters).push(exporter);
    }

    /// Returns the running clones, sorted by name.
    pub fn list(&self) -> Vec<Arc<ServedClone>> {
        self.slots.list()
    }

    /// Returns the running clone called `name`.
    pub fn find(&self, name: &str) -> Option<Arc<ServedClone>> {
        self.slots.get(name).ok()
    }

    /// Returns the running clone called `name`.
    ///
    /// # Errors
    /// [`HostError::NoSuch`] if no clone has the name; [`HostError::Busy`] if it is being set up or
    /// taken down.
    pub fn get(&self, name: &str) -> Result<Arc<ServedClone>, HostError> {
        self.slots.get(name)
    }

    /// Sets up the clone that a clonetab line describes.
    ///
    /// # Errors
    /// As [`start`](Self::start); [`HostError::Failed`] also for an invalid or empty line.
    pub fn create(&self, line: &str) -> Result<Arc<ServedClone>, HostError> {
        let entry = clonetab::parse_line(1, line).map_err(anyhow::Error::from)?;
        let entry = entry.context("an empty line is not a clone")?;
        self.start(entry.spec, None)
    }

    /// Sets up a clone and exports it. `line` is its clonetab line, if it has one.
    ///
    /// # Errors
    /// [`HostError::Exists`] or [`HostError::Busy`] if the name is taken, [`HostError::Stopping`]
    /// if the daemon is stopping, [`HostError::Failed`] for everything else. On error no new clone
    /// runs.
    pub fn start(
        &self,
        spec: CloneSpec,
        line: Option<String>,
    ) -> Result<Arc<ServedClone>, HostError> {
        let reserved = self.slots.reserve(&spec.name)?;
        let served = self.start_reserved(spec, line)?;
        reserved.fill(served.clone());
        Ok(served)
    }

    fn start_reserved(
        &self,
        spec: CloneSpec,
        line: Option<String>,
    ) -> Result<Arc<ServedClone>, HostError> {
        // Planning changes nothing, so it can be abandoned.
        let options = self.source.clone();
        let plan = self.slots.unless_stopping(move || Plan::make(spec, &options))??;
        if plan.overwrites() {
            tracing::warn!(
                clone = plan.spec().name,
                "the metadata is new: the data on {} will be overwritten",
                plan.spec().destination.display()
            );
        }
        let exporters = self.exporters();
        for exporter in &exporters {
            exporter.check(&plan.spec().name)?;
        }
        let served = Arc::new(ServedClone::start(plan.carry_out()?, line)?);
        for (at, exporter) in exporters.iter().enumerate() {
            match exporter.add(served.volume()) {
                Ok(places) => served.add_exports(places),
                Err(error) => {
                    withdraw(&exporters[..at], &served);
                    served.end();
                    return Err(error.into());
                }
            }
        }
        tracing::info!(clone = served.name(), "{}", served.summary());
        Ok(served)
    }

    /// Takes a clone down: operations in flight end, and the clone is flushed and committed.
    /// Afterwards its metadata and destination can be opened again. A remote source that does not
    /// answer is abandoned after 5 s.
    ///
    /// # Errors
    /// [`HostError::NoSuch`] and [`HostError::Busy`] as for [`get`](Self::get).
    /// [`HostError::Failed`] if an export cannot be withdrawn, in which case the clone keeps
    /// running; or if its last commit or its trace file fails, in which case the clone is gone
    /// anyway.
    pub fn remove(&self, name: &str) -> Result<(), HostError> {
        self.remove_exactly(name, None)
    }

    fn remove_exactly(&self, name: &str, only: Option<&Arc<ServedClone>>) -> Result<(), HostError> {
        let (reserved, served) = self.slots.take(name, only)?;
        for exporter in self.exporters() {
            if let Err(error) = exporter.remove(served.volume()) {
                reserved.fill(served);
                return Err(error.into());
            }
        }
        Ok(end(reserved, &served)?)
    }

    /// Begins to stop the daemon. No clone can be set up from now on, and setups that have not
    /// created anything yet are abandoned. Clones stop hydrating and can no longer be suspended,
    /// resumed or changed; remote sources have 5 s left to answer. Clients are served until
    /// [`stop`](Self::stop).
    pub fn begin_stop(&self) {
        self.slots.begin_stop();
        for served in self.list() {
            served.begin_end();
        }
    }

    /// Stops all clones in parallel. Later requests fail. Waits for clones that are being set up or
    /// taken down, so no clone is left when this returns.
    ///
    /// # Errors
    /// The first error of a clone, after all clones have been stopped.
    pub fn stop(&self) -> Result<()> {
        self.begin_stop();
        let mut outcome = Ok(());
        loop {
            let taken = self.slots.take_all();
            if taken.is_empty() {
                return outcome;
            }
            for ended in self.end_all(taken) {
                outcome = outcome.and(ended);
            }
        }
    }

    fn end_all(&self, clones: Vec<(Reserved, Arc<ServedClone>)>) -> Vec<Result<()>> {
        let exporters = self.exporters();
        let outcomes = Mutex::new(Vec::new());
        let clones = Mutex::new(clones.into_iter());
        let count = lock(&clones).len();
        let work = || {
            loop {
                // The lock is released before the clone is stopped.
                let Some((reserved, served)) = lock(&clones).next() else { return };
                withdraw(&exporters, &served);
                let ended = end(reserved, &served);
                lock(&outcomes).push(ended);
            }
        };
        thread::scope(|scope| {
            for _ in 1..count {
                // With fewer threads it takes longer; the current thread always works.
                if Builder::new().name("clone-stop".into()).spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reloads the clonetab: sets up added clones and takes down removed ones. Clones that are not
    /// from the table and clones whose lines have changed are left alone.
    ///
    /// # Errors
    /// [`HostError::NoTable`] without a clonetab; [`HostError::Failed`] if it cannot be read or
    /// parsed, in which case nothing has changed. Failures of single clones are in
    /// [`Reloaded::failed`].
    pub fn reload(&self) -> Result<Reloaded, HostError> {
        let _one = lock(&self.reloading);
        let path = self.clonetab.as_deref().ok_or(HostError::NoTable)?;
        let entries = read_table(path)?;
        let mut reloaded = Reloaded::default();
        for served in self.list() {
            let Some(line) = served.line() else { continue };
            let name = served.name().to_owned();
            match entries.iter().find(|entry| entry.spec.name == name) {
                Some(entry) if entry.text == line => {}
                Some(_) => reloaded.changed.push(name),
                None => match self.remove_exactly(&name, Some(&served)) {
                    Ok(()) => reloaded.removed.push(name),
                    Err(error) => reloaded.failed.push((name, error.to_string())),
                },
            }
        }
        for Entry { spec, text, .. } in entries {
            let name = spec.name.clone();
            match self.start(spec, Some(text)) {
                Ok(_) => reloaded.added.push(name),
                // The clone is running already.
                Err(HostError::Exists(_)) => {}
                Err(error) => reloaded.failed.push((name, error.to_string())),
            }
        }
        Ok(reloaded)
    }

    fn exporters(&self) -> Vec<Arc<dyn Exporter>> {
        lock(&self.exporters).clone()
    }
}

/// Stops a clone that is no longer exported, then releases its name.
fn end(_name: Reserved, served: &ServedClone) -> Result<()> {
    let failure = served.end();
    // A trace file that cannot be written must not prevent the commit.
    let recorded = served.write_record();
    match failure {
        None => tracing::info!(clone = served.name(), "stopped"),
        Some(failure) => {
            return Err(anyhow!("{}: not everything is committed: {failure}", served.name()));
        }
    }
    recorded
}

/// Withdraws a clone from all exporters. Failures are only logged.
fn withdraw(exporters: &[Arc<dyn Exporter>], served: &ServedClone) {
    for exporter in exporters {
        if let Err(error) = exporter.remove(served.volume()) {
            tracing::warn!(clone = served.name(), "{error:#}");
        }
    }
}

/// Reads and parses a clonetab.
///
/// # Errors
/// The file cannot be read or is larger than 16 MiB, or a line is invalid ([`clonetab::TabError`]).
pub fn read_table(path: &Path) -> Result<Vec<Entry>> {
    let name = path.display();
    let text = small_file::read_text(path, CLONETAB_MAX)
        .with_context(|| format!("cannot read the table {name}"))?;
    clonetab::parse(&text).with_context(|| name.to_string())
}

impl Volumes for Host {
    fn names(&self) -> Vec<String> {
        self.list().iter().map(|served| served.name().to_owned()).collect()
    }

    fn find(&self, name: &str) -> Option<Arc<Volume>> {
        if name.is_empty() {
            let all = self.list();
            let [only] = &all[..] else { return None };
            return Some(only.volume().clone());
        }
        Some(Self::find(self, name)?.volume().clone())
    }
}

/// Replaces the file at `path` with `text`.
fn write_file(path: &Path, text: &str) -> Result<()> {
    replace(path, |mut file| file.write_all(text.as_bytes()).map_err(anyhow::Error::from))
        .with_context(|| format!("cannot write {}", path.display()))
}
