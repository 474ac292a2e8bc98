//! dm-clone metadata: which regions of a clone have been copied to its destination.
//!
//! [`check`](mod@check) reads all of it and tells what is wrong, [`damage`] says how bad that is,
//! [`live`] does the same beside a running clone; [`dump`](mod@dump) hands out what it says,
//! [`restore`](mod@restore) makes it anew, [`auto_repair`](mod@auto_repair) puts right what is
//! merely untidy, and [`metadata`] opens it for marking regions as hydrated. Where it is lost,
//! [`content`] compares the clone's devices instead. [`target`] is the text that a clone is made
//! of, and that it answers with. [`engine`] is a clone that runs, as a state machine, and
//! [`driver`] lets it run on real devices: only there are clocks and threads, but for those of
//! [`content`].
//!
//! # What makes a hydrated bit true
//!
//! A bit says that the destination holds the region's data. It is set in memory when the data has
//! landed there, and written only after the destination was flushed. A commit is two steps,
//! [`prepare`](metadata::Metadata::prepare), which writes all blocks but the superblock, and
//! [`commit`](metadata::Prepared::commit), which writes that one. The flush of the destination
//! comes before the first, as in the kernel: [`repair`](mod@repair) may believe a block that an
//! unfinished commit left, so no block on the metadata device may ever hold a bit that is not true
//! yet. Bits only ever go from zero to one, so whatever a crash leaves is true, if perhaps less
//! than the whole truth.
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
//! // Here the destination is flushed: from now on the metadata device may say what was set.
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
