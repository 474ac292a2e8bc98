//! Builds a tree from the bottom up, from entries in key order.

use std::marker::PhantomData;

use zerocopy::little_endian as le;

use super::sibling;
use super::{Btree, NodeEdit, NodeView, Value};
use crate::error::Result;
use crate::format::{Node, node_flags};
use crate::number::BlockNr;
use crate::store::Writer;

/// Builds a tree from entries with ascending keys. Restore and repair of metadata use it.
///
/// All nodes are full except the last two of each level, which share their entries if the last
/// one is less than a third full. The builder keeps two nodes per level.
///
/// A dropped builder leaves its blocks in use: the transaction must be aborted.
pub struct Builder<V> {
    leaves: Option<Level<V>>,
    /// Levels of internal nodes, from the parents of the leaves up.
    internal: Vec<Level<le::U64>>,
    last_key: Option<u64>,
}

/// The nodes of one level that are not linked into the level above yet.
struct Level<T> {
    flags: u32,
    /// The last but one node. It is full.
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
    /// Creates a builder without entries. Allocates nothing.
    pub fn new() -> Self {
        Self { leaves: None, internal: Vec::new(), last_key: None }
    }

    /// Adds an entry. The tree takes over the caller's references of `value`.
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

    /// Completes the tree and returns it.
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

    /// Adds `node` as a child to level `self.internal[height]`, and every node that this completes
    /// to the level above it.
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
    /// Starts a level with one entry.
    fn new<W: Writer>(writer: &mut W, flags: u32, key: u64, value: T) -> Result<Self> {
        let last = Building::new(writer, flags, key, value)?;
        Ok(Self { flags, full: None, last, values: PhantomData })
    }

    /// Adds an entry. Returns a node that must now be linked into the level above, if any.
    fn push<W: Writer>(&mut self, writer: &mut W, key: u64, value: T) -> Result<Option<Building>> {
        if self.last.len < NodeView::<T>::CAPACITY {
            NodeEdit::of(writer.edit::<Node>(self.last.at)?).insert(self.last.len, key, value);
            self.last.len += 1;
            return Ok(None);
        }
        let next = Building::new(writer, self.flags, key, value)?;
        Ok(self.full.replace(std::mem::replace(&mut self.last, next)))
    }

    /// Returns the remaining nodes. If there are two, both are at least a third full. `V` is the
    /// type of the tree's values.
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
