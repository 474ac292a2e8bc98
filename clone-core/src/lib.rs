//! dm-clone metadata, which records the regions of a clone that are copied to its destination, and
//! an engine that runs such clones.
//!
//! - [`metadata`]: the metadata on its device. [`check`](metadata::check) reads all of it and
//!   reports its [`damage`](metadata::damage), [`live`](metadata::live) does so while a clone runs,
//!   [`dump`](metadata::dump) exports it, [`restore`](metadata::restore) creates it,
//!   [`auto_repair`](metadata::auto_repair) corrects harmless damage in place, and
//!   [`Metadata`](metadata::Metadata) marks regions as hydrated.
//! - [`repair`] recovers what damaged metadata still proves. If the metadata is lost,
//!   [`content`](repair::content) compares the devices of the clone.
//! - [`dm_target`] parses and prints the table lines, status lines and messages of a clone.
//! - [`block_io`]: the devices that hold the data of a clone.
//! - [`engine`] is a running clone as a state machine, and [`driver`] runs it on real devices. Only
//!   the driver and [`content`](repair::content) use threads, and only the driver uses clocks.
//!
//! # Why a hydrated bit is true
//!
//! A bit means that the destination holds the region's data. It is set in memory after the data
//! were written there, and on the metadata device only after a flush of the destination. A commit
//! has two steps: [`prepare`](metadata::Metadata::prepare) writes all blocks but the superblock,
//! and [`commit`](metadata::Prepared::commit) writes the superblock. The destination is flushed
//! before the first step, as in the kernel: [`repair`] may use a block of an unfinished
//! commit, so no block on the metadata device may ever hold a bit that is not true yet. Bits only
//! change from zero to one, so the bits that remain after a crash are true, although some that were
//! set may be missing.
//!
//! ```
//! use clone_core::metadata::check::read;
//! use clone_core::geometry::{Geometry, RegionSize, Sectors};
//! use clone_core::metadata::ir::Header;
//! use clone_core::metadata::Metadata;
//! use persistent_data::device::MemoryDevice;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let geometry = Geometry::new(RegionSize::new(Sectors(8))?, Sectors(1 << 21))?;
//! let device = MemoryDevice::new(2048);
//! let mut metadata = Metadata::format(&device, Header { uuid: [0; 16], geometry })?;
//! metadata.set_hydrated(256..272)?;
//! // Here the destination is flushed. After that the bits may reach the metadata device.
//! let prepared = metadata.prepare()?;
//! prepared.commit()?;
//!
//! let report = read(&device, &());
//! assert!(report.damage.is_empty());
//! let regions = report.regions.ok_or("no superblock")?;
//! assert!(regions.runs().eq([256..272]));
//! # Ok(())
//! # }
//! ```

pub mod block_io;
pub mod dm_target;
pub mod driver;
pub mod engine;
#[cfg(any(test, feature = "generate"))]
pub mod generate;
pub mod geometry;
pub mod metadata;
pub mod progress;
pub mod repair;
pub mod size;
pub mod sync;
