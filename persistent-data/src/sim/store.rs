//! A [`Writer`] in memory that enforces the contract of writers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops;
use std::sync::Arc;

use crate::block::{self, Block, BlockError, BlockKind, RawBlock};
use crate::btree::{NodeDamage, NodeView, Value, WalkVisitor, walk};
use crate::error::{Error, Result};
use crate::number::BlockNr;
use crate::store::{Reader, Shadow, Writer};

/// Blocks and their reference counts in memory, in transactions.
///
/// A violation of the [`Writer`] contract panics. A clone is independent, so that a test can try an
/// operation and go back.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    nr_blocks: u64,
    blocks: BTreeMap<BlockNr, Arc<RawBlock>>,
    counts: BTreeMap<BlockNr, u32>,
    /// Blocks that are new in this transaction.
    new: BTreeMap<BlockNr, NewBlock>,
    /// Blocks that lost their last reference in this transaction.
    freed: BTreeSet<BlockNr>,
    /// No block below this one can be allocated in this transaction.
    none_free_before: u64,
}

/// The kind of a new block, which determines how it is sealed on commit.
#[derive(Clone, Copy, Debug)]
struct NewBlock {
    csum_salt: u32,
    seal: fn(&mut RawBlock, BlockNr),
}

impl MemoryStore {
    /// Creates a store of `nr_blocks` blocks, none of them in use.
    pub fn new(nr_blocks: u64) -> Self {
        Self {
            nr_blocks,
            blocks: BTreeMap::new(),
            counts: BTreeMap::new(),
            new: BTreeMap::new(),
            freed: BTreeSet::new(),
            none_free_before: 0,
        }
    }

    /// Begins a new transaction: the blocks of the current one are sealed and can no longer be
    /// edited, and those that it freed may be used again.
    pub fn commit(&mut self) {
        for (at, new) in std::mem::take(&mut self.new) {
            if let Some(raw) = self.blocks.get_mut(&at) {
                (new.seal)(Arc::make_mut(raw), at);
            }
        }
        for at in std::mem::take(&mut self.freed) {
            if !self.counts.contains_key(&at) {
                self.blocks.remove(&at);
                self.none_free_before = self.none_free_before.min(at.0);
            }
        }
    }

    /// Returns the blocks in use and their reference counts.
    pub fn counts(&self) -> &BTreeMap<BlockNr, u32> {
        &self.counts
    }

    /// Changes the committed block at `at` outside of any transaction. Its checksum stays as it is.
    ///
    /// # Panics
    /// If the block is not in use, or new in this transaction.
    pub fn corrupt(&mut self, at: BlockNr, change: impl FnOnce(&mut RawBlock)) {
        assert!(!self.new.contains_key(&at), "block {at} is committed");
        change(Arc::make_mut(self.blocks.get_mut(&at).expect("the block is in use")));
    }

    /// Like [`corrupt`](Self::corrupt), but seals the block again: only its content is wrong.
    pub fn rewrite<K: BlockKind>(&mut self, at: BlockNr, change: impl FnOnce(&mut K::Disk)) {
        self.corrupt(at, |raw| {
            change(block::view_mut::<K>(raw));
            block::seal::<K>(raw, at);
        });
    }

    /// Adds the references that a tree makes to `counts`: one to its root, and, if the root had
    /// none, those of all nodes below. `value` is called for each entry of a leaf that had no
    /// reference, and must count the references of the value.
    ///
    /// # Panics
    /// If the tree is damaged.
    pub fn count_tree<V: Value>(
        &self,
        root: BlockNr,
        counts: &mut BTreeMap<BlockNr, u32>,
        value: impl FnMut(u64, V),
    ) {
        walk(self, root, &mut CountReferences { counts, value });
    }
}

struct CountReferences<'c, F> {
    counts: &'c mut BTreeMap<BlockNr, u32>,
    value: F,
}

impl<V: Value, F: FnMut(u64, V)> WalkVisitor<V> for CountReferences<'_, F> {
    fn node(&mut self, at: BlockNr, _keys: &ops::Range<u64>) -> bool {
        let count = self.counts.entry(at).or_default();
        *count += 1;
        *count == 1
    }

    fn leaf(&mut self, _at: BlockNr, _keys: &ops::Range<u64>, leaf: &NodeView<'_, V>) {
        for (key, value) in leaf.entries() {
            (self.value)(key, value);
        }
    }

    fn damage(&mut self, damage: NodeDamage) {
        panic!("{damage:?}");
    }
}

