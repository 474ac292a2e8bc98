//! Checks metadata: all blocks that a superblock reaches, and their reference counts.

use std::io;
use std::ops::Range;

use persistent_data::array::{ArrayBlockRef, exact_array_values, read_array_blocks};
use persistent_data::bitset::{BITS_PER_BLOCK, BITS_PER_WORD};
use persistent_data::block::{self, RawBlock};
use persistent_data::btree::{self, NodeDamage, NodeView, WalkVisitor};
use persistent_data::device::ReadDevice;
use persistent_data::format::{ArrayBlockDisk, SpaceMapRoot};
use persistent_data::space_map::metadata::mapped_blocks;
use persistent_data::space_map::walk::SpaceMapReading;
use persistent_data::space_map::{CoreSpaceMap, SpaceMapDamage};
use persistent_data::store::DeviceReader;
use persistent_data::transaction::SUPERBLOCK;
use persistent_data::{BlockNr, Error};
use zerocopy::little_endian as le;

use crate::geometry::{Geometry, RegionRange};
use crate::metadata::damage::{Damage, Severity};
use crate::metadata::format;
use crate::metadata::ir::Header;
use crate::metadata::metadata_size::least_commit;
use crate::metadata::region_map::{self, RegionMap};
use crate::metadata::superblock::{Superblock, read_raw};
use crate::progress::Progress;

/// The parts of the metadata to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only the superblock.
    Superblock,
    /// The superblock and the bitset.
    WithoutSpaceMap,
    /// The superblock, the bitset and the space map, and the agreement of counts and references.
    Everything,
}

/// Use of the metadata device, according to the space map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockUse {
    /// Number of blocks that the space map covers.
    pub total: u64,
    /// Number of blocks that it counts as used. The kernel's status line shows the same number.
    pub used: u64,
    /// Number of blocks whose count is above their references. `None` if it was not checked, or
    /// is unknown because some references could not be read.
    pub leaked: Option<u64>,
}

/// Result of a check.
#[derive(Debug)]
pub struct Report {
    /// The superblock, if it is valid.
    pub superblock: Option<Superblock>,
    /// The state of all regions, with unreadable ones marked as lost. `None` if the superblock is
    /// not valid, or if the check was not asked to keep it.
    pub regions: Option<RegionMap>,
    /// Number of hydrated regions among the readable ones.
    pub hydrated: Option<u64>,
    /// Use of the metadata device, if the superblock is valid.
    pub metadata_blocks: Option<BlockUse>,
    /// All damage, in the order in which it was found.
    pub damage: Vec<Damage>,
}

impl Report {
    /// Returns the uuid and the sizes of the clone, if the superblock is valid.
    pub fn header(&self) -> Option<Header> {
        self.superblock.map(|superblock| superblock.header)
    }

    /// Returns the highest severity of the damage, or `None` if there is none.
    pub fn worst(&self) -> Option<Severity> {
        self.damage.iter().map(Damage::severity).max()
    }

    /// Returns whether all damage can be corrected in place: every block was read and is sound.
    pub fn is_repairable_in_place(&self) -> bool {
        self.damage.iter().all(Damage::is_repairable_in_place)
    }

    /// Returns whether a kernel would refuse, misread or destroy the metadata.
    pub fn is_fatal(&self) -> bool {
        self.worst() == Some(Severity::Fatal)
    }
}

/// Checks the parts that `scope` names and reports all damage.
///
/// It reads only blocks that the superblock reaches. An unreadable block is damage, not an error.
pub fn check<D: ReadDevice + ?Sized>(device: &D, scope: Scope, progress: &dyn Progress) -> Report {
    run(device, scope, None, progress)
}

/// [Checks](check) everything, and keeps the state of all regions in the report.
pub fn read<D: ReadDevice + ?Sized>(device: &D, progress: &dyn Progress) -> Report {
    run(device, Scope::Everything, Some(RegionMap::lost_whole), progress)
}

