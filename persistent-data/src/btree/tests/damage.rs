//! Damaged trees: lost keys are reported, the others are found, and nothing panics or hangs.

use std::collections::BTreeMap;
use std::ops;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use zerocopy::{IntoBytes, little_endian as le};

use super::{Met, Record, TestValue, for_each_seed, tree_of};
use crate::block::BlockError;
use crate::btree::edit::NodeEdit;
use crate::btree::{Btree, Parsed, WalkVisitor, parse, walk};
use crate::error::{Error, NodeError};
use crate::format::{ArrayBlock, Node, NodeDisk, node_flags};
use crate::number::BlockNr;
use crate::sim::MemoryStore;
use crate::store::{Reader, Writer};

type V = [u8; 1000];

/// True if `keys`, as in [`NodeDamage::keys`](crate::btree::NodeDamage::keys), contain `key`.
fn holds(keys: &ops::Range<u64>, key: u64) -> bool {
    key >= keys.start && (key < keys.end || keys.end == u64::MAX)
}

/// Makes a tree with three levels.
fn deep_tree() -> (MemoryStore, BlockNr, BTreeMap<u64, V>) {
    let (store, tree, model) = tree_of::<V>(&mut StdRng::seed_from_u64(1), 1200, 4);
    (store, tree.root(), model)
}

fn is_leaf(store: &MemoryStore, at: BlockNr) -> bool {
    matches!(parse::<V>(&store.read::<Node>(at).unwrap()), Ok(Parsed::Leaf(_)))
}

/// Checks that a walk loses exactly the keys of `node`, and returns the error.
fn lost(store: &MemoryStore, root: BlockNr, node: &Met, model: &BTreeMap<u64, V>) -> Error {
    let mut record = Record::<V>::of(store, root);
    assert_eq!(record.damage.len(), 1, "{node:?}: {:?}", record.damage);
    let damage = record.damage.remove(0);
    assert_eq!(Met { at: damage.at, keys: damage.keys }, *node);
    let rest: Vec<_> = model
        .iter()
        .filter(|&(&key, _)| !holds(&node.keys, key))
        .map(|(&key, &value)| (key, value))
        .collect();
    assert!(record.entries == rest, "{} of {} entries", record.entries.len(), rest.len());
    damage.error
}

#[test]
fn a_bad_block_costs_exactly_its_keys() {
    let (store, root, model) = deep_tree();
    for node in Record::<V>::of(&store, root).nodes {
        let mut damaged = store.clone();
        damaged.corrupt(node.at, |raw| raw.bytes_mut()[4095] ^= 1);
        let error = lost(&damaged, root, &node, &model);
        assert!(
            matches!(
                error,
                Error::Block { source: BlockError::Checksum { .. }, at, .. } if at == node.at
            ),
            "{error}"
        );
    }
}

/// The expected error, and a function that causes it.
type Fault = (NodeError, Box<dyn Fn(&mut NodeDisk)>);

/// Returns every possible defect of a single node below the root, with its error.
fn node_faults(keys: &ops::Range<u64>) -> Vec<Fault> {
    let below = keys.start - 1;
    let above = keys.end;
    vec![
        (NodeError::Flags(3), Box::new(|disk| disk.header.flags.set(3))),
        (NodeError::Empty, Box::new(|disk| disk.header.nr_entries.set(0))),
        (NodeError::KeyRange { key: below }, Box::new(move |disk| set_key(disk, 0, below))),
        (
            NodeError::KeyRange { key: above },
            Box::new(move |disk| {
                let last = disk.header.nr_entries.get() as usize - 1;
                set_key(disk, last, above);
            }),
        ),
    ]
}

fn set_key(disk: &mut NodeDisk, index: usize, key: u64) {
    disk.body[8 * index..8 * index + 8].copy_from_slice(le::U64::new(key).as_bytes());
}

fn set_child(disk: &mut NodeDisk, index: usize, child: BlockNr) {
    NodeEdit::<le::U64>::of(disk).set_value(index, child.0.into());
}

#[test]
fn an_intact_block_with_a_bad_node_in_it_costs_exactly_its_keys() {
    let (store, root, model) = deep_tree();
    for node in Record::<V>::of(&store, root).nodes.into_iter().skip(1) {
        if node.keys.end == u64::MAX {
            continue;
        }
        for (expected, fault) in node_faults(&node.keys) {
            let mut damaged = store.clone();
            damaged.rewrite::<Node>(node.at, fault);
            let error = lost(&damaged, root, &node, &model);
            assert!(
                matches!(error, Error::Node { at, source } if at == node.at && source == expected),
                "{error}, not {expected}"
            );
        }
    }
}

