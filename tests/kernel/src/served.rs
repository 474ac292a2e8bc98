//! The project's daemon in the place of a kernel: a clone on files, used by NBD and led by
//! `clonectl`, as its users do both.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clone_core::engine::Discards;
use clone_core::geometry::SECTOR_SIZE;
use clone_core::target::{Figures, Status, StatusLine};
use clone_tests::nbd::NbdClient;
use rustix::process::{Pid, Signal, kill_process};

use crate::content::{self, Run};
use crate::context::Context;
use crate::data::DataClone;
use crate::life::{Life, Step, Told};
use crate::script::Op;

/// How long anything may take. It is far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Regions a second, where only some are to be hydrated.
const SLOW: u64 = 200;

/// A daemon with one clone.
struct Served<'a> {
    context: &'a Context<'a>,
    daemon: Child,
    control: PathBuf,
    log: PathBuf,
    client: Option<NbdClient>,
    region_bytes: u64,
}

/// Has the daemon open a clone, leads it through its life, and has the daemon end.
///
/// # Errors
/// When it is refused, or a step fails.
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
            Step::Message(message) => served.message(message)?,
            Step::HydrateSome(regions) => served.hydrate_some(*regions)?,
            Step::Finish => served.wait_until(|figures| figures.hydrated == figures.regions)?,
        }
    }
    served.wait_until(|figures| figures.hydrating == 0)?;
    let status = served.ask(&["status", "clone"])?.trim_end().to_owned();
    served.stop()?;
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
        let table = format!(
            "0 {} clone {metadata} {destination} {} {} {options}",
            regions.target,
            source.display(),
            regions.size
        );
        // A socket has a short path.
        let folder = tempfile::Builder::new().prefix("judge").tempdir()?.keep();
        let (socket, control) = (folder.join("nbd"), folder.join("control"));
        let log = context.path(&format!("{name}.log"));
        let zeroes = if discards == Discards::Zero { "on" } else { "off" };
        let daemon = Command::new(context.tools.program("cloned"))
            .args(["run", "--name", "clone", "--discard-zeroes", zeroes, "--table", &table])
            .arg("--nbd")
            .arg(format!("unix:{}", socket.display()))
            .arg("--control")
            .arg(&control)
            .stdin(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let region_bytes = regions.size * SECTOR_SIZE;
        let mut served = Self { context, daemon, control, log, client: None, region_bytes };
        let begin = Instant::now();
        while served.client.is_none() {
            let ended = served.daemon.try_wait()?;
            ensure!(ended.is_none(), "cloned ended with {ended:?}: {}", served.said());
            ensure!(begin.elapsed() < PATIENCE, "cloned does not serve: {}", served.said());
            thread::sleep(Duration::from_millis(5));
            served.client = NbdClient::connect(&socket, "clone").ok();
        }
        Ok(served)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Carries out one operation. Of a read, gives what it read.
    fn apply(&mut self, op: &Op) -> Result<Option<Vec<Run>>> {
        let client = self.client.as_mut().context("nobody is connected")?;
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

    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let control = self.control.to_str().context("a path")?;
        self.context.tools.run("clonectl", &[&["--socket", control], arguments].concat())
    }

    fn message(&self, message: &str) -> Result<()> {
        self.ask(&["message", "clone", "0", message]).map(drop)
    }

    fn figures(&self) -> Result<Figures> {
        let line = StatusLine::parse(self.ask(&["status", "clone"])?.trim_end())?;
        match line.status {
            Status::Running(figures) => Ok(figures),
            other => bail!("the clone is {other:?}: {}", self.said()),
        }
    }

    fn wait_until(&self, is_it: impl Fn(&Figures) -> bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            let figures = self.figures()?;
            if is_it(&figures) {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "{figures:?} after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn hydrate_some(&self, regions: u64) -> Result<()> {
        let enough = self.figures()?.hydrated + regions;
        self.message(&format!("hydration_rate {}", SLOW * self.region_bytes))?;
        self.message("enable_hydration")?;
        self.wait_until(|figures| figures.hydrated >= enough.min(figures.regions))?;
        // What is under way ends with that.
        self.message("disable_hydration")?;
        self.ask(&["suspend", "clone"])?;
        self.ask(&["resume", "clone"])?;
        self.message("hydration_rate 0")
    }

    /// Has it end as systemd does.
    fn stop(mut self) -> Result<()> {
        self.client = None;
        kill_process(Pid::from_child(&self.daemon), Signal::TERM)?;
        let ended = self.daemon.wait()?;
        ensure!(ended.success(), "cloned ended with {ended}: {}", self.said());
        Ok(())
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        // It may have ended already, and its folder is in the one for temporary files.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = self.control.parent().map(std::fs::remove_dir_all);
    }
}
