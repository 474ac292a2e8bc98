//! Any bytes as a block of every kind: an accepted block keeps the promises of its type.

#![no_main]

use clone_core::metadata::superblock::Superblock;
use libfuzzer_sys::fuzz_target;
use persistent_data::BlockNr;
use persistent_data::array::{ArrayBlockRef, array_values, entries_per_block};
use persistent_data::block::{self, BlockKind, RawBlock};
use persistent_data::btree::{NodeView, Parsed, Value, parse};
use persistent_data::format::{
    ArrayBlock, Bitmap, ENTRIES_PER_BITMAP, IndexBlock, IndexEntry, Node, RefCountBits,
};
use zerocopy::little_endian as le;

const AT: BlockNr = BlockNr(7);

fuzz_target!(|bytes: &[u8]| {
    let mut raw = RawBlock::ZERO;
    let len = bytes.len().min(raw.bytes().len());
    raw.bytes_mut()[..len].copy_from_slice(&bytes[..len]);

    sealed_as::<Node>(&raw);
    sealed_as::<ArrayBlock>(&raw);
    sealed_as::<IndexBlock>(&raw);
    sealed_as::<Bitmap>(&raw);
    superblock(raw.clone());

    node::<le::U32>(&raw);
    node::<le::U64>(&raw);
    node::<IndexEntry>(&raw);
    node::<ArrayBlockRef<le::U64>>(&raw);
    node::<[u8; 1]>(&raw);
    node::<[u8; 1346]>(&raw);
    array::<le::U32>(&raw);
    array::<le::U64>(&raw);
    array::<[u8; 1]>(&raw);
    array::<[u8; 4072]>(&raw);
    bitmap(&raw);
});

/// Checks that a sealed block is accepted at its own block number only, and that an unsealed one is
/// rejected or is already right.
fn sealed_as<K: BlockKind>(raw: &RawBlock) {
    let mut sealed = raw.clone();
    block::seal::<K>(&mut sealed, AT);
    assert!(block::check::<K>(&sealed, AT).is_ok());
    assert!(block::check::<K>(&sealed, BlockNr(8)).is_err());
    assert_eq!(block::check::<K>(raw, AT).is_ok(), sealed == *raw);
}

/// Checks that an accepted superblock is the same after it is written and read back.
fn superblock(mut raw: RawBlock) {
    let _ = Superblock::parse(&raw);
    block::seal::<clone_core::metadata::format::Superblock>(&mut raw, BlockNr(0));
    let Ok(superblock) = Superblock::parse(&raw) else { return };
    let geometry = superblock.header.geometry;
    assert!((1..=1 << 31).contains(&geometry.nr_regions()));
    let last = geometry.sectors_of(geometry.nr_regions() - 1..geometry.nr_regions());
    assert!(last.start < last.end && last.end == geometry.target_size());
    let mut again = RawBlock::ZERO;
    *block::view_mut::<clone_core::metadata::format::Superblock>(&mut again) = superblock.to_disk();
    block::seal::<clone_core::metadata::format::Superblock>(&mut again, BlockNr(0));
    assert_eq!(Superblock::parse(&again).expect("it was accepted before"), superblock);
}

fn node<V: Value>(raw: &RawBlock) {
    match parse::<V>(block::view::<Node>(raw)) {
        Ok(Parsed::Internal(view)) => {
            assert!(!view.is_empty());
            entries(&view);
        }
        Ok(Parsed::Leaf(view)) => entries(&view),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn entries<V: Value>(view: &NodeView<'_, V>) {
    assert!(view.len() <= NodeView::<V>::CAPACITY);
    assert_eq!(view.entries().count(), view.len());
    let mut before = None;
    for (index, (key, value)) in view.entries().enumerate() {
        assert!(before.is_none_or(|before| before < key));
        before = Some(key);
        assert_eq!(view.key(index), key);
        let found = view.get(key).expect("the key is there");
        assert_eq!(found.as_bytes(), value.as_bytes());
    }
}

fn array<V: Value>(raw: &RawBlock) {
    if let Ok(values) = array_values::<V>(block::view::<ArrayBlock>(raw)) {
        assert!(values.len() <= entries_per_block::<V>());
    }
}

fn bitmap(raw: &RawBlock) {
    let mut raw = raw.clone();
    let disk = block::view_mut::<Bitmap>(&mut raw);
    let free: Vec<usize> =
        (0..ENTRIES_PER_BITMAP).filter(|&entry| disk.get(entry) == RefCountBits::Zero).collect();
    assert_eq!(disk.nr_free() as usize, free.len());
    assert_eq!(disk.first_free(0, ENTRIES_PER_BITMAP), free.first().copied());
    let covered = 1000;
    disk.tidy(covered);
    assert!(disk.is_tidy(covered));
    let (first, below) = (disk.first_free(0, covered), free.iter().find(|&&e| e < covered));
    assert_eq!(first, below.copied());
}
