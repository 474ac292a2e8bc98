//! Metadata to test with: made with a past, and damaged in one place.
//!
//! [`metadata`] makes metadata by hundreds of commits, so that the device holds stale copies of
//! everything, as one does that has been in use. [`mod@damage`] damages one block of it. Both do
//! the same for the same seed.
//!
//! Behind the feature `generate`, for tests and the tools of developers.
//!
//! ```
//! use clone_core::metadata::check::read;
//! use clone_core::generate::damage::{Harm, Kind, Target, damage};
//! use clone_core::generate::metadata::{Pattern, Recipe, make};
//! use clone_core::geometry::{Geometry, RegionSize, Sectors};
//! use clone_core::metadata::ir::Header;
//! use persistent_data::device::MemoryDevice;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let geometry = Geometry::new(RegionSize::new(Sectors(8))?, Sectors(1 << 21))?;
//! let header = Header { uuid: [0; 16], geometry };
//! let device = MemoryDevice::new(200);
//! let truth = make(&device, &Recipe::new(header, Pattern::FileSystem))?;
//! assert!(read(&device, &()).regions.ok_or("no superblock")?.runs().eq(truth.runs()));
//!
//! let target = Target { kind: Kind::ArrayBlock, ordinal: Some(2) };
//! let change = damage(&device, target, Harm::Zero, 1)?;
//! let report = read(&device, &());
//! assert_eq!(report.damage[0].block(), Some(change.at));
//! # Ok(())
//! # }
//! ```

mod blocks;
mod churn;
pub mod damage;
pub mod metadata;
mod pattern;
mod regions;
mod stale;

use rand::RngExt;
use rand::rngs::StdRng;

pub use self::regions::Regions;

/// A number from `1..=most`, where `most` is at least 1: as often from 1 to 9 as from 10 to 99.
fn of_any_size(rng: &mut StdRng, most: u64) -> u64 {
    let least = 1 << rng.random_range(0..=most.ilog2());
    rng.random_range(least..=most.min(2 * least - 1))
}

#[cfg(test)]
mod tests;
