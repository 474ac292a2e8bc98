//! Array blocks of the bitset, one field at a time.

use persistent_data::format::ArrayHeader;

use crate::damage::case::{Case, fatal, sound};
use crate::damage::image_editor::{ImageEditor, THREE_BITMAPS};

fn header(editor: &mut ImageEditor, index: usize, change: impl FnOnce(&mut ArrayHeader)) {
    editor.array_block(index, |disk| change(&mut disk.header));
}

/// `fresh` has eight full array blocks of 509 words, and a ninth of 24.
pub(super) const HEADER: &[Case] = &[
    fatal("block number 0", "fresh", |e| header(e, 2, |h| h.blocknr.set(0)), PLACE),
    fatal("block number of another", "fresh", |e| header(e, 2, |h| h.blocknr.set(8)), PLACE),
    fatal("block number max", "fresh", |e| header(e, 2, |h| h.blocknr.set(!0)), PLACE),
    fatal("value size 0", "fresh", |e| header(e, 2, |h| h.value_size.set(0)), VALUE_SIZE),
    fatal("value size 4", "fresh", |e| header(e, 2, |h| h.value_size.set(4)), VALUE_SIZE),
    fatal("value size 16", "fresh", |e| header(e, 2, |h| h.value_size.set(16)), VALUE_SIZE),
    fatal("value size max", "fresh", |e| header(e, 2, |h| h.value_size.set(!0)), VALUE_SIZE),
    fatal("capacity 0", "fresh", |e| header(e, 2, |h| h.max_entries.set(0)), CAPACITY),
    fatal("capacity one less", "fresh", |e| header(e, 2, |h| h.max_entries.set(508)), CAPACITY),
    fatal("capacity one more", "fresh", |e| header(e, 2, |h| h.max_entries.set(510)), CAPACITY),
    fatal("capacity max", "fresh", |e| header(e, 2, |h| h.max_entries.set(!0)), CAPACITY),
    fatal("no words", "fresh", |e| header(e, 2, |h| h.nr_entries.set(0)), ENTRIES),
    fatal("a word less", "fresh", |e| header(e, 2, |h| h.nr_entries.set(508)), ENTRIES),
    fatal("a word over", "fresh", |e| header(e, 2, |h| h.nr_entries.set(510)), ENTRIES),
    fatal("max words", "fresh", |e| header(e, 2, |h| h.nr_entries.set(!0)), ENTRIES),
    fatal("last block: no words", "fresh", |e| header(e, 8, |h| h.nr_entries.set(0)), ENTRIES),
    fatal("last block: a word less", "fresh", |e| header(e, 8, |h| h.nr_entries.set(23)), ENTRIES),
    fatal("last block: a word more", "fresh", |e| header(e, 8, |h| h.nr_entries.set(25)), ENTRIES),
    fatal("last block: full", "fresh", |e| header(e, 8, |h| h.nr_entries.set(509)), ENTRIES),
    fatal(
        "capacity and words swapped",
        "fresh",
        |e| {
            header(e, 8, |h| {
                h.nr_entries.set(509);
                h.max_entries.set(24);
            });
        },
        CAPACITY,
    ),
    fatal(
        "a node",
        "fresh",
        |e| {
            let at = e.layout().array_blocks[2];
            e.reseal(at, 121_107);
        },
        &["bitset-block-checksum"],
    ),
    fatal(
        "the content of another, sealed here",
        "fresh",
        |e| {
            let other = e.raw(e.layout().array_blocks[8]);
            let at = e.layout().array_blocks[3];
            e.bytes(at, |bytes| bytes.copy_from_slice(other.bytes()));
        },
        PLACE,
    ),
];

const PLACE: &[&str] = &["bitset-block-block-number"];
const VALUE_SIZE: &[&str] = &["bitset-block-value-size"];
const CAPACITY: &[&str] = &["bitset-block-capacity"];
const ENTRIES: &[&str] = &["bitset-block-entries"];
const TRAILING: &[&str] = &["bitset-trailing-bits"];

fn set_bits(editor: &mut ImageEditor, index: usize, word: usize, bits: u64) {
    editor.array_block(index, |disk| {
        for (byte, set) in disk.body[8 * word..][..8].iter_mut().zip(bits.to_le_bytes()) {
            *byte |= set;
        }
    });
}

/// `tail` has 245 words with 10 bits in the last one, and `huge-region` has 10 bits in one word.
/// `three-bitmaps` has two array blocks and a full last word.
pub(super) const TAIL: &[Case] = &[
    fatal("the bit after the last", "tail", |e| set_bits(e, 0, 244, 1 << 10), TRAILING),
    fatal("the last bit of all", "tail", |e| set_bits(e, 0, 244, 1 << 63), TRAILING),
    fatal("all ones", "huge-region", |e| set_bits(e, 0, 0, !0), TRAILING),
    sound("the bit before the end", "tail", |e| set_bits(e, 0, 244, 1 << 9)),
    sound("all ones in a last word that is full", THREE_BITMAPS, |e| set_bits(e, 1, 115, !0)),
    sound("a word that is not in use", "tail", |e| set_bits(e, 0, 245, !0)),
    sound("the last word that is not in use", "huge-region", |e| set_bits(e, 0, 508, !0)),
];
