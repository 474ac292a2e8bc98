//! Nodes as they are read: checked once, then borrowed where they lie.

use std::marker::PhantomData;

use zerocopy::{FromBytes, little_endian as le};

use super::Value;
use crate::block::Block;
use crate::error::{Error, NodeError, Result};
use crate::format::{Node, NodeDisk, node_capacity, node_flags};
use crate::number::BlockNr;
use crate::store::Reader;

/// Nodes on the longest way down.
///
/// Internal nodes have at least 84 children, so the 4161600 blocks of the largest metadata device
/// hold trees of no more than five levels. The rest is for trees thinner than that; what is deeper
/// still has a cycle in it.
pub(super) const MAX_DEPTH: usize = 16;

/// Keys from `first` to `last`, both included, so that the highest key needs no exception.
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

    /// The keys above `key`, if any are left.
    pub(super) fn above(self, key: u64) -> Option<Self> {
        (key < self.last).then(|| Self { first: self.first.max(key + 1), last: self.last })
    }

    /// The keys below `key`, if any are left.
    pub(super) fn below(self, key: u64) -> Option<Self> {
        (key > self.first).then(|| Self { first: self.first, last: self.last.min(key - 1) })
    }
}

/// The entries of a checked node, where they lie: as many values as keys, and keys that strictly
/// ascend.
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
    /// Entries that fit in a node: at least three.
    pub const CAPACITY: usize = {
        assert!(size_of::<V>() > 0, "a value has a size");
        assert!(node_capacity(size_of::<V>()) >= 3, "three values fit in a node");
        node_capacity(size_of::<V>())
    };

    /// Entries below which a node is not left, unless it is the root.
    pub(super) const MIN: usize = Self::CAPACITY / 3;

    /// The entries of a node that is known to be laid out for values of type `V`.
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

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no entries: only a leaf that is the root can be so.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key of entry `index`.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn key(&self, index: usize) -> u64 {
        self.keys[index].get()
    }

    /// The value of entry `index`.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn value(&self, index: usize) -> V {
        self.values[index]
    }

    /// The value of `key`.
    pub fn get(&self, key: u64) -> Option<V> {
        self.search(key).ok().map(|index| self.value(index))
    }

    /// Keys and values, by ascending keys.
    pub fn entries(
        &self,
    ) -> impl DoubleEndedIterator<Item = (u64, V)> + ExactSizeIterator + use<'a, V> {
        self.keys.iter().map(|key| key.get()).zip(self.values.iter().copied())
    }

    /// The entry of `key`, or else where it would have to be.
    pub(super) fn search(&self, key: u64) -> std::result::Result<usize, usize> {
        self.keys.binary_search_by_key(&key, |key| key.get())
    }

    /// The keys and values of the entries in `range`.
    pub(super) fn slices(&self, range: std::ops::Range<usize>) -> (&'a [le::U64], &'a [V]) {
        (&self.keys[range.clone()], &self.values[range])
    }

    fn check_order(&self) -> std::result::Result<(), NodeError> {
        let ascends = |pair: &[le::U64]| pair[0].get() < pair[1].get();
        // Twice as fast as a search that stops at the first one, and most nodes are sound.
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
    /// The entry whose child answers for `key`: the last whose key is not above it, or else the
    /// first.
    pub(super) fn route(&self, key: u64) -> usize {
        match self.search(key) {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        }
    }

    /// The child of entry `index`.
    pub(super) fn child(&self, index: usize) -> BlockNr {
        BlockNr(self.value(index).get())
    }

    /// The children.
    pub(super) fn children(&self) -> impl Iterator<Item = BlockNr> + use<'a> {
        self.values.iter().map(|child| BlockNr(child.get()))
    }

    /// The keys that the child of entry `index` may hold, in a node that may hold `keys`.
    pub(super) fn child_keys(&self, index: usize, keys: KeyRange) -> KeyRange {
        let last = match self.keys.get(index + 1) {
            // It is above another key, so it is not zero.
            Some(next) => next.get() - 1,
            None => keys.last,
        };
        KeyRange { first: self.key(index), last }
    }
}

/// A checked node of a tree with values of type `V`.
pub enum Parsed<'a, V> {
    /// An internal node, which is never empty: the values are the block numbers of the children.
    Internal(NodeView<'a, le::U64>),
    /// A leaf.
    Leaf(NodeView<'a, V>),
}

/// The only way from a block's bytes to a node's entries: the header has to fit a tree with values
/// of type `V`, and the keys have to ascend strictly.
pub fn parse<V: Value>(disk: &NodeDisk) -> std::result::Result<Parsed<'_, V>, NodeError> {
    let node = layout(disk)?;
    match &node {
        Parsed::Internal(view) if view.is_empty() => return Err(NodeError::Empty),
        Parsed::Internal(view) => view.check_order()?,
        Parsed::Leaf(view) => view.check_order()?,
    }
    Ok(node)
}

/// Checks the header, and that alone.
fn layout<V: Value>(disk: &NodeDisk) -> std::result::Result<Parsed<'_, V>, NodeError> {
    match disk.header.flags.get() {
        node_flags::INTERNAL => Ok(Parsed::Internal(fitting(disk)?)),
        node_flags::LEAF => Ok(Parsed::Leaf(fitting(disk)?)),
        flags => Err(NodeError::Flags(flags)),
    }
}

/// The entries, if the header is that of a node with values of type `V`.
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

/// A checked node that holds on to its block.
///
/// A block in use cannot be edited without a copy, so drop this first.
pub(super) struct NodeBlock<V> {
    at: BlockNr,
    block: Block<Node>,
    values: PhantomData<V>,
}

impl<V: Value> NodeBlock<V> {
    /// The node at `at`.
    pub(super) fn read<R: Reader>(reader: &R, at: BlockNr) -> Result<Self> {
        let block = reader.read::<Node>(at)?;
        parse::<V>(&block).map_err(|source| node_error(at, source))?;
        Ok(Self { at, block, values: PhantomData })
    }

    /// The node at `at`, whose parent gives it `keys`.
    pub(super) fn read_child<R: Reader>(reader: &R, at: BlockNr, keys: KeyRange) -> Result<Self> {
        let node = Self::read(reader, at)?;
        match node.view() {
            Parsed::Internal(view) => view.check_range(keys),
            Parsed::Leaf(view) => view.check_range(keys),
        }
        .map_err(|source| node_error(at, source))?;
        Ok(node)
    }

    /// Whether the padding of the header is not zero, which means nothing.
    pub(super) fn is_padded(&self) -> bool {
        self.block.header.padding.get() != 0
    }

    pub(super) fn at(&self) -> BlockNr {
        self.at
    }

    pub(super) fn view(&self) -> Parsed<'_, V> {
        layout(&self.block).expect("a node is checked when it is read")
    }

    /// The entries.
    ///
    /// # Panics
    /// If the node is not a leaf.
    pub(super) fn leaf(&self) -> NodeView<'_, V> {
        match self.view() {
            Parsed::Leaf(view) => view,
            Parsed::Internal(_) => panic!("node {} is a leaf", self.at),
        }
    }

    /// The entries.
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

/// `source`, with the place of the node.
pub(super) fn node_error(at: BlockNr, source: NodeError) -> Error {
    Error::Node { at, source }
}
