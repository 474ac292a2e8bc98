//! Auto-repair fixes wrong but harmless counts in place, or writes nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use clone_core::geometry::RegionRange;
use clone_core::metadata::Metadata;
use clone_core::metadata::auto_repair::{AutoRepairError, Repaired, auto_repair};
use clone_core::metadata::check::read;
use clone_core::metadata::damage::{Damage, Severity};
use clone_core::metadata::format::Superblock;
use clone_tests::crash::{CrashPoints, Crashes};
use clone_tests::faults::{change_failed, expect, fail_each};
use clone_tests::hydration::{self, header};
use clone_tests::surgery::{HARM, Surgery};
use clone_tests::watch::{Rules, Watch};
use persistent_data::BlockNr;
use persistent_data::format::{Bitmap, IndexBlock, Node, RefCountBits};
use persistent_data::sim::{SimDisk, seeds};
use persistent_data::transaction::SUPERBLOCK;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const RUNS: [RegionRange; 3] = [3..5, 30_000..40_000, 99_999..100_000];

/// Returns sound metadata.
fn sound() -> Surgery {
    let disk = SimDisk::new(64);
    let mut metadata = Metadata::format(&disk, header(100_000)).unwrap();
    for run in RUNS {
        metadata.set_hydrated(run).unwrap();
        metadata.commit().unwrap();
    }
    Surgery::of(&disk)
}

/// Returns metadata with some harmless errors.
fn harmed(rng: &mut StdRng) -> SimDisk {
    let mut surgery = sound();
    for _ in 0..rng.random_range(1..5) {
        HARM[rng.random_range(0..HARM.len())].1(&mut surgery, rng);
    }
    surgery.disk()
}

