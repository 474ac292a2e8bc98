//! Decides whether the newest tree that was found is the newest that existed, or a newer one may
//! have been lost.
//!
//! Every commit writes an array block, a node per level, a bitmap and an index, all to free blocks.
//! A newer commit than the newest tree therefore leaves a trace on the device: its blocks are still
//! there, or they are damaged. These are the cases:
//!
//! ```text
//!                block 0                                nr_blocks
//!                +---+-------------+-------------+-----------+
//!                | S | newest tree | free for    | never     |   a commit newer than
//!                |   | and its     | the next    | written   |   the newest tree
//!                |   | space map   | commits     |           |
//!                +---+-------------+-------------+-----------+
//! 1 nothing lost | x | o o o o o o | o o o o o o | . . . . . |   none
//! 2 too few lost | x | x o o o o o | o o x o o o | . . . . . |   none: some of it would be left
//! 3 enough lost  | x | o o o o o o | o x x x x o | . . . . . |   may be all that is lost
//! 4 at the blank | x | o o o o o o | o o o o o x | . . . . . |   the rest may have been wiped
//! 5 a block left | x | x o o o o o | o o x o ? o | . . . . . |   left a node or array block
//! 6 a map left   | x | x o o o o o | o o x o m o | . . . . . |   left a space map
//!                +---+-------------+-------------+-----------+
//!
//! S  superblock          o  sound, of a known commit    ?  sound, of no known tree
//! x  damaged or wiped    .  blank                       m  space map of no known tree
//! ```
//!
//! 1 and 2 are [`Trace::None`], 3 and 4 are [`Trace::Damage`], 5 is [`Trace::Block`], and 6 is
//! [`Trace::SpaceMap`]. Damaged blocks of the newest tree and of its space map are no trace by
//! themselves. They may have been reused for a newer commit, so 3 counts them, too, unless there is
//! no other damage and a sound space map counts the tree.

use std::collections::HashSet;

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;
use persistent_data::format::ENTRIES_PER_BITMAP;
use persistent_data::space_map::metadata::mapped_blocks;
use persistent_data::transaction::SUPERBLOCK;

use super::block_set::BlockSet;
use super::comparison::{BaseTree, ScannedDevice, TreeComparison};
use super::scan::{Kind, Scan};
use super::search::{Newest, Root};
use super::space_map_check::{SpaceMap, SpaceMaps, counted_blocks};
use super::tree::{Digest, MAX_DEPTH, Trees};
use crate::metadata::region_map::RegionMap;

/// Maximum number of comparisons of array blocks to which no node leads. Beyond it, all of them
/// count as newer.
const ORPHAN_COMPARISONS: u64 = 1 << 20;

/// Number of free blocks after an array block in which others of the same commit would be.
const NEAR: usize = 16;

/// Confidence that the newest tree that was found is the newest that existed.
#[derive(Debug)]
pub(super) enum Confidence {
    /// No newer tree existed.
    Certain,
    /// There may have been a newer one. These damaged blocks may have been part of it.
    NewerMayBeLost(BlockSet),
    /// There may have been several newer ones, of unknown blocks.
    NoBounds,
}

/// The trace of a commit that is newer than the newest tree.
enum Trace {
    /// There was no such commit.
    None,
    /// Damaged blocks that may be all that it wrote.
    Damage,
    /// A node or an array block that may be part of it.
    Block,
    /// A space map that may be that of the commit, or of a later one.
    SpaceMap,
}

/// Decides whether a commit that is newer than `newest` may have been lost.
pub(super) fn confidence_in<D: ReadDevice + ?Sized>(
    newest: &Newest,
    scanned: &ScannedDevice<'_, D>,
    trees: &Trees<'_, D>,
    maps: &SpaceMaps,
    roots: &[Root],
) -> Confidence {
    let scan = scanned.scan;
    // Nothing that was written is lost. The exception is the topmost sound block: an array block
    // there may be all that is left of a commit.
    if scan.damaged().is_empty() && !is_top_orphan(scanned) {
        return Confidence::Certain;
    }
    let (nodes, levels) = nodes_of(trees, newest.root);
    let mut explained = explained(scan, trees, maps, roots);
    let mut damage = UnknownDamage { unexplained: scan.damaged().clone(), lost_map: 0 };
    nodes.iter().chain(&newest.base.slots).for_each(|&at| damage.unexplained.remove(at));
    match space_map_of(scan, maps, newest.tree.digest) {
        SpaceMapState::Sound => {}
        SpaceMapState::Damaged { sound, lost } => {
            explained.extend(sound);
            lost.into_iter().for_each(|at| damage.unexplained.remove(at));
        }
        SpaceMapState::Lost => {
            damage.lost_map = 1 + mapped_blocks(scanned.device.nr_blocks())
                .div_ceil(ENTRIES_PER_BITMAP as u64) as usize;
        }
    }
    let expected = Expected { nodes: nodes.len(), array_blocks: newest.base.slots.len() };
    let left = UnexplainedBlocks { scanned, trees, explained: &explained, newest, expected };
    let trace = if left.any_space_map(maps) {
        Trace::SpaceMap
    } else if damage.may_be_a_commit(scan, maps, newest, &nodes, levels) {
        Trace::Damage
    } else if left.any_node() || left.any_array_block() {
        Trace::Block
    } else {
        Trace::None
    };
    match trace {
        Trace::None => Confidence::Certain,
        Trace::Damage | Trace::Block => Confidence::NewerMayBeLost(damage.unexplained),
        Trace::SpaceMap => Confidence::NoBounds,
    }
}

