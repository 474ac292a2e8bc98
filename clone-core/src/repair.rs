//! Recovers the state of the regions from damaged metadata.
//!
//! [`recover`] reads the metadata. If something is lost, it scans the whole device, builds the
//! trees of all commits that are left on it, and looks for the lost parts in them. The result can
//! be restored to another device.
//!
//! *Invariants:* a region that is reported as hydrated was hydrated, and one that is reported as
//! neither hydrated nor lost was not. All others are reported as lost. Nothing is written here.

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;
use persistent_data::format::SpaceMapRoot;
use persistent_data::space_map::metadata::mapped_blocks;
use persistent_data::space_map::walk::SpaceMapReading;
use persistent_data::store::DeviceReader;
use thiserror::Error;

use self::block_set::BlockSet;
use self::claims::LeafClaims;
use self::comparison::{BaseTree, ScannedDevice};
use self::newest_commit::Confidence;
use self::older_copies::{Live, LiveSpaceMap};
use self::scan::Scan;
use self::search::{Newest, Root};
use self::space_map_check::SpaceMaps;
use self::stable_read::StableDevice;
use self::tree::Trees;
use crate::geometry::{Geometry, RegionRange};
use crate::metadata::check::read;
use crate::metadata::damage::Damage;
use crate::metadata::ir::Header;
use crate::metadata::region_map::RegionMap;
use crate::metadata::superblock::{Superblock, SuperblockError};
use crate::progress::Progress;

mod block_set;
mod claims;
mod comparison;
pub mod content;
mod newest_commit;
mod older_copies;
mod scan;
mod search;
mod space_map_check;
mod stable_read;
mod tree;

/// Maximum number of attempts to read everything if reads are not stable.
const TRIES: u32 = 3;

/// Reason why nothing could be recovered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The superblock is lost, and with it the sizes of the clone, and the caller gave no sizes.
    #[error("block 0, the superblock: {error}; the sizes of the clone have to be given")]
    SizesUnknown {
        /// Defect of the superblock.
        error: SuperblockError,
        /// Numbers of regions that fit the bitsets that were found, the best fit first.
        fits: Vec<Fit>,
    },
    /// The superblock is sound, but its sizes differ from those of the caller.
    #[error("the superblock is sound, and says {found:?} instead of {wanted:?}")]
    OtherSizes {
        /// Sizes in the superblock.
        found: Geometry,
        /// Sizes from the caller.
        wanted: Geometry,
    },
    /// Repeated reads of the device give different results.
    #[error(
        "blocks could be read at first and not any more, {TRIES} times: the device is failing; \
         copy it to a sound one, and repair the copy"
    )]
    Unsteady,
    /// No bitset of a clone of this size was found.
    #[error("there is no bitset of a clone of {} regions here", .wanted.nr_regions())]
    NoBitset {
        /// Sizes from the caller.
        wanted: Geometry,
        /// Numbers of regions that fit the bitsets that were found, the best fit first.
        fits: Vec<Fit>,
    },
}

/// A bitset that was found, and the numbers of regions that it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Block number of the bitset's root.
    pub root: BlockNr,
    /// Numbers of regions that it fits, half-open.
    pub nr_regions: std::ops::Range<u64>,
}

/// Result of a recovery.
#[derive(Debug)]
pub struct Recovery {
    /// The uuid, zero if the superblock is lost, and the sizes of the clone.
    pub header: Header,
    /// Recovered state of the regions. The others are lost.
    pub regions: RegionMap,
    /// All damage of the metadata.
    pub damage: Vec<Damage>,
    /// Source of the bitset's root.
    pub origin: Origin,
    /// Regions that were recovered from other blocks than the live bitset's.
    pub finds: Vec<Find>,
    /// The bitset roots that were considered, the best one first. Empty if the superblock and the
    /// bitset's nodes are sound.
    pub candidates: Vec<Candidate>,
}

/// Source of the root of the bitset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The superblock.
    Superblock,
    /// A scan of the device.
    Scan {
        /// Block number of the root.
        root: BlockNr,
        /// True if it is certain that no newer root was lost. Otherwise every region that is not
        /// hydrated is lost, since it may have been hydrated later.
        is_newest: bool,
    },
}

/// Recovered regions of one array block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Find {
    /// The regions of one array block, half-open.
    pub regions: RegionRange,
    /// Number of the block from which they were recovered.
    pub at: BlockNr,
    /// Age of that block.
    pub age: CopyAge,
}

