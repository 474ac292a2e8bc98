//! The project's daemon in place of a kernel: a clone on files, used through NBD and controlled
//! with `clonectl`, like by its users.

use std::fs::{self, File};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clone_core::dm_target::{Status, StatusCounts, StatusLine};
use clone_core::engine::Discards;
use clone_core::geometry::SECTOR_SIZE;
use clone_tests::nbd::NbdClient;
use rustix::process::{Pid, Signal, kill_process};

use crate::content::{self, Run};
use crate::context::Context;
use crate::data::DataClone;
use crate::life::{Life, Step, Told};
use crate::script::Op;

/// Time limit of each wait, far more than needed.
const PATIENCE: Duration = Duration::from_secs(600);

/// Regions per second, if only some are to be hydrated.
const SLOW: u64 = 200;

/// The daemon with one clone, called `clone`, on this machine.
pub struct Daemon<'a> {
    context: &'a Context<'a>,
    process: Child,
    control: PathBuf,
    log: PathBuf,
}

impl<'a> Daemon<'a> {
    /// Starts `cloned run` with `arguments` without waiting until it serves. Its output is kept
    /// under `name`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(context: &'a Context<'a>, name: &str, arguments: &[&str]) -> Result<Self> {
        // The path of a socket must be short.
        let folder = tempfile::Builder::new().prefix("judge").tempdir()?.keep();
        let (control, log) = (folder.join("control"), context.path(&format!("{name}.log")));
        let process = Command::new(context.tools.program("cloned"))
            .args(["run", "--name", "clone"])
            .arg("--control")
            .arg(&control)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        Ok(Self { context, process, control, log })
    }

    /// Waits until `is_it` returns a value.
    ///
    /// # Errors
    /// If the daemon exits, or the time limit is reached.
    pub fn wait_for<T>(&mut self, mut is_it: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            if let Some(it) = is_it(self) {
                return Ok(it);
            }
            let ended = self.process.try_wait()?;
            ensure!(ended.is_none(), "cloned ended with {ended:?}: {}", self.said());
            ensure!(begin.elapsed() < PATIENCE, "after {PATIENCE:?} cloned said: {}", self.said());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns the daemon's output so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs `clonectl` and returns its output.
    ///
    /// # Errors
    /// If it fails.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let control = self.control.to_str().context("a path")?;
        self.context.tools.run("clonectl", &[&["--socket", control], arguments].concat())
    }

    /// Sends a message to the clone.
    ///
    /// # Errors
    /// If it is refused.
    pub fn message(&self, message: &str) -> Result<()> {
        self.ask(&["message", "clone", "0", message]).map(drop)
    }

    /// Returns the clone's figures after a commit.
    ///
    /// # Errors
    /// If the clone has failed.
    pub fn figures(&self) -> Result<StatusCounts> {
        match StatusLine::parse(self.ask(&["status", "clone"])?.trim_end())?.status {
            Status::Running(figures) => Ok(figures),
            other => bail!("the clone is {other:?}: {}", self.said()),
        }
    }

    /// Waits until the figures satisfy `is_so`.
    ///
    /// # Errors
    /// As for [`Self::wait_for`] and [`Self::figures`].
    pub fn wait_until(&mut self, is_so: impl Fn(&StatusCounts) -> bool) -> Result<()> {
        self.wait_for(|daemon| match daemon.figures() {
            Ok(figures) => is_so(&figures).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        })?
    }

    /// Stops the daemon like systemd, with a TERM signal.
    ///
    /// # Errors
    /// If it exits with a failure.
    pub fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let ended = self.process.wait()?;
        ensure!(ended.success(), "cloned ended with {ended}: {}", self.said());
        Ok(())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        // It may have ended already, and its folder is within the folder for temporary files.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.control.parent().map(fs::remove_dir_all);
    }
}

/// A daemon, and a client of its clone.
struct Served<'a> {
    daemon: Daemon<'a>,
    client: NbdClient,
    region_bytes: u64,
}

