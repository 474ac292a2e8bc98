//! The content of a simulated disk.

use std::io;
use std::sync::Arc;

use crate::block::RawBlock;
use crate::device::{ReadDevice, check_range};
use crate::number::BlockNr;

/// Size in bytes of the unit that survives whole or not at all.
pub(super) const SECTOR_SIZE: usize = 512;

/// The bytes of a sector.
pub(super) type Sector = [u8; SECTOR_SIZE];

/// Sectors in a block.
pub(super) const SECTORS_PER_BLOCK: usize = crate::number::BLOCK_SIZE / SECTOR_SIZE;

/// The content of a simulated disk. Copies share their equal blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    blocks: Vec<Arc<RawBlock>>,
}

impl Image {
    /// Creates an image of `nr_blocks` blocks of zeroes.
    pub fn new(nr_blocks: usize) -> Self {
        let zero = Arc::new(RawBlock::ZERO);
        Self { blocks: vec![zero; nr_blocks] }
    }

    /// Returns the block at `at`.
    ///
    /// # Panics
    /// If `at` is past the end.
    pub fn block(&self, at: BlockNr) -> &RawBlock {
        &self.blocks[at.0 as usize]
    }

    /// Stores `content` as sector `sector`, counted from the start of the image.
    pub(super) fn write_sector(&mut self, sector: u64, content: &Sector) {
        let block = &mut self.blocks[sector as usize / SECTORS_PER_BLOCK];
        let (sectors, _) = Arc::make_mut(block).bytes_mut().as_chunks_mut::<SECTOR_SIZE>();
        sectors[sector as usize % SECTORS_PER_BLOCK] = *content;
    }
}

impl FromIterator<RawBlock> for Image {
    fn from_iter<I: IntoIterator<Item = RawBlock>>(blocks: I) -> Self {
        Self { blocks: blocks.into_iter().map(Arc::new).collect() }
    }
}

impl ReadDevice for Image {
    fn nr_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        check_range(self.nr_blocks(), first, into.len())?;
        for (into, block) in into.iter_mut().zip(&self.blocks[first.0 as usize..]) {
            into.clone_from(block);
        }
        Ok(())
    }
}
