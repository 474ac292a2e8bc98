//! Transactions: blocks change by copy-on-write, and a new superblock makes all changes valid at
//! once.
//!
//! A commit has two steps, each with its own type. [`Transaction::prepare`] writes everything but
//! the superblock and flushes the device; all errors that leave the old metadata valid occur there.
//! It returns a [`Prepared`], which alone can write a superblock. Between the two steps the owner
//! makes durable everything that the new superblock depends on.
//!
//! After a failed write or flush the transaction is *spent*: the content of the device is unknown,
//! so nothing more is written. Reads still work, and after an [`abort`](Transaction::abort) they
//! return the last commit. For everything else the metadata must be opened again.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::block::{self, Block, BlockKind, RawBlock};
use crate::device::{Device, ReadDevice};
use crate::error::{Error, Result};
use crate::format::{SpaceMapRoot, SpaceMapRootArea};
use crate::number::BlockNr;
use crate::space_map::metadata::{Counted, MetadataSpaceMap};
use crate::store::{Reader, Shadow, Writer, bad_block, read_block};

mod cache;

use cache::Cache;

/// Block number of every superblock.
pub const SUPERBLOCK: BlockNr = BlockNr(0);

/// Default limit of dirty blocks that are kept in memory: 4 MiB.
const DIRTY_BLOCKS_MAX: usize = 1024;

/// Maximum number of blocks in one write: 1 MiB.
const WRITE_BATCH: usize = 256;

/// A block that differs from the block on the device.
struct Dirty {
    block: Arc<RawBlock>,
    kind: TypeId,
    seal: fn(&mut RawBlock, BlockNr),
}

impl Dirty {
    fn new<K: BlockKind>(block: Arc<RawBlock>) -> Self {
        Self { block, kind: TypeId::of::<K>(), seal: block::seal::<K> }
    }
}

/// Operations that the transaction still allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// An operation failed half-way. Only [`Transaction::abort`] is possible.
    Broken,
    /// A write or a flush failed. The metadata must be opened again.
    Spent,
}

/// The blocks of a metadata device: checked reads, and one transaction after another.
pub struct Transaction<D> {
    device: D,
    cache: RefCell<Cache>,
    /// *Invariant:* no dirty block is in the cache.
    dirty: HashMap<u64, Dirty>,
    dirty_blocks_max: usize,
    /// Blocks that this transaction has allocated and that are still in use. They may be edited.
    fresh: HashSet<u64>,
    space_map: MetadataSpaceMap,
    state: State,
    /// Memory of blocks that were written ahead of the commit, for reuse.
    spare: Vec<Arc<RawBlock>>,
}

