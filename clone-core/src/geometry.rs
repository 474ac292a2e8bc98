//! Sizes of a clone, and how they divide it into regions.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

/// A length or an offset in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

impl Sectors {
    /// The same length in bytes; `None` past `u64::MAX`.
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

/// The most regions that a clone has: the kernel target says "too many regions, consider
/// increasing the region size" above it (`dm-clone-target.c`).
pub const MAX_REGIONS: u64 = 1 << 31;

/// Region numbers, half-open.
pub type RegionRange = Range<u64>;

/// What is wrong with the sizes of a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// Not a size that the kernel target takes.
    #[error("a region size of {0} sectors: it must be a power of two from 8 to 2097152")]
    RegionSize(u64),
    /// A clone of nothing.
    #[error("a target size of 0 sectors")]
    Empty,
    /// More regions than the format and the kernel can hold.
    #[error(
        "{nr_regions} regions are more than the {MAX_REGIONS} that a clone can have: \
         use a larger region size"
    )]
    TooManyRegions {
        /// How many it would take.
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

    /// A region size of so many sectors.
    ///
    /// # Errors
    /// [`GeometryError::RegionSize`].
    pub fn new(sectors: Sectors) -> Result<Self, GeometryError> {
        let allowed = Self::MIN..=Self::MAX;
        if sectors.0.is_power_of_two() && allowed.contains(&sectors) {
            Ok(Self(sectors.0))
        } else {
            Err(GeometryError::RegionSize(sectors.0))
        }
    }

    /// In sectors.
    pub fn sectors(self) -> Sectors {
        Sectors(self.0)
    }
}

/// The sizes of a clone: what its superblock, its table line and its bitset must agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    region_size: RegionSize,
    target_size: Sectors,
}

impl Geometry {
    /// A clone of `target_size`, which need not be a multiple of the region size.
    ///
    /// # Errors
    /// [`GeometryError::Empty`] and [`GeometryError::TooManyRegions`].
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

    /// The size of every region but the last.
    pub fn region_size(&self) -> RegionSize {
        self.region_size
    }

    /// The size of the clone.
    pub fn target_size(&self) -> Sectors {
        self.target_size
    }

    /// How many regions there are, `1..=MAX_REGIONS`. The last one may be short.
    pub fn nr_regions(&self) -> u64 {
        self.target_size.0.div_ceil(self.region_size.0)
    }

    /// The sectors, half-open, of `regions`, which must be regions of the clone.
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
