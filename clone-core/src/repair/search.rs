//! Finds the newest bitset on a device whose superblock is lost.

use std::collections::{BTreeMap, HashSet};

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;

use super::comparison::{BaseTree, Relation, ScannedDevice, TreeComparison};
use super::scan::{Kind, Scan};
use super::space_map_check::SpaceMaps;
use super::tree::{Subtree, Trees};
use super::{Candidate, Fit, Verdict};
use crate::geometry::MAX_REGIONS;
use crate::metadata::region_map::{Planes, RegionMap};

/// Maximum number of trees that are tried as the newest one. Each wrong one leads to a newer one,
/// so the limit is reached only if blocks contradict each other.
const TRIES: usize = 32;

/// The root of a tree of the right size, and its subtree.
pub(super) type Root = (BlockNr, Subtree);

/// A tree that is not older than any other, as far as this can be decided.
pub(super) struct Newest {
    pub(super) root: BlockNr,
    pub(super) tree: Subtree,
    pub(super) base: BaseTree,
    /// State of the regions; if another tree may be newer, only what both agree on.
    pub(super) regions: RegionMap,
    pub(super) candidates: Vec<Candidate>,
}

/// Returns every root of a tree of the right size.
pub(super) fn roots<D: ReadDevice + ?Sized>(
    scanned: &ScannedDevice<'_, D>,
    trees: &mut Trees<'_, D>,
) -> Vec<Root> {
    let nr_array_blocks = scanned.nr_array_blocks();
    let last_words = scanned.words_of(&scanned.nothing_known(), nr_array_blocks - 1);
    let scan = scanned.scan;
    let nodes = scan.all(Kind::Leaf).chain(scan.all(Kind::Internal));
    let whole = |at| Some((at, trees.subtree(at)?.as_tree_of(nr_array_blocks, last_words)?));
    nodes.filter_map(whole).collect()
}

/// Returns the newest of `roots`, or `None` if there are none, or they contradict each other.
pub(super) fn newest<D: ReadDevice + ?Sized>(
    scanned: &ScannedDevice<'_, D>,
    trees: &Trees<'_, D>,
    maps: &SpaceMaps,
    roots: &[Root],
) -> Option<Newest> {
    let rank = |&(root, tree): &Root| {
        (tree.hydrated, u64::MAX - tree.missing, maps.is_counted(tree.digest), root)
    };
    let nr_array_blocks = scanned.nr_array_blocks();
    let mut tried = HashSet::new();
    let mut next = roots.iter().copied().max_by_key(rank);
    while let Some((root, tree)) = next {
        tried.insert(root);
        let base = BaseTree::of(scanned, trees.slots(root, nr_array_blocks));
        let mut comparison = TreeComparison::with(scanned, trees, &base);
        let mut newer: Vec<Root> = Vec::new();
        for &other in roots.iter().filter(|other| other.0 != root) {
            if comparison.node(other.0).is_beyond
                && comparison.is_newer(&trees.slots(other.0, nr_array_blocks))
            {
                newer.push(other);
            }
        }
        if newer.is_empty() {
            let (regions, ties) = settle_ties(&mut comparison, roots, root);
            let candidates = list(maps, roots, root, &ties);
            return Some(Newest { root, tree, regions, candidates, base });
        }
        newer.retain(|other| !tried.contains(&other.0));
        next = newer.into_iter().max_by_key(rank).filter(|_| tried.len() < TRIES);
    }
    None
}

/// Returns the state on which `root`, the base of `comparison`, and all roots that may be newer
/// agree, and these other roots.
fn settle_ties<D: ReadDevice + ?Sized>(
    comparison: &mut TreeComparison<'_, D>,
    roots: &[Root],
    root: BlockNr,
) -> (RegionMap, HashSet<BlockNr>) {
    let base = comparison.base;
    let mut regions = base.regions.clone();
    let mut ties = HashSet::new();
    for &(other, _) in roots.iter().filter(|other| other.0 != root) {
        let findings = comparison.node(other);
        if findings.is_older || !(findings.lacks || findings.misses || findings.is_beyond) {
            continue;
        }
        let slots = comparison.trees.slots(other, base.slots.len() as u64);
        if comparison.is_older(&slots) {
            continue;
        }
        ties.insert(other);
        for (index, &at) in (0..).zip(&slots) {
            if at != base.slots[index as usize] {
                agree(comparison, &mut regions, index, at);
            }
        }
    }
    (regions, ties)
}

