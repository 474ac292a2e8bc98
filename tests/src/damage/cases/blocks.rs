//! Whole blocks: zeroed, overwritten, or with a byte changed on the medium.

use persistent_data::transaction::wipe_superblock;
use persistent_data::{BLOCK_SIZE, BlockNr};

use crate::damage::case::{Case, fatal};
use crate::damage::image_editor::ImageEditor;

fn zero(editor: &mut ImageEditor, at: BlockNr) {
    editor.bytes(at, |bytes| bytes.fill(0));
}

/// Flips a bit in the middle of a block without updating the checksum.
fn flip(editor: &mut ImageEditor, at: BlockNr) {
    editor.bytes(at, |bytes| bytes[BLOCK_SIZE / 2] ^= 1);
}

fn overwrite(editor: &mut ImageEditor, at: BlockNr) {
    let text = b"This is no metadata. ".iter().cycle();
    editor.bytes(at, |bytes| bytes.iter_mut().zip(text).for_each(|(byte, new)| *byte = *new));
}

/// `tail`: the bitset's root is block 8, its array block is block 6, the index block 9, the bitmap
/// block 7, the ref count tree block 2. `twolevel`: three leaves below a root.
pub(super) const WHOLE: &[Case] = &[
    fatal("no block at all", "tail", |e| *e = e.clone().truncated(0), &["device-too-small"]),
    fatal("superblock: a bit", "tail", |e| flip(e, BlockNr(0)), &["superblock-checksum"]),
    fatal("superblock: overwritten", "tail", |e| overwrite(e, BlockNr(0)), &["superblock-magic"]),
    fatal(
        "superblock: the mark of an interrupted restore",
        "tail",
        |e| wipe_superblock(e).expect("memory takes it"),
        &["superblock-unfinished"],
    ),
    fatal("root: a bit", "tail", |e| flip(e, BlockNr(8)), NODE_CHECKSUM),
    fatal("root: zeroed", "tail", |e| zero(e, BlockNr(8)), NODE_CHECKSUM),
    fatal("root: overwritten", "tail", |e| overwrite(e, BlockNr(8)), NODE_CHECKSUM),
    fatal("leaf: a bit", "twolevel", |e| flip(e, e.layout().leaves[1]), NODE_CHECKSUM),
    fatal("leaf: zeroed", "twolevel", |e| zero(e, e.layout().leaves[2]), NODE_CHECKSUM),
    fatal("array block: a bit", "tail", |e| flip(e, BlockNr(6)), &["bitset-block-checksum"]),
    fatal("array block: zeroed", "tail", |e| zero(e, BlockNr(6)), &["bitset-block-checksum"]),
    fatal("index: a bit", "tail", |e| flip(e, BlockNr(9)), &["space-map-index-checksum"]),
    fatal("index: zeroed", "tail", |e| zero(e, BlockNr(9)), &["space-map-index-checksum"]),
    fatal("bitmap: a bit", "tail", |e| flip(e, BlockNr(7)), &["space-map-bitmap-checksum"]),
    fatal("bitmap: zeroed", "tail", |e| zero(e, BlockNr(7)), &["space-map-bitmap-checksum"]),
    fatal("ref count tree: a bit", "tail", |e| flip(e, BlockNr(2)), &["ref-count-tree-checksum"]),
    fatal("ref count tree: zeroed", "tail", |e| zero(e, BlockNr(2)), &["ref-count-tree-checksum"]),
];

const NODE_CHECKSUM: &[&str] = &["bitset-node-checksum"];
