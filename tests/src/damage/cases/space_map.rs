//! The space map: its index, its bitmaps, and the counts in them.

use persistent_data::BlockNr;
use persistent_data::format::{IndexEntry, RefCountBits};

use crate::damage::case::{Case, fatal, leak, sound, warning};
use crate::damage::image_editor::{ImageEditor, THREE_BITMAPS};

fn entry(editor: &mut ImageEditor, number: usize, change: impl FnOnce(&mut IndexEntry)) {
    editor.index(|disk| change(&mut disk.entries[number]));
}

/// `tail`: 2048 blocks; blocks 0, 2, 6, 7, 8 and 9 are in use, and the bitmap is in block 7.
/// `three-bitmaps`: 33640 blocks, with bitmaps in blocks 6, 7 and 8.
pub(super) const INDEX: &[Case] = &[
    fatal("place 0", "tail", |e| e.index(|i| i.blocknr.set(0)), INDEX_PLACE),
    fatal("place one off", "tail", |e| e.index(|i| i.blocknr.set(10)), INDEX_PLACE),
    fatal("place max", "tail", |e| e.index(|i| i.blocknr.set(!0)), INDEX_PLACE),
    warning("padding", "tail", |e| e.index(|i| i.padding.set(1)), NOT_ZERO),
    warning("unused entry, free", "tail", |e| entry(e, 1, |i| i.nr_free.set(16_320)), NOT_ZERO),
    warning(
        "unused entry, hint",
        "tail",
        |e| entry(e, 100, |i| i.none_free_before.set(1)),
        NOT_ZERO,
    ),
    warning("last entry", "tail", |e| entry(e, 254, |i| i.blocknr.set(!0)), NOT_ZERO),
    warning("a bitmap twice", "tail", |e| entry(e, 1, |i| i.blocknr.set(7)), NOT_ZERO),
    fatal(
        "bitmap: none",
        "tail",
        |e| entry(e, 0, |i| *i = IndexEntry::default()),
        &["block-shared", "space-map-bitmap-checksum"],
    ),
    fatal(
        "bitmap: the index",
        "tail",
        |e| entry(e, 0, |i| i.blocknr.set(9)),
        &["block-shared", "space-map-bitmap-checksum"],
    ),
    fatal(
        "bitmap: an array block",
        "tail",
        |e| entry(e, 0, |i| i.blocknr.set(6)),
        &["block-shared", "space-map-bitmap-checksum"],
    ),
    fatal(
        "bitmap: a free block",
        "tail",
        |e| entry(e, 0, |i| i.blocknr.set(1000)),
        &["space-map-bitmap-checksum"],
    ),
    fatal(
        "bitmap: an older one",
        "tail",
        |e| entry(e, 0, |i| i.blocknr.set(3)),
        &["leaked-blocks", "ref-count-too-low"],
    ),
    fatal(
        "bitmap: the end",
        "tail",
        |e| entry(e, 0, |i| i.blocknr.set(2048)),
        &["space-map-bitmap-out-of-range"],
    ),
    fatal(
        "bitmap: max",
        "tail",
        |e| entry(e, 0, |i| i.blocknr.set(!0)),
        &["space-map-bitmap-out-of-range"],
    ),
    fatal(
        "one bitmap for two",
        THREE_BITMAPS,
        |e| entry(e, 1, |i| i.blocknr.set(8)),
        &["block-shared", "ref-count-too-low"],
    ),
    fatal(
        "bitmaps swapped",
        THREE_BITMAPS,
        |e| e.index(|i| i.entries.swap(0, 1)),
        &["leaked-blocks", "ref-count-too-low"],
    ),
    sound("bitmaps of nothing swapped", THREE_BITMAPS, |e| e.index(|i| i.entries.swap(1, 2))),
    fatal("free: none", "tail", |e| entry(e, 0, |i| i.nr_free.set(0)), FREE_LOW),
    fatal("free: one less", "tail", |e| entry(e, 0, |i| i.nr_free.set(16_313)), FREE_LOW),
    fatal("free: 1", "tail", |e| entry(e, 0, |i| i.nr_free.set(1)), FREE_LOW),
    fatal("free: on the device only", "tail", |e| entry(e, 0, |i| i.nr_free.set(2042)), FREE_LOW),
    leak("free: one more", "tail", |e| entry(e, 0, |i| i.nr_free.set(16_315)), FREE_HIGH),
    leak("free: all", "tail", |e| entry(e, 0, |i| i.nr_free.set(16_320)), FREE_HIGH),
    leak("free: more than all", "tail", |e| entry(e, 0, |i| i.nr_free.set(20_000)), FREE_HIGH),
    leak("free: 2^31", "tail", |e| entry(e, 0, |i| i.nr_free.set(1 << 31)), FREE_HIGH),
    // The first freed block makes the count zero, which a kernel takes for a full bitmap.
    fatal("free: max", "tail", |e| entry(e, 0, |i| i.nr_free.set(!0)), FREE_HIGH),
    fatal("last bitmap, free: 0", THREE_BITMAPS, |e| entry(e, 2, |i| i.nr_free.set(0)), FREE_LOW),
    sound("hint: 0", "tail", |e| entry(e, 0, |i| i.none_free_before.set(0))),
    fatal("hint: one more", "tail", |e| entry(e, 0, |i| i.none_free_before.set(2)), HINT),
    fatal("hint: the end", "tail", |e| entry(e, 0, |i| i.none_free_before.set(2048)), HINT),
    fatal("hint: max", "tail", |e| entry(e, 0, |i| i.none_free_before.set(!0)), HINT),
    fatal(
        "last bitmap, hint: 1",
        THREE_BITMAPS,
        |e| entry(e, 2, |i| i.none_free_before.set(1)),
        HINT,
    ),
    fatal(
        "a bitmap",
        "tail",
        |e| {
            let at = e.layout().index;
            e.reseal(at, 240_779);
        },
        &["space-map-index-checksum"],
    ),
];