#[test]
fn a_node_under_the_wrong_parent_costs_the_keys_of_the_place_and_not_its_own() {
    let (store, root, model) = deep_tree();
    let nodes = Record::<V>::of(&store, root).nodes;
    let internal: Vec<_> = nodes.iter().filter(|node| !is_leaf(&store, node.at)).collect();
    assert!(internal.len() > 2);
    for_each_seed(600, |rng| {
        let parent = internal[rng.random_range(0..internal.len())];
        let index = rng.random_range(0..children(&store, parent.at).len());
        let child = children(&store, parent.at)[index];
        let place = nodes.iter().find(|node| node.at == child).unwrap();
        let target = nodes[rng.random_range(0..nodes.len())].at;
        let past_the_end = BlockNr(rng.random_range(1_000_000..=u64::MAX));
        let target = [target, parent.at, root, past_the_end][rng.random_range(0..4)];
        if subtree(&store, child).contains(&target) {
            return;
        }
        let mut damaged = store.clone();
        damaged.rewrite::<Node>(parent.at, |disk| set_child(disk, index, target));
        let error = lost(&damaged, root, &Met { at: target, keys: place.keys.clone() }, &model);
        match error {
            Error::OutOfRange { at, .. } => assert!(at == target && target == past_the_end),
            Error::Node { at, source: NodeError::KeyRange { .. } } => assert_eq!(at, target),
            error => panic!("{error}"),
        }
    });
}

fn children(store: &MemoryStore, at: BlockNr) -> Vec<BlockNr> {
    match parse::<V>(&store.read::<Node>(at).unwrap()).unwrap() {
        Parsed::Internal(view) => view.children().collect(),
        Parsed::Leaf(_) => Vec::new(),
    }
}

fn subtree(store: &MemoryStore, at: BlockNr) -> Vec<BlockNr> {
    let mut found = vec![at];
    let mut next = 0;
    while next < found.len() {
        found.extend(children(store, found[next]));
        next += 1;
    }
    found
}

#[test]
fn a_leaf_higher_up_than_the_first_is_damage() {
    let (mut store, root, model) = deep_tree();
    let child = *children(&store, root).last().unwrap();
    let leaf = children(&store, child)[0];
    let index = children(&store, root).len() - 1;
    let keys = Record::<V>::of(&store, root).nodes.into_iter().find(|node| node.at == child);
    store.rewrite::<Node>(root, |disk| set_child(disk, index, leaf));
    let error = lost(&store, root, &Met { at: leaf, keys: keys.unwrap().keys }, &model);
    assert!(matches!(error, Error::Node { source: NodeError::Level, .. }), "{error}");
}

#[test]
fn an_internal_node_among_the_leaves_is_damage() {
    let (mut store, root, model) = deep_tree();
    let node = Record::<V>::of(&store, root).nodes.pop().unwrap();
    store.rewrite::<Node>(node.at, |disk| {
        let first = parse::<V>(disk).map(|node| match node {
            Parsed::Leaf(view) => view.key(0),
            Parsed::Internal(_) => panic!("the last node is a leaf"),
        });
        let mut edit = NodeEdit::<le::U64>::format(disk, node_flags::INTERNAL);
        edit.insert(0, first.unwrap(), root.0.into());
    });
    let error = lost(&store, root, &node, &model);
    assert!(matches!(error, Error::Node { source: NodeError::Level, .. }), "{error}");
}

#[test]
fn a_node_that_is_its_own_only_child_is_too_deep_for_everything() {
    let (mut store, root, _) = deep_tree();
    store.rewrite::<Node>(root, |disk| {
        NodeEdit::<le::U64>::format(disk, node_flags::INTERNAL).insert(0, 0, root.0.into());
    });
    let record = Record::<V>::of(&store, root);
    let [damage] = &record.damage[..] else { panic!("{:?}", record.damage) };
    assert_eq!((damage.at, damage.keys.clone()), (root, 0..u64::MAX));
    let is_too_deep =
        |error: &Error| matches!(error, Error::Node { source: NodeError::TooDeep, .. });
    assert!(is_too_deep(&damage.error));
    let mut tree = Btree::<V>::open(root);
    assert!(is_too_deep(&tree.lookup(&store, 5).unwrap_err()));
    let mut range = tree.range(&store, ..);
    assert!(is_too_deep(&range.next().unwrap().unwrap_err()));
    assert!(range.next().is_none() && range.next_back().is_none(), "an error is the end");
    assert!(tree.remove(&mut store, 5).is_err());
    assert!(tree.insert(&mut store, 5, [0; 1000]).is_err());
    assert!(Btree::<V>::open(root).delete(&mut store).is_err());
}