/// Age of a block from which regions were recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyAge {
    /// The block of the last commit. It has the state of all regions.
    Last,
    /// An older copy of the block. It has the regions that were hydrated at its time; the others
    /// are lost.
    Older,
}

/// The root of a bitset of the right size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Block number of the root.
    pub root: BlockNr,
    /// Number of sound array blocks below it.
    pub array_blocks: u64,
    /// Number of damaged array blocks below it.
    pub missing: u64,
    /// Number of hydrated regions in the sound array blocks.
    pub hydrated: u64,
    /// True if a space map was found that counts exactly the blocks of this bitset.
    pub is_counted: bool,
    /// Reason why it was not used; `None` if it was.
    pub verdict: Option<Verdict>,
}

/// Reason why a candidate was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It lacks regions that are hydrated in another candidate.
    Older,
    /// It is unknown whether this candidate or the used one is newer. Regions in which they differ
    /// are lost.
    Tie,
    /// The trees contradict each other, so none of them was used.
    Contradiction,
}

/// Recovers the state of the regions from damaged metadata.
///
/// `sizes` are the sizes of the clone as the user knows them. They are required if the superblock
/// is lost.
///
/// # Errors
/// Any [`RepairError`]. An unreadable block is damage, not an error.
pub fn recover<D: ReadDevice + ?Sized>(
    device: &D,
    sizes: Option<Geometry>,
    progress: &dyn Progress,
) -> Result<Recovery, RepairError> {
    for _ in 0..TRIES {
        let stable = StableDevice::new(device);
        if let Some(result) = attempt(&stable, sizes, progress) {
            return result;
        }
    }
    Err(RepairError::Unsteady)
}

/// Attempts a recovery. Returns `None` if reads were not stable.
fn attempt<D: ReadDevice + ?Sized>(
    device: &StableDevice<'_, D>,
    sizes: Option<Geometry>,
    progress: &dyn Progress,
) -> Option<Result<Recovery, RepairError>> {
    let report = read(device, progress);
    let (Some(superblock), Some(regions)) = (report.superblock, report.regions) else {
        let (scan, maps) = scan(device, progress);
        let result = without_superblock(device, &scan, &maps, sizes, report.damage);
        return device.was_stable(&scan).then_some(result);
    };
    let found = superblock.header.geometry;
    if let Some(wanted) = sizes.filter(|&wanted| wanted != found) {
        return Some(Err(RepairError::OtherSizes { found, wanted }));
    }
    let mut recovery = Recovery {
        header: superblock.header,
        regions,
        damage: report.damage,
        origin: Origin::Superblock,
        finds: Vec::new(),
        candidates: Vec::new(),
    };
    if !recovery.regions.is_whole() {
        let (scan, maps) = scan(device, progress);
        look_for_lost(device, &scan, &maps, &superblock, &mut recovery);
        return device.was_stable(&scan).then_some(Ok(recovery));
    }
    Some(Ok(recovery))
}

/// Scans `device` and collects its space maps.
fn scan<D: ReadDevice + ?Sized>(device: &D, progress: &dyn Progress) -> (Scan, SpaceMaps) {
    let mut scan = Scan::of(device, progress);
    let mut maps = SpaceMaps::of(device, &scan);
    let referred = Trees::new(device, &scan).last_referred();
    scan.were_written_up_to(referred.max(maps.last_counted()));
    maps.find_lost(&scan);
    (scan, maps)
}

/// Looks for the parts that the tree of a sound superblock has lost.
fn look_for_lost<D: ReadDevice + ?Sized>(
    device: &D,
    scan: &Scan,
    maps: &SpaceMaps,
    superblock: &Superblock,
    recovery: &mut Recovery,
) {
    let mut trees = Trees::new(device, scan);
    let claims = LeafClaims::of(&trees, scan);
    let geometry = superblock.header.geometry;
    let scanned = ScannedDevice { device, scan, claims: &claims, geometry };
    let roots = search::roots(&scanned, &mut trees);
    let space_map = live_space_map(device, superblock);

    // The space map of the last commit counts the blocks of its bitset, wherever the root of the
    // bitset is according to the superblock.
    let counted_together = |&&(_, tree): &&Root| {
        let mut indexes = maps.counting(tree.digest).filter_map(|map| map.index);
        indexes.any(|index| Some(index) == space_map.index)
    };
    let is_lost = trees.node(superblock.bitset_root).is_none();
    let moved = if is_lost { roots.iter().find(counted_together) } else { None };
    let root = moved.map_or(superblock.bitset_root, |&(root, _)| root);
    let slots = trees.slots(root, scanned.nr_array_blocks());
    let base = if moved.is_some() {
        recovery.origin = Origin::Scan { root, is_newest: true };
        let base = BaseTree::of(&scanned, slots);
        recovery.regions.clone_from(&base.regions);
        base
    } else {
        BaseTree { slots, regions: recovery.regions.clone() }
    };
    let nodes = trees.nodes(root);
    let live = Live { root, base: &base, nodes, space_map };
    let search =
        older_copies::Search { scanned: &scanned, trees: &trees, maps, roots: &roots, live };
    recovery.finds = search.fill(&mut recovery.regions);
}

