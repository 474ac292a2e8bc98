//! Single nodes: every way to edit a small node, and every field that can be wrong.

use zerocopy::{FromZeros, little_endian as le};

use crate::btree::edit::NodeEdit;
use crate::btree::node::{KeyRange, NodeView, Parsed, parse};
use crate::error::NodeError;
use crate::format::{NodeDisk, node_flags};

type Small = [u8; 1000];

fn small(len: usize) -> NodeDisk {
    let mut disk = NodeDisk::new_zeroed();
    let mut edit = NodeEdit::<Small>::format(&mut disk, node_flags::LEAF);
    for index in 0..len {
        edit.insert(index, index as u64 * 10, [index as u8; 1000]);
    }
    disk
}

fn keys(disk: &NodeDisk) -> Vec<u64> {
    let Ok(Parsed::Leaf(view)) = parse::<Small>(disk) else { panic!("a sound leaf") };
    for (key, value) in view.entries() {
        assert_eq!(value, [(key / 10) as u8; 1000], "values move with their keys");
    }
    view.entries().map(|(key, _)| key).collect()
}

#[test]
fn edits_of_small_nodes_do_what_they_do_to_a_vec() {
    assert_eq!(NodeView::<Small>::CAPACITY, 3);
    for len in 0..=3 {
        let model: Vec<u64> = (0..len as u64).map(|index| index * 10).collect();
        for start in 0..=len {
            for end in start..=len {
                let (mut disk, mut expected) = (small(len), model.clone());
                NodeEdit::<Small>::of(&mut disk).remove(start..end);
                expected.drain(start..end);
                assert_eq!(keys(&disk), expected);
            }
        }
        // All ways to remove some entries and to insert them again.
        for start in 0..=len {
            for end in start..=len {
                let (source, mut disk) = (small(len), small(len));
                let from = NodeView::<Small>::of(&source);
                let mut edit = NodeEdit::<Small>::of(&mut disk);
                edit.remove(start..end);
                edit.splice(start, from.slices(start..end));
                assert_eq!(keys(&disk), model);
            }
        }
        for index in 0..len {
            let (mut disk, mut expected) = (small(len), model.clone());
            let mut edit = NodeEdit::<Small>::of(&mut disk);
            edit.remove(index..index + 1);
            edit.insert(index, index as u64 * 10 + 1, [index as u8; 1000]);
            expected[index] += 1;
            assert_eq!(keys(&disk), expected);
        }
    }
}

#[test]
#[should_panic(expected = "the node has room")]
fn a_full_node_takes_no_entry() {
    NodeEdit::<Small>::of(&mut small(3)).insert(3, 30, [3; 1000]);
}

fn error_after(change: impl FnOnce(&mut NodeDisk)) -> Option<NodeError> {
    let mut disk = small(3);
    change(&mut disk);
    parse::<Small>(&disk).err()
}

#[test]
fn every_wrong_field_is_named() {
    assert_eq!(error_after(|_| {}), None);
    for flags in [0, 3, 4, 0x8000_0002] {
        let error = error_after(|disk| disk.header.flags.set(flags));
        assert_eq!(error, Some(NodeError::Flags(flags)));
    }
    let error = error_after(|disk| disk.header.value_size.set(8));
    assert_eq!(error, Some(NodeError::ValueSize { found: 8, expected: 1000 }));
    let error = error_after(|disk| disk.header.flags.set(node_flags::INTERNAL));
    assert_eq!(error, Some(NodeError::ValueSize { found: 1000, expected: 8 }));
    let error = error_after(|disk| disk.header.max_entries.set(4));
    assert_eq!(error, Some(NodeError::Capacity { found: 4, expected: 3 }));
    for nr_entries in [4, u32::MAX] {
        let error = error_after(|disk| disk.header.nr_entries.set(nr_entries));
        assert_eq!(error, Some(NodeError::Overfull { nr_entries, max_entries: 3 }));
    }
    let error = error_after(|disk| disk.body[16..24].copy_from_slice(&[0; 8]));
    assert_eq!(error, Some(NodeError::KeyOrder { entry: 2, key: 0 }));
    let error = error_after(|disk| disk.body[8] = 0);
    assert_eq!(error, Some(NodeError::KeyOrder { entry: 1, key: 0 }));
    assert_eq!(error_after(|disk| disk.header.nr_entries.set(0)), None, "a leaf may be empty");
    let error = error_after(|disk| {
        NodeEdit::<le::U64>::format(disk, node_flags::INTERNAL);
    });
    assert_eq!(error, Some(NodeError::Empty), "an internal node may not");
}

#[test]
fn a_child_has_keys_and_all_of_them_lie_in_its_range() {
    for len in 0..=3 {
        let disk = small(len);
        let view = NodeView::<Small>::of(&disk);
        for first in [0, 1, 10, 20, 21] {
            for last in [0, 9, 10, 19, 20, u64::MAX] {
                let outside = view.entries().any(|(key, _)| !(first..=last).contains(&key));
                let expected = if len == 0 {
                    "empty"
                } else if outside {
                    "range"
                } else {
                    "ok"
                };
                let found = match view.check_range(KeyRange { first, last }) {
                    Ok(()) => "ok",
                    Err(NodeError::Empty) => "empty",
                    Err(NodeError::KeyRange { key }) => {
                        assert!(!(first..=last).contains(&key));
                        "range"
                    }
                    Err(error) => panic!("{error}"),
                };
                assert_eq!(found, expected, "{len} entries in {first}..={last}");
            }
        }
    }
}

#[test]
fn a_key_goes_to_the_last_child_that_does_not_begin_above_it() {
    let mut disk = NodeDisk::new_zeroed();
    let mut edit = NodeEdit::<le::U64>::format(&mut disk, node_flags::INTERNAL);
    for (index, key) in [10, 20, u64::MAX].into_iter().enumerate() {
        edit.insert(index, key, le::U64::new(100 + index as u64));
    }
    let view = NodeView::<le::U64>::of(&disk);
    let routes = [0, 9, 10, 19, 20, u64::MAX - 1, u64::MAX].map(|key| view.route(key));
    assert_eq!(routes, [0, 0, 0, 0, 1, 1, 2]);
    let ranges = [0, 1, 2].map(|index| view.child_keys(index, KeyRange::ALL));
    assert_eq!(ranges.map(|range| range.first), [10, 20, u64::MAX]);
    assert_eq!(ranges.map(|range| range.last), [19, u64::MAX - 1, u64::MAX]);
}
