//! Comparison of a whole tree with the nodes of others.

use std::collections::HashMap;

use persistent_data::array::{exact_array_values, read_array_blocks};
use persistent_data::bitset::nr_words;
use persistent_data::block::Block;
use persistent_data::device::ReadDevice;
use persistent_data::format::ArrayBlock;
use persistent_data::store::{DeviceReader, Reader};
use persistent_data::{BlockNr, Result};
use zerocopy::little_endian as le;

use super::claims::LeafClaims;
use super::scan::{Kind, Scan};
use super::tree::{MAX_DEPTH, Trees};
use crate::geometry::Geometry;
use crate::metadata::region_map::{RegionMap, census};

/// The scanned content of a device, and the sizes of the clone.
pub(super) struct ScannedDevice<'a, D: ?Sized> {
    pub(super) device: &'a D,
    pub(super) scan: &'a Scan,
    pub(super) claims: &'a LeafClaims,
    pub(super) geometry: Geometry,
}

impl<D: ReadDevice + ?Sized> ScannedDevice<'_, D> {
    /// Returns a map in which all regions are lost.
    pub(super) fn nothing_known(&self) -> RegionMap {
        RegionMap::lost_whole(self.geometry.nr_regions())
    }

    /// Returns the number of array blocks of the bitset.
    pub(super) fn nr_array_blocks(&self) -> u64 {
        self.nothing_known().nr_chunks()
    }

    /// Returns the number of words of array block `index`.
    pub(super) fn words_of(&self, map: &RegionMap, index: u64) -> usize {
        let regions = map.regions_of(index);
        nr_words(regions.end - regions.start) as usize
    }

    /// Reads the bits of the array block at `at`, as array block `index` of `map`.
    pub(super) fn bits(&self, map: &RegionMap, index: u64, at: BlockNr) -> Option<Box<[u64]>> {
        let block: Result<Block<ArrayBlock>> = DeviceReader(self.device).read(at);
        let block = block.ok()?;
        let words = exact_array_values::<le::U64>(&block, self.words_of(map, index)).ok()?;
        Some(words.iter().map(|word| word.get()).collect())
    }
}

/// Reads the sound array blocks at `slots` into a map.
pub(super) fn read_slots<D: ReadDevice + ?Sized>(
    scanned: &ScannedDevice<'_, D>,
    slots: &[BlockNr],
) -> RegionMap {
    let mut map = scanned.nothing_known();
    let present: Vec<(u64, BlockNr)> = (0..)
        .zip(slots.iter().copied())
        .filter(|&(_, at)| scanned.scan.kind(at) == Kind::Array)
        .collect();
    read_array_blocks(scanned.device, &present, |index, _, block| {
        let regions = map.regions_of(index);
        let len = regions.end - regions.start;
        let nr_words = nr_words(len) as usize;
        if let Ok(words) = block
            .map_err(drop)
            .and_then(|block| exact_array_values::<le::U64>(block, nr_words).map_err(drop))
        {
            map.fill(index, words, census(words, len));
        }
    });
    map
}

/// Result of a comparison of an array block with the base's block of the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// One of them is unreadable.
    Unknown,
    /// It has the same bits.
    Same,
    /// It has a proper subset of the bits: it is older, if it is for the same regions.
    Within,
    /// It has all bits of the base, and more: it is newer, if it is for the same regions.
    Beyond,
    /// Each has bits that the other lacks: they are for different regions.
    Apart,
}

impl Relation {
    /// Returns whether it has bits that the base lacks.
    pub(super) fn has_more(self) -> bool {
        matches!(self, Self::Beyond | Self::Apart)
    }

    /// Returns whether it lacks bits of the base.
    pub(super) fn lacks_some(self) -> bool {
        matches!(self, Self::Within | Self::Apart)
    }
}

/// A tree whose array blocks have been read.
pub(super) struct BaseTree {
    pub(super) slots: Vec<BlockNr>,
    pub(super) regions: RegionMap,
}

impl BaseTree {
    pub(super) fn of<D: ReadDevice + ?Sized>(
        scanned: &ScannedDevice<'_, D>,
        slots: Vec<BlockNr>,
    ) -> Self {
        let regions = read_slots(scanned, &slots);
        Self { slots, regions }
    }

    /// Returns whether the bits of array block `index` are known.
    pub(super) fn knows(&self, index: u64) -> bool {
        self.regions.knows(index)
    }

    /// Compares the array block at `at` with this tree's array block `index`.
    pub(super) fn relation<D: ReadDevice + ?Sized>(
        &self,
        scanned: &ScannedDevice<'_, D>,
        index: u64,
        at: BlockNr,
    ) -> Relation {
        let Some(&own) = self.slots.get(index as usize) else { return Relation::Unknown };
        let scan = scanned.scan;
        let has_words = |at| scan.words(at) == scanned.words_of(&self.regions, index);
        if !has_words(at) || !has_words(own) {
            return Relation::Unknown;
        }
        let (theirs, ours) = (scan.hydrated(at), scan.hydrated(own));
        if at == own {
            return Relation::Same;
        }
        let regions = self.regions.regions_of(index);
        let all = regions.end - regions.start;
        if theirs == ours && (ours == 0 || ours == all) {
            return Relation::Same;
        }
        if theirs == 0 || ours == all {
            return Relation::Within;
        }
        if ours == 0 || theirs == all {
            return Relation::Beyond;
        }
        let Some(bits) = scanned.bits(&self.regions, index, at) else { return Relation::Unknown };
        let own = &self.regions.planes(index).hydrated;
        match (is_subset(&bits, own), is_subset(own, &bits)) {
            (true, true) => Relation::Same,
            (true, false) => Relation::Within,
            (false, true) => Relation::Beyond,
            (false, false) => Relation::Apart,
        }
    }
}