/// Reduces the state of array block `index` to what holds even if its newest copy is at `at`.
fn agree<D: ReadDevice + ?Sized>(
    comparison: &TreeComparison<'_, D>,
    regions: &mut RegionMap,
    index: u64,
    at: BlockNr,
) {
    let (scanned, base) = (comparison.scanned, comparison.base);
    let mut planes = regions.planes(index);
    match base.relation(scanned, index, at) {
        Relation::Same => {}
        Relation::Unknown => {
            let own = base.slots[index as usize];
            if !scanned.claims.is_sole(own, index) {
                planes.hydrated.fill(0);
            }
            planes.lost.fill(u64::MAX);
        }
        Relation::Within | Relation::Beyond | Relation::Apart => {
            let Some(bits) = scanned.bits(&base.regions, index, at) else { return };
            let Planes { hydrated, lost } = &mut planes;
            for (word, &other) in bits.iter().enumerate() {
                lost[word] |= hydrated[word] ^ other;
                hydrated[word] &= other;
            }
        }
    }
    regions.put(index, planes);
}

/// Lists all trees as candidates, none of which can be used.
pub(super) fn contradicting(maps: &SpaceMaps, roots: &[Root]) -> Vec<Candidate> {
    let mut candidates = list(maps, roots, BlockNr(u64::MAX), &HashSet::new());
    for candidate in &mut candidates {
        candidate.verdict = Some(Verdict::Contradiction);
    }
    candidates
}

fn list(
    maps: &SpaceMaps,
    roots: &[Root],
    taken: BlockNr,
    ties: &HashSet<BlockNr>,
) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = roots
        .iter()
        .map(|&(root, tree)| Candidate {
            root,
            array_blocks: tree.end - tree.missing,
            missing: tree.missing,
            hydrated: tree.hydrated,
            is_counted: maps.is_counted(tree.digest),
            verdict: match root {
                _ if root == taken => None,
                _ if ties.contains(&root) => Some(Verdict::Tie),
                _ => Some(Verdict::Older),
            },
        })
        .collect();
    candidates.sort_by_key(|candidate| {
        let rank = match candidate.verdict {
            None => 0,
            Some(Verdict::Tie) => 1,
            Some(_) => 2,
        };
        (rank, u64::MAX - candidate.hydrated, candidate.missing, candidate.root)
    });
    candidates
}

/// Returns the numbers of regions that fit some tree, the largest first.
pub(super) fn fits<D: ReadDevice + ?Sized>(scan: &Scan, trees: &mut Trees<'_, D>) -> Vec<Fit> {
    // A part of a larger tree looks like a small tree.
    let inner: HashSet<BlockNr> = (scan.all(Kind::Internal))
        .filter_map(|at| trees.subtree(at).and(trees.node(at)))
        .flat_map(|node| node.entries.into_iter().map(|(_, child)| child))
        .collect();
    let mut best: BTreeMap<u64, (Root, Fit)> = BTreeMap::new();
    for root in scan.all(Kind::Leaf).chain(scan.all(Kind::Internal)) {
        let Some(tree) = trees.subtree(root).filter(|_| !inner.contains(&root)) else { continue };
        let Some(nr_regions) = tree.regions() else { continue };
        if nr_regions.start > MAX_REGIONS {
            continue;
        }
        let rank = |tree: &Subtree| (u64::MAX - tree.missing, tree.hydrated);
        let fit = Fit { root, nr_regions };
        best.entry(fit.nr_regions.start)
            .and_modify(|best| {
                if rank(&tree) > rank(&best.0.1) {
                    *best = ((root, tree), fit.clone());
                }
            })
            .or_insert_with(|| ((root, tree), fit.clone()));
    }
    best.into_values().rev().map(|(_, fit)| fit).collect()
}
