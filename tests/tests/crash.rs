//! After a crash at any point, a device holds the last commit or the one in flight, complete.
//!
//! Mutants prove that the tests work: devices that break the order of a commit are detected.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use clone_core::geometry::RegionRange;
use clone_core::metadata::Metadata;
use clone_core::metadata::ir::Header;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_core::metadata::restore::restore;
use clone_tests::client::{self, Mix, Model, Run};
use clone_tests::crash::{CrashPoints, Crashes};
use clone_tests::hydration::{self, Held, Hydration, header};
use clone_tests::mutants::{LostWrite, UnflushedSuperblock};
use clone_tests::watch::{Rules, Watch};
use persistent_data::bitset::BITS_PER_BLOCK;
use persistent_data::device::Device;
use persistent_data::sim::{EarlySuperblock, NoFlush, SimDisk, seeds};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Number of random crashes at each point.
const SURVIVALS: u32 = 4;

/// Number of crashes in a row, each in a run that continues from the one before.
const GENERATIONS: u32 = 3;

fn recover_client(disk: &SimDisk) -> Result<Option<Model>, String> {
    Ok(client::inspect(&disk.live_image())?.map(|on_device| on_device.model))
}

/// Runs a client on `device` from its current content.
fn run_client<D: Device + Clone, W: Watch<Option<Model>>>(
    device: D,
    steps: u32,
    rng: &mut StdRng,
    watch: W,
) -> Result<W, String> {
    let mix = Mix::random(rng, 600);
    let mut run = match client::inspect(&device)? {
        Some(_) => Run::resume(device, mix, watch)?,
        None => Run::begin(device, mix, watch)?,
    };
    for _ in 0..steps {
        run.step(rng)?;
    }
    run.commit()?;
    Ok(run.watch)
}

#[test]
fn a_client_that_crashes_anywhere_has_its_last_commit_or_the_one_in_flight() {
    let test = "a_client_that_crashes_anywhere_has_its_last_commit_or_the_one_in_flight";
    let mut tried = 0;
    for seed in seeds(test, 200) {
        let mut rng = seed.rng();
        let mut disk = SimDisk::new(512);
        for _ in 0..GENERATIONS {
            let points = CrashPoints::new(&disk);
            let crash_rng = StdRng::seed_from_u64(rng.random());
            let crashes = Crashes::new(&points, recover_client, SURVIVALS, crash_rng);
            let rules = Rules::new(&disk, BTreeSet::new());
            let (_, crashes) = run_client(&points, 15, &mut rng, (rules, crashes)).unwrap();
            tried += crashes.tried;
            disk = crashes.into_kept().unwrap();
        }
    }
    assert!(tried > 0, "no crash at all");
}

/// Draws a clone of random size, and the size of a disk that holds its metadata with little or no
/// spare space.
fn random_clone(rng: &mut StdRng) -> (Header, usize) {
    let most = [70, 33_000, 150_000][rng.random_range(0..3)];
    let header = header(rng.random_range(1..=most));
    (header, MetadataSize::of(header.geometry).total_blocks() as usize + rng.random_range(0..9))
}

/// Hydrates random regions on `device` from its current content.
fn hydrate<D: Device + Clone, W: Watch<Option<Held>>>(
    device: D,
    header: Header,
    steps: u32,
    rng: &mut StdRng,
    watch: W,
) -> Result<W, String> {
    let mut hydration = match hydration::inspect(&device)? {
        Some(_) => Hydration::resume(device, watch)?,
        None => Hydration::format(device, header, watch)?,
    };
    for _ in 0..steps {
        hydration.step(rng)?;
    }
    hydration.commit()?;
    Ok(hydration.watch)
}

#[test]
fn a_clone_that_crashes_anywhere_has_its_last_commit_or_the_one_in_flight() {
    let test = "a_clone_that_crashes_anywhere_has_its_last_commit_or_the_one_in_flight";
    for seed in seeds(test, 400) {
        let mut rng = seed.rng();
        let (header, nr_blocks) = random_clone(&mut rng);
        let mut disk = SimDisk::new(nr_blocks);
        for _ in 0..GENERATIONS {
            let points = CrashPoints::new(&disk);
            let crash_rng = StdRng::seed_from_u64(rng.random());
            let crashes = Crashes::new(&points, hydration::recover, SURVIVALS, crash_rng);
            let rules = Rules::new(&disk, BTreeSet::new());
            let (_, crashes) = hydrate(&points, header, 20, &mut rng, (rules, crashes)).unwrap();
            disk = crashes.into_kept().unwrap();
        }
    }
}

fn random_runs(rng: &mut StdRng, nr_regions: u64) -> Vec<RegionRange> {
    let one_in = rng.random_range(1..=nr_regions.min(1000));
    let bits: Vec<bool> = (0..nr_regions).map(|_| rng.random_range(0..one_in) == 0).collect();
    hydration::runs_of(&bits)
}

/// Restores twice: to an empty disk, and over the result. The second time it may format instead.
#[test]
fn a_restore_or_a_format_that_crashes_leaves_the_old_metadata_none_or_the_new() {
    let test = "a_restore_or_a_format_that_crashes_leaves_the_old_metadata_none_or_the_new";
    for seed in seeds(test, 400) {
        let mut rng = seed.rng();
        let (header, nr_blocks) = random_clone(&mut rng);
        let mut disk = SimDisk::new(nr_blocks);
        for generation in 0..2 * GENERATIONS {
            let points = CrashPoints::new(&disk);
            let crash_rng = StdRng::seed_from_u64(rng.random());
            let mut crashes = Crashes::new(&points, hydration::recover, SURVIVALS, crash_rng);
            let before = hydration::recover(&disk).unwrap();
            if generation % 2 == 1 && rng.random() {
                Hydration::format(&points, header, &mut crashes).unwrap();
            } else {
                let runs = random_runs(&mut rng, header.geometry.nr_regions());
                let source = runs.iter().cloned().map(Ok::<_, ()>);
                restore(&&points, header, source, &()).unwrap();
                let after = Some(Held { geometry: header.geometry, runs });
                crashes.look(&[&before, &None, &after]).unwrap();
                crashes.look(&[&after]).unwrap();
            }
            let go_on_from_a_crash = rng.random();
            let kept = crashes.into_kept().unwrap();
            if go_on_from_a_crash {
                disk = kept;
            }
        }
    }
}

