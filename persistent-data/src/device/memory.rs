//! A device in memory.

use std::io;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use zerocopy::IntoBytes;

use super::{Device, ReadDevice, check_range};
use crate::block::RawBlock;
use crate::number::{BLOCK_SIZE, BlockNr};

/// A device in memory, for images in memory and for tests without faults.
#[derive(Debug)]
pub struct MemoryDevice {
    /// The number of blocks never changes.
    blocks: RwLock<Vec<RawBlock>>,
}

impl MemoryDevice {
    /// Creates a device of `nr_blocks` blocks of zeroes.
    pub fn new(nr_blocks: usize) -> Self {
        Self { blocks: RwLock::new(vec![RawBlock::ZERO; nr_blocks]) }
    }

    /// Creates a device that holds `bytes`. A partial block at the end is ignored, as in a file.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (whole, _) = bytes.as_chunks::<BLOCK_SIZE>();
        let device = Self::new(whole.len());
        device.blocks_mut().as_mut_bytes().copy_from_slice(whole.as_flattened());
        device
    }

    /// Returns a copy of the device's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.blocks().as_bytes().to_vec()
    }

    /// Returns a copy of the device's blocks.
    pub fn to_blocks(&self) -> Vec<RawBlock> {
        self.blocks().clone()
    }

    fn blocks(&self) -> RwLockReadGuard<'_, Vec<RawBlock>> {
        self.blocks.read().expect("nothing panics with the lock held")
    }

    fn blocks_mut(&self) -> RwLockWriteGuard<'_, Vec<RawBlock>> {
        self.blocks.write().expect("nothing panics with the lock held")
    }
}

impl ReadDevice for MemoryDevice {
    fn nr_blocks(&self) -> u64 {
        self.blocks().len() as u64
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        let blocks = self.blocks();
        check_range(blocks.len() as u64, first, into.len())?;
        into.clone_from_slice(&blocks[first.0 as usize..][..into.len()]);
        Ok(())
    }
}

impl Device for MemoryDevice {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        let mut blocks = self.blocks_mut();
        check_range(blocks.len() as u64, first, from.len())?;
        blocks[first.0 as usize..][..from.len()].clone_from_slice(from);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::MemoryDevice;
    use crate::block::RawBlock;
    use crate::device::{Device, ReadDevice};
    use crate::number::{BLOCK_SIZE, BlockNr};

    fn filled(byte: u8) -> RawBlock {
        let mut block = RawBlock::ZERO;
        block.bytes_mut().fill(byte);
        block
    }

    #[test]
    fn what_is_written_is_read_and_the_rest_stays() {
        let device = MemoryDevice::new(4);
        device.write(BlockNr(1), &[filled(1), filled(2)]).unwrap();
        device.flush().unwrap();
        let mut all = vec![filled(9); 4];
        device.read(BlockNr(0), &mut all).unwrap();
        assert_eq!(all, [RawBlock::ZERO, filled(1), filled(2), RawBlock::ZERO]);
        assert_eq!(device.to_blocks(), all);
    }

    #[test]
    fn past_the_end_nothing_is_read_and_nothing_is_written() {
        let device = MemoryDevice::new(2);
        for first in [1, 2, 3, u64::MAX] {
            let at = BlockNr(first);
            let read = device.read(at, &mut [RawBlock::ZERO, RawBlock::ZERO]).unwrap_err();
            assert_eq!(read.kind(), io::ErrorKind::UnexpectedEof);
            let write = device.write(at, &[filled(1), filled(1)]).unwrap_err();
            assert_eq!(write.kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(device.to_bytes(), [0; 2 * BLOCK_SIZE]);
    }

    #[test]
    fn bytes_become_blocks_and_a_part_of_a_block_is_ignored() {
        let bytes: Vec<u8> =
            (0..2 * BLOCK_SIZE + 100).map(|at| at as u8 ^ (at >> 8) as u8).collect();
        let device = MemoryDevice::from_bytes(&bytes);
        assert_eq!(device.nr_blocks(), 2);
        assert_eq!(device.to_bytes(), bytes[..2 * BLOCK_SIZE]);
        assert_eq!(MemoryDevice::from_bytes(&bytes[..100]).nr_blocks(), 0);
    }
}
