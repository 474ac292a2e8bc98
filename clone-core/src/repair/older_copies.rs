//! What older commits tell of regions whose array block, or the way to it, is lost.
//!
//! Bits only ever go from zero to one, so an old copy of an array block is a lower bound. That it
//! is an old copy of this array block, and has not been used for another since, has to be shown:
//! the block does not say. docs/repair.md has the argument.

use std::collections::HashSet;

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;

use super::block_set::BlockSet;
use super::comparison::{Base, Comparison, Evidence, Relation, is_subset};
use super::newest_commit::explained;
use super::scan::Kind;
use super::search::{Newest, Root, newest};
use super::space_map_check::SpaceMaps;
use super::tree::{NOWHERE, Trees};
use super::{Copy, Find};
use crate::metadata::region_map::{Planes, RegionMap};

/// The tree of the last commit, as far as it is known.
pub(super) struct Live<'a> {
    pub(super) root: BlockNr,
    pub(super) base: &'a Base,
    /// Nodes, damaged ones too.
    pub(super) nodes: Vec<BlockNr>,
    pub(super) space_map: LiveSpaceMap,
}

/// The space map of the last commit, as far as it is known.
#[derive(Default)]
pub(super) struct LiveSpaceMap {
    pub(super) index: Option<BlockNr>,
    /// Index, bitmaps, and nodes of the tree of large counts, damaged ones too.
    pub(super) blocks: Vec<BlockNr>,
    /// What it counts, if all of it could be read.
    pub(super) counted: Option<BlockSet>,
}

impl LiveSpaceMap {
    fn counts(&self, at: BlockNr) -> Option<bool> {
        self.counted.as_ref().map(|counted| counted.contains(at))
    }
}

/// Everything that is known.
pub(super) struct Search<'a, D: ?Sized> {
    pub(super) evidence: &'a Evidence<'a, D>,
    pub(super) trees: &'a Trees<'a, D>,
    pub(super) maps: &'a SpaceMaps,
    pub(super) roots: &'a [Root],
    pub(super) live: Live<'a>,
}

