//! Clone metadata open for writing: marking regions as hydrated, and committing that.
//!
//! *Invariants:* bits only go from zero to one. A bit reaches the metadata device by
//! [`Metadata::prepare`] at the earliest, and whoever calls that has flushed the destination after
//! the data of all regions that are set had landed there: no block on the metadata device,
//! committed or not, holds a bit whose data is not on stable storage. A bit is committed only by
//! [`Prepared::commit`].

use std::collections::BTreeSet;

use fixedbitset::FixedBitSet;
use persistent_data::bitset::{BITS_PER_BLOCK, BITS_PER_WORD, Bitset};
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

/// Why metadata cannot be opened or changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The check before opening found damage that a writer could make worse.
    #[error("the metadata is damaged: {}", first_fatal(.0))]
    Damaged(Box<Report>),
    /// The metadata is that of a clone of other sizes.
    #[error(
        "the metadata is for a clone of {found_target} sectors in regions of {found_region}, \
         not of {wanted_target} in regions of {wanted_region}"
    )]
    Geometry {
        /// The region size in the superblock, in sectors.
        found_region: u64,
        /// The target size in the superblock, in sectors.
        found_target: u64,
        /// The region size that was asked for, in sectors.
        wanted_region: u64,
        /// The target size that was asked for, in sectors.
        wanted_target: u64,
    },
    /// The device is too small to be formatted. Nothing was written.
    #[error("the device has {has} blocks of 4 KiB, metadata of this size needs {needed}")]
    TooSmall {
        /// Blocks of the device.
        has: u64,
        /// Blocks that it would take.
        needed: u64,
    },
    /// Regions past the end of the clone.
    #[error("regions {}..{} of a clone of {nr_regions}", .regions.start, .regions.end)]
    Regions {
        /// The regions, half-open.
        regions: RegionRange,
        /// How many there are.
        nr_regions: u64,
    },
    /// The blocks below failed.
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
    /// As of the last commit.
    committed: Superblock,
    /// As it was when the metadata was opened.
    opened: Box<SuperblockDisk>,
    bitset: Bitset,
    /// Bits of all regions, with those that are not committed yet.
    hydrated: FixedBitSet,
    nr_hydrated: u64,
    /// Array blocks of the bitset that differ from the last commit.
    changed: BTreeSet<u64>,
}

impl<D: Device> Metadata<D> {
    /// Makes fresh metadata, in which no region is hydrated, on a device whose content is given
    /// up.
    ///
    /// # Errors
    /// [`MetadataError::TooSmall`], and [`MetadataError::Blocks`]: then the device holds nothing
    /// that any reader takes for metadata, or all of it.
    pub fn format(device: D, header: Header) -> Result<Self, MetadataError> {
        let (has, needed) = room(&device, header.geometry);
        if has < needed {
            return Err(MetadataError::TooSmall { has, needed });
        }
        build(&device, header, |_, _| Ok::<(), MetadataError>(()))?;
        Self::open(device)
    }

    /// Opens the metadata of a clone, after a check of all of it: what is not sound is not written
    /// to.
    ///
    /// # Errors
    /// [`MetadataError::Damaged`], with all that was found.
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

    /// Opens the metadata of a clone of certain sizes, as a table line gives them.
    ///
    /// # Errors
    /// As [`Self::open`], and [`MetadataError::Geometry`].
    pub fn open_for(device: D, wanted: Geometry) -> Result<Self, MetadataError> {
        let metadata = Self::open(device)?;
        let found = metadata.committed.header.geometry;
        if found != wanted {
            return Err(MetadataError::Geometry {
                found_region: found.region_size().sectors().0,
                found_target: found.target_size().0,
                wanted_region: wanted.region_size().sectors().0,
                wanted_target: wanted.target_size().0,
            });
        }
        Ok(metadata)
    }

    /// The uuid and the sizes of the clone.
    pub fn header(&self) -> &Header {
        &self.committed.header
    }

    /// The metadata device.
    pub fn device(&self) -> &D {
        self.transaction.device()
    }

    /// How many regions there are.
    pub fn nr_regions(&self) -> u64 {
        self.committed.header.geometry.nr_regions()
    }

    /// How many regions are hydrated, those that are not committed yet included.
    pub fn nr_hydrated(&self) -> u64 {
        self.nr_hydrated
    }

