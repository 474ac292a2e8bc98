//! Clones on failing devices in memory.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use clone_core::block_io::ReadData;
use clone_core::block_io::{Destination, Source};
use clone_core::driver::Devices;
use clone_core::engine::{Device, Settings};
use clone_core::geometry::{Geometry, RegionSize, Sectors};
use clone_core::metadata::Metadata;
use clone_core::metadata::ir::Header;
use persistent_data::device::MemoryDevice;

use super::{End, Plan, SessionOutcome, hydrate};

const REGION: u64 = 4096;
const NR_REGIONS: u64 = 256;

/// A disk in which each byte holds the number of its region, and which fails in bad ranges.
struct Disk {
    bytes: Mutex<Vec<u8>>,
    bad: Vec<Range<u64>>,
    /// The number of reads in bad ranges that fail; later ones succeed.
    patience: AtomicU64,
    cannot_flush: bool,
}

impl Disk {
    fn new(fill: impl Fn(u64) -> u8) -> Self {
        let bytes = (0..NR_REGIONS * REGION).map(|at| fill(at / REGION)).collect();
        let patience = AtomicU64::new(u64::MAX);
        Self { bytes: Mutex::new(bytes), bad: Vec::new(), patience, cannot_flush: false }
    }

    fn source() -> Self {
        Self::new(|region| region as u8 | 1)
    }

    fn destination() -> Self {
        Self::new(|_| 0xdd)
    }

    fn with_bad(self, regions: Range<u64>) -> Self {
        let bad = regions.start * REGION + 512..regions.end * REGION;
        Self { bad: [&self.bad[..], &[bad]].concat(), ..self }
    }

    fn part(offset: u64, len: usize) -> Range<usize> {
        offset as usize..offset as usize + len
    }
}

impl ReadData for Disk {
    fn size_bytes(&self) -> u64 {
        NR_REGIONS * REGION
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let end = offset + into.len() as u64;
        if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            let left = self
                .patience
                .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left.is_ok() {
                return Err(io::Error::other("a bad sector"));
            }
        }
        into.copy_from_slice(&self.bytes.lock().unwrap()[Self::part(offset, into.len())]);
        Ok(())
    }
}

impl Source for Disk {}

impl Destination for Disk {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        if self.bad.iter().any(|bad| bad.start < end && offset < bad.end) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.lock().unwrap()[Self::part(offset, data.len())].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, range: Range<u64>, _: bool) -> io::Result<()> {
        self.write_at(range.start, &vec![0; (range.end - range.start) as usize])
    }

    fn discard(&self, _: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        if self.cannot_flush { Err(io::Error::other("the cache is gone")) } else { Ok(()) }
    }
}

fn plan(max_failures: u32) -> Plan {
    let mut settings = Settings { max_failures, copy_bytes: 64 << 10, ..Settings::default() };
    settings.options.hydration_threshold = u32::MAX;
    settings.options.hydration_batch_size = 16;
    Plan { settings, jobs: 4, limit: None, first: Vec::new() }
}

/// Hydrates, and checks that the hydrated regions are on the destination.
fn run(
    source: Disk,
    destination: Disk,
    plan: Plan,
    signal: Option<&'static str>,
) -> SessionOutcome {
    let region_size = RegionSize::new(Sectors(REGION / 512)).unwrap();
    let geometry = Geometry::new(region_size, Sectors(NR_REGIONS * REGION / 512)).unwrap();
    let header = Header { uuid: [0; 16], geometry };
    let metadata = Metadata::format(MemoryDevice::new(64), header).unwrap();
    let (source, destination) = (Arc::new(source), Arc::new(destination));
    let devices = Devices { metadata, source: source.clone(), destination: destination.clone() };
    let outcome = hydrate(devices, plan, || signal, |_, _| ()).unwrap();
    let (from, to) = (source.bytes.lock().unwrap(), destination.bytes.lock().unwrap());
    let chunks = from.chunks(REGION as usize).zip(to.chunks(REGION as usize));
    let same = chunks.filter(|(from, to)| from == to).count() as u64;
    assert!(same >= outcome.progress.hydrated, "{same}: {outcome:?}");
    outcome
}