/// Reads the space map of a sound superblock, as far as it is readable.
fn live_space_map<D: ReadDevice + ?Sized>(device: &D, superblock: &Superblock) -> LiveSpaceMap {
    let root = SpaceMapRoot::from_area(&superblock.space_map_root);
    let index = BlockNr(root.bitmap_root.get());
    let mut blocks = vec![index];
    let refer = |at| {
        blocks.push(at);
        true
    };
    let mut is_damaged = false;
    let nr_blocks = mapped_blocks(device.nr_blocks());
    let reading =
        SpaceMapReading::read(&DeviceReader(device), root, nr_blocks, refer, |_| is_damaged = true);
    let counted = reading.filter(|reading| reading.is_whole() && !is_damaged).map(|reading| {
        let mut counted = BlockSet::none_of(nr_blocks);
        counted.extend(reading.counted());
        counted
    });
    LiveSpaceMap { index: Some(index), blocks, counted }
}

/// Looks for the newest bitset on a device whose superblock is lost.
fn without_superblock<D: ReadDevice + ?Sized>(
    device: &D,
    scan: &Scan,
    maps: &SpaceMaps,
    sizes: Option<Geometry>,
    damage: Vec<Damage>,
) -> Result<Recovery, RepairError> {
    let mut trees = Trees::new(device, scan);
    let Some(geometry) = sizes else {
        let superblock = damage.into_iter().find_map(|damage| match damage {
            Damage::Superblock(error) => Some(error),
            _ => None,
        });
        return Err(RepairError::SizesUnknown {
            error: superblock.unwrap_or(SuperblockError::NoRoom),
            fits: search::fits(scan, &mut trees),
        });
    };
    let claims = LeafClaims::of(&trees, scan);
    let scanned = ScannedDevice { device, scan, claims: &claims, geometry };
    let roots = search::roots(&scanned, &mut trees);
    if roots.is_empty() {
        let fits = search::fits(scan, &mut trees);
        return Err(RepairError::NoBitset { wanted: geometry, fits });
    }
    let header = Header { uuid: [0; 16], geometry };
    let Some(newest) = search::newest(&scanned, &trees, maps, &roots) else {
        // Trees that contradict each other are not trustworthy.
        let candidates = search::contradicting(maps, &roots);
        let origin = Origin::Scan { root: candidates[0].root, is_newest: false };
        let regions = scanned.nothing_known();
        return Ok(Recovery { header, regions, damage, origin, finds: Vec::new(), candidates });
    };
    let confidence = newest_commit::confidence_in(&newest, &scanned, &trees, maps, &roots);
    let Newest { root, tree, base, mut regions, candidates } = newest;
    let mut finds = Vec::new();
    let nodes = trees.nodes(root);
    match &confidence {
        Confidence::Certain => {
            let map = maps.counting(tree.digest).find(|map| map.index.is_some());
            let space_map = map.map_or_else(LiveSpaceMap::default, |map| {
                let mut counted = BlockSet::none_of(scan.nr_blocks());
                counted.extend(space_map_check::counted_blocks(device, map));
                let blocks = map.blocks().collect();
                LiveSpaceMap { index: map.index, blocks, counted: Some(counted) }
            });
            let live = Live { root, base: &base, nodes, space_map };
            let search = older_copies::Search {
                scanned: &scanned,
                trees: &trees,
                maps,
                roots: &roots,
                live,
            };
            finds = search.fill(&mut regions);
        }
        Confidence::NewerMayBeLost(lost) => {
            newest_commit::keep_bounds(&scanned, &base, &nodes, lost, &mut regions);
        }
        Confidence::NoBounds => regions = scanned.nothing_known(),
    }
    let origin = Origin::Scan { root, is_newest: matches!(confidence, Confidence::Certain) };
    Ok(Recovery { header, regions, damage, origin, finds, candidates })
}
