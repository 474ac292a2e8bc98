//! Clone metadata checked against a set of hydrated regions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use clone_core::metadata::metadata_size::MetadataSize;
use clone_core::metadata::restore::{RestoreError, restore};
use clone_tests::assert_seen;
use clone_tests::hydration::{Hydration, header, recover};
use clone_tests::watch::Rules;
use persistent_data::bitset::BITS_PER_BLOCK;
use persistent_data::sim::{SimDisk, seeds};
use rand::RngExt;

const STEPS: u32 = 40;

#[test]
fn metadata_equals_a_set_of_regions() {
    for seed in seeds("metadata_equals_a_set_of_regions", 1500) {
        let mut rng = seed.rng();
        let most = [70, 1000, 33_000, 150_000][rng.random_range(0..4)];
        let header = header(rng.random_range(1..=most));
        let size = MetadataSize::of(header.geometry);
        let disk = SimDisk::new(size.total_blocks() as usize);
        let rules = Rules::new(&disk, BTreeSet::new());
        let mut hydration = Hydration::format(&disk, header, rules).unwrap();
        for _ in 0..STEPS {
            hydration.step(&mut rng).unwrap();
        }
        hydration.commit().unwrap();
    }
}

#[test]
fn metadata_that_runs_out_of_space_stays_as_it_was() {
    let (mut ran_out, mut runs) = (0, 0);
    for seed in seeds("metadata_that_runs_out_of_space_stays_as_it_was", 1000) {
        let mut rng = seed.rng();
        let header = header(rng.random_range(1..=200_000));
        let size = MetadataSize::of(header.geometry);
        let disk = SimDisk::new(size.least_blocks() as usize);
        let rules = Rules::new(&disk, BTreeSet::new());
        let mut hydration = Hydration::format(&disk, header, rules).unwrap().may_run_out();
        for _ in 0..STEPS {
            hydration.step(&mut rng).unwrap();
        }
        runs += 1;
        ran_out += hydration.ran_out;
    }
    assert_seen("running out of space", ran_out, runs);
}

#[test]
fn a_restore_reads_its_source_to_the_end_even_when_the_last_region_has_come() {
    for nr_regions in [1, 64, 70, BITS_PER_BLOCK, BITS_PER_BLOCK + 1] {
        let header = header(nr_regions);
        let blocks = MetadataSize::of(header.geometry).total_blocks() as usize;
        for runs in [vec![0..nr_regions], vec![nr_regions - 1..nr_regions]] {
            let disk = SimDisk::new(blocks);
            let cut_off = runs.iter().cloned().map(Ok).chain([Err("cut off")]);
            let restored = restore(&disk, header, cut_off, &());
            assert!(matches!(restored, Err(RestoreError::Source("cut off"))), "{restored:?}");
            assert_eq!(recover(&disk), Ok(None));

            let once_more = runs.iter().chain(&runs).cloned().map(Ok::<_, ()>);
            let restored = restore(&disk, header, once_more, &());
            assert!(matches!(restored, Err(RestoreError::Run { .. })), "{restored:?}");
            assert_eq!(recover(&disk), Ok(None));

            restore(&disk, header, runs.iter().cloned().map(Ok::<_, ()>), &()).unwrap();
            assert_eq!(recover(&disk).unwrap().unwrap().runs, runs);
        }
    }
}
