//! Devices for tests.

use std::io;
use std::sync::{Barrier, Mutex};

use super::super::{Decided, ReadData};
use crate::geometry::{Geometry, RegionRange, RegionSize, Sectors};
use crate::metadata::region_map::RegionMap;

pub(super) const EIO: i32 = 5;

pub(super) fn geometry(region: u64, target: u64) -> Geometry {
    Geometry::new(RegionSize::new(Sectors(region)).unwrap(), Sectors(target)).unwrap()
}

/// A map in which all regions but `lost` are known not to be hydrated.
pub(super) fn map_with(geometry: Geometry, lost: &[RegionRange]) -> RegionMap {
    let mut map = RegionMap::lost_whole(geometry.nr_regions());
    let mut known = 0;
    for run in lost {
        map.settle(known..run.start, false);
        known = run.end;
    }
    map.settle(known..geometry.nr_regions(), false);
    map
}

/// A device whose sectors are each filled with a computed byte, so that it uses no memory.
pub(super) struct Model<F> {
    sectors: u64,
    fill: F,
    /// Sectors that cannot be read, with an error number.
    pub(super) bad: Vec<(u64, i32)>,
    /// Sectors that were read, one range per read.
    reads: Mutex<Vec<RegionRange>>,
    pub(super) meet: Option<Barrier>,
}

pub(super) fn model<F: Fn(u64) -> u8>(sectors: u64, fill: F) -> Model<F> {
    Model { sectors, fill, bad: Vec::new(), reads: Mutex::default(), meet: None }
}

impl<F> Model<F> {
    pub(super) fn with_bad(self, sectors: impl IntoIterator<Item = u64>) -> Self {
        Self { bad: sectors.into_iter().map(|sector| (sector, EIO)).collect(), ..self }
    }

    pub(super) fn reads(&self) -> Vec<RegionRange> {
        self.reads.lock().unwrap().clone()
    }

    pub(super) fn largest_read(&self) -> u64 {
        self.reads().iter().map(|read| read.end - read.start).max().unwrap_or(0) * 512
    }
}

impl<F: Fn(u64) -> u8 + Send + Sync> ReadData for Model<F> {
    fn size_bytes(&self) -> u64 {
        self.sectors * 512
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(512) && into.len().is_multiple_of(512));
        assert!(!into.is_empty());
        let read = offset / 512..(offset + into.len() as u64) / 512;
        assert!(read.end <= self.sectors, "{read:?} is past the end");
        self.reads.lock().unwrap().push(read.clone());
        if let Some(meet) = &self.meet {
            meet.wait();
        }
        if let Some(&(_, error)) = self.bad.iter().find(|(sector, _)| read.contains(sector)) {
            into.fill(0xbd);
            return Err(io::Error::from_raw_os_error(error));
        }
        for (sector, bytes) in read.zip(into.chunks_mut(512)) {
            bytes.fill((self.fill)(sector));
        }
        Ok(())
    }
}

/// The counts of a result: equal, written, undecided, half copied, unreadable.
pub(super) fn counts(decided: &Decided) -> [u64; 5] {
    let Decided { equal, written, undecided, half_copied, nr_unreadable, .. } = *decided;
    [equal, written, undecided, half_copied, nr_unreadable]
}
