//! Editor for deliberately damaged images. It finds blocks by their role, changes them through
//! their layouts, and makes their checksums valid again.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock, RwLock};

use clone_core::geometry::{Geometry, RegionRange, RegionSize, Sectors};
use clone_core::metadata::format::{Superblock, SuperblockDisk};
use clone_core::metadata::ir::Header;
use clone_core::metadata::restore::restore;
use persistent_data::block::{self, BlockKind, RawBlock};
use persistent_data::device::{Device, ReadDevice};
use persistent_data::format::{
    ArrayBlock, ArrayBlockDisk, Bitmap, BitmapDisk, ENTRIES_PER_BITMAP, IndexBlock, IndexBlockDisk,
    Node, NodeDisk, RefCountBits, SpaceMapRoot, SpaceMapRootArea, node_capacity, node_flags,
};
use persistent_data::{BLOCK_SIZE, BlockNr};
use zerocopy::{FromBytes, IntoBytes, little_endian as le};

use crate::fixtures;

/// The role of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Block 0.
    Superblock,
    /// A node of the bitset's btree with children.
    Internal,
    /// A node of the bitset's btree with array blocks.
    Leaf,
    /// An array block of the bitset.
    Array,
    /// The index of the space map.
    Index,
    /// A bitmap of the space map.
    Bitmap,
    /// The root of the tree of large counts.
    RefCounts,
}

impl Role {
    /// Returns the checksum salt of the kind of block that has this role.
    pub fn salt(self) -> u32 {
        match self {
            Self::Superblock => Superblock::CSUM_SALT,
            Self::Internal | Self::Leaf | Self::RefCounts => Node::CSUM_SALT,
            Self::Array => ArrayBlock::CSUM_SALT,
            Self::Index => IndexBlock::CSUM_SALT,
            Self::Bitmap => Bitmap::CSUM_SALT,
        }
    }
}

/// Position of every structure in a sound image.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Nodes of the bitset's btree that have children, the root first.
    pub internal: Vec<BlockNr>,
    /// Leaves of the bitset's btree, by ascending keys.
    pub leaves: Vec<BlockNr>,
    /// Array blocks, by index.
    pub array_blocks: Vec<BlockNr>,
    /// The index of the space map.
    pub index: BlockNr,
    /// The bitmaps of the space map.
    pub bitmaps: Vec<BlockNr>,
    /// The root of the tree of large counts: a leaf.
    pub ref_counts: BlockNr,
    /// Number of regions of the clone.
    pub nr_regions: u64,
}

impl Layout {
    /// Returns every block in use with its role.
    pub fn used(&self) -> Vec<(BlockNr, Role)> {
        let all = |blocks: &[BlockNr], role| blocks.iter().map(move |&at| (at, role)).collect();
        let parts: [Vec<(BlockNr, Role)>; 5] = [
            vec![
                (BlockNr(0), Role::Superblock),
                (self.index, Role::Index),
                (self.ref_counts, Role::RefCounts),
            ],
            all(&self.internal, Role::Internal),
            all(&self.leaves, Role::Leaf),
            all(&self.bitmaps, Role::Bitmap),
            all(&self.array_blocks, Role::Array),
        ];
        parts.concat()
    }

    /// Returns the root of the bitset's btree.
    pub fn root(&self) -> BlockNr {
        self.internal.first().copied().unwrap_or_else(|| self.leaves[0])
    }
}

type Blocks = BTreeMap<u64, Arc<RawBlock>>;

/// An image in memory, with the position of every structure before the first change. Zero blocks
/// take no memory, and copies share the blocks that do not differ.
#[derive(Debug)]
pub struct ImageEditor {
    nr_blocks: u64,
    blocks: RwLock<Blocks>,
    layout: Layout,
}

impl Clone for ImageEditor {
    fn clone(&self) -> Self {
        let blocks = RwLock::new(self.blocks.read().expect("no panic with the lock held").clone());
        Self { nr_blocks: self.nr_blocks, blocks, layout: self.layout.clone() }
    }
}

/// Names of the images that [`ImageEditor::of`] knows: the fixtures, and one made by a restore on a
/// device with three bitmaps, with two array blocks.
pub const IMAGES: [&str; 6] =
    ["fresh", "tail", "huge-region", "twolevel", "complete", THREE_BITMAPS];

