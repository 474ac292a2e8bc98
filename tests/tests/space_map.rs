//! Reference counts of some data, and of the metadata device itself while it grows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use clone_tests::assert_seen;
use clone_tests::client::layout::Catalog;
use clone_tests::client::{Client, Family, Mix, Run, inspect};
use clone_tests::growing::Growing;
use clone_tests::watch::Rules;
use persistent_data::block::Block;
use persistent_data::device::MemoryDevice;
use persistent_data::format::{ENTRIES_PER_BITMAP, Node, SpaceMapRoot};
use persistent_data::sim::{SimDisk, seeds};
use persistent_data::store::{DeviceReader, Reader, Writer};
use persistent_data::transaction::{SUPERBLOCK, Transaction};
use rand::RngExt;

const STEPS: u32 = 40;

#[test]
fn a_disk_space_map_equals_a_map_of_counts() {
    let (mut large_maps, mut large_counts, mut given_up, mut runs) = (0, 0, 0, 0);
    for seed in seeds("a_disk_space_map_equals_a_map_of_counts", 1000) {
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
            given_up +=
                before.iter().filter(|&(at, &was)| was > 2 && count(at) <= 2).count() as u64;
        }
        run.commit().unwrap();
        runs += 1;
        large_maps += u64::from(run.committed.nr_data > ENTRIES_PER_BITMAP as u64);
        large_counts += u64::from(run.committed.data.values().any(|&count| count > 3));
    }
    assert_seen("a second bitmap", large_maps, runs);
    assert_seen("a count in the tree", large_counts, runs);
    assert_seen("a count that came back from the tree", given_up, runs);
}

/// Returns the number of blocks that the last commit's space map covers.
fn mapped(disk: &SimDisk) -> u64 {
    let catalog: Block<Catalog> = DeviceReader(disk.live_image()).read(SUPERBLOCK).unwrap();
    SpaceMapRoot::from_area(&catalog.space_map_root).nr_blocks.get()
}

/// Runs on a device of `nr_blocks` blocks that grows by up to `by` at a time. Returns how often
/// space ran out, and the number of runs.
fn grow(test: &'static str, count: u64, nr_blocks: u64, by: u64) -> (u64, u64) {
    let (mut ran_out, mut runs) = (0, 0);
    for seed in seeds(test, count) {
        let mut rng = seed.rng();
        let disk = SimDisk::new(40_000);
        let mut present = nr_blocks;
        let device = Growing::new(&disk, present);
        let mix = Mix { may_run_out: true, ..Mix::random(&mut rng, 2000) };
        let rules = Rules::new(&disk, BTreeSet::new());
        let mut run = Run::begin(&device, mix, rules).unwrap();
        for _ in 0..STEPS {
            run.step(&mut rng).unwrap();
            if rng.random_range(0..8) == 0 {
                present = 40_000.min(present + rng.random_range(0..by));
                device.grow_to(present);
                run.extend();
                assert_eq!(run.nr_blocks(), present);
            }
        }
        run.extend();
        let before = run.ran_out;
        run.commit().unwrap();
        assert!(run.ran_out > before || mapped(&disk) == present);
        ran_out += run.ran_out;
        runs += 1;
    }
    (ran_out, runs)
}

#[test]
fn a_metadata_device_that_grows_is_taken_in_with_the_next_commit() {
    let test = "a_metadata_device_that_grows_is_taken_in_with_the_next_commit";
    let (ran_out, runs) = grow(test, 1000, 40, 100);
    assert_seen("running out of space", ran_out, runs);
}

#[test]
fn a_metadata_device_may_grow_past_the_end_of_a_bitmap() {
    let test = "a_metadata_device_may_grow_past_the_end_of_a_bitmap";
    grow(test, 60, ENTRIES_PER_BITMAP as u64 - 20, 6000);
}

#[test]
fn a_growth_without_any_other_change_is_committed() {
    let disk = SimDisk::new(100);
    let device = Growing::new(&disk, 60);
    drop(Client::create(&device).unwrap());
    device.grow_to(100);
    let reachable = inspect(&device).unwrap().unwrap().reachable;
    let mut client = Client::open(&device, reachable).unwrap();
    client.commit().unwrap();
    assert_eq!(mapped(&disk), 60, "nobody asked for more");
    client.writer.transaction.extend();
    client.writer.abort();
    client.commit().unwrap();
    assert_eq!(mapped(&disk), 60, "that was taken back");
    client.writer.transaction.extend();
    client.commit().unwrap();
    assert_eq!(mapped(&disk), 100);
    assert!(inspect(&device).is_ok());
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
