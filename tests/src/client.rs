//! A small client of persistent-data that is not a clone: one superblock with a btree and its
//! snapshot, two arrays, a bitset, and the space map of some data.
//!
//! Whatever it does, it does to a [`Model`] too, and compares.

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

/// What the client's structures hold, in the structures of the standard library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// The btree.
    pub tree: BTreeMap<u64, u64>,
    /// Its snapshot.
    pub snapshot: Option<BTreeMap<u64, u64>>,
    /// The array.
    pub array: Vec<u32>,
    /// The contents of what the pointers point to.
    pub pointers: Vec<u64>,
    /// The bitset.
    pub bits: Vec<bool>,
    /// The counts of the data blocks that are in use.
    pub data: BTreeMap<u64, u32>,
    /// How many data blocks there are.
    pub nr_data: u64,
}

/// The client, open for writing.
#[derive(Debug)]
pub struct Client<D> {
    /// Where the structures are kept.
    pub writer: Audited<D>,
    committed: CatalogDisk,
    tree: Btree<le::U64>,
    snapshot: Option<Btree<le::U64>>,
    array: Array<le::U32>,
    pointers: Array<Pointer>,
    bitset: Bitset,
    data: DiskSpaceMap,
    /// Data blocks that this transaction has changed the count of.
    touched: BTreeSet<u64>,
}

/// Fewer than most operations change.
const DIRTY_BLOCKS_MAX: usize = 3;

impl<D: Device> Client<D> {
    /// Empty structures, committed.
    ///
    /// # Errors
    /// The library's.
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

    /// What was committed, of which all blocks are in `reachable`.
    ///
    /// # Errors
    /// The library's.
    pub fn open(device: D, reachable: BTreeSet<BlockNr>) -> Result<Self> {
        let committed = read_catalog(&device)?;
        let mut transaction = Transaction::open(device, &committed.space_map_root)?;
        // After every reopening, blocks are written ahead of the commit and changed again.
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

    /// The first step of a commit. What it gives is what the second takes.
    ///
    /// # Errors
    /// The library's.
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

    /// Both steps. The owner has to tell the [writer](Self::writer) what the commit reaches.
    ///
    /// # Errors
    /// The library's.
    pub fn commit(&mut self) -> Result<()> {
        let (prepared, catalog) = self.prepare()?;
        prepared.commit::<Catalog>(&catalog)?;
        self.begin_after(catalog);
        Ok(())
    }

    /// After both steps: the next transaction begins.
    pub fn begin_after(&mut self, committed: CatalogDisk) {
        self.committed = committed;
        self.touched.clear();
    }

    /// Back to the last commit.
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

/// Whether the superblock of `device` is that of a device without metadata.
fn is_unformatted<D: ReadDevice>(device: &D) -> Result<bool> {
    let mut block = RawBlock::ZERO;
    let read = device.read(SUPERBLOCK, std::slice::from_mut(&mut block));
    read.map_err(|source| Error::Read { at: SUPERBLOCK, source })?;
    Ok(block.is_zero() || is_unfinished(&block))
}
