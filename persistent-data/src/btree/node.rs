//! Read access to nodes: a node is checked once, and its entries are then borrowed in place.

use std::marker::PhantomData;

use zerocopy::{FromBytes, little_endian as le};

use super::Value;
use crate::block::Block;
use crate::error::{Error, NodeError, Result};
use crate::format::{Node, NodeDisk, node_capacity, node_flags};
use crate::number::BlockNr;
use crate::store::Reader;

/// Maximum number of nodes on a path from the root to a leaf.
///
/// Internal nodes have at least 84 children, so trees on the largest metadata device, which has
/// 4161600 blocks, have at most five levels. The reserve is for trees with fewer children per node;
/// a deeper tree has a cycle.
pub(super) const MAX_DEPTH: usize = 16;

/// Keys from `first` to `last`, both included, so that the highest key is not a special case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl KeyRange {
    pub(super) const ALL: Self = Self { first: 0, last: u64::MAX };

    pub(super) fn contains(&self, key: u64) -> bool {
        (self.first..=self.last).contains(&key)
    }

    /// Returns the keys above `key`, if any are left.
    pub(super) fn above(self, key: u64) -> Option<Self> {
        (key < self.last).then(|| Self { first: self.first.max(key + 1), last: self.last })
    }

    /// Returns the keys below `key`, if any are left.
    pub(super) fn below(self, key: u64) -> Option<Self> {
        (key > self.first).then(|| Self { first: self.first, last: self.last.min(key - 1) })
    }
}

/// The entries of a checked node, borrowed in place: as many values as keys, and strictly ascending
/// keys.
pub struct NodeView<'a, V> {
    keys: &'a [le::U64],
    values: &'a [V],
}

impl<V> Clone for NodeView<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for NodeView<'_, V> {}

impl<'a, V: Value> NodeView<'a, V> {
    /// Capacity of a node in entries: at least three.
    pub const CAPACITY: usize = {
        assert!(size_of::<V>() > 0, "a value has a size");
        assert!(node_capacity(size_of::<V>()) >= 3, "three values fit in a node");
        node_capacity(size_of::<V>())
    };

    /// Minimum number of entries of a node that is not the root.
    pub(super) const MIN: usize = Self::CAPACITY / 3;

    /// Returns the entries of a node that is known to hold values of type `V`.
    pub(super) fn of(disk: &'a NodeDisk) -> Self {
        let len = disk.header.nr_entries.get() as usize;
        let (keys, values) = disk.body.split_at(size_of::<u64>() * Self::CAPACITY);
        Self {
            keys: <[le::U64]>::ref_from_bytes(&keys[..size_of::<u64>() * len])
                .expect("keys have no alignment"),
            values: <[V]>::ref_from_bytes(&values[..size_of::<V>() * len])
                .expect("values have no alignment"),
        }
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True if there are no entries. Only a leaf that is the root can be empty.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the key of entry `index`.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn key(&self, index: usize) -> u64 {
        self.keys[index].get()
    }

    /// Returns the value of entry `index`.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn value(&self, index: usize) -> V {
        self.values[index]
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: u64) -> Option<V> {
        self.search(key).ok().map(|index| self.value(index))
    }

    /// Returns keys and values, by ascending keys.
    pub fn entries(
        &self,
    ) -> impl DoubleEndedIterator<Item = (u64, V)> + ExactSizeIterator + use<'a, V> {
        self.keys.iter().map(|key| key.get()).zip(self.values.iter().copied())
    }

    /// Returns the entry of `key`, or else the position where it would be inserted.
    pub(super) fn search(&self, key: u64) -> std::result::Result<usize, usize> {
        self.keys.binary_search_by_key(&key, |key| key.get())
    }

    /// Returns the keys and values of the entries in `range`.
    pub(super) fn slices(&self, range: std::ops::Range<usize>) -> (&'a [le::U64], &'a [V]) {
        (&self.keys[range.clone()], &self.values[range])
    }

    fn check_order(&self) -> std::result::Result<(), NodeError> {
        let ascends = |pair: &[le::U64]| pair[0].get() < pair[1].get();
        // Twice as fast as a search that stops at the first hit, and most nodes are sound.
        if self.keys.windows(2).fold(true, |all, pair| all & ascends(pair)) {
            return Ok(());
        }
        let before = self.keys.windows(2).position(|pair| !ascends(pair));
        let entry = before.map_or(0, |before| before + 1);
        Err(NodeError::KeyOrder { entry, key: self.key(entry) })
    }

    /// Checks that there are entries and that all keys lie in `range`.
    pub(super) fn check_range(&self, range: KeyRange) -> std::result::Result<(), NodeError> {
        let [first, .., last] = self.keys else {
            return match self.keys {
                [key] if range.contains(key.get()) => Ok(()),
                [key] => Err(NodeError::KeyRange { key: key.get() }),
                _ => Err(NodeError::Empty),
            };
        };
        for key in [first.get(), last.get()] {
            if !range.contains(key) {
                return Err(NodeError::KeyRange { key });
            }
        }
        Ok(())
    }
}

impl<'a> NodeView<'a, le::U64> {
    /// Returns the entry whose child covers `key`: the last entry whose key is at or below it, or
    /// else the first entry.
    pub(super) fn route(&self, key: u64) -> usize {
        match self.search(key) {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        }
    }

    /// Returns the child of entry `index`.
    pub(super) fn child(&self, index: usize) -> BlockNr {
        BlockNr(self.value(index).get())
    }

