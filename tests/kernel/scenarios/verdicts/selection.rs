//! The damages of the shared tables that are judged and shown by default. The others differ from
//! them only in a number, or take a kernel long: `ALL_DAMAGES=1` judges all of them, and shows
//! none.

/// The subject of a table, and names of cases in it.
pub(super) const SELECTION: &[(&str, &[&str])] = &[
    (
        "a block",
        &[
            "no block at all",
            "superblock: a bit",
            "superblock: the mark of an interrupted restore",
            "root: a bit",
            "array block: a bit",
            "index: a bit",
            "bitmap: a bit",
            "ref count tree: a bit",
        ],
    ),
    (
        "the superblock",
        &[
            "magic of thin",
            "version 2",
            "block number 1",
            "flags 1",
            "last reserved byte",
            "all zeroes",
        ],
    ),
    (
        "sizes in the superblock",
        &[
            "region size 0",
            "target size 0",
            "region size halved",
            "a hydrated region less",
            "an array block less",
        ],
    ),
    (
        "roots in the superblock",
        &[
            "bitset root: the superblock",
            "bitset root: an older root",
            "bitset root: the ref count tree",
            "bitset root: the end",
            "space map of no blocks",
            "space map of a block too many",
            "space map of max blocks",
            "space map of the blocks in use",
            "space map with two blocks free",
            "space map with three blocks free",
            "space map with five blocks free",
            "allocated: max",
            "index: the end",
            "ref count tree: the bitset",
            "ref count tree: the end",
        ],
    ),
    (
        "bitset, the only node",
        &[
            "value size 16",
            "entries over",
            "block number one off",
            "flags 0",
            "flags internal",
            "no entries",
            "an entry less",
            "an entry more",
            "capacity 0",
            "value size 0",
            "value size 4",
            "padding",
        ],
    ),
    ("bitset, nodes on two levels", &["leaf: flags internal", "leaf: one more"]),
    (
        "bitset, keys",
        &["a first key of 1", "two keys equal", "two keys swapped"],
    ),
    (
        "bitset, pointers",
        &[
            "array block: the superblock",
            "array block: another one's",
            "array block: the end",
            "array block: a copy of it, counted",
            "leaves swapped",
            "a root that is its own child",
        ],
    ),
    (
        "bitset, array block",
        &["value size 4", "capacity 0", "a word less", "last block: a word more"],
    ),
    ("bitset, bits", &["the bit after the last", "all ones"]),
    (
        "space map, index",
        &[
            "place one off",
            "unused entry, free",
            "bitmap: an array block",
            "bitmap: the end",
            "bitmaps swapped",
            "free: none",
            "free: 1",
            "free: more than all",
            "free: max",
            "hint: one more",
            "hint: the end",
        ],
    ),
    (
        "space map, bitmap",
        &["place of the index", "all zeroes", "a word of ones", "the entry at the end"],
    ),
    (
        "space map, counts",
        &[
            "a free block: 1",
            "the bitset's root: 0",
            "an array block: 0",
            "the ref count tree: 0",
            "the index, left to the tree",
        ],
    ),
    (
        "ref count tree, entries",
        &["a free block: 3", "keys out of order"],
    ),
    (
        "ref count tree, header",
        &[
            "flags 0",
            "place 0",
            "internal without entries",
            "leaves at two depths",
            "its own child",
            "padding",
        ],
    ),
    (
        "ref count tree that is needed",
        &["sound", "flags 0", "no entries", "entries over", "capacity 0", "value size 8"],
    ),
];
