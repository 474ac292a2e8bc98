//! Trees that are built from the bottom up.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use zerocopy::little_endian as le;

use super::{Record, TestValue, check_counts, check_tree, fill};
use crate::btree::{Btree, Builder, NodeView};
use crate::sim::MemoryStore;

fn build<V: TestValue>(count: u64) -> (MemoryStore, Btree<V>, BTreeMap<u64, V>) {
    let mut rng = StdRng::seed_from_u64(count);
    let mut store = MemoryStore::new(1_000_000);
    let mut builder = Builder::new();
    let mut model = BTreeMap::new();
    for nr in 0..count {
        let value = V::random(&mut rng);
        model.insert(nr * 3, value);
        builder.push(&mut store, nr * 3, value).unwrap();
    }
    let tree = builder.finish(&mut store).unwrap();
    (store, tree, model)
}

fn check_build<V: TestValue>(count: u64) {
    let (mut store, tree, model) = build::<V>(count);
    check_tree(&store, tree.root(), &model);
    check_counts::<V>(&store, [tree.root()]);
    let leaves = count.div_ceil(NodeView::<V>::CAPACITY as u64).max(1);
    let mut nodes = leaves;
    let mut level = leaves;
    while level > 1 {
        level = level.div_ceil(NodeView::<le::U64>::CAPACITY as u64);
        nodes += level;
    }
    assert_eq!(store.counts().len() as u64, nodes, "{count} entries take the fewest nodes");
    store.commit();
    tree.delete(&mut store).unwrap();
    assert!(store.counts().is_empty());
}

#[test]
fn a_built_tree_is_sound_and_has_the_fewest_nodes_for_any_number_of_entries() {
    for count in 0..40 {
        check_build::<[u8; 1000]>(count);
    }
    // Numbers of leaves around which there is one more internal node or one more level.
    for leaves in [252, 253, 252 + 83, 252 + 84, 504, 504 + 83, 756, 5000] {
        for count in [3 * leaves - 2, 3 * leaves - 1, 3 * leaves] {
            check_build::<[u8; 1000]>(count);
        }
    }
    for count in [251, 252, 253, 335, 336, 337, 252 + 83, 252 + 84, 504, 505, 63504, 63505] {
        check_build::<le::U64>(count);
        check_build::<le::U32>(count);
    }
}

#[test]
fn all_leaves_but_the_last_two_are_full() {
    let (store, tree, _) = build::<le::U64>(252 * 10 + 1);
    let record = Record::<le::U64>::of(&store, tree.root());
    let lengths: Vec<_> =
        record.nodes[1..].iter().map(|node| fill::<le::U64>(&store, node.at).0).collect();
    assert_eq!(lengths, [vec![252; 9], vec![126, 127]].concat());
}

#[test]
#[should_panic(expected = "key 4 is above the key before it")]
fn a_builder_refuses_a_key_twice() {
    let mut store = MemoryStore::new(10);
    let mut builder = Builder::new();
    builder.push(&mut store, 4, le::U32::new(1)).unwrap();
    builder.push(&mut store, 4, le::U32::new(2)).unwrap();
}

#[test]
fn a_built_tree_can_be_changed() {
    let (mut store, mut tree, mut model) = build::<[u8; 100]>(5000);
    store.commit();
    for key in (0..15_000).step_by(7) {
        assert_eq!(tree.insert(&mut store, key, [1; 100]).unwrap(), key % 3 != 0);
        model.insert(key, [1; 100]);
    }
    for key in (0..15_000).step_by(2) {
        assert_eq!(tree.remove(&mut store, key).unwrap(), model.remove(&key).is_some());
    }
    check_tree(&store, tree.root(), &model);
    check_counts::<[u8; 100]>(&store, [tree.root()]);
}

#[test]
fn replacing_a_value_in_a_full_leaf_splits_nothing() {
    let (mut store, mut tree, mut model) = build::<[u8; 1000]>(30);
    let before = store.counts().len();
    for (&key, value) in &mut model {
        *value = [9; 1000];
        assert!(!tree.insert(&mut store, key, *value).unwrap());
    }
    check_tree(&store, tree.root(), &model);
    assert_eq!(store.counts().len(), before);
}
