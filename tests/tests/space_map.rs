//! Reference counts: those of some data, and those of the metadata device itself while it grows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use clone_tests::client::{Family, Mix, Run};
use clone_tests::growing::Growing;
use clone_tests::watch::Rules;
use persistent_data::device::MemoryDevice;
use persistent_data::format::{ENTRIES_PER_BITMAP, Node};
use persistent_data::sim::{SimDisk, seeds};
use persistent_data::store::Writer;
use persistent_data::transaction::{SUPERBLOCK, Transaction};
use rand::RngExt;

const STEPS: u32 = 40;

#[test]
fn a_disk_space_map_equals_a_map_of_counts() {
    let (mut most_blocks, mut largest, mut given_up) = (0, 0, 0);
    for seed in seeds("a_disk_space_map_equals_a_map_of_counts", 500) {
        let mut rng = seed.rng();
        let most = [40, 1000, 8000][rng.random_range(0..3)];
        let mix = Mix { families: vec![Family::Data], most, may_run_out: false };
        let disk = SimDisk::new(512);
        let rules = Rules::new(&disk, BTreeSet::new());
        let mut run = Run::begin(&disk, mix, rules).unwrap();
        for _ in 0..STEPS {
            let before = run.committed.data.clone();
            run.step(&mut rng).unwrap();
            let count = |at: &u64| run.committed.data.get(at).copied().unwrap_or(0);
            given_up += before.iter().filter(|&(at, &was)| was > 2 && count(at) <= 2).count();
        }
        run.commit().unwrap();
        most_blocks = most_blocks.max(run.committed.nr_data);
        largest = largest.max(run.committed.data.values().copied().max().unwrap_or(0));
    }
    assert!(most_blocks > ENTRIES_PER_BITMAP as u64, "{most_blocks} blocks: never two bitmaps");
    assert!(largest > 3, "counts of {largest}: none for the tree");
    assert!(given_up > 0, "no count ever came back from the tree");
}

/// Runs on a device of `nr_blocks` blocks that grows by up to `by` at a time.
fn grow(test: &'static str, count: u64, nr_blocks: u64, by: u64) -> u64 {
    let mut ran_out = 0;
    for seed in seeds(test, count) {
        let mut rng = seed.rng();
        let disk = SimDisk::new(40_000);
        let mut present = nr_blocks;
        let device = Growing::new(&disk, present);
        let mix = Mix { may_run_out: true, ..Mix::random(&mut rng, 2000) };
        let rules = Rules::new(&disk, BTreeSet::new());
        let mut run = Run::begin(&device, mix, rules).unwrap();
        let mut mapped = nr_blocks;
        for _ in 0..STEPS {
            run.step(&mut rng).unwrap();
            if rng.random_range(0..8) == 0 {
                present = 40_000.min(present + rng.random_range(0..by));
                device.grow_to(present);
                run.extend();
                assert_eq!(run.nr_blocks(), present);
            }
            assert!(mapped <= run.nr_blocks() || run.ran_out > 0 || run.nr_blocks() >= nr_blocks);
            mapped = run.nr_blocks();
        }
        run.extend();
        let before = run.ran_out;
        run.commit().unwrap();
        assert!(run.nr_blocks() == present || run.ran_out > before);
        ran_out += run.ran_out;
    }
    ran_out
}

#[test]
fn a_metadata_device_that_grows_is_taken_in_with_the_next_commit() {
    let test = "a_metadata_device_that_grows_is_taken_in_with_the_next_commit";
    assert!(grow(test, 300, 40, 100) > 0, "no run ever ran out of space");
}

#[test]
fn a_metadata_device_may_grow_past_the_end_of_a_bitmap() {
    let test = "a_metadata_device_may_grow_past_the_end_of_a_bitmap";
    grow(test, 60, ENTRIES_PER_BITMAP as u64 - 20, 6000);
}

#[test]
fn an_abort_before_the_first_commit_leaves_the_superblock_its_block() {
    let device = MemoryDevice::new(20);
    let mut transaction = Transaction::create(&device).unwrap();
    transaction.new_block::<Node>().unwrap();
    transaction.abort();
    assert_eq!(transaction.count(SUPERBLOCK).unwrap(), 1);
    for _ in 1..20 {
        assert_ne!(transaction.new_block::<Node>().unwrap(), SUPERBLOCK);
    }
    assert!(transaction.new_block::<Node>().is_err());
}