impl<D> std::fmt::Debug for Transaction<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction")
            .field("dirty", &self.dirty.len())
            .field("fresh", &self.fresh.len())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<D: Device> Transaction<D> {
    /// Starts a transaction on a device without metadata: all blocks but the superblock are free.
    ///
    /// Nothing is written before the first commit. The caller must [wipe](wipe_superblock) an old
    /// superblock on the device, because the blocks that it reaches will be overwritten.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if there is no room for a superblock.
    pub fn create(device: D) -> Result<Self> {
        let space_map = MetadataSpaceMap::create(device.nr_blocks());
        let mut transaction = Self::over(device, space_map);
        if transaction.space_map.nr_blocks() == 0 {
            return Err(Error::NoSpace);
        }
        transaction.space_map.set(SUPERBLOCK, 1);
        Ok(transaction)
    }

    /// Starts a transaction on a device whose superblock holds `space_map_root`.
    ///
    /// Only the space map is checked, not the rest of the metadata.
    ///
    /// # Errors
    /// [`Error::SpaceMap`] if the root does not fit the device, and those of [`Reader::read`] for
    /// the space map's blocks.
    pub fn open(device: D, space_map_root: &SpaceMapRootArea) -> Result<Self> {
        let device_blocks = device.nr_blocks();
        let unmapped = MetadataSpaceMap::create(device_blocks);
        let mut transaction = Self::over(device, unmapped);
        let root = SpaceMapRoot::from_area(space_map_root);
        transaction.space_map = MetadataSpaceMap::open(&transaction, root, device_blocks)?;
        Ok(transaction)
    }

    fn over(device: D, space_map: MetadataSpaceMap) -> Self {
        Self {
            device,
            cache: RefCell::new(Cache::default()),
            dirty: HashMap::new(),
            dirty_blocks_max: DIRTY_BLOCKS_MAX,
            fresh: HashSet::new(),
            space_map,
            state: State::Open,
            spare: Vec::new(),
        }
    }

    /// Returns the device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Returns the number of blocks that the space map covers.
    pub fn nr_blocks(&self) -> u64 {
        self.space_map.nr_blocks()
    }

    /// Returns the number of blocks in use as of the last commit, which the status line shows.
    pub fn nr_allocated(&self) -> u64 {
        self.space_map.nr_allocated()
    }

    /// Limits the number of dirty blocks that are kept in memory. More than `blocks` are written
    /// before the commit. This is safe, since the last commit does not reach them.
    ///
    /// For programs that are short of memory, and for tests of transactions that exceed it: the
    /// default suits dm-clone metadata, whose commits are small.
    pub fn limit_dirty(&mut self, blocks: usize) {
        self.dirty_blocks_max = blocks;
    }

    /// Extends the space map to the present size of the device, up to the kernel's limit.
    pub fn extend(&mut self) {
        self.space_map.extend(self.device.nr_blocks());
    }

    /// Sets the reference count of the block at `at` to `count`, the number that a walk has found.
    /// The next commit writes the count to the bitmap, the index and the tree of large counts.
    ///
    /// Only repair may call this: nothing else may set a count.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] past the end, [`Error::Broken`] and [`Error::Spent`] after an earlier
    /// failure.
    pub fn correct_count(&mut self, at: BlockNr, count: u32) -> Result<()> {
        self.writable()?;
        let nr_blocks = self.nr_blocks();
        if at.0 >= nr_blocks {
            return Err(Error::OutOfRange { at, nr_blocks });
        }
        self.space_map.set(at, count);
        Ok(())
    }

    /// Makes the next commit write the space map's index, and zero the unused parts of the index,
    /// the bitmaps and the tree of large counts. Used by repair.
    pub fn tidy_space_map(&mut self) {
        self.space_map.tidy();
    }

    /// True if a write or a flush has failed. Nothing more is written then.
    pub fn is_spent(&self) -> bool {
        self.state == State::Spent
    }

    /// Writes all changes but the superblock, and flushes the device.
    ///
    /// If the result is dropped, the last commit stays in place and the transaction stays open.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and read errors: the transaction can be aborted. [`Error::Write`] and
    /// [`Error::Flush`]: it is spent. [`Error::Broken`] and [`Error::Spent`]: an earlier operation
    /// has failed.
    pub fn prepare(&mut self) -> Result<Prepared<'_, D>> {
        self.guarded(Self::writable)?;
        let root = self.guarded(Counted::write_space_map)?;
        self.write_dirty()?;
        let cache = self.cache.get_mut();
        for (at, dirty) in self.dirty.drain() {
            cache.insert(at, dirty.kind, dirty.block);
        }
        self.spare = Vec::new();
        self.flush()?;
        Ok(Prepared { transaction: self, space_map_root: root.to_area() })
    }

    /// Discards all changes since the last commit.
    pub fn abort(&mut self) {
        // The cache may hold a block that was written ahead of the commit; its number is free.
        let mut cache = self.cache.borrow_mut();
        for at in self.fresh.drain() {
            cache.remove(at);
        }
        drop(cache);
        self.dirty.clear();
        self.space_map.abort();
        if !self.space_map.is_on_device() {
            self.space_map.set(SUPERBLOCK, 1);
        }
        if self.state == State::Broken {
            self.state = State::Open;
        }
    }

    fn writable(&mut self) -> Result<()> {
        match self.state {
            State::Open => Ok(()),
            State::Broken => Err(Error::Broken),
            State::Spent => Err(Error::Spent),
        }
    }

    /// Runs an operation that may be half-done when it fails.
    fn guarded<T>(&mut self, operation: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let result = operation(self);
        if result.is_err() && self.state == State::Open {
            self.state = State::Broken;
        }
        result
    }

    /// Writes every dirty block in place, in ascending order and in large requests.
    fn write_dirty(&mut self) -> Result<()> {
        let mut blocks: Vec<u64> = self.dirty.keys().copied().collect();
        blocks.sort_unstable();
        let mut buffer: Vec<RawBlock> = Vec::with_capacity(WRITE_BATCH.min(blocks.len()));
        for piece in blocks.chunk_by(|a, b| a + 1 == *b).flat_map(|run| run.chunks(WRITE_BATCH)) {
            buffer.clear();
            for at in piece {
                let dirty = &self.dirty[at];
                let mut sealed = (*dirty.block).clone();
                (dirty.seal)(&mut sealed, BlockNr(*at));
                buffer.push(sealed);
            }
            self.write(BlockNr(piece[0]), &buffer)?;
        }
        Ok(())
    }

    /// Writes the dirty blocks ahead of the commit. They are not expected to be read again.
    fn write_ahead(&mut self) -> Result<()> {
        self.write_dirty()?;
        let unshared = self.dirty.drain().map(|(_, dirty)| dirty.block);
        self.spare.extend(unshared.filter(|block| Arc::strong_count(block) == 1));
        Ok(())
    }

    /// Returns a block of zeroes in memory.
    fn zeroed(&mut self) -> Arc<RawBlock> {
        let mut block = self.spare.pop().unwrap_or_else(|| Arc::new(RawBlock::ZERO));
        match Arc::get_mut(&mut block) {
            Some(raw) => {
                raw.bytes_mut().fill(0);
                block
            }
            None => Arc::new(RawBlock::ZERO),
        }
    }

    fn write(&mut self, first: BlockNr, blocks: &[RawBlock]) -> Result<()> {
        assert!(self.state != State::Spent, "nothing is written after a failed write or flush");
        self.device.write(first, blocks).map_err(|source| {
            self.state = State::Spent;
            Error::Write { at: first, source }
        })
    }

    fn flush(&mut self) -> Result<()> {
        self.device.flush().map_err(|source| {
            self.state = State::Spent;
            Error::Flush { source }
        })
    }

    fn allocate(&mut self) -> Result<BlockNr> {
        self.writable()?;
        if self.dirty.len() >= self.dirty_blocks_max {
            self.write_ahead()?;
        }
        let at = self.space_map.find_free(self)?;
        self.space_map.take(at);
        self.fresh.insert(at.0);
        self.cache.get_mut().remove(at.0);
        Ok(at)
    }

    fn shadow_block<K: BlockKind>(&mut self, at: BlockNr) -> Result<Shadow> {
        let count = self.space_map.count(self, at)?;
        if count == 1 && self.fresh.contains(&at.0) {
            return Ok(Shadow { at, was_shared: false });
        }
        let original = self.read::<K>(at)?;
        let copy = self.allocate()?;
        self.dirty.insert(copy.0, Dirty::new::<K>(original.into_raw()));
        self.drop_reference(at)?;
        Ok(Shadow { at: copy, was_shared: count > 1 })
    }

    fn drop_reference(&mut self, at: BlockNr) -> Result<()> {
        let count = self.space_map.decremented(self, at)?;
        self.space_map.set(at, count);
        if count == 0 && self.fresh.remove(&at.0) {
            self.dirty.remove(&at.0);
        }
        Ok(())
    }

    fn make_dirty<K: BlockKind>(&mut self, at: BlockNr) -> Result<()> {
        self.writable()?;
        assert!(self.fresh.contains(&at.0), "block {at} is not new in this transaction");
        if !self.dirty.contains_key(&at.0) {
            let block = self.read::<K>(at)?.into_raw();
            // The cached copy would become stale.
            self.cache.get_mut().remove(at.0);
            self.dirty.insert(at.0, Dirty::new::<K>(block));
        }
        Ok(())
    }
}