const INDEX_PLACE: &[&str] = &["space-map-index-block-number"];
const NOT_ZERO: &[&str] = &["space-map-not-zero"];
const FREE_LOW: &[&str] = &["space-map-free-too-low"];
const FREE_HIGH: &[&str] = &["space-map-free-too-high"];
const HINT: &[&str] = &["space-map-hint"];
const BITMAP_PLACE: &[&str] = &["space-map-bitmap-block-number"];

pub(super) const BITMAP: &[Case] = &[
    fatal("place 0", "tail", |e| e.bitmap(0, |b| b.blocknr.set(0)), BITMAP_PLACE),
    fatal("place of the index", "tail", |e| e.bitmap(0, |b| b.blocknr.set(9)), BITMAP_PLACE),
    fatal("place max", "tail", |e| e.bitmap(0, |b| b.blocknr.set(!0)), BITMAP_PLACE),
    fatal("place of another", THREE_BITMAPS, |e| e.bitmap(2, |b| b.blocknr.set(7)), BITMAP_PLACE),
    warning("unused field", "tail", |e| e.bitmap(0, |b| b.not_used.set(!0)), NOT_ZERO),
    warning(
        "unused field of the last",
        THREE_BITMAPS,
        |e| e.bitmap(2, |b| b.not_used.set(1)),
        NOT_ZERO,
    ),
    fatal(
        "all zeroes",
        "tail",
        |e| e.bitmap(0, |b| b.words.fill(0.into())),
        &["ref-count-too-low", "space-map-free-too-low", "space-map-hint", "space-map-used"],
    ),
    fatal(
        "all ones",
        "tail",
        |e| e.bitmap(0, |b| b.words.fill(u64::MAX.into())),
        &["ref-count-missing", "space-map-free-too-high", "space-map-past-end", "space-map-used"],
    ),
    fatal(
        "a word of ones",
        "tail",
        |e| e.bitmap(0, |b| b.words[10].set(!0)),
        &["ref-count-missing", "space-map-free-too-high", "space-map-used"],
    ),
    fatal(
        "a word of ones, all figures right",
        "tail",
        |e| {
            (320..352).for_each(|at| e.set_count(BlockNr(at), RefCountBits::Overflow));
        },
        &["ref-count-missing"],
    ),
    warning(
        "the entry at the end",
        "tail",
        |e| {
            e.set_count(BlockNr(2048), RefCountBits::One);
        },
        &["space-map-past-end"],
    ),
    warning(
        "the last entry of all",
        "tail",
        |e| {
            e.set_count(BlockNr(16_319), RefCountBits::Overflow);
        },
        &["space-map-past-end"],
    ),
    leak(
        "the entry at the end, by itself",
        "tail",
        |e| {
            e.bitmap(0, |b| b.set(2048, RefCountBits::Two));
        },
        &["space-map-free-too-high", "space-map-past-end", "space-map-used"],
    ),
    fatal(
        "sealed as an index",
        "tail",
        |e| {
            let at = e.layout().bitmaps[0];
            e.reseal(at, 160_478);
        },
        &["space-map-bitmap-checksum"],
    ),
];

