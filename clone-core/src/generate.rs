//! Test metadata with a history, and damage to one of its blocks.
//!
//! [`metadata`] makes metadata with hundreds of commits, so that the device holds stale copies of
//! all blocks, like a device in use. [`mod@damage`] damages one block of it. The result of both
//! depends only on the seed and the arguments.
//!
//! Available with the feature `generate`, for tests and developer tools.
//!
//! ```
//! use clone_core::metadata::check::read;
//! use clone_core::generate::damage::{BlockRole, DamageKind, Target, damage};
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
//! let target = Target { role: BlockRole::ArrayBlock, ordinal: Some(2) };
//! let change = damage(&device, target, DamageKind::Zero, 1)?;
//! let report = read(&device, &());
//! assert_eq!(report.damage[0].block(), Some(change.at));
//! # Ok(())
//! # }
//! ```

mod block_role;
mod blocks;
mod churn;
pub mod damage;
mod damage_error;
pub mod metadata;
mod pattern;
mod regions;
mod stale;

use rand::RngExt;
use rand::rngs::StdRng;

pub use self::regions::Regions;

/// Returns a number from `1..=most`, `most >= 1`, with each order of magnitude equally likely.
fn of_any_size(rng: &mut StdRng, most: u64) -> u64 {
    let least = 1 << rng.random_range(0..=most.ilog2());
    rng.random_range(least..=most.min(2 * least - 1))
}

#[cfg(test)]
mod tests;