impl<D: ReadDevice> Reader for Transaction<D> {
    fn read<K: BlockKind>(&self, at: BlockNr) -> Result<Block<K>> {
        let kind = TypeId::of::<K>();
        if let Some(dirty) = self.dirty.get(&at.0) {
            if dirty.kind == kind {
                return Ok(Block::trusted(Arc::clone(&dirty.block)));
            }
            // Only a damaged pointer leads here. The checksum detects it, as on the device.
            let mut sealed = (*dirty.block).clone();
            (dirty.seal)(&mut sealed, at);
            return Block::checked(Arc::new(sealed), at).map_err(bad_block::<K>(at));
        }
        if let Some(block) = self.cache.borrow_mut().get(at.0, kind) {
            return Ok(Block::trusted(block));
        }
        let block = read_block(&self.device, at)?;
        let checked = Block::checked(Arc::clone(&block), at).map_err(bad_block::<K>(at))?;
        self.cache.borrow_mut().insert(at.0, kind, block);
        Ok(checked)
    }
}

impl<D: Device> Counted for Transaction<D> {
    fn space_map(&mut self) -> &mut MetadataSpaceMap {
        &mut self.space_map
    }
}

impl<D: Device> Writer for Transaction<D> {
    fn new_block<K: BlockKind>(&mut self) -> Result<BlockNr> {
        self.guarded(|transaction| {
            let at = transaction.allocate()?;
            let block = transaction.zeroed();
            transaction.dirty.insert(at.0, Dirty::new::<K>(block));
            Ok(at)
        })
    }

