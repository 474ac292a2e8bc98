//! The project's engine in place of a kernel: a clone on files, driven like in the daemon.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clone_core::block_io::{Access, FileDestination, FileSource};
use clone_core::dm_target::{Status, StatusLine, TableLine};
use clone_core::driver::{Client, Devices, DriverOptions, RunningClone};
use clone_core::engine::{Command, Discards, Settings};
use clone_core::geometry::{SECTOR_SIZE, Sectors};
use clone_core::metadata::Metadata;
use clone_core::metadata::ir::Header;
use persistent_data::device::FileDevice;

use crate::content::{self, Run};
use crate::data::DataClone;
use crate::life::{Life, Step, Told};
use crate::script::Op;

/// Time limit of hydration, far more than it needs.
const PATIENCE: Duration = Duration::from_secs(600);

/// Regions per second, if only some are to be hydrated.
const SLOW: u64 = 200;

/// Settings that the engine has and a kernel does not.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    /// Maximum number of bytes copied in one operation.
    pub copy_bytes: u64,
    /// Effect of a discard on regions that are not hydrated.
    pub discards: Discards,
}

/// A clone opened by the engine.
struct Ours {
    clone: RunningClone<FileDevice>,
    client: Client,
    sectors: u64,
    region_bytes: u64,
}

/// Opens a clone, performs the steps of its life, and closes it.
///
/// # Errors
/// If it is refused, or a step fails.
pub fn live(clone: &DataClone, life: &Life, ways: Ways) -> Result<Told> {
    let ours = Ours::open(clone, &life.options, ways)?;
    let mut reads = Vec::new();
    for step in &life.steps {
        match step {
            Step::Io(ops) => {
                for op in ops {
                    reads.extend(ours.apply(op).with_context(|| op.to_string())?);
                }
            }
            Step::Message(message) => ours.clone.command(Command::parse(message)?),
            Step::HydrateSome(regions) => ours.hydrate_some(*regions)?,
            Step::Finish => ours.wait_until_hydrated(u64::MAX)?,
        }
    }
    let status = ours.status_at_rest()?;
    let stopped = ours.clone.stop();
    if let Some(failure) = stopped.failure {
        bail!("the {}: {}", failure.device, failure.reason);
    }
    Ok(Told { reads, status })
}

impl Ours {
    fn open(clone: &DataClone, options: &str, ways: Ways) -> Result<Self> {
        let DataClone { regions, metadata, destination, source } = clone;
        let line = format!("0 {} clone m d s {} {options}", regions.target, regions.size);
        let line = TableLine::parse(&line).with_context(|| line.clone())?;
        let is_fresh = begins_with_zeroes(metadata)?;
        let device = FileDevice::open_write(metadata)?;
        let header = Header { uuid: [0; 16], geometry: line.geometry() };
        let metadata = match is_fresh {
            true => Metadata::format(device, header)?,
            false => Metadata::open(device)?,
        };
        let found = metadata.header().geometry;
        ensure!(found == line.geometry(), "the metadata is for {found:?}, not for {line:?}");
        let devices = Devices {
            metadata,
            source: Arc::new(FileSource::open(source, Access::Buffered)?),
            destination: Arc::new(FileDestination::open(destination, Access::Buffered)?),
        };
        let settings = Settings {
            options: line.arguments().options(),
            discards: ways.discards,
            copy_bytes: ways.copy_bytes,
            ..Settings::default()
        };
        let clone = RunningClone::start(devices, settings, DriverOptions::default())?;
        let region_bytes = regions.size * SECTOR_SIZE;
        Ok(Self { client: clone.client(), clone, sectors: regions.target, region_bytes })
    }

    /// Performs one operation. For a read, returns its result.
    fn apply(&self, op: &Op) -> Result<Option<Vec<Run>>> {
        let bytes = |sectors: &Range<u64>| sectors.start * SECTOR_SIZE..sectors.end * SECTOR_SIZE;
        match op {
            Op::Write(sectors, seed) | Op::DurableWrite(sectors, seed) => {
                let range = bytes(sectors);
                let mut data = vec![0; (range.end - range.start) as usize];
                content::fill(*seed, sectors.start, &mut data);
                self.client.write(range.start, &data, matches!(op, Op::DurableWrite(..)))?;
            }
            Op::Zero(sectors) => self.client.write_zeroes(bytes(sectors), false, false)?,
            Op::Read(sectors) => return self.read(sectors).map(Some),
            Op::Discard(sectors) => self.client.discard(bytes(sectors), false)?,
            Op::Flush => self.client.flush()?,
        }
        Ok(None)
    }

    fn read(&self, sectors: &Range<u64>) -> Result<Vec<Run>> {
        let mut data = vec![0; ((sectors.end - sectors.start) * SECTOR_SIZE) as usize];
        self.client.read(sectors.start * SECTOR_SIZE, &mut data)?;
        Ok(content::authors_from(sectors.start, &mut &*data)?)
    }

    /// Returns the status after a commit, like the kernel.
    fn status_at_rest(&self) -> Result<String> {
        let begin = Instant::now();
        loop {
            let status = self.clone.status();
            let is_at_rest = !matches!(&status, Status::Running(figures) if figures.hydrating > 0);
            let place = Some((Sectors(0), Sectors(self.sectors)));
            let line = StatusLine { place, status }.to_string();
            if is_at_rest {
                return Ok(line);
            }
            ensure!(begin.elapsed() < PATIENCE, "it does not come to rest: {line}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until `regions` regions are hydrated, or all of them.
    fn wait_until_hydrated(&self, regions: u64) -> Result<()> {
        let begin = Instant::now();
        loop {
            let progress = self.clone.progress();
            if progress.hydrated >= regions.min(progress.regions) {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "{progress:?} after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn hydrate_some(&self, regions: u64) -> Result<()> {
        let enough = self.clone.progress().hydrated + regions;
        self.clone.command(Command::HydrationRate(Some(SLOW * self.region_bytes)));
        self.clone.command(Command::parse("enable_hydration")?);
        self.wait_until_hydrated(enough)?;
        // The suspend waits for the operations in flight.
        self.clone.command(Command::parse("disable_hydration")?);
        self.clone.suspend()?;
        self.clone.resume()?;
        self.clone.command(Command::HydrationRate(None));
        Ok(())
    }
}

/// Returns whether the first block of the file `metadata` is all zero: then it has to be formatted.
fn begins_with_zeroes(metadata: &Path) -> io::Result<bool> {
    let mut block = [1; 4096];
    File::open(metadata)?.read_exact(&mut block)?;
    Ok(block == [0; 4096])
}
