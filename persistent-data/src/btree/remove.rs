//! Removal of entries. Nodes are refilled on the way down, so that none falls below a third.

use super::path::{Place, edit_internal};
use super::sibling::{self, Fill};
use super::{Btree, MAX_DEPTH, NodeBlock, NodeEdit, Parsed, Value, node_error};
use crate::error::{NodeError, Result};
use crate::format::Node;
use crate::store::Writer;

impl<V: Value> Btree<V> {
    /// Removes the entry of `key`, calls [`Value::dec`] for its value, and returns whether there
    /// was one. If there was none, nothing changes.
    ///
    /// # Errors
    /// Those of [`lookup`](Self::lookup), of [`Writer::shadow`] and of the two methods of
    /// [`Value`].
    pub fn remove<W: Writer>(&mut self, writer: &mut W, key: u64) -> Result<bool> {
        if self.lookup(writer, key)?.is_none() {
            return Ok(false);
        }
        let mut place = self.shadow_root(writer)?;
        for _ in 0..MAX_DEPTH {
            let node = NodeBlock::<V>::read(writer, place.at)?;
            let Parsed::Internal(view) = node.view() else {
                drop(node);
                return remove_from_leaf::<V, W>(writer, place, key);
            };
            let len = view.len();
            drop(node);
            let child = match len {
                1 => place.shadow_child::<V, W>(writer, 0)?,
                _ => child_to_spare::<V, W>(writer, place, key)?,
            };
            let len = Fill::read::<V, W>(writer, place.at)?.len;
            place = if len == 1 && place.at == self.root {
                // The old root's reference to the child passes to the tree.
                writer.dec(place.at)?;
                self.root = child.at;
                Place::root(child.at)
            } else {
                child
            };
        }
        Err(node_error(place.at, NodeError::TooDeep))
    }
}

/// Shadows the child for `key`, one of several, so that it can lose an entry: a child with the
/// minimum number of entries is merged with a neighbour, or the two share their entries equally.
fn child_to_spare<V: Value, W: Writer>(writer: &mut W, parent: Place, key: u64) -> Result<Place> {
    let node = NodeBlock::<V>::read(writer, parent.at)?;
    let index = node.internal().route(key);
    drop(node);
    let child = parent.shadow_child::<V, W>(writer, index)?;
    let fill = Fill::read::<V, W>(writer, child.at)?;
    if fill.len > fill.min {
        return Ok(child);
    }
    let left_index = index.saturating_sub(1);
    let right_index = left_index + 1;
    let left = parent.shadow_child::<V, W>(writer, left_index)?.at;
    let right = parent.shadow_child::<V, W>(writer, right_index)?.at;
    let total = Fill::read::<V, W>(writer, left)?.len + Fill::read::<V, W>(writer, right)?.len;
    // With one entry more, each of the two gets more than the minimum.
    if total <= 2 * fill.min + 1 {
        sibling::merge::<V, W>(writer, left, right)?;
        edit_internal(writer, parent.at)?.remove(right_index..right_index + 1);
    } else {
        sibling::share::<V, W>(writer, left, right)?;
        let first = sibling::first_key::<V, W>(writer, right)?;
        edit_internal(writer, parent.at)?.set_key(right_index, first);
    }
    parent.shadowed_child::<V, W>(writer, key)
}

fn remove_from_leaf<V: Value, W: Writer>(writer: &mut W, leaf: Place, key: u64) -> Result<bool> {
    let node = NodeBlock::<V>::read(writer, leaf.at)?;
    let Ok(index) = node.leaf().search(key) else {
        return Ok(false);
    };
    let value = node.leaf().value(index);
    drop(node);
    NodeEdit::<V>::of(writer.edit::<Node>(leaf.at)?).remove(index..index + 1);
    value.dec(writer)?;
    Ok(true)
}
