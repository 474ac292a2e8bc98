//! The clones of a daemon.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow};
use clone_tools::output::replace;
use clone_tools::small_file;
use thiserror::Error;

pub use self::hosted::Hosted;
use crate::clonetab::{self, Entry};
use crate::opening::Plan;
use crate::source::SourceOptions;
use crate::spec::CloneSpec;
use crate::volume::{Volume, Volumes};

mod hosted;

/// What serves clones to others.
pub trait Exporter: Send + Sync {
    /// Finds out whether a clone called `name` could be served, before anything is made for it.
    ///
    /// # Errors
    /// Why it could not.
    fn check(&self, name: &str) -> Result<()> {
        let _ = name;
        Ok(())
    }

    /// Serves one more clone. Returns where it can be found, for people.
    ///
    /// # Errors
    /// Why it cannot be served.
    fn add(&self, volume: &Arc<Volume>) -> Result<Vec<String>>;

    /// Serves it no more, and ends the connections to it.
    ///
    /// # Errors
    /// Why it cannot be withdrawn: then it is served as before.
    fn remove(&self, volume: &Arc<Volume>) -> Result<()>;
}

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

/// Where a clone is in its life.
enum Slot {
    /// It is being set up or taken down.
    Busy,
    Runs(Arc<Hosted>),
}

/// All clones of a daemon.
///
/// *Invariant:* the lock on the clones is not held while a device or a network is waited for.
pub struct Host {
    clones: Mutex<BTreeMap<String, Slot>>,
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
            clones: Mutex::default(),
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
        self.exporters.lock().unwrap_or_else(PoisonError::into_inner).push(exporter);
    }

    /// The clones that run, by name.
    pub fn list(&self) -> Vec<Arc<Hosted>> {
        let running = |slot: &Slot| match slot {
            Slot::Runs(hosted) => Some(hosted.clone()),
            Slot::Busy => None,
        };
        self.clones().values().filter_map(running).collect()
    }

    /// The clone called `name`, if it runs.
    pub fn find(&self, name: &str) -> Option<Arc<Hosted>> {
        match self.clones().get(name)? {
            Slot::Runs(hosted) => Some(hosted.clone()),
            Slot::Busy => None,
        }
    }

    /// The clone called `name`.
    ///
    /// # Errors
    /// [`HostError::NoSuch`] and [`HostError::Busy`].
    pub fn get(&self, name: &str) -> Result<Arc<Hosted>, HostError> {
        let clones = self.clones();
        match clones.get(name) {
            Some(Slot::Runs(hosted)) => Ok(hosted.clone()),
            Some(Slot::Busy) => Err(HostError::Busy(name.to_owned())),
            None => {
                let there = clones.keys().cloned().collect();
                Err(HostError::NoSuch { name: name.to_owned(), there })
            }
        }
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
        let name = spec.name.clone();
        match self.clones().entry(name.clone()) {
            Place::Occupied(_) => return Err(HostError::Exists(name)),
            Place::Vacant(place) => drop(place.insert(Slot::Busy)),
        }
        let started = self.start_reserved(spec, line);
        let mut clones = self.clones();
        match &started {
            Ok(hosted) => clones.insert(name, Slot::Runs(hosted.clone())),
            Err(_) => clones.remove(&name),
        };
        drop(clones);
        Ok(started?)
    }

    fn start_reserved(&self, spec: CloneSpec, line: Option<String>) -> Result<Arc<Hosted>> {
        let plan = Plan::make(spec, &self.source)?;
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
                    return Err(error);
                }
            }
        }
        tracing::info!(clone = hosted.name(), "{}", hosted.summary());
        Ok(hosted)
    }

    /// Takes a clone down: what is under way is ended, flushed and committed.
    ///
    /// # Errors
    /// [`HostError`]. If it could not be withdrawn from where it is served it runs on; if its last
    /// commit failed it is gone all the same.
    pub fn remove(&self, name: &str) -> Result<(), HostError> {
        let hosted = self.get(name)?;
        match self.clones().insert(name.to_owned(), Slot::Busy) {
            Some(Slot::Runs(there)) if Arc::ptr_eq(&there, &hosted) => {}
            _ => return Err(HostError::Busy(name.to_owned())),
        }
        for exporter in self.exporters() {
            if let Err(error) = exporter.remove(hosted.volume()) {
                self.clones().insert(name.to_owned(), Slot::Runs(hosted));
                return Err(error.into());
            }
        }
        let ended = self.end(&hosted);
        self.clones().remove(name);
        Ok(ended?)
    }

    /// Ends a clone that is served no more.
    fn end(&self, hosted: &Hosted) -> Result<()> {
        let recorded = hosted.write_record();
        match hosted.end() {
            None => tracing::info!(clone = hosted.name(), "stopped"),
            Some(failure) => {
                return Err(anyhow!("{}: not all of it is committed: {failure}", hosted.name()));
            }
        }
        recorded
    }

    /// Ends all clones. Requests that come later fail.
    ///
    /// # Errors
    /// The first that came of one, after all have been ended.
    pub fn stop(&self) -> Result<()> {
        let mut outcome = Ok(());
        for hosted in self.list() {
            withdraw(&self.exporters(), &hosted);
            outcome = outcome.and(self.end(&hosted));
            self.clones().remove(hosted.name());
        }
        outcome
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
                None => match self.remove(&name) {
                    Ok(()) => told.removed.push(name),
                    Err(error) => told.failed.push((name, error.to_string())),
                },
            }
        }
        for Entry { spec, text, .. } in entries {
            let name = spec.name.clone();
            if self.clones().contains_key(&name) {
                continue;
            }
            match self.start(spec, Some(text)) {
                Ok(_) => told.added.push(name),
                Err(error) => told.failed.push((name, error.to_string())),
            }
        }
        Ok(told)
    }

    fn clones(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.clones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exporters(&self) -> Vec<Arc<dyn Exporter>> {
        self.exporters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
