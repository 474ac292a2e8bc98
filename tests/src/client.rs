//! A small user of persistent-data that is not a clone: one superblock with a btree and its
//! snapshot, two arrays, a bitset, and the space map of some data.
//!
//! It applies each operation to a [`Model`] too, and compares the results.

use std::collections::{BTreeMap, BTreeSet};

use persistent_data::array::Array;
use persistent_data::bitset::Bitset;
use persistent_data::block::{Block, RawBlock};
use persistent_data::btree::Btree;
use persistent_data::device::{Device, ReadDevice};
use persistent_data::space_map::DiskSpaceMap;
use persistent_data::store::{DeviceReader, Reader};
use persistent_data::transaction::{
    Prepared, SUPERBLOCK, Transaction, is_unfinished, wipe_superblock,
};
use persistent_data::{BlockNr, Error, Result};
use zerocopy::{FromZeros, little_endian as le};

mod inspect;
pub mod layout;
mod operations;
mod run;

pub use inspect::{OnDevice, inspect};
pub use operations::{ALL, Family};
pub use run::{Mix, Run};

use crate::audited::Audited;
use layout::{Catalog, CatalogDisk, Pointer};

/// Content of the client's structures, in collections of the standard library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Content of the btree.
    pub tree: BTreeMap<u64, u64>,
    /// Content of the btree's snapshot.
    pub snapshot: Option<BTreeMap<u64, u64>>,
    /// Content of the array.
    pub array: Vec<u32>,
    /// Contents of the blocks that the pointers refer to.
    pub pointers: Vec<u64>,
    /// Content of the bitset.
    pub bits: Vec<bool>,
    /// Reference counts of the data blocks in use.
    pub data: BTreeMap<u64, u32>,
    /// Number of data blocks.
    pub nr_data: u64,
}

/// The client, open for writing.
#[derive(Debug)]
pub struct Client<D> {
    /// The transaction that holds the structures.
    pub writer: Audited<D>,
    committed: CatalogDisk,
    tree: Btree<le::U64>,
    snapshot: Option<Btree<le::U64>>,
    array: Array<le::U32>,
    pointers: Array<Pointer>,
    bitset: Bitset,
    data: DiskSpaceMap,
    /// Data blocks whose count this transaction has changed.
    touched: BTreeSet<u64>,
}

/// Limit on dirty blocks; most operations change more.
const DIRTY_BLOCKS_MAX: usize = 3;

impl<D: Device> Client<D> {
    /// Creates and commits empty structures.
    ///
    /// # Errors
    /// Any error of persistent-data.
    pub fn create(device: D) -> Result<Self> {
        wipe_superblock(&device)?;
        let mut writer = Audited::new(Transaction::create(device)?, BTreeSet::from([SUPERBLOCK]));
        let mut client = Self {
            committed: CatalogDisk::new_zeroed(),
            tree: Btree::create(&mut writer)?,
            snapshot: None,
            array: Array::create(&mut writer)?,
            pointers: Array::create(&mut writer)?,
            bitset: Bitset::create(&mut writer)?,
            data: DiskSpaceMap::create(&mut writer, 0)?,
            writer,
            touched: BTreeSet::new(),
        };
        client.commit()?;
        Ok(client)
    }

    /// Opens the last commit, which reaches the blocks in `reachable`.
    ///
    /// # Errors
    /// Any error of persistent-data.
    pub fn open(device: D, reachable: BTreeSet<BlockNr>) -> Result<Self> {
        let committed = read_catalog(&device)?;
        let mut transaction = Transaction::open(device, &committed.space_map_root)?;
        // With this limit, blocks are written ahead of the commit and changed again after every
        // reopening.
        transaction.limit_dirty(DIRTY_BLOCKS_MAX);
        Ok(Self::over(Audited::new(transaction, reachable), committed))
    }

    fn over(writer: Audited<D>, committed: CatalogDisk) -> Self {
        let at = |root: le::U64| BlockNr(root.get());
        let snapshot = at(committed.snapshot);
        Self {
            writer,
            tree: Btree::open(at(committed.tree)),
            snapshot: (snapshot != SUPERBLOCK).then(|| Btree::open(snapshot)),
            array: Array::open(at(committed.array), committed.array_len.get()),
            pointers: Array::open(at(committed.pointers), committed.pointers_len.get()),
            bitset: Bitset::open(at(committed.bitset), committed.bitset_len.get()),
            data: DiskSpaceMap::open(committed.data_root),
            touched: BTreeSet::new(),
            committed,
        }
    }

    /// Runs the first step of a commit. Returns the input of the second step.
    ///
    /// # Errors
    /// Any error of persistent-data.
    pub fn prepare(&mut self) -> Result<(Prepared<'_, D>, CatalogDisk)> {
        let mut catalog = CatalogDisk::new_zeroed();
        catalog.bitset.set(self.bitset.flush(&mut self.writer)?.0);
        catalog.bitset_len.set(self.bitset.len());
        catalog.data_root = self.data.commit(&mut self.writer)?;
        catalog.tree.set(self.tree.root().0);
        catalog.snapshot.set(self.snapshot.as_ref().map_or(0, |snapshot| snapshot.root().0));
        catalog.array.set(self.array.root().0);
        catalog.array_len.set(self.array.len());
        catalog.pointers.set(self.pointers.root().0);
        catalog.pointers_len.set(self.pointers.len());
        let prepared = self.writer.transaction.prepare()?;
        catalog.space_map_root = *prepared.space_map_root();
        Ok((prepared, catalog))
    }

    /// Runs both steps of a commit. Afterwards the caller has to report the reachable blocks to the
    /// [writer](Self::writer).
    ///
    /// # Errors
    /// Any error of persistent-data.
    pub fn commit(&mut self) -> Result<()> {
        let (prepared, catalog) = self.prepare()?;
        prepared.commit::<Catalog>(&catalog)?;
        self.begin_after(catalog);
        Ok(())
    }

    /// Begins the next transaction after both steps of a commit.
    pub fn begin_after(&mut self, committed: CatalogDisk) {
        self.committed = committed;
        self.touched.clear();
    }

    /// Reverts to the last commit.
    pub fn abort(self) -> Self {
        let mut writer = self.writer;
        writer.abort();
        Self::over(writer, self.committed)
    }
}

fn read_catalog<D: Device>(device: &D) -> Result<CatalogDisk> {
    let catalog: Block<Catalog> = DeviceReader(device).read(SUPERBLOCK)?;
    Ok((*catalog).clone())
}

/// Returns whether the superblock of `device` belongs to a device without metadata.
fn is_unformatted<D: ReadDevice>(device: &D) -> Result<bool> {
    let mut block = RawBlock::ZERO;
    let read = device.read(SUPERBLOCK, std::slice::from_mut(&mut block));
    read.map_err(|source| Error::Read { at: SUPERBLOCK, source })?;
    Ok(block.is_zero() || is_unfinished(&block))
}