/// Makes a map of the given number of regions.
type MakeMap = fn(u64) -> RegionMap;

fn run<D: ReadDevice + ?Sized>(
    device: &D,
    scope: Scope,
    make_map: Option<MakeMap>,
    progress: &dyn Progress,
) -> Report {
    let device = &Mappable(device);
    let mut report = Report {
        superblock: None,
        regions: None,
        hydrated: None,
        metadata_blocks: None,
        damage: Vec::new(),
    };
    let Some(superblock) = check_superblock(device, &mut report.damage) else { return report };
    report.superblock = Some(superblock);
    let root = SpaceMapRoot::from_area(&superblock.space_map_root);
    report.metadata_blocks =
        Some(BlockUse { total: root.nr_blocks.get(), used: root.nr_allocated.get(), leaked: None });
    if scope == Scope::Superblock {
        return report;
    }
    let mut check = Check {
        device,
        progress,
        superblock,
        references: CoreSpaceMap::new(device.nr_blocks()),
        damage: Vec::new(),
    };
    check.refer(SUPERBLOCK);
    let array_blocks = check.walk_bitset();
    let reading = (scope == Scope::Everything).then(|| check.read_space_map(root)).flatten();
    let mut regions = make_map.map(|make| make(superblock.header.geometry.nr_regions()));
    report.hydrated = Some(check.read_regions(&array_blocks, regions.as_mut()));
    report.regions = regions;
    if let Some(reading) = reading {
        report.metadata_blocks = Some(check.compare_counts(&reading));
        check.look_for_room(&reading, report.hydrated);
    }
    report.damage.append(&mut check.damage);
    report
}

fn check_superblock<D: ReadDevice + ?Sized>(
    device: &D,
    damage: &mut Vec<Damage>,
) -> Option<Superblock> {
    let read = read_raw(device).and_then(|raw| Ok((Superblock::parse(&raw)?, raw)));
    let (superblock, raw) = match read {
        Ok(read) => read,
        Err(error) => {
            damage.push(Damage::Superblock(error));
            return None;
        }
    };
    let disk = block::view::<format::Superblock>(&raw);
    if disk.flags.get() != 0 {
        damage.push(Damage::SuperblockFlags(disk.flags.get()));
    }
    let unused_root = &disk.metadata_space_map_root[size_of::<SpaceMapRoot>()..];
    if disk.reserved.iter().chain(unused_root).any(|&byte| byte != 0) {
        damage.push(Damage::SuperblockReserved);
    }
    Some(superblock)
}

/// The part of a device that a space map can cover. No block beyond it can be in use.
struct Mappable<'a, D: ?Sized>(&'a D);

impl<D: ReadDevice + ?Sized> ReadDevice for Mappable<'_, D> {
    fn nr_blocks(&self) -> u64 {
        mapped_blocks(self.0.nr_blocks())
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        self.0.read(first, into)
    }
}

/// A check in progress.
struct Check<'a, D: ?Sized> {
    device: &'a D,
    progress: &'a dyn Progress,
    superblock: Superblock,
    /// Number of references to each block that have been found.
    references: CoreSpaceMap,
    damage: Vec<Damage>,
}

