//! Tests of btrees against models, with damage, and without space.

mod build;
mod damage;
mod extremes;
mod model;
mod node;
mod references;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use zerocopy::little_endian as le;

use super::{Btree, NodeDamage, NodeView, Parsed, Value, WalkVisitor, parse, walk};
use crate::format::{IndexEntry, Node};
use crate::number::BlockNr;
use crate::sim::MemoryStore;
use crate::store::Reader;

/// Runs `test` with the seeds `0..count`, or only with the one in `TEST_SEED`.
fn for_each_seed(count: u64, test: impl Fn(&mut StdRng)) {
    let seeds = match std::env::var("TEST_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..count,
    };
    for seed in seeds {
        let on_panic = SeedOnPanic(seed);
        test(&mut StdRng::seed_from_u64(seed));
        drop(on_panic);
    }
}

struct SeedOnPanic(u64);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed) = self;
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            eprintln!("seed={seed}; replay: TEST_SEED={seed} cargo test -p persistent-data {test}");
        }
    }
}

/// A value that tests can generate and compare.
trait TestValue: Value + PartialEq + Debug {
    fn random(rng: &mut StdRng) -> Self;
}

impl TestValue for le::U32 {
    fn random(rng: &mut StdRng) -> Self {
        rng.random::<u32>().into()
    }
}

impl TestValue for le::U64 {
    fn random(rng: &mut StdRng) -> Self {
        rng.random::<u64>().into()
    }
}

impl TestValue for IndexEntry {
    fn random(rng: &mut StdRng) -> Self {
        Self {
            blocknr: rng.random::<u64>().into(),
            nr_free: rng.random::<u32>().into(),
            none_free_before: rng.random::<u32>().into(),
        }
    }
}

impl<const N: usize> TestValue for [u8; N] {
    fn random(rng: &mut StdRng) -> Self {
        let mut bytes = [0; N];
        rng.fill(&mut bytes[..]);
        bytes
    }
}

/// A node that a walk has visited.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Met {
    at: BlockNr,
    keys: ops::Range<u64>,
}

/// Records everything that a walk visits.
struct Record<V> {
    nodes: Vec<Met>,
    entries: Vec<(u64, V)>,
    damage: Vec<NodeDamage>,
}

impl<V: Value> Record<V> {
    fn of(reader: &impl Reader, root: BlockNr) -> Self {
        let mut record = Self { nodes: Vec::new(), entries: Vec::new(), damage: Vec::new() };
        walk(reader, root, &mut record);
        record
    }
}

impl<V: Value> WalkVisitor<V> for Record<V> {
    fn node(&mut self, at: BlockNr, keys: &ops::Range<u64>) -> bool {
        self.nodes.push(Met { at, keys: keys.clone() });
        true
    }

    fn leaf(&mut self, _at: BlockNr, _keys: &ops::Range<u64>, leaf: &NodeView<'_, V>) {
        self.entries.extend(leaf.entries());
    }

    fn damage(&mut self, damage: NodeDamage) {
        self.damage.push(damage);
    }
}

/// Checks the [shape](check_shape) of the tree, and that its content equals that of `model`.
fn check_tree<V: TestValue>(store: &MemoryStore, root: BlockNr, model: &BTreeMap<u64, V>) {
    let record = check_shape::<V>(store, root);
    let expected: Vec<_> = model.iter().map(|(&key, &value)| (key, value)).collect();
    assert!(record.entries == expected, "{} of {} entries", record.entries.len(), expected.len());
}

/// Checks that the tree is sound, and that only the root may be less than a third full.
fn check_shape<V: Value>(store: &MemoryStore, root: BlockNr) -> Record<V> {
    let record = Record::<V>::of(store, root);
    assert!(record.damage.is_empty(), "{:?}", record.damage);
    for node in &record.nodes {
        let (len, min) = fill::<V>(store, node.at);
        assert!(node.at == root || len >= min, "{node:?}: {len} entries, not {min}");
    }
    record
}

/// Returns the number of entries of the node at `at`, and the minimum for a node that is not the
/// root. The minimum of an internal root is two.
fn fill<V: Value>(store: &MemoryStore, at: BlockNr) -> (usize, usize) {
    match parse::<V>(&store.read::<Node>(at).unwrap()).unwrap() {
        Parsed::Internal(view) => {
            assert!(view.len() >= 2, "node {at} has one child");
            (view.len(), NodeView::<le::U64>::CAPACITY / 3)
        }
        Parsed::Leaf(view) => (view.len(), NodeView::<V>::CAPACITY / 3),
    }
}

/// Checks that the reference counts are equal to those that the trees at `roots` make.
fn check_counts<V: Value>(store: &MemoryStore, roots: impl IntoIterator<Item = BlockNr>) {
    let mut counts = BTreeMap::new();
    for root in roots {
        store.count_tree::<V>(root, &mut counts, |_, _| {});
    }
    assert_eq!(&counts, store.counts());
}

/// Makes a committed tree with the keys `step * 1`, `step * 2`, and so on up to `step * count`.
fn tree_of<V: TestValue>(
    rng: &mut StdRng,
    count: u64,
    step: u64,
) -> (MemoryStore, Btree<V>, BTreeMap<u64, V>) {
    let mut store = MemoryStore::new(1_000_000);
    let mut tree = Btree::create(&mut store).unwrap();
    let model: BTreeMap<_, _> = (1..=count).map(|nr| (nr * step, V::random(rng))).collect();
    for (&key, &value) in &model {
        assert!(tree.insert(&mut store, key, value).unwrap());
    }
    store.commit();
    (store, tree, model)
}
