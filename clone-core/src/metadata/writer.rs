//! Clone metadata open for writing: marks regions as hydrated and commits the marks.
//!
//! The driver of a running clone owns it. It builds on the check, which must succeed before the
//! metadata is opened, and on [`persistent_data::transaction`].
//!
//! *Invariants:* bits only change from zero to one. A bit reaches the metadata device at the
//! earliest in [`Metadata::prepare`]. Before that call, and after the data of all set regions were
//! written, the caller flushes the destination. So no block on the metadata device, committed or
//! not, holds a bit whose data is not on stable storage. Only [`Prepared::commit`] commits a bit.

use std::collections::BTreeSet;

use fixedbitset::FixedBitSet;
use persistent_data::bitset::{BITS_PER_BLOCK, BITS_PER_WORD, Bitset, nr_array_blocks, nr_words};
use persistent_data::block::Block;
use persistent_data::device::Device;
use persistent_data::store::{DeviceReader, Reader};
use persistent_data::transaction::{self, SUPERBLOCK, Transaction, wipe_superblock};
use thiserror::Error;
use zerocopy::little_endian as le;

use crate::geometry::{Geometry, RegionRange};
use crate::metadata::check::{Report, read};
use crate::metadata::damage::Severity;
use crate::metadata::format::{self, SuperblockDisk};
use crate::metadata::ir::Header;
use crate::metadata::metadata_size::room;
use crate::metadata::superblock::Superblock;

/// Reason why metadata cannot be opened or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The check before opening found damage that writing could make worse.
    #[error("the metadata is damaged: {}", first_fatal(.0))]
    Damaged(Box<Report>),
    /// The device is too small for the metadata. Nothing was written.
    #[error("the device has {has} blocks of 4 KiB, metadata of this size needs {needed}")]
    TooSmall {
        /// Usable blocks of the device.
        has: u64,
        /// Number of blocks that are needed.
        needed: u64,
    },
    /// The regions reach past the end of the clone.
    #[error("regions {}..{} of a clone of {nr_regions}", .regions.start, .regions.end)]
    Regions {
        /// The regions, half-open.
        regions: RegionRange,
        /// Number of regions of the clone.
        nr_regions: u64,
    },
    /// An operation on the metadata's blocks failed.
    #[error(transparent)]
    Blocks(#[from] persistent_data::Error),
}

fn first_fatal(report: &Report) -> String {
    let fatal = report.damage.iter().find(|damage| damage.severity() == Severity::Fatal);
    fatal.map_or_else(|| "not fit to be written".into(), ToString::to_string)
}

/// Metadata that is open for writing.
#[derive(Debug)]
pub struct Metadata<D> {
    transaction: Transaction<D>,
    /// Superblock of the last commit.
    committed: Superblock,
    /// Superblock at the time of opening.
    opened: Box<SuperblockDisk>,
    bitset: Bitset,
    /// Bits of all regions, including those that are not committed yet.
    hydrated: FixedBitSet,
    nr_hydrated: u64,
    /// Array blocks of the bitset that differ from the last commit.
    changed: BTreeSet<u64>,
}

impl<D: Device> Metadata<D> {
    /// Creates metadata without hydrated regions on a device. The content of the device is
    /// discarded.
    ///
    /// # Errors
    /// [`MetadataError::TooSmall`] before anything is written, and [`MetadataError::Blocks`]. After
    /// an I/O error the device holds either complete metadata, or nothing that a reader takes for
    /// metadata.
    pub fn format(device: D, header: Header) -> Result<Self, MetadataError> {
        let (has, needed) = room(&device, header.geometry);
        if has < needed {
            return Err(MetadataError::TooSmall { has, needed });
        }
        build(&device, header, |_, _| Ok::<(), MetadataError>(()))?;
        Self::open(device)
    }

    /// Checks all metadata of a clone and opens it. Damaged metadata is not opened.
    ///
    /// # Errors
    /// [`MetadataError::Damaged`] with the report of the check if it found fatal damage, and
    /// [`MetadataError::Blocks`].
    pub fn open(device: D) -> Result<Self, MetadataError> {
        let report = read(&device, &());
        let (Some(superblock), Some(regions), false) =
            (report.superblock, &report.regions, report.is_fatal())
        else {
            return Err(MetadataError::Damaged(Box::new(report)));
        };
        let mut hydrated = no_regions(superblock.header.geometry);
        for run in regions.runs() {
            hydrated.insert_range(run.start as usize..run.end as usize);
        }
        let nr_hydrated = regions.hydrated();
        let opened: Block<format::Superblock> = DeviceReader(&device).read(SUPERBLOCK)?;
        Ok(Self {
            opened: Box::new((*opened).clone()),
            transaction: Transaction::open(device, &superblock.space_map_root)?,
            bitset: Bitset::open(superblock.bitset_root, regions.nr_regions()),
            committed: superblock,
            hydrated,
            nr_hydrated,
            changed: BTreeSet::new(),
        })
    }

