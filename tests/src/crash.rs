//! Crashes after every single write and flush of a run.

use std::fmt::Debug;
use std::io;
use std::sync::{Mutex, MutexGuard};

use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::{Device, ReadDevice};
use persistent_data::sim::SimDisk;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::watch::Watch;

/// Up to this many pending writes, every subset of them is tried.
const EXHAUSTIVE: usize = 4;

/// Records the disk before each write and each flush. A write that has not been flushed may survive
/// in part, so these states also cover a crash during a write or flush.
#[derive(Debug)]
pub struct CrashPoints<'d> {
    disk: &'d SimDisk,
    before: Mutex<Vec<SimDisk>>,
}

impl<'d> CrashPoints<'d> {
    /// Records the states of `disk`.
    pub fn new(disk: &'d SimDisk) -> Self {
        Self { disk, before: Mutex::default() }
    }

    fn before(&self) -> MutexGuard<'_, Vec<SimDisk>> {
        self.before.lock().expect("nothing panics with the lock held")
    }

    /// Returns the recorded states since the last call, and the current one.
    fn take(&self) -> Vec<SimDisk> {
        let mut points = std::mem::take(&mut *self.before());
        points.push(self.disk.clone());
        points
    }
}

impl ReadDevice for CrashPoints<'_> {
    fn nr_blocks(&self) -> u64 {
        self.disk.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        self.disk.read(first, into)
    }
}

impl Device for CrashPoints<'_> {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        self.before().push(self.disk.clone());
        self.disk.write(first, from)
    }

    fn flush(&self) -> io::Result<()> {
        self.before().push(self.disk.clone());
        self.disk.flush()
    }
}

/// Reads and checks the content of a disk, or describes the damage.
pub type Recover<S> = fn(&SimDisk) -> Result<S, String>;

/// Crashes a disk at every recorded point, and checks the content that is left.
#[derive(Debug)]
pub struct Crashes<'p, 'd, S> {
    points: &'p CrashPoints<'d>,
    recover: Recover<S>,
    /// Number of random crashes at each point.
    survivals: u32,
    rng: StdRng,
    /// A crashed disk to continue from, drawn from all.
    kept: Option<SimDisk>,
    /// Number of crashes so far.
    pub tried: u64,
}

impl<'p, 'd, S> Crashes<'p, 'd, S> {
    /// Crashes at `points`: `survivals` random crashes at each point, and all possible ones if only
    /// a few writes are pending.
    pub fn new(
        points: &'p CrashPoints<'d>,
        recover: Recover<S>,
        survivals: u32,
        rng: StdRng,
    ) -> Self {
        Self { points, recover, survivals, rng, kept: None, tried: 0 }
    }

    /// Returns one of the crashed disks, if there was any.
    pub fn into_kept(self) -> Option<SimDisk> {
        self.kept
    }

    fn crashes_at(&mut self, point: &SimDisk) -> Vec<SimDisk> {
        if point.nr_pending() == 0 {
            return vec![point.crash(&mut self.rng)];
        }
        let mut crashes: Vec<SimDisk> =
            (0..self.survivals).map(|_| point.crash(&mut self.rng)).collect();
        if point.nr_pending() <= EXHAUSTIVE {
            crashes.extend(point.every_crash().into_iter().flatten());
        }
        crashes
    }
}

impl<S: Debug + PartialEq> Watch<S> for Crashes<'_, '_, S> {
    fn look(&mut self, allowed: &[&S]) -> Result<(), String> {
        for point in self.points.take() {
            for disk in self.crashes_at(&point) {
                let found = (self.recover)(&disk)?;
                if !allowed.contains(&&found) {
                    return Err(format!("a crash leaves {found:?}, allowed are {allowed:?}"));
                }
                self.tried += 1;
                if self.rng.random_range(0..self.tried) == 0 {
                    self.kept = Some(disk);
                }
            }
        }
        Ok(())
    }
}
