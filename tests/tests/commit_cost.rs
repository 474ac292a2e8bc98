//! A commit writes no more blocks than a kernel's commit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::ops::Range;

use clone_core::metadata::Metadata;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_core::metadata::superblock::Superblock;
use clone_tests::hydration::header;
use persistent_data::BlockNr;
use persistent_data::array::ArrayBlockRef;
use persistent_data::bitset::BITS_PER_BLOCK;
use persistent_data::btree::{NodeDamage, NodeView, WalkVisitor, walk};
use persistent_data::sim::{Order, SimDisk, seeds};
use persistent_data::store::DeviceReader;
use rand::RngExt;
use rand::seq::index::sample;
use zerocopy::little_endian as le;

/// Blocks that every commit writes: the bitmap, the index and the superblock.
const FIXED: u64 = 3;

fn formatted(disk: &SimDisk, nr_regions: u64) -> Metadata<&SimDisk> {
    Metadata::format(disk, header(nr_regions)).unwrap()
}

/// Sets one more region in each of some array blocks and commits. Returns the number of written
/// blocks.
fn commit(metadata: &mut Metadata<&SimDisk>, array_blocks: &[u64], nth: u64) -> u64 {
    for block in array_blocks {
        let region = block * BITS_PER_BLOCK + nth;
        metadata.set_hydrated(region..region + 1).unwrap();
    }
    let disk = *metadata.device();
    disk.take_log();
    let before = disk.counts();
    metadata.commit().unwrap();
    let mut order = Order::new();
    order.observe(&disk.take_log()).unwrap();
    order.finish().unwrap();
    assert_eq!(disk.counts().flushes - before.flushes, 2, "flushes");
    disk.counts().blocks_written - before.blocks_written
}

#[test]
fn a_commit_of_n_leaves_of_one_level_writes_n_plus_4_blocks() {
    let array_blocks = 9;
    let disk = SimDisk::new(64);
    let mut metadata = formatted(&disk, array_blocks * BITS_PER_BLOCK);
    for nth in 0..40 {
        for dirty in [1, 2, array_blocks] {
            let first = nth % (array_blocks - dirty + 1);
            let blocks: Vec<u64> = (first..first + dirty).collect();
            let written = commit(&mut metadata, &blocks, 3 * nth + dirty);
            assert_eq!(written, dirty + 1 + FIXED, "{dirty} dirty leaves");
        }
    }
}

#[test]
fn a_commit_without_changes_writes_nothing() {
    let disk = SimDisk::new(64);
    let mut metadata = formatted(&disk, 1000);
    metadata.set_hydrated(5..17).unwrap();
    metadata.commit().unwrap();
    let before = disk.counts();
    metadata.commit().unwrap();
    metadata.set_hydrated(7..9).unwrap();
    metadata.commit().unwrap();
    assert_eq!(disk.counts(), before);
}

/// The array blocks below each leaf node of the bitset's btree.
#[derive(Default)]
struct LeafNodes {
    indexes: Vec<Range<u64>>,
}

impl WalkVisitor<ArrayBlockRef<le::U64>> for LeafNodes {
    fn node(&mut self, _: BlockNr, _: &Range<u64>) -> bool {
        true
    }

    fn leaf(&mut self, _: BlockNr, keys: &Range<u64>, _: &NodeView<'_, ArrayBlockRef<le::U64>>) {
        self.indexes.push(keys.clone());
    }

    fn damage(&mut self, damage: NodeDamage) {
        panic!("{damage:?}");
    }
}

#[test]
fn a_commit_of_two_levels_writes_the_leaves_and_the_nodes_above_them_once() {
    let array_blocks = 1030;
    let header = header(array_blocks * BITS_PER_BLOCK);
    let nr_blocks = MetadataSize::of(header.geometry).total_blocks();
    let disk = SimDisk::new(nr_blocks as usize);
    let mut metadata = formatted(&disk, array_blocks * BITS_PER_BLOCK);

    let image = disk.live_image();
    let root = Superblock::read(&image).unwrap().bitset_root;
    let mut nodes = LeafNodes::default();
    walk(&DeviceReader(&image), root, &mut nodes);
    assert!(nodes.indexes.len() > 2, "two levels");

    for seed in seeds("a_commit_of_two_levels_writes_the_leaves_and_the_nodes_above_them_once", 60)
    {
        let mut rng = seed.rng();
        let dirty = [1, 2, 20, rng.random_range(1..array_blocks)][rng.random_range(0..4)];
        let blocks: BTreeSet<u64> = sample(&mut rng, array_blocks as usize, dirty as usize)
            .into_iter()
            .map(|block| block as u64)
            .collect();
        let touched = |indexes: &&Range<u64>| blocks.range((*indexes).clone()).next().is_some();
        let leaf_nodes = nodes.indexes.iter().filter(touched).count() as u64;
        let blocks: Vec<u64> = blocks.iter().copied().collect();
        let region = metadata.nr_hydrated() % BITS_PER_BLOCK;
        let written = commit(&mut metadata, &blocks, region);
        assert!(
            written <= dirty + leaf_nodes + 1 + FIXED,
            "{written} blocks, {dirty} dirty leaves"
        );
    }
}
