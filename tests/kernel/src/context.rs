//! What a scenario has to work with.

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

/// A scenario: one thing that a kernel is asked to judge.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// As its file is named.
    pub name: &'static str,
    /// What it shows, as a sentence.
    pub shows: &'static str,
    /// Fails with what the kernel and the tools do not agree on.
    pub run: fn(&Context<'_>) -> Result<()>,
}

/// What a scenario has to work with.
pub struct Context<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The project's programs.
    pub tools: &'a Tools,
    /// What random choices begin with.
    pub seed: u64,
    /// Where its files are. They are kept if it fails.
    pub folder: PathBuf,
    vms: Cell<u32>,
    said: RefCell<Vec<String>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(kernel: &'a Kernel, tools: &'a Tools, seed: u64, folder: PathBuf) -> Self {
        Self { kernel, tools, seed, folder, vms: Cell::default(), said: RefCell::default() }
    }

    /// A kernel of one's own. Its console is kept in the scenario's folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn vm(&self) -> Result<Vm> {
        self.vms.set(self.vms.get() + 1);
        Vm::start(self.kernel, &self.folder.join(format!("vm-{}", self.vms.get())))
    }

    /// Random numbers, other ones for each `salt`.
    pub fn rng(&self, salt: u64) -> StdRng {
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt)
    }

    /// Where the file `name` is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A file of `sectors` sectors of zeroes, which takes no room.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn empty(&self, name: &str, sectors: u64) -> Result<PathBuf> {
        let path = self.path(name);
        let bytes = sectors.checked_mul(content::SECTOR).context("a size")?;
        File::create(&path)?.set_len(bytes)?;
        Ok(path)
    }

    /// A file of `sectors` sectors, each with [content](mod@content) of `seed`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn filled(&self, name: &str, seed: u64, sectors: u64) -> Result<PathBuf> {
        let path = self.path(name);
        content::write_sectors(&path, &vec![seed; usize::try_from(sectors)?])?;
        Ok(path)
    }

    /// A copy of a file, with its holes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn copy(&self, from: &Path, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let copied = std::process::Command::new("cp")
            .args(["--sparse=always", "--"])
            .args([from, &path])
            .status()?;
        anyhow::ensure!(copied.success(), "cp {}: {copied}", from.display());
        Ok(path)
    }

    /// Tells something that is worth knowing also if all is well.
    pub fn say(&self, what: impl Display) {
        self.said.borrow_mut().push(what.to_string());
    }

    pub(crate) fn said(&self) -> Vec<String> {
        self.said.take()
    }
}