/// A transaction with more blocks than fit in memory writes some of them long before its commit.
#[test]
fn a_commit_larger_than_memory_is_whole_or_has_not_happened_wherever_it_crashes() {
    let test = "a_commit_larger_than_memory_is_whole_or_has_not_happened_wherever_it_crashes";
    for seed in seeds(test, 2) {
        let mut rng = seed.rng();
        let header = header(1100 * BITS_PER_BLOCK);
        let size = MetadataSize::of(header.geometry);
        let disk = SimDisk::new(size.total_blocks() as usize);
        let points = CrashPoints::new(&disk);
        let crash_rng = StdRng::seed_from_u64(rng.random());
        let mut crashes = Crashes::new(&points, hydration::recover, 2, crash_rng);
        let mut rules = Rules::new(&disk, BTreeSet::new());
        let mut metadata = Metadata::format(&points, header).unwrap();
        let state = |runs| Some(Held { geometry: header.geometry, runs });
        let (nothing, none, all) =
            (None, state(vec![]), state(vec![0..header.geometry.nr_regions()]));
        let mut watch = (&mut rules, &mut crashes);
        watch.look(&[&nothing, &none]).unwrap();
        watch.committed(&hydration::reachable(&disk)).unwrap();

        // The first attempt is aborted after a part of it has been written.
        metadata.set_hydrated(0..header.geometry.nr_regions()).unwrap();
        drop(metadata.prepare().unwrap());
        metadata.abort().unwrap();
        watch.look(&[&none]).unwrap();
        assert!(disk.counts().blocks_written > 2 * 1024);
        metadata.set_hydrated(0..header.geometry.nr_regions()).unwrap();
        let prepared = metadata.prepare().unwrap();
        watch.look(&[&none]).unwrap();
        prepared.commit().unwrap();
        watch.look(&[&none, &all]).unwrap();
        watch.look(&[&all]).unwrap();
    }
}

/// Creates a faulty device, given the number of the run.
type Wrap = for<'a> fn(&'a CrashPoints<'a>, u64) -> Box<dyn Device + 'a>;

/// Returns how many of 40 clients, and of 40 clones, crash into an invalid state on the device that
/// `wrap` makes of a disk.
fn found_out(wrap: Wrap) -> (u32, u32) {
    let (mut clients, mut clones) = (0, 0);
    for nth in 0..40 {
        let mut rng = StdRng::seed_from_u64(nth);
        let crash_rng = || StdRng::seed_from_u64(nth);
        let disk = SimDisk::new(512);
        let points = CrashPoints::new(&disk);
        let device = wrap(&points, nth);
        let crashes = Crashes::new(&points, recover_client, SURVIVALS, crash_rng());
        clients += u32::from(run_client(&device, 10, &mut rng, crashes).is_err());

        let (header, nr_blocks) = random_clone(&mut rng);
        let disk = SimDisk::new(nr_blocks);
        let points = CrashPoints::new(&disk);
        let device = wrap(&points, nth);
        let crashes = Crashes::new(&points, hydration::recover, SURVIVALS, crash_rng());
        clones += u32::from(hydrate(&device, header, 10, &mut rng, crashes).is_err());
    }
    (clients, clones)
}

#[test]
fn a_commit_without_flushes_is_found_out() {
    let (clients, clones) = found_out(|points, _| Box::new(NoFlush(points)));
    assert!(clients >= 30 && clones >= 30, "{clients} clients, {clones} clones");
}

#[test]
fn a_superblock_ahead_of_its_blocks_is_found_out() {
    let (clients, clones) = found_out(|points, _| Box::new(EarlySuperblock::new(points)));
    assert!(clients >= 30 && clones >= 30, "{clients} clients, {clones} clones");
}

#[test]
fn a_superblock_that_is_not_flushed_is_found_out() {
    let (clients, clones) = found_out(|points, _| Box::new(UnflushedSuperblock::new(points)));
    assert!(clients >= 30 && clones >= 30, "{clients} clients, {clones} clones");
}

#[test]
fn a_lost_write_is_found_out() {
    let (clients, clones) = found_out(|points, nth| Box::new(LostWrite::new(points, nth % 8)));
    assert!(clients >= 10 && clones >= 10, "{clients} clients, {clones} clones");
}

#[test]
fn every_broken_order_is_found_in_a_run_without_a_crash() {
    let disk = SimDisk::new(512);
    let mut rng = StdRng::seed_from_u64(0);
    let rules = || Rules::new(&disk, BTreeSet::new());
    let no_flush = run_client(&NoFlush(&disk), 10, &mut rng, rules()).unwrap_err();
    assert!(no_flush.contains("before operation"), "{no_flush}");
    let disk = SimDisk::new(512);
    let rules = Rules::new(&disk, BTreeSet::new());
    let unflushed = UnflushedSuperblock::new(&disk);
    let error = run_client(&unflushed, 10, &mut rng, rules).unwrap_err();
    assert!(error.contains("the superblock, is flushed"), "{error}");
}