/// Returns whether no leaf leads to the topmost sound block, an array block.
fn is_top_orphan<D: ?Sized>(scanned: &ScannedDevice<'_, D>) -> bool {
    let (scan, claims) = (scanned.scan, scanned.claims);
    scan.top().is_some_and(|top| scan.kind(top) == Kind::Array && claims.is_orphan(top))
}

/// The damaged blocks that are not known to be part of the newest commit.
struct UnknownDamage {
    unexplained: BlockSet,
    /// Number of blocks that the space map of the newest commit has among `unexplained`, if all of
    /// it is lost.
    lost_map: usize,
}

impl UnknownDamage {
    /// Returns whether the damaged blocks may be all blocks of a newer commit. `nodes` are those of
    /// the newest tree, which has `levels`.
    fn may_be_a_commit(
        &self,
        scan: &Scan,
        maps: &SpaceMaps,
        newest: &Newest,
        nodes: &[BlockNr],
        levels: usize,
    ) -> bool {
        // An array block, a node per level, a bitmap and an index.
        let least_commit = 1 + levels + 2;
        let is_enough = scan.damaged().len() >= least_commit + self.lost_map;
        if self.unexplained.len() <= self.lost_map {
            // Damaged blocks of the tree may have been reused for another commit.
            return is_enough && !maps.is_counted(newest.tree.digest);
        }
        let kept: HashSet<BlockNr> = (nodes.iter().chain(&newest.base.slots).copied())
            .chain(maps.counting(newest.tree.digest).flat_map(SpaceMap::blocks))
            .chain(scan.all(Kind::RefCounts))
            .collect();
        is_enough || is_next_to_blank(scan, &self.unexplained, &kept)
    }
}

/// Returns whether some of the `lost` blocks border on the blank blocks at the end of the device,
/// disregarding those that are `kept`. The commit that they were part of may have had more blocks
/// there, since wiped blocks cannot be distinguished from blocks that were never written.
fn is_next_to_blank(scan: &Scan, lost: &BlockSet, kept: &HashSet<BlockNr>) -> bool {
    let end = scan.nr_blocks();
    let last_sound_or_lost = |at: &u64| {
        !matches!(scan.kind(BlockNr(*at)), Kind::Blank) || scan.damaged().contains(BlockNr(*at))
    };
    let blank = (1..end).rev().find(last_sound_or_lost).map_or(1, |last| last + 1);
    let is_lost = |at: u64| lost.contains(BlockNr(at));
    let is_in_the_way =
        |&at: &u64| is_lost(at) || !scan.is_damaged(BlockNr(at)) && !kept.contains(&BlockNr(at));
    // A large commit that reaches the top of the device continues at the bottom.
    let may_wrap = end - blank <= 2 * kept.len() as u64;
    let below = (1..blank).rev().find(is_in_the_way);
    let from_the_bottom = (1..blank).find(is_in_the_way).filter(|_| may_wrap);
    blank < end && (below.is_some_and(is_lost) || from_the_bottom.is_some_and(is_lost))
}

/// State of the space map that was written with a tree.
enum SpaceMapState {
    /// All of it is sound.
    Sound,
    /// A part of it is lost.
    Damaged { sound: Vec<BlockNr>, lost: Vec<BlockNr> },
    /// All of it is lost.
    Lost,
}