    /// Returns the uuid and the sizes of the clone.
    pub fn header(&self) -> &Header {
        &self.committed.header
    }

    /// Returns the metadata device.
    pub fn device(&self) -> &D {
        self.transaction.device()
    }

    /// Returns the number of regions.
    pub fn nr_regions(&self) -> u64 {
        self.committed.header.geometry.nr_regions()
    }

    /// Returns the number of hydrated regions, including those that are not committed yet.
    pub fn nr_hydrated(&self) -> u64 {
        self.nr_hydrated
    }

    /// Returns the used blocks as of the last commit, and all blocks, of the metadata device.
    pub fn block_use(&self) -> (u64, u64) {
        (self.transaction.nr_allocated(), self.transaction.nr_blocks())
    }

    /// Returns whether `region` is hydrated, committed or not. False for a region past the end.
    pub fn is_hydrated(&self, region: u64) -> bool {
        usize::try_from(region).is_ok_and(|region| self.hydrated.contains(region))
    }

    /// Returns the bits of all regions, committed or not, in 64-bit words: the lowest region is in
    /// the lowest bit of the first word.
    pub fn hydrated_words(&self) -> impl Iterator<Item = u64> + '_ {
        (0..nr_words(self.nr_regions())).map(|index| word_of(&self.hydrated, index))
    }

    /// Returns whether a commit has something to write.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Marks regions, half-open, as hydrated, in memory until the next [`prepare`](Self::prepare).
    ///
    /// The caller guarantees that their data were written to the destination. The destination must
    /// be flushed after that and before `prepare`.
    ///
    /// # Errors
    /// [`MetadataError::Regions`] if the regions reach past the end of the clone.
    pub fn set_hydrated(&mut self, regions: RegionRange) -> Result<(), MetadataError> {
        let nr_regions = self.nr_regions();
        if regions.is_empty() {
            return Ok(());
        }
        if regions.end > nr_regions {
            return Err(MetadataError::Regions { regions, nr_regions });
        }
        for block in regions.start / BITS_PER_BLOCK..nr_array_blocks(regions.end) {
            let first = (block * BITS_PER_BLOCK).max(regions.start);
            let end = ((block + 1) * BITS_PER_BLOCK).min(regions.end);
            let in_block = first as usize..end as usize;
            let already = self.hydrated.count_ones(in_block.clone()) as u64;
            if already < end - first {
                self.hydrated.insert_range(in_block);
                self.nr_hydrated += end - first - already;
                self.changed.insert(block);
            }
        }
        Ok(())
    }

    /// Writes all changes but the superblock and flushes the metadata device. This is the first of
    /// the two steps of a commit.
    ///
    /// The caller has flushed the destination for all regions that are set. A flush between the two
    /// steps is too late: this step writes array blocks, and if the superblock is lost later, a
    /// repair may use such a block even if its commit was never finished. If the flush failed, call
    /// [`abort`](Self::abort) instead.
    ///
    /// # Errors
    /// [`MetadataError::Blocks`]. Call [`abort`](Self::abort) then. If the device has failed,
    /// nothing more is written.
    pub fn prepare(&mut self) -> Result<Prepared<'_, D>, MetadataError> {
        let Self { transaction, committed, opened, bitset, hydrated, changed, .. } = self;
        for &block in changed.iter() {
            bitset.edit_block(transaction, block, |first, words| {
                for (word, index) in words.iter_mut().zip(first / BITS_PER_WORD..) {
                    word.set(word_of(hydrated, index));
                }
            })?;
        }
        let bitset_root = bitset.flush(transaction)?;
        let prepared = transaction.prepare()?;
        let superblock = Superblock {
            header: committed.header,
            space_map_root: *prepared.space_map_root(),
            bitset_root,
        };
        Ok(Prepared { blocks: prepared, superblock, committed, opened, changed })
    }

    /// Commits all changes, if there are any, in both steps. The caller has flushed the
    /// destination, as for [`prepare`](Self::prepare).
    ///
    /// # Errors
    /// Those of [`Self::prepare`] and [`Prepared::commit`].
    pub fn commit(&mut self) -> Result<(), MetadataError> {
        // After a failed write even a commit without changes must not report success.
        let is_needed = self.has_changes() || self.transaction.is_spent();
        if is_needed { self.prepare()?.commit() } else { Ok(()) }
    }

    /// Reverts to the last commit, as it is on the device.
    ///
    /// # Errors
    /// [`MetadataError::Blocks`] if it cannot be read. Nothing has changed then.
    pub fn abort(&mut self) -> Result<(), MetadataError> {
        let nr_regions = self.nr_regions();
        let committed = Bitset::open(self.committed.bitset_root, nr_regions);
        // All blocks are read before anything changes. If only some were reverted, a later commit
        // would write the others without the regions that were committed before.
        let read =
            |&block: &u64| committed.read_block(&self.transaction, block, <[le::U64]>::to_vec);
        let before: Vec<_> = self.changed.iter().map(read).collect::<Result<_, _>>()?;
        self.transaction.abort();
        self.bitset = committed;
        for (block, words) in std::mem::take(&mut self.changed).into_iter().zip(before) {
            let first = block * BITS_PER_BLOCK;
            let end = nr_regions.min(first + BITS_PER_BLOCK);
            self.hydrated.remove_range(first as usize..end as usize);
            insert_words(&mut self.hydrated, first, &words, nr_regions);
        }
        self.nr_hydrated = self.hydrated.count_ones(..) as u64;
        Ok(())
    }
}

