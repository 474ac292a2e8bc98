//! Shared code of the fuzz targets: images that fit in a few kilobytes, and clones in memory.

use std::collections::BTreeSet;

use clone_core::metadata::format::Superblock;
use clone_tests::damage::{ImageEditor, child};
use persistent_data::BlockNr;
use persistent_data::block::{self, BlockKind, RawBlock};
use persistent_data::device::ReadDevice;
use persistent_data::format::{
    ArrayBlock, Bitmap, ENTRIES_PER_BITMAP, INDEX_ENTRIES, IndexBlock, Node, SpaceMapRoot,
    node_flags,
};

pub mod memory;

/// The parts of a block in a folded image, as offset and length: every header and the first
/// entries, the first children, and the first large counts. The rest is zero.
const WINDOWS: [(usize, usize); 3] = [(0, 200), (2048, 32), (2720, 24)];

/// Bytes per block in a folded image.
const FOLDED: usize = 256;

/// Device sizes in blocks. The first byte of a folded image chooses one of them.
pub const DEVICE_BLOCKS: [u64; 4] = [10, 20, 2048, 40_000];

/// Maximum number of blocks in a folded image.
const BLOCKS_MAX: usize = 64;

/// Folds `image`: keeps the windows of its first `nr_blocks` blocks, for a device of
/// `DEVICE_BLOCKS[device]` blocks.
pub fn fold(image: &ImageEditor, device: u8, nr_blocks: u64) -> Vec<u8> {
    let mut folded = vec![device];
    for at in 0..nr_blocks {
        let raw = image.raw(BlockNr(at));
        for (offset, len) in WINDOWS {
            folded.extend_from_slice(&raw.bytes()[offset..][..len]);
        }
    }
    folded
}

/// Unfolds an image, and seals every reachable block as the kind that the first pointer to it
/// expects.
pub fn unfold(folded: &[u8]) -> ImageEditor {
    let (device, blocks) = folded.split_first().unwrap_or((&0, &[]));
    let nr_blocks = DEVICE_BLOCKS[*device as usize % DEVICE_BLOCKS.len()];
    let mut image = ImageEditor::blank(nr_blocks);
    let most = BLOCKS_MAX.min(nr_blocks as usize);
    for (at, windows) in (0..).zip(blocks.chunks(FOLDED).take(most)) {
        let mut padded = [0; FOLDED];
        padded[..windows.len()].copy_from_slice(windows);
        image.bytes(BlockNr(at), |bytes| {
            let mut from = 0;
            for (offset, len) in WINDOWS {
                bytes[offset..][..len].copy_from_slice(&padded[from..][..len]);
                from += len;
            }
        });
    }
    seal_all(&mut image);
    image
}

/// Seals all blocks that the superblock reaches.
fn seal_all(image: &mut ImageEditor) {
    let mut sealer = Sealer { image, sealed: BTreeSet::new() };
    if sealer.image.raw(BlockNr(0)).is_zero() {
        return;
    }
    sealer.seal::<Superblock>(BlockNr(0));
    let superblock = sealer.image.raw(BlockNr(0));
    let disk = block::view::<Superblock>(&superblock);
    sealer.seal_tree(BlockNr(disk.bitset_root.get()), true);
    let root = SpaceMapRoot::from_area(&disk.metadata_space_map_root);
    sealer.seal_tree(BlockNr(root.ref_count_root.get()), false);
    let index = BlockNr(root.bitmap_root.get());
    if sealer.seal::<IndexBlock>(index) {
        let raw = sealer.image.raw(index);
        let bitmaps = root.nr_blocks.get().div_ceil(ENTRIES_PER_BITMAP as u64);
        let entries = &block::view::<IndexBlock>(&raw).entries;
        for entry in entries.iter().take((bitmaps as usize).min(INDEX_ENTRIES)) {
            sealer.seal::<Bitmap>(BlockNr(entry.blocknr.get()));
        }
    }
}

struct Sealer<'a> {
    image: &'a mut ImageEditor,
    sealed: BTreeSet<u64>,
}

impl Sealer<'_> {
    /// Seals the block at `at`, if it exists and has not been sealed before.
    fn seal<K: BlockKind>(&mut self, at: BlockNr) -> bool {
        let is_new = at.0 < self.image.nr_blocks() && self.sealed.insert(at.0);
        if is_new {
            self.image.edit::<K>(at, |disk| K::set_location(disk, at));
        }
        is_new
    }

    /// Seals the nodes of a tree. For the bitset it also seals the array blocks below the leaves.
    fn seal_tree(&mut self, root: BlockNr, is_bitset: bool) {
        let mut nodes = vec![root];
        while let Some(at) = nodes.pop() {
            if !self.seal::<Node>(at) {
                continue;
            }
            let raw: RawBlock = (*self.image.raw(at)).clone();
            let disk = block::view::<Node>(&raw);
            let len = disk.header.nr_entries.get().min(252) as usize;
            let children = (0..len).map(|entry| child(disk, entry));
            match disk.header.flags.get() {
                node_flags::INTERNAL => nodes.extend(children),
                node_flags::LEAF if is_bitset => children.for_each(|at| {
                    self.seal::<ArrayBlock>(at);
                }),
                _ => {}
            }
        }
    }
}