fn space_map_of(scan: &Scan, maps: &SpaceMaps, tree: Digest) -> SpaceMapState {
    if maps.is_counted(tree) {
        return SpaceMapState::Sound;
    }
    if let Some(map) = maps.counting(tree).next() {
        let lost = maps.lost_index(map, tree).into_iter().collect();
        return SpaceMapState::Damaged { sound: map.bitmaps.clone(), lost };
    }
    let is_damaged = |at: &BlockNr| scan.is_damaged(*at);
    let with_lost_bitmap = |map: &&SpaceMap| map.bitmaps.iter().any(is_damaged);
    match maps.all().iter().find(with_lost_bitmap) {
        Some(map) => {
            let (lost, mut sound): (Vec<_>, Vec<_>) =
                map.bitmaps.iter().partition(|at| is_damaged(at));
            sound.extend(map.index);
            SpaceMapState::Damaged { sound, lost }
        }
        None => SpaceMapState::Lost,
    }
}

/// Reduces `regions`, the state according to the tree of `base` and `nodes`, to what holds even if
/// a newer commit, of which `lost` were part, has been lost.
pub(super) fn keep_bounds<D: ReadDevice + ?Sized>(
    scanned: &ScannedDevice<'_, D>,
    base: &BaseTree,
    nodes: &[BlockNr],
    lost: &BlockSet,
    regions: &mut RegionMap,
) {
    let mut blocks = BlockSet::none_of(lost.nr_blocks());
    blocks.extend(base.slots.iter().chain(nodes).copied());
    for (index, &at) in (0..).zip(&base.slots) {
        let mut planes = regions.planes(index);
        let is_bound =
            scanned.claims.is_sole(at, index) && !is_near(scanned.scan, lost, &blocks, at);
        if !is_bound {
            planes.hydrated.fill(0);
        }
        planes.lost.fill(u64::MAX);
        regions.put(index, planes);
    }
}

/// Returns whether the array block at `at`, part of a tree of `blocks`, may have been rewritten by
/// a newer commit of which `lost` were part. The blocks that it wrote next are then lost.
fn is_near(scan: &Scan, lost: &BlockSet, blocks: &BlockSet, at: BlockNr) -> bool {
    let nr_blocks = lost.nr_blocks();
    let behind = (1..nr_blocks).map(|offset| BlockNr((at.0 + offset) % nr_blocks));
    let free = behind.filter(|&at| at != SUPERBLOCK && !blocks.contains(at));
    let above = |at| scan.top().is_some_and(|top| at > top);
    free.take(NEAR).any(|at| lost.contains(at) || above(at))
}

/// Returns the nodes of the tree at `root`, and its number of levels.
fn nodes_of<D: ReadDevice + ?Sized>(trees: &Trees<'_, D>, root: BlockNr) -> (Vec<BlockNr>, usize) {
    let mut depth = 1;
    let mut at = root;
    while let Some(node) = trees.node(at).filter(|node| !node.is_leaf && depth < MAX_DEPTH) {
        depth += 1;
        // A lost child leads nowhere.
        let sound = node.entries.iter().find(|&&(_, child)| trees.node(child).is_some());
        let Some(&(_, child)) = sound else { break };
        at = child;
    }
    (trees.nodes(root), depth)
}

/// Returns the blocks of all trees, of the space maps that match one, and the ref count trees.
pub(super) fn explained<D: ReadDevice + ?Sized>(
    scan: &Scan,
    trees: &Trees<'_, D>,
    maps: &SpaceMaps,
    roots: &[Root],
) -> BlockSet {
    let mut explained = BlockSet::none_of(scan.nr_blocks());
    let mut todo: Vec<BlockNr> = roots.iter().map(|&(root, _)| root).collect();
    while let Some(at) = todo.pop() {
        if explained.insert(at)
            && let Some(node) = trees.node(at)
        {
            todo.extend(node.entries.into_iter().map(|(_, child)| child));
        }
    }
    for (_, tree) in roots {
        for map in maps.counting(tree.digest) {
            explained.extend(map.blocks());
        }
    }
    explained.extend(scan.all(Kind::RefCounts));
    explained
}

/// Block numbers of every commit of the clone, by kind.
#[derive(Clone, Copy)]
struct Expected {
    nodes: usize,
    array_blocks: usize,
}

/// Sound blocks that belong to no known tree.
struct UnexplainedBlocks<'a, D: ?Sized> {
    scanned: &'a ScannedDevice<'a, D>,
    trees: &'a Trees<'a, D>,
    explained: &'a BlockSet,
    newest: &'a Newest,
    expected: Expected,
}