/// The hydrated regions, and the codes of the damage.
type Findings = (Vec<RegionRange>, Vec<&'static str>);

fn findings(disk: &SimDisk) -> Result<Findings, String> {
    let report = read(&disk.live_image(), &());
    if report.is_fatal() {
        return Err(format!("{:?}", report.damage));
    }
    let regions = report.regions.ok_or("no regions")?;
    Ok((regions.runs().collect(), report.damage.iter().map(Damage::code).collect()))
}

fn all_well() -> Findings {
    (RUNS.to_vec(), vec![])
}

#[test]
fn everything_that_is_not_dangerous_is_put_right() {
    for (name, harm) in HARM {
        let mut surgery = sound();
        harm(&mut surgery, &mut StdRng::seed_from_u64(0));
        let disk = surgery.disk();
        let report = read(&disk, &());
        assert!(matches!(report.worst(), Some(Severity::Warning | Severity::Leak)), "{name}");
        let repaired = auto_repair(&disk, &report).unwrap();
        assert_ne!(repaired, Repaired::default(), "{name}");
        assert_eq!(findings(&disk), Ok(all_well()), "{name}");
    }
}

#[test]
fn a_repair_keeps_all_regions_and_leaves_nothing_wrong() {
    for seed in seeds("a_repair_keeps_all_regions_and_leaves_nothing_wrong", 1000) {
        let disk = harmed(&mut seed.rng());
        let mut rules = Rules::new(&disk, hydration::reachable(&disk));
        let report = read(&disk, &());
        if report.is_fatal() {
            // Two errors may add up to a dangerous one.
            assert!(matches!(auto_repair(&disk, &report), Err(AutoRepairError::Damaged)));
            continue;
        }
        auto_repair(&disk, &report).unwrap();
        Watch::<()>::look(&mut rules, &[]).unwrap();
        Watch::<()>::committed(&mut rules, &hydration::reachable(&disk)).unwrap();
        assert_eq!(findings(&disk), Ok(all_well()));

        let changes = disk.counts().changes();
        assert_eq!(auto_repair(&disk, &read(&disk, &())).unwrap(), Repaired::default());
        assert_eq!(disk.counts().changes(), changes, "nothing was left to be written");
    }
}

#[test]
fn a_repair_that_crashes_leaves_what_was_there_or_nothing_wrong() {
    for seed in seeds("a_repair_that_crashes_leaves_what_was_there_or_nothing_wrong", 200) {
        let mut rng = seed.rng();
        let mut disk = harmed(&mut rng);
        let Ok(before) = findings(&disk) else { continue };
        // The second pass repairs the state that a crash of the first repair has left.
        for _ in 0..2 {
            let points = CrashPoints::new(&disk);
            let crash_rng = StdRng::seed_from_u64(rng.random());
            let mut crashes = Crashes::new(&points, findings, 6, crash_rng);
            auto_repair(&&points, &read(&points, &())).unwrap();
            crashes.look(&[&before, &all_well()]).unwrap();
            crashes.look(&[&all_well()]).unwrap();
            disk = crashes.into_kept().unwrap();
        }
    }
}

#[test]
fn a_repair_survives_the_failure_of_every_operation() {
    for seed in seeds("a_repair_survives_the_failure_of_every_operation", 30) {
        let disk = harmed(&mut seed.rng());
        let Ok(before) = findings(&disk) else { continue };
        let report = read(&disk, &());
        fail_each(&disk.durable_image(), |disk| match auto_repair(disk, &report) {
            Ok(_) => {
                assert!(!change_failed(disk), "a failure went unnoticed");
                expect(disk, findings, &[&all_well()]);
            }
            Err(_) => expect(disk, findings, &[&before, &all_well()]),
        });
    }
}

/// Returns metadata with content in the other sectors of the superblock.
fn with_a_full_superblock() -> SimDisk {
    let mut surgery = sound();
    surgery.edit::<Superblock>(SUPERBLOCK, |disk| disk.reserved[316..].fill(7));
    surgery.insert_large_count(1 << 40, 3);
    surgery.disk()
}

/// Writing more than one sector of the superblock could leave neither the old nor the new one.
#[test]
fn what_lies_outside_of_the_superblocks_first_sector_is_never_changed() {
    let kept: Findings = (RUNS.to_vec(), vec!["superblock-reserved"]);
    let disk = with_a_full_superblock();
    let before = findings(&disk).unwrap();
    let points = CrashPoints::new(&disk);
    let mut crashes = Crashes::new(&points, findings, 50, StdRng::seed_from_u64(0));
    let repaired = auto_repair(&&points, &read(&points, &())).unwrap();
    assert_eq!(repaired, Repaired { leaked_blocks: 0, figures: 1 });
    crashes.look(&[&before, &kept]).unwrap();
    crashes.look(&[&kept]).unwrap();

    let disk = with_a_full_superblock();
    let points = CrashPoints::new(&disk);
    let mut crashes = Crashes::new(&points, findings, 50, StdRng::seed_from_u64(0));
    let mut metadata = Metadata::open(&points).unwrap();
    metadata.set_hydrated(5..7).unwrap();
    metadata.commit().unwrap();
    let mut after = before.clone();
    after.0[0].end = 7;
    crashes.look(&[&before, &after]).unwrap();
    crashes.look(&[&after]).unwrap();
}

/// Checks that a disk is refused and left unchanged.
fn expect_refused(name: &str, disk: &SimDisk) {
    let report = read(disk, &());
    assert!(report.is_fatal(), "{name}: {:?}", report.damage);
    let refused = auto_repair(disk, &report);
    assert!(matches!(refused, Err(AutoRepairError::Damaged)), "{name}: {refused:?}");
    assert_eq!(disk.counts().changes(), 0, "{name}");
}

type Wound = fn(&mut Surgery);

/// Damage after which a block that looks leaked may be in use.
const FATAL: [(&str, Wound); 9] = [
    ("the superblock", |surgery| surgery.spoil(BlockNr(0))),
    ("a node", |surgery| surgery.spoil(surgery.bitset_root())),
    ("the index", |surgery| surgery.spoil(surgery.index())),
    ("the bitmap", |surgery| surgery.spoil(surgery.bitmap())),
    ("the tree of large counts", |surgery| surgery.spoil(surgery.ref_counts())),
    ("a count too low", |surgery| {
        surgery.set_bits(surgery.bitset_root(), RefCountBits::Zero);
    }),
    ("a large count missing", |surgery| {
        surgery.set_bits(surgery.bitset_root(), RefCountBits::Overflow);
    }),
    ("too few free entries", |surgery| {
        surgery.edit::<IndexBlock>(surgery.index(), |disk| disk.entries[0].nr_free -= 1);
    }),
    ("keys that descend", |surgery| {
        surgery.edit::<Node>(surgery.bitset_root(), |disk| disk.body[0] = 9);
    }),
];

#[test]
fn with_any_dangerous_damage_nothing_is_written() {
    for (name, harm) in FATAL {
        let mut surgery = sound();
        harm(&mut surgery);
        expect_refused(name, &surgery.disk());
    }
    // Additional leaks change nothing.
    for seed in seeds("with_any_dangerous_damage_nothing_is_written", 100) {
        let mut rng = seed.rng();
        let mut surgery = Surgery::of(&harmed(&mut rng));
        if read(&surgery.disk(), &()).is_fatal() {
            continue;
        }
        let (name, harm) = FATAL[rng.random_range(0..5)];
        harm(&mut surgery);
        expect_refused(name, &surgery.disk());
    }
}

#[test]
fn without_a_free_block_nothing_is_repaired_and_nothing_changes() {
    let mut surgery = sound();
    let free = surgery.blocks_with(RefCountBits::Zero);
    surgery.edit::<Bitmap>(surgery.bitmap(), |disk| {
        free.iter().for_each(|at| disk.set(at.0 as usize, RefCountBits::One));
    });
    let disk = surgery.disk();
    let before = findings(&disk);
    let repaired = auto_repair(&disk, &read(&disk, &()));
    assert!(matches!(repaired, Err(AutoRepairError::NoSpace)), "{repaired:?}");
    assert_eq!(findings(&disk), before);
    assert_eq!(disk.live_image(), surgery.disk().live_image());

    // Two blocks are enough: for the bitmap and for the index.
    for (nr_free, enough) in [(1, false), (2, true)] {
        let mut surgery = surgery.clone();
        free[..nr_free].iter().for_each(|&at| surgery.set_bits(at, RefCountBits::Zero));
        let disk = surgery.disk();
        let repaired = auto_repair(&disk, &read(&disk, &()));
        assert_eq!(repaired.is_ok(), enough, "{nr_free} free blocks: {repaired:?}");
        assert_eq!(findings(&disk) == Ok(all_well()), enough);
    }
}