/// The image made by a restore.
pub const THREE_BITMAPS: &str = "three-bitmaps";

impl ImageEditor {
    /// Returns a fresh copy of the image `name` of [`IMAGES`].
    pub fn of(name: &str) -> Self {
        static LOADED: OnceLock<BTreeMap<&str, ImageEditor>> = OnceLock::new();
        let loaded = LOADED.get_or_init(|| {
            let fixture = |name| Self::new(&fixtures::load(name).0.to_blocks());
            let mut images: BTreeMap<_, _> =
                fixtures::IMAGES.map(|name| (name, fixture(name))).into();
            images.insert(THREE_BITMAPS, Self::three_bitmaps());
            images
        });
        loaded.get(name).unwrap_or_else(|| panic!("no image is called {name}")).clone()
    }

    /// Creates an image of these blocks, which hold sound metadata.
    pub fn new(blocks: &[RawBlock]) -> Self {
        let mut editor = Self::blank(blocks.len() as u64);
        let content = (0..).zip(blocks).filter(|(_, block)| !block.is_zero());
        editor.blocks = RwLock::new(content.map(|(at, b)| (at, Arc::new(b.clone()))).collect());
        editor.layout = editor.find_layout();
        editor
    }

    /// Creates an image of `nr_blocks` zero blocks.
    pub fn blank(nr_blocks: u64) -> Self {
        Self { nr_blocks, blocks: RwLock::default(), layout: Layout::default() }
    }

    fn three_bitmaps() -> Self {
        let runs = [3..70, 1000..1001, 30_000..33_000, 39_999..40_000];
        Self::restored(2 * ENTRIES_PER_BITMAP as u64 + 1000, 40_000, &runs)
    }

    /// Restores `runs` among `nr_regions` regions of the minimum size.
    pub fn restored(nr_blocks: u64, nr_regions: u64, runs: &[RegionRange]) -> Self {
        let mut editor = Self::blank(nr_blocks);
        let region_size = RegionSize::new(RegionSize::MIN).expect("an allowed size");
        let target_size = Sectors(RegionSize::MIN.0 * nr_regions);
        let geometry = Geometry::new(region_size, target_size).expect("few enough regions");
        let runs = runs.iter().cloned().map(Ok::<_, io::Error>);
        restore(&editor, Header { uuid: [0; 16], geometry }, runs, &()).expect("room enough");
        editor.layout = editor.find_layout();
        editor
    }

    /// Updates the layout of an image that holds sound metadata now.
    pub fn looked_through(mut self) -> Self {
        self.layout = self.find_layout();
        self
    }

    /// Returns the position of every structure before the first change.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the block at `at`.
    pub fn raw(&self, at: BlockNr) -> Arc<RawBlock> {
        let blocks = self.blocks.read().expect("no panic with the lock held");
        blocks.get(&at.0).cloned().unwrap_or_else(|| Arc::new(RawBlock::ZERO))
    }

    fn raw_mut(&mut self, at: BlockNr) -> &mut RawBlock {
        assert!(at.0 < self.nr_blocks, "block {at} is part of the image");
        let blocks = self.blocks.get_mut().expect("no panic with the lock held");
        Arc::make_mut(blocks.entry(at.0).or_insert_with(|| Arc::new(RawBlock::ZERO)))
    }

    /// Changes the bytes of the block at `at`, and nothing else.
    pub fn bytes(&mut self, at: BlockNr, change: impl FnOnce(&mut [u8; BLOCK_SIZE])) {
        change(self.raw_mut(at).bytes_mut());
    }

    /// Stores the checksum of the block at `at` with `salt`, for any content.
    pub fn reseal(&mut self, at: BlockNr, salt: u32) {
        let block = self.raw_mut(at);
        let csum = block::checksum(block, salt);
        block.bytes_mut()[..4].copy_from_slice(&csum.to_le_bytes());
    }

    /// Changes the block at `at` as a `K`, and updates its checksum.
    pub fn edit<K: BlockKind>(&mut self, at: BlockNr, change: impl FnOnce(&mut K::Disk)) {
        change(block::view_mut::<K>(self.raw_mut(at)));
        self.reseal(at, K::CSUM_SALT);
    }

