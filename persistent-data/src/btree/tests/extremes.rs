//! Trees that grow and shrink, and a lack of free blocks.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::rngs::StdRng;
use zerocopy::little_endian as le;

use super::{Record, TestValue, check_counts, check_shape, check_tree, for_each_seed, tree_of};
use crate::btree::edit::NodeEdit;
use crate::btree::{Btree, Builder, NodeView, Parsed, parse};
use crate::error::Error;
use crate::format::{Node, node_flags};
use crate::number::BlockNr;
use crate::sim::MemoryStore;
use crate::store::{Reader, Writer};

#[test]
fn a_tree_shrinks_to_nothing_in_any_order() {
    for_each_seed(3, |rng| {
        let (mut store, mut tree, mut model) = tree_of::<[u8; 1000]>(rng, 20_000, 1);
        let mut keys: Vec<u64> = model.keys().copied().collect();
        match rng.random_range(0..3) {
            0 => keys.reverse(),
            1 => {}
            _ => shuffle(rng, &mut keys),
        }
        for (removed, key) in keys.into_iter().enumerate() {
            if removed % 2000 == 0 {
                check_tree(&store, tree.root(), &model);
                check_counts::<[u8; 1000]>(&store, [tree.root()]);
                store.commit();
            }
            assert!(tree.remove(&mut store, key).unwrap());
            model.remove(&key);
        }
        check_tree(&store, tree.root(), &model);
        assert_eq!(store.counts().len(), 1, "an empty leaf is left");
    });
}

#[test]
fn keys_that_come_in_order_leave_nodes_nearly_full() {
    const COUNT: u64 = 20_000;
    for is_ascending in [true, false] {
        let mut store = MemoryStore::new(1000);
        let mut tree = Btree::<le::U64>::create(&mut store).unwrap();
        for key in 0..COUNT {
            let key = if is_ascending { key } else { COUNT - key };
            tree.insert(&mut store, key, le::U64::new(key)).unwrap();
        }
        let fewest = COUNT as usize / NodeView::<le::U64>::CAPACITY;
        let nodes = store.counts().len();
        assert!(nodes < fewest + fewest / 8, "{nodes} nodes, {fewest} would do");
    }
}

fn shuffle(rng: &mut StdRng, keys: &mut [u64]) {
    for index in 1..keys.len() {
        keys.swap(index, rng.random_range(0..=index));
    }
}

#[test]
fn a_tree_grows_to_four_levels_and_shrinks_to_three() {
    /// Maximum number of leaves below one level of internal nodes and a root.
    const LEAVES: u64 = 252 * 252;
    let depth = |store: &MemoryStore, root| {
        let mut depth = 1;
        let mut at = root;
        while let Parsed::Internal(view) =
            parse::<[u8; 1000]>(&store.read::<Node>(at).unwrap()).unwrap()
        {
            (at, depth) = (view.child(0), depth + 1);
        }
        depth
    };
    for_each_seed(1, |rng| {
        let mut store = MemoryStore::new(1_000_000);
        let mut builder = Builder::new();
        for key in 0..3 * LEAVES {
            builder.push(&mut store, 2 * key, [1; 1000]).unwrap();
        }
        let mut tree = builder.finish(&mut store).unwrap();
        let mut keys: BTreeSet<u64> = (0..3 * LEAVES).map(|key| 2 * key).collect();
        assert_eq!(depth(&store, tree.root()), 3);
        for _ in 0..300 {
            let key = rng.random_range(0..6 * LEAVES);
            assert_eq!(tree.insert(&mut store, key, [2; 1000]).unwrap(), keys.insert(key));
        }
        assert_eq!(depth(&store, tree.root()), 4);
        for key in 0..5 * LEAVES {
            assert_eq!(tree.remove(&mut store, key).unwrap(), keys.remove(&key));
            if key % 100_000 == 0 {
                store.commit();
            }
        }
        assert_eq!(depth(&store, tree.root()), 3);
        let left = tree.range(&store, ..).map(|entry| entry.unwrap().0);
        assert!(left.eq(keys));
        check_shape::<[u8; 1000]>(&store, tree.root());
        check_counts::<[u8; 1000]>(&store, [tree.root()]);
    });
}