/// Sets a count, and updates the totals to match.
fn count(editor: &mut ImageEditor, at: u64, bits: RefCountBits) {
    editor.set_count(BlockNr(at), bits);
}

const LEAK: &[&str] = &["leaked-blocks"];
const LOW: &[&str] = &["ref-count-too-low"];
const LACKING: &[&str] = &["ref-count-missing"];

pub(super) const COUNTS: &[Case] = &[
    leak("a free block: 1", "tail", |e| count(e, 1, RefCountBits::One), LEAK),
    leak("a free block: 2", "tail", |e| count(e, 1000, RefCountBits::Two), LEAK),
    leak("the last block: 1", "tail", |e| count(e, 2047, RefCountBits::One), LEAK),
    leak(
        "every free block but four: 1",
        "tail",
        |e| {
            (10..2048).for_each(|at| count(e, at, RefCountBits::One));
        },
        LEAK,
    ),
    fatal(
        "every free block: 1",
        "tail",
        |e| {
            [1, 3, 4, 5].into_iter().chain(10..2048).for_each(|at| count(e, at, RefCountBits::One));
        },
        &["leaked-blocks", "space-map-full"],
    ),
    leak("the superblock: 2", "tail", |e| count(e, 0, RefCountBits::Two), LEAK),
    leak("the bitset's root: 2", "tail", |e| count(e, 8, RefCountBits::Two), LEAK),
    leak("an array block: 2", "tail", |e| count(e, 6, RefCountBits::Two), LEAK),
    leak("the index: 2", "tail", |e| count(e, 9, RefCountBits::Two), LEAK),
    leak("the bitmap: 2", "tail", |e| count(e, 7, RefCountBits::Two), LEAK),
    leak("the ref count tree: 2", "tail", |e| count(e, 2, RefCountBits::Two), LEAK),
    leak("a block of another bitmap", THREE_BITMAPS, |e| count(e, 33_639, RefCountBits::One), LEAK),
    fatal(
        "the superblock: 0",
        "tail",
        |e| count(e, 0, RefCountBits::Zero),
        &["ref-count-too-low", "space-map-hint"],
    ),
    fatal("the bitset's root: 0", "tail", |e| count(e, 8, RefCountBits::Zero), LOW),
    fatal("an array block: 0", "tail", |e| count(e, 6, RefCountBits::Zero), LOW),
    fatal("the index: 0", "tail", |e| count(e, 9, RefCountBits::Zero), LOW),
    fatal("the bitmap: 0", "tail", |e| count(e, 7, RefCountBits::Zero), LOW),
    fatal("the ref count tree: 0", "tail", |e| count(e, 2, RefCountBits::Zero), LOW),
    fatal("an array block of many: 0", "twolevel", |e| count(e, 2113, RefCountBits::Zero), LOW),
    fatal("the index, left to the tree", "tail", |e| count(e, 9, RefCountBits::Overflow), LACKING),
    fatal(
        "a free block, left to the tree",
        "tail",
        |e| count(e, 1, RefCountBits::Overflow),
        LACKING,
    ),
    fatal(
        "the next to the last, left to the tree",
        "tail",
        |e| {
            count(e, 2046, RefCountBits::Overflow);
        },
        LACKING,
    ),
];