impl<D: ReadDevice + ?Sized> UnexplainedBlocks<'_, D> {
    fn all(&self, kind: Kind) -> impl Iterator<Item = BlockNr> + '_ {
        let blocks = self.scanned.scan.all(kind);
        blocks.filter(|at| !self.explained.contains(*at))
    }

    /// Returns whether a node may be part of a newer commit. A node of an older commit leads to an
    /// array block with fewer bits, or to a block that has been reused for another kind.
    fn any_node(&self) -> bool {
        let mut comparison = TreeComparison::with(self.scanned, self.trees, &self.newest.base);
        let mut nodes = self.all(Kind::Leaf).chain(self.all(Kind::Internal));
        nodes.any(|at| !comparison.node(at).is_older && !self.leads_astray(at))
    }

    fn leads_astray(&self, at: BlockNr) -> bool {
        let Some(node) = self.trees.node(at) else { return false };
        let wanted: &[Kind] =
            if node.is_leaf { &[Kind::Array] } else { &[Kind::Leaf, Kind::Internal] };
        let scan = self.scanned.scan;
        node.entries.iter().any(|&(_, to)| !scan.is_damaged(to) && !wanted.contains(&scan.kind(to)))
    }

    /// Returns whether an array block may be part of a newer commit. It then has all bits of the
    /// block that it replaces, and more.
    fn any_array_block(&self) -> bool {
        let (scanned, base) = (self.scanned, &self.newest.base);
        let mut left = ORPHAN_COMPARISONS;
        let mut orphans = self.all(Kind::Array).filter(|&at| scanned.claims.is_orphan(at));
        orphans.any(|at| {
            (0..).zip(&base.slots).any(|(index, &known)| {
                let (theirs, ours) = (scanned.scan.hydrated(at), scanned.scan.hydrated(known));
                if theirs <= ours && base.knows(index) {
                    return false;
                }
                left = left.saturating_sub(1);
                left == 0 || !base.knows(index) || self.has_all_of(index, at)
            })
        })
    }

    fn has_all_of(&self, index: u64, at: BlockNr) -> bool {
        let base = &self.newest.base;
        if self.scanned.scan.hydrated(at) < self.scanned.scan.hydrated(base.slots[index as usize]) {
            return false;
        }
        match self.scanned.bits(&base.regions, index, at) {
            Some(bits) => super::comparison::is_subset(&base.regions.planes(index).hydrated, &bits),
            None => false,
        }
    }

    /// Returns whether a space map that matches none of the trees may count a newer tree.
    fn any_space_map(&self, maps: &SpaceMaps) -> bool {
        maps.all().iter().any(|map| {
            let is_explained = map.blocks().all(|at| self.explained.contains(at));
            !is_explained && self.may_be_whole(map)
        })
    }

    /// Returns whether the blocks that `map` counts may be those of a newer commit.
    fn may_be_whole(&self, map: &SpaceMap) -> bool {
        let scan = self.scanned.scan;
        // The blocks that a lost bitmap counted are unknown.
        if map.bitmaps.iter().any(|&at| scan.is_damaged(at)) {
            return true;
        }
        let counted: HashSet<BlockNr> =
            counted_blocks(self.scanned.device, map).into_iter().collect();
        let lost = counted.iter().filter(|&&at| scan.is_damaged(at)).count();
        let has =
            |wanted: &[Kind]| counted.iter().filter(|&&at| wanted.contains(&scan.kind(at))).count();
        let nodes = has(&[Kind::Leaf, Kind::Internal]);
        let array_blocks = has(&[Kind::Array]);
        nodes <= self.expected.nodes
            && array_blocks <= self.expected.array_blocks
            && nodes + array_blocks + lost >= self.expected.nodes + self.expected.array_blocks
            && self.may_be_newer(&counted, array_blocks)
    }

    /// Returns whether the array blocks among `counted` may be those of a newer commit: they have
    /// more set bits, and each new one has all bits of some old one.
    fn may_be_newer(&self, counted: &HashSet<BlockNr>, array_blocks: usize) -> bool {
        let (scan, base) = (self.scanned.scan, &self.newest.base);
        let is_array = |at: &&BlockNr| scan.kind(**at) == Kind::Array;
        let hydrated: u64 = counted.iter().filter(is_array).map(|&at| scan.hydrated(at)).sum();
        let has_all = array_blocks == self.expected.array_blocks && self.newest.tree.missing == 0;
        if has_all && hydrated <= self.newest.tree.hydrated {
            return false;
        }
        let kept: HashSet<&BlockNr> = base.slots.iter().collect();
        let mut new = counted.iter().filter(is_array).filter(|at| !kept.contains(at));
        new.all(|&at| {
            (0..).zip(&base.slots).any(|(index, &known)| {
                !base.knows(index)
                    || scan.words(at) == self.scanned.words_of(&base.regions, index)
                        && scan.hydrated(at) > scan.hydrated(known)
                        && self.has_all_of(index, at)
            })
        })
    }
}
