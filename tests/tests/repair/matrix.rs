//! Damage of one block: every kind of block, in every way, in every image.

use clone_core::generate::damage::{BlockRole, DamageError, DamageKind, Target, damage};
use clone_core::generate::metadata::Pattern;
use clone_core::geometry::{Geometry, RegionRange, RegionSize, Sectors};
use clone_core::metadata::check::read;
use clone_core::repair::{Origin, Recovery, RepairError, recover};
use clone_tests::damage::ImageEditor;
use clone_tests::recovery::{Truth, expect_restorable, told};
use clone_tests::runs::{minus, within};
use persistent_data::BlockNr;
use persistent_data::bitset::BITS_PER_BLOCK;
use persistent_data::device::ReadDevice;
use persistent_data::transaction::SUPERBLOCK;

use crate::images::{Named, TWO_LEVELS, by_a_kernel, with_churn, with_three_bitmaps};

/// Counts of outcomes.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    exact: u64,
    /// Something was recovered from outside the superblock's tree.
    finds: u64,
    /// An array block of the last commit was recovered with its bits of the commit before.
    from_the_commit_before: u64,
    /// Damage that no reader can detect.
    unseen: u64,
}

/// One damaged block.
struct Case<'a> {
    named: &'a Named,
    role: BlockRole,
    /// Index of the block within its role.
    ordinal: u64,
    at: BlockNr,
    harm: DamageKind,
    damaged: ImageEditor,
}

