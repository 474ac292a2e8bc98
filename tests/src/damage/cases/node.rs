//! Headers of the nodes of the bitset's btree, one field at a time.

use persistent_data::BlockNr;
use persistent_data::format::{NodeDisk, NodeHeader};

use crate::damage::case::{Case, fatal, sound, warning};
use crate::damage::image_editor::{ImageEditor, set_child, set_key};

pub(super) fn root(editor: &mut ImageEditor, change: impl FnOnce(&mut NodeDisk)) {
    editor.node(editor.layout().root(), change);
}

pub(super) fn root_header(editor: &mut ImageEditor, change: impl FnOnce(&mut NodeHeader)) {
    root(editor, |disk| change(&mut disk.header));
}

/// Changes the middle leaf of three.
pub(super) fn leaf(editor: &mut ImageEditor, change: impl FnOnce(&mut NodeDisk)) {
    editor.node(editor.layout().leaves[1], change);
}

fn leaf_header(editor: &mut ImageEditor, change: impl FnOnce(&mut NodeHeader)) {
    leaf(editor, |disk| change(&mut disk.header));
}

/// `fresh`: nine array blocks under one leaf.
pub(super) const ONE_LEVEL_HEADER: &[Case] = &[
    fatal("flags 0", "fresh", |e| root_header(e, |h| h.flags.set(0)), FLAGS),
    fatal("flags 3", "fresh", |e| root_header(e, |h| h.flags.set(3)), FLAGS),
    fatal("flags 4", "fresh", |e| root_header(e, |h| h.flags.set(4)), FLAGS),
    fatal("flags max", "fresh", |e| root_header(e, |h| h.flags.set(!0)), FLAGS),
    // A kernel crashes on this one.
    fatal(
        "flags internal",
        "fresh",
        |e| root_header(e, |h| h.flags.set(1)),
        &["bitset-node-checksum"],
    ),
    fatal("block number 0", "fresh", |e| root_header(e, |h| h.blocknr.set(0)), PLACE),
    fatal("block number one off", "fresh", |e| root_header(e, |h| h.blocknr.set(5)), PLACE),
    fatal("block number max", "fresh", |e| root_header(e, |h| h.blocknr.set(!0)), PLACE),
    fatal("no entries", "fresh", |e| root_header(e, |h| h.nr_entries.set(0)), &["bitset-missing"]),
    fatal("an entry", "fresh", |e| root_header(e, |h| h.nr_entries.set(1)), &["bitset-missing"]),
    fatal(
        "an entry less",
        "fresh",
        |e| root_header(e, |h| h.nr_entries.set(8)),
        &["bitset-missing"],
    ),
    fatal("an entry more", "fresh", |e| root_header(e, |h| h.nr_entries.set(10)), KEYS_CODE),
    fatal("all entries", "fresh", |e| root_header(e, |h| h.nr_entries.set(252)), KEYS_CODE),
    fatal("entries over", "fresh", |e| root_header(e, |h| h.nr_entries.set(253)), ENTRIES),
    fatal("max entries used", "fresh", |e| root_header(e, |h| h.nr_entries.set(!0)), ENTRIES),
    fatal("capacity 0", "fresh", |e| root_header(e, |h| h.max_entries.set(0)), CAPACITY),
    fatal("capacity 249", "fresh", |e| root_header(e, |h| h.max_entries.set(249)), CAPACITY),
    fatal("capacity 255", "fresh", |e| root_header(e, |h| h.max_entries.set(255)), CAPACITY),
    fatal("capacity max", "fresh", |e| root_header(e, |h| h.max_entries.set(!0)), CAPACITY),
    fatal("value size 0", "fresh", |e| root_header(e, |h| h.value_size.set(0)), VALUE_SIZE),
    fatal("value size 4", "fresh", |e| root_header(e, |h| h.value_size.set(4)), VALUE_SIZE),
    fatal("value size 16", "fresh", |e| root_header(e, |h| h.value_size.set(16)), VALUE_SIZE),
    fatal("value size max", "fresh", |e| root_header(e, |h| h.value_size.set(!0)), VALUE_SIZE),
    fatal(
        "capacity and value size swapped",
        "fresh",
        |e| {
            root_header(e, |h| {
                h.max_entries.set(8);
                h.value_size.set(252);
            });
        },
        VALUE_SIZE,
    ),
    warning(
        "padding",
        "fresh",
        |e| root_header(e, |h| h.padding.set(!0)),
        &["bitset-node-not-zero"],
    ),
    sound("what lies behind the last entry", "fresh", |e| {
        root(e, |disk| {
            set_key(disk, 9, 3);
            set_child(disk, 251, BlockNr(u64::MAX));
        });
    }),
    fatal(
        "an array block",
        "fresh",
        |e| {
            let at = e.layout().root();
            e.reseal(at, 595_846_735);
        },
        &["bitset-node-checksum"],
    ),
];

