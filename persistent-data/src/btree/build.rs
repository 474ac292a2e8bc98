//! Building a tree from the bottom up, out of entries that come in order.

use std::marker::PhantomData;

use zerocopy::little_endian as le;

use super::sibling;
use super::{Btree, NodeEdit, NodeView, Value};
use crate::error::Result;
use crate::format::{Node, node_flags};
use crate::number::BlockNr;
use crate::store::Writer;

/// Builds a tree out of entries with ascending keys, which is what restoring and repairing
/// metadata come down to.
///
/// All nodes are full, but for the last two of each level, which share their entries if the last
/// one has less than a third of a node. Two nodes a level have to be at hand.
///
/// A builder that is dropped leaves its blocks in use: the transaction has to be aborted.
pub struct Builder<V> {
    leaves: Option<Level<V>>,
    /// From the parents of the leaves up.
    internal: Vec<Level<le::U64>>,
    last_key: Option<u64>,
}

/// The nodes of one level that the level above does not know of yet.
struct Level<T> {
    flags: u32,
    /// The last node but one. It is full.
    full: Option<Building>,
    last: Building,
    values: PhantomData<T>,
}

#[derive(Clone, Copy)]
struct Building {
    at: BlockNr,
    first_key: u64,
    len: usize,
}

impl<V: Value> Builder<V> {
    /// A builder without entries. Nothing is allocated yet.
    pub fn new() -> Self {
        Self { leaves: None, internal: Vec::new(), last_key: None }
    }

    /// Adds an entry. The tree takes over the caller's reference to what `value` refers to.
    ///
    /// # Errors
    /// Those of [`Writer::new_block`].
    ///
    /// # Panics
    /// If `key` is not above the key before it.
    pub fn push<W: Writer>(&mut self, writer: &mut W, key: u64, value: V) -> Result<()> {
        assert!(
            self.last_key.is_none_or(|last| last < key),
            "key {key} is above the key before it, {:?}",
            self.last_key
        );
        self.last_key = Some(key);
        let complete = match &mut self.leaves {
            Some(level) => level.push(writer, key, value)?,
            none => {
                *none = Some(Level::new(writer, node_flags::LEAF, key, value)?);
                None
            }
        };
        match complete {
            Some(node) => self.link(writer, 0, node),
            None => Ok(()),
        }
    }

    /// Completes the tree.
    ///
    /// # Errors
    /// Those of [`Writer::new_block`].
    pub fn finish<W: Writer>(mut self, writer: &mut W) -> Result<Btree<V>> {
        let Some(leaves) = self.leaves.take() else {
            return Btree::create(writer);
        };
        let mut nodes = leaves.finish::<V, W>(writer)?;
        let mut height = 0;
        while let (Some(left), right) = nodes {
            self.link(writer, height, left)?;
            self.link(writer, height, right)?;
            nodes = self.internal[height].finish::<V, W>(writer)?;
            height += 1;
        }
        Ok(Btree::open(nodes.1.at))
    }

    /// Makes `node` the child of a node of `self.internal[height]`, and the nodes that this
    /// completes the children of those above.
    fn link<W: Writer>(&mut self, writer: &mut W, height: usize, node: Building) -> Result<()> {
        let mut complete = Some(node);
        for height in height.. {
            let Some(node) = complete else { break };
            let value = le::U64::new(node.at.0);
            complete = match self.internal.get_mut(height) {
                Some(level) => level.push(writer, node.first_key, value)?,
                None => {
                    let flags = node_flags::INTERNAL;
                    self.internal.push(Level::new(writer, flags, node.first_key, value)?);
                    None
                }
            };
        }
        Ok(())
    }
}

impl<V: Value> Default for Builder<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Value> Level<T> {
    /// A level that begins with an entry.
    fn new<W: Writer>(writer: &mut W, flags: u32, key: u64, value: T) -> Result<Self> {
        let last = Building::new(writer, flags, key, value)?;
        Ok(Self { flags, full: None, last, values: PhantomData })
    }

    /// Adds an entry, and returns a node that the level above has to know of now.
    fn push<W: Writer>(&mut self, writer: &mut W, key: u64, value: T) -> Result<Option<Building>> {
        if self.last.len < NodeView::<T>::CAPACITY {
            NodeEdit::of(writer.edit::<Node>(self.last.at)?).insert(self.last.len, key, value);
            self.last.len += 1;
            return Ok(None);
        }
        let next = Building::new(writer, self.flags, key, value)?;
        Ok(self.full.replace(std::mem::replace(&mut self.last, next)))
    }

    /// The nodes that are left, none of them under a third full if there are two. `V` is the type
    /// of the tree's values.
    fn finish<V: Value, W: Writer>(&self, writer: &mut W) -> Result<(Option<Building>, Building)> {
        let mut last = self.last;
        if let Some(full) = self.full
            && last.len < NodeView::<T>::MIN
        {
            sibling::share::<V, W>(writer, full.at, last.at)?;
            last.first_key = sibling::first_key::<V, W>(writer, last.at)?;
        }
        Ok((self.full, last))
    }
}

impl Building {
    fn new<T: Value, W: Writer>(
        writer: &mut W,
        flags: u32,
        first_key: u64,
        value: T,
    ) -> Result<Self> {
        let at = writer.new_block::<Node>()?;
        NodeEdit::format(writer.edit::<Node>(at)?, flags).insert(0, first_key, value);
        Ok(Self { at, first_key, len: 1 })
    }
}
