//! Clones in memory.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clone_core::block_io::ReadData;
use clone_core::block_io::{Destination, Extent, Source};
use clone_core::driver::{Devices, DriverOptions, RunningClone};
use clone_core::engine::Settings;
use clone_core::geometry::{Geometry, RegionSize, Sectors};
use clone_core::metadata::Metadata;
use clone_core::metadata::ir::Header;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_daemon::export::volume::{Volume, Volumes};
use persistent_data::sim::SimDisk;

/// Starts a clone of `source` with regions of 4 KiB and no hydrated region.
///
/// # Panics
/// If no threads can be started.
pub fn start(size: Sectors, source: Arc<dyn Source>) -> RunningClone<SimDisk> {
    let geometry = Geometry::new(RegionSize::new(Sectors(8)).expect("8 sectors"), size);
    let geometry = geometry.expect("it is small");
    let blocks = MetadataSize::of(geometry).total_blocks() as usize;
    let header = Header { uuid: [0; 16], geometry };
    let metadata = Metadata::format(SimDisk::new(blocks), header).expect("it is blank");
    let bytes = (size.0 * 512) as usize;
    let destination = Arc::new(Memory::new(vec![0xee; bytes]));
    let devices = Devices { metadata, source, destination };
    let clone = RunningClone::start(devices, Settings::default(), DriverOptions::default());
    clone.expect("there are threads")
}

/// The only volume.
pub struct One(pub Arc<Volume>);

impl Volumes for One {
    fn names(&self) -> Vec<String> {
        vec![self.0.name().into()]
    }

    fn find(&self, name: &str) -> Option<Arc<Volume>> {
        ["", self.0.name()].contains(&name).then(|| self.0.clone())
    }
}

/// A device in memory. Zero ranges are known in whole pages.
pub struct Memory(Mutex<Vec<u8>>);

const PAGE: usize = 4096;

impl Memory {
    /// Creates a device that holds `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(bytes))
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, offset: u64) -> Extent {
        let bytes = self.bytes();
        let at = offset as usize;
        let page = at / PAGE * PAGE;
        let end = (page + PAGE).min(bytes.len());
        Extent { zeroes: bytes[page..end].iter().all(|&byte| byte == 0), end: end as u64 }
    }
}

impl ReadData for Memory {
    fn size_bytes(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.bytes()[offset as usize..][..into.len()]);
        Ok(())
    }
}

impl Source for Memory {
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        Ok(self.known(offset))
    }
}

impl Destination for Memory {
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        Ok(self.known(offset))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.bytes()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, range: Range<u64>, _deallocate: bool) -> io::Result<()> {
        self.bytes()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.zero(range, true)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
