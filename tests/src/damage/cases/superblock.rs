//! The superblock, one field at a time.

use crate::damage::case::{Case, fatal, leak, sound, warning};
use crate::damage::image_editor::{ImageEditor, THREE_BITMAPS};

pub(super) const HEADER: &[Case] = &[
    fatal("magic of thin", "tail", |e| e.superblock(|s| s.magic.set(27_022_010)), MAGIC),
    fatal("magic zero", "tail", |e| e.superblock(|s| s.magic.set(0)), MAGIC),
    fatal("magic one off", "tail", |e| e.superblock(|s| s.magic.set(0x8af2_7f65)), MAGIC),
    fatal("version 0", "tail", |e| e.superblock(|s| s.version.set(0)), VERSION),
    fatal("version 2", "tail", |e| e.superblock(|s| s.version.set(2)), VERSION),
    fatal("version max", "tail", |e| e.superblock(|s| s.version.set(u32::MAX)), VERSION),
    fatal("block number 1", "tail", |e| e.superblock(|s| s.blocknr.set(1)), BLOCK_NUMBER),
    fatal("block number max", "tail", |e| e.superblock(|s| s.blocknr.set(u64::MAX)), BLOCK_NUMBER),
    warning("flags 1", "tail", |e| e.superblock(|s| s.flags.set(1)), &["superblock-flags"]),
    warning("flags max", "tail", |e| e.superblock(|s| s.flags.set(!0)), &["superblock-flags"]),
    sound("uuid", "tail", |e| e.superblock(|s| s.uuid = [0xab; 16])),
    warning("first reserved byte", "tail", |e| e.superblock(|s| s.reserved[0] = 1), RESERVED),
    warning("last reserved byte", "tail", |e| e.superblock(|s| s.reserved[3899] = 128), RESERVED),
    warning(
        "area after the space map root",
        "tail",
        |e| e.superblock(|s| s.metadata_space_map_root[32] = 1),
        RESERVED,
    ),
    fatal("all zeroes", "tail", |e| e.bytes(ZERO, |bytes| bytes.fill(0)), UNFORMATTED),
    fatal("all ones", "tail", |e| e.bytes(ZERO, |bytes| bytes.fill(0xff)), MAGIC),
    fatal("all zeroes but a checksum", "tail", |e| e.superblock(zero_out), MAGIC),
    fatal("sealed as another kind", "tail", |e| e.reseal(ZERO, 121_107), &["superblock-checksum"]),
];

const MAGIC: &[&str] = &["superblock-magic"];
const VERSION: &[&str] = &["superblock-version"];
const BLOCK_NUMBER: &[&str] = &["superblock-block-number"];
const RESERVED: &[&str] = &["superblock-reserved"];
const UNFORMATTED: &[&str] = &["superblock-unformatted"];
const ZERO: persistent_data::BlockNr = persistent_data::BlockNr(0);

fn zero_out(disk: &mut clone_core::metadata::format::SuperblockDisk) {
    zerocopy::FromZeros::zero(disk);
}

