//! Keys and pointers in the bitset's btree.

use persistent_data::BlockNr;
use persistent_data::format::{NodeDisk, RefCountBits, node_flags};

use super::node::{leaf, root, root_header};
use crate::damage::case::{Case, fatal};
use crate::damage::image_editor::{ImageEditor, THREE_BITMAPS, child, key, set_child, set_key};

fn swap_children(disk: &mut NodeDisk, a: usize, b: usize) {
    let (in_a, in_b) = (child(disk, a), child(disk, b));
    set_child(disk, a, in_b);
    set_child(disk, b, in_a);
}

fn swap_keys(disk: &mut NodeDisk, a: usize, b: usize) {
    let (in_a, in_b) = (key(disk, a), key(disk, b));
    set_key(disk, a, in_b);
    set_key(disk, b, in_a);
}

const KEYS_CODE: &[&str] = &["bitset-node-keys"];

pub(super) const KEYS: &[Case] = &[
    fatal(
        "a first key of 1",
        "tail",
        |e| root(e, |n| set_key(n, 0, 1)),
        &["bitset-extra", "bitset-missing"],
    ),
    fatal(
        "a first key of max",
        "tail",
        |e| root(e, |n| set_key(n, 0, !0)),
        &["bitset-extra", "bitset-missing"],
    ),
    fatal(
        "the last key one up",
        "fresh",
        |e| root(e, |n| set_key(n, 8, 9)),
        &["bitset-extra", "bitset-missing"],
    ),
    fatal(
        "the last key at max",
        "fresh",
        |e| root(e, |n| set_key(n, 8, !0)),
        &["bitset-extra", "bitset-missing"],
    ),
    fatal("two keys equal", "fresh", |e| root(e, |n| set_key(n, 4, 3)), KEYS_CODE),
    fatal("two keys swapped", "fresh", |e| root(e, |n| swap_keys(n, 2, 3)), KEYS_CODE),
    fatal("the first keys swapped", "fresh", |e| root(e, |n| swap_keys(n, 0, 1)), KEYS_CODE),
    fatal("the last keys swapped", "fresh", |e| root(e, |n| swap_keys(n, 7, 8)), KEYS_CODE),
    fatal(
        "all keys one up",
        "fresh",
        |e| {
            root(e, |n| {
                (0..9).for_each(|entry| set_key(n, entry, entry as u64 + 1));
            });
        },
        &["bitset-block-entries", "bitset-extra", "bitset-missing"],
    ),
    fatal(
        "keys from 5 on two up",
        "fresh",
        |e| {
            root(e, |n| {
                (5..9).for_each(|entry| set_key(n, entry, entry as u64 + 2));
            });
        },
        &["bitset-block-entries", "bitset-extra", "bitset-missing"],
    ),
    fatal(
        "root: a first key of 1",
        "twolevel",
        |e| root(e, |n| set_key(n, 0, 1)),
        &["bitset-missing", "bitset-node-keys"],
    ),
    fatal(
        "root: a key one up",
        "twolevel",
        |e| root(e, |n| set_key(n, 1, 249)),
        &["bitset-missing", "bitset-node-keys"],
    ),
    fatal(
        "root: a key one down",
        "twolevel",
        |e| root(e, |n| set_key(n, 1, 247)),
        &["bitset-missing", "bitset-node-keys"],
    ),
    fatal("root: two keys equal", "twolevel", |e| root(e, |n| set_key(n, 1, 374)), KEYS_CODE),
    fatal("root: keys swapped", "twolevel", |e| root(e, |n| swap_keys(n, 1, 2)), KEYS_CODE),
    fatal(
        "leaf: the first key one down",
        "twolevel",
        |e| leaf(e, |n| set_key(n, 0, 247)),
        &["bitset-node-keys"],
    ),
    fatal(
        "leaf: the last key one up",
        "twolevel",
        |e| leaf(e, |n| set_key(n, 125, 374)),
        &["bitset-node-keys"],
    ),
    fatal("leaf: two keys equal", "twolevel", |e| leaf(e, |n| set_key(n, 60, 307)), KEYS_CODE),
];