impl<D: ReadDevice + ?Sized> Search<'_, D> {
    /// Puts into `regions` what older commits tell of the lost ones.
    pub(super) fn fill(&self, regions: &mut RegionMap) -> Vec<Find> {
        let mut finds = self.last_but_one(regions);
        finds.extend(self.any_older(regions));
        finds.sort_by_key(|find| find.regions.start);
        finds
    }

    /// The array blocks of which nothing is known.
    fn lost(&self, regions: &RegionMap) -> Vec<u64> {
        let is_lost = |&index: &u64| {
            let range = regions.regions_of(index);
            !regions.knows(index) && regions.tally(range.clone()).lost == range.end - range.start
        };
        (0..regions.nr_chunks()).filter(is_lost).collect()
    }

    /// The commit before the last one is whole, for nothing has been written over it yet, unless
    /// it is damaged too, or shares what is.
    fn last_but_one(&self, regions: &mut RegionMap) -> Vec<Find> {
        let lost = self.lost(regions);
        if lost.is_empty() || !self.is_all_damage_known() {
            return Vec::new();
        }
        let others: Vec<Root> =
            self.roots.iter().copied().filter(|&(root, _)| root != self.live.root).collect();
        let Some(before) = newest(self.evidence, self.trees, self.maps, &others) else {
            return Vec::new();
        };
        if !self.is_same_life(&before) {
            return Vec::new();
        }
        let unmoved = self.unmoved(&before, &lost);
        let uncommitted = self.may_be_uncommitted();
        let mut finds = Vec::new();
        for index in lost {
            let (copy, at) = match unmoved.iter().find(|&&(unmoved, _)| unmoved == index) {
                Some(&(_, at)) => (Copy::Last, at),
                None => (Copy::Older, before.base.slots[index as usize]),
            };
            let planes = match copy {
                Copy::Last => self.all_of(regions, index, at),
                Copy::Older => {
                    let is_old = before.base.knows(index)
                        && !self.is_live(at)
                        && !self.may_be_of_uncommitted(&uncommitted, index, at);
                    is_old.then(|| bound(before.regions.planes(index).hydrated))
                }
            };
            if let Some(planes) = planes {
                regions.put(index, planes);
                finds.push(Find { regions: regions.regions_of(index), at, copy });
            }
        }
        finds
    }

    /// Whether every damaged block is one that the last commit has.
    fn is_all_damage_known(&self) -> bool {
        let mut damaged = self.evidence.scan.damaged().clone();
        self.live_blocks().for_each(|at| damaged.remove(at));
        damaged.is_empty()
    }

    /// Whether `before` is an older commit of the same clone, and not left over from one that was
    /// on the device before.
    fn is_same_life(&self, before: &Newest) -> bool {
        let mut comparison = Comparison::with(self.evidence, self.trees, self.live.base);
        let findings = comparison.node(before.root);
        let is_newer = findings.is_beyond && comparison.is_newer(&before.base.slots);
        !is_newer && (findings.shares || self.follows(before))
    }

    /// Whether the last commit begins right behind the end of `before`: a kernel takes the blocks
    /// that are free one after the other.
    ///
    /// Where it began again at the bottom of the device nothing is shown: that is where fresh
    /// metadata is written, too.
    fn follows(&self, before: &Newest) -> bool {
        let Some(map) =
            (self.maps.vouching_for(before.tree.digest)).find(|map| map.index.is_some())
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

    /// Whether the last commit is known to have the block at `at`.
    fn is_live(&self, at: BlockNr) -> bool {
        self.live.space_map.counts(at) == Some(true) || self.live_blocks().any(|live| live == at)
    }

    /// The blocks of the last commit, as far as they are known, damaged ones too.
    fn live_blocks(&self) -> impl Iterator<Item = BlockNr> + '_ {
        let live = &self.live;
        let known = live.nodes.iter().chain(&live.base.slots).chain(&live.space_map.blocks);
        known.copied()
    }

    /// Where the last commit has the array blocks of `lost`, as far as that is certain: what it
    /// counts and `before` had in the same place was not moved, and what is left over then has to
    /// be what was.
    fn unmoved(&self, before: &Newest, lost: &[u64]) -> Vec<(u64, BlockNr)> {
        let space_map = &self.live.space_map;
        let Some(counted) = &space_map.counted else { return Vec::new() };
        let has_ties = before
            .candidates
            .iter()
            .any(|candidate| candidate.verdict == Some(super::Verdict::Tie));
        if has_ties || self.has_uncommitted() || !self.maps.vouch_for(before.tree.digest) {
            return Vec::new();
        }
        let slot = |index: u64| before.base.slots[index as usize];
        let is_array = |at: BlockNr| self.evidence.scan.kind(at) == Kind::Array;
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
        // Each step takes one for which there is only one choice.
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

    /// Whether the array block at `at` may be what became of array block `index` of `before`.
    fn may_be(&self, before: &Newest, index: u64, at: BlockNr) -> bool {
        let map = &before.base.regions;
        let own = before.base.slots[index as usize];
        let Some(new) = self.evidence.bits(map, index, at) else { return false };
        // What cannot be read excludes nothing.
        self.evidence.bits(map, index, own).is_none_or(|old| is_subset(&old, &new))
    }

    /// Whether there is a sign of a commit that was begun and never finished: then something of
    /// the one before the last may have been written over.
    fn has_uncommitted(&self) -> bool {
        let scan = self.evidence.scan;
        let mut known = explained(scan, self.trees, self.maps, self.roots);
        known.extend(self.live_blocks());
        known.extend(self.live.space_map.counted.iter().flat_map(BlockSet::iter));
        let strange = |kind| scan.all(kind).any(|at| !known.contains(at));
        let is_counted = |at| self.live.space_map.counts(at) == Some(true);
        let is_orphan = |at| self.evidence.claims.is_orphan(at) && !is_counted(at);
        [Kind::Leaf, Kind::Internal, Kind::Index, Kind::Bitmap].into_iter().any(strange)
            || scan.all(Kind::Array).any(is_orphan)
    }

    /// All that the array block at `at` says.
    fn all_of(&self, regions: &RegionMap, index: u64, at: BlockNr) -> Option<Planes> {
        let hydrated = self.evidence.bits(regions, index, at)?;
        let lost = vec![0; hydrated.len()].into();
        Some(Planes { hydrated, lost })
    }

    /// Commits from long ago tell something of a lost array block if what they have in its place
    /// cannot be anything else.
    fn any_older(&self, regions: &mut RegionMap) -> Vec<Find> {
        let lost = self.lost(regions);
        let mut finds = Vec::new();
        if lost.is_empty() {
            return finds;
        }
        let live = self.live.base;
        let uncommitted = self.may_be_uncommitted();
        let mut comparison = Comparison::with(self.evidence, self.trees, live);
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
                if self.evidence.claims.is_sole(at, index)
                    && !self.is_live(at)
                    && !self.may_be_of_uncommitted(&uncommitted, index, at)
                    && self.can_be_nothing_else(&slots, index, at)
                    && let Some(bits) = self.evidence.bits(regions, index, at)
                {
                    let mut planes = regions.planes(index);
                    for (word, bits) in planes.hydrated.iter_mut().zip(bits) {
                        *word |= bits;
                    }
                    regions.put(index, planes);
                    let find = Find { regions: regions.regions_of(index), at, copy: Copy::Older };
                    if !finds.contains(&find) {
                        finds.push(find);
                    }
                }
            }
        }
        finds
    }

    /// Whether most array blocks of the last commit in which something is hydrated are those of the
    /// commit that has its at `slots`. A few may be so by chance, if that is of a clone that was on
    /// the device before.
    fn shares_most(&self, slots: &[BlockNr]) -> bool {
        let own = self.live.base.slots.iter().zip(slots);
        let used = own.filter(|&(&own, _)| self.evidence.scan.hydrated(own) > 0);
        let (same, others): (Vec<_>, Vec<_>) = used.partition(|(own, then)| own == then);
        same.len() > others.len()
    }

    /// Whether the array block at `at`, array block `index` of a commit that has the others at
    /// `slots`, cannot have been used for another since: it would be an older copy of that.
    fn can_be_nothing_else(&self, slots: &[BlockNr], index: u64, at: BlockNr) -> bool {
        let live = self.live.base;
        let has_size_of =
            |other| self.evidence.scan.words(at) == self.evidence.words_of(&live.regions, other);
        (0..).zip(slots.iter().zip(&live.slots)).all(|(other, (then, now))| {
            other == index
                || *now != NOWHERE && then == now
                || !has_size_of(other)
                || live.relation(self.evidence, other, at).has_more()
        })
    }

    /// Whether the array block at `at`, which another commit has as `index`, may hold a copy of
    /// another one because of a commit that was under way when all ended: it may have written a
    /// newer copy there, or have been about to write there when an older one still was.
    fn may_be_of_uncommitted(&self, uncommitted: &BlockSet, index: u64, at: BlockNr) -> bool {
        let live = self.live.base;
        let may_be = |other| {
            self.evidence.scan.words(at) == self.evidence.words_of(&live.regions, other)
                && live.relation(self.evidence, other, at) != Relation::Apart
        };
        uncommitted.contains(at)
            && (0..live.slots.len() as u64).any(|other| other != index && may_be(other))
    }

    /// The blocks that a commit under way when all ended may have taken: the next ones that are
    /// free behind the last commit, or, if it was the first since the clone was started, the
    /// lowest. It takes no more than one for each block of the last commit that ever moves.
    fn may_be_uncommitted(&self) -> BlockSet {
        let nr_blocks = self.evidence.scan.nr_blocks();
        let Some(index) = self.live.space_map.index else { return BlockSet::all_of(nr_blocks) };
        let mut used = self.live.space_map.counted.clone();
        let used = used.get_or_insert_with(|| BlockSet::none_of(nr_blocks));
        used.extend(self.live_blocks());
        let mut reach = BlockSet::none_of(nr_blocks);
        // Nodes have at least 84 entries, if not all of them are known.
        let array_blocks = self.live.base.slots.len();
        let nodes = self.live.nodes.len().max(array_blocks / 84 + 1);
        // The index was one of the last blocks that the last commit took, with the bitmaps.
        let space_map = 2 * self.live.space_map.blocks.len().max(LEAST_SPACE_MAP);
        for from in [1, index.0.saturating_add(1)] {
            let round = (from..nr_blocks).chain(1..from.min(nr_blocks)).map(BlockNr);
            let free = round.filter(|&at| !used.contains(at));
            reach.extend(free.take(array_blocks + nodes + space_map));
        }
        reach
    }
}

/// Blocks of the smallest space map that a commit moves: a bitmap and the index.
const LEAST_SPACE_MAP: usize = 2;

/// A lower bound: what is not hydrated is lost.
fn bound(hydrated: Box<[u64]>) -> Planes {
    let lost = vec![u64::MAX; hydrated.len()].into();
    Planes { hydrated, lost }
}
