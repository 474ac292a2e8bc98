//! A clone with data whose metadata is damaged: where a comparison of source and destination
//! decides, the clone reads as before.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use clone_core::block_io::ReadData;
use clone_core::generate::damage::{BlockRole, DamageKind, Target, damage};
use clone_core::geometry::{Geometry, RegionRange};
use clone_core::metadata::Metadata;
use clone_core::metadata::ir::Header;
use clone_core::metadata::region_map::RegionMap;
use clone_core::repair::content::decide;
use clone_core::repair::recover;
use clone_tests::assert_seen;
use clone_tests::damage::ImageEditor;
use clone_tests::hydration::{self, runs_of};
use clone_tests::recovery::{Truth, expect_restorable};
use clone_tests::runs::count;
use persistent_data::bitset::BITS_PER_BLOCK;
use persistent_data::sim::seeds;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::images::nr_blocks;

const SECTOR: usize = 512;

/// The source of the clone. It never changes, and takes no memory.
struct Source {
    geometry: Geometry,
    seed: u64,
}

/// The destination, all zero at the creation of the clone.
struct Destination {
    geometry: Geometry,
    /// Regions that are not all zero.
    regions: BTreeMap<u64, Vec<u8>>,
}

/// Returns the half-open byte range of `region`.
fn bytes_of(geometry: Geometry, region: u64) -> Range<u64> {
    let sectors = geometry.sectors_of(region..region + 1);
    sectors.start.to_bytes().unwrap()..sectors.end.to_bytes().unwrap()
}

/// A device that returns the content of each region.
trait Regions: Send + Sync {
    fn geometry(&self) -> Geometry;
    fn region(&self, region: u64) -> Vec<u8>;
}

impl Regions for Source {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// One region in eight is a hole, and the others contain holes.
    fn region(&self, region: u64) -> Vec<u8> {
        let bytes = bytes_of(self.geometry, region);
        let mut content = vec![0; (bytes.end - bytes.start) as usize];
        let mut rng = StdRng::seed_from_u64(self.seed ^ region);
        if rng.random_range(0..8) > 0 {
            rng.fill_bytes(&mut content);
            let hole = rng.random_range(0..content.len() / SECTOR + 1) * SECTOR;
            content[..hole / 2 / SECTOR * SECTOR].fill(0);
        }
        content
    }
}

impl Regions for Destination {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn region(&self, region: u64) -> Vec<u8> {
        let bytes = bytes_of(self.geometry, region);
        let zeroes = || vec![0; (bytes.end - bytes.start) as usize];
        self.regions.get(&region).cloned().unwrap_or_else(zeroes)
    }
}

/// Adapts a device to the comparison's interface.
struct Data<'a, R>(&'a R);

impl<R: Regions> ReadData for Data<'_, R> {
    fn size_bytes(&self) -> u64 {
        self.0.geometry().target_size().to_bytes().unwrap()
    }

    fn read_at(&self, offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        let geometry = self.0.geometry();
        let region_bytes = geometry.region_size().sectors().to_bytes().unwrap();
        let mut at = offset;
        while !into.is_empty() {
            let region = at / region_bytes;
            let skipped = (at - region * region_bytes) as usize;
            let content = &self.0.region(region)[skipped..];
            let len = content.len().min(into.len());
            let (now, rest) = into.split_at_mut(len);
            now.copy_from_slice(&content[..len]);
            (into, at) = (rest, at + len as u64);
        }
        Ok(())
    }
}

/// A clone that was closed in order: every bit that should be set is committed.
struct Clone {
    header: Header,
    source: Source,
    destination: Destination,
    metadata: ImageEditor,
    hydrated: Vec<bool>,
    /// True for regions written since the creation of the clone, with anything but zeroes.
    written: Vec<bool>,
}

impl Clone {
    /// Creates a clone with `commits` commits, each of a few adjacent regions that are copied,
    /// written or discarded.
    fn with(header: Header, commits: u32, rng: &mut StdRng) -> Self {
        let geometry = header.geometry;
        let nr_regions = geometry.nr_regions();
        let image = ImageEditor::blank(nr_blocks(geometry) + rng.random_range(0..20));
        let mut clone = Self {
            header,
            source: Source { geometry, seed: rng.random() },
            destination: Destination { geometry, regions: BTreeMap::new() },
            metadata: image.clone(),
            hydrated: vec![false; nr_regions as usize],
            written: vec![false; nr_regions as usize],
        };
        let mut metadata = Metadata::format(&image, header).unwrap();
        for _ in 0..commits {
            for _ in 0..rng.random_range(1..6) {
                let start = rng.random_range(0..nr_regions);
                let run = start..nr_regions.min(start + rng.random_range(1..9));
                run.clone().for_each(|region| clone.change(region, rng));
                metadata.set_hydrated(run).unwrap();
            }
            metadata.commit().unwrap();
        }
        drop(metadata);
        // Copied regions whose commit was prevented by a loss of power: either answer is right.
        for _ in 0..rng.random_range(0..4) {
            let region = rng.random_range(0..nr_regions);
            if !clone.hydrated[region as usize] {
                let content = clone.source.region(region);
                clone.destination.regions.insert(region, content);
            }
        }
        clone.metadata = image.looked_through();
        clone
    }

