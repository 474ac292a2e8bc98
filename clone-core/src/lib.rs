//! dm-clone metadata: which regions of a clone have been copied to its destination.
//!
//! [`check`](mod@check) reads all of it and tells what is wrong, [`damage`] says how bad that is,
//! [`live`] does the same beside a running clone; [`dump`](mod@dump) hands out what it says,
//! [`restore`](mod@restore) makes it anew, [`auto_repair`](mod@auto_repair) puts right what is
//! merely untidy, and [`metadata`] opens it for marking regions as hydrated. Where it is lost,
//! [`content`] compares the clone's devices instead.
//!
//! # What makes a hydrated bit true
//!
//! A bit says that the destination holds the region's data. It is set in memory when the data has
//! landed there, and committed only after the destination was flushed: that is why a commit is two
//! steps, [`prepare`](metadata::Metadata::prepare) and
//! [`commit`](metadata::Prepared::commit), with the flush between them. Bits only ever go from
//! zero to one, so whatever a crash leaves is true, if perhaps less than the whole truth.
//!
//! ```
//! use clone_core::check::read;
//! use clone_core::geometry::{Geometry, RegionSize, Sectors};
//! use clone_core::ir::Header;
//! use clone_core::metadata::Metadata;
//! use persistent_data::device::MemoryDevice;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let geometry = Geometry::new(RegionSize::new(Sectors(8))?, Sectors(1 << 21))?;
//! let device = MemoryDevice::new(2048);
//! let mut metadata = Metadata::format(&device, Header { uuid: [0; 16], geometry })?;
//! metadata.set_hydrated(256..272)?;
//! let prepared = metadata.prepare()?;
//! // Here the destination is flushed.
//! prepared.commit()?;
//!
//! let report = read(&device, &());
//! assert!(report.damage.is_empty());
//! let regions = report.regions.ok_or("no superblock")?;
//! assert!(regions.runs().eq([256..272]));
//! # Ok(())
//! # }
//! ```

pub mod auto_repair;
pub mod check;
pub mod content;
pub mod damage;
pub mod dump;
pub mod format;
#[cfg(any(test, feature = "generate"))]
pub mod generate;
pub mod geometry;
pub mod ir;
pub mod live;
pub mod metadata;
pub mod progress;
pub mod region_map;
pub mod repair;
pub mod restore;
pub mod size;
pub mod superblock;
pub mod survey;
