//! Random operations on trees and on [`BTreeMap`]s.

use std::collections::BTreeMap;
use std::ops::Bound;

use rand::RngExt;
use rand::rngs::StdRng;
use zerocopy::little_endian as le;

use super::{TestValue, check_counts, check_tree, for_each_seed};
use crate::btree::Btree;
use crate::format::IndexEntry;
use crate::sim::MemoryStore;

/// The keys that a run draws from: few or many, sparse or dense, also at the upper end.
#[derive(Clone, Copy)]
struct Keys {
    base: u64,
    step: u64,
    count: u64,
}

impl Keys {
    fn random(rng: &mut StdRng, most: u64) -> Self {
        let count = rng.random_range(1..=most);
        let step = [1, 1, 7, u64::MAX / most][rng.random_range(0..4)];
        let base = [0, u64::MAX - step * (count - 1)][rng.random_range(0..2)];
        Self { base, step, count }
    }

    fn draw(self, rng: &mut StdRng) -> u64 {
        self.base + self.step * rng.random_range(0..self.count)
    }
}

/// A tree and its expected content.
struct Pair<V> {
    tree: Btree<V>,
    model: BTreeMap<u64, V>,
}

/// Trees that may share nodes, in one store, and their content at the last commit.
struct World<V> {
    store: MemoryStore,
    pairs: Vec<Pair<V>>,
    committed: Vec<Pair<V>>,
    keys: Keys,
}

impl<V: TestValue> World<V> {
    fn new(keys: Keys) -> Self {
        let mut store = MemoryStore::new(1_000_000);
        let tree = Btree::create(&mut store).unwrap();
        let pairs = vec![Pair { tree, model: BTreeMap::new() }];
        Self { store, pairs, committed: Vec::new(), keys }
    }

    fn check(&self) {
        for pair in self.pairs.iter().chain(&self.committed) {
            check_tree(&self.store, pair.tree.root(), &pair.model);
        }
        check_counts::<V>(&self.store, self.pairs.iter().map(|pair| pair.tree.root()));
    }

    fn commit(&mut self) {
        self.store.commit();
        self.committed = self
            .pairs
            .iter()
            .map(|pair| Pair { tree: Btree::open(pair.tree.root()), model: pair.model.clone() })
            .collect();
    }

    /// Performs one operation of the kind `op`.
    fn step(&mut self, rng: &mut StdRng, op: usize) {
        let which = rng.random_range(0..self.pairs.len());
        let key = self.keys.draw(rng);
        match op {
            0 => self.insert_run(rng, which, key),
            1 => self.remove_run(rng, which, key),
            2 => self.update(rng, which, key),
            3 => self.look_around(which, key),
            4 => self.iterate(rng, which),
            5 => self.commit(),
            6 if self.pairs.len() < 4 => {
                let Pair { tree, model } = &self.pairs[which];
                let tree = tree.snapshot(&mut self.store).unwrap();
                self.pairs.push(Pair { tree, model: model.clone() });
            }
            7 if self.pairs.len() > 1 => {
                self.pairs.swap_remove(which).tree.delete(&mut self.store).unwrap();
            }
            _ => {}
        }
    }

    fn insert_run(&mut self, rng: &mut StdRng, which: usize, key: u64) {
        let Pair { tree, model } = &mut self.pairs[which];
        for key in run(rng, self.keys, key) {
            let value = V::random(rng);
            let is_new = tree.insert(&mut self.store, key, value).unwrap();
            assert_eq!(is_new, model.insert(key, value).is_none());
        }
    }

    fn remove_run(&mut self, rng: &mut StdRng, which: usize, key: u64) {
        let Pair { tree, model } = &mut self.pairs[which];
        for key in run(rng, self.keys, key) {
            let removed = tree.remove(&mut self.store, key).unwrap();
            assert_eq!(removed, model.remove(&key).is_some());
        }
    }

    fn update(&mut self, rng: &mut StdRng, which: usize, key: u64) {
        let Pair { tree, model } = &mut self.pairs[which];
        let value = V::random(rng);
        let mut replaced = None;
        let before = tree.root();
        let found = tree
            .update(&mut self.store, key, |_, old| {
                replaced = Some(old);
                Ok(value)
            })
            .unwrap();
        assert_eq!(replaced, model.get(&key).copied());
        assert_eq!(found, replaced.is_some());
        match model.get_mut(&key) {
            Some(old) => *old = value,
            None => assert_eq!(tree.root(), before, "an update of nothing changes nothing"),
        }
    }

