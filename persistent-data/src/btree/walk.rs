//! A walk through a whole tree that survives damage, and says what it lost.

use std::ops;

use super::node::KeyRange;
use super::{MAX_DEPTH, NodeBlock, NodeView, Value, node_error};
use crate::error::{Error, NodeError, Result};
use crate::number::BlockNr;
use crate::store::Reader;

/// A node that could not be used, and what is lost with it.
#[derive(Debug)]
pub struct NodeDamage {
    /// Where the node is, or should be.
    pub at: BlockNr,
    /// The keys whose entries it should lead to. Half-open, but an end of [`u64::MAX`] means that
    /// there is none.
    pub keys: ops::Range<u64>,
    /// What is wrong.
    pub error: Error,
}

/// What a [`walk`] meets, by ascending keys.
pub trait WalkVisitor<V> {
    /// A reference to the node `at`, which should hold `keys`, as in [`NodeDamage::keys`]. With
    /// `false` the walk goes on behind it, without reading it.
    fn node(&mut self, at: BlockNr, keys: &ops::Range<u64>) -> bool;

    /// The leaf `at`. Its keys lie in `keys`.
    fn leaf(&mut self, at: BlockNr, keys: &ops::Range<u64>, leaf: &NodeView<'_, V>);

    /// The padding in the header of a node, which is sound otherwise, is not zero.
    fn padding(&mut self, _at: BlockNr) {}

    /// A node is not what it must be. The walk goes on behind it.
    fn damage(&mut self, damage: NodeDamage);
}

/// Shows `visitor` all of the tree at `root` that can be read, and what cannot.
///
/// Besides what every reader of a node checks, a child's keys have to lie between its key and the
/// next in the parent, only the root may be an empty leaf, and all leaves have to be as deep as
/// the first.
///
/// This comes to an end whatever the blocks hold, even if `visitor` lets it go everywhere: the
/// nodes of one depth are given disjoint keys and have to hold some of them, so that no block
/// passes twice at one depth.
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
    /// The internal nodes on the way down to where the walk is.
    path: Vec<Step<V>>,
    leaf_depth: Option<usize>,
}

struct Step<V> {
    node: NodeBlock<V>,
    keys: KeyRange,
    /// The entry whose child is next.
    next: usize,
}

impl<R: Reader, V: Value> Walk<'_, R, V> {
    /// Reads a child of the last node of the path. It becomes the last of the path if it is
    /// internal, and is returned if it is a leaf.
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

    /// The next child that has not been visited, and the keys that it should hold.
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
