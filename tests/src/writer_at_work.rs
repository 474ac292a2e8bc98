//! A device whose clone continues to commit while its metadata is read.

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

/// A clone that hydrates one region after the other, and the history of its commits.
#[derive(Debug)]
pub struct WriterAtWork {
    device: Arc<MemoryDevice>,
    metadata: Metadata<Arc<MemoryDevice>>,
    regions: Vec<bool>,
    /// The hydrated regions of every commit. The first one is the commit of the format.
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

    /// Returns the metadata device.
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

    /// Writes everything of a commit except the superblock.
    ///
    /// # Panics
    /// If that fails.
    pub fn prepare(&mut self, rng: &mut StdRng) {
        self.hydrate(rng);
        drop(self.metadata.prepare().expect("room for another copy"));
    }

    /// Hydrates random regions and commits.
    ///
    /// # Panics
    /// If that fails.
    pub fn commit(&mut self, rng: &mut StdRng) {
        self.hydrate(rng);
        self.commit_prepared();
    }

    /// Commits the prepared changes, if there are any.
    ///
    /// # Panics
    /// If that fails.
    pub fn commit_prepared(&mut self) {
        let prepared = self.metadata.prepare().expect("room for another copy");
        // Recorded first, because a reader may see the commit before this call returns.
        self.committed.push(runs_of(&self.regions));
        prepared.commit().expect("memory can be written");
        self.note_superblock();
    }
}

/// The writer's action before a read, which gets the number of the read.
pub type AtRead = dyn FnMut(&mut WriterAtWork, u64) + Send;

/// A device on which the writer acts before each read.
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
    /// Runs `at_read` before each read of the device of `writer`.
    pub fn new(writer: WriterAtWork, at_read: Box<AtRead>) -> Self {
        let device = writer.device();
        Self { device, inside: Mutex::new(Inside { writer, at_read, reads: 0 }) }
    }

    /// Returns the number of reads so far.
    pub fn reads(&self) -> u64 {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).reads
    }

    /// Returns the writer at the end.
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
