//! A survey of all blocks of a metadata device, used or not, that finds those related to metadata.

use std::io;

use fixedbitset::FixedBitSet;
use persistent_data::BlockNr;
use persistent_data::block::{self, BlockKind, RawBlock};
use persistent_data::btree::{Parsed, parse};
use persistent_data::device::ReadDevice;
use persistent_data::format::{ArrayBlock, Bitmap, IndexBlock, Node, NodeDisk, SpaceMapRoot};
use persistent_data::space_map::walk::SpaceMapReading;
use persistent_data::store::DeviceReader;
use persistent_data::transaction::SUPERBLOCK;
use zerocopy::little_endian as le;

use crate::metadata::format::Superblock;
use crate::metadata::superblock;
use crate::progress::Progress;

/// Number of blocks in one read.
const BATCH: usize = 256;

/// Result of a [`survey`].
#[derive(Debug)]
pub struct Survey {
    /// Blocks that are, were or should be metadata, and are not all zeroes.
    relevant: FixedBitSet,
    other: u64,
    unreadable: Vec<(BlockNr, io::Error)>,
}

impl Survey {
    /// Returns the relevant blocks, ascending: those that are not all zeroes and
    ///
    /// - have the checksum of some kind of metadata block, with any stored block number,
    /// - or are referred to by a block with such a checksum, used or not,
    /// - or are used according to the space map,
    /// - or are the superblock.
    ///
    /// They include all used blocks and all formerly used ones that were not overwritten.
    pub fn relevant(&self) -> impl Iterator<Item = BlockNr> + '_ {
        self.relevant.ones().map(|block| BlockNr(block as u64))
    }

    /// Returns the number of [`relevant`](Self::relevant) blocks.
    pub fn nr_relevant(&self) -> u64 {
        self.relevant.count_ones(..) as u64
    }

    /// Returns the number of nonzero blocks without relation to metadata, such as older content of
    /// the device.
    pub fn nr_other(&self) -> u64 {
        self.other
    }

    /// Returns the unreadable blocks and their errors, ascending.
    pub fn unreadable(&self) -> &[(BlockNr, io::Error)] {
        &self.unreadable
    }
}

/// Reads all of `device`, for any content of it.
///
/// It takes three bits of memory per block.
pub fn survey<D: ReadDevice + ?Sized>(device: &D, progress: &dyn Progress) -> Survey {
    let nr_blocks = device.nr_blocks();
    let bits = || FixedBitSet::with_capacity(usize::try_from(nr_blocks).unwrap_or(usize::MAX));
    let mut blocks =
        Blocks { not_zero: bits(), valid: bits(), wanted: bits(), unreadable: Vec::new() };
    progress.set_total(nr_blocks);
    let mut buffer = vec![RawBlock::ZERO; BATCH];
    let (mut next, mut told) = (device.skip_hole(BlockNr(0)).0, 0);
    while next < nr_blocks {
        let batch = &mut buffer[..BATCH.min((nr_blocks - next) as usize)];
        blocks.read(device, next, batch);
        let end = next + batch.len() as u64;
        progress.advance(end - told);
        told = end;
        next = device.skip_hole(BlockNr(end)).0;
    }
    blocks.want(SUPERBLOCK);
    blocks.want_counted(device);

    let Blocks { not_zero, valid, wanted: mut relevant, unreadable } = blocks;
    relevant.union_with(&valid);
    relevant.intersect_with(&not_zero);
    let other = not_zero.difference_count(&relevant) as u64;
    Survey { relevant, other, unreadable }
}

/// A survey in progress.
struct Blocks {
    not_zero: FixedBitSet,
    /// Blocks with the checksum of some kind.
    valid: FixedBitSet,
    /// Blocks that are referred to or counted.
    wanted: FixedBitSet,
    unreadable: Vec<(BlockNr, io::Error)>,
}