/// `tail` has 15626 regions of 64 sectors, 1000003 sectors in all: 245 words, with 10 bits in the
/// last one. `fresh` has 262144 regions of 8 sectors, `huge-region` has 10 of 2097152 sectors.
pub(super) const SIZES: &[Case] = &[
    fatal("region size 0", "tail", |e| region_size(e, 0), REGION_SIZE),
    fatal("region size 1", "tail", |e| region_size(e, 1), REGION_SIZE),
    fatal("region size 4", "tail", |e| region_size(e, 4), REGION_SIZE),
    fatal("region size 63", "tail", |e| region_size(e, 63), REGION_SIZE),
    fatal("region size 96", "tail", |e| region_size(e, 96), REGION_SIZE),
    fatal("region size of 2 GiB", "tail", |e| region_size(e, 1 << 22), REGION_SIZE),
    fatal("region size 2^63", "tail", |e| region_size(e, 1 << 63), REGION_SIZE),
    fatal("region size max", "tail", |e| region_size(e, u64::MAX), REGION_SIZE),
    fatal("region size halved", "tail", |e| region_size(e, 32), &["bitset-block-entries"]),
    fatal("region size doubled", "tail", |e| region_size(e, 128), &["bitset-block-entries"]),
    fatal(
        "region size of the least",
        "fresh",
        |e| e.superblock(|s| s.region_size.set(16)),
        &["bitset-block-entries", "bitset-extra"],
    ),
    fatal("target size 0", "tail", |e| target_size(e, 0), TARGET_SIZE),
    fatal("target size max", "tail", |e| target_size(e, u64::MAX), TARGET_SIZE),
    fatal("too many regions", "tail", |e| target_size(e, (64 << 31) + 1), TARGET_SIZE),
    fatal(
        "as many regions as there can be",
        "tail",
        |e| target_size(e, 64 << 31),
        &["bitset-block-entries", "bitset-missing"],
    ),
    fatal("4e9 sectors", "tail", |e| target_size(e, 4_000_000_000), TOO_FEW_BLOCKS),
    fatal("1000 regions", "tail", |e| target_size(e, 64_000), &["bitset-block-entries"]),
    fatal("one region", "tail", |e| target_size(e, 1), &["bitset-block-entries"]),
    // The bitset has the same number of words; only the bit of the missing region shows the change.
    fatal("a hydrated region less", "tail", |e| target_size(e, 1_000_000), TRAILING),
    // Nothing in the metadata contradicts these changes. The table line does, and then the kernel
    // refuses to open the metadata.
    sound("a region more in the same word", "tail", |e| target_size(e, 1_000_065)),
    sound("another sector in the last region", "tail", |e| target_size(e, 1_000_004)),
    sound("region and target twice as large", "tail", |e| {
        region_size(e, 128);
        target_size(e, 2_000_006);
    }),
    fatal("a region more, and a word", "fresh", |e| target_size(e, 2_097_160), BLOCK_ENTRIES),
    sound("a region less, not hydrated", "fresh", |e| target_size(e, 2_097_144)),
    fatal("a word less", "fresh", |e| target_size(e, 2_096_640), BLOCK_ENTRIES),
    fatal("an array block less", "fresh", |e| target_size(e, 8 * 8 * 32_576), &["bitset-extra"]),
    fatal(
        "an array block more",
        "fresh",
        |e| target_size(e, 8 * 10 * 32_576),
        &["bitset-block-entries", "bitset-missing"],
    ),
    fatal("an array block more", "twolevel", |e| target_size(e, 8 * 32_576 * 517), TOO_FEW_BLOCKS),
    fatal(
        "sizes swapped",
        "tail",
        |e| {
            region_size(e, 1_000_003);
            target_size(e, 64);
        },
        REGION_SIZE,
    ),
];

const REGION_SIZE: &[&str] = &["superblock-region-size"];
const TARGET_SIZE: &[&str] = &["superblock-target-size"];
const TRAILING: &[&str] = &["bitset-trailing-bits"];
const BLOCK_ENTRIES: &[&str] = &["bitset-block-entries"];
const TOO_FEW_BLOCKS: &[&str] = &["bitset-block-entries", "bitset-missing"];

fn region_size(editor: &mut ImageEditor, sectors: u64) {
    editor.superblock(|disk| disk.region_size.set(sectors));
}

fn target_size(editor: &mut ImageEditor, sectors: u64) {
    editor.superblock(|disk| disk.target_size.set(sectors));
}

