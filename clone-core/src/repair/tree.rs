//! The trees that the nodes on a device form, including those of old commits.

use std::collections::{HashMap, HashSet};

use persistent_data::BlockNr;
use persistent_data::array::entries_per_block;
use persistent_data::block::Block;
use persistent_data::btree::{Parsed, parse};
use persistent_data::device::ReadDevice;
use persistent_data::format::Node;
use persistent_data::store::{DeviceReader, Reader};
use zerocopy::little_endian as le;

use super::scan::{Kind, Scan};

/// Maximum number of levels; a deeper tree has a cycle.
pub(super) const MAX_DEPTH: usize = 16;

/// Number of words of a full array block.
const FULL: usize = entries_per_block::<le::U64>();

/// Stands for the unknown block number of an array block whose leaf is lost.
pub(super) const NOWHERE: BlockNr = BlockNr(u64::MAX);

/// The blocks below a node. Each is sound or damaged: none has been reused for another purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subtree {
    /// Index of the first array block; the range is half-open. If `is_open`, more may follow.
    pub(super) first: u64,
    pub(super) end: u64,
    is_open: bool,
    /// Number of array blocks that are damaged or lost with a damaged leaf.
    pub(super) missing: u64,
    /// Number of set bits of the sound array blocks.
    pub(super) hydrated: u64,
    /// Number of words of the last array block; 0 if it is missing. All others are full or missing.
    pub(super) last_words: usize,
    /// Digest of the numbers of all blocks.
    pub(super) digest: Digest,
}

/// The sum of the hashes of a set of block numbers. Sets with the same sum are taken as equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Digest(u64);

impl Digest {
    /// Returns the digest of a set of one block.
    pub(super) fn of(at: BlockNr) -> Self {
        // The finalizer of splitmix64.
        let mut hash = at.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(hash ^ hash >> 31)
    }

    /// Returns the digest of the union of two disjoint sets.
    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// Returns the digest of this set without `other`, which is part of it.
    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

/// The entries of a node.
#[derive(Clone, Debug)]
pub(super) struct NodeEntries {
    pub(super) is_leaf: bool,
    /// Keys, with the block numbers of children or array blocks.
    pub(super) entries: Vec<(u64, BlockNr)>,
}

/// All subtrees on a device.
pub(super) struct Trees<'a, D: ?Sized> {
    device: &'a D,
    scan: &'a Scan,
    subtrees: HashMap<BlockNr, Option<Subtree>>,
}

impl<'a, D: ReadDevice + ?Sized> Trees<'a, D> {
    pub(super) fn new(device: &'a D, scan: &'a Scan) -> Self {
        Self { device, scan, subtrees: HashMap::new() }
    }

    /// Returns the entries of the node at `at`, if it is a node.
    pub(super) fn node(&self, at: BlockNr) -> Option<NodeEntries> {
        if !matches!(self.scan.kind(at), Kind::Internal | Kind::Leaf) {
            return None;
        }
        let block: Block<Node> = DeviceReader(self.device).read(at).ok()?;
        let (is_leaf, view) = match parse::<le::U64>(&block).ok()? {
            Parsed::Internal(view) => (false, view),
            Parsed::Leaf(view) => (true, view),
        };
        let entries = view.entries().map(|(key, value)| (key, BlockNr(value.get()))).collect();
        Some(NodeEntries { is_leaf, entries })
    }

    /// Returns the subtree of the node at `at`, or `None` if a part of it has been reused.
    pub(super) fn subtree(&mut self, at: BlockNr) -> Option<Subtree> {
        self.subtree_below(at, MAX_DEPTH)
    }

    fn subtree_below(&mut self, at: BlockNr, levels: usize) -> Option<Subtree> {
        if let Some(known) = self.subtrees.get(&at) {
            return *known;
        }
        // This is also the result for a node that leads to itself.
        self.subtrees.insert(at, None);
        let subtree = self.add_up(at, levels.checked_sub(1)?);
        self.subtrees.insert(at, subtree);
        subtree
    }

    fn add_up(&mut self, at: BlockNr, levels: usize) -> Option<Subtree> {
        let node = self.node(at)?;
        let &(first, _) = node.entries.first()?;
        let mut sum = Subtree {
            first,
            end: first,
            is_open: false,
            missing: 0,
            hydrated: 0,
            last_words: FULL,
            digest: Digest::of(at),
        };
        for &(key, child) in &node.entries {
            let part = if node.is_leaf {
                self.array_block(key, child)?
            } else if self.scan.is_damaged(child) {
                Subtree::lost(key, child)
            } else {
                self.subtree_below(child, levels)?
            };
            sum.append(key, part)?;
        }
        Some(sum)
    }

