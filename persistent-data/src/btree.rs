//! Btrees from 64-bit keys to values of one size (`dm-btree.c`).
//!
//! Trees change by copy-on-write: an operation shadows the nodes from the root to the leaf that it
//! changes. So trees may share nodes, and the tree of the last commit stays unchanged. A node holds
//! one reference to each of its children, or to the objects that its values refer to.
//!
//! *Invariants* of the trees that this module writes:
//!
//! 1. The keys of a node strictly ascend and lie in the half-open range from the node's key in the
//!    parent to the next key in the parent.
//! 2. All leaves have the same depth.
//! 3. Every node but the root is at least a third full, and an internal root has two children.
//!
//! A tree on a device may violate all of them. Each node is checked before it is used, and a
//! descent past the maximum depth is an error.
//!
//! If a method that changes a tree returns an error, some of the change may have been made: the
//! transaction must be aborted. This also holds for a lack of free blocks and for read errors.

mod build;
mod edit;
mod insert;
mod node;
mod path;
mod range;
mod remove;
mod sibling;
#[cfg(test)]
mod tests;
mod walk;

use std::fmt;
use std::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

pub use self::build::Builder;
use self::edit::NodeEdit;
use self::node::{MAX_DEPTH, NodeBlock, node_error};
pub use self::node::{NodeView, Parsed, parse};
pub use self::range::Range;
pub use self::walk::{NodeDamage, WalkVisitor, walk};
use crate::error::{Error, NodeError, Result};
use crate::format::{IndexEntry, Node, node_flags};
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

/// A value that leaf nodes store. Its layout in memory is its layout on the device.
///
/// A node must hold at least three values, so a value may have up to 1346 bytes. A size of zero
/// does not compile.
pub trait Value:
    FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy + 'static
{
    /// Adds a reference to everything this value refers to. Called when a shared leaf is copied,
    /// which makes a second copy of the value.
    fn inc<W: Writer>(&self, _writer: &mut W) -> Result<()> {
        Ok(())
    }

    /// Drops the references that this value holds. Called when the value is removed.
    fn dec<W: Writer>(&self, _writer: &mut W) -> Result<()> {
        Ok(())
    }
}

impl Value for le::U32 {}
impl Value for le::U64 {}
impl Value for IndexEntry {}
impl<const N: usize> Value for [u8; N] {}

/// A btree with values of type `V`, identified by the block number of its root.
///
/// It owns one reference to the root, so it is not `Clone`: see [`snapshot`](Self::snapshot).
pub struct Btree<V> {
    root: BlockNr,
    values: PhantomData<V>,
}

impl<V> fmt::Debug for Btree<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Btree").field("root", &self.root).finish()
    }
}

impl<V: Value> Btree<V> {
    /// Creates a tree without entries: an empty leaf.
    ///
    /// # Errors
    /// Those of [`Writer::new_block`].
    pub fn create<W: Writer>(writer: &mut W) -> Result<Self> {
        let root = writer.new_block::<Node>()?;
        NodeEdit::<V>::format(writer.edit::<Node>(root)?, node_flags::LEAF);
        Ok(Self::open(root))
    }

    /// Opens the tree whose root is at `root`. Reads nothing.
    pub fn open(root: BlockNr) -> Self {
        Self { root, values: PhantomData }
    }

    /// Returns the block number of the root. Every change may move it.
    pub fn root(&self) -> BlockNr {
        self.root
    }

    /// Returns the value of `key`.
    ///
    /// # Errors
    /// Those of [`Reader::read`], and [`Error::Node`] for an inconsistent node. All methods that
    /// read have these errors.
    pub fn lookup<R: Reader>(&self, reader: &R, key: u64) -> Result<Option<V>> {
        Ok(path::find_leaf::<V, R>(reader, self.root, key)?.view().get(key))
    }

    /// Returns the first entry whose key is at or above `key`.
    pub fn lookup_next<R: Reader>(&self, reader: &R, key: u64) -> Result<Option<(u64, V)>> {
        self.range(reader, key..).next().transpose()
    }

    /// Returns the last entry whose key is at or below `key`.
    pub fn lookup_prev<R: Reader>(&self, reader: &R, key: u64) -> Result<Option<(u64, V)>> {
        self.range(reader, ..=key).next_back().transpose()
    }

    /// Returns the entry with the lowest key.
    pub fn first<R: Reader>(&self, reader: &R) -> Result<Option<(u64, V)>> {
        self.lookup_next(reader, 0)
    }

    /// Returns the entry with the highest key.
    pub fn last<R: Reader>(&self, reader: &R) -> Result<Option<(u64, V)>> {
        self.lookup_prev(reader, u64::MAX)
    }

    /// Returns a second tree with the same entries. It shares all nodes with this one until one of
    /// the trees changes.
    ///
    /// # Errors
    /// Those of [`Writer::inc`].
    pub fn snapshot<W: Writer>(&self, writer: &mut W) -> Result<Self> {
        writer.inc(self.root)?;
        Ok(Self::open(self.root))
    }

    /// Replaces the value of `key` by the result of `change` and returns whether the key exists. If
    /// it does not, nothing changes.
    ///
    /// Neither [`Value::inc`] nor [`Value::dec`] is called for the two values: `change` takes over
    /// the references of the old value and returns those of the new one. So `change` can shadow the
    /// block that a value points to.
    ///
    /// # Errors
    /// Those of [`lookup`](Self::lookup), of [`Writer::shadow`], of [`Value::inc`] and of `change`.
    pub fn update<W: Writer>(
        &mut self,
        writer: &mut W,
        key: u64,
        change: impl FnOnce(&mut W, V) -> Result<V>,
    ) -> Result<bool> {
        if self.lookup(writer, key)?.is_none() {
            return Ok(false);
        }
        let leaf = self.shadow_path(writer, key)?;
        let node = NodeBlock::<V>::read(writer, leaf)?;
        let Ok(index) = node.leaf().search(key) else {
            return Ok(false);
        };
        let value = node.leaf().value(index);
        drop(node);
        let value = change(writer, value)?;
        NodeEdit::of(writer.edit::<Node>(leaf)?).set_value(index, value);
        Ok(true)
    }

    /// Drops the reference to the root. A node that loses its last reference drops those to its
    /// children, or calls [`Value::dec`] for its values; shared nodes stay unchanged.
    ///
    /// # Errors
    /// Those of [`lookup`](Self::lookup), of [`Writer::dec`] and of [`Value::dec`].
    pub fn delete<W: Writer>(self, writer: &mut W) -> Result<()> {
        let mut pending = vec![(self.root, 1)];
        while let Some((at, depth)) = pending.pop() {
            match writer.count(at)? {
                0 => return Err(Error::CountUnderflow { at }),
                1 => {}
                _ => {
                    writer.dec(at)?;
                    continue;
                }
            }
            if depth > MAX_DEPTH {
                return Err(node_error(at, NodeError::TooDeep));
            }
            let node = NodeBlock::<V>::read(writer, at)?;
            match node.view() {
                Parsed::Internal(view) => {
                    pending.extend(view.children().map(|child| (child, depth + 1)));
                }
                Parsed::Leaf(view) => {
                    for (_, value) in view.entries() {
                        value.dec(writer)?;
                    }
                }
            }
            writer.dec(at)?;
        }
        Ok(())
    }
}
