use std::collections::HashSet;

use persistent_data::BlockNr;
use persistent_data::device::MemoryDevice;
use persistent_data::format::ENTRIES_PER_BITMAP;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::blocks::{Form, blocks_of, scan};
use super::damage::{BlockRole, Change, DamageError, DamageKind, Done, Target, damage};
use super::metadata::{MakeError, Pattern, Recipe, make};
use super::{Regions, of_any_size};
use crate::geometry::{Geometry, RegionRange, RegionSize, Sectors};
use crate::metadata::check::read;
use crate::metadata::damage::{Damage, Severity};
use crate::metadata::ir::Header;
use crate::metadata::metadata_size::MetadataSize;
use crate::metadata::superblock::Superblock;

/// Number of regions of a clone whose bitset has two levels, for any fill level of its nodes.
const TWO_LEVELS: u64 = 8_400_000;

fn header(nr_regions: u64) -> Header {
    let region_size = RegionSize::new(Sectors(8)).unwrap();
    // The last region is short.
    let geometry = Geometry::new(region_size, Sectors(8 * nr_regions - 3)).unwrap();
    Header { uuid: [9; 16], geometry }
}

/// Makes metadata from `recipe` on a device of twice the recommended size, which leaves room for
/// many old copies.
fn made(recipe: &Recipe) -> (MemoryDevice, Regions) {
    let nr_blocks = 2 * MetadataSize::of(recipe.header.geometry).total_blocks();
    let device = MemoryDevice::new(nr_blocks as usize);
    let truth = make(&device, recipe).unwrap();
    (device, truth)
}

fn copy(device: &MemoryDevice) -> MemoryDevice {
    MemoryDevice::from_bytes(&device.to_bytes())
}

#[track_caller]
fn expect_sound(device: &MemoryDevice, truth: &Regions) {
    let report = read(device, &());
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    assert!(report.regions.unwrap().runs().eq(truth.runs()));
}

/// Counts the unused valid blocks of each kind.
fn stale(device: &MemoryDevice) -> Vec<(BlockRole, usize)> {
    let roles = [
        BlockRole::Superblock,
        BlockRole::BitsetLeaf,
        BlockRole::ArrayBlock,
        BlockRole::Index,
        BlockRole::Bitmap,
    ];
    let in_use: HashSet<BlockNr> =
        BlockRole::ALL.into_iter().flat_map(|role| blocks_of(device, role).unwrap()).collect();
    let mut found = Vec::new();
    scan(device, |at, form, _| found.extend((!in_use.contains(&at)).then_some(form))).unwrap();
    let count = |role| found.iter().filter(|&&form| form == Form::of_role(role)).count();
    roles.into_iter().map(|role| (role, count(role))).collect()
}

#[test]
fn what_is_made_is_sound_and_is_what_was_set() {
    for pattern in Pattern::ALL {
        for nr_regions in [2, 64, 1000, 32576, 32577, 300_000] {
            let recipe = Recipe { seed: nr_regions, ..Recipe::new(header(nr_regions), pattern) };
            let (device, truth) = made(&recipe);
            assert_eq!(truth.count(), nr_regions / 2);
            assert_eq!(Superblock::read(&device).unwrap().header, recipe.header);
            expect_sound(&device, &truth);
        }
    }
}

#[test]
fn a_clone_of_a_single_region_and_one_of_two_levels_are_made_too() {
    for pattern in Pattern::ALL {
        for percent in [0, 100] {
            let (device, truth) = made(&Recipe { percent, ..Recipe::new(header(1), pattern) });
            assert_eq!(truth.count(), u64::from(percent / 100));
            expect_sound(&device, &truth);
        }
        let (device, truth) =
            made(&Recipe { commits: 12, reopens: 1, ..Recipe::new(header(TWO_LEVELS), pattern) });
        assert_eq!(blocks_of(&device, BlockRole::BitsetNode).unwrap().len(), 1);
        assert_eq!(blocks_of(&device, BlockRole::BitsetLeaf).unwrap().len(), 2);
        expect_sound(&device, &truth);
    }
}