    fn array_block(&self, index: u64, at: BlockNr) -> Option<Subtree> {
        let words = self.scan.words(at);
        let is_missing = self.scan.is_damaged(at);
        if words == 0 && !is_missing {
            return None;
        }
        Some(Subtree {
            first: index,
            end: index.checked_add(1)?,
            is_open: false,
            missing: u64::from(is_missing),
            hydrated: self.scan.hydrated(at),
            last_words: words,
            digest: Digest::of(at),
        })
    }

    /// Returns the highest block number on the device to which any node refers.
    pub(super) fn last_referred(&self) -> BlockNr {
        let nodes = self.scan.all(Kind::Leaf).chain(self.scan.all(Kind::Internal));
        let children = nodes.filter_map(|at| self.node(at)).flat_map(|node| node.entries);
        let on_device = children.map(|(_, at)| at).filter(|at| at.0 < self.scan.nr_blocks());
        on_device.max().unwrap_or_default()
    }

    /// Returns the block numbers of the array blocks of the whole tree at `root`, by index.
    pub(super) fn slots(&self, root: BlockNr, nr_array_blocks: u64) -> Vec<BlockNr> {
        let mut slots = vec![NOWHERE; nr_array_blocks as usize];
        self.visit(root, &mut |node| {
            for &(index, at) in node.entries.iter().filter(|_| node.is_leaf) {
                if let Some(slot) = slots.get_mut(index as usize) {
                    *slot = at;
                }
            }
        });
        slots
    }

    /// Returns every node of the tree at `root`, including damaged ones, without the array blocks.
    pub(super) fn nodes(&self, root: BlockNr) -> Vec<BlockNr> {
        let mut nodes = vec![root];
        self.visit(root, &mut |node| {
            nodes.extend(node.entries.iter().filter(|_| !node.is_leaf).map(|&(_, at)| at));
        });
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    fn visit(&self, root: BlockNr, look: &mut impl FnMut(&NodeEntries)) {
        // A node may lead to itself, or several nodes to one.
        let mut seen = HashSet::from([root]);
        let mut todo = vec![root];
        while let Some(at) = todo.pop() {
            let Some(node) = self.node(at) else { continue };
            look(&node);
            let children = node.entries.iter().filter(|_| !node.is_leaf).map(|&(_, child)| child);
            todo.extend(children.filter(|&child| seen.insert(child)));
        }
    }
}

impl Subtree {
    /// Returns the subtree that begins with array block `first` and is lost with the node at `at`.
    fn lost(first: u64, at: BlockNr) -> Self {
        Self {
            first,
            end: first,
            is_open: true,
            missing: 0,
            hydrated: 0,
            last_words: 0,
            digest: Digest::of(at),
        }
    }

    /// Appends `part`, which begins with array block `key` according to its parent. `None` if it
    /// does not fit.
    fn append(&mut self, key: u64, part: Self) -> Option<()> {
        if part.first != key || key < self.end || (self.last_words != FULL && !self.is_cut()) {
            return None;
        }
        match key - self.end {
            0 => {}
            gap if self.is_open => self.missing = self.missing.checked_add(gap)?,
            _ => return None,
        }
        self.end = part.end;
        self.is_open = part.is_open;
        self.missing = self.missing.checked_add(part.missing)?;
        self.hydrated += part.hydrated;
        self.last_words = part.last_words;
        self.digest = self.digest.and(part.digest);
        Some(())
    }

    /// Returns whether the last array block is missing.
    fn is_cut(&self) -> bool {
        self.last_words == 0
    }

    /// Returns this subtree as a whole tree of `nr_array_blocks`, the last of which has
    /// `last_words`, or `None` if it is not one.
    pub(super) fn as_tree_of(&self, nr_array_blocks: u64, last_words: usize) -> Option<Self> {
        let mut tree = *self;
        if tree.is_open && tree.end <= nr_array_blocks {
            tree.missing = tree.missing.checked_add(nr_array_blocks - tree.end)?;
            tree.end = nr_array_blocks;
        }
        let fits = tree.first == 0
            && tree.end == nr_array_blocks
            && (tree.last_words == last_words || tree.is_cut());
        fits.then_some(tree)
    }

    /// Returns the numbers of regions, half-open, that it fits if it is a whole tree.
    pub(super) fn regions(&self) -> Option<std::ops::Range<u64>> {
        if self.first != 0 || self.is_open || self.is_cut() {
            return None;
        }
        let words = (self.end - 1).checked_mul(FULL as u64)?.checked_add(self.last_words as u64)?;
        let most = words.checked_mul(64)?;
        Some(most - 63..most + 1)
    }
}
