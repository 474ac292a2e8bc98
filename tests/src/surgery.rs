//! Damages metadata in one place, and keeps the checksums right.

use clone_core::metadata::format::{Superblock, SuperblockDisk};
use persistent_data::BlockNr;
use persistent_data::block::{self, BlockKind, RawBlock};
use persistent_data::format::{
    Bitmap, IndexBlock, Node, NodeDisk, RefCountBits, SpaceMapRoot, node_capacity,
};
use persistent_data::sim::SimDisk;
use persistent_data::transaction::SUPERBLOCK;
use rand::RngExt;
use rand::rngs::StdRng;

/// A metadata device of one bitmap, open for changes.
#[derive(Clone, Debug)]
pub struct Surgery {
    blocks: Vec<RawBlock>,
}

impl Surgery {
    /// Opens a copy of `disk`.
    pub fn of(disk: &SimDisk) -> Self {
        let image = disk.live_image();
        let nr_blocks = persistent_data::device::ReadDevice::nr_blocks(&image);
        Self { blocks: (0..nr_blocks).map(|at| image.block(BlockNr(at)).clone()).collect() }
    }

    /// Returns a disk with the changed blocks.
    pub fn disk(&self) -> SimDisk {
        SimDisk::from_blocks(self.blocks.iter().cloned())
    }

    /// Changes the block at `at` and updates its checksum.
    pub fn edit<K: BlockKind>(&mut self, at: BlockNr, change: impl FnOnce(&mut K::Disk)) {
        let block = &mut self.blocks[at.0 as usize];
        change(block::view_mut::<K>(block));
        block::seal::<K>(block, at);
    }

    /// Changes the block at `at` without updating its checksum.
    pub fn spoil(&mut self, at: BlockNr) {
        self.blocks[at.0 as usize].bytes_mut()[100] ^= 1;
    }

    fn superblock(&self) -> &SuperblockDisk {
        block::view::<Superblock>(&self.blocks[0])
    }

    fn root(&self) -> SpaceMapRoot {
        SpaceMapRoot::from_area(&self.superblock().metadata_space_map_root)
    }

    /// Returns the root of the bitset's btree.
    pub fn bitset_root(&self) -> BlockNr {
        BlockNr(self.superblock().bitset_root.get())
    }

    /// Changes the root of the space map.
    pub fn edit_root(&mut self, change: impl FnOnce(&mut SpaceMapRoot)) {
        let mut root = self.root();
        change(&mut root);
        self.edit::<Superblock>(SUPERBLOCK, |disk| disk.metadata_space_map_root = root.to_area());
    }

    /// Returns the block of the index.
    pub fn index(&self) -> BlockNr {
        BlockNr(self.root().bitmap_root.get())
    }

    /// Returns the block of the bitmap.
    pub fn bitmap(&self) -> BlockNr {
        let index = block::view::<IndexBlock>(&self.blocks[self.index().0 as usize]);
        BlockNr(index.entries[0].blocknr.get())
    }

    /// Returns the root of the tree of large counts.
    pub fn ref_counts(&self) -> BlockNr {
        BlockNr(self.root().ref_count_root.get())
    }

    /// Returns the blocks that have these bits in the bitmap.
    pub fn blocks_with(&self, bits: RefCountBits) -> Vec<BlockNr> {
        let bitmap = block::view::<Bitmap>(&self.blocks[self.bitmap().0 as usize]);
        let with = (0..self.blocks.len()).filter(|&at| bitmap.get(at) == bits);
        with.map(|at| BlockNr(at as u64)).collect()
    }

    /// Stores a count in the bitmap, and nowhere else.
    pub fn set_bits(&mut self, at: BlockNr, bits: RefCountBits) {
        self.edit::<Bitmap>(self.bitmap(), |disk| disk.set(at.0 as usize, bits));
    }

    /// Inserts a count into the tree of large counts, which is a leaf.
    pub fn insert_large_count(&mut self, at: u64, count: u32) {
        let max = node_capacity(size_of::<u32>());
        self.edit::<Node>(self.ref_counts(), |disk: &mut NodeDisk| {
            let nr_entries = disk.header.nr_entries.get() as usize;
            let (keys, values) = disk.body.split_at_mut(8 * max);
            let (keys, _) = keys.as_chunks_mut::<8>();
            let (values, _) = values.as_chunks_mut::<4>();
            let before = keys[..nr_entries].iter().filter(|key| u64::from_le_bytes(**key) < at);
            let position = before.count();
            if position < nr_entries && keys[position] == at.to_le_bytes() {
                return;
            }
            keys.copy_within(position..nr_entries, position + 1);
            values.copy_within(position..nr_entries, position + 1);
            (keys[position], values[position]) = (at.to_le_bytes(), count.to_le_bytes());
            disk.header.nr_entries.set(nr_entries as u32 + 1);
        });
    }
}