/// Returns which of `count` blocks of a kind are damaged: if there are many, those at the ends and
/// some in between.
fn ordinals(count: u64) -> Vec<u64> {
    let mut chosen = vec![0, 1, count / 2, (2 * count / 3).max(1), count.saturating_sub(1)];
    chosen.retain(|&ordinal| ordinal < count);
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

fn blocks_of(image: &ImageEditor, role: BlockRole) -> Vec<BlockNr> {
    let layout = image.layout();
    match role {
        BlockRole::Superblock => vec![SUPERBLOCK],
        BlockRole::BitsetNode => layout.internal.clone(),
        BlockRole::BitsetLeaf => layout.leaves.clone(),
        BlockRole::ArrayBlock => layout.array_blocks.clone(),
        BlockRole::Index => vec![layout.index],
        BlockRole::Bitmap => layout.bitmaps.clone(),
        BlockRole::RefCounts => vec![layout.ref_counts],
    }
}

/// Damages every kind of block of an image in every way, and checks the recovery.
fn damage_each(named: &Named, tally: &mut Tally) {
    let image = &named.history.last().image;
    for role in BlockRole::ALL {
        for ordinal in ordinals(blocks_of(image, role).len() as u64) {
            for harm in DamageKind::ALL {
                let damaged = image.clone();
                let target = Target { role, ordinal: Some(ordinal) };
                let at = match damage(&damaged, target, harm, ordinal) {
                    Ok(change) => change.at,
                    Err(DamageError::NoOlderCopy { .. }) => continue,
                    Err(error) => panic!("{}: {error}", named.name),
                };
                assert_eq!(at, blocks_of(image, role)[ordinal as usize]);
                let case = Case { named, role, ordinal, at, harm, damaged };
                case.look(tally).unwrap_or_else(|error| panic!("{}: {error}", case.told()));
            }
        }
    }
}

impl Case<'_> {
    fn told(&self) -> String {
        let Self { named, role, ordinal, at, harm, .. } = self;
        format!("{}: block {at}, {role} {ordinal}: {harm:?}", named.name)
    }

    fn geometry(&self) -> Geometry {
        self.named.history.header.geometry
    }

    /// Returns the regions that are lost with the block, unless another copy holds them.
    fn cost(&self) -> RegionRange {
        let image = &self.named.history.last().image;
        let nr_regions = self.geometry().nr_regions();
        let array_blocks = match self.role {
            BlockRole::ArrayBlock => self.ordinal..self.ordinal + 1,
            BlockRole::BitsetLeaf => leaf_of(image, self.ordinal as usize),
            BlockRole::Superblock | BlockRole::BitsetNode => 0..nr_regions.div_ceil(BITS_PER_BLOCK),
            BlockRole::Index | BlockRole::Bitmap | BlockRole::RefCounts => return 0..0,
        };
        let region = |array_block: u64| nr_regions.min(array_block * BITS_PER_BLOCK);
        region(array_blocks.start)..region(array_blocks.end)
    }

    fn look(&self, tally: &mut Tally) -> Result<(), String> {
        tally.runs += 1;
        let before = self.damaged.clone();
        let recovery = match self.role {
            BlockRole::Superblock => self.without_superblock()?,
            _ => self.with_superblock()?,
        };
        if !self.damaged.same_bytes(&before) {
            return Err("the damaged device was written to".to_owned());
        }
        tally.exact += u64::from(recovery.regions.is_whole());
        tally.finds += u64::from(!recovery.finds.is_empty());
        expect_restorable(&recovery, self.ordinal.is_multiple_of(2));
        if self.is_unseen() {
            tally.unseen += 1;
            return self.says_what_a_check_says(&recovery);
        }
        let truth = &self.named.history.last().truth;
        Truth::new(self.named.history.header, truth).judge(&recovery)?;
        let lost: Vec<RegionRange> = recovery.regions.lost().collect();
        if self.role == BlockRole::Superblock && !lost.is_empty() {
            return Err(format!("lost with the superblock alone; {}", told(&recovery)));
        }
        if !minus(&lost, &[self.cost()]).is_empty() {
            return Err(format!("lost more than {:?}; {}", self.cost(), told(&recovery)));
        }
        self.has_the_commit_before(&recovery, tally)
    }

    /// Returns whether the damage is a write that never happened: the block's checksum and all its
    /// numbers are right. No reader can detect that, unless something else reveals it, such as the
    /// counts of the space map.
    fn is_unseen(&self) -> bool {
        let is_of_the_bitset = matches!(
            self.role,
            BlockRole::BitsetNode | BlockRole::BitsetLeaf | BlockRole::ArrayBlock
        );
        self.harm == DamageKind::Stale && is_of_the_bitset
    }

    /// Checks the only requirement in that case: the repair returns what a check can read.
    fn says_what_a_check_says(&self, recovery: &Recovery) -> Result<(), String> {
        let report = read(&self.damaged, &());
        let regions = report.regions.as_ref().expect("a sound superblock");
        let lost: Vec<RegionRange> = regions.lost().collect();
        let read: Vec<RegionRange> = regions.runs().collect();
        let recovered: Vec<RegionRange> = recovery.regions.runs().collect();
        let still_lost: Vec<RegionRange> = recovery.regions.lost().collect();
        let is_same = minus(&recovered, &lost) == read && minus(&still_lost, &lost).is_empty();
        let is_same = is_same && (report.worst().is_some() || recovery.regions == *regions);
        if is_same { Ok(()) } else { Err(format!("a check reads other; {}", told(recovery))) }
    }

    fn with_superblock(&self) -> Result<Recovery, String> {
        let geometry = self.geometry();
        let sectors = Sectors(geometry.target_size().0 + 1);
        let other = Geometry::new(geometry.region_size(), sectors).unwrap();
        match recover(&self.damaged, Some(other), &()) {
            Err(RepairError::OtherSizes { found, wanted })
                if found == geometry && wanted == other => {}
            result => return Err(format!("with other sizes: {result:?}")),
        }
        let sizes = self.ordinal.is_multiple_of(2).then_some(geometry);
        let recovery = recover(&self.damaged, sizes, &()).map_err(|error| error.to_string())?;
        if recovery.header != self.named.history.header {
            return Err(format!("{:?}", recovery.header));
        }
        let is_bitset_untouched = self.cost().is_empty();
        if is_bitset_untouched && recovery.origin != Origin::Superblock {
            return Err(format!("the bitset is sound; {}", told(&recovery)));
        }
        Ok(recovery)
    }

    fn without_superblock(&self) -> Result<Recovery, String> {
        let nr_regions = self.geometry().nr_regions();
        match recover(&self.damaged, None, &()) {
            Err(RepairError::SizesUnknown { fits, .. })
                if fits.iter().any(|fit| fit.nr_regions.contains(&nr_regions)) => {}
            result => return Err(format!("without sizes: {result:?}")),
        }
        recover(&self.damaged, Some(self.geometry()), &()).map_err(|error| error.to_string())
    }

    /// Checks that the older copy of an array block of the last commit is found. A commit does not
    /// overwrite the commit before it.
    fn has_the_commit_before(&self, recovery: &Recovery, tally: &mut Tally) -> Result<(), String> {
        let history = &self.named.history;
        let Some(before) = history.before() else { return Ok(()) };
        let is_new = self.role == BlockRole::ArrayBlock && history.written().contains(&self.at);
        if !is_new || !self.named.is_roomy {
            return Ok(());
        }
        let recovered: Vec<RegionRange> = recovery.regions.runs().collect();
        if !minus(&within(&before.truth, &self.cost()), &recovered).is_empty() {
            return Err(format!("the commit before has more; {}", told(recovery)));
        }
        tally.from_the_commit_before += 1;
        Ok(())
    }
}

