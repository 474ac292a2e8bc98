//! Values that hold references: trees of trees.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

use super::{Record, check_tree, for_each_seed};
use crate::btree::{Btree, Value};
use crate::error::Result;
use crate::number::BlockNr;
use crate::sim::MemoryStore;
use crate::store::Writer;

/// A tree as a value. It is so large that three of them fill a leaf.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Subtree {
    root: le::U64,
    padding: [u8; 992],
}

impl Subtree {
    fn of(tree: &Btree<le::U32>) -> Self {
        Self { root: tree.root().0.into(), padding: [0; 992] }
    }

    fn tree(&self) -> Btree<le::U32> {
        Btree::open(BlockNr(self.root.get()))
    }
}

impl Value for Subtree {
    fn inc<W: Writer>(&self, writer: &mut W) -> Result<()> {
        writer.inc(self.tree().root())
    }

    fn dec<W: Writer>(&self, writer: &mut W) -> Result<()> {
        self.tree().delete(writer)
    }
}

type Model = BTreeMap<u64, BTreeMap<u64, le::U32>>;

fn check(store: &MemoryStore, trees: &[(Btree<Subtree>, Model)]) {
    let mut counts = BTreeMap::new();
    for (tree, model) in trees {
        let mut subtrees = Vec::new();
        store.count_tree::<Subtree>(tree.root(), &mut counts, |_, value| subtrees.push(value));
        for subtree in subtrees {
            store.count_tree::<le::U32>(subtree.tree().root(), &mut counts, |_, _| {});
        }
        let record = Record::<Subtree>::of(store, tree.root());
        let keys: Vec<_> = record.entries.iter().map(|&(key, _)| key).collect();
        assert_eq!(keys, model.keys().copied().collect::<Vec<_>>());
        for (key, value) in record.entries {
            check_tree(store, value.tree().root(), &model[&key]);
        }
    }
    assert_eq!(&counts, store.counts());
}

fn step(
    rng: &mut StdRng,
    store: &mut MemoryStore,
    trees: &mut Vec<(Btree<Subtree>, Model)>,
) -> Result<()> {
    let nr_trees = trees.len();
    let which = rng.random_range(0..nr_trees);
    let key = rng.random_range(0..40);
    let (small, value) = (rng.random_range(0..5), le::U32::new(rng.random()));
    let (tree, model) = &mut trees[which];
    match rng.random_range(0..20) {
        0..6 => {
            let mut subtree = Btree::create(store)?;
            subtree.insert(store, small, value)?;
            tree.insert(store, key, Subtree::of(&subtree))?;
            model.insert(key, BTreeMap::from([(small, value)]));
        }
        6..11 => {
            tree.remove(store, key)?;
            model.remove(&key);
        }
        11..16 => {
            let found = tree.update(store, key, |store, old| {
                let mut subtree = old.tree();
                subtree.insert(store, small, value)?;
                Ok(Subtree::of(&subtree))
            })?;
            assert_eq!(found, model.contains_key(&key));
            model.entry(key).and_modify(|subtree| _ = subtree.insert(small, value));
        }
        16 if nr_trees < 4 => {
            let snapshot = (tree.snapshot(store)?, model.clone());
            trees.push(snapshot);
        }
        17 if nr_trees > 1 => trees.swap_remove(which).0.delete(store)?,
        18 => store.commit(),
        _ => {}
    }
    Ok(())
}

#[test]
fn trees_that_share_trees_count_every_reference_and_give_all_of_them_up() {
    for_each_seed(100, |rng| {
        let mut store = MemoryStore::new(10_000);
        let mut trees = vec![(Btree::create(&mut store).unwrap(), Model::new())];
        for round in 0..300 {
            step(rng, &mut store, &mut trees).unwrap();
            if round % 10 == 0 {
                check(&store, &trees);
            }
        }
        check(&store, &trees);
        for (tree, _) in trees {
            tree.delete(&mut store).unwrap();
        }
        assert!(store.counts().is_empty(), "{:?}", store.counts());
    });
}
