//! The project's programs, as their users run them.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::guest::Status;
use crate::script::runs;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Tools {
    folder: PathBuf,
}

/// What a program did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// What `clone_check --json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    /// The exit code.
    #[serde(skip)]
    pub code: i32,
    /// The sizes.
    pub superblock: Option<Superblock>,
    /// How many regions are hydrated.
    pub hydrated: Option<u64>,
    /// How much of the metadata device is in use.
    pub metadata_blocks: Option<MetadataBlocks>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// The sizes that a superblock holds.
#[derive(Clone, Debug, Deserialize)]
pub struct Superblock {
    /// In sectors.
    pub region_size: u64,
    /// In sectors.
    pub target_size: u64,
    /// How many regions there are.
    pub nr_regions: u64,
}

/// Use of a metadata device, in blocks.
#[derive(Clone, Debug, Deserialize)]
pub struct MetadataBlocks {
    /// All.
    pub total: u64,
    /// In use.
    pub used: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Deserialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: String,
    /// Its permanent name.
    pub kind: String,
    /// It in words.
    pub message: String,
}

impl Check {
    /// Figures as a status line has them: metadata blocks, and regions.
    ///
    /// # Errors
    /// When the metadata is too damaged to have any.
    pub fn figures(&self) -> Result<((u64, u64), (u64, u64))> {
        let blocks = self.metadata_blocks.as_ref().context("no figures of metadata blocks")?;
        let superblock = self.superblock.as_ref().context("no superblock")?;
        let hydrated = self.hydrated.context("no figure of hydrated regions")?;
        Ok(((blocks.used, blocks.total), (hydrated, superblock.nr_regions)))
    }

    /// The permanent names of what is wrong, each once.
    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = self.problems.iter().map(|problem| &*problem.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Whether it is what a kernel must not be given.
    pub fn is_fatal(&self) -> bool {
        self.code == 1
    }
}

#[derive(Deserialize)]
struct Dump {
    runs: Vec<(u64, u64)>,
}

impl Tools {
    /// The programs in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The program `name`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs the program `name`.
    ///
    /// # Errors
    /// When it cannot be run, or a signal ends it. An exit code is no error.
    pub fn try_run<A: AsRef<OsStr>>(&self, name: &str, arguments: &[A]) -> Result<Ran> {
        let program = self.program(name);
        let output = Command::new(&program)
            .args(arguments)
            .output()
            .with_context(|| program.display().to_string())?;
        let code = output.status.code().with_context(|| format!("{name}: {}", output.status))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran { code, stdout: text(&output.stdout), stderr: text(&output.stderr) })
    }

    /// Runs the program `name`, which must succeed, and gives what it printed.
    ///
    /// # Errors
    /// What it complained about.
    pub fn run<A: AsRef<OsStr>>(&self, name: &str, arguments: &[A]) -> Result<String> {
        let ran = self.try_run(name, arguments)?;
        ensure!(ran.code == 0, "{name} ended with {}: {}", ran.code, ran.stderr);
        Ok(ran.stdout)
    }

    /// Checks metadata, whatever state it is in.
    ///
    /// # Errors
    /// When `clone_check` says something that is no verdict.
    pub fn check(&self, metadata: &Path) -> Result<Check> {
        let ran = self.try_run("clone_check", &["--json".as_ref(), metadata.as_os_str()])?;
        let check: Check = serde_json::from_str(&ran.stdout)
            .with_context(|| format!("clone_check ended with {}: {}", ran.code, ran.stderr))?;
        Ok(Check { code: ran.code, ..check })
    }

    /// Checks metadata that must be sound, without the least trouble.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn sound(&self, metadata: &Path) -> Result<Check> {
        let check = self.check(metadata)?;
        ensure!(check.code == 0, "{}: clone_check says {:?}", metadata.display(), check.problems);
        Ok(check)
    }

    /// Whether metadata is sound, and `clone_check` has the figures of the kernel's status line,
    /// which must be that of a clone that can be written to.
    ///
    /// # Errors
    /// What they do not agree on.
    pub fn expect_status(&self, metadata: &Path, status: &Status) -> Result<()> {
        let figures = self.sound(metadata)?.figures()?;
        ensure!(
            figures == (status.metadata, status.regions) && status.mode == "rw",
            "the status is {:?}, clone_check says {figures:?}",
            status.line
        );
        Ok(())
    }

    /// Whether `clone_dump` says that exactly these regions are hydrated.
    ///
    /// # Errors
    /// What it says instead.
    pub fn expect_hydrated(&self, metadata: &Path, hydrated: &[bool]) -> Result<()> {
        let (expected, dumped) = (runs(hydrated), self.dump(metadata)?);
        ensure!(
            dumped == expected,
            "hydrated should be {expected:?}, and clone_dump says {dumped:?}"
        );
        Ok(())
    }

    /// The hydrated regions, in maximal runs, half-open.
    ///
    /// # Errors
    /// When `clone_dump` refuses the metadata.
    pub fn dump(&self, metadata: &Path) -> Result<Vec<Range<u64>>> {
        let arguments = ["--format".as_ref(), "json".as_ref(), metadata.as_os_str()];
        let dump: Dump = serde_json::from_str(&self.run("clone_dump", &arguments)?)?;
        Ok(dump.runs.into_iter().map(|(begin, end)| begin..end).collect())
    }
}