fn failed(outcome: &SessionOutcome) -> Vec<Range<u64>> {
    outcome.failed.iter().map(|place| place.regions.clone()).collect()
}

#[test]
fn what_cannot_be_copied_is_tried_again_and_all_else_is_copied() {
    let source = Disk::source().with_bad(17..18).with_bad(200..202);
    let outcome = run(source, Disk::destination(), plan(0), None);
    assert_eq!(outcome.end, End::OnlyFailedLeft);
    assert_eq!(outcome.progress.hydrated, NR_REGIONS - 3);
    assert_eq!(failed(&outcome), [17..18, 200..201, 201..202]);
    assert!(outcome.failed.iter().all(|place| place.tries >= 3));
    assert_eq!(outcome.failed[0].failure.to_string(), "source: a bad sector");
}

#[test]
fn what_can_be_read_the_next_time_is_copied_then() {
    let source = Disk { patience: AtomicU64::new(6), ..Disk::source().with_bad(100..101) };
    let outcome = run(source, Disk::destination(), plan(0), None);
    assert_eq!((outcome.end, outcome.progress.hydrated), (End::Complete, NR_REGIONS));
    assert!(outcome.failed.is_empty());
}

#[test]
fn a_source_that_is_gone_is_given_up_after_some_failures_in_a_row() {
    let source = Disk::source().with_bad(100..NR_REGIONS);
    let outcome = run(source, Disk::destination(), plan(5), None);
    assert_eq!(outcome.end, End::InARow(5));
    // The failed range begins in the batch that holds the first bad region. When the batch is
    // halved, its sound part may or may not be copied before the session gives up.
    let begin = outcome.failed[0].regions.start;
    assert!((96..=100).contains(&begin), "{outcome:?}");
    assert!((96..=begin).contains(&outcome.progress.hydrated), "{outcome:?}");
}

#[test]
fn a_destination_that_cannot_be_written_is_no_fault_of_the_rest() {
    let outcome = run(Disk::source(), Disk::destination().with_bad(3..5), plan(0), None);
    assert_eq!((outcome.end.clone(), failed(&outcome)), (End::OnlyFailedLeft, vec![3..4, 4..5]));
    assert_eq!(outcome.failed[0].failure.device, Device::Destination);
}

#[test]
fn what_could_not_be_flushed_is_not_hydrated() {
    let destination = Disk { cannot_flush: true, ..Disk::destination() };
    let outcome = run(Disk::source(), destination, plan(16), None);
    let End::ReadOnly(failure) = &outcome.end else { panic!("{outcome:?}") };
    assert_eq!(failure.to_string(), "destination: the cache is gone");
    assert_eq!(outcome.progress.hydrated, 0);
}

#[test]
fn a_signal_commits_what_was_copied() {
    let mut slow = plan(16);
    slow.settings.hydration_rate = Some(1);
    let outcome = run(Disk::source(), Disk::destination(), slow, Some("SIGTERM"));
    assert_eq!(outcome.end, End::Signal("SIGTERM"));
    assert_eq!(outcome.progress.hydrated, 16);
    assert_eq!(outcome.progress.commits, 1);
}

#[test]
fn a_limit_is_kept_and_what_is_wanted_first_is_first() {
    let limit = Some(20 * REGION + 5);
    let first = vec![100 * REGION..101 * REGION, 50 * REGION..52 * REGION];
    let destination = Disk::destination();
    let outcome = run(Disk::source(), destination, Plan { limit, first, ..plan(16) }, None);
    assert_eq!((outcome.end, outcome.progress.hydrated), (End::Limit, 20));
    assert_eq!(outcome.progress.fetched_bytes, 20 * REGION);
}
