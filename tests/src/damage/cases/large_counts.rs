//! The space map's tree of large counts, which is an empty leaf in the metadata of a clone.

use persistent_data::BlockNr;
use persistent_data::format::{NodeHeader, RefCountBits};

use crate::damage::case::{Case, fatal, leak, warning};
use crate::damage::image_editor::{ImageEditor, set_child, set_key};

const LEAK: &[&str] = &["leaked-blocks"];
const NEEDLESS: &[&str] = &["ref-count-needless"];

pub(super) const LARGE_COUNTS: &[Case] = &[
    leak("a free block: 3", "tail", |e| e.push_large_count(1000, 3), NEEDLESS),
    leak("a block in use: 1", "tail", |e| e.push_large_count(6, 1), NEEDLESS),
    leak("a block in use: 0", "tail", |e| e.push_large_count(6, 0), NEEDLESS),
    leak("a block in use: max", "tail", |e| e.push_large_count(6, !0), NEEDLESS),
    leak("the block at the end: 3", "tail", |e| e.push_large_count(2048, 3), NEEDLESS),
    leak("the highest key: max", "tail", |e| e.push_large_count(!0, !0), NEEDLESS),
    leak(
        "many",
        "tail",
        |e| {
            (0..336).for_each(|entry| e.push_large_count(7 * entry, 3));
        },
        NEEDLESS,
    ),
    leak("a free block: 3, and left to the tree", "tail", |e| large(e, 1000, 3), LEAK),
    leak("a free block: max, and left to the tree", "tail", |e| large(e, 1000, !0), LEAK),
    leak("a block in use: 3, and left to the tree", "tail", |e| large(e, 6, 3), LEAK),
    leak("a block in use: 1, and left to the tree", "tail", |e| large(e, 6, 1), NEEDLESS),
    leak("a free block: 0, and left to the tree", "tail", |e| large(e, 1000, 0), NEEDLESS),
    leak(
        "a block in use: 2, and left to the tree",
        "tail",
        |e| large(e, 6, 2),
        &["leaked-blocks", "ref-count-needless"],
    ),
    fatal(
        "a block in use: 0, and left to the tree",
        "tail",
        |e| large(e, 6, 0),
        &["ref-count-needless", "ref-count-too-low"],
    ),
    fatal(
        "keys out of order",
        "tail",
        |e| {
            e.push_large_count(1000, 3);
            e.push_large_count(999, 3);
        },
        &["ref-count-tree-keys"],
    ),
    fatal(
        "keys equal, and counts left to them",
        "tail",
        |e| {
            large(e, 1000, 3);
            e.push_large_count(1000, 4);
        },
        &["ref-count-tree-keys"],
    ),
];

/// Moves the count of `at` to the tree, with the value `value`.
fn large(editor: &mut ImageEditor, at: u64, value: u32) {
    editor.set_count(BlockNr(at), RefCountBits::Overflow);
    editor.push_large_count(at, value);
}

fn tree_header(editor: &mut ImageEditor, change: impl FnOnce(&mut NodeHeader)) {
    editor.node(editor.layout().ref_counts, |disk| change(&mut disk.header));
}

/// Replaces the leaf by a root, with a leaf below it in block 20, and one below a node in block 21.
fn two_depths(editor: &mut ImageEditor) {
    let root = editor.layout().ref_counts;
    let leaf = editor.raw(root);
    for at in 20..23 {
        editor.bytes(BlockNr(at), |bytes| bytes.copy_from_slice(leaf.bytes()));
        editor.node(BlockNr(at), |n| {
            n.header.blocknr.set(at);
            n.header.nr_entries.set(1);
            set_key(n, 0, if at == 20 { 0 } else { 1000 });
        });
        editor.set_count(BlockNr(at), RefCountBits::One);
    }
    for (at, children) in [(root, &[(0, 20), (1000, 21)][..]), (BlockNr(21), &[(1000, 22)])] {
        editor.node(at, |n| {
            n.header.flags.set(1);
            n.header.value_size.set(8);
            n.header.max_entries.set(252);
            n.header.nr_entries.set(children.len() as u32);
            for (entry, &(key, child)) in children.iter().enumerate() {
                set_key(n, entry, key);
                set_child(n, entry, BlockNr(child));
            }
        });
    }
}