impl<D: ReadDevice + ?Sized> Check<'_, D> {
    /// Counts a reference and returns whether it is the first one.
    ///
    /// A block past the end has no count. It is reported when it is read.
    fn refer(&mut self, at: BlockNr) -> bool {
        self.references.inc(at).map_or(true, |count| count == 1)
    }

    /// Returns the indexes and block numbers of the array blocks, ascending.
    fn walk_bitset(&mut self) -> Vec<(u64, BlockNr)> {
        let geometry = self.superblock.header.geometry;
        let reader = DeviceReader(self.device);
        let root = self.superblock.bitset_root;
        let mut walk = BitsetWalk { check: self, geometry, array_blocks: Vec::new(), next: 0 };
        btree::walk(&reader, root, &mut walk);
        walk.expect_from(nr_array_blocks(geometry));
        walk.array_blocks
    }

    /// Reads the space map and counts its references.
    fn read_space_map(&mut self, root: SpaceMapRoot) -> Option<SpaceMapReading> {
        let mut damage = Vec::new();
        let mut shared = Vec::new();
        let (device, references) = (self.device, &mut self.references);
        let refer = |at: BlockNr| {
            let first = references.inc(at).map_or(true, |count| count == 1);
            if !first {
                shared.push(Damage::Shared { at, regions: None });
            }
            first
        };
        let device_blocks = device.nr_blocks();
        let reading =
            SpaceMapReading::read(&DeviceReader(device), root, device_blocks, refer, |found| {
                damage.push(Damage::SpaceMap(found));
            });
        self.damage.append(&mut damage);
        self.damage.append(&mut shared);
        reading
    }

    /// Reads the array blocks and returns the number of hydrated regions. If several parents point
    /// to a block, the regions of all of them are in doubt, since the block does not hold its
    /// index in the array.
    fn read_regions(
        &mut self,
        array_blocks: &[(u64, BlockNr)],
        mut map: Option<&mut RegionMap>,
    ) -> u64 {
        let geometry = self.superblock.header.geometry;
        let mut readable = Vec::with_capacity(array_blocks.len());
        for &(index, at) in array_blocks {
            if self.references.count(at).is_ok_and(|count| count > 1) {
                let regions = Some(regions_of(geometry, index));
                self.damage.push(Damage::Shared { at, regions });
            } else {
                readable.push((index, at));
            }
        }
        self.progress.set_total(readable.len() as u64);
        let (damage, progress) = (&mut self.damage, self.progress);
        let mut hydrated = 0;
        read_array_blocks(self.device, &readable, |index, at, block| {
            let regions = regions_of(geometry, index);
            let len = regions.end - regions.start;
            match block.and_then(|block| words_of(at, block, len)) {
                Ok(words) => {
                    let census = region_map::census(words, len);
                    if census.trailing_bits {
                        damage.push(Damage::BitsetTrailingBits { at });
                    }
                    hydrated += census.hydrated;
                    if let Some(map) = &mut map {
                        map.fill(index, words, census);
                    }
                }
                Err(error) => damage.push(Damage::BitsetBlock { index, at, regions, error }),
            }
            progress.advance(1);
        });
        hydrated
    }

    /// Compares the counts with the references, after all references were counted.
    fn compare_counts(&mut self, reading: &SpaceMapReading) -> BlockUse {
        let all_found = !self.damage.iter().any(|damage| damage.severity() == Severity::Fatal);
        let mut leaked = 0;
        reading.compare(&self.references, all_found, |found| {
            if let SpaceMapDamage::Leak { blocks, .. } = &found {
                leaked += blocks.end - blocks.start;
            }
            self.damage.push(Damage::SpaceMap(found));
        });
        self.look_past_the_map(reading.nr_blocks());
        BlockUse {
            total: reading.nr_blocks(),
            used: reading.nr_allocated(),
            leaked: (all_found && reading.is_whole()).then_some(leaked),
        }
    }

    /// Reports a lack of free blocks for another commit. A kernel opens such metadata and fails at
    /// its first write. A clone whose regions are all hydrated needs no more commits, and one that
    /// a kernel refuses anyway makes none.
    fn look_for_room(&mut self, reading: &SpaceMapReading, hydrated: Option<u64>) {
        let geometry = self.superblock.header.geometry;
        let needed = least_commit(geometry, reading.nr_bitmaps()) + reading.nr_tree_nodes();
        let free = reading.nr_free(needed);
        let is_fatal = self.damage.iter().any(|damage| damage.severity() == Severity::Fatal);
        if free < needed && !is_fatal && hydrated != Some(geometry.nr_regions()) {
            self.damage.push(Damage::NoRoom { free, needed });
        }
    }

    /// Reports used blocks that the space map does not cover: they have no count.
    fn look_past_the_map(&mut self, nr_blocks: u64) {
        let uncounted: Vec<_> = (self.references.iter())
            .filter(|(at, _)| at.0 >= nr_blocks)
            .map(|(at, found)| SpaceMapDamage::CountLow {
                blocks: at.0..at.0 + 1,
                counted: 0,
                found,
            })
            .collect();
        self.damage.extend(uncounted.into_iter().map(Damage::SpaceMap));
    }
}