/// Returns whether `of` has all bits of `bits`.
pub(super) fn is_subset(bits: &[u64], of: &[u64]) -> bool {
    bits.len() == of.len() && bits.iter().zip(of).all(|(bits, of)| bits & !of == 0)
}

/// Results of a comparison of a leaf, or of all leaves below a node, with a base.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SubtreeFindings {
    /// Some array block has bits that the base lacks.
    pub(super) is_beyond: bool,
    /// Some array block lacks bits of the base, and all leaves agree on the index of the base's
    /// block.
    pub(super) is_older: bool,
    /// Some array block lacks bits of the base.
    pub(super) lacks: bool,
    /// Some array block that the base has is missing.
    pub(super) misses: bool,
    /// They share an array block with hydrated regions.
    pub(super) shares: bool,
}

impl SubtreeFindings {
    fn add(&mut self, other: Self) {
        self.is_beyond |= other.is_beyond;
        self.is_older |= other.is_older;
        self.lacks |= other.lacks;
        self.misses |= other.misses;
        self.shares |= other.shares;
    }
}

/// Compares trees with a base, and caches the findings for each node.
pub(super) struct TreeComparison<'a, D: ?Sized> {
    pub(super) scanned: &'a ScannedDevice<'a, D>,
    pub(super) trees: &'a Trees<'a, D>,
    pub(super) base: &'a BaseTree,
    nodes: HashMap<BlockNr, SubtreeFindings>,
}

impl<'a, D: ReadDevice + ?Sized> TreeComparison<'a, D> {
    pub(super) fn with(
        scanned: &'a ScannedDevice<'a, D>,
        trees: &'a Trees<'a, D>,
        base: &'a BaseTree,
    ) -> Self {
        Self { scanned, trees, base, nodes: HashMap::new() }
    }

    /// Compares everything below the node at `at`.
    pub(super) fn node(&mut self, at: BlockNr) -> SubtreeFindings {
        self.node_below(at, MAX_DEPTH)
    }

    fn node_below(&mut self, at: BlockNr, levels: usize) -> SubtreeFindings {
        if let Some(&known) = self.nodes.get(&at) {
            return known;
        }
        let mut findings = SubtreeFindings::default();
        match self.trees.node(at).filter(|_| levels > 0) {
            None => findings.misses = true,
            Some(node) if node.is_leaf => {
                for (index, at) in node.entries {
                    findings.add(self.array_block(index, at));
                }
            }
            Some(node) => {
                for (_, child) in node.entries {
                    findings.add(self.node_below(child, levels - 1));
                }
            }
        }
        self.nodes.insert(at, findings);
        findings
    }

    fn array_block(&self, index: u64, at: BlockNr) -> SubtreeFindings {
        let mut findings = SubtreeFindings::default();
        let Some(&own) = self.base.slots.get(index as usize) else { return findings };
        if at == own {
            findings.shares = self.scanned.scan.hydrated(at) > 0;
            return findings;
        }
        let relation = self.base.relation(self.scanned, index, at);
        findings.misses = relation == Relation::Unknown && self.base.knows(index);
        findings.is_beyond = relation.has_more();
        findings.lacks = relation.lacks_some();
        findings.is_older = findings.lacks && self.scanned.claims.is_sole(own, index);
        findings
    }

    /// Returns whether the array block at `at`, which one of the trees has as `index`, may have
    /// been reused before the other tree was written: some leaf claims it as array block `other`,
    /// and that one differs between the trees.
    pub(super) fn may_be_reused(&self, index: u64, at: BlockNr, slots: &[BlockNr]) -> bool {
        let changed = |other: u64| {
            let other = other as usize;
            slots.get(other) != self.base.slots.get(other)
        };
        // The bits can refute the leaf's claim: they only change from zero to one.
        let may_be = |&other: &u64| self.base.relation(self.scanned, other, at) != Relation::Apart;
        self.scanned.claims.others(at, index).filter(may_be).any(changed)
    }

    /// Returns whether the tree with the array blocks `slots` has something newer than the base.
    pub(super) fn is_newer(&self, slots: &[BlockNr]) -> bool {
        (0..).zip(slots).any(|(index, &at)| {
            self.base.relation(self.scanned, index, at).has_more()
                && !self.may_be_reused(index, at, slots)
        })
    }

    /// Returns whether the base has something newer than the tree with the array blocks `slots`.
    pub(super) fn is_older(&self, slots: &[BlockNr]) -> bool {
        (0..).zip(slots).any(|(index, &at)| {
            self.base.relation(self.scanned, index, at).lacks_some()
                && !self.may_be_reused(index, self.base.slots[index as usize], slots)
        })
    }
}