#[test]
fn sixteen_levels_can_be_read_and_given_up_and_seventeen_cannot() {
    for levels in [16, 17] {
        let mut store = MemoryStore::new(100);
        let mut tree = Btree::<V>::create(&mut store).unwrap();
        tree.insert(&mut store, 7, [7; 1000]).unwrap();
        for _ in 1..levels {
            let at = store.new_block::<Node>().unwrap();
            let disk = store.edit::<Node>(at).unwrap();
            let mut edit = NodeEdit::<le::U64>::format(disk, node_flags::INTERNAL);
            edit.insert(0, 7, tree.root().0.into());
            tree = Btree::open(at);
        }
        let is_good = levels == 16;
        assert_eq!(tree.lookup(&store, 7).is_ok(), is_good);
        assert_eq!(Record::<V>::of(&store, tree.root()).damage.is_empty(), is_good);
        assert_eq!(tree.delete(&mut store).is_ok(), is_good);
    }
}

#[test]
fn a_root_of_another_kind_is_damage() {
    let (mut store, root, _) = deep_tree();
    store.corrupt(root, |raw| crate::block::seal::<ArrayBlock>(raw, root));
    let record = Record::<V>::of(&store, root);
    assert_eq!(record.damage.len(), 1);
    assert_eq!(record.damage[0].keys, 0..u64::MAX);
    let record = Record::<le::U32>::of(&store, BlockNr(u64::MAX));
    assert!(matches!(record.damage[0].error, Error::OutOfRange { .. }));
}

#[test]
fn a_visitor_that_declines_a_node_gets_the_rest() {
    struct Declining(Record<V>, BlockNr);
    impl WalkVisitor<V> for Declining {
        fn node(&mut self, at: BlockNr, keys: &ops::Range<u64>) -> bool {
            self.0.node(at, keys) && at != self.1
        }
        fn leaf(
            &mut self,
            at: BlockNr,
            keys: &ops::Range<u64>,
            leaf: &crate::btree::NodeView<'_, V>,
        ) {
            self.0.leaf(at, keys, leaf);
        }
        fn damage(&mut self, damage: crate::btree::NodeDamage) {
            self.0.damage(damage);
        }
    }
    let (store, root, model) = deep_tree();
    for node in Record::<V>::of(&store, root).nodes {
        let empty = Record { nodes: Vec::new(), entries: Vec::new(), damage: Vec::new() };
        let mut visitor = Declining(empty, node.at);
        walk(&store, root, &mut visitor);
        let rest = model.keys().filter(|&&key| !holds(&node.keys, key));
        assert!(visitor.0.entries.iter().map(|(key, _)| key).eq(rest));
        assert!(visitor.0.damage.is_empty());
    }
}

/// Changes some bytes of headers, keys and values in intact blocks.
fn scribble(rng: &mut StdRng, store: &mut MemoryStore, nodes: &[Met]) {
    for _ in 0..rng.random_range(1..4) {
        let at = nodes[rng.random_range(0..nodes.len().min(8))].at;
        let other = nodes[rng.random_range(0..nodes.len())].at;
        let (kind, byte, bits) =
            (rng.random_range(0..5), rng.random_range(0..400), rng.random::<u8>());
        let index = rng.random_range(0..4);
        store.rewrite::<Node>(at, |disk| match kind {
            0 => disk.as_mut_bytes()[4 + byte % 28] ^= bits,
            1 => disk.body[byte] ^= bits,
            2 => disk.header.nr_entries.set(index as u32),
            3 if parse::<V>(disk).is_ok_and(|node| matches!(node, Parsed::Internal(_))) => {
                let len = NodeEdit::<le::U64>::of(disk).len();
                set_child(disk, index % len, other);
            }
            _ => disk.body[8 * 252 + byte] ^= bits,
        });
    }
}

#[test]
fn nothing_panics_or_hangs_whatever_the_nodes_hold() {
    let (store, root, model) = deep_tree();
    let nodes = Record::<V>::of(&store, root).nodes;
    for_each_seed(1500, |rng| {
        let mut damaged = store.clone();
        scribble(rng, &mut damaged, &nodes);
        let record = Record::<V>::of(&damaged, root);
        assert!(record.entries.is_sorted_by_key(|&(key, _)| key));
        let tree = Btree::<V>::open(root);
        for entry in [tree.range(&damaged, ..).last(), tree.range(&damaged, ..).rev().last()] {
            assert!(entry.is_none_or(|entry| entry.is_ok() || !record.damage.is_empty()));
        }
        for _ in 0..6 {
            // After an error the transaction is aborted, and its changes are discarded.
            let (mut changed, mut tree) = (damaged.clone(), Btree::<V>::open(root));
            for _ in 0..rng.random_range(1..30) {
                let key = rng.random_range(0..=model.len() as u64 * 4);
                let value = V::random(rng);
                let result = match rng.random_range(0..4) {
                    0 => tree.insert(&mut changed, key, value),
                    1 => tree.update(&mut changed, key, |_, _| Ok(value)),
                    _ => tree.remove(&mut changed, key),
                };
                if result.is_err() {
                    break;
                }
            }
        }
        // If the count of a block with two parents is too low, this fails, but does not go wrong.
        if tree.delete(&mut damaged).is_ok() && record.damage.is_empty() {
            assert!(damaged.counts().len() < store.counts().len());
        }
    });
}