/// In `tail` the bitset's root is block 8, its array block is block 6, the index block 9, the
/// bitmap block 7, the ref count tree block 2; blocks 1, 3, 4 and 5 hold what older commits left.
pub(super) const ROOTS: &[Case] = &[
    fatal("bitset root: the superblock", "tail", |e| bitset_root(e, 0), SHARED_NODE),
    fatal("bitset root: its array block", "tail", |e| bitset_root(e, 6), ROOT_CHECKSUM),
    fatal("bitset root: a free block", "tail", |e| bitset_root(e, 1000), FREE_ROOT),
    fatal(
        "bitset root: an older root",
        "tail",
        |e| bitset_root(e, 4),
        &["leaked-blocks", "ref-count-too-low"],
    ),
    fatal(
        "bitset root: the ref count tree",
        "tail",
        |e| bitset_root(e, 2),
        &["bitset-node-value-size", "block-shared", "ref-count-too-low"],
    ),
    fatal("bitset root: the end", "tail", |e| bitset_root(e, 2048), ROOT_OUT_OF_RANGE),
    fatal("bitset root: max", "tail", |e| bitset_root(e, u64::MAX), ROOT_OUT_OF_RANGE),
    fatal("bitset root: a child", "twolevel", |e| bitset_root(e, 2744), &["bitset-missing"]),
    fatal("space map of no blocks", "tail", |e| nr_blocks(e, 0), SIZE),
    fatal("space map of a block too many", "tail", |e| nr_blocks(e, 2049), SIZE),
    fatal("space map of max blocks", "tail", |e| nr_blocks(e, u64::MAX), SIZE),
    fatal(
        "space map up to the last block in use",
        "tail",
        |e| nr_blocks(e, 9),
        &["ref-count-too-low", "space-map-past-end"],
    ),
    fatal(
        "space map of one block",
        "tail",
        |e| nr_blocks(e, 1),
        &["ref-count-too-low", "space-map-past-end"],
    ),
    fatal("space map of the blocks in use", "fresh", |e| nr_blocks(e, 14), &["space-map-full"]),
    fatal("space map with two blocks free", "fresh", |e| nr_blocks(e, 16), &["space-map-full"]),
    fatal("space map with three blocks free", "fresh", |e| nr_blocks(e, 17), &["space-map-full"]),
    sound("space map with four blocks free", "fresh", |e| nr_blocks(e, 18)),
    sound("space map with five blocks free", "fresh", |e| nr_blocks(e, 19)),
    sound("space map of a block less", "tail", |e| nr_blocks(e, 2047)),
    leak("allocated: none", "tail", |e| nr_allocated(e, 0), &["space-map-used"]),
    leak("allocated: one more", "tail", |e| nr_allocated(e, 7), &["space-map-used"]),
    leak("allocated: one less", "tail", |e| nr_allocated(e, 5), &["space-map-used"]),
    leak("allocated: max", "tail", |e| nr_allocated(e, u64::MAX), &["space-map-used"]),
    fatal(
        "index: the superblock",
        "tail",
        |e| bitmap_root(e, 0),
        &["block-shared", "space-map-index-checksum"],
    ),
    fatal("index: the bitmap", "tail", |e| bitmap_root(e, 7), &["space-map-index-checksum"]),
    fatal("index: an older one", "tail", |e| bitmap_root(e, 5), &["space-map-index-checksum"]),
    fatal("index: a free block", "tail", |e| bitmap_root(e, 2000), &["space-map-index-checksum"]),
    fatal("index: the end", "tail", |e| bitmap_root(e, 2048), &["space-map-index-out-of-range"]),
    fatal("index: max", "tail", |e| bitmap_root(e, u64::MAX), &["space-map-index-out-of-range"]),
    fatal(
        "ref count tree: the bitset",
        "tail",
        |e| ref_count_root(e, 8),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "ref count tree: a free block",
        "tail",
        |e| ref_count_root(e, 2000),
        &["ref-count-too-low", "ref-count-tree-checksum"],
    ),
    fatal(
        "ref count tree: the end",
        "tail",
        |e| ref_count_root(e, 2048),
        &["ref-count-tree-out-of-range"],
    ),
    fatal(
        "ref count tree: max",
        "tail",
        |e| ref_count_root(e, u64::MAX),
        &["ref-count-tree-out-of-range"],
    ),
    fatal(
        "index and ref count tree swapped",
        "tail",
        |e| {
            bitmap_root(e, 2);
            ref_count_root(e, 9);
        },
        &["ref-count-tree-checksum", "space-map-index-checksum"],
    ),
    leak(
        "space map of the first bitmap only",
        THREE_BITMAPS,
        |e| nr_blocks(e, 16_320),
        &["leaked-blocks", "space-map-not-zero"],
    ),
];

const SHARED_NODE: &[&str] = &["block-shared", "ref-count-too-low"];
const ROOT_CHECKSUM: &[&str] = &["bitset-node-checksum"];
const FREE_ROOT: &[&str] = &["bitset-node-checksum", "ref-count-too-low"];
const ROOT_OUT_OF_RANGE: &[&str] = &["bitset-node-out-of-range"];
const SIZE: &[&str] = &["space-map-size"];

fn bitset_root(editor: &mut ImageEditor, at: u64) {
    editor.superblock(|disk| disk.bitset_root.set(at));
}

fn nr_blocks(editor: &mut ImageEditor, count: u64) {
    editor.space_map_root(|root| root.nr_blocks.set(count));
}

fn nr_allocated(editor: &mut ImageEditor, count: u64) {
    editor.space_map_root(|root| root.nr_allocated.set(count));
}

fn bitmap_root(editor: &mut ImageEditor, at: u64) {
    editor.space_map_root(|root| root.bitmap_root.set(at));
}

fn ref_count_root(editor: &mut ImageEditor, at: u64) {
    editor.space_map_root(|root| root.ref_count_root.set(at));
}
