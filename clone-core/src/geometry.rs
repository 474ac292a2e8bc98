//! The sizes of a clone, and its division into regions.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

/// A length or an offset in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

impl Sectors {
    /// Returns the length in bytes, or `None` if it exceeds `u64::MAX`.
    pub fn to_bytes(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_SIZE)
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes in a sector.
pub const SECTOR_SIZE: u64 = 512;

/// Maximum number of regions of a clone. For more, the kernel target reports "too many regions,
/// consider increasing the region size" (`dm-clone-target.c`).
pub const MAX_REGIONS: u64 = 1 << 31;

/// A half-open range of region numbers.
pub type RegionRange = Range<u64>;

/// An invalid size of a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// The kernel target does not accept this region size.
    #[error("a region size of {0} sectors: it must be a power of two from 8 to 2097152")]
    RegionSize(u64),
    /// The target size is zero.
    #[error("a target size of 0 sectors")]
    Empty,
    /// The clone would have more regions than the format and the kernel support.
    #[error(
        "{nr_regions} regions are more than the {MAX_REGIONS} that a clone can have: \
         use a larger region size"
    )]
    TooManyRegions {
        /// Number of regions that it would have.
        nr_regions: u64,
    },
}

/// The size of a region: a power of two, 4 KiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionSize(u64);

impl RegionSize {
    /// The smallest size, 4 KiB.
    pub const MIN: Sectors = Sectors(8);
    /// The largest size, 1 GiB.
    pub const MAX: Sectors = Sectors(1 << 21);

    /// Makes a region size from a number of sectors.
    ///
    /// # Errors
    /// [`GeometryError::RegionSize`] unless it is a power of two from [`MIN`](Self::MIN) to
    /// [`MAX`](Self::MAX).
    pub fn new(sectors: Sectors) -> Result<Self, GeometryError> {
        let allowed = Self::MIN..=Self::MAX;
        if sectors.0.is_power_of_two() && allowed.contains(&sectors) {
            Ok(Self(sectors.0))
        } else {
            Err(GeometryError::RegionSize(sectors.0))
        }
    }

    /// Returns the size in sectors.
    pub fn sectors(self) -> Sectors {
        Sectors(self.0)
    }
}

/// The sizes of a clone. Its superblock, table line and bitset must agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    region_size: RegionSize,
    target_size: Sectors,
}

impl Geometry {
    /// Makes the geometry of a clone of `target_size`, which need not be a multiple of the region
    /// size.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] if `target_size` is zero, and [`GeometryError::TooManyRegions`] for
    /// more than [`MAX_REGIONS`].
    pub fn new(region_size: RegionSize, target_size: Sectors) -> Result<Self, GeometryError> {
        if target_size.0 == 0 {
            return Err(GeometryError::Empty);
        }
        let geometry = Self { region_size, target_size };
        match geometry.nr_regions() {
            nr_regions if nr_regions > MAX_REGIONS => {
                Err(GeometryError::TooManyRegions { nr_regions })
            }
            _ => Ok(geometry),
        }
    }

    /// Returns the size of every region but the last, which may be shorter.
    pub fn region_size(&self) -> RegionSize {
        self.region_size
    }

    /// Returns the size of the clone.
    pub fn target_size(&self) -> Sectors {
        self.target_size
    }

    /// Returns the number of regions, `1..=MAX_REGIONS`. The last one may be short.
    pub fn nr_regions(&self) -> u64 {
        self.target_size.0.div_ceil(self.region_size.0)
    }

    /// Returns the sectors, half-open, of `regions`, which must be regions of the clone.
    pub fn sectors_of(&self, regions: RegionRange) -> Range<Sectors> {
        let sector = |region: u64| Sectors((region * self.region_size.0).min(self.target_size.0));
        sector(regions.start)..sector(regions.end)
    }
}

#[cfg(test)]
mod tests {
    use super::{Geometry, GeometryError, MAX_REGIONS, RegionSize, Sectors};

    #[test]
    fn only_powers_of_two_from_8_to_2097152_are_region_sizes() {
        let allowed: Vec<u64> =
            (0..=1 << 22).filter(|&n| RegionSize::new(Sectors(n)).is_ok()).collect();
        let powers: Vec<u64> = (3..=21).map(|bit| 1 << bit).collect();
        assert_eq!(allowed, powers);
        assert!(RegionSize::new(Sectors(u64::MAX)).is_err());
        assert!(RegionSize::new(Sectors(1 << 63)).is_err());
    }

    #[test]
    fn a_started_region_counts() {
        let size = RegionSize::new(Sectors(8)).unwrap();
        let regions =
            |sectors| Geometry::new(size, Sectors(sectors)).map(|geometry| geometry.nr_regions());
        assert_eq!(regions(0), Err(GeometryError::Empty));
        assert_eq!(regions(1), Ok(1));
        assert_eq!(regions(8), Ok(1));
        assert_eq!(regions(9), Ok(2));
        assert_eq!(regions(8 * MAX_REGIONS), Ok(MAX_REGIONS));
        assert_eq!(
            regions(8 * MAX_REGIONS + 1),
            Err(GeometryError::TooManyRegions { nr_regions: MAX_REGIONS + 1 })
        );
        assert!(regions(u64::MAX).is_err());
    }

    #[test]
    fn the_last_region_ends_with_the_target() {
        let geometry =
            Geometry::new(RegionSize::new(Sectors(64)).unwrap(), Sectors(1_000_003)).unwrap();
        assert_eq!(geometry.nr_regions(), 15626);
        assert_eq!(geometry.sectors_of(15625..15626), Sectors(1_000_000)..Sectors(1_000_003));
        assert_eq!(geometry.sectors_of(0..1), Sectors(0)..Sectors(64));
    }
}
