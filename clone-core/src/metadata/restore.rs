//! Writing fresh metadata with given regions hydrated.

use std::convert::Infallible;

use persistent_data::bitset::{BITS_PER_BLOCK, BITS_PER_WORD};
use persistent_data::device::Device;
use thiserror::Error;
use zerocopy::little_endian as le;

use crate::geometry::RegionRange;
use crate::metadata::bits::set_bits;
use crate::metadata::ir::Header;
use crate::metadata::metadata_size::{MetadataSize, room};
use crate::metadata::region_map::RegionMap;
use crate::metadata::writer::{MetadataError, build};
use crate::progress::Progress;

/// Reason why metadata could not be restored. The device then holds its old content or, if it has
/// been written to, nothing that a reader takes for metadata.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError<E> {
    /// The device is too small. Nothing was written.
    #[error(
        "the device has {has} blocks of 4 KiB, metadata of this size needs at least {needed} \
         ({} sectors)", .needed * 8
    )]
    TooSmall {
        /// Usable blocks of the device.
        has: u64,
        /// Number of blocks that are needed.
        needed: u64,
    },
    /// The runs do not ascend, overlap, or reach past the end.
    #[error(
        "regions {}..{}: runs must ascend, not overlap, and end by region {nr_regions}",
        .run.start, .run.end
    )]
    Run {
        /// The invalid run.
        run: RegionRange,
        /// Number of regions of the clone.
        nr_regions: u64,
    },
    /// The source of the runs failed.
    #[error("cannot read the regions to restore")]
    Source(#[source] E),
    /// The state of these regions, half-open, is lost and has not been settled.
    #[error("whether regions {}..{} are hydrated is lost, and not settled", .0.start, .0.end)]
    Lost(RegionRange),
    /// Writing the metadata failed.
    #[error("cannot write the metadata")]
    Metadata(#[from] MetadataError),
}

/// Writes metadata in which exactly `runs` are hydrated to a device whose content is discarded. The
/// same input gives the same bytes.
///
/// # Errors
/// Any [`RestoreError`] but [`Lost`](RestoreError::Lost).
pub fn restore<D: Device, E>(
    device: &D,
    header: Header,
    runs: impl IntoIterator<Item = Result<RegionRange, E>>,
    progress: &dyn Progress,
) -> Result<(), RestoreError<E>> {
    let (has, needed) = room(device, header.geometry);
    if has < needed {
        return Err(RestoreError::TooSmall { has, needed });
    }
    progress.set_total(MetadataSize::of(header.geometry).array_blocks);
    let nr_regions = header.geometry.nr_regions();
    let mut runs = Runs { runs: runs.into_iter().fuse(), rest: 0..0, nr_regions };
    build(device, header, |first, words| {
        runs.fill(first, words)?;
        progress.advance(1);
        Ok(())
    })
}

/// [Restores](restore) the hydrated regions of a map. With many short runs this is much faster.
///
/// # Errors
/// [`RestoreError::Lost`] and [`RestoreError::TooSmall`] before anything is written, and
/// [`RestoreError::Metadata`].
///
/// # Panics
/// If the map has another number of regions than the clone.
pub fn restore_map<D: Device>(
    device: &D,
    header: Header,
    regions: &RegionMap,
    progress: &dyn Progress,
) -> Result<(), RestoreError<Infallible>> {
    assert_eq!(regions.nr_regions(), header.geometry.nr_regions());
    if let Some(lost) = regions.lost().next() {
        return Err(RestoreError::Lost(lost));
    }
    let (has, needed) = room(device, header.geometry);
    if has < needed {
        return Err(RestoreError::TooSmall { has, needed });
    }
    progress.set_total(MetadataSize::of(header.geometry).array_blocks);
    build(device, header, |first, words| {
        let bits = regions.planes(first / BITS_PER_BLOCK).hydrated;
        for (word, bits) in words.iter_mut().zip(bits) {
            word.set(bits);
        }
        progress.advance(1);
        Ok(())
    })
}

/// Iterator state while runs are written into array blocks.
struct Runs<I> {
    runs: I,
    /// The rest of the current run.
    rest: RegionRange,
    nr_regions: u64,
}

impl<E, I: Iterator<Item = Result<RegionRange, E>>> Runs<I> {
    /// Sets the bits of the runs in `words`, whose first bit is region `first`.
    fn fill(&mut self, first: u64, words: &mut [le::U64]) -> Result<(), RestoreError<E>> {
        let end = first + words.len() as u64 * BITS_PER_WORD;
        loop {
            let now = self.rest.start..self.rest.end.min(end);
            if !now.is_empty() {
                set_bits(words, now.start - first..now.end - first);
                self.rest.start = now.end;
            }
            // For the last array block the source is read to its end, since it may still fail.
            if self.rest.start >= end && end < self.nr_regions {
                return Ok(());
            }
            match self.runs.next() {
                Some(run) => self.rest = self.checked(run.map_err(RestoreError::Source)?)?,
                None => {
                    self.rest = self.nr_regions..self.nr_regions;
                    return Ok(());
                }
            }
        }
    }

    fn checked(&self, run: RegionRange) -> Result<RegionRange, RestoreError<E>> {
        if self.rest.end <= run.start && run.start < run.end && run.end <= self.nr_regions {
            Ok(run)
        } else {
            Err(RestoreError::Run { run, nr_regions: self.nr_regions })
        }
    }
}

#[cfg(test)]
mod tests {
    use persistent_data::bitset::BITS_PER_BLOCK;
    use persistent_data::device::{MemoryDevice, ReadDevice};

    use super::{RestoreError, restore, restore_map};
    use crate::geometry::{Geometry, RegionRange, RegionSize, Sectors};
    use crate::metadata::check::read;
    use crate::metadata::ir::Header;
    use crate::metadata::metadata_size::MetadataSize;
    use crate::metadata::superblock::Superblock;

    fn header(nr_regions: u64) -> Header {
        let region_size = RegionSize::new(Sectors(8)).unwrap();
        let geometry = Geometry::new(region_size, Sectors(8 * nr_regions)).unwrap();
        Header { uuid: [7; 16], geometry }
    }

    fn restored(
        nr_regions: u64,
        runs: &[RegionRange],
    ) -> (MemoryDevice, Result<(), RestoreError<()>>) {
        let header = header(nr_regions);
        let blocks = MetadataSize::of(header.geometry).total_blocks();
        let device = MemoryDevice::new(blocks as usize);
        let result = restore(&device, header, runs.iter().cloned().map(Ok), &());
        (device, result)
    }

    #[test]
    fn what_is_restored_is_what_was_given() {
        let block = BITS_PER_BLOCK;
        for nr_regions in [1, 63, 64, 65, block - 1, block, block + 1, 3 * block + 7] {
            let all_sorts: [Vec<RegionRange>; 5] = [
                vec![],
                vec![0..nr_regions],
                vec![0..1],
                vec![nr_regions - 1..nr_regions],
                vec![nr_regions / 5..nr_regions / 4 + 1, nr_regions / 2 + 2..nr_regions],
            ];
            for runs in all_sorts {
                if runs.iter().any(|run| run.is_empty() || run.end > nr_regions) {
                    continue;
                }
                let (device, result) = restored(nr_regions, &runs);
                result.unwrap();
                let report = read(&device, &());
                assert!(report.damage.is_empty(), "{:?}", report.damage);
                assert_eq!(report.header(), Some(header(nr_regions)));
                assert_eq!(report.regions.unwrap().runs().collect::<Vec<_>>(), runs);
            }
        }
    }

    #[test]
    fn a_map_is_restored_byte_for_byte_as_its_runs_and_only_if_nothing_is_lost() {
        let nr_regions = 5 * BITS_PER_BLOCK + 7;
        let fragments = (0..9000).map(|n| BITS_PER_BLOCK + 3 * n..BITS_PER_BLOCK + 3 * n + 1);
        let whole = [2 * BITS_PER_BLOCK + 9..4 * BITS_PER_BLOCK, nr_regions - 1..nr_regions];
        let runs: Vec<RegionRange> = fragments.chain(whole).collect();
        let (by_runs, result) = restored(nr_regions, &runs);
        result.unwrap();
        let mut regions = read(&by_runs, &()).regions.unwrap();

        let by_map = MemoryDevice::new(by_runs.nr_blocks() as usize);
        restore_map(&by_map, header(nr_regions), &regions, &()).unwrap();
        assert!(by_map.to_bytes() == by_runs.to_bytes());

        let mut planes = regions.planes(1);
        planes.lost[508] = 1 << 63;
        planes.hydrated[508] = 0;
        regions.put(1, planes);
        let before = by_map.to_bytes();
        let refused = restore_map(&by_map, header(nr_regions), &regions, &());
        let last = 2 * BITS_PER_BLOCK - 1..2 * BITS_PER_BLOCK;
        assert!(matches!(refused, Err(RestoreError::Lost(lost)) if lost == last));
        assert!(by_map.to_bytes() == before);
    }

    #[test]
    fn runs_that_make_no_sense_are_refused_and_leave_no_metadata() {
        for runs in [
            vec![0..101],
            vec![5..5],
            vec![RegionRange { start: 6, end: 5 }],
            vec![0..10, 9..20],
            vec![10..20, 0..5],
            vec![0..100, 100..101],
            vec![0..100, 0..1],
            vec![99..100, 200..300],
        ] {
            let (device, result) = restored(100, &runs);
            assert!(matches!(result, Err(RestoreError::Run { .. })), "{runs:?}");
            assert!(Superblock::read(&device).is_err());
        }
    }

    #[test]
    fn a_device_that_is_too_small_is_left_as_it_is() {
        let header = header(10 * BITS_PER_BLOCK);
        let least = MetadataSize::of(header.geometry).least_blocks();
        let before = vec![0xa5; (least as usize - 1) * 4096];
        let device = MemoryDevice::from_bytes(&before);
        let result = restore(&device, header, [Ok::<_, ()>(0..1)], &());
        assert!(matches!(result, Err(RestoreError::TooSmall { needed, .. }) if needed == least));
        assert_eq!(device.to_bytes(), before);

        let device = MemoryDevice::new(least as usize);
        restore(&device, header, [Ok::<_, ()>(0..1)], &()).unwrap();
        assert!(read(&device, &()).damage.is_empty());
    }
}