/// Changes that are on the medium, but not reached by a superblock yet.
#[derive(Debug)]
#[must_use = "nothing is committed before the superblock is written"]
pub struct Prepared<'a, D> {
    blocks: transaction::Prepared<'a, D>,
    superblock: Superblock,
    committed: &'a mut Superblock,
    opened: &'a SuperblockDisk,
    changed: &'a mut BTreeSet<u64>,
}

impl<D: Device> Prepared<'_, D> {
    /// Writes the superblock and flushes the metadata device: the second step of a commit.
    ///
    /// # Errors
    /// [`MetadataError::Blocks`]: it is unknown whether the commit happened, and nothing more is
    /// written.
    pub fn commit(self) -> Result<(), MetadataError> {
        let disk = self.superblock.to_disk_over(self.opened);
        self.blocks.commit::<format::Superblock>(&disk)?;
        *self.committed = self.superblock;
        self.changed.clear();
        Ok(())
    }
}

/// Writes new metadata to a device whose content is discarded. `fill` gets the zeroed words of each
/// array block of the bitset in turn, with the number of the first region in them, and sets the
/// bits of hydrated regions.
///
/// The old superblock is wiped first and the new one is written last, with a flush between the
/// steps: an interruption leaves either no metadata or complete metadata.
///
/// # Errors
/// Those of `fill`, and [`MetadataError::Blocks`].
pub(crate) fn build<D: Device, E: From<MetadataError>>(
    device: &D,
    header: Header,
    mut fill: impl FnMut(u64, &mut [le::U64]) -> Result<(), E>,
) -> Result<(), E> {
    enum Failed<E> {
        Filling(E),
        Blocks(persistent_data::Error),
    }
    impl<E> From<persistent_data::Error> for Failed<E> {
        fn from(error: persistent_data::Error) -> Self {
            Self::Blocks(error)
        }
    }

    wipe_superblock(device).map_err(MetadataError::from)?;
    let mut transaction = Transaction::create(device).map_err(MetadataError::from)?;
    let nr_regions = header.geometry.nr_regions();
    let filled = Bitset::build(&mut transaction, nr_regions, |first, words| {
        fill(first, words).map_err(Failed::Filling)
    });
    let mut bitset = filled.map_err(|failed| match failed {
        Failed::Filling(error) => error,
        Failed::Blocks(error) => MetadataError::from(error).into(),
    })?;
    let bitset_root = bitset.flush(&mut transaction).map_err(MetadataError::from)?;
    let prepared = transaction.prepare().map_err(MetadataError::from)?;
    let space_map_root = *prepared.space_map_root();
    let superblock = Superblock { header, space_map_root, bitset_root };
    let committed = prepared.commit::<format::Superblock>(&superblock.to_disk());
    Ok(committed.map_err(MetadataError::from)?)
}

fn no_regions(geometry: Geometry) -> FixedBitSet {
    FixedBitSet::with_capacity(geometry.nr_regions() as usize)
}

/// Inserts the regions that are set in `words`, whose first bit is region `first`.
fn insert_words(hydrated: &mut FixedBitSet, first: u64, words: &[le::U64], nr_regions: u64) {
    for (word, base) in words.iter().zip((first..).step_by(BITS_PER_WORD as usize)) {
        let end = nr_regions.min(base + BITS_PER_WORD);
        match word.get() {
            0 => {}
            u64::MAX => hydrated.insert_range(base as usize..end as usize),
            bits => {
                for bit in (0..end - base).filter(|bit| bits >> bit & 1 == 1) {
                    hydrated.insert((base + bit) as usize);
                }
            }
        }
    }
}

/// Returns word `index` of the bits, the lowest region in the lowest bit, for any host word size.
fn word_of(hydrated: &FixedBitSet, index: u64) -> u64 {
    let per_word = BITS_PER_WORD as usize / usize::BITS as usize;
    let slices = hydrated.as_slice();
    let first = index as usize * per_word;
    (first..first + per_word).rev().fold(0, |word, slice| {
        let bits = slices.get(slice).copied().unwrap_or(0) as u64;
        word.checked_shl(usize::BITS).unwrap_or(0) | bits
    })
}