impl Blocks {
    /// Reads the blocks from `first` on, one by one if they cannot be read together.
    fn read<D: ReadDevice + ?Sized>(&mut self, device: &D, first: u64, batch: &mut [RawBlock]) {
        if device.read(BlockNr(first), batch).is_ok() {
            for (block, at) in batch.iter().zip(first..) {
                self.look_at(block, at);
            }
            return;
        }
        for (block, at) in batch.iter_mut().zip(first..) {
            match device.read(BlockNr(at), std::slice::from_mut(block)) {
                Ok(()) => self.look_at(block, at),
                Err(error) => self.unreadable.push((BlockNr(at), error)),
            }
        }
    }

    fn look_at(&mut self, block: &RawBlock, at: u64) {
        // Much faster than a check of each byte, and most blocks of most devices are zeroes.
        if *block == RawBlock::ZERO {
            return;
        }
        self.not_zero.insert(at as usize);
        // If the checksum is correct for a kind of block, this is the salt of that kind.
        let salt = block::checksum(block, 0) ^ block::stored_checksum(block);
        match salt {
            Superblock::CSUM_SALT => self.want_roots(block),
            Node::CSUM_SALT => self.want_children(block::view::<Node>(block)),
            IndexBlock::CSUM_SALT => {
                for entry in &block::view::<IndexBlock>(block).entries {
                    self.want(BlockNr(entry.blocknr.get()));
                }
            }
            Bitmap::CSUM_SALT | ArrayBlock::CSUM_SALT => {}
            _ => return,
        }
        self.valid.insert(at as usize);
    }

    fn want_roots(&mut self, block: &RawBlock) {
        let disk = block::view::<Superblock>(block);
        let root = SpaceMapRoot::from_area(&disk.metadata_space_map_root);
        for at in [disk.bitset_root, root.bitmap_root, root.ref_count_root] {
            self.want(BlockNr(at.get()));
        }
    }

    /// Marks the values of a node: both internal nodes and leaves of the bitset hold block numbers.
    fn want_children(&mut self, node: &NodeDisk) {
        if let Ok(Parsed::Internal(view) | Parsed::Leaf(view)) = parse::<le::U64>(node) {
            for (_, value) in view.entries() {
                self.want(BlockNr(value.get()));
            }
        }
    }

    /// Marks the blocks that the space map counts as used: a leaked one has no reference.
    fn want_counted<D: ReadDevice + ?Sized>(&mut self, device: &D) {
        let Ok(superblock) = superblock::Superblock::read(device) else { return };
        let root = SpaceMapRoot::from_area(&superblock.space_map_root);
        let reader = DeviceReader(device);
        let reading = SpaceMapReading::read(&reader, root, device.nr_blocks(), |_| true, |_| ());
        for at in reading.iter().flat_map(SpaceMapReading::counted) {
            self.want(at);
        }
    }

