//! Building of an array from front to back.

use super::{Array, ArrayBlockRef, entries_per_block, values_mut};
use crate::btree::{Builder, Value};
use crate::error::Result;
use crate::format::ArrayBlock;
use crate::store::Writer;

/// Builds an array of values that arrive in order, with full blocks and full nodes.
///
/// It needs the memory of one array block and of one path through the btree.
pub struct ArrayBuilder<V> {
    tree: Builder<ArrayBlockRef<V>>,
    /// Values of the block that is not full yet.
    pending: Vec<V>,
    blocks: u64,
}

impl<V> std::fmt::Debug for ArrayBuilder<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrayBuilder").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

impl<V: Value> Default for ArrayBuilder<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Value> ArrayBuilder<V> {
    /// Starts an empty array.
    pub fn new() -> Self {
        const { assert!(entries_per_block::<V>() > 0, "a value fits in a block") };
        let pending = Vec::with_capacity(entries_per_block::<V>());
        Self { tree: Builder::new(), pending, blocks: 0 }
    }

    /// Appends `values` and takes over the caller's references of them.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn extend<W: Writer>(&mut self, writer: &mut W, mut values: &[V]) -> Result<()> {
        while !values.is_empty() {
            if self.pending.is_empty() && values.len() >= entries_per_block::<V>() {
                let (block, later) = values.split_at(entries_per_block::<V>());
                self.write_block(writer, block)?;
                values = later;
                continue;
            }
            let room = entries_per_block::<V>() - self.pending.len();
            let (now, later) = values.split_at(room.min(values.len()));
            self.pending.extend_from_slice(now);
            values = later;
            if self.pending.len() == entries_per_block::<V>() {
                self.write_pending(writer)?;
            }
        }
        Ok(())
    }

    /// Returns the array of all appended values.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish<W: Writer>(mut self, writer: &mut W) -> Result<Array<V>> {
        let len = self.blocks * entries_per_block::<V>() as u64 + self.pending.len() as u64;
        if !self.pending.is_empty() {
            self.write_pending(writer)?;
        }
        Ok(Array { tree: self.tree.finish(writer)?, len })
    }

    fn write_pending<W: Writer>(&mut self, writer: &mut W) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.write_block(writer, &pending)?;
        self.pending = pending;
        self.pending.clear();
        Ok(())
    }

    fn write_block<W: Writer>(&mut self, writer: &mut W, values: &[V]) -> Result<()> {
        let at = writer.new_block::<ArrayBlock>()?;
        values_mut(writer.edit::<ArrayBlock>(at)?, values.len()).copy_from_slice(values);
        self.tree.push(writer, self.blocks, ArrayBlockRef::new(at))?;
        self.blocks += 1;
        Ok(())
    }
}
