//! Clones that run on in-memory devices.

use std::sync::Arc;
use std::time::Duration;

use self::disk::{Brittle, Disk};
use super::{Devices, DriverOptions, RunningClone};
use crate::dm_target::{Options, Status};
use crate::engine::{Done, EventKind, Input, OpId, Settings};
use crate::geometry::{Geometry, RegionSize, Sectors};
use crate::metadata::Metadata;
use crate::metadata::ir::Header;

mod control;
mod disk;
mod faults;
mod life;
mod lost;
mod model;
mod ways;

/// Bytes per region.
const REGION: u64 = 4096;

type Clone = RunningClone<Arc<Brittle>>;

/// A clone before its start, and its devices.
struct Bench {
    metadata_device: Arc<Brittle>,
    metadata: Option<Metadata<Arc<Brittle>>>,
    source: Arc<Disk>,
    destination: Arc<Disk>,
    settings: Settings,
    workers: usize,
}

/// The byte of the source at `offset`: never zero, never that of a destination.
fn source_byte(offset: u64) -> u8 {
    (offset / 512 % 100 + 1) as u8
}

fn source_bytes(len: u64) -> Vec<u8> {
    (0..len).map(source_byte).collect()
}

impl Bench {
    /// A clone of `len` bytes, a multiple of 512, with no hydrated region. It does not copy in the
    /// background.
    fn new(len: u64) -> Self {
        let region_size = RegionSize::new(Sectors(REGION / 512)).unwrap();
        let geometry = Geometry::new(region_size, Sectors(len / 512)).unwrap();
        let metadata_device = Arc::new(Brittle::new(64));
        let header = Header { uuid: [0; 16], geometry };
        let metadata = Metadata::format(metadata_device.clone(), header).unwrap();
        let options = Options { hydration: false, ..Options::default() };
        Self {
            metadata_device,
            metadata: Some(metadata),
            source: Arc::new(Disk::new(source_bytes(len))),
            destination: Arc::new(Disk::new(vec![0xee; len as usize])),
            settings: Settings { options, ..Settings::default() },
            workers: 4,
        }
    }

    /// A clone that copies in the background.
    fn hydrating(len: u64) -> Self {
        let mut bench = Self::new(len);
        bench.settings.options =
            Options { hydration_threshold: 32, hydration_batch_size: 4, ..Options::default() };
        bench
    }

    fn start(&mut self) -> Clone {
        let metadata = self.metadata.take().expect("it is not running");
        let (source, destination) = (self.source.clone(), self.destination.clone());
        let devices = Devices { metadata, source, destination };
        let options = DriverOptions { workers: self.workers, ..DriverOptions::default() };
        RunningClone::start(devices, self.settings, options).unwrap()
    }

    /// Stops a clone that can be started again.
    fn stop(&mut self, clone: Clone) {
        let stopped = clone.stop();
        assert_eq!(stopped.failure, None);
        // The metadata of a complete clone is closed by then.
        let reopened = || Metadata::open(self.metadata_device.clone()).unwrap();
        self.metadata = Some(stopped.metadata.unwrap_or_else(reopened));
    }

    fn is_hydrated(&self, region: u64) -> bool {
        self.metadata.as_ref().expect("it is stopped").is_hydrated(region)
    }
}

/// Waits for an event that will happen eventually.
fn wait_for(clone: &Clone, is_it: impl Fn(&EventKind) -> bool) {
    let mut last = 0;
    loop {
        let events = clone.wait_for(last, Duration::MAX);
        assert!(!events.is_empty(), "the clone ended");
        if events.iter().any(|event| is_it(&event.kind)) {
            return;
        }
        last = events.last().map_or(last, |event| event.number);
    }
}

/// Makes the engine panic, by the end of an operation that it does not know.
fn break_engine(clone: &Clone) {
    let unheard_of = Input::Done { op: OpId(u64::MAX), result: Ok(Done::Plain) };
    clone.pool.input(&mut clone.pool.lock(), unheard_of);
}

fn wait_until_complete(clone: &Clone) {
    wait_for(clone, |what| matches!(what, EventKind::Finished));
}

/// Returns the number of hydrated regions.
fn nr_hydrated(status: &Status) -> u64 {
    match status {
        Status::Running(figures) => figures.hydrated,
        other => panic!("{other:?}"),
    }
}