    /// Blocks of the metadata device: in use as of the last commit, and in all.
    pub fn block_use(&self) -> (u64, u64) {
        (self.transaction.nr_allocated(), self.transaction.nr_blocks())
    }

    /// Whether `region` is hydrated, committed or not. Not, if there is no such region.
    pub fn is_hydrated(&self, region: u64) -> bool {
        usize::try_from(region).is_ok_and(|region| self.hydrated.contains(region))
    }

    /// Which regions are hydrated, committed or not: words of 64, lowest region in the lowest bit
    /// of the first.
    pub fn hydrated_words(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.nr_regions().div_ceil(BITS_PER_WORD)).map(|index| word_of(&self.hydrated, index))
    }

    /// Whether a commit has something to write.
    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Marks regions as hydrated, in memory until the next [`prepare`](Self::prepare).
    ///
    /// The caller vouches for their data: it has landed on the destination, which has to be flushed
    /// after that and before `prepare`.
    ///
    /// # Errors
    /// [`MetadataError::Regions`].
    pub fn set_hydrated(&mut self, regions: RegionRange) -> Result<(), MetadataError> {
        let nr_regions = self.nr_regions();
        if regions.is_empty() {
            return Ok(());
        }
        if regions.end > nr_regions {
            return Err(MetadataError::Regions { regions, nr_regions });
        }
        for block in regions.start / BITS_PER_BLOCK..regions.end.div_ceil(BITS_PER_BLOCK) {
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

    /// Writes all changes but the superblock, and flushes the metadata device: the first of the
    /// two steps of a commit.
    ///
    /// The destination has been flushed before, for all regions that are set by now: between the
    /// two steps is too late. This writes array blocks, and if the superblock is lost one day, a
    /// repair takes what such a block says for true, even if its commit was never finished. Where
    /// that flush failed, [`abort`](Self::abort) instead.
    ///
    /// # Errors
    /// [`MetadataError::Blocks`]. Then [`abort`](Self::abort), and nothing more is written if the
    /// device has failed.
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

    /// Commits all changes, if there are any, in both steps. The destination has been flushed
    /// before, as for [`prepare`](Self::prepare).
    ///
    /// # Errors
    /// As [`Self::prepare`] and [`Prepared::commit`].
    pub fn commit(&mut self) -> Result<(), MetadataError> {
        // Where a write has failed, not even that there is nothing to write is a success.
        let is_needed = self.has_changes() || self.transaction.is_spent();
        if is_needed { self.prepare()?.commit() } else { Ok(()) }
    }

    /// Goes back to the last commit, as it lies on the device.
    ///
    /// # Errors
    /// [`MetadataError::Blocks`] if it cannot be read. Then nothing has changed.
    pub fn abort(&mut self) -> Result<(), MetadataError> {
        let nr_regions = self.nr_regions();
        let committed = Bitset::open(self.committed.bitset_root, nr_regions);
        // All is read before anything changes. If only some array blocks went back, a later commit
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

/// Changes that are on the medium, but that no superblock vouches for yet.
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
    /// Writes the superblock and flushes the metadata device.
    ///
    /// # Errors
    /// [`MetadataError::Blocks`]: whether the commit happened is not known, and nothing more is
    /// written.
    pub fn commit(self) -> Result<(), MetadataError> {
        let disk = self.superblock.to_disk_over(self.opened);
        self.blocks.commit::<format::Superblock>(&disk)?;
        *self.committed = self.superblock;
        self.changed.clear();
        Ok(())
    }
}

/// Writes fresh metadata to a device whose content is given up. `fill` gets the zeroed words of
/// one array block of the bitset after the other, with the number of the first region in them, and
/// sets those that are hydrated.
///
/// The old superblock is wiped first and the new one written last, with a flush between each step:
/// whatever interrupts it leaves no metadata, or all of it.
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

/// Puts in the regions that `words`, of which the first begins at region `first`, have set.
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

/// Word `index` of the bits, lowest region in the lowest bit, on hosts of any word size.
fn word_of(hydrated: &FixedBitSet, index: u64) -> u64 {
    let per_word = BITS_PER_WORD as usize / usize::BITS as usize;
    let slices = hydrated.as_slice();
    let first = index as usize * per_word;
    (first..first + per_word).rev().fold(0, |word, slice| {
        let bits = slices.get(slice).copied().unwrap_or(0) as u64;
        word.checked_shl(usize::BITS).unwrap_or(0) | bits
    })
}
