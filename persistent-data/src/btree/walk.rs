//! A walk through a whole tree that continues past damage and reports it.

use std::ops;

use super::node::KeyRange;
use super::{MAX_DEPTH, NodeBlock, NodeView, Value, node_error};
use crate::error::{Error, NodeError, Result};
use crate::number::BlockNr;
use crate::store::Reader;

/// An unusable node, and the keys that are lost with it.
#[derive(Debug)]
pub struct NodeDamage {
    /// Block number of the node.
    pub at: BlockNr,
    /// The keys whose entries were below the node. Half-open, but an end of [`u64::MAX`] means that
    /// there is no upper limit.
    pub keys: ops::Range<u64>,
    /// The defect.
    pub error: Error,
}

/// Receives the nodes that a [`walk`] reaches, by ascending keys.
pub trait WalkVisitor<V> {
    /// Called for a reference to the node `at`, which should hold `keys`, as in
    /// [`NodeDamage::keys`]. If it returns `false`, the walk skips the node without reading it.
    fn node(&mut self, at: BlockNr, keys: &ops::Range<u64>) -> bool;

    /// Called for the leaf `at`. Its keys lie in `keys`.
    fn leaf(&mut self, at: BlockNr, keys: &ops::Range<u64>, leaf: &NodeView<'_, V>);

    /// Called for an otherwise sound node whose header padding is not zero.
    fn padding(&mut self, _at: BlockNr) {}

    /// Called for an unusable node. The walk continues behind it.
    fn damage(&mut self, damage: NodeDamage);
}

/// Walks the tree at `root` and calls `visitor` for all readable nodes and all damage.
///
/// In addition to the checks of every node reader, a child's keys must lie between its key and the
/// next one in the parent, only the root may be an empty leaf, and all leaves must have the depth
/// of the first one.
///
/// The walk terminates for any block content, even if `visitor` enters every node: nodes of one
/// depth have disjoint key ranges and must hold at least one key, so no block is entered twice at
/// one depth.
pub fn walk<V: Value, R: Reader>(reader: &R, root: BlockNr, visitor: &mut impl WalkVisitor<V>) {
    let mut walk = Walk { reader, path: Vec::new(), leaf_depth: None };
    let mut next = Some((root, KeyRange::ALL));
    while let Some((at, keys)) = next {
        let half_open = keys.first..keys.last.saturating_add(1);
        if visitor.node(at, &half_open) {
            match walk.enter(at, keys) {
                Ok(entered) => {
                    let node = entered.as_ref().or(walk.path.last().map(|step| &step.node));
                    if node.is_some_and(NodeBlock::is_padded) {
                        visitor.padding(at);
                    }
                    if let Some(leaf) = entered {
                        visitor.leaf(at, &half_open, &leaf.leaf());
                    }
                }
                Err(error) => visitor.damage(NodeDamage { at, keys: half_open, error }),
            }
        }
        next = walk.next_child();
    }
}

struct Walk<'r, R, V> {
    reader: &'r R,
    /// The internal nodes from the root to the current position.
    path: Vec<Step<V>>,
    leaf_depth: Option<usize>,
}

struct Step<V> {
    node: NodeBlock<V>,
    keys: KeyRange,
    /// The entry whose child is visited next.
    next: usize,
}

impl<R: Reader, V: Value> Walk<'_, R, V> {
    /// Reads a child of the last node of the path. An internal node is appended to the path, a leaf
    /// is returned.
    fn enter(&mut self, at: BlockNr, keys: KeyRange) -> Result<Option<NodeBlock<V>>> {
        let depth = self.path.len();
        let node = if depth == 0 {
            NodeBlock::read(self.reader, at)?
        } else {
            NodeBlock::read_child(self.reader, at, keys)?
        };
        if node.is_leaf() {
            if *self.leaf_depth.get_or_insert(depth) != depth {
                return Err(node_error(at, NodeError::Level));
            }
            return Ok(Some(node));
        }
        if self.leaf_depth.is_some_and(|leaf_depth| leaf_depth <= depth) {
            return Err(node_error(at, NodeError::Level));
        }
        if depth + 1 >= MAX_DEPTH {
            return Err(node_error(at, NodeError::TooDeep));
        }
        self.path.push(Step { node, keys, next: 0 });
        Ok(None)
    }

    /// Returns the next unvisited child and the keys that it should hold.
    fn next_child(&mut self) -> Option<(BlockNr, KeyRange)> {
        loop {
            let step = self.path.last_mut()?;
            let view = step.node.internal();
            if step.next < view.len() {
                let index = step.next;
                step.next += 1;
                return Some((view.child(index), view.child_keys(index, step.keys)));
            }
            self.path.pop();
        }
    }
}
