//! Descents from the root, for reads and for changes.

use zerocopy::little_endian as le;

use super::node::KeyRange;
use super::{Btree, MAX_DEPTH, NodeBlock, NodeEdit, NodeView, Parsed, Value, node_error};
use crate::error::{NodeError, Result};
use crate::format::Node;
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

/// The leaf that holds a key if the tree has it.
pub(super) struct FoundLeaf<V> {
    node: NodeBlock<V>,
    /// The keys that this leaf holds if the tree has them.
    pub(super) answers: KeyRange,
}

impl<V: Value> FoundLeaf<V> {
    pub(super) fn view(&self) -> NodeView<'_, V> {
        self.node.leaf()
    }
}

/// Returns the leaf that holds `key` if the tree has it.
pub(super) fn find_leaf<V: Value, R: Reader>(
    reader: &R,
    root: BlockNr,
    key: u64,
) -> Result<FoundLeaf<V>> {
    let mut node = NodeBlock::<V>::read(reader, root)?;
    let mut keys = KeyRange::ALL;
    // A first child also covers the keys below its own key in the parent, although it may not hold
    // any of them.
    let mut answers = KeyRange::ALL;
    for _ in 0..MAX_DEPTH {
        let Parsed::Internal(view) = node.view() else {
            return Ok(FoundLeaf { node, answers });
        };
        let index = view.route(key);
        let child = view.child(index);
        keys = view.child_keys(index, keys);
        answers = KeyRange {
            first: if key < keys.first { answers.first } else { keys.first },
            last: keys.last,
        };
        node = NodeBlock::read_child(reader, child, keys)?;
    }
    Err(node_error(node.at(), NodeError::TooDeep))
}

/// A node that is new in this transaction, and the key range that its parent gives it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) at: BlockNr,
    pub(super) keys: KeyRange,
}

impl Place {
    pub(super) fn root(at: BlockNr) -> Self {
        Self { at, keys: KeyRange::ALL }
    }

    /// Returns the child for `key`, which must have been shadowed.
    pub(super) fn shadowed_child<V: Value, W: Writer>(self, writer: &W, key: u64) -> Result<Self> {
        let node = NodeBlock::<V>::read(writer, self.at)?;
        let view = node.internal();
        let index = view.route(key);
        Ok(Self { at: view.child(index), keys: view.child_keys(index, self.keys) })
    }

    /// Shadows the child of entry `index` and points the entry to the shadow.
    pub(super) fn shadow_child<V: Value, W: Writer>(
        self,
        writer: &mut W,
        index: usize,
    ) -> Result<Self> {
        let node = NodeBlock::<V>::read(writer, self.at)?;
        let view = node.internal();
        let (child, keys) = (view.child(index), view.child_keys(index, self.keys));
        drop(node);
        let child = NodeBlock::<V>::read_child(writer, child, keys)?;
        let at = shadow(writer, child)?;
        edit_internal(writer, self.at)?.set_value(index, at.0.into());
        Ok(Self { at, keys })
    }
}

impl<V: Value> Btree<V> {
    /// Shadows the root.
    pub(super) fn shadow_root<W: Writer>(&mut self, writer: &mut W) -> Result<Place> {
        let root = NodeBlock::<V>::read(writer, self.root)?;
        self.root = shadow(writer, root)?;
        Ok(Place::root(self.root))
    }

    /// Shadows the nodes from the root to the leaf for `key`, and returns the leaf.
    pub(super) fn shadow_path<W: Writer>(&mut self, writer: &mut W, key: u64) -> Result<BlockNr> {
        let mut place = self.shadow_root(writer)?;
        for _ in 0..MAX_DEPTH {
            let node = NodeBlock::<V>::read(writer, place.at)?;
            let Parsed::Internal(view) = node.view() else {
                return Ok(place.at);
            };
            let index = view.route(key);
            drop(node);
            place = place.shadow_child::<V, W>(writer, index)?;
        }
        Err(node_error(place.at, NodeError::TooDeep))
    }
}

/// Shadows `node`. If the original stays in use, adds a reference to all that the node refers to.
fn shadow<V: Value, W: Writer>(writer: &mut W, node: NodeBlock<V>) -> Result<BlockNr> {
    let shadow = writer.shadow::<Node>(node.at())?;
    if shadow.was_shared {
        match node.view() {
            Parsed::Internal(view) => {
                for child in view.children() {
                    writer.inc(child)?;
                }
            }
            Parsed::Leaf(view) => {
                for (_, value) in view.entries() {
                    value.inc(writer)?;
                }
            }
        }
    }
    Ok(shadow.at)
}

/// Returns the internal node at `at` for changes.
pub(super) fn edit_internal<W: Writer>(
    writer: &mut W,
    at: BlockNr,
) -> Result<NodeEdit<'_, le::U64>> {
    Ok(NodeEdit::of(writer.edit::<Node>(at)?))
}