    fn shadow<K: BlockKind>(&mut self, at: BlockNr) -> Result<Shadow> {
        self.guarded(|transaction| transaction.shadow_block::<K>(at))
    }

    fn edit<K: BlockKind>(&mut self, at: BlockNr) -> Result<&mut K::Disk> {
        self.guarded(|transaction| transaction.make_dirty::<K>(at))?;
        let dirty = self.dirty.get_mut(&at.0).expect("it has just been put there");
        assert!(dirty.kind == TypeId::of::<K>(), "block {at} is of another kind");
        Ok(block::view_mut::<K>(Arc::make_mut(&mut dirty.block)))
    }

    fn count(&self, at: BlockNr) -> Result<u32> {
        self.space_map.count(self, at)
    }

    fn inc(&mut self, at: BlockNr) -> Result<()> {
        self.guarded(|transaction| {
            transaction.writable()?;
            let count = transaction.space_map.incremented(transaction, at)?;
            transaction.space_map.set(at, count);
            Ok(())
        })
    }

    fn dec(&mut self, at: BlockNr) -> Result<()> {
        self.guarded(|transaction| {
            transaction.writable()?;
            transaction.drop_reference(at)
        })
    }
}

/// A transaction whose blocks are all on the medium, except the superblock.
#[derive(Debug)]
#[must_use = "nothing has changed for whoever opens the metadata before the superblock is written"]
pub struct Prepared<'a, D> {
    transaction: &'a mut Transaction<D>,
    space_map_root: SpaceMapRootArea,
}

impl<D: Device> Prepared<'_, D> {
    /// Returns the root of the space map, which the superblock must hold.
    pub fn space_map_root(&self) -> &SpaceMapRootArea {
        &self.space_map_root
    }

    /// Writes `superblock` and flushes the device. The new metadata is then committed.
    ///
    /// # Errors
    /// [`Error::Write`] and [`Error::Flush`]: the medium may hold the new or the old superblock,
    /// and the transaction is spent.
    pub fn commit<K: BlockKind>(self, superblock: &K::Disk) -> Result<()> {
        let mut block = RawBlock::ZERO;
        block.bytes_mut().copy_from_slice(zerocopy::IntoBytes::as_bytes(superblock));
        block::seal::<K>(&mut block, SUPERBLOCK);
        let transaction = self.transaction;
        transaction.write(SUPERBLOCK, std::slice::from_ref(&block))?;
        transaction.flush()?;
        transaction.space_map.committed();
        transaction.fresh.clear();
        transaction.cache.get_mut().remove(SUPERBLOCK.0);
        Ok(())
    }
}

/// First bytes of block 0 while metadata is being made.
///
/// The mark is not zeroes, since a kernel takes zeroes for a new device and formats it silently. It
/// refuses this mark, whose checksum is wrong for every kind of superblock.
const UNFINISHED: &[u8] = b"persistent-data: this metadata was not made to its end.\n";

/// Returns whether `block` holds the mark that [`wipe_superblock`] writes.
pub fn is_unfinished(block: &RawBlock) -> bool {
    block.bytes().starts_with(UNFINISHED)
}

/// Overwrites the superblock with a mark that no reader takes for a superblock, and flushes it. So
/// no reader can interpret later writes as a part of the old metadata.
///
/// # Errors
/// [`Error::Write`] and [`Error::Flush`].
pub fn wipe_superblock<D: Device>(device: &D) -> Result<()> {
    let mut mark = RawBlock::ZERO;
    mark.bytes_mut()[..UNFINISHED.len()].copy_from_slice(UNFINISHED);
    device
        .write(SUPERBLOCK, std::slice::from_ref(&mark))
        .map_err(|source| Error::Write { at: SUPERBLOCK, source })?;
    device.flush().map_err(|source| Error::Flush { source })
}