    /// Changes the superblock.
    pub fn superblock(&mut self, change: impl FnOnce(&mut SuperblockDisk)) {
        self.edit::<Superblock>(BlockNr(0), change);
    }

    /// Changes the root of the space map.
    pub fn space_map_root(&mut self, change: impl FnOnce(&mut SpaceMapRoot)) {
        self.superblock(|disk| change(root_in(&mut disk.metadata_space_map_root)));
    }

    /// Changes a btree node.
    pub fn node(&mut self, at: BlockNr, change: impl FnOnce(&mut NodeDisk)) {
        self.edit::<Node>(at, change);
    }

    /// Changes array block `index` of the bitset.
    pub fn array_block(&mut self, index: usize, change: impl FnOnce(&mut ArrayBlockDisk)) {
        self.edit::<ArrayBlock>(self.layout.array_blocks[index], change);
    }

    /// Changes the index of the space map.
    pub fn index(&mut self, change: impl FnOnce(&mut IndexBlockDisk)) {
        self.edit::<IndexBlock>(self.layout.index, change);
    }

    /// Changes bitmap `number` of the space map without updating the index.
    pub fn bitmap(&mut self, number: usize, change: impl FnOnce(&mut BitmapDisk)) {
        self.edit::<Bitmap>(self.layout.bitmaps[number], change);
    }

    /// Stores `bits` as the count of the block at `at`, and updates the index and the root to
    /// match.
    pub fn set_count(&mut self, at: BlockNr, bits: RefCountBits) {
        let (number, entry) =
            (at.0 as usize / ENTRIES_PER_BITMAP, at.0 as usize % ENTRIES_PER_BITMAP);
        let (mut before, mut after) = (0, 0);
        self.bitmap(number, |disk| {
            before = disk.nr_free();
            disk.set(entry, bits);
            after = disk.nr_free();
        });
        self.index(|disk| {
            let index_entry = &mut disk.entries[number];
            index_entry.nr_free.set(index_entry.nr_free.get() - before + after);
        });
        self.space_map_root(|root| {
            root.nr_allocated.set(root.nr_allocated.get() + u64::from(before) - u64::from(after));
        });
    }

    /// Appends an entry to the tree of large counts.
    pub fn push_large_count(&mut self, block: u64, count: u32) {
        self.node(self.layout.ref_counts, |disk| {
            let len = disk.header.nr_entries.get() as usize;
            set_key(disk, len, block);
            let values = size_of::<u64>() * node_capacity(size_of::<u32>());
            disk.body[values + 4 * len..][..4].copy_from_slice(&count.to_le_bytes());
            disk.header.nr_entries.set(len as u32 + 1);
        });
    }

    /// Returns the hydrated regions of the original geometry, from the bits at the original
    /// positions of the array blocks. It ignores the pointers to them.
    pub fn runs_by_hand(&self) -> Vec<RegionRange> {
        let mut runs: Vec<RegionRange> = Vec::new();
        for (&at, first_word) in self.layout.array_blocks.iter().zip((0..).step_by(509)) {
            let raw = self.raw(at);
            let body = &block::view::<ArrayBlock>(&raw).body[..509 * 8];
            let words = <[le::U64]>::ref_from_bytes(body).expect("whole words");
            for (word, first) in words.iter().zip((first_word * 64..).step_by(64)) {
                push_runs(&mut runs, word.get(), first, self.layout.nr_regions);
            }
        }
        runs
    }

    fn find_layout(&self) -> Layout {
        let superblock = self.raw(BlockNr(0));
        let disk = block::view::<Superblock>(&superblock);
        let root = SpaceMapRoot::from_area(&disk.metadata_space_map_root);
        let mut layout = Layout {
            index: BlockNr(root.bitmap_root.get()),
            ref_counts: BlockNr(root.ref_count_root.get()),
            nr_regions: disk.target_size.get().div_ceil(disk.region_size.get()),
            ..Layout::default()
        };
        let nr_bitmaps = root.nr_blocks.get().div_ceil(ENTRIES_PER_BITMAP as u64);
        let index = self.raw(layout.index);
        let entries = &block::view::<IndexBlock>(&index).entries[..nr_bitmaps as usize];
        layout.bitmaps = entries.iter().map(|entry| BlockNr(entry.blocknr.get())).collect();
        self.add_nodes(BlockNr(disk.bitset_root.get()), &mut layout);
        layout
    }