    /// Marks a block. Block numbers past the end are ignored.
    fn want(&mut self, at: BlockNr) {
        if let Some(index) = usize::try_from(at.0).ok().filter(|&index| index < self.wanted.len()) {
            self.wanted.insert(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;

    use persistent_data::BlockNr;
    use persistent_data::block::{self, RawBlock, seal};
    use persistent_data::device::{Device, MemoryDevice, ReadDevice};
    use persistent_data::format::Bitmap;

    use super::{BATCH, survey};
    use crate::geometry::{Geometry, RegionSize, Sectors};
    use crate::metadata::format::Superblock;
    use crate::metadata::ir::Header;
    use crate::metadata::restore::restore;

    const NR_BLOCKS: u64 = 600;

    /// Makes a device with metadata in its first blocks and zeroes after them.
    fn metadata() -> MemoryDevice {
        let geometry =
            Geometry::new(RegionSize::new(Sectors(8)).unwrap(), Sectors(8 * 100_000)).unwrap();
        let device = MemoryDevice::new(NR_BLOCKS as usize);
        let header = Header { uuid: [0; 16], geometry };
        restore(&device, header, [Ok::<_, Infallible>(7..50_000)], &()).unwrap();
        device
    }

    fn relevant(device: &impl ReadDevice) -> Vec<u64> {
        survey(device, &()).relevant().map(|at| at.0).collect()
    }

    fn block_of(byte: u8) -> RawBlock {
        let mut block = RawBlock::ZERO;
        block.bytes_mut().fill(byte);
        block
    }

    fn change(device: &MemoryDevice, at: u64, change: impl FnOnce(&mut RawBlock)) {
        let mut block = device.to_blocks()[at as usize].clone();
        change(&mut block);
        device.write(BlockNr(at), &[block]).unwrap();
    }

    #[test]
    fn what_is_not_metadata_is_counted_and_what_was_metadata_is_relevant() {
        let device = metadata();
        let in_use = relevant(&device);
        let not_zero = device.to_blocks().iter().filter(|block| !block.is_zero()).count();
        assert_eq!(in_use.len(), not_zero);
        assert!(in_use.len() >= 7, "{in_use:?}");

        device.write(BlockNr(500), &[block_of(7)]).unwrap();
        let mut elsewhere = RawBlock::ZERO;
        seal::<Bitmap>(&mut elsewhere, BlockNr(3));
        device.write(BlockNr(501), &[elsewhere]).unwrap();
        let found = survey(&device, &());
        assert_eq!(found.nr_other(), 1);
        assert_eq!(found.nr_relevant(), in_use.len() as u64 + 1);
        assert_eq!(found.relevant().last(), Some(BlockNr(501)));
    }

    #[test]
    fn damaged_blocks_in_use_are_relevant_whichever_they_are() {
        let whole = metadata();
        let in_use = relevant(&whole);
        for &at in &in_use {
            let device = MemoryDevice::from_bytes(&whole.to_bytes());
            change(&device, at, |block| block.bytes_mut()[2000] ^= 1);
            assert!(relevant(&device).contains(&at), "block {at} of {in_use:?}");
        }
    }

    #[test]
    fn a_superblock_of_another_version_still_leads_to_damaged_roots() {
        let device = metadata();
        let disk = block::view::<Superblock>(&device.to_blocks()[0]).clone();
        let root = disk.bitset_root.get();
        change(&device, root, |block| block.bytes_mut()[2000] ^= 1);
        change(&device, 0, |block| {
            block::view_mut::<Superblock>(block).version.set(2);
            seal::<Superblock>(block, BlockNr(0));
        });
        assert!(relevant(&device).contains(&root));
    }

    #[test]
    fn whatever_is_in_the_superblocks_place_is_relevant_unless_it_is_zeroes() {
        let device = MemoryDevice::new(3);
        assert!(relevant(&device).is_empty());
        for at in 0..3 {
            device.write(BlockNr(at), &[block_of(1)]).unwrap();
        }
        assert_eq!(relevant(&device), [0]);
        assert_eq!(survey(&device, &()).nr_other(), 2);
        assert!(relevant(&MemoryDevice::new(0)).is_empty());
    }

    /// A device with an unreadable block.
    struct Bad<'a>(&'a MemoryDevice, u64);

    impl ReadDevice for Bad<'_> {
        fn nr_blocks(&self) -> u64 {
            self.0.nr_blocks()
        }

        fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
            if (first.0..first.0 + into.len() as u64).contains(&self.1) {
                return Err(io::Error::other("a bad block"));
            }
            self.0.read(first, into)
        }
    }

    #[test]
    fn a_block_that_cannot_be_read_costs_no_other() {
        let device = metadata();
        let in_use = relevant(&device);
        for bad in [in_use[0], in_use[3], BATCH as u64 + 1] {
            let found = survey(&Bad(&device, bad), &());
            let unreadable: Vec<u64> = found.unreadable().iter().map(|(at, _)| at.0).collect();
            assert_eq!(unreadable, [bad]);
            let relevant: Vec<u64> = found.relevant().map(|at| at.0).collect();
            let rest: Vec<u64> = in_use.iter().copied().filter(|&at| at != bad).collect();
            assert_eq!(relevant, rest, "without block {bad}");
        }
    }
}