const FLAGS: &[&str] = &["bitset-node-flags"];
const PLACE: &[&str] = &["bitset-node-block-number"];
const CAPACITY: &[&str] = &["bitset-node-capacity"];
const VALUE_SIZE: &[&str] = &["bitset-node-value-size"];
const ENTRIES: &[&str] = &["bitset-node-entries"];
const KEYS_CODE: &[&str] = &["bitset-node-keys"];
const MISSING: &[&str] = &["bitset-missing"];

/// `twolevel`: 515 array blocks under three leaves, whose keys begin at 0, 248 and 374.
pub(super) const TWO_LEVELS_HEADER: &[Case] = &[
    fatal("root: flags 0", "twolevel", |e| root_header(e, |h| h.flags.set(0)), FLAGS),
    fatal(
        "root: flags leaf",
        "twolevel",
        |e| root_header(e, |h| h.flags.set(2)),
        &["bitset-block-checksum", "bitset-missing"],
    ),
    fatal("root: no entries", "twolevel", |e| root_header(e, |h| h.nr_entries.set(0)), ENTRIES),
    fatal(
        "root: one less",
        "twolevel",
        |e| root_header(e, |h| h.nr_entries.set(2)),
        &["bitset-missing"],
    ),
    fatal(
        "root: one more",
        "twolevel",
        |e| root_header(e, |h| h.nr_entries.set(4)),
        &["bitset-node-keys"],
    ),
    fatal("root: over", "twolevel", |e| root_header(e, |h| h.nr_entries.set(253)), ENTRIES),
    fatal("root: capacity", "twolevel", |e| root_header(e, |h| h.max_entries.set(251)), CAPACITY),
    fatal("root: value size", "twolevel", |e| root_header(e, |h| h.value_size.set(4)), VALUE_SIZE),
    fatal("root: place", "twolevel", |e| root_header(e, |h| h.blocknr.set(2744)), PLACE),
    fatal(
        "leaf: flags internal",
        "twolevel",
        |e| leaf_header(e, |h| h.flags.set(1)),
        &["bitset-node-depth"],
    ),
    fatal("leaf: flags 3", "twolevel", |e| leaf_header(e, |h| h.flags.set(3)), FLAGS),
    fatal("leaf: no entries", "twolevel", |e| leaf_header(e, |h| h.nr_entries.set(0)), ENTRIES),
    fatal("leaf: one less", "twolevel", |e| leaf_header(e, |h| h.nr_entries.set(125)), MISSING),
    fatal(
        "leaf: one more",
        "twolevel",
        |e| leaf_header(e, |h| h.nr_entries.set(127)),
        &["bitset-node-keys"],
    ),
    fatal("leaf: over", "twolevel", |e| leaf_header(e, |h| h.nr_entries.set(253)), ENTRIES),
    fatal("leaf: capacity", "twolevel", |e| leaf_header(e, |h| h.max_entries.set(3)), CAPACITY),
    fatal("leaf: value size", "twolevel", |e| leaf_header(e, |h| h.value_size.set(9)), VALUE_SIZE),
    fatal("leaf: place", "twolevel", |e| leaf_header(e, |h| h.blocknr.set(2743)), PLACE),
];
