//! Splits lost regions into pieces, each of which is read at once.

use std::ops::Range;

use persistent_data::BLOCK_SIZE;

use crate::geometry::{Geometry, RegionRange, Sectors};
use crate::metadata::region_map::RegionMap;

/// The unit of reads: some adjacent regions, or a part of a large one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) regions: RegionRange,
    /// Start on either device, in bytes.
    pub(super) offset: u64,
    pub(super) len: usize,
    /// Bytes per region; the last region may have fewer.
    pub(super) stride: usize,
    /// Bytes of the region after this piece, if the piece is a part of a region.
    pub(super) rest: u64,
}

/// Splits the lost regions of a clone into pieces, in ascending order.
///
/// Offsets cannot overflow: a clone has at most 2^61 bytes.
#[derive(Debug)]
pub(super) struct Pieces {
    geometry: Geometry,
    largest: usize,
    /// The first region that is not completely split.
    region: u64,
    /// Number of bytes of it that are already in pieces.
    cut: u64,
}

impl Pieces {
    /// Creates pieces of at most `largest` bytes: a power of two, at least the size of the smallest
    /// region.
    pub(super) fn new(geometry: Geometry, largest: usize) -> Self {
        assert!(largest.is_power_of_two() && largest >= BLOCK_SIZE);
        Self { geometry, largest, region: 0, cut: 0 }
    }

    /// Returns the maximum size of a piece of this clone, in bytes.
    pub(super) fn largest(&self) -> usize {
        usize::try_from(self.size_bytes()).map_or(self.largest, |size| size.min(self.largest))
    }

    pub(super) fn nr_regions(&self) -> u64 {
        self.geometry.nr_regions()
    }

    /// Returns the size of the clone, in bytes.
    pub(super) fn size_bytes(&self) -> u64 {
        bytes(self.geometry.target_size())
    }

    /// Returns the number of blocks of 4096 bytes in the lost regions, including partial ones.
    pub(super) fn nr_blocks(&self, regions: &RegionMap) -> u64 {
        let blocks = |region: u64| {
            let bytes = self.bytes_of(region..region + 1);
            (bytes.end - bytes.start).div_ceil(BLOCK_SIZE as u64)
        };
        let last = self.nr_regions() - 1;
        let lost = |range| regions.tally(range).lost;
        lost(0..last) * blocks(0) + lost(last..last + 1) * blocks(last)
    }

    /// Returns the next piece; `None` if no lost region is left. Meanwhile `regions` may have been
    /// settled, but only up to the regions already split.
    pub(super) fn cut(&mut self, regions: &RegionMap) -> Option<Piece> {
        let run = if self.cut > 0 {
            self.region..self.region + 1
        } else {
            regions.first_lost_run(self.region)?
        };
        let region_bytes = bytes(self.geometry.region_size().sectors());
        match usize::try_from(region_bytes) {
            Ok(stride) if stride <= self.largest => Some(self.cut_regions(run, stride)),
            _ => Some(self.cut_part(run.start)),
        }
    }

    /// Returns a piece with as many regions of `run` as fit.
    fn cut_regions(&mut self, run: RegionRange, stride: usize) -> Piece {
        let count = (self.largest / stride) as u64;
        let regions = run.start..run.end.min(run.start + count);
        let bytes = self.bytes_of(regions.clone());
        self.region = regions.end;
        let len = (bytes.end - bytes.start) as usize;
        Piece { regions, offset: bytes.start, len, stride, rest: 0 }
    }

    /// Returns the next part of a large region.
    fn cut_part(&mut self, region: u64) -> Piece {
        let bytes = self.bytes_of(region..region + 1);
        let offset = bytes.start + self.cut;
        let len = (bytes.end - offset).min(self.largest as u64);
        let rest = bytes.end - offset - len;
        (self.region, self.cut) =
            if rest == 0 { (region + 1, 0) } else { (region, self.cut + len) };
        let regions = region..region + 1;
        Piece { regions, offset, len: len as usize, stride: self.largest, rest }
    }

    /// Skips the rest of the regions before `region`.
    pub(super) fn skip_to(&mut self, region: u64) {
        if self.region < region {
            (self.region, self.cut) = (region, 0);
        }
    }

    fn bytes_of(&self, regions: RegionRange) -> Range<u64> {
        let sectors = self.geometry.sectors_of(regions);
        bytes(sectors.start)..bytes(sectors.end)
    }
}

fn bytes(sectors: Sectors) -> u64 {
    sectors.to_bytes().expect("a clone has at most 2^31 regions of 1 GiB")
}