    fn change(&mut self, region: u64, rng: &mut StdRng) {
        let is_hydrated = &mut self.hydrated[region as usize];
        let mut content = self.source.region(region);
        match rng.random_range(0..8) {
            0..3 => {
                if *is_hydrated {
                    return;
                }
            }
            // A discard, or a write of zeroes.
            3 => content.fill(0),
            4..7 => rng.fill_bytes(&mut content),
            // A partial write; a region that is not hydrated is copied first.
            _ => {
                if *is_hydrated {
                    content = self.destination.region(region);
                }
                let at = rng.random_range(0..content.len());
                content[at] ^= rng.random_range(1..=u8::MAX);
            }
        }
        *is_hydrated = true;
        self.written[region as usize] = content.iter().any(|&byte| byte != 0);
        self.destination.regions.insert(region, content);
    }

    /// Returns the result of a read of `region` if it is or is not `hydrated`.
    fn reads(&self, region: u64, hydrated: bool) -> Vec<u8> {
        if hydrated { self.destination.region(region) } else { self.source.region(region) }
    }

    /// Repairs by content. Returns the numbers of lost regions before and after the comparison.
    fn repair(&self, damaged: &ImageEditor) -> (u64, u64) {
        let geometry = self.header.geometry;
        let recovery = recover(damaged, Some(geometry), &());
        let mut recovery = recovery.unwrap_or_else(|error| panic!("{error}"));
        let truth = runs_of(&self.hydrated);
        let truth = Truth::new(self.header, &truth);
        truth.judge(&recovery).unwrap_or_else(|error| panic!("{error}"));
        let lost: Vec<RegionRange> = recovery.regions.lost().collect();

        let (source, destination) = (Data(&self.source), Data(&self.destination));
        let decided = decide(&mut recovery.regions, geometry, &source, &destination, &()).unwrap();
        let still_lost: Vec<RegionRange> = recovery.regions.lost().collect();
        assert_eq!(decided.equal + decided.written + decided.undecided, count(&lost));
        assert_eq!(decided.undecided, count(&still_lost));
        assert!(decided.half_copied <= decided.written && decided.nr_unreadable == 0);
        self.reads_as_before(&recovery.regions, &lost);
        // The user's decision on the other regions may be either one.
        expect_restorable(&recovery, decided.undecided.is_multiple_of(2));
        (count(&lost), decided.undecided)
    }

    fn reads_as_before(&self, map: &RegionMap, were_lost: &[RegionRange]) {
        for region in were_lost.iter().cloned().flatten() {
            let tally = map.tally(region..region + 1);
            let is_zero = || self.destination.region(region).iter().all(|&byte| byte == 0);
            if self.written[region as usize] {
                assert_eq!(tally.hydrated, 1, "region {region} was written, and that is forgotten");
            }
            if tally.lost == 1 {
                assert!(is_zero(), "region {region} has content, and is not decided");
            } else {
                let now = self.reads(region, tally.hydrated == 1);
                let then = self.reads(region, self.hydrated[region as usize]);
                assert!(now == then, "region {region} reads other than it did");
            }
        }
        // All other regions are unchanged, and so read as before.
        let mut expected = map.clone();
        expected.settle_lost(false);
        let hydrated = runs_of(&self.hydrated);
        let outside = |runs: &[RegionRange]| clone_tests::runs::minus(runs, were_lost);
        assert_eq!(outside(&expected.runs().collect::<Vec<_>>()), outside(&hydrated));
    }
}

/// Damages the record of hydrated regions, and repairs it by content. Returns how many regions were
/// lost, and how many of them still are.
fn damaged_and_repaired(clone: &Clone, rng: &mut StdRng) -> (u64, u64) {
    let damaged = clone.metadata.clone();
    let role = [BlockRole::ArrayBlock, BlockRole::BitsetLeaf][rng.random_range(0..2)];
    let harm = [DamageKind::Zero, DamageKind::Random, DamageKind::Bit, DamageKind::Checksum]
        [rng.random_range(0..4)];
    let change = damage(&damaged, Target { role, ordinal: None }, harm, rng.random()).unwrap();
    println!("{change}");
    clone.repair(&damaged)
}

#[test]
fn where_content_decides_a_small_clone_reads_as_it_did_before_the_damage() {
    let test = "where_content_decides_a_small_clone_reads_as_it_did_before_the_damage";
    let (mut runs, mut lost, mut undecided) = (0, 0, 0);
    for seed in seeds(test, 300) {
        let mut rng = seed.rng();
        let header = hydration::header(rng.random_range(1..120));
        let clone = Clone::with(header, rng.random_range(1..10), &mut rng);
        for _ in 0..4 {
            let (were_lost, are_lost) = damaged_and_repaired(&clone, &mut rng);
            (runs, lost, undecided) = (runs + 1, lost + were_lost, undecided + are_lost);
        }
    }
    println!("{runs} runs, {lost} regions lost, {undecided} of them not decided");
    assert_seen("a region was lost", lost, runs);
    assert_seen("a region was not decided", undecided, runs);
    assert!(undecided < lost);
}

#[test]
fn where_content_decides_a_clone_of_two_array_blocks_reads_as_it_did_before_the_damage() {
    let test =
        "where_content_decides_a_clone_of_two_array_blocks_reads_as_it_did_before_the_damage";
    for seed in seeds(test, 3) {
        let mut rng = seed.rng();
        let header = hydration::header(BITS_PER_BLOCK + rng.random_range(1..200));
        let clone = Clone::with(header, 30, &mut rng);
        damaged_and_repaired(&clone, &mut rng);
    }
}