/// Makes `entry` of the root point to `target`.
fn point(editor: &mut ImageEditor, entry: usize, target: u64) {
    root(editor, |disk| set_child(disk, entry, BlockNr(target)));
}

/// `fresh`: root 4, array blocks 5 to 13, index 1, bitmap 3, ref count tree 2.
/// `twolevel`: root 2743, leaves 2744, 2807 and 2833.
pub(super) const POINTERS: &[Case] = &[
    fatal(
        "array block: the superblock",
        "fresh",
        |e| point(e, 2, 0),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "array block: its parent",
        "fresh",
        |e| point(e, 2, 4),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "array block: the index",
        "fresh",
        |e| point(e, 2, 1),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "array block: the bitmap",
        "fresh",
        |e| point(e, 2, 3),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "array block: the ref count tree",
        "fresh",
        |e| point(e, 2, 2),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "array block: another one's",
        "fresh",
        |e| point(e, 2, 8),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "array block: a free block",
        "fresh",
        |e| point(e, 2, 1000),
        &["bitset-block-checksum", "ref-count-too-low"],
    ),
    fatal("array block: the end", "fresh", |e| point(e, 2, 2048), &["bitset-block-out-of-range"]),
    fatal(
        "array block: just before max",
        "fresh",
        |e| point(e, 2, u64::MAX - 1),
        &["bitset-block-out-of-range"],
    ),
    fatal("array block: max", "fresh", |e| point(e, 2, u64::MAX), &["bitset-block-out-of-range"]),
    fatal(
        "array block: max, beside a block 0",
        "fresh",
        |e| {
            point(e, 2, u64::MAX);
            point(e, 3, 0);
        },
        &["bitset-block-out-of-range", "block-shared", "ref-count-too-low"],
    ),
    fatal(
        "array blocks: all the same",
        "fresh",
        |e| (0..9).for_each(|i| point(e, i, 5)),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "array block: a copy of it, counted",
        "fresh",
        |e| {
            let copy = e.raw(BlockNr(8));
            e.bytes(BlockNr(20), |bytes| bytes.copy_from_slice(copy.bytes()));
            e.set_count(BlockNr(20), RefCountBits::One);
            point(e, 3, 20);
        },
        &["bitset-block-block-number"],
    ),
    fatal("leaf: the end", "twolevel", |e| point(e, 1, 4096), &["bitset-node-out-of-range"]),
    fatal("leaf: max", "twolevel", |e| point(e, 1, u64::MAX), &["bitset-node-out-of-range"]),
    fatal(
        "leaf: the superblock",
        "twolevel",
        |e| point(e, 1, 0),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "leaf: its parent",
        "twolevel",
        |e| point(e, 1, 2743),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "leaf: the first leaf",
        "twolevel",
        |e| point(e, 1, 2744),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "leaf: the last leaf",
        "twolevel",
        |e| point(e, 1, 2833),
        &["bitset-node-keys", "block-shared", "ref-count-too-low"],
    ),
    fatal(
        "leaf: an array block",
        "twolevel",
        |e| point(e, 1, 2113),
        &["bitset-node-checksum", "block-shared", "ref-count-too-low"],
    ),
    fatal(
        "leaf: the ref count tree",
        "twolevel",
        |e| point(e, 1, 2),
        &["bitset-node-value-size", "block-shared", "ref-count-too-low"],
    ),
    fatal(
        "leaves swapped",
        "twolevel",
        |e| root(e, |n| swap_children(n, 0, 1)),
        &["bitset-node-keys"],
    ),
    fatal(
        "a root that is its own child",
        THREE_BITMAPS,
        |e| {
            root_header(e, |header| {
                header.flags.set(node_flags::INTERNAL);
                header.nr_entries.set(1);
            });
            let at = e.layout().root();
            point(e, 0, at.0);
        },
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "a leaf that leads back to the root",
        "twolevel",
        |e| {
            leaf(e, |n| {
                n.header.flags.set(node_flags::INTERNAL);
                set_child(n, 0, BlockNr(2743));
            });
        },
        &["bitset-node-depth"],
    ),
];
