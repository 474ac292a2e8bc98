//! A repair is interrupted, or its devices fail: its output is complete or is not taken for
//! metadata, and running it again completes it.

use clone_core::generate::damage::{BlockRole, DamageKind, Target, damage};
use clone_core::generate::metadata::{Pattern, Recipe};
use clone_core::metadata::ir::Header;
use clone_core::metadata::region_map::RegionMap;
use clone_core::metadata::restore::restore;
use clone_core::repair::{RepairError, recover};
use clone_tests::crash::{CrashPoints, Crashes};
use clone_tests::damage::ImageEditor;
use clone_tests::faults::{change_failed, expect, fail_each};
use clone_tests::history::History;
use clone_tests::hydration::{self, Held};
use clone_tests::recovery::Truth;
use clone_tests::watch::Watch;
use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::{Device, ReadDevice};
use persistent_data::sim::{Image, SimDisk, seeds};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::images::nr_blocks;

/// A clone with a history and a damaged block.
struct Patient {
    history: History,
    damaged: ImageEditor,
}

impl Patient {
    fn random(rng: &mut StdRng) -> Self {
        let most = [70, 33_000, 100_000][rng.random_range(0..3)];
        let header = hydration::header(rng.random_range(10..=most));
        let blocks = nr_blocks(header.geometry) + rng.random_range(0..20);
        let pattern = Pattern::ALL[rng.random_range(0..Pattern::ALL.len())];
        let recipe = Recipe { commits: 5, seed: rng.random(), ..Recipe::new(header, pattern) };
        let history = History::of(&recipe, blocks);
        let damaged = history.last().image.clone();
        let roles = [
            BlockRole::Superblock,
            BlockRole::ArrayBlock,
            BlockRole::BitsetLeaf,
            BlockRole::Bitmap,
        ];
        let target = Target { role: roles[rng.random_range(0..roles.len())], ordinal: None };
        let harm = [DamageKind::Zero, DamageKind::Random, DamageKind::Bit][rng.random_range(0..3)];
        damage(&damaged, target, harm, rng.random()).unwrap();
        Self { history, damaged }
    }

    fn header(&self) -> Header {
        self.history.header
    }

    /// Returns the recovered regions, with the lost ones settled as `hydrated`.
    fn recovered(&self, hydrated: bool) -> RegionMap {
        let mut regions =
            recover(&self.damaged, Some(self.header().geometry), &()).unwrap().regions;
        regions.settle_lost(hydrated);
        regions
    }

    fn disk(&self) -> Image {
        let blocks = (0..self.damaged.nr_blocks()).map(BlockNr);
        blocks.map(|at| RawBlock::clone(&self.damaged.raw(at))).collect()
    }
}

fn write<D: Device>(device: &D, header: Header, regions: &RegionMap) -> Result<(), String> {
    let runs = regions.runs().map(Ok::<_, ()>);
    restore(device, header, runs, &()).map_err(|error| error.to_string())
}

fn held(header: Header, regions: &RegionMap) -> Option<Held> {
    Some(Held { geometry: header.geometry, runs: regions.runs().collect() })
}

/// A disk with sound metadata of another clone, which a repair may overwrite.
fn output(rng: &mut StdRng, header: Header) -> SimDisk {
    let other = hydration::header(rng.random_range(10..=header.geometry.nr_regions()));
    let disk = SimDisk::new(nr_blocks(header.geometry) as usize + rng.random_range(0..9));
    let runs = [3..7, 9..10].map(Ok::<_, ()>);
    restore(&disk, other, runs, &()).unwrap();
    disk
}

#[test]
fn a_repair_that_crashes_leaves_the_old_metadata_none_or_what_was_recovered() {
    let test = "a_repair_that_crashes_leaves_the_old_metadata_none_or_what_was_recovered";
    for seed in seeds(test, 100) {
        let mut rng = seed.rng();
        let patient = Patient::random(&mut rng);
        let (header, regions) = (patient.header(), patient.recovered(rng.random()));
        let after = held(header, &regions);
        let mut disk = output(&mut rng, header);
        // The second pass runs on the state that a crash has left.
        for _ in 0..2 {
            let before = hydration::recover(&disk).unwrap();
            let points = CrashPoints::new(&disk);
            let crash_rng = StdRng::seed_from_u64(rng.random());
            let mut crashes = Crashes::new(&points, hydration::recover, 4, crash_rng);
            write(&&points, header, &regions).unwrap();
            crashes.look(&[&before, &None, &after]).unwrap();
            crashes.look(&[&after]).unwrap();
            disk = crashes.into_kept().unwrap();
        }
    }
}

#[test]
fn a_repair_whose_output_fails_leaves_the_old_metadata_none_or_what_was_recovered() {
    let test = "a_repair_whose_output_fails_leaves_the_old_metadata_none_or_what_was_recovered";
    for seed in seeds(test, 10) {
        let mut rng = seed.rng();
        let patient = Patient::random(&mut rng);
        let (header, regions) = (patient.header(), patient.recovered(rng.random()));
        let image = output(&mut rng, header).live_image();
        let before = hydration::inspect(&image).unwrap();
        let after = held(header, &regions);
        let runs = fail_each(&image, |disk| {
            let written = write(disk, header, &regions).is_ok();
            assert!(!(written && change_failed(disk)), "a failure went unnoticed");
            let either = [&before, &None, &after];
            expect(disk, hydration::recover, if written { &either[2..] } else { &either });
        });
        assert!(runs > 10, "{runs} runs");
    }
}

/// A failed read is treated as damage, even if the same read succeeds at the next attempt.
#[test]
fn a_repair_whose_input_fails_invents_nothing_and_loses_only_what_it_says() {
    let test = "a_repair_whose_input_fails_invents_nothing_and_loses_only_what_it_says";
    for seed in seeds(test, 60) {
        let patient = Patient::random(&mut seed.rng());
        let truth = Truth::new(patient.header(), &patient.history.last().truth);
        let runs = fail_each(&patient.disk(), |disk| {
            match recover(disk, Some(patient.header().geometry), &()) {
                Ok(recovery) => {
                    let failed = disk.clone().take_log().into_iter().filter(|op| !op.succeeded);
                    let failed: Vec<_> = failed.map(|op| (op.index, op.first)).collect();
                    let judged = truth.judge(&recovery);
                    judged.unwrap_or_else(|error| panic!("read failed: {failed:?}: {error}"));
                }
                Err(RepairError::NoBitset { .. } | RepairError::Unsteady) => {}
                Err(error) => panic!("{error}"),
            }
            assert_eq!(disk.counts().changes(), 0, "the damaged device was written to");
        });
        assert!(runs > 10, "{runs} runs");
    }
}