    fn add_nodes(&self, at: BlockNr, layout: &mut Layout) {
        let raw = self.raw(at);
        let disk = block::view::<Node>(&raw);
        let below = (0..disk.header.nr_entries.get() as usize).map(|entry| child(disk, entry));
        if disk.header.flags.get() == node_flags::LEAF {
            layout.leaves.push(at);
            layout.array_blocks.extend(below);
        } else {
            layout.internal.push(at);
            below.for_each(|below| self.add_nodes(below, layout));
        }
    }
}

/// Appends the runs of ones in `word`, whose lowest bit is region `first`.
fn push_runs(runs: &mut Vec<RegionRange>, word: u64, first: u64, nr_regions: u64) {
    if word == 0 {
        return;
    }
    for region in (first..nr_regions.min(first + 64)).filter(|r| word >> (r - first) & 1 == 1) {
        match runs.last_mut() {
            Some(run) if run.end == region => run.end += 1,
            _ => runs.push(region..region + 1),
        }
    }
}

fn root_in(area: &mut SpaceMapRootArea) -> &mut SpaceMapRoot {
    SpaceMapRoot::mut_from_prefix(area).expect("the area is larger than a root").0
}

/// Returns the offset of the value of `entry` in the body of a node with values of eight bytes.
fn value_offset(entry: usize) -> usize {
    size_of::<u64>() * (node_capacity(size_of::<u64>()) + entry)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    le::U64::read_from_prefix(&bytes[at..]).expect("eight bytes").0.get()
}

/// Returns the key of `entry`.
pub fn key(disk: &NodeDisk, entry: usize) -> u64 {
    le64(&disk.body, size_of::<u64>() * entry)
}

/// Stores `key` as the key of `entry`.
pub fn set_key(disk: &mut NodeDisk, entry: usize, key: u64) {
    disk.body[8 * entry..][..8].copy_from_slice(le::U64::new(key).as_bytes());
}

/// Returns the block that `entry` of a node of the bitset points to.
pub fn child(disk: &NodeDisk, entry: usize) -> BlockNr {
    BlockNr(le64(&disk.body, value_offset(entry)))
}

/// Makes `entry` of a node of the bitset point to `child`.
pub fn set_child(disk: &mut NodeDisk, entry: usize, child: BlockNr) {
    disk.body[value_offset(entry)..][..8].copy_from_slice(le::U64::new(child.0).as_bytes());
}

impl ReadDevice for ImageEditor {
    fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        self.check_range(first, into.len())?;
        for (at, into) in (first.0..).zip(into) {
            into.clone_from(&self.raw(BlockNr(at)));
        }
        Ok(())
    }
}

impl Device for ImageEditor {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        self.check_range(first, from.len())?;
        let mut blocks = self.blocks.write().expect("no panic with the lock held");
        blocks.extend((first.0..).zip(from.iter().cloned().map(Arc::new)));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl ImageEditor {
    fn check_range(&self, first: BlockNr, count: usize) -> io::Result<()> {
        match first.0.checked_add(count as u64) {
            Some(end) if end <= self.nr_blocks => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Returns whether both images hold the same bytes.
    pub fn same_bytes(&self, other: &Self) -> bool {
        let (a, b) = (self.blocks.read(), other.blocks.read());
        *a.expect("no panic with the lock held") == *b.expect("no panic with the lock held")
    }

    /// Truncates the image to `nr_blocks` blocks.
    pub fn truncated(mut self, nr_blocks: u64) -> Self {
        self.nr_blocks = nr_blocks;
        self.blocks.get_mut().expect("no panic with the lock held").retain(|&at, _| at < nr_blocks);
        self
    }

    /// Returns all bytes up to the last block that is not zero.
    pub fn to_bytes(&self) -> Vec<u8> {
        let blocks = self.blocks.read().expect("no panic with the lock held");
        let end = blocks.keys().next_back().map_or(0, |at| at + 1);
        drop(blocks);
        (0..end).flat_map(|at| *self.raw(BlockNr(at)).bytes()).collect()
    }
}
