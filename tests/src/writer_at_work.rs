//! A device whose clone goes on committing while its metadata is read.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use clone_core::geometry::RegionRange;
use clone_core::metadata::Metadata;
use clone_core::metadata::ir::Header;
use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::{MemoryDevice, ReadDevice};
use persistent_data::transaction::SUPERBLOCK;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::hydration::runs_of;

/// A clone that hydrates region after region, and all that it has ever committed.
#[derive(Debug)]
pub struct WriterAtWork {
    device: Arc<MemoryDevice>,
    metadata: Metadata<Arc<MemoryDevice>>,
    regions: Vec<bool>,
    /// The hydrated regions of every commit, the first one that of the format.
    pub committed: Vec<Vec<RegionRange>>,
    /// The superblock of every commit.
    pub superblocks: Vec<RawBlock>,
}

impl WriterAtWork {
    /// Formats a device.
    ///
    /// # Panics
    /// If it is too small.
    pub fn new(nr_blocks: usize, header: Header) -> Self {
        let device = Arc::new(MemoryDevice::new(nr_blocks));
        let metadata = Metadata::format(Arc::clone(&device), header).expect("room for metadata");
        let regions = vec![false; header.geometry.nr_regions() as usize];
        let (committed, superblocks) = (vec![vec![]], vec![]);
        let mut writer = Self { device, metadata, regions, committed, superblocks };
        writer.note_superblock();
        writer
    }

    /// Where the metadata is.
    pub fn device(&self) -> Arc<MemoryDevice> {
        Arc::clone(&self.device)
    }

    fn note_superblock(&mut self) {
        let mut block = RawBlock::ZERO;
        let read = self.device.read(SUPERBLOCK, std::slice::from_mut(&mut block));
        read.expect("memory can be read");
        self.superblocks.push(block);
    }

    fn hydrate(&mut self, rng: &mut StdRng) {
        let not_yet: Vec<usize> =
            (0..self.regions.len()).filter(|&region| !self.regions[region]).collect();
        if not_yet.is_empty() {
            return;
        }
        let first = not_yet[rng.random_range(0..not_yet.len())];
        let end = self.regions.len().min(first + rng.random_range(1..4));
        self.regions[first..end].fill(true);
        self.metadata.set_hydrated(first as u64..end as u64).expect("regions of the clone");
    }

    /// Writes what a commit would, but for the superblock.
    ///
    /// # Panics
    /// If that fails.
    pub fn prepare(&mut self, rng: &mut StdRng) {
        self.hydrate(rng);
        drop(self.metadata.prepare().expect("room for another copy"));
    }

    /// Hydrates something and commits.
    ///
    /// # Panics
    /// If that fails.
    pub fn commit(&mut self, rng: &mut StdRng) {
        self.hydrate(rng);
        self.commit_prepared();
    }

    /// Commits what was prepared, if there is anything.
    ///
    /// # Panics
    /// If that fails.
    pub fn commit_prepared(&mut self) {
        let prepared = self.metadata.prepare().expect("room for another copy");
        // Noted first: a reader may see it before the commit returns.
        self.committed.push(runs_of(&self.regions));
        prepared.commit().expect("memory can be written");
        self.note_superblock();
    }
}

/// What happens at a read, of which it gets the number.
pub type AtRead = dyn FnMut(&mut WriterAtWork, u64) + Send;

/// A device that lets the writer work before each read of it.
pub struct Busy {
    device: Arc<MemoryDevice>,
    inside: Mutex<Inside>,
}

struct Inside {
    writer: WriterAtWork,
    at_read: Box<AtRead>,
    reads: u64,
}

impl std::fmt::Debug for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Busy").finish_non_exhaustive()
    }
}

impl Busy {
    /// Lets `at_read` happen before each read of the device of `writer`.
    pub fn new(writer: WriterAtWork, at_read: Box<AtRead>) -> Self {
        let device = writer.device();
        Self { device, inside: Mutex::new(Inside { writer, at_read, reads: 0 }) }
    }

    /// How often it has been read.
    pub fn reads(&self) -> u64 {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).reads
    }

    /// The writer, when all is over.
    pub fn into_writer(self) -> WriterAtWork {
        self.inside.into_inner().unwrap_or_else(PoisonError::into_inner).writer
    }
}

impl ReadDevice for Busy {
    fn nr_blocks(&self) -> u64 {
        self.device.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let Inside { writer, at_read, reads } = &mut *inside;
        at_read(writer, *reads);
        *reads += 1;
        self.device.read(first, into)
    }
}
