//! Getting damaged metadata back: all that can be known of the regions, and what cannot.
//!
//! *Invariants:* what comes out as hydrated was hydrated, what comes out as neither hydrated nor
//! lost was not; of everything else it is said that it is lost. Nothing is written here.

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;
use persistent_data::format::SpaceMapRoot;
use persistent_data::space_map::metadata::mapped_blocks;
use persistent_data::space_map::walk::SpaceMapReading;
use persistent_data::store::DeviceReader;
use thiserror::Error;

use self::block_set::BlockSet;
use self::claims::Claims;
use self::comparison::{Base, Evidence};
use self::newest_commit::Doubt;
use self::older_copies::{Live, LiveSpaceMap};
use self::scan::Scan;
use self::search::{Newest, Root};
use self::space_map_check::SpaceMaps;
use self::stable_read::Steady;
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

/// How often all is read again when the device is not steady.
const TRIES: u32 = 3;

/// Why nothing could be recovered.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The superblock is lost, and with it the sizes of the clone.
    #[error("block 0, the superblock: {error}; the sizes of the clone have to be given")]
    SizesUnknown {
        /// What is wrong with the superblock.
        error: SuperblockError,
        /// What the bitsets that were found allow, the best one first.
        fits: Vec<Fit>,
    },
    /// The superblock is sound, and says something else than the caller.
    #[error("the superblock is sound, and says {found:?} instead of {wanted:?}")]
    OtherSizes {
        /// What the superblock says.
        found: Geometry,
        /// What the caller said.
        wanted: Geometry,
    },
    /// The device gives other answers from one time to the next.
    #[error(
        "blocks could be read at first and not any more, {TRIES} times: the device is failing; \
         copy it to a sound one, and repair the copy"
    )]
    Unsteady,
    /// No bitset of a clone of this size was found.
    #[error("there is no bitset of a clone of {} regions here", .wanted.nr_regions())]
    NoBitset {
        /// What the caller said.
        wanted: Geometry,
        /// What the bitsets that were found allow, the best one first.
        fits: Vec<Fit>,
    },
}

/// How many regions a clone can have whose bitset was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// A bitset's root.
    pub root: BlockNr,
    /// The numbers of regions that it is right for, half-open.
    pub nr_regions: std::ops::Range<u64>,
}

/// What was recovered.
#[derive(Debug)]
pub struct Recovery {
    /// The uuid, zero if the superblock was lost, and the sizes of the clone.
    pub header: Header,
    /// What is known of the regions. What is not is lost.
    pub regions: RegionMap,
    /// All that is wrong with the metadata.
    pub damage: Vec<Damage>,
    /// Where the bitset's root was found.
    pub origin: Origin,
    /// Which regions were got back from something else than the bitset itself, and how.
    pub finds: Vec<Find>,
    /// The bitset roots that were looked at, the best one first; none if the superblock and the
    /// bitset's nodes are sound.
    pub candidates: Vec<Candidate>,
}

/// Where the root of the bitset was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// In the superblock.
    Superblock,
    /// By a scan of the device.
    Scan {
        /// Where it lies.
        root: BlockNr,
        /// Whether it is sure that no newer one was lost. If it is not, every region that is not
        /// hydrated is lost: it may have been hydrated since.
        is_newest: bool,
    },
}

/// Regions that were got back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Find {
    /// The regions of one array block, half-open.
    pub regions: RegionRange,
    /// The block that tells of them.
    pub at: BlockNr,
    /// What it tells.
    pub copy: Copy,
}

/// What a block tells of regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Copy {
    /// All: it is the block that the last commit refers to.
    Last,
    /// What was hydrated when it was written. The other regions are lost.
    Older,
}

/// A root of a bitset of the right size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it lies.
    pub root: BlockNr,
    /// Array blocks that it leads to and that are sound.
    pub array_blocks: u64,
    /// Array blocks that are damaged.
    pub missing: u64,
    /// Hydrated regions in those that are sound.
    pub hydrated: u64,
    /// Whether a space map was found that counts exactly the blocks that it leads to.
    pub vouched_for: bool,
    /// Why it was not taken; `None` if it was.
    pub verdict: Option<Verdict>,
}

/// Why a candidate was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Some of what is hydrated elsewhere is not in it.
    Older,
    /// It cannot be told from the one that was taken which is the newer one. Where they differ,
    /// regions are lost.
    Tie,
    /// The trees contradict each other, so none of them was taken.
    Contradiction,
}

/// Finds out all that can be known of the regions of damaged metadata.
///
/// `sizes` are what the user knows of the clone; they are needed if the superblock is lost.
///
/// # Errors
/// See [`RepairError`]. Whatever cannot be read is damage, not an error.
pub fn recover<D: ReadDevice + ?Sized>(
    device: &D,
    sizes: Option<Geometry>,
    progress: &dyn Progress,
) -> Result<Recovery, RepairError> {
    for _ in 0..TRIES {
        let steady = Steady::new(device);
        if let Some(result) = attempt(&steady, sizes, progress) {
            return result;
        }
    }
    Err(RepairError::Unsteady)
}

