//! Each read, write and flush fails in turn, once and from then on: nothing panics, no half-written
//! state remains, and no failure goes unnoticed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use clone_core::geometry::RegionRange;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_core::metadata::restore::restore;
use clone_core::metadata::{Metadata, MetadataError};
use clone_tests::client::{self, ALL, Client, Model};
use clone_tests::faults::{change_failed, expect, fail_each, superblock_in_doubt};
use clone_tests::hydration::{self, Held, header, runs_of};
use persistent_data::Error;
use persistent_data::sim::{Image, SimDisk, seeds};
use rand::RngExt;

const NR_REGIONS: u64 = 100_000;

/// Runs of regions in several array blocks.
const STEPS: [RegionRange; 4] = [7..9, 33_000..70_000, 5..6, 99_990..100_000];

fn formatted() -> SimDisk {
    let header = header(NR_REGIONS);
    let disk = SimDisk::new(MetadataSize::of(header.geometry).total_blocks() as usize);
    Metadata::format(&disk, header).unwrap().commit().unwrap();
    disk
}

fn held(regions: &[bool]) -> Option<Held> {
    Some(Held { geometry: header(NR_REGIONS).geometry, runs: runs_of(regions) })
}

fn with(regions: &[bool], run: &RegionRange) -> Vec<bool> {
    let mut regions = regions.to_vec();
    regions[run.start as usize..run.end as usize].fill(true);
    regions
}

/// Checks that a handle refuses to write after a failed write or flush.
fn expect_spent(disk: &SimDisk, metadata: &mut Metadata<&SimDisk>) {
    let changes = disk.counts().changes();
    let spent = |result: Result<(), MetadataError>| {
        assert!(matches!(result, Err(MetadataError::Blocks(Error::Spent))), "{result:?}");
    };
    spent(metadata.prepare().map(|_| ()));
    spent(metadata.commit());
    // The abort may need a read, which fails.
    let _ = metadata.abort();
    spent(metadata.commit());
    metadata.set_hydrated(0..NR_REGIONS).unwrap();
    spent(metadata.commit());
    assert_eq!(disk.counts().changes(), changes, "something was done to the disk");
}

/// Commits the steps, and continues after each failure that allows it.
fn hydrate_in_steps(disk: &SimDisk) {
    let mut committed = vec![false; NR_REGIONS as usize];
    let mut metadata = match Metadata::open(disk) {
        Ok(metadata) => metadata,
        Err(error) => {
            assert!(matches!(error, MetadataError::Damaged(_) | MetadataError::Blocks(_)));
            return expect(disk, hydration::recover, &[&held(&committed)]);
        }
    };
    for run in &STEPS {
        let next = with(&committed, run);
        let before = disk.counts().changes();
        metadata.set_hydrated(run.clone()).unwrap();
        match metadata.commit() {
            Ok(()) => committed = next,
            Err(MetadataError::Blocks(Error::Write { .. } | Error::Flush { .. })) => {
                expect_spent(disk, &mut metadata);
                let (old, new) = (held(&committed), held(&next));
                let nr_allowed = if superblock_in_doubt(disk, before) { 2 } else { 1 };
                return expect(disk, hydration::recover, &[&old, &new][..nr_allowed]);
            }
            Err(MetadataError::Blocks(Error::Read { .. })) => {
                if abort(&mut metadata).is_err() {
                    break;
                }
                let hydrated = |region: &u64| metadata.is_hydrated(*region);
                let expected = committed.iter().filter(|&&hydrated| hydrated).count() as u64;
                assert_eq!((0..NR_REGIONS).filter(hydrated).count() as u64, expected);
                assert_eq!(metadata.nr_hydrated(), expected);
            }
            Err(error) => panic!("{error:?}"),
        }
        expect(disk, hydration::recover, &[&held(&committed)]);
    }
    assert!(!change_failed(disk), "a failed write or flush went unnoticed");
    expect(disk, hydration::recover, &[&held(&committed)]);
}

/// Aborts, with up to three attempts.
fn abort(metadata: &mut Metadata<&SimDisk>) -> Result<(), MetadataError> {
    metadata.abort().or_else(|_| metadata.abort()).or_else(|_| metadata.abort())
}

#[test]
fn a_commit_of_a_clone_survives_the_failure_of_every_operation() {
    let runs = fail_each(&formatted().durable_image(), hydrate_in_steps);
    assert!(runs > 100, "{runs} runs");
}

/// Sets regions and aborts, which reads the committed state again.
fn abort_in_steps(disk: &SimDisk) {
    let Ok(mut metadata) = Metadata::open(disk) else { return };
    metadata.set_hydrated(10..20).unwrap();
    metadata.set_hydrated(40_000..99_999).unwrap();
    if metadata.abort().is_err() && abort(&mut metadata).is_err() {
        return;
    }
    assert!(!metadata.has_changes());
    assert_eq!(metadata.nr_hydrated(), 37_000);
    metadata.set_hydrated(11..12).unwrap();
    if metadata.commit().is_ok() {
        let held = hydration::recover(disk).unwrap().unwrap();
        assert_eq!(held.runs, [11..12, 33_000..70_000]);
    }
}