/// A kernel does not read the tree before a count needs it, and in the metadata of a clone no count
/// does. A later read of the tree would return wrong data.
pub(super) const LARGE_COUNTS_HEADER: &[Case] = &[
    fatal("flags 0", "tail", |e| tree_header(e, |h| h.flags.set(0)), &["ref-count-tree-flags"]),
    fatal("flags 3", "tail", |e| tree_header(e, |h| h.flags.set(3)), &["ref-count-tree-flags"]),
    fatal(
        "flags internal",
        "tail",
        |e| tree_header(e, |h| h.flags.set(1)),
        &["ref-count-tree-value-size"],
    ),
    fatal(
        "internal without entries",
        "tail",
        |e| {
            tree_header(e, |h| {
                h.flags.set(1);
                h.value_size.set(8);
                h.max_entries.set(252);
            });
        },
        &["ref-count-tree-entries"],
    ),
    fatal(
        "its own child",
        "tail",
        |e| {
            let at = e.layout().ref_counts;
            e.node(at, |n| {
                n.header.flags.set(1);
                n.header.value_size.set(8);
                n.header.max_entries.set(252);
                n.header.nr_entries.set(1);
                set_key(n, 0, 0);
                set_child(n, 0, at);
            });
        },
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "leaves at two depths",
        "tail",
        two_depths,
        &["ref-count-needless", "ref-count-tree-depth"],
    ),
    fatal(
        "place 0",
        "tail",
        |e| tree_header(e, |h| h.blocknr.set(0)),
        &["ref-count-tree-block-number"],
    ),
    fatal(
        "place max",
        "tail",
        |e| tree_header(e, |h| h.blocknr.set(!0)),
        &["ref-count-tree-block-number"],
    ),
    leak("an entry", "tail", |e| tree_header(e, |h| h.nr_entries.set(1)), NEEDLESS),
    fatal(
        "two entries",
        "tail",
        |e| tree_header(e, |h| h.nr_entries.set(2)),
        &["ref-count-tree-keys"],
    ),
    fatal(
        "all entries and one",
        "tail",
        |e| tree_header(e, |h| h.nr_entries.set(337)),
        &["ref-count-tree-entries"],
    ),
    fatal(
        "max entries used",
        "tail",
        |e| tree_header(e, |h| h.nr_entries.set(!0)),
        &["ref-count-tree-entries"],
    ),
    fatal(
        "capacity 0",
        "tail",
        |e| tree_header(e, |h| h.max_entries.set(0)),
        &["ref-count-tree-capacity"],
    ),
    fatal(
        "capacity 252",
        "tail",
        |e| tree_header(e, |h| h.max_entries.set(252)),
        &["ref-count-tree-capacity"],
    ),
    fatal(
        "capacity max",
        "tail",
        |e| tree_header(e, |h| h.max_entries.set(!0)),
        &["ref-count-tree-capacity"],
    ),
    fatal(
        "value size 0",
        "tail",
        |e| tree_header(e, |h| h.value_size.set(0)),
        &["ref-count-tree-value-size"],
    ),
    fatal(
        "value size 8",
        "tail",
        |e| tree_header(e, |h| h.value_size.set(8)),
        &["ref-count-tree-value-size"],
    ),
    fatal(
        "value size max",
        "tail",
        |e| tree_header(e, |h| h.value_size.set(!0)),
        &["ref-count-tree-value-size"],
    ),
    warning(
        "padding",
        "tail",
        |e| tree_header(e, |h| h.padding.set(1)),
        &["ref-count-tree-not-zero"],
    ),
];

/// Damages the tree's header, and moves the count of the bitset's root to the tree, so that the
/// next commit reads it.
fn needed(editor: &mut ImageEditor, change: impl FnOnce(&mut NodeHeader)) {
    large(editor, 8, 3);
    tree_header(editor, change);
}

/// As above, but a count needs the tree.
pub(super) const NEEDED: &[Case] = &[
    leak("sound", "tail", |e| needed(e, |_| ()), LEAK),
    fatal("flags 0", "tail", |e| needed(e, |h| h.flags.set(0)), &["ref-count-tree-flags"]),
    fatal("flags internal", "tail", |e| needed(e, |h| h.flags.set(1)), VALUE_SIZE),
    fatal("place 0", "tail", |e| needed(e, |h| h.blocknr.set(0)), &["ref-count-tree-block-number"]),
    fatal("no entries", "tail", |e| needed(e, |h| h.nr_entries.set(0)), &["ref-count-missing"]),
    fatal(
        "an entry more",
        "tail",
        |e| needed(e, |h| h.nr_entries.set(2)),
        &["ref-count-tree-keys"],
    ),
    fatal("entries over", "tail", |e| needed(e, |h| h.nr_entries.set(337)), ENTRIES),
    fatal("capacity 0", "tail", |e| needed(e, |h| h.max_entries.set(0)), CAPACITY),
    fatal("capacity 252", "tail", |e| needed(e, |h| h.max_entries.set(252)), CAPACITY),
    fatal("value size 0", "tail", |e| needed(e, |h| h.value_size.set(0)), VALUE_SIZE),
    fatal("value size 8", "tail", |e| needed(e, |h| h.value_size.set(8)), VALUE_SIZE),
    fatal(
        "another block's count, below it",
        "tail",
        |e| {
            e.set_count(BlockNr(8), RefCountBits::Overflow);
            e.push_large_count(3, 3);
        },
        &["ref-count-missing", "ref-count-needless"],
    ),
];

const CAPACITY: &[&str] = &["ref-count-tree-capacity"];
const ENTRIES: &[&str] = &["ref-count-tree-entries"];
const VALUE_SIZE: &[&str] = &["ref-count-tree-value-size"];
