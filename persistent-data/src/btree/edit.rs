//! Changes to the entries of a node. No other module moves keys and values.

use zerocopy::{FromBytes, little_endian as le};

use super::{NodeView, Value};
use crate::format::NodeDisk;

/// A mutable node with values of type `V`: those of the tree in a leaf, block numbers in an
/// internal node.
///
/// The caller keeps the keys in ascending order. An entry or a length out of range panics.
pub(super) struct NodeEdit<'a, V> {
    nr_entries: &'a mut le::U32,
    keys: &'a mut [le::U64],
    values: &'a mut [V],
}

impl<'a, V: Value> NodeEdit<'a, V> {
    /// Formats `disk` as an empty node with one of [`node_flags`](crate::format::node_flags).
    pub(super) fn format(disk: &'a mut NodeDisk, flags: u32) -> Self {
        let header = &mut disk.header;
        header.flags.set(flags);
        header.nr_entries.set(0);
        header.max_entries.set(NodeView::<V>::CAPACITY as u32);
        header.value_size.set(size_of::<V>() as u32);
        header.padding.set(0);
        Self::of(disk)
    }

    /// Opens a node that was checked before, or made by [`format`](Self::format).
    ///
    /// # Panics
    /// If the header does not fit values of type `V`.
    pub(super) fn of(disk: &'a mut NodeDisk) -> Self {
        let NodeDisk { header, body } = disk;
        let capacity = NodeView::<V>::CAPACITY;
        assert!(
            header.value_size.get() as usize == size_of::<V>()
                && header.max_entries.get() as usize == capacity
                && header.nr_entries.get() as usize <= capacity,
            "a node is edited after it was checked"
        );
        let (keys, values) = body.split_at_mut(size_of::<u64>() * capacity);
        Self {
            nr_entries: &mut header.nr_entries,
            keys: <[le::U64]>::mut_from_bytes(keys).expect("keys have no alignment"),
            values: <[V]>::mut_from_bytes(&mut values[..size_of::<V>() * capacity])
                .expect("values have no alignment"),
        }
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> usize {
        self.nr_entries.get() as usize
    }

    /// Inserts an entry before entry `index`, or at the end if `index` is the number of entries.
    pub(super) fn insert(&mut self, index: usize, key: u64, value: V) {
        self.open(index, 1);
        self.keys[index].set(key);
        self.values[index] = value;
    }

    /// Removes the entries in `range`.
    pub(super) fn remove(&mut self, range: std::ops::Range<usize>) {
        let len = self.len();
        let removed = range.len();
        self.keys.copy_within(range.end..len, range.start);
        self.values.copy_within(range.end..len, range.start);
        self.nr_entries.set((len - removed) as u32);
    }

    /// Inserts `entries` before entry `index`, or at the end if `index` is the number of entries.
    pub(super) fn splice(&mut self, index: usize, (keys, values): (&[le::U64], &[V])) {
        self.open(index, keys.len());
        self.keys[index..index + keys.len()].copy_from_slice(keys);
        self.values[index..index + values.len()].copy_from_slice(values);
    }

    /// Changes the key of entry `index`.
    pub(super) fn set_key(&mut self, index: usize, key: u64) {
        self.keys[..self.nr_entries.get() as usize][index].set(key);
    }

    /// Changes the value of entry `index`.
    pub(super) fn set_value(&mut self, index: usize, value: V) {
        self.values[..self.nr_entries.get() as usize][index] = value;
    }

    /// Makes room for `count` entries before entry `index`.
    fn open(&mut self, index: usize, count: usize) {
        let len = self.len();
        assert!(index <= len && len + count <= self.keys.len(), "the node has room");
        self.keys.copy_within(index..len, index + count);
        self.values.copy_within(index..len, index + count);
        self.nr_entries.set((len + count) as u32);
    }
}