/// A change that makes metadata wrong but not dangerous.
pub type DamageKind = fn(&mut Surgery, &mut StdRng);

fn some_block(blocks: &[BlockNr], rng: &mut StdRng) -> Option<BlockNr> {
    (!blocks.is_empty()).then(|| blocks[rng.random_range(0..blocks.len())])
}

/// All such changes, each with a name.
pub const HARM: [(&str, DamageKind); 16] = [
    ("a free block counted", |surgery, rng| leak(surgery, rng, RefCountBits::One)),
    ("a free block counted twice", |surgery, rng| leak(surgery, rng, RefCountBits::Two)),
    ("a free block counted with all figures to match", |surgery, rng| {
        let used = surgery.blocks_with(RefCountBits::One).len();
        leak(surgery, rng, RefCountBits::One);
        if surgery.blocks_with(RefCountBits::One).len() > used {
            surgery.edit_root(|root| root.nr_allocated += 1);
            surgery.edit::<IndexBlock>(surgery.index(), |disk| disk.entries[0].nr_free -= 1);
        }
    }),
    ("a free block with a large count", |surgery, rng| {
        if let Some(at) = some_block(&surgery.blocks_with(RefCountBits::Zero), rng) {
            surgery.set_bits(at, RefCountBits::Overflow);
            surgery.insert_large_count(at.0, rng.random_range(3..u32::MAX));
        }
    }),
    ("a block in use counted twice", |surgery, rng| {
        if let Some(at) = some_block(&surgery.blocks_with(RefCountBits::One), rng) {
            surgery.set_bits(at, RefCountBits::Two);
        }
    }),
    ("a block in use with a large count", |surgery, rng| {
        if let Some(at) = some_block(&surgery.blocks_with(RefCountBits::One), rng) {
            surgery.set_bits(at, RefCountBits::Overflow);
            surgery.insert_large_count(at.0, 3);
        }
    }),
    ("too many free entries in the index", |surgery, _| {
        surgery.edit::<IndexBlock>(surgery.index(), |disk| disk.entries[0].nr_free += 3);
    }),
    ("too many blocks in use", |surgery, _| {
        surgery.edit_root(|root| root.nr_allocated += 5);
    }),
    ("too few blocks in use", |surgery, _| {
        surgery.edit_root(|root| root.nr_allocated -= 1);
    }),
    ("a needless large count of a free block", |surgery, rng| {
        if let Some(at) = some_block(&surgery.blocks_with(RefCountBits::Zero), rng) {
            surgery.insert_large_count(at.0, 3);
        }
    }),
    ("a needless large count of a block in use", |surgery, rng| {
        if let Some(at) = some_block(&surgery.blocks_with(RefCountBits::One), rng) {
            surgery.insert_large_count(at.0, 1);
        }
    }),
    ("large counts past the end", |surgery, _| {
        let end = surgery.blocks.len() as u64;
        for at in [end, end + 1000, 1 << 40, u64::MAX] {
            surgery.insert_large_count(at, 4);
        }
    }),
    ("counts past the end", |surgery, _| {
        surgery.set_bits(BlockNr(surgery.blocks.len() as u64), RefCountBits::One);
        surgery.set_bits(BlockNr(surgery.blocks.len() as u64 + 77), RefCountBits::Overflow);
    }),
    ("reserved areas of the superblock", |surgery, _| {
        surgery.edit::<Superblock>(SUPERBLOCK, |disk| {
            disk.flags.set(4);
            disk.metadata_space_map_root[100] = 1;
            // This is still in the first sector.
            disk.reserved[315] = 7;
        });
    }),
    ("reserved areas of the index", |surgery, _| {
        surgery.edit::<IndexBlock>(surgery.index(), |disk| {
            disk.padding.set(1);
            disk.entries[9].nr_free.set(1);
        });
    }),
    ("reserved areas of the bitmap", |surgery, _| {
        surgery.edit::<Bitmap>(surgery.bitmap(), |disk| disk.not_used.set(1));
    }),
];

fn leak(surgery: &mut Surgery, rng: &mut StdRng, bits: RefCountBits) {
    if let Some(at) = some_block(&surgery.blocks_with(RefCountBits::Zero), rng) {
        surgery.set_bits(at, bits);
    }
}
