//! Btrees from 64-bit keys to values of one size (`dm-btree.c`).
//!
//! Trees change by copy on write: an operation shadows the nodes from the root to the leaf it
//! changes, so trees may share nodes, and the last commit stays what it was. A node holds one
//! reference to each of its children and to whatever each of its values refers to.
//!
//! *Invariants* of the trees that this module makes:
//!
//! 1. The keys of a node strictly ascend, and lie from its key in the parent up to, and without,
//!    the next key there.
//! 2. All leaves are equally deep.
//! 3. Every node but the root is at least a third full, and an internal root has two children.
//!
//! A tree that is read may break all of them. What is read is checked before it is used, node by
//! node, and a way down that does not end is given up.
//!
//! After an error, a method that changes a tree may have changed some of it: the transaction has to
//! be aborted, as it has to be anyway when no block is left or the device cannot be read.

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

/// A value stored in leaf nodes. Its layout is the layout on the device.
///
/// At least three values have to fit in a node, which those of up to 1346 bytes do. A size of zero
/// does not compile.
pub trait Value:
    FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy + 'static
{
    /// A second copy of this value has come to be, in the copy of a shared leaf: counts it with
    /// what the value refers to.
    fn inc<W: Writer>(&self, _writer: &mut W) -> Result<()> {
        Ok(())
    }

    /// This value is going away: gives up what it refers to.
    fn dec<W: Writer>(&self, _writer: &mut W) -> Result<()> {
        Ok(())
    }
}

impl Value for le::U32 {}
impl Value for le::U64 {}
impl Value for IndexEntry {}
impl<const N: usize> Value for [u8; N] {}

/// A btree with values of type `V`: the number of its root, and what can be done from there.
///
/// It stands for one reference to the root, so there is no `Clone`: see
/// [`snapshot`](Self::snapshot).
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
    /// A new tree without entries: an empty leaf.
    ///
    /// # Errors
    /// Those of [`Writer::new_block`].
    pub fn create<W: Writer>(writer: &mut W) -> Result<Self> {
        let root = writer.new_block::<Node>()?;
        NodeEdit::<V>::format(writer.edit::<Node>(root)?, node_flags::LEAF);
        Ok(Self::open(root))
    }

    /// The tree whose root is at `root`. Nothing is read yet.
    pub fn open(root: BlockNr) -> Self {
        Self { root, values: PhantomData }
    }

    /// Where the root lies. Every change may move it.
    pub fn root(&self) -> BlockNr {
        self.root
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// Those of [`Reader::read`], and [`Error::Node`] for a node that does not make sense. That
    /// goes for all methods that read.
    pub fn lookup<R: Reader>(&self, reader: &R, key: u64) -> Result<Option<V>> {
        Ok(path::find_leaf::<V, R>(reader, self.root, key)?.view().get(key))
    }

    /// The first entry whose key is not below `key`.
    pub fn lookup_next<R: Reader>(&self, reader: &R, key: u64) -> Result<Option<(u64, V)>> {
        self.range(reader, key..).next().transpose()
    }

    /// The last entry whose key is not above `key`.
    pub fn lookup_prev<R: Reader>(&self, reader: &R, key: u64) -> Result<Option<(u64, V)>> {
        self.range(reader, ..=key).next_back().transpose()
    }

    /// The entry with the lowest key.
    pub fn first<R: Reader>(&self, reader: &R) -> Result<Option<(u64, V)>> {
        self.lookup_next(reader, 0)
    }

    /// The entry with the highest key.
    pub fn last<R: Reader>(&self, reader: &R) -> Result<Option<(u64, V)>> {
        self.lookup_prev(reader, u64::MAX)
    }

    /// Another tree with the same entries, which shares all nodes with this one until one of them
    /// changes.
    ///
    /// # Errors
    /// Those of [`Writer::inc`].
    pub fn snapshot<W: Writer>(&self, writer: &mut W) -> Result<Self> {
        writer.inc(self.root)?;
        Ok(Self::open(self.root))
    }

    /// Replaces the value of `key` by what `change` makes of it, and returns whether there is one.
    /// If there is none, nothing changes.
    ///
    /// Neither [`Value::inc`] nor [`Value::dec`] is called for the two values: `change` takes over
    /// the reference that goes with the old one, and hands one over with the new one. So it can
    /// shadow the block that a value points to.
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

    /// Gives up the reference to the root. A node that loses its last reference gives up its
    /// children, or its values ([`Value::dec`]); the others stay as they are.
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
