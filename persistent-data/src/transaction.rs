//! Transactions: blocks are changed by copy on write, and a new superblock makes all changes
//! valid at once.
//!
//! A commit is two steps, each with its type. [`Transaction::prepare`] writes everything but the
//! superblock and flushes the device; whatever can fail fails there. The [`Prepared`] that it
//! gives is the only thing that can write a superblock. Between the two the owner does what has
//! to be durable before the new superblock may vouch for it.
//!
//! After a failed write or flush the transaction is *spent*: what the device holds is not known,
//! so nothing is written any more. Reading goes on, from the last commit after an
//! [`abort`](Transaction::abort); everything else needs the metadata to be opened again.

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

/// Where superblocks lie.
pub const SUPERBLOCK: BlockNr = BlockNr(0);

/// Dirty blocks that are kept in memory unless another limit is set: 4 MiB.
const DIRTY_BLOCKS_MAX: usize = 1024;

/// Blocks that are written at once: 1 MiB.
const WRITE_BATCH: usize = 256;

/// A block that differs from what the device holds.
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

/// What may still be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// An operation failed half-way: only [`Transaction::abort`] leads on.
    Broken,
    /// A write or a flush failed: only opening the metadata again leads on.
    Spent,
}

/// The blocks of a metadata device: checked reading, and one transaction after the other.
pub struct Transaction<D> {
    device: D,
    cache: RefCell<Cache>,
    /// *Invariant:* none of them is in the cache.
    dirty: HashMap<u64, Dirty>,
    dirty_blocks_max: usize,
    /// Blocks that were allocated in this transaction and are still in use. They may be edited.
    fresh: HashSet<u64>,
    space_map: MetadataSpaceMap,
    state: State,
    /// Memory of blocks that were written ahead of the commit, to be used again.
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
    /// For a device without metadata: all blocks are free but the superblock's.
    ///
    /// Nothing is written before the first commit. The caller has to
    /// [wipe](wipe_superblock) a superblock that the device still holds, for the blocks that it
    /// reaches will be overwritten.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if there is not even room for a superblock.
    pub fn create(device: D) -> Result<Self> {
        let space_map = MetadataSpaceMap::create(device.nr_blocks());
        let mut transaction = Self::over(device, space_map);
        if transaction.space_map.nr_blocks() == 0 {
            return Err(Error::NoSpace);
        }
        transaction.space_map.set(SUPERBLOCK, 1);
        Ok(transaction)
    }

    /// For a device with metadata, whose superblock holds `space_map_root`.
    ///
    /// # Errors
    /// Whatever keeps the space map from being read. The metadata is not checked beyond that.
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

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Blocks that the space map covers.
    pub fn nr_blocks(&self) -> u64 {
        self.space_map.nr_blocks()
    }

    /// Blocks in use as of the last commit; what a status line shows.
    pub fn nr_allocated(&self) -> u64 {
        self.space_map.nr_allocated()
    }

    /// Bounds the changed blocks that are kept in memory. Beyond `blocks` they are written before
    /// the commit, which is safe, for the last commit does not reach them.
    pub fn limit_dirty(&mut self, blocks: usize) {
        self.dirty_blocks_max = blocks;
    }

    /// Takes in what the device has grown by since it was formatted, up to the kernel's limit.
    pub fn extend(&mut self) {
        self.space_map.extend(self.device.nr_blocks());
    }

    /// Makes the count of the block at `at` what a walk has found it to be, and has it written
    /// anew with the next commit, with what the index and the tree of large counts say about it.
    ///
    /// For repair alone: nothing else may say how many references there are.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Broken`] and [`Error::Spent`].
    pub fn correct_count(&mut self, at: BlockNr, count: u32) -> Result<()> {
        self.writable()?;
        let nr_blocks = self.nr_blocks();
        if at.0 >= nr_blocks {
            return Err(Error::OutOfRange { at, nr_blocks });
        }
        self.space_map.set(at, count);
        Ok(())
    }

    /// Has the next commit write the space map's index anew, and zero what stands for nothing in
    /// the index, the bitmaps and the tree of large counts. For repair.
    pub fn tidy_space_map(&mut self) {
        self.space_map.tidy();
    }

    /// Whether a write or a flush has failed, so that nothing is written any more.
    pub fn is_spent(&self) -> bool {
        self.state == State::Spent
    }

    /// Writes all changes but the superblock, and flushes the device.
    ///
    /// Dropping the result leaves the last commit in place, and the transaction open.
    ///
    /// # Errors
    /// [`Error::NoSpace`] and read errors: the transaction can be aborted.
    /// [`Error::Write`] and [`Error::Flush`]: it is spent. [`Error::Broken`]: an operation before
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

    /// Gives up all changes since the last commit.
    pub fn abort(&mut self) {
        // A block that was written ahead of the commit may be cached; its number is free again.
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

    /// Runs an operation of which half may have happened when it fails.
    fn guarded<T>(&mut self, operation: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let result = operation(self);
        if result.is_err() && self.state == State::Open {
            self.state = State::Broken;
        }
        result
    }

    /// Writes every dirty block to its place, in ascending order and in large pieces.
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

    /// Writes what is dirty so far ahead of the commit. It is not expected to be read again.
    fn write_ahead(&mut self) -> Result<()> {
        self.write_dirty()?;
        let unshared = self.dirty.drain().map(|(_, dirty)| dirty.block);
        self.spare.extend(unshared.filter(|block| Arc::strong_count(block) == 1));
        Ok(())
    }

    /// A block of zeroes in memory.
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
            // What is cached would be stale from here on.
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
            // Only a damaged pointer leads here; as on the device, the checksum tells.
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

/// A transaction of which everything but the superblock is on the medium.
#[derive(Debug)]
#[must_use = "nothing has changed for whoever opens the metadata before the superblock is written"]
pub struct Prepared<'a, D> {
    transaction: &'a mut Transaction<D>,
    space_map_root: SpaceMapRootArea,
}

impl<D: Device> Prepared<'_, D> {
    /// Where the space map begins, for the superblock to hold.
    pub fn space_map_root(&self) -> &SpaceMapRootArea {
        &self.space_map_root
    }

    /// Writes `superblock` and flushes the device: from here on its content is what was committed.
    ///
    /// # Errors
    /// [`Error::Write`] and [`Error::Flush`]: whether the new or the old superblock is on the
    /// medium is not known, and the transaction is spent.
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

/// What a block begins with that lies in the place of a superblock while metadata is being made.
///
/// It is not zeroes, for a kernel takes those for a new device and formats it without a word; this
/// it refuses, as its checksum is wrong for every kind of superblock.
const UNFINISHED: &[u8] = b"persistent-data: this metadata was not made to its end.\n";

/// Whether `block` is what [`wipe_superblock`] leaves behind.
pub fn is_unfinished(block: &RawBlock) -> bool {
    block.bytes().starts_with(UNFINISHED)
}

/// Overwrites the superblock with a mark that no reader takes for a superblock, and flushes that,
/// so that nobody takes what is written from now on for what the old superblock meant.
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