#[test]
fn every_share_is_made_by_every_number_of_commits() {
    for percent in [0, 1, 50, 99, 100] {
        for (commits, reopens) in [(1, 0), (1, 5), (2, 1), (7, 6), (100, 99), (200, 3)] {
            let recipe = Recipe::new(header(100_000), Pattern::Runs);
            let (device, truth) = made(&Recipe { percent, commits, reopens, ..recipe });
            assert_eq!(truth.count(), 1000 * u64::from(percent));
            expect_sound(&device, &truth);
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let recipe = Recipe::new(header(100), Pattern::Random);
    let result = |recipe| make(&MemoryDevice::new(100), &recipe);
    let too_much = result(Recipe { percent: 101, ..recipe });
    assert!(matches!(too_much, Err(MakeError::Percent(101))));
    assert!(matches!(result(Recipe { commits: 0, ..recipe }), Err(MakeError::NoCommits)));
    assert_eq!(result(Recipe { commits: 0, percent: 0, ..recipe }).unwrap().count(), 0);
    assert!(matches!(make(&MemoryDevice::new(3), &recipe), Err(MakeError::Metadata(_))));
}

#[test]
fn the_device_holds_stale_copies_of_everything_that_a_commit_changes() {
    for nr_regions in [1000, 300_000, TWO_LEVELS] {
        let (device, _) = made(&Recipe::new(header(nr_regions), Pattern::FileSystem));
        for (role, count) in stale(&device) {
            assert!((count > 0) == (role != BlockRole::Superblock), "{count} of {role}");
        }
    }
}

#[test]
fn opening_anew_leaves_fewer_old_copies() {
    let recipe = Recipe::new(header(300_000), Pattern::Random);
    let nr_stale = |reopens| {
        let device = MemoryDevice::new(2000);
        make(&device, &Recipe { reopens, ..recipe }).unwrap();
        stale(&device).iter().map(|(_, count)| count).sum::<usize>()
    };
    assert!(nr_stale(39) < nr_stale(3) && nr_stale(3) < nr_stale(0));
}

#[test]
fn the_same_seed_makes_the_same_and_another_one_something_else() {
    let recipe = Recipe::new(header(100_000), Pattern::FileSystem);
    let (device, truth) = made(&recipe);
    let bytes = device.to_bytes();
    let (again, truth_again) = made(&recipe);
    assert!(again.to_bytes() == bytes && truth_again == truth);
    let (other, other_truth) = made(&Recipe { seed: 1, ..recipe });
    assert!(other.to_bytes() != bytes && other_truth != truth);

    let target = Target { role: BlockRole::ArrayBlock, ordinal: None };
    for harm in DamageKind::ALL {
        let damaged = |seed| {
            let device = copy(&device);
            (damage(&device, target, harm, seed).unwrap(), device.to_bytes())
        };
        assert!(damaged(1) == damaged(1), "{harm:?}");
        assert!((2..9).any(|seed| damaged(seed) != damaged(1)), "{harm:?}");
    }
}

/// Returns whether blocks of `role` have older copies that can replace them.
fn can_be_stale(role: BlockRole) -> bool {
    !matches!(role, BlockRole::Superblock | BlockRole::RefCounts)
}

/// Damages a copy of `whole`, and checks that the change is as reported.
fn damaged(whole: &MemoryDevice, target: Target, harm: DamageKind, seed: u64) -> MemoryDevice {
    let device = copy(whole);
    let change = damage(&device, target, harm, seed).unwrap();
    let (before, after) = (whole.to_blocks(), device.to_blocks());
    let changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
    assert_eq!(changed, [change.at.0 as usize], "{change}");
    assert_eq!(change.role, target.role);
    let at = changed[0];
    assert_eq!(blocks_of(whole, target.role).unwrap()[change.ordinal as usize], change.at);
    let differ = |from: usize| before[at].bytes()[from..] != after[at].bytes()[from..];
    match change.done {
        Done::Zeroed => assert!(after[at].is_zero()),
        Done::Randomized => assert!(differ(4000)),
        Done::BitFlipped { byte, bit } => {
            let byte = usize::from(byte);
            assert_eq!(before[at].bytes()[byte] ^ after[at].bytes()[byte], 1 << bit);
        }
        Done::ChecksumChanged => assert!(!differ(4)),
        Done::Replaced { by } => {
            assert!(after[at].bytes()[24..] == before[by.0 as usize].bytes()[24..], "{change}");
            assert!(Form::of_role(target.role).is_valid(&after[at], change.at), "{change}");
        }
        Done::Overwritten { by } => assert!(after[at] == before[by.0 as usize] && by != change.at),
    }
    device
}

#[test]
fn every_damage_changes_the_block_that_it_names_and_a_check_finds_it() {
    for (nr_regions, seeds) in [(300_000, 8), (TWO_LEVELS, 1)] {
        let (whole, _) = made(&Recipe::new(header(nr_regions), Pattern::FileSystem));
        for role in BlockRole::ALL {
            if role == BlockRole::BitsetNode && nr_regions < TWO_LEVELS {
                continue;
            }
            for harm in DamageKind::ALL {
                if harm == DamageKind::Stale && !can_be_stale(role) {
                    continue;
                }
                for seed in 0..seeds {
                    let target = Target { role, ordinal: None };
                    let device = damaged(&whole, target, harm, seed);
                    let worst = read(&device, &()).worst();
                    let is_found = worst == Some(Severity::Fatal);
                    assert!(is_found || harm == DamageKind::Stale, "{role} {harm:?}: {worst:?}");
                }
            }
        }
    }
}

#[test]
fn a_stale_array_block_is_sound_and_forgets_regions() {
    // Room for every copy that was ever made.
    let whole = MemoryDevice::new(2000);
    let recipe = Recipe { reopens: 0, ..Recipe::new(header(300_000), Pattern::Random) };
    let truth = make(&whole, &recipe).unwrap();
    for ordinal in 0..10 {
        let target = Target { role: BlockRole::ArrayBlock, ordinal: Some(ordinal) };
        let device = damaged(&whole, target, DamageKind::Stale, ordinal);
        let report = read(&device, &());
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        let regions = report.regions.unwrap();
        assert!(regions.hydrated() < truth.count());
        let was_hydrated = |run: RegionRange| truth.count_in(run.clone()) == run.end - run.start;
        assert!(regions.runs().all(was_hydrated));
    }
}

#[test]
fn a_swap_takes_a_block_of_the_same_kind_so_that_only_its_number_is_wrong() {
    let (whole, _) = made(&Recipe::new(header(300_000), Pattern::Random));
    for (role, code) in [
        (BlockRole::ArrayBlock, "bitset-block-block-number"),
        (BlockRole::BitsetLeaf, "bitset-node-block-number"),
        (BlockRole::Bitmap, "space-map-bitmap-block-number"),
        (BlockRole::Index, "space-map-index-block-number"),
        (BlockRole::RefCounts, "ref-count-tree-block-number"),
        (BlockRole::Superblock, "superblock-magic"),
    ] {
        let device = damaged(&whole, Target { role, ordinal: Some(0) }, DamageKind::Swap, 5);
        let report = read(&device, &());
        let codes: Vec<&str> = report.damage.iter().map(Damage::code).collect();
        assert!(codes.contains(&code), "{role}: {codes:?}");
    }
}

#[test]
fn of_several_bitmaps_only_those_that_changed_have_an_older_copy() {
    let device = MemoryDevice::new(2 * ENTRIES_PER_BITMAP + 100);
    make(&device, &Recipe::new(header(300_000), Pattern::Random)).unwrap();
    assert_eq!(blocks_of(&device, BlockRole::Bitmap).unwrap().len(), 3);
    let target = |ordinal| Target { role: BlockRole::Bitmap, ordinal: Some(ordinal) };
    damaged(&device, target(0), DamageKind::Stale, 0);
    for ordinal in [1, 2] {
        let result = damage(&device, target(ordinal), DamageKind::Stale, 0);
        assert!(matches!(result, Err(DamageError::NoOlderCopy { .. })), "{result:?}");
    }
}

#[test]
fn what_is_not_there_is_not_damaged() {
    let recipe = Recipe::new(header(100_000), Pattern::Random);
    let (device, truth) = made(&recipe);
    let refused = |device: &MemoryDevice, role, ordinal, harm| -> DamageError {
        let before = device.to_bytes();
        let error = damage(device, Target { role, ordinal }, harm, 0).unwrap_err();
        assert!(device.to_bytes() == before);
        error
    };
    for ordinal in [None, Some(0), Some(7)] {
        let error = refused(&device, BlockRole::BitsetNode, ordinal, DamageKind::Zero);
        assert!(matches!(error, DamageError::NoInternalNodes), "{error}");
    }
    for (role, count) in
        [(BlockRole::ArrayBlock, 4), (BlockRole::Bitmap, 1), (BlockRole::Superblock, 1)]
    {
        for ordinal in [count, u64::MAX] {
            let error = refused(&device, role, Some(ordinal), DamageKind::Bit);
            let says = format!("there is no {role} {ordinal}: they are counted from 0, and there");
            assert!(error.to_string().starts_with(&says), "{error}");
        }
    }
    for role in [BlockRole::Superblock, BlockRole::RefCounts] {
        let error = refused(&device, role, None, DamageKind::Stale);
        assert!(matches!(error, DamageError::NoOlderCopy { .. }), "{error}");
    }
    let fresh = made(&Recipe { percent: 0, ..recipe }).0;
    for role in [BlockRole::ArrayBlock, BlockRole::BitsetLeaf, BlockRole::Index, BlockRole::Bitmap]
    {
        let error = refused(&fresh, role, None, DamageKind::Stale);
        assert!(matches!(error, DamageError::NoOlderCopy { .. }), "{error}");
    }
    let blank = MemoryDevice::new(10);
    let error = refused(&blank, BlockRole::Bitmap, None, DamageKind::Zero);
    assert!(matches!(error, DamageError::Superblock(_)), "{error}");
    expect_sound(&device, &truth);
}

#[test]
fn a_damaged_block_is_damaged_no_further_and_hides_what_it_leads_to() {
    let (device, _) = made(&Recipe::new(header(100_000), Pattern::Random));
    let zero = |role| damage(&device, Target { role, ordinal: Some(0) }, DamageKind::Zero, 0);
    for role in [BlockRole::ArrayBlock, BlockRole::BitsetLeaf, BlockRole::Bitmap, BlockRole::Index]
    {
        zero(role).unwrap();
        assert!(matches!(zero(role), Err(DamageError::Blocks(_))));
    }
    assert!(matches!(zero(BlockRole::ArrayBlock), Err(DamageError::Blocks(_))));
    zero(BlockRole::RefCounts).unwrap();
    zero(BlockRole::Superblock).unwrap();
    assert!(matches!(zero(BlockRole::RefCounts), Err(DamageError::Superblock(_))));
}

#[test]
fn a_change_is_told_in_words() {
    let change =
        Change { at: BlockNr(23), role: BlockRole::ArrayBlock, ordinal: 2, done: Done::Zeroed };
    assert_eq!(change.to_string(), "block 23, array-block 2: zeroed");
    let done = Done::BitFlipped { byte: 100, bit: 7 };
    let change = Change { at: BlockNr(0), role: BlockRole::Superblock, ordinal: 0, done };
    assert_eq!(change.to_string(), "block 0, superblock: bit 7 of byte 100 flipped");
}

#[test]
fn sizes_come_from_the_whole_of_their_range() {
    let mut rng = StdRng::seed_from_u64(0);
    let sizes: HashSet<u64> = (0..1000).map(|_| of_any_size(&mut rng, 20)).collect();
    assert!((1..=20).all(|size| sizes.contains(&size)) && sizes.len() == 20);
    assert_eq!(of_any_size(&mut rng, 1), 1);
}
