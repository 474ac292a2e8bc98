//! The structures of persistent-data on real transactions, checked against standard collections.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use clone_tests::assert_seen;
use clone_tests::client::{Family, Mix, Run};
use clone_tests::watch::Rules;
use persistent_data::sim::{Seed, SimDisk, seeds};
use rand::RngExt;

const STEPS: u32 = 40;

fn run(seed: &Seed, nr_blocks: usize, steps: u32, mix: Mix) -> u64 {
    let disk = SimDisk::new(nr_blocks);
    let mut rng = seed.rng();
    let rules = Rules::new(&disk, BTreeSet::new());
    let mut run = Run::begin(&disk, mix, rules).unwrap();
    for _ in 0..steps {
        run.step(&mut rng).unwrap();
    }
    run.commit().unwrap();
    run.ran_out
}

fn run_family(test: &'static str, family: Family) {
    for seed in seeds(test, 1000) {
        run(&seed, 2048, STEPS, Mix { families: vec![family], most: 2500, may_run_out: false });
    }
}

#[test]
fn a_btree_and_its_snapshot_equal_a_map_and_its_clone() {
    run_family("a_btree_and_its_snapshot_equal_a_map_and_its_clone", Family::Tree);
}

#[test]
fn an_array_equals_a_vec() {
    run_family("an_array_equals_a_vec", Family::Array);
}

#[test]
fn an_array_of_references_equals_a_vec_and_counts_each_reference() {
    run_family("an_array_of_references_equals_a_vec_and_counts_each_reference", Family::Pointers);
}

#[test]
fn a_bitset_equals_a_vec_of_bools() {
    run_family("a_bitset_equals_a_vec_of_bools", Family::Bitset);
}

#[test]
fn all_structures_together_equal_their_models() {
    for seed in seeds("all_structures_together_equal_their_models", 2000) {
        let mix = Mix::random(&mut seed.rng(), 1500);
        run(&seed, 1024, STEPS, mix);
    }
}

#[test]
fn when_there_is_no_room_an_abort_leaves_everything_as_it_was() {
    let (mut ran_out, mut runs) = (0, 0);
    for seed in seeds("when_there_is_no_room_an_abort_leaves_everything_as_it_was", 2000) {
        let mut rng = seed.rng();
        let nr_blocks = rng.random_range(24..100);
        let mix = Mix { may_run_out: true, ..Mix::random(&mut rng, 4000) };
        runs += 1;
        ran_out += run(&seed, nr_blocks, STEPS, mix);
    }
    assert_seen("running out of space", ran_out, runs);
}
