//! A transaction whose block allocation is audited from outside.

use std::collections::BTreeSet;

use persistent_data::block::{Block, BlockKind};
use persistent_data::device::Device;
use persistent_data::store::{Reader, Shadow, Writer};
use persistent_data::transaction::Transaction;
use persistent_data::{BlockNr, Result};

/// A transaction that panics when it allocates a block that the last commit reaches, or one that it
/// has allocated before.
#[derive(Debug)]
pub struct Audited<D> {
    /// The audited transaction.
    pub transaction: Transaction<D>,
    committed: BTreeSet<BlockNr>,
    given_out: BTreeSet<BlockNr>,
}

impl<D: Device> Audited<D> {
    /// Audits `transaction`. The last commit reaches the blocks in `committed`.
    pub fn new(transaction: Transaction<D>, committed: BTreeSet<BlockNr>) -> Self {
        Self { transaction, committed, given_out: BTreeSet::new() }
    }

    /// Returns all blocks that this transaction has allocated so far, including freed ones.
    pub fn given_out(&self) -> &BTreeSet<BlockNr> {
        &self.given_out
    }

    /// Begins another transaction, after a commit that reaches `committed`.
    pub fn committed(&mut self, committed: BTreeSet<BlockNr>) {
        self.committed = committed;
        self.given_out.clear();
    }

    /// Aborts: the blocks may be allocated again.
    pub fn abort(&mut self) {
        self.transaction.abort();
        self.given_out.clear();
    }

    fn give_out(&mut self, at: BlockNr) -> BlockNr {
        assert!(!self.committed.contains(&at), "block {at} is given out, the last commit has it");
        assert!(self.given_out.insert(at), "block {at} is given out twice in one transaction");
        at
    }
}

impl<D: Device> Reader for Audited<D> {
    fn read<K: BlockKind>(&self, at: BlockNr) -> Result<Block<K>> {
        self.transaction.read(at)
    }
}

impl<D: Device> Writer for Audited<D> {
    fn new_block<K: BlockKind>(&mut self) -> Result<BlockNr> {
        let at = self.transaction.new_block::<K>()?;
        Ok(self.give_out(at))
    }

    fn shadow<K: BlockKind>(&mut self, at: BlockNr) -> Result<Shadow> {
        let shadow = self.transaction.shadow::<K>(at)?;
        if shadow.at == at {
            assert!(self.given_out.contains(&at), "block {at} is its own shadow and not new");
        } else {
            self.give_out(shadow.at);
        }
        Ok(shadow)
    }

    fn edit<K: BlockKind>(&mut self, at: BlockNr) -> Result<&mut K::Disk> {
        assert!(self.given_out.contains(&at), "block {at} is edited and not new");
        self.transaction.edit::<K>(at)
    }

    fn count(&self, at: BlockNr) -> Result<u32> {
        self.transaction.count(at)
    }

    fn inc(&mut self, at: BlockNr) -> Result<()> {
        self.transaction.inc(at)
    }

    fn dec(&mut self, at: BlockNr) -> Result<()> {
        self.transaction.dec(at)
    }
}
