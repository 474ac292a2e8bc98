//! The clones of a daemon.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder};

use anyhow::{Context, Result, anyhow};
use clone_tools::common::output::replace;
use clone_tools::common::small_file;
use thiserror::Error;

pub use self::served_clone::Hosted;
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

/// Why something could not be done with a clone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HostError {
    /// There is none of that name.
    #[error("there is no clone {name:?}; {}", names_in(.there))]
    NoSuch {
        /// The name.
        name: String,
        /// The names that there are.
        there: Vec<String>,
    },
    /// There is one of that name.
    #[error("there is a clone {0:?} already")]
    Exists(String),
    /// It is being set up or taken down.
    #[error("the clone {0:?} is being set up or taken down; try again when that is done")]
    Busy(String),
    /// The daemon stops.
    #[error("the daemon is being stopped")]
    Stopping,
    /// There is no table of clones to read again.
    #[error("this daemon has no clonetab: it was started with `cloned run`")]
    NoTable,
    /// What was tried failed.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

// Its causes are in its text: as its source they would be told twice.
impl From<anyhow::Error> for HostError {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

fn names_in(names: &[String]) -> String {
    match names {
        [] => "there is none at all".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    }
}

/// What came of reading the table of clones again.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// Clones that were set up.
    pub added: Vec<String>,
    /// Clones that were taken down.
    pub removed: Vec<String>,
    /// Clones whose lines have changed. They go on as they were.
    pub changed: Vec<String>,
    /// What could not be done, and why: names and reasons.
    pub failed: Vec<(String, String)>,
}

/// All clones of a daemon.
///
/// *Invariant:* the lock on the clones is not held while a device or a network is waited for.
pub struct Host {
    slots: Arc<Slots>,
    exporters: Mutex<Vec<Arc<dyn Exporter>>>,
    source: SourceOptions,
    clonetab: Option<PathBuf>,
    /// Held while the table is read again.
    reloading: Mutex<()>,
}

/// The most bytes of a table of clones.
const CLONETAB_MAX: u64 = 16 << 20;

impl Host {
    /// No clones yet; those of `clonetab` are set up by [`reload`](Self::reload).
    pub fn new(source: SourceOptions, clonetab: Option<PathBuf>) -> Self {
        Self {
            slots: Arc::default(),
            exporters: Mutex::default(),
            source,
            clonetab,
            reloading: Mutex::default(),
        }
    }

    /// Whether it has a table of clones.
    pub fn has_table(&self) -> bool {
        self.clonetab.is_some()
    }

    /// Has clones that are set up from now on served by `exporter` too.
    pub fn add_exporter(&self, exporter: Arc<dyn Exporter>) {
        lock(&self.exporters).push(exporter);
    }

    /// The clones that run, by name.
    pub fn list(&self) -> Vec<Arc<Hosted>> {
        self.slots.list()
    }

    /// The clone called `name`, if it runs.
    pub fn find(&self, name: &str) -> Option<Arc<Hosted>> {
        self.slots.get(name).ok()
    }

    /// The clone called `name`.
    ///
    /// # Errors
    /// [`HostError::NoSuch`] and [`HostError::Busy`].
    pub fn get(&self, name: &str) -> Result<Arc<Hosted>, HostError> {
        self.slots.get(name)
    }

    /// Sets up the clone of a line of a clonetab.
    ///
    /// # Errors
    /// [`HostError`]. Nothing runs then that did not before.
    pub fn create(&self, line: &str) -> Result<Arc<Hosted>, HostError> {
        let entry = clonetab::parse_line(1, line).map_err(anyhow::Error::from)?;
        let entry = entry.context("an empty line makes no clone")?;
        self.start(entry.spec, None)
    }

    /// Sets up a clone.
    ///
    /// # Errors
    /// [`HostError`]. Nothing runs then that did not before.
    pub fn start(&self, spec: CloneSpec, line: Option<String>) -> Result<Arc<Hosted>, HostError> {
        let reserved = self.slots.reserve(&spec.name)?;
        let hosted = self.start_reserved(spec, line)?;
        reserved.fill(hosted.clone());
        Ok(hosted)
    }

    fn start_reserved(
        &self,
        spec: CloneSpec,
        line: Option<String>,
    ) -> Result<Arc<Hosted>, HostError> {
        // Nothing is changed by that, so it can be left unfinished.
        let options = self.source.clone();
        let plan = self.slots.unless_stopping(move || Plan::make(spec, &options))??;
        if plan.overwrites() {
            tracing::warn!(
                clone = plan.spec().name,
                "the metadata is new: what {} holds will be overwritten",
                plan.spec().destination.display()
            );
        }
        let exporters = self.exporters();
        for exporter in &exporters {
            exporter.check(&plan.spec().name)?;
        }
        let hosted = Arc::new(Hosted::start(plan.carry_out()?, line)?);
        for (at, exporter) in exporters.iter().enumerate() {
            match exporter.add(hosted.volume()) {
                Ok(places) => hosted.add_exports(places),
                Err(error) => {
                    withdraw(&exporters[..at], &hosted);
                    hosted.end();
                    return Err(error.into());
                }
            }
        }
        tracing::info!(clone = hosted.name(), "{}", hosted.summary());
        Ok(hosted)
    }

