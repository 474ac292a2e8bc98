//! The project's programs, run like by their users.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::guest::Status;
use crate::script::runs;

/// The folder of the programs.
#[derive(Clone, Debug)]
pub struct Tools {
    folder: PathBuf,
}

/// The result of a program.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Output of `clone_check --json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    /// The exit code.
    #[serde(skip)]
    pub code: i32,
    /// The sizes, if the superblock could be read.
    pub superblock: Option<Superblock>,
    /// Number of hydrated regions.
    pub hydrated: Option<u64>,
    /// Block usage of the metadata device.
    pub metadata_blocks: Option<MetadataBlocks>,
    /// The problems found.
    pub problems: Vec<Problem>,
}

/// The sizes in a superblock.
#[derive(Clone, Debug, Deserialize)]
pub struct Superblock {
    /// Region size in sectors.
    pub region_size: u64,
    /// Target size in sectors.
    pub target_size: u64,
    /// Number of regions.
    pub nr_regions: u64,
}

/// Usage of a metadata device, in blocks.
#[derive(Clone, Debug, Deserialize)]
pub struct MetadataBlocks {
    /// Number of blocks.
    pub total: u64,
    /// Number of blocks in use.
    pub used: u64,
}

/// A problem in metadata.
#[derive(Clone, Debug, Deserialize)]
pub struct Problem {
    /// Severity of the problem.
    pub severity: String,
    /// Its permanent code.
    pub kind: String,
    /// Description of the problem.
    pub message: String,
}

impl Check {
    /// Returns the figures of a status line: metadata blocks and regions.
    ///
    /// # Errors
    /// If the metadata is too damaged to have them.
    pub fn figures(&self) -> Result<((u64, u64), (u64, u64))> {
        let blocks = self.metadata_blocks.as_ref().context("no figures of metadata blocks")?;
        let superblock = self.superblock.as_ref().context("no superblock")?;
        let hydrated = self.hydrated.context("no figure of hydrated regions")?;
        Ok(((blocks.used, blocks.total), (hydrated, superblock.nr_regions)))
    }

    /// Returns the distinct codes of the problems.
    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<&str> = self.problems.iter().map(|problem| &*problem.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Returns whether the metadata must not be given to a kernel.
    pub fn is_fatal(&self) -> bool {
        self.code == 1
    }
}

#[derive(Deserialize)]
struct Dump {
    runs: Vec<(u64, u64)>,
}

impl Tools {
    /// Uses the programs in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Returns the path of the program `name`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs the program `name`.
    ///
    /// # Errors
    /// If it cannot be run, or a signal ends it. An exit code is not an error.
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

    /// Runs the program `name`, which must succeed, and returns its standard output.
    ///
    /// # Errors
    /// If it fails, with its standard error.
    pub fn run<A: AsRef<OsStr>>(&self, name: &str, arguments: &[A]) -> Result<String> {
        let ran = self.try_run(name, arguments)?;
        ensure!(ran.code == 0, "{name} ended with {}: {}", ran.code, ran.stderr);
        Ok(ran.stdout)
    }

    /// Checks metadata in any state.
    ///
    /// # Errors
    /// If the output of `clone_check` is not a report.
    pub fn check(&self, metadata: &Path) -> Result<Check> {
        let ran = self.try_run("clone_check", &["--json".as_ref(), metadata.as_os_str()])?;
        let check: Check = serde_json::from_str(&ran.stdout)
            .with_context(|| format!("clone_check ended with {}: {}", ran.code, ran.stderr))?;
        Ok(Check { code: ran.code, ..check })
    }

    /// Checks metadata that must be sound.
    ///
    /// # Errors
    /// The problems found.
    pub fn sound(&self, metadata: &Path) -> Result<Check> {
        let check = self.check(metadata)?;
        ensure!(check.code == 0, "{}: clone_check says {:?}", metadata.display(), check.problems);
        Ok(check)
    }

    /// Checks that metadata is sound, and that `clone_check` agrees with the kernel's status line.
    /// The clone must be writable.
    ///
    /// # Errors
    /// The disagreement.
    pub fn expect_status(&self, metadata: &Path, status: &Status) -> Result<()> {
        let figures = self.sound(metadata)?.figures()?;
        ensure!(
            figures == (status.metadata, status.regions) && status.mode == "rw",
            "the status is {:?}, clone_check says {figures:?}",
            status.line
        );
        Ok(())
    }

    /// Checks that `clone_dump` reports exactly these hydrated regions.
    ///
    /// # Errors
    /// The actual output.
    pub fn expect_hydrated(&self, metadata: &Path, hydrated: &[bool]) -> Result<()> {
        let (expected, dumped) = (runs(hydrated), self.dump(metadata)?);
        ensure!(
            dumped == expected,
            "hydrated should be {expected:?}, and clone_dump says {dumped:?}"
        );
        Ok(())
    }

    /// Returns the hydrated regions in maximal, half-open runs.
    ///
    /// # Errors
    /// If `clone_dump` refuses the metadata.
    pub fn dump(&self, metadata: &Path) -> Result<Vec<Range<u64>>> {
        let arguments = ["--format".as_ref(), "json".as_ref(), metadata.as_os_str()];
        let dump: Dump = serde_json::from_str(&self.run("clone_dump", &arguments)?)?;
        Ok(dump.runs.into_iter().map(|(begin, end)| begin..end).collect())
    }
}