/// Lets the daemon open a clone, perform the steps of its life, and exit.
///
/// # Errors
/// If it is refused, or a step fails.
pub fn live(
    context: &Context<'_>,
    clone: &DataClone,
    name: &str,
    life: &Life,
    discards: Discards,
) -> Result<Told> {
    let mut served = Served::start(context, clone, name, &life.options, discards)?;
    let mut reads = Vec::new();
    for step in &life.steps {
        match step {
            Step::Io(ops) => {
                for op in ops {
                    reads.extend(served.apply(op).with_context(|| op.to_string())?);
                }
            }
            Step::Message(message) => served.daemon.message(message)?,
            Step::HydrateSome(regions) => served.hydrate_some(*regions)?,
            Step::Finish => {
                served.daemon.wait_until(|figures| figures.hydrated == figures.regions)?;
            }
        }
    }
    served.daemon.wait_until(|figures| figures.hydrating == 0)?;
    let status = served.daemon.ask(&["status", "clone"])?.trim_end().to_owned();
    let Served { daemon, client, .. } = served;
    drop(client);
    daemon.stop()?;
    Ok(Told { reads, status })
}

impl<'a> Served<'a> {
    fn start(
        context: &'a Context<'a>,
        clone: &DataClone,
        name: &str,
        options: &str,
        discards: Discards,
    ) -> Result<Self> {
        let DataClone { regions, metadata, destination, source } = clone;
        let (metadata, destination) = (metadata.display(), destination.display());
        let (source, size) = (source.display(), regions.size);
        let target = regions.target;
        let table = format!("0 {target} clone {metadata} {destination} {source} {size} {options}");
        let folder = tempfile::Builder::new().prefix("judge").tempdir()?;
        let socket = folder.path().join("nbd");
        let address = format!("unix:{}", socket.display());
        let zeroes = if discards == Discards::Zero { "on" } else { "off" };
        let arguments = ["--discard-zeroes", zeroes, "--table", &table, "--nbd", &address];
        let mut daemon = Daemon::run(context, name, &arguments)?;
        let client = daemon.wait_for(|_| NbdClient::connect(&socket, "clone").ok())?;
        Ok(Self { daemon, client, region_bytes: size * SECTOR_SIZE })
    }

    /// Performs one operation. For a read, returns its result.
    fn apply(&mut self, op: &Op) -> Result<Option<Vec<Run>>> {
        let client = &mut self.client;
        let bytes = |sectors: &Range<u64>| sectors.start * SECTOR_SIZE..sectors.end * SECTOR_SIZE;
        match op {
            Op::Write(sectors, seed) | Op::DurableWrite(sectors, seed) => {
                let range = bytes(sectors);
                let mut data = vec![0; (range.end - range.start) as usize];
                content::fill(*seed, sectors.start, &mut data);
                client.write(range.start, &data, matches!(op, Op::DurableWrite(..)))?;
            }
            Op::Zero(sectors) => client.write_zeroes(bytes(sectors), true)?,
            Op::Read(sectors) => {
                let range = bytes(sectors);
                let mut data = vec![0; (range.end - range.start) as usize];
                client.read(range.start, &mut data)?;
                return Ok(Some(content::authors_from(sectors.start, &mut &*data)?));
            }
            Op::Discard(sectors) => client.trim(bytes(sectors))?,
            Op::Flush => client.flush()?,
        }
        Ok(None)
    }

    fn hydrate_some(&mut self, regions: u64) -> Result<()> {
        let Self { daemon, region_bytes, .. } = self;
        let enough = daemon.figures()?.hydrated + regions;
        daemon.message(&format!("hydration_rate {}", SLOW * *region_bytes))?;
        daemon.message("enable_hydration")?;
        daemon.wait_until(|figures| figures.hydrated >= enough.min(figures.regions))?;
        // The suspend waits for the operations in flight.
        daemon.message("disable_hydration")?;
        daemon.ask(&["suspend", "clone"])?;
        daemon.ask(&["resume", "clone"])?;
        daemon.message("hydration_rate 0")
    }
}