    /// Takes a clone down: what is under way is ended, flushed and committed. When this returns,
    /// its metadata and its destination can be opened again. A source across a network that does
    /// not answer is given up after 5 s.
    ///
    /// # Errors
    /// [`HostError`]. If it could not be withdrawn from where it is served it runs on; if its last
    /// commit failed it is gone all the same.
    pub fn remove(&self, name: &str) -> Result<(), HostError> {
        self.remove_exactly(name, None)
    }

    fn remove_exactly(&self, name: &str, only: Option<&Arc<Hosted>>) -> Result<(), HostError> {
        let (reserved, hosted) = self.slots.take(name, only)?;
        for exporter in self.exporters() {
            if let Err(error) = exporter.remove(hosted.volume()) {
                reserved.fill(hosted);
                return Err(error.into());
            }
        }
        Ok(end(reserved, &hosted)?)
    }

    /// From now on no clone is set up, and what is being set up is given up where nothing has been
    /// made yet. Clones stop hydrating, and cannot be suspended, resumed or changed any more;
    /// sources across a network have 5 s left to answer. Users are served until
    /// [`stop`](Self::stop).
    pub fn begin_stop(&self) {
        self.slots.begin_stop();
        for hosted in self.list() {
            hosted.begin_end();
        }
    }

    /// Ends all clones, at the same time. Requests that come later fail. Clones that are being set
    /// up or taken down are waited for, and so there is none when this returns.
    ///
    /// # Errors
    /// The first that came of one, after all have been ended.
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

    fn end_all(&self, clones: Vec<(Reserved, Arc<Hosted>)>) -> Vec<Result<()>> {
        let exporters = self.exporters();
        let outcomes = Mutex::new(Vec::new());
        let clones = Mutex::new(clones.into_iter());
        let count = lock(&clones).len();
        let work = || {
            loop {
                // Not held while it is ended.
                let Some((reserved, hosted)) = lock(&clones).next() else { return };
                withdraw(&exporters, &hosted);
                let ended = end(reserved, &hosted);
                lock(&outcomes).push(ended);
            }
        };
        thread::scope(|scope| {
            for _ in 1..count {
                // With fewer threads it takes longer, and this one is left in any case.
                if Builder::new().name("stop".into()).spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the table of clones again: sets up what was added, and takes down what was removed.
    /// Clones that are not from the table are left alone, and so are those whose lines have
    /// changed.
    ///
    /// # Errors
    /// [`HostError::NoTable`], and that the table cannot be read: then nothing has changed.
    pub fn reload(&self) -> Result<Reloaded, HostError> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.clonetab.as_deref().ok_or(HostError::NoTable)?;
        let entries = read_table(path)?;
        let mut told = Reloaded::default();
        for hosted in self.list() {
            let Some(line) = hosted.line() else { continue };
            let name = hosted.name().to_owned();
            match entries.iter().find(|entry| entry.spec.name == name) {
                Some(entry) if entry.text == line => {}
                Some(_) => told.changed.push(name),
                None => match self.remove_exactly(&name, Some(&hosted)) {
                    Ok(()) => told.removed.push(name),
                    Err(error) => told.failed.push((name, error.to_string())),
                },
            }
        }
        for Entry { spec, text, .. } in entries {
            let name = spec.name.clone();
            match self.start(spec, Some(text)) {
                Ok(_) => told.added.push(name),
                // It goes on as it was.
                Err(HostError::Exists(_)) => {}
                Err(error) => told.failed.push((name, error.to_string())),
            }
        }
        Ok(told)
    }

    fn exporters(&self) -> Vec<Arc<dyn Exporter>> {
        lock(&self.exporters).clone()
    }
}

/// Ends a clone that is served no more, and then gives its name back.
fn end(_name: Reserved, hosted: &Hosted) -> Result<()> {
    let failure = hosted.end();
    // A file that cannot be written must not keep what is hydrated from being committed.
    let recorded = hosted.write_record();
    match failure {
        None => tracing::info!(clone = hosted.name(), "stopped"),
        Some(failure) => {
            return Err(anyhow!("{}: not all of it is committed: {failure}", hosted.name()));
        }
    }
    recorded
}

/// Has a clone served no more, whatever stands against it.
fn withdraw(exporters: &[Arc<dyn Exporter>], hosted: &Hosted) {
    for exporter in exporters {
        if let Err(error) = exporter.remove(hosted.volume()) {
            tracing::warn!(clone = hosted.name(), "{error:#}");
        }
    }
}

/// Reads a table of clones.
///
/// # Errors
/// That it cannot be read, or which line is wrong.
pub fn read_table(path: &Path) -> Result<Vec<Entry>> {
    let name = path.display();
    let text = small_file::read_text(path, CLONETAB_MAX)
        .with_context(|| format!("cannot read the table {name}"))?;
    clonetab::parse(&text).with_context(|| name.to_string())
}

impl Volumes for Host {
    fn names(&self) -> Vec<String> {
        self.list().iter().map(|hosted| hosted.name().to_owned()).collect()
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

/// Writes `text` in the place of the file at `path`.
fn write_file(path: &Path, text: &str) -> Result<()> {
    replace(path, |mut file| file.write_all(text.as_bytes()).map_err(anyhow::Error::from))
        .with_context(|| format!("cannot write {}", path.display()))
}