#[test]
fn an_abort_that_cannot_read_can_be_tried_again_and_forgets_no_region() {
    let disk = formatted();
    let mut metadata = Metadata::open(&disk).unwrap();
    metadata.set_hydrated(33_000..70_000).unwrap();
    metadata.commit().unwrap();
    fail_each(&disk.durable_image(), abort_in_steps);
}

/// Continuing from the state after a failed abort, without another abort, must not lose regions.
#[test]
fn a_failed_abort_never_leads_to_a_commit_that_loses_a_region() {
    let disk = formatted();
    let mut metadata = Metadata::open(&disk).unwrap();
    metadata.set_hydrated(33_000..70_000).unwrap();
    metadata.commit().unwrap();
    fail_each(&disk.durable_image(), |disk| {
        let Ok(mut metadata) = Metadata::open(disk) else { return };
        metadata.set_hydrated(40_000..99_999).unwrap();
        let _ = metadata.abort();
        metadata.set_hydrated(69_999..70_002).unwrap();
        let _ = metadata.commit();
        disk.clear_faults();
        let held = hydration::recover(disk).unwrap().unwrap();
        assert!(held.runs[0].start <= 33_000 && held.runs[0].end >= 70_000, "{:?}", held.runs);
    });
}

#[test]
fn a_format_and_a_restore_survive_the_failure_of_every_operation() {
    let disk = formatted();
    let blank = SimDisk::new(64).durable_image();
    let header = header(NR_REGIONS);
    let none = held(&vec![false; NR_REGIONS as usize]);
    let some = Some(Held { geometry: header.geometry, runs: STEPS[..2].to_vec() });
    let check = |disk: &SimDisk, succeeded: bool, before: &Option<Held>, after: &Option<Held>| {
        assert!(!(succeeded && change_failed(disk)), "a failure went unnoticed");
        let either = [before, &None, after];
        expect(disk, hydration::recover, if succeeded { &either[2..] } else { &either });
    };
    for (image, before) in [(disk.durable_image(), &none), (blank, &None)] {
        fail_each(&image, |disk| {
            let formatted = Metadata::format(disk, header).map(|_| ());
            check(disk, formatted.is_ok(), before, &none);
        });
        fail_each(&image, |disk| {
            let runs = STEPS[..2].iter().cloned().map(Ok::<_, ()>);
            check(disk, restore(disk, header, runs, &()).is_ok(), before, &some);
        });
    }
}

fn recover_client(disk: &SimDisk) -> Result<Option<Model>, String> {
    Ok(client::inspect(&disk.live_image())?.map(|on_device| on_device.model))
}

/// Runs a client that commits now and then, and continues after failed reads.
fn run_client(disk: &SimDisk, seed: u64, commits: u32) {
    let mut rng = seeded(seed);
    let image = disk.live_image();
    let before = client::inspect(&image).unwrap().unwrap();
    let (mut model, mut committed) = (before.model.clone(), before.model);
    let Ok(mut client) = Client::open(disk, before.reachable) else { return };
    for _ in 0..commits {
        let changes = disk.counts().changes();
        let mut result = Ok(());
        for _ in 0..6 {
            let family = ALL[rng.random_range(0..ALL.len())];
            result =
                result.and_then(|()| client.operate(&mut model, &committed, family, 800, &mut rng));
        }
        match result.and_then(|()| client.commit()) {
            Ok(()) => {
                committed.clone_from(&model);
                let on_device = client::inspect(&disk.live_image()).unwrap().unwrap();
                client.writer.committed(on_device.reachable);
            }
            Err(Error::Read { .. }) => {
                client = client.abort();
                model.clone_from(&committed);
            }
            Err(Error::Write { .. } | Error::Flush { .. }) => {
                let changes_after = disk.counts().changes();
                let again = client.prepare().map(|_| ());
                assert!(matches!(again, Err(Error::Spent)), "{again:?}");
                let again = client.abort().prepare().map(|_| ());
                assert!(matches!(again, Err(Error::Spent)), "{again:?}");
                assert_eq!(disk.counts().changes(), changes_after);
                let (old, new) = (Some(committed), Some(model));
                let nr_allowed = if superblock_in_doubt(disk, changes) { 2 } else { 1 };
                return expect(disk, recover_client, &[&old, &new][..nr_allowed]);
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(!change_failed(disk), "a failed write or flush went unnoticed");
    expect(disk, recover_client, &[&Some(committed)]);
}

fn seeded(seed: u64) -> rand::rngs::StdRng {
    rand::SeedableRng::seed_from_u64(seed)
}

#[test]
fn a_client_survives_the_failure_of_every_operation() {
    for seed in seeds("a_client_survives_the_failure_of_every_operation", 20) {
        let disk = SimDisk::new(512);
        let mut client = Client::create(&disk).unwrap();
        let (mut model, committed) = (Model::default(), Model::default());
        let mut rng = seed.rng();
        for _ in 0..20 {
            let family = ALL[rng.random_range(0..ALL.len())];
            client.operate(&mut model, &committed, family, 800, &mut rng).unwrap();
        }
        client.commit().unwrap();
        let image: Image = disk.durable_image();
        let runs = fail_each(&image, |disk| run_client(disk, seed.value(), 3));
        assert!(runs > 50, "{runs} runs");
    }
}
