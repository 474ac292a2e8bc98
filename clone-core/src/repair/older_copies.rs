//! Recovers regions whose array block, or the path to it, is lost from older commits.
//!
//! Bits only change from zero to one, so an old copy of an array block is a lower bound. It must be
//! shown that a block is an old copy of this array block, and has not been reused for another: the
//! block does not identify its array block. `docs/repair.md` has the proof.

use std::collections::HashSet;

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;

use super::block_set::BlockSet;
use super::comparison::{BaseTree, Relation, ScannedDevice, TreeComparison, is_subset};
use super::newest_commit::explained;
use super::scan::Kind;
use super::search::{Newest, Root, newest};
use super::space_map_check::SpaceMaps;
use super::tree::{NOWHERE, Trees};
use super::{CopyAge, Find};
use crate::metadata::region_map::{Planes, RegionMap};

/// The tree of the last commit, as far as it is known.
pub(super) struct Live<'a> {
    pub(super) root: BlockNr,
    pub(super) base: &'a BaseTree,
    /// The nodes, including damaged ones.
    pub(super) nodes: Vec<BlockNr>,
    pub(super) space_map: LiveSpaceMap,
}

/// The space map of the last commit, as far as it is known.
#[derive(Default)]
pub(super) struct LiveSpaceMap {
    pub(super) index: Option<BlockNr>,
    /// The index, the bitmaps and the nodes of the tree of large counts, including damaged ones.
    pub(super) blocks: Vec<BlockNr>,
    /// The blocks that it counts, if all of it is readable.
    pub(super) counted: Option<BlockSet>,
}

impl LiveSpaceMap {
    fn counts(&self, at: BlockNr) -> Option<bool> {
        self.counted.as_ref().map(|counted| counted.contains(at))
    }
}

/// All inputs of the search.
pub(super) struct Search<'a, D: ?Sized> {
    pub(super) scanned: &'a ScannedDevice<'a, D>,
    pub(super) trees: &'a Trees<'a, D>,
    pub(super) maps: &'a SpaceMaps,
    pub(super) roots: &'a [Root],
    pub(super) live: Live<'a>,
}

