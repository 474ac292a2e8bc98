//! Insertion of entries. Room is made on the way down, so no pass back up is needed.

use zerocopy::little_endian as le;

use super::path::{Place, edit_internal};
use super::sibling::{self, Fill};
use super::{Btree, MAX_DEPTH, NodeBlock, NodeEdit, NodeView, Parsed, Value, node_error};
use crate::error::{NodeError, Result};
use crate::format::{Node, node_flags};
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

impl<V: Value> Btree<V> {
    /// Sets the value of `key` and returns whether the key is new.
    ///
    /// The tree takes over the caller's references of `value`. [`Value::dec`] is called for a value
    /// that is replaced.
    ///
    /// # Errors
    /// Those of [`lookup`](Self::lookup), of [`Writer::new_block`], of [`Writer::shadow`] and of
    /// the two methods of [`Value`].
    pub fn insert<W: Writer>(&mut self, writer: &mut W, key: u64, value: V) -> Result<bool> {
        let mut place = self.shadow_root(writer)?;
        if !has_room_for::<V, W>(writer, place.at, key)? {
            place = self.grow(writer)?;
        }
        for _ in 0..MAX_DEPTH {
            let node = NodeBlock::<V>::read(writer, place.at)?;
            let Parsed::Internal(view) = node.view() else {
                drop(node);
                return insert_in_leaf(writer, place.at, key, value);
            };
            let is_lowest = key < view.key(0);
            drop(node);
            if is_lowest {
                edit_internal(writer, place.at)?.set_key(0, key);
            }
            place = child_with_room::<V, W>(writer, place, key)?;
        }
        Err(node_error(place.at, NodeError::TooDeep))
    }

    /// Splits the root into two nodes below a new root.
    fn grow<W: Writer>(&mut self, writer: &mut W) -> Result<Place> {
        let left = self.root;
        let right = sibling::split::<V, W>(writer, left)?;
        let root = writer.new_block::<Node>()?;
        NodeEdit::<le::U64>::format(writer.edit::<Node>(root)?, node_flags::INTERNAL);
        for (index, child) in [left, right].into_iter().enumerate() {
            let first = sibling::first_key::<V, W>(writer, child)?;
            edit_internal(writer, root)?.insert(index, first, child.0.into());
        }
        self.root = root;
        Ok(Place::root(root))
    }
}

/// Returns whether the node at `at` has room for `key`: a leaf for the entry, an internal node for
/// the entry of a child that is split.
fn has_room_for<V: Value, R: Reader>(reader: &R, at: BlockNr, key: u64) -> Result<bool> {
    let node = NodeBlock::<V>::read(reader, at)?;
    Ok(match node.view() {
        Parsed::Internal(view) => view.len() < NodeView::<le::U64>::CAPACITY,
        Parsed::Leaf(view) => view.len() < NodeView::<V>::CAPACITY || view.get(key).is_some(),
    })
}

/// Shadows the child for `key` and makes room in it. `parent` must have room as well.
fn child_with_room<V: Value, W: Writer>(writer: &mut W, parent: Place, key: u64) -> Result<Place> {
    let node = NodeBlock::<V>::read(writer, parent.at)?;
    let (index, len) = (node.internal().route(key), node.internal().len());
    drop(node);
    let child = parent.shadow_child::<V, W>(writer, index)?;
    if has_room_for::<V, W>(writer, child.at, key)? {
        return Ok(child);
    }
    // Moving entries to a neighbour avoids a split and leaves fuller nodes.
    if index > 0 && is_roomy::<V, W>(writer, parent, index - 1)? {
        let left = parent.shadow_child::<V, W>(writer, index - 1)?;
        sibling::share::<V, W>(writer, left.at, child.at)?;
        let first = sibling::first_key::<V, W>(writer, child.at)?;
        edit_internal(writer, parent.at)?.set_key(index, first);
    } else if index + 1 < len && is_roomy::<V, W>(writer, parent, index + 1)? {
        let right = parent.shadow_child::<V, W>(writer, index + 1)?;
        sibling::share::<V, W>(writer, child.at, right.at)?;
        let first = sibling::first_key::<V, W>(writer, right.at)?;
        edit_internal(writer, parent.at)?.set_key(index + 1, first);
    } else {
        let right = sibling::split::<V, W>(writer, child.at)?;
        let first = sibling::first_key::<V, W>(writer, right)?;
        edit_internal(writer, parent.at)?.insert(index + 1, first, right.0.into());
    }
    parent.shadowed_child::<V, W>(writer, key)
}

/// Returns whether the child of entry `index` has room for many entries of a full neighbour: for at
/// least two, so that both have room after sharing, and for at least an eighth of a node, so that
/// sharing is not repeated for every insertion.
fn is_roomy<V: Value, R: Reader>(reader: &R, parent: Place, index: usize) -> Result<bool> {
    let node = NodeBlock::<V>::read(reader, parent.at)?;
    let fill = Fill::read::<V, R>(reader, node.internal().child(index))?;
    Ok(fill.capacity - fill.len >= (fill.capacity / 8).max(2))
}

fn insert_in_leaf<V: Value, W: Writer>(
    writer: &mut W,
    at: BlockNr,
    key: u64,
    value: V,
) -> Result<bool> {
    let node = NodeBlock::<V>::read(writer, at)?;
    let found = node.leaf().search(key).map(|index| (index, node.leaf().value(index)));
    drop(node);
    let mut edit = NodeEdit::of(writer.edit::<Node>(at)?);
    match found {
        Ok((index, replaced)) => {
            edit.set_value(index, value);
            replaced.dec(writer)?;
            Ok(false)
        }
        Err(index) => {
            edit.insert(index, key, value);
            Ok(true)
        }
    }
}