impl MemoryStore {
    fn check_range(&self, at: BlockNr) -> Result<()> {
        let nr_blocks = self.nr_blocks;
        if at.0 < nr_blocks { Ok(()) } else { Err(Error::OutOfRange { at, nr_blocks }) }
    }

    fn allocate<K: BlockKind>(&mut self, raw: Arc<RawBlock>) -> Result<BlockNr> {
        let at = (self.none_free_before..self.nr_blocks)
            .map(BlockNr)
            .find(|at| !self.counts.contains_key(at) && !self.freed.contains(at))
            .ok_or(Error::NoSpace)?;
        self.none_free_before = at.0 + 1;
        self.blocks.insert(at, raw);
        self.counts.insert(at, 1);
        self.new.insert(at, NewBlock { csum_salt: K::CSUM_SALT, seal: block::seal::<K> });
        Ok(at)
    }

    fn checked<K: BlockKind>(&self, at: BlockNr) -> Result<Arc<RawBlock>> {
        self.check_range(at)?;
        let fail = |source| Error::Block { kind: K::NAME, at, source };
        let raw = self.blocks.get(&at).cloned().unwrap_or_else(|| Arc::new(RawBlock::ZERO));
        match self.new.get(&at) {
            Some(new) if new.csum_salt == K::CSUM_SALT => {}
            Some(new) => {
                let found = block::checksum(&raw, new.csum_salt);
                let expected = block::checksum(&raw, K::CSUM_SALT);
                return Err(fail(BlockError::Checksum { found, expected }));
            }
            None => {
                block::check::<K>(&raw, at).map_err(fail)?;
            }
        }
        Ok(raw)
    }
}

impl Reader for MemoryStore {
    fn read<K: BlockKind>(&self, at: BlockNr) -> Result<Block<K>> {
        self.checked::<K>(at).map(Block::trusted)
    }
}

impl Writer for MemoryStore {
    fn new_block<K: BlockKind>(&mut self) -> Result<BlockNr> {
        self.allocate::<K>(Arc::new(RawBlock::ZERO))
    }

    fn shadow<K: BlockKind>(&mut self, at: BlockNr) -> Result<Shadow> {
        let raw = self.checked::<K>(at)?;
        let count = self.count(at)?;
        if count == 0 {
            return Err(Error::CountUnderflow { at });
        }
        if count == 1 && self.new.contains_key(&at) {
            return Ok(Shadow { at, was_shared: false });
        }
        let copy = self.allocate::<K>(raw)?;
        self.dec(at)?;
        Ok(Shadow { at: copy, was_shared: count > 1 })
    }

    /// Returns the block at `at`, for changes.
    ///
    /// # Panics
    /// If the block is not new in this transaction, not a `K`, free, or shared, since a change of a
    /// shared block would affect its other referrers.
    fn edit<K: BlockKind>(&mut self, at: BlockNr) -> Result<&mut K::Disk> {
        let salt = self.new.get(&at).map(|new| new.csum_salt);
        assert_eq!(salt, Some(K::CSUM_SALT), "block {at} is a new {}", K::NAME);
        assert_eq!(self.counts.get(&at), Some(&1), "block {at} has one referrer");
        let raw = self.blocks.get_mut(&at).expect("a new block is kept until the commit");
        Ok(block::view_mut::<K>(Arc::make_mut(raw)))
    }

    fn count(&self, at: BlockNr) -> Result<u32> {
        self.check_range(at)?;
        Ok(self.counts.get(&at).copied().unwrap_or(0))
    }

    fn inc(&mut self, at: BlockNr) -> Result<()> {
        self.check_range(at)?;
        let count = self.counts.entry(at).or_default();
        *count = count.checked_add(1).ok_or(Error::CountOverflow { at })?;
        Ok(())
    }

    fn dec(&mut self, at: BlockNr) -> Result<()> {
        self.check_range(at)?;
        let count = self.counts.get_mut(&at).ok_or(Error::CountUnderflow { at })?;
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&at);
            self.freed.insert(at);
        }
        Ok(())
    }
}
