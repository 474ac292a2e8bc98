//! Operations on two adjacent nodes: split, share, merge.
//!
//! Both nodes are new in this transaction. The caller updates their entries in the parent.

use zerocopy::little_endian as le;

use super::{NodeBlock, NodeEdit, NodeView, Parsed, Value, node_error};
use crate::error::{NodeError, Result};
use crate::format::{Node, node_flags};
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

/// Fill level of a node.
#[derive(Clone, Copy)]
pub(super) struct Fill {
    /// Number of entries.
    pub(super) len: usize,
    /// Capacity in entries.
    pub(super) capacity: usize,
    /// Minimum number of entries of a node below the root.
    pub(super) min: usize,
    is_leaf: bool,
}

impl Fill {
    /// Reads the fill level of the node at `at`.
    pub(super) fn read<V: Value, R: Reader>(reader: &R, at: BlockNr) -> Result<Self> {
        let node = NodeBlock::<V>::read(reader, at)?;
        Ok(match node.view() {
            Parsed::Internal(view) => Self::of(&view, false),
            Parsed::Leaf(view) => Self::of(&view, true),
        })
    }

    fn of<T: Value>(view: &NodeView<'_, T>, is_leaf: bool) -> Self {
        Self {
            len: view.len(),
            capacity: NodeView::<T>::CAPACITY,
            min: NodeView::<T>::MIN,
            is_leaf,
        }
    }
}

/// Moves the upper half of the entries at `left` to a new right neighbour, and returns that node.
pub(super) fn split<V: Value, W: Writer>(writer: &mut W, left: BlockNr) -> Result<BlockNr> {
    let right = writer.new_block::<Node>()?;
    if Fill::read::<V, W>(writer, left)?.is_leaf {
        NodeEdit::<V>::format(writer.edit::<Node>(right)?, node_flags::LEAF);
        share_entries::<V, W>(writer, left, right)?;
    } else {
        NodeEdit::<le::U64>::format(writer.edit::<Node>(right)?, node_flags::INTERNAL);
        share_entries::<le::U64, W>(writer, left, right)?;
    }
    Ok(right)
}

/// Gives each neighbour half of their entries. The right one gets the odd entry.
pub(super) fn share<V: Value, W: Writer>(
    writer: &mut W,
    left: BlockNr,
    right: BlockNr,
) -> Result<()> {
    if same_level::<V, W>(writer, left, right)? {
        share_entries::<V, W>(writer, left, right)
    } else {
        share_entries::<le::U64, W>(writer, left, right)
    }
}

/// Moves all entries at `right` to `left`, where they must fit, and drops `right`.
pub(super) fn merge<V: Value, W: Writer>(
    writer: &mut W,
    left: BlockNr,
    right: BlockNr,
) -> Result<()> {
    if same_level::<V, W>(writer, left, right)? {
        append::<V, W>(writer, left, right, usize::MAX)?;
    } else {
        append::<le::U64, W>(writer, left, right, usize::MAX)?;
    }
    writer.dec(right)
}

/// Returns the lowest key of the node at `at`, which must have entries.
pub(super) fn first_key<V: Value, R: Reader>(reader: &R, at: BlockNr) -> Result<u64> {
    let node = NodeBlock::<V>::read(reader, at)?;
    let first = match node.view() {
        Parsed::Internal(view) => view.entries().next().map(|(key, _)| key),
        Parsed::Leaf(view) => view.entries().next().map(|(key, _)| key),
    };
    first.ok_or(node_error(at, NodeError::Empty))
}

/// Checks that the nodes have the same level. Returns whether they are leaves.
fn same_level<V: Value, R: Reader>(reader: &R, left: BlockNr, right: BlockNr) -> Result<bool> {
    let left = Fill::read::<V, R>(reader, left)?.is_leaf;
    if left != Fill::read::<V, R>(reader, right)?.is_leaf {
        return Err(node_error(right, NodeError::Level));
    }
    Ok(left)
}

fn share_entries<T: Value, W: Writer>(writer: &mut W, left: BlockNr, right: BlockNr) -> Result<()> {
    let left_len = NodeView::<T>::of(&*writer.read::<Node>(left)?).len();
    let right_len = NodeView::<T>::of(&*writer.read::<Node>(right)?).len();
    let target = (left_len + right_len) / 2;
    if left_len < target {
        return append::<T, W>(writer, left, right, target - left_len);
    }
    let from = writer.read::<Node>(left)?;
    NodeEdit::of(writer.edit::<Node>(right)?)
        .splice(0, NodeView::<T>::of(&from).slices(target..left_len));
    drop(from);
    NodeEdit::<T>::of(writer.edit::<Node>(left)?).remove(target..left_len);
    Ok(())
}

/// Moves the first `count` entries at `right`, or all if there are fewer, to the end of `left`.
fn append<T: Value, W: Writer>(
    writer: &mut W,
    left: BlockNr,
    right: BlockNr,
    count: usize,
) -> Result<()> {
    let from = writer.read::<Node>(right)?;
    let view = NodeView::<T>::of(&from);
    let count = count.min(view.len());
    let mut edit = NodeEdit::of(writer.edit::<Node>(left)?);
    edit.splice(edit.len(), view.slices(0..count));
    drop(from);
    NodeEdit::<T>::of(writer.edit::<Node>(right)?).remove(0..count);
    Ok(())
}