    /// Returns the children.
    pub(super) fn children(&self) -> impl Iterator<Item = BlockNr> + use<'a> {
        self.values.iter().map(|child| BlockNr(child.get()))
    }

    /// Returns the keys that the child of entry `index` may hold, in a node that may hold `keys`.
    pub(super) fn child_keys(&self, index: usize, keys: KeyRange) -> KeyRange {
        let last = match self.keys.get(index + 1) {
            // The key is above another key, so it is not zero.
            Some(next) => next.get() - 1,
            None => keys.last,
        };
        KeyRange { first: self.key(index), last }
    }
}

/// A checked node of a tree with values of type `V`.
pub enum Parsed<'a, V> {
    /// An internal node, which is never empty. Its values are the block numbers of its children.
    Internal(NodeView<'a, le::U64>),
    /// A leaf.
    Leaf(NodeView<'a, V>),
}

/// Checks a node and returns its entries: the header must fit a tree with values of type `V`, and
/// the keys must strictly ascend. All accesses to the entries of a read node go through it.
///
/// # Errors
/// [`NodeError::Flags`], [`NodeError::ValueSize`], [`NodeError::Capacity`] and
/// [`NodeError::Overfull`] for a wrong header, [`NodeError::Empty`] for an internal node without
/// entries, and [`NodeError::KeyOrder`].
pub fn parse<V: Value>(disk: &NodeDisk) -> std::result::Result<Parsed<'_, V>, NodeError> {
    let node = layout(disk)?;
    match &node {
        Parsed::Internal(view) if view.is_empty() => return Err(NodeError::Empty),
        Parsed::Internal(view) => view.check_order()?,
        Parsed::Leaf(view) => view.check_order()?,
    }
    Ok(node)
}

/// Checks only the header.
fn layout<V: Value>(disk: &NodeDisk) -> std::result::Result<Parsed<'_, V>, NodeError> {
    match disk.header.flags.get() {
        node_flags::INTERNAL => Ok(Parsed::Internal(fitting(disk)?)),
        node_flags::LEAF => Ok(Parsed::Leaf(fitting(disk)?)),
        flags => Err(NodeError::Flags(flags)),
    }
}

/// Returns the entries if the header fits a node with values of type `V`.
fn fitting<V: Value>(disk: &NodeDisk) -> std::result::Result<NodeView<'_, V>, NodeError> {
    let header = &disk.header;
    let (found, expected) = (header.value_size.get(), size_of::<V>() as u32);
    if found != expected {
        return Err(NodeError::ValueSize { found, expected });
    }
    let (found, expected) = (header.max_entries.get(), NodeView::<V>::CAPACITY as u32);
    if found != expected {
        return Err(NodeError::Capacity { found, expected });
    }
    let (nr_entries, max_entries) = (header.nr_entries.get(), expected);
    if nr_entries > max_entries {
        return Err(NodeError::Overfull { nr_entries, max_entries });
    }
    Ok(NodeView::of(disk))
}

/// A checked node that holds a reference to its block.
///
/// A referenced block cannot be edited without a copy, so drop this first.
pub(super) struct NodeBlock<V> {
    at: BlockNr,
    block: Block<Node>,
    values: PhantomData<V>,
}

impl<V: Value> NodeBlock<V> {
    /// Reads and checks the node at `at`.
    pub(super) fn read<R: Reader>(reader: &R, at: BlockNr) -> Result<Self> {
        let block = reader.read::<Node>(at)?;
        parse::<V>(&block).map_err(|source| node_error(at, source))?;
        Ok(Self { at, block, values: PhantomData })
    }

    /// Reads and checks the node at `at`, whose parent gives it the keys `keys`.
    pub(super) fn read_child<R: Reader>(reader: &R, at: BlockNr, keys: KeyRange) -> Result<Self> {
        let node = Self::read(reader, at)?;
        match node.view() {
            Parsed::Internal(view) => view.check_range(keys),
            Parsed::Leaf(view) => view.check_range(keys),
        }
        .map_err(|source| node_error(at, source))?;
        Ok(node)
    }

    /// True if the padding of the header, which has no meaning, is not zero.
    pub(super) fn is_padded(&self) -> bool {
        self.block.header.padding.get() != 0
    }

    pub(super) fn at(&self) -> BlockNr {
        self.at
    }

    pub(super) fn view(&self) -> Parsed<'_, V> {
        layout(&self.block).expect("a node is checked when it is read")
    }

    /// Returns the entries.
    ///
    /// # Panics
    /// If the node is not a leaf.
    pub(super) fn leaf(&self) -> NodeView<'_, V> {
        match self.view() {
            Parsed::Leaf(view) => view,
            Parsed::Internal(_) => panic!("node {} is a leaf", self.at),
        }
    }

    /// Returns the entries.
    ///
    /// # Panics
    /// If the node is not internal.
    pub(super) fn internal(&self) -> NodeView<'_, le::U64> {
        match self.view() {
            Parsed::Internal(view) => view,
            Parsed::Leaf(_) => panic!("node {} is internal", self.at),
        }
    }

    pub(super) fn is_leaf(&self) -> bool {
        matches!(self.view(), Parsed::Leaf(_))
    }
}

/// Adds the block number of the node to `source`.
pub(super) fn node_error(at: BlockNr, source: NodeError) -> Error {
    Error::Node { at, source }
}