    fn look_around(&self, which: usize, key: u64) {
        let Pair { tree, model } = &self.pairs[which];
        let store = &self.store;
        let entry = |(&key, &value): (&u64, &V)| (key, value);
        assert_eq!(tree.lookup(store, key).unwrap(), model.get(&key).copied());
        for key in [key, key.saturating_add(1), key.saturating_sub(1)] {
            let next = model.range(key..).next().map(entry);
            assert_eq!(tree.lookup_next(store, key).unwrap(), next);
            let prev = model.range(..=key).next_back().map(entry);
            assert_eq!(tree.lookup_prev(store, key).unwrap(), prev);
        }
        assert_eq!(tree.first(store).unwrap(), model.iter().next().map(entry));
        assert_eq!(tree.last(store).unwrap(), model.iter().next_back().map(entry));
    }

    fn iterate(&self, rng: &mut StdRng, which: usize) {
        let Pair { tree, model } = &self.pairs[which];
        let mut keys = [self.keys.draw(rng), self.keys.draw(rng)];
        keys.sort_unstable();
        let mut bound = |key| match rng.random_range(0..3) {
            0 => Bound::Included(key),
            1 => Bound::Excluded(key),
            _ => Bound::Unbounded,
        };
        let mut bounds = (bound(keys[0]), bound(keys[1]));
        if keys[0] == keys[1] {
            // A BTreeMap refuses these bounds.
            bounds.0 = Bound::Included(keys[0]);
        }
        let mut range = tree.range(&self.store, bounds);
        let mut expected = model.range(bounds);
        let backwards = [0.0, 0.1, 0.5, 1.0][rng.random_range(0..4)];
        loop {
            let (entry, expected) = if rng.random_bool(backwards) {
                (range.next_back(), expected.next_back())
            } else {
                (range.next(), expected.next())
            };
            let entry = entry.transpose().unwrap();
            assert_eq!(entry, expected.map(|(&key, &value)| (key, value)));
            if entry.is_none() {
                break;
            }
        }
        assert!(range.next().is_none() && range.next_back().is_none());
    }

    fn delete_all(mut self) {
        for pair in self.pairs {
            pair.tree.delete(&mut self.store).unwrap();
        }
        assert!(self.store.counts().is_empty(), "{:?}", self.store.counts());
    }
}

/// Returns one key or many, ascending or descending from `key`.
fn run(rng: &mut StdRng, keys: Keys, key: u64) -> Vec<u64> {
    let length = if rng.random_bool(0.8) { 1 } else { rng.random_range(1..=keys.count) };
    let end = keys.base + keys.step * (keys.count - 1);
    match rng.random_range(0..3) {
        0 => (0..length).map(|_| keys.draw(rng)).collect(),
        1 => (0..length)
            .take_while(|nr| (end - key) / keys.step >= *nr)
            .map(|nr| key + nr * keys.step)
            .collect(),
        _ => (0..length)
            .take_while(|nr| (key - keys.base) / keys.step >= *nr)
            .map(|nr| key - nr * keys.step)
            .collect(),
    }
}

/// Runs random mixes of operations, each with some kinds left out.
fn compare_with_model<V: TestValue>(seeds: u64, most_keys: u64) {
    for_each_seed(seeds, |rng| {
        let mut world = World::<V>::new(Keys::random(rng, most_keys));
        let weights: [u32; 8] = std::array::from_fn(|_| rng.random_range(0..4));
        let ops: Vec<usize> = weights
            .iter()
            .enumerate()
            .flat_map(|(op, &weight)| std::iter::repeat_n(op, weight as usize))
            .chain([0])
            .collect();
        for round in 0..60 {
            let op = ops[rng.random_range(0..ops.len())];
            world.step(rng, op);
            if round % 6 == 0 {
                world.check();
            }
        }
        world.check();
        world.delete_all();
    });
}

#[test]
fn trees_of_1_byte_values_do_what_a_map_does() {
    compare_with_model::<[u8; 1]>(500, 2000);
}

#[test]
fn trees_of_4_byte_values_do_what_a_map_does() {
    compare_with_model::<le::U32>(500, 2000);
}

#[test]
fn trees_of_8_byte_values_do_what_a_map_does() {
    compare_with_model::<le::U64>(500, 2000);
}

#[test]
fn trees_of_16_byte_values_do_what_a_map_does() {
    compare_with_model::<IndexEntry>(500, 2000);
}

#[test]
fn trees_of_100_byte_values_do_what_a_map_does() {
    compare_with_model::<[u8; 100]>(600, 1500);
}

#[test]
fn trees_of_three_entries_a_leaf_do_what_a_map_does() {
    compare_with_model::<[u8; 1000]>(600, 1500);
}