/// Returns the array blocks below leaf `ordinal`.
fn leaf_of(image: &ImageEditor, ordinal: usize) -> std::ops::Range<u64> {
    let nr_entries = |leaf: &BlockNr| {
        let bytes = *image.raw(*leaf).bytes();
        u64::from(u32::from_le_bytes(*bytes[16..].first_chunk().expect("a block is larger")))
    };
    let leaves = &image.layout().leaves;
    let first: u64 = leaves[..ordinal].iter().map(nr_entries).sum();
    first..first + nr_entries(&leaves[ordinal])
}

#[test]
fn one_damaged_block_of_a_kernels_image_costs_what_only_that_block_says() {
    let mut tally = Tally::default();
    for named in by_a_kernel() {
        damage_each(&named, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.exact > 100, "{tally:?}");
}

#[test]
fn one_damaged_block_of_metadata_with_a_past_costs_what_no_older_commit_says() {
    let mut tally = Tally::default();
    let last_block_is_short = 3 * BITS_PER_BLOCK + 77;
    for (nr_regions, pattern) in [
        (1, Pattern::Random),
        (1000, Pattern::FileSystem),
        (BITS_PER_BLOCK, Pattern::Checkerboard),
        (BITS_PER_BLOCK + 1, Pattern::Random),
        (last_block_is_short, Pattern::Random),
        (300_000, Pattern::FileSystem),
        (500_001, Pattern::Runs),
    ] {
        for named in with_churn(nr_regions, pattern) {
            damage_each(&named, &mut tally);
        }
    }
    println!("{tally:?}");
    assert!(tally.exact > 400 && tally.unseen > 0, "{tally:?}");
    assert!(tally.finds > 0 && tally.from_the_commit_before > 0, "{tally:?}");
}

#[test]
fn one_damaged_block_of_a_tree_of_two_levels_costs_what_no_older_commit_says() {
    let mut tally = Tally::default();
    for named in with_churn(TWO_LEVELS, Pattern::FileSystem) {
        damage_each(&named, &mut tally);
    }
    println!("{tally:?}");
    assert!(tally.finds > 0 && tally.from_the_commit_before > 0, "{tally:?}");
}

#[test]
fn one_damaged_block_on_a_device_of_three_bitmaps_costs_what_no_older_commit_says() {
    let mut tally = Tally::default();
    damage_each(&with_three_bitmaps(), &mut tally);
    println!("{tally:?}");
    assert!(tally.exact > 20, "{tally:?}");
}

/// A superblock from before the last commit, with everything below it, is the commit before.
#[test]
fn a_stale_superblock_is_the_commit_that_it_was() {
    for named in with_churn(300_000, Pattern::Runs) {
        let (last, before) = (named.history.last(), named.history.before().unwrap());
        let mut damaged = last.image.clone();
        let stale = before.image.raw(SUPERBLOCK);
        damaged.bytes(SUPERBLOCK, |bytes| bytes.copy_from_slice(stale.bytes()));
        let report = read(&damaged, &());
        assert!(report.damage.is_empty(), "{}: {:?}", named.name, report.damage);
        let recovery = recover(&damaged, None, &()).unwrap();
        assert!(recovery.regions.runs().eq(before.truth.iter().cloned()), "{}", named.name);
        assert!(recovery.regions.is_whole() && recovery.finds.is_empty(), "{}", told(&recovery));
    }
}

/// A device without any metadata is an error, not a guess.
#[test]
fn where_there_is_no_metadata_nothing_is_recovered() {
    let region_size = RegionSize::new(Sectors(8)).unwrap();
    let sizes = Geometry::new(region_size, Sectors(8000)).unwrap();
    for nr_blocks in [0, 1, 2, 1000] {
        let mut image = ImageEditor::blank(nr_blocks);
        for at in (0..image.nr_blocks()).step_by(3).map(BlockNr) {
            image.bytes(at, |bytes| bytes.fill(0xa5));
        }
        let unknown = recover(&image, None, &());
        assert!(
            matches!(&unknown, Err(RepairError::SizesUnknown { fits, .. }) if fits.is_empty()),
            "{unknown:?}"
        );
        let given = recover(&image, Some(sizes), &());
        assert!(matches!(given, Err(RepairError::NoBitset { wanted, .. }) if wanted == sizes));
    }
}