/// Makes a tree of maximum depth from few entries: internal nodes have one to three children,
/// fewer than this module would leave. Its keys begin at 10, in steps of 20.
fn thin_tree<V: TestValue>(
    rng: &mut StdRng,
    store: &mut MemoryStore,
    depth: usize,
) -> (Btree<V>, BTreeMap<u64, V>) {
    let mut model = BTreeMap::new();
    let mut level: Vec<(u64, BlockNr)> = Vec::new();
    for leaf in 0..3u64.pow(depth as u32 - 1) {
        let at = store.new_block::<Node>().unwrap();
        let mut edit = NodeEdit::<V>::format(store.edit::<Node>(at).unwrap(), node_flags::LEAF);
        for index in 0..rng.random_range(1..=2) {
            let (key, value) = (10 + 40 * leaf + 20 * index, V::random(rng));
            edit.insert(index as usize, key, value);
            model.insert(key, value);
        }
        level.push((10 + 40 * leaf, at));
    }
    for above in 1..depth {
        let mut parents = Vec::new();
        while !level.is_empty() {
            let most = if above + 1 == depth { level.len() } else { level.len().min(3) };
            let least = if above + 1 == depth { most } else { 1 };
            let at = store.new_block::<Node>().unwrap();
            let disk = store.edit::<Node>(at).unwrap();
            let mut edit = NodeEdit::<le::U64>::format(disk, node_flags::INTERNAL);
            parents.push((level[0].0, at));
            for (index, (key, child)) in level.drain(..rng.random_range(least..=most)).enumerate() {
                edit.insert(index, key, child.0.into());
            }
        }
        level = parents;
    }
    let (key, mut root) = level[0];
    for _ in 0..rng.random_range(0..3) {
        let at = store.new_block::<Node>().unwrap();
        let disk = store.edit::<Node>(at).unwrap();
        NodeEdit::<le::U64>::format(disk, node_flags::INTERNAL).insert(0, key, root.0.into());
        root = at;
    }
    (Btree::open(root), model)
}

#[test]
fn trees_that_are_thinner_than_ours_can_be_changed() {
    for_each_seed(300, |rng| {
        let mut store = MemoryStore::new(100_000);
        let depth = rng.random_range(2..=5);
        let (mut tree, mut model) = thin_tree::<[u8; 1000]>(rng, &mut store, depth);
        store.commit();
        let removals = rng.random_range(0.1..1.0);
        for _ in 0..3 * model.len() {
            let key = *model.keys().nth(rng.random_range(0..model.len())).unwrap();
            if rng.random_bool(removals) {
                assert!(tree.remove(&mut store, key).unwrap());
                model.remove(&key);
            } else {
                let key = key.saturating_sub(rng.random_range(0..10));
                let is_new = tree.insert(&mut store, key, [3; 1000]).unwrap();
                assert_eq!(is_new, model.insert(key, [3; 1000]).is_none());
            }
            if model.is_empty() {
                break;
            }
        }
        let record = Record::<[u8; 1000]>::of(&store, tree.root());
        assert!(record.damage.is_empty(), "{:?}", record.damage);
        assert!(record.entries.into_iter().eq(model));
        check_counts::<[u8; 1000]>(&store, [tree.root()]);
        tree.delete(&mut store).unwrap();
        assert!(store.counts().is_empty());
    });
}

#[test]
fn without_space_an_operation_fails_and_the_last_commit_is_intact() {
    for_each_seed(200, |rng| {
        let mut store = MemoryStore::new(rng.random_range(4..100));
        let mut tree = Btree::<[u8; 1000]>::create(&mut store).unwrap();
        let mut model = BTreeMap::new();
        store.commit();
        let mut failures = 0;
        for _ in 0..400 {
            let (mut attempt, mut changed) = (store.clone(), Btree::open(tree.root()));
            let mut changed_model = model.clone();
            let result = (0..rng.random_range(1..10)).try_for_each(|_| {
                let (key, value) = (rng.random_range(0..300), TestValue::random(rng));
                if rng.random_bool(0.3) {
                    changed_model.remove(&key);
                    changed.remove(&mut attempt, key)?;
                } else {
                    changed_model.insert(key, value);
                    changed.insert(&mut attempt, key, value)?;
                }
                Ok(())
            });
            match result {
                Ok(()) => {
                    attempt.commit();
                    (store, tree, model) = (attempt, changed, changed_model);
                }
                Err(Error::NoSpace) => {
                    check_tree(&attempt, tree.root(), &model);
                    failures += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(failures > 0);
        check_tree(&store, tree.root(), &model);
        check_counts::<[u8; 1000]>(&store, [tree.root()]);
    });
}

#[test]
fn a_change_dirties_no_more_blocks_than_the_way_down() {
    for_each_seed(20, |rng| {
        let (mut store, mut tree, _) = tree_of::<[u8; 1000]>(rng, 2000, 2);
        let before = store.counts().clone();
        let key = 2 * rng.random_range(1..=2000);
        assert!(tree.update(&mut store, key, |_, _| Ok([1; 1000])).unwrap());
        let dirty = store.counts().keys().filter(|at| !before.contains_key(at)).count();
        assert_eq!(dirty, 3, "the root, an internal node and a leaf");
        assert_eq!(store.counts().len(), before.len());
        store.commit();
        let root = tree.root();
        assert!(!tree.remove(&mut store, key + 1).unwrap());
        assert_eq!(tree.root(), root, "where nothing is removed nothing is copied");
    });
}