impl<D: ReadDevice + ?Sized> Search<'_, D> {
    /// Adds to `regions` the state of lost regions in older commits.
    pub(super) fn fill(&self, regions: &mut RegionMap) -> Vec<Find> {
        let mut finds = self.last_but_one(regions);
        finds.extend(self.any_older(regions));
        finds.sort_by_key(|find| find.regions.start);
        finds
    }

    /// Returns the array blocks whose regions are all lost.
    fn lost(&self, regions: &RegionMap) -> Vec<u64> {
        let is_lost = |&index: &u64| {
            let range = regions.regions_of(index);
            !regions.knows(index) && regions.tally(range.clone()).lost == range.end - range.start
        };
        (0..regions.nr_chunks()).filter(is_lost).collect()
    }

    /// Recovers regions from the commit before the last one. It is complete, because its blocks
    /// have not been overwritten yet, unless it is damaged too or shares the damaged blocks.
    fn last_but_one(&self, regions: &mut RegionMap) -> Vec<Find> {
        let lost = self.lost(regions);
        if lost.is_empty() || !self.is_all_damage_known() {
            return Vec::new();
        }
        let others: Vec<Root> =
            self.roots.iter().copied().filter(|&(root, _)| root != self.live.root).collect();
        let Some(before) = newest(self.scanned, self.trees, self.maps, &others) else {
            return Vec::new();
        };
        if !self.is_same_life(&before) {
            return Vec::new();
        }
        let unmoved = self.unmoved(&before, &lost);
        let uncommitted = self.may_be_uncommitted();
        let mut finds = Vec::new();
        for index in lost {
            let (age, at) = match unmoved.iter().find(|&&(unmoved, _)| unmoved == index) {
                Some(&(_, at)) => (CopyAge::Last, at),
                None => (CopyAge::Older, before.base.slots[index as usize]),
            };
            let planes = match age {
                CopyAge::Last => self.all_of(regions, index, at),
                CopyAge::Older => {
                    let is_old = before.base.knows(index)
                        && !self.is_live(at)
                        && !self.may_be_of_uncommitted(&uncommitted, index, at);
                    is_old.then(|| bound(before.regions.planes(index).hydrated))
                }
            };
            if let Some(planes) = planes {
                regions.put(index, planes);
                finds.push(Find { regions: regions.regions_of(index), at, age });
            }
        }
        finds
    }

    /// Returns whether every damaged block belongs to the last commit.
    fn is_all_damage_known(&self) -> bool {
        let mut damaged = self.scanned.scan.damaged().clone();
        self.live_blocks().for_each(|at| damaged.remove(at));
        damaged.is_empty()
    }

    /// Returns whether `before` is an older commit of the same clone, not the remains of a clone
    /// that was on the device earlier.
    fn is_same_life(&self, before: &Newest) -> bool {
        let mut comparison = TreeComparison::with(self.scanned, self.trees, self.live.base);
        let findings = comparison.node(before.root);
        let is_newer = findings.is_beyond && comparison.is_newer(&before.base.slots);
        !is_newer && (findings.shares || self.follows(before))
    }

    /// Returns whether the last commit begins directly after the end of `before`: a kernel
    /// allocates free blocks in ascending order.
    ///
    /// If the allocation started again at the bottom of the device, this proves nothing, since new
    /// metadata is also written there.
    fn follows(&self, before: &Newest) -> bool {
        let Some(map) = (self.maps.counting(before.tree.digest)).find(|map| map.index.is_some())
        else {
            return false;
        };
        let own = self.trees.nodes(before.root).into_iter().chain(before.base.slots.clone());
        let kept: HashSet<BlockNr> = own.chain(map.blocks()).collect();
        let counted = self.live.space_map.counted.iter().flat_map(BlockSet::iter);
        let live = self.live_blocks().chain(counted);
        let new = live.filter(|at| *at != NOWHERE && !kept.contains(at));
        let first = new.filter(|&at| Some(at) > map.index).min();
        let (Some(index), Some(first)) = (map.index, first) else { return false };
        (index.0 + 1..first.0).all(|at| kept.contains(&BlockNr(at)))
    }

    /// Returns whether the last commit is known to have the block at `at`.
    fn is_live(&self, at: BlockNr) -> bool {
        self.live.space_map.counts(at) == Some(true) || self.live_blocks().any(|live| live == at)
    }

    /// Returns the known blocks of the last commit, including damaged ones.
    fn live_blocks(&self) -> impl Iterator<Item = BlockNr> + '_ {
        let live = &self.live;
        let known = live.nodes.iter().chain(&live.base.slots).chain(&live.space_map.blocks);
        known.copied()
    }

    /// Returns the block numbers of the array blocks `lost` in the last commit, as far as they are
    /// certain. A block that the last commit counts and that `before` had was not moved, and the
    /// counted blocks that are left over must be the moved ones.
    fn unmoved(&self, before: &Newest, lost: &[u64]) -> Vec<(u64, BlockNr)> {
        let space_map = &self.live.space_map;
        let Some(counted) = &space_map.counted else { return Vec::new() };
        let has_ties = before
            .candidates
            .iter()
            .any(|candidate| candidate.verdict == Some(super::Verdict::Tie));
        if has_ties || self.has_uncommitted() || !self.maps.is_counted(before.tree.digest) {
            return Vec::new();
        }
        let slot = |index: u64| before.base.slots[index as usize];
        let is_array = |at: BlockNr| self.scanned.scan.kind(at) == Kind::Array;
        let (stay, mut moved): (Vec<u64>, Vec<u64>) =
            lost.iter().partition(|&&index| space_map.counts(slot(index)) == Some(true));
        let mut found: Vec<(u64, BlockNr)> = stay.into_iter().map(|i| (i, slot(i))).collect();
        found.retain(|&(_, at)| is_array(at) && !self.live.base.slots.contains(&at));
        let is_taken = |at: &BlockNr| {
            self.live.base.slots.contains(at) || found.iter().any(|&(_, taken)| taken == *at)
        };
        let mut new: Vec<BlockNr> =
            counted.iter().filter(|&at| is_array(at) && !is_taken(&at)).collect();
        if new.len() != moved.len() {
            return found;
        }
        // Each step assigns a block for which there is only one choice.
        while let Some((index, at)) = moved.iter().find_map(|&index| {
            let mut choices = new.iter().copied().filter(|&at| self.may_be(before, index, at));
            let first = choices.next()?;
            choices.next().is_none().then_some((index, first))
        }) {
            found.push((index, at));
            moved.retain(|&other| other != index);
            new.retain(|&other| other != at);
        }
        found
    }

    /// Returns whether the array block at `at` may be the successor of array block `index` of
    /// `before`.
    fn may_be(&self, before: &Newest, index: u64, at: BlockNr) -> bool {
        let map = &before.base.regions;
        let own = before.base.slots[index as usize];
        let Some(new) = self.scanned.bits(map, index, at) else { return false };
        // An unreadable block excludes nothing.
        self.scanned.bits(map, index, own).is_none_or(|old| is_subset(&old, &new))
    }

    /// Returns whether there is a sign of a commit that was started and not finished: it may have
    /// overwritten blocks of the commit before the last one.
    fn has_uncommitted(&self) -> bool {
        let scan = self.scanned.scan;
        let mut known = explained(scan, self.trees, self.maps, self.roots);
        known.extend(self.live_blocks());
        known.extend(self.live.space_map.counted.iter().flat_map(BlockSet::iter));
        let strange = |kind| scan.all(kind).any(|at| !known.contains(at));
        let is_counted = |at| self.live.space_map.counts(at) == Some(true);
        let is_orphan = |at| self.scanned.claims.is_orphan(at) && !is_counted(at);
        [Kind::Leaf, Kind::Internal, Kind::Index, Kind::Bitmap].into_iter().any(strange)
            || scan.all(Kind::Array).any(is_orphan)
    }

    /// Returns the complete state of the regions of the array block at `at`.
    fn all_of(&self, regions: &RegionMap, index: u64, at: BlockNr) -> Option<Planes> {
        let hydrated = self.scanned.bits(regions, index, at)?;
        let lost = vec![0; hydrated.len()].into();
        Some(Planes { hydrated, lost })
    }

    /// Recovers regions from commits of any age, if their copy of a lost array block cannot be a
    /// copy of another one.
    fn any_older(&self, regions: &mut RegionMap) -> Vec<Find> {
        let lost = self.lost(regions);
        let mut finds = Vec::new();
        if lost.is_empty() {
            return finds;
        }
        let live = self.live.base;
        let uncommitted = self.may_be_uncommitted();
        let mut comparison = TreeComparison::with(self.scanned, self.trees, live);
        for &(root, _) in self.roots.iter().filter(|&&(root, _)| root != self.live.root) {
            let findings = comparison.node(root);
            if !findings.shares {
                continue;
            }
            let slots = self.trees.slots(root, live.slots.len() as u64);
            if !self.shares_most(&slots) {
                continue;
            }
            if findings.is_beyond && comparison.is_newer(&slots) {
                continue;
            }
            for &index in &lost {
                let at = slots[index as usize];
                if self.scanned.claims.is_sole(at, index)
                    && !self.is_live(at)
                    && !self.may_be_of_uncommitted(&uncommitted, index, at)
                    && self.can_be_nothing_else(&slots, index, at)
                    && let Some(bits) = self.scanned.bits(regions, index, at)
                {
                    let mut planes = regions.planes(index);
                    for (word, bits) in planes.hydrated.iter_mut().zip(bits) {
                        *word |= bits;
                    }
                    regions.put(index, planes);
                    let find = Find { regions: regions.regions_of(index), at, age: CopyAge::Older };
                    if !finds.contains(&find) {
                        finds.push(find);
                    }
                }
            }
        }
        finds
    }

    /// Returns whether the commit with the array blocks `slots` shares most of the last commit's
    /// array blocks with hydrated regions. A commit of an earlier clone on the device may share a
    /// few of them by chance.
    fn shares_most(&self, slots: &[BlockNr]) -> bool {
        let own = self.live.base.slots.iter().zip(slots);
        let used = own.filter(|&(&own, _)| self.scanned.scan.hydrated(own) > 0);
        let (same, others): (Vec<_>, Vec<_>) = used.partition(|(own, then)| own == then);
        same.len() > others.len()
    }

    /// Returns whether the array block at `at`, array block `index` of a commit with the array
    /// blocks `slots`, cannot have been reused: it would then be an older copy of another block.
    fn can_be_nothing_else(&self, slots: &[BlockNr], index: u64, at: BlockNr) -> bool {
        let live = self.live.base;
        let has_size_of =
            |other| self.scanned.scan.words(at) == self.scanned.words_of(&live.regions, other);
        (0..).zip(slots.iter().zip(&live.slots)).all(|(other, (then, now))| {
            other == index
                || *now != NOWHERE && then == now
                || !has_size_of(other)
                || live.relation(self.scanned, other, at).has_more()
        })
    }

    /// Returns whether the array block at `at`, which another commit has as `index`, may be a copy
    /// of another array block because of a commit that was interrupted at the end. That commit may
    /// have written a newer copy there, or an older copy may not have been overwritten yet.
    fn may_be_of_uncommitted(&self, uncommitted: &BlockSet, index: u64, at: BlockNr) -> bool {
        let live = self.live.base;
        let may_be = |other| {
            self.scanned.scan.words(at) == self.scanned.words_of(&live.regions, other)
                && live.relation(self.scanned, other, at) != Relation::Apart
        };
        uncommitted.contains(at)
            && (0..live.slots.len() as u64).any(|other| other != index && may_be(other))
    }

    /// Returns the blocks that an interrupted commit may have allocated: the next free ones after
    /// the last commit or, if it was the first since the clone was started, the lowest ones. It
    /// allocates at most one block for each block of the last commit that can move.
    fn may_be_uncommitted(&self) -> BlockSet {
        let nr_blocks = self.scanned.scan.nr_blocks();
        let Some(index) = self.live.space_map.index else { return BlockSet::all_of(nr_blocks) };
        let mut used = self.live.space_map.counted.clone();
        let used = used.get_or_insert_with(|| BlockSet::none_of(nr_blocks));
        used.extend(self.live_blocks());
        let mut reach = BlockSet::none_of(nr_blocks);
        // Nodes have at least 84 entries; this covers unknown nodes.
        let array_blocks = self.live.base.slots.len();
        let nodes = self.live.nodes.len().max(array_blocks / 84 + 1);
        // The index is among the last blocks that a commit allocates, as are the bitmaps.
        let space_map = 2 * self.live.space_map.blocks.len().max(LEAST_SPACE_MAP);
        for from in [1, index.0.saturating_add(1)] {
            let round = (from..nr_blocks).chain(1..from.min(nr_blocks)).map(BlockNr);
            let free = round.filter(|&at| !used.contains(at));
            reach.extend(free.take(array_blocks + nodes + space_map));
        }
        reach
    }
}

/// Number of blocks of the smallest space map that a commit moves: a bitmap and the index.
const LEAST_SPACE_MAP: usize = 2;

/// Makes a lower bound: regions that are not hydrated are lost.
fn bound(hydrated: Box<[u64]>) -> Planes {
    let lost = vec![u64::MAX; hydrated.len()].into();
    Planes { hydrated, lost }
}
