//! clone-core writes the same metadata as the kernel.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::Range;

use clone_core::metadata::Metadata;
use clone_core::metadata::check::read;
use clone_core::metadata::superblock::Superblock;
use clone_tests::fixtures;
use persistent_data::BlockNr;
use persistent_data::array::ArrayBlockRef;
use persistent_data::btree::{NodeDamage, NodeView, WalkVisitor, walk};
use persistent_data::device::{MemoryDevice, ReadDevice};
use persistent_data::format::ArrayBlock;
use persistent_data::store::{DeviceReader, Reader};
use zerocopy::{IntoBytes, little_endian as le};

/// Indexes and block numbers of the array blocks of a bitset.
struct ArrayBlocks(Vec<(u64, BlockNr)>);

impl WalkVisitor<ArrayBlockRef<le::U64>> for ArrayBlocks {
    fn node(&mut self, _: BlockNr, _: &Range<u64>) -> bool {
        true
    }

    fn leaf(&mut self, _: BlockNr, _: &Range<u64>, leaf: &NodeView<'_, ArrayBlockRef<le::U64>>) {
        self.0.extend(leaf.entries().map(|(index, block)| (index, block.at())));
    }

    fn damage(&mut self, damage: NodeDamage) {
        panic!("{damage:?}");
    }
}

/// Returns the array blocks of the bitset on `device` by index: their bytes without checksum and
/// block number.
fn array_blocks(device: &MemoryDevice) -> Vec<(u64, Vec<u8>)> {
    let reader = DeviceReader(device);
    let mut blocks = ArrayBlocks(Vec::new());
    walk(&reader, Superblock::read(device).unwrap().bitset_root, &mut blocks);
    let content = |&(index, at): &(u64, BlockNr)| {
        let mut disk = (*reader.read::<ArrayBlock>(at).unwrap()).clone();
        disk.header.csum.set(0);
        disk.header.blocknr.set(0);
        (index, disk.as_bytes().to_vec())
    };
    blocks.0.iter().map(content).collect()
}

#[test]
fn the_same_regions_give_the_kernels_array_blocks_and_figures() {
    for name in ["fresh", "tail", "huge-region", "complete"] {
        let (kernels, expected) = fixtures::load(name);
        let header = read(&kernels, &()).header().unwrap();
        let ours = MemoryDevice::new(kernels.nr_blocks() as usize);
        let mut metadata = Metadata::format(&ours, header).unwrap();
        for run in expected.runs() {
            metadata.set_hydrated(run).unwrap();
        }
        metadata.commit().unwrap();

        let (block_use, (hydrated, nr_regions)) = expected.status_figures();
        assert_eq!(metadata.block_use(), block_use, "{name}");
        assert_eq!((metadata.nr_hydrated(), metadata.nr_regions()), (hydrated, nr_regions));
        assert!(array_blocks(&ours) == array_blocks(&kernels), "{name}: array blocks");
    }
}
