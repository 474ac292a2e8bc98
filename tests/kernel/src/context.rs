//! The environment of a scenario.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::content;
use crate::kernel::Kernel;
use crate::tools::Tools;
use crate::vm::Vm;

/// A scenario: one question that a kernel answers.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name of the scenario and of its file.
    pub name: &'static str,
    /// The statement that it proves, as a sentence.
    pub shows: &'static str,
    /// Runs the scenario. Fails with the disagreement between the kernel and the tools.
    pub run: fn(&Context<'_>) -> Result<()>,
}

/// The environment of a scenario.
pub struct Context<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The project's programs.
    pub tools: &'a Tools,
    /// Seed of all random choices.
    pub seed: u64,
    /// Folder of the scenario's files. It is kept if the scenario fails.
    pub folder: PathBuf,
    vms: Cell<u32>,
    said: RefCell<Vec<String>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(kernel: &'a Kernel, tools: &'a Tools, seed: u64, folder: PathBuf) -> Self {
        Self { kernel, tools, seed, folder, vms: Cell::default(), said: RefCell::default() }
    }

    /// Starts a new guest. Its console is kept in the scenario's folder.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn vm(&self) -> Result<Vm> {
        self.vms.set(self.vms.get() + 1);
        Vm::start(self.kernel, &self.folder.join(format!("vm-{}", self.vms.get())))
    }

    /// Returns a random number generator, a different one for each `salt`.
    pub fn rng(&self, salt: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt)
    }

    /// Returns the path of the file `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Creates a sparse file of `sectors` zero sectors.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn empty(&self, name: &str, sectors: u64) -> Result<PathBuf> {
        let path = self.path(name);
        let bytes = sectors.checked_mul(content::SECTOR).context("a size")?;
        File::create(&path)?.set_len(bytes)?;
        Ok(path)
    }

    /// Creates a file of `sectors` sectors, each with the [content](mod@content) of `seed`.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn filled(&self, name: &str, seed: u64, sectors: u64) -> Result<PathBuf> {
        let path = self.path(name);
        content::write_sectors(&path, &vec![seed; usize::try_from(sectors)?])?;
        Ok(path)
    }

    /// Copies a file, with its holes.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn copy(&self, from: &Path, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let copied = std::process::Command::new("cp")
            .args(["--sparse=always", "--"])
            .args([from, &path])
            .status()?;
        anyhow::ensure!(copied.success(), "cp {}: {copied}", from.display());
        Ok(path)
    }

    /// Reports a fact that is worth printing even if the scenario passes.
    pub fn say(&self, what: impl Display) {
        self.said.borrow_mut().push(what.to_string());
    }

    pub(crate) fn said(&self) -> Vec<String> {
        self.said.take()
    }
}