/// `None` if the device was not steady.
fn attempt<D: ReadDevice + ?Sized>(
    device: &Steady<'_, D>,
    sizes: Option<Geometry>,
    progress: &dyn Progress,
) -> Option<Result<Recovery, RepairError>> {
    let report = read(device, progress);
    let (Some(superblock), Some(regions)) = (report.superblock, report.regions) else {
        let (scan, maps) = scan(device, progress);
        let result = without_superblock(device, &scan, &maps, sizes, report.damage);
        return device.was_steady(&scan).then_some(result);
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
        return device.was_steady(&scan).then_some(Ok(recovery));
    }
    Some(Ok(recovery))
}

/// Looks at all of `device`.
fn scan<D: ReadDevice + ?Sized>(device: &D, progress: &dyn Progress) -> (Scan, SpaceMaps) {
    let mut scan = Scan::of(device, progress);
    let mut maps = SpaceMaps::of(device, &scan);
    let referred = Trees::new(device, &scan).last_referred();
    scan.were_written_up_to(referred.max(maps.last_counted()));
    maps.find_lost(&scan);
    (scan, maps)
}

/// Looks for what the tree of a sound superblock has lost.
fn look_for_lost<D: ReadDevice + ?Sized>(
    device: &D,
    scan: &Scan,
    maps: &SpaceMaps,
    superblock: &Superblock,
    recovery: &mut Recovery,
) {
    let mut trees = Trees::new(device, scan);
    let claims = Claims::of(&trees, scan);
    let geometry = superblock.header.geometry;
    let evidence = Evidence { device, scan, claims: &claims, geometry };
    let roots = search::roots(&evidence, &mut trees);
    let space_map = live_space_map(device, superblock);

    // The space map of the last commit counts the blocks of its bitset, wherever the superblock
    // says that it begins.
    let counted_together = |&&(_, tree): &&Root| {
        let mut indexes = maps.vouching_for(tree.digest).filter_map(|map| map.index);
        indexes.any(|index| Some(index) == space_map.index)
    };
    let is_lost = trees.node(superblock.bitset_root).is_none();
    let moved = if is_lost { roots.iter().find(counted_together) } else { None };
    let root = moved.map_or(superblock.bitset_root, |&(root, _)| root);
    let slots = trees.slots(root, evidence.nr_array_blocks());
    let base = if moved.is_some() {
        recovery.origin = Origin::Scan { root, is_newest: true };
        let base = Base::of(&evidence, slots);
        recovery.regions.clone_from(&base.regions);
        base
    } else {
        Base { slots, regions: recovery.regions.clone() }
    };
    let nodes = trees.nodes(root);
    let live = Live { root, base: &base, nodes, space_map };
    let search =
        older_copies::Search { evidence: &evidence, trees: &trees, maps, roots: &roots, live };
    recovery.finds = search.fill(&mut recovery.regions);
}

/// The space map that a sound superblock leads to, as far as it can be read.
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

/// Looks for the newest bitset of a device whose superblock is lost.
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
    let claims = Claims::of(&trees, scan);
    let evidence = Evidence { device, scan, claims: &claims, geometry };
    let roots = search::roots(&evidence, &mut trees);
    if roots.is_empty() {
        let fits = search::fits(scan, &mut trees);
        return Err(RepairError::NoBitset { wanted: geometry, fits });
    }
    let header = Header { uuid: [0; 16], geometry };
    let Some(newest) = search::newest(&evidence, &trees, maps, &roots) else {
        // Nothing can be believed of trees that contradict each other.
        let candidates = search::contradicting(maps, &roots);
        let origin = Origin::Scan { root: candidates[0].root, is_newest: false };
        let regions = evidence.nothing_known();
        return Ok(Recovery { header, regions, damage, origin, finds: Vec::new(), candidates });
    };
    let doubt = newest_commit::doubt(&evidence, &trees, maps, &roots, &newest);
    let Newest { root, tree, base, mut regions, candidates } = newest;
    let mut finds = Vec::new();
    let nodes = trees.nodes(root);
    match &doubt {
        Doubt::None => {
            let map = maps.vouching_for(tree.digest).find(|map| map.index.is_some());
            let space_map = map.map_or_else(LiveSpaceMap::default, |map| {
                let mut counted = BlockSet::none_of(scan.nr_blocks());
                counted.extend(space_map_check::counted_blocks(device, map));
                let blocks = map.blocks().collect();
                LiveSpaceMap { index: map.index, blocks, counted: Some(counted) }
            });
            let live = Live { root, base: &base, nodes, space_map };
            let search = older_copies::Search {
                evidence: &evidence,
                trees: &trees,
                maps,
                roots: &roots,
                live,
            };
            finds = search.fill(&mut regions);
        }
        Doubt::Newer(lost) => {
            newest_commit::keep_bounds(&evidence, &base, &nodes, lost, &mut regions)
        }
        Doubt::Anything => regions = evidence.nothing_known(),
    }
    let origin = Origin::Scan { root, is_newest: matches!(doubt, Doubt::None) };
    Ok(Recovery { header, regions, damage, origin, finds, candidates })
}