/// Returns the words of an array block with `nr_regions` regions.
fn words_of(at: BlockNr, block: &ArrayBlockDisk, nr_regions: u64) -> Result<&[le::U64], Error> {
    let nr_words = nr_regions.div_ceil(BITS_PER_WORD) as usize;
    exact_array_values(block, nr_words).map_err(|source| Error::Array { at, source })
}

/// Returns the number of array blocks of the bitset.
fn nr_array_blocks(geometry: Geometry) -> u64 {
    geometry.nr_regions().div_ceil(BITS_PER_BLOCK)
}

/// Returns the regions, half-open, of array block `index`; empty past the end.
fn regions_of(geometry: Geometry, index: u64) -> RegionRange {
    let region = |index: u64| index.saturating_mul(BITS_PER_BLOCK).min(geometry.nr_regions());
    region(index)..region(index.saturating_add(1))
}

/// Collects the array blocks' numbers during a walk of the bitset's btree.
struct BitsetWalk<'a, 'b, D: ?Sized> {
    check: &'a mut Check<'b, D>,
    geometry: Geometry,
    array_blocks: Vec<(u64, BlockNr)>,
    /// The index that must come next, unless damage accounts for a gap.
    next: u64,
}

impl<D: ReadDevice + ?Sized> BitsetWalk<'_, '_, D> {
    /// Returns the regions, half-open, of a range of array blocks; empty past the end.
    fn regions_of(&self, indexes: Range<u64>) -> RegionRange {
        regions_of(self.geometry, indexes.start).start..regions_of(self.geometry, indexes.end).start
    }

    /// Returns the regions that are lost with the array blocks from the next expected one to `end`.
    fn lose_up_to(&mut self, end: u64) -> RegionRange {
        let end = end.min(nr_array_blocks(self.geometry)).max(self.next);
        let regions = self.regions_of(self.next..end);
        self.next = end;
        regions
    }

    /// Reports the missing array blocks before `index`.
    fn expect_from(&mut self, index: u64) {
        let regions = self.lose_up_to(index);
        if !regions.is_empty() {
            self.check.damage.push(Damage::BitsetMissing { regions });
        }
    }
}

impl<D: ReadDevice + ?Sized> WalkVisitor<ArrayBlockRef<le::U64>> for BitsetWalk<'_, '_, D> {
    fn node(&mut self, at: BlockNr, indexes: &Range<u64>) -> bool {
        let first = self.check.refer(at);
        if !first {
            self.expect_from(indexes.start);
            let regions = Some(self.lose_up_to(indexes.end));
            self.check.damage.push(Damage::Shared { at, regions });
        }
        first
    }

    fn leaf(&mut self, _: BlockNr, _: &Range<u64>, leaf: &NodeView<'_, ArrayBlockRef<le::U64>>) {
        for (index, block) in leaf.entries() {
            let at = block.at();
            self.check.refer(at);
            if index >= nr_array_blocks(self.geometry) {
                self.check.damage.push(Damage::BitsetExtra { index, at });
                continue;
            }
            self.expect_from(index);
            self.next = index + 1;
            self.array_blocks.push((index, at));
        }
    }

    fn padding(&mut self, at: BlockNr) {
        self.check.damage.push(Damage::BitsetPadding { at });
    }

    fn damage(&mut self, damage: NodeDamage) {
        let NodeDamage { at, keys, error } = damage;
        self.expect_from(keys.start);
        let regions = self.lose_up_to(keys.end);
        self.check.damage.push(Damage::BitsetNode { at, regions, error });
    }
}
