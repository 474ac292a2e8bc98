//! Damaging metadata in one block.

use std::fmt;

use persistent_data::block::RawBlock;
use persistent_data::device::Device;
use persistent_data::{BlockNr, Error};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use thiserror::Error;

use super::blocks::{Form, blocks_of, read_raw, scan};
use super::stale::older_copies;
use crate::metadata::superblock::SuperblockError;

/// Why nothing was damaged.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DamageError {
    /// The bitset's btree has one level.
    #[error(
        "the bitset's btree is a single leaf and has no bitset-node: it takes more than 252 array \
         blocks, which are 8209152 regions, for a level above the leaves"
    )]
    NoInternalNodes,
    /// An ordinal that is too high.
    #[error("there is no {kind} {ordinal}: they are counted from 0, and there are {count}")]
    NoSuchBlock {
        /// What kind.
        kind: Kind,
        /// Which one was asked for.
        ordinal: u64,
        /// How many there are.
        count: u64,
    },
    /// The device holds nothing that could have been in the block's place before.
    #[error("the device holds no older copy of block {at}, {}", .kind.numbered(*ordinal))]
    NoOlderCopy {
        /// What kind of block it is.
        kind: Kind,
        /// Which one of its kind.
        ordinal: u64,
        /// Where it lies.
        at: BlockNr,
    },
    /// The superblock does not lead to the block.
    #[error("block 0, the superblock")]
    Superblock(#[from] SuperblockError),
    /// The block, or the way to it, is damaged already; or the device failed.
    #[error(transparent)]
    Blocks(#[from] Error),
}

/// Kinds of blocks that metadata consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Block 0.
    Superblock,
    /// A node of the bitset's btree with children; the root is 0, and each comes before its
    /// children.
    BitsetNode,
    /// A node of the bitset's btree that leads to array blocks, by ascending keys.
    BitsetLeaf,
    /// An array block of the bitset, by its index.
    ArrayBlock,
    /// The index of the space map.
    Index,
    /// A bitmap of the space map.
    Bitmap,
    /// A node of the tree of large counts; the root is 0, and the leaves come last.
    RefCounts,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Superblock,
        Self::BitsetNode,
        Self::BitsetLeaf,
        Self::ArrayBlock,
        Self::Index,
        Self::Bitmap,
        Self::RefCounts,
    ];

    /// The name on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Superblock => "superblock",
            Self::BitsetNode => "bitset-node",
            Self::BitsetLeaf => "bitset-leaf",
            Self::ArrayBlock => "array-block",
            Self::Index => "index",
            Self::Bitmap => "bitmap",
            Self::RefCounts => "ref-counts",
        }
    }

    /// The name of one of its blocks.
    fn numbered(self, ordinal: u64) -> String {
        match self {
            // There is but one.
            Self::Superblock | Self::Index => self.to_string(),
            _ => format!("{self} {ordinal}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which block is to be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What kind of block.
    pub kind: Kind,
    /// Which one of its kind, from 0. If it is not said, the seed picks one that can be damaged so.
    pub ordinal: Option<u64>,
}

/// What is done to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// All bytes are zero: a discard, or a write that was never made.
    Zero,
    /// All bytes are random.
    Random,
    /// One bit is another.
    Bit,
    /// The checksum is another, and nothing else.
    Checksum,
    /// An older copy of the same block, with the block number and the checksum that its place
    /// needs: what a lost write or a bad rollback leaves. The block itself does not tell.
    Stale,
    /// Another block of the device, as it is: what a misdirected write leaves. Of the same kind,
    /// if there is one, so that nothing but its block number is wrong.
    Swap,
}

impl Harm {
    /// All that can be done.
    pub const ALL: [Self; 6] =
        [Self::Zero, Self::Random, Self::Bit, Self::Checksum, Self::Stale, Self::Swap];
}

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where the block lies.
    pub at: BlockNr,
    /// What kind of block it is.
    pub kind: Kind,
    /// Which one of its kind.
    pub ordinal: u64,
    /// What was done to it.
    pub done: Done,
}

/// What was done to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// See [`Harm::Zero`].
    Zeroed,
    /// See [`Harm::Random`].
    Randomized,
    /// See [`Harm::Bit`].
    BitFlipped {
        /// The byte, `0..4096`.
        byte: u16,
        /// The bit in it, `0..8`, lowest first.
        bit: u8,
    },
    /// See [`Harm::Checksum`].
    ChecksumChanged,
    /// See [`Harm::Stale`].
    Replaced {
        /// Where the older copy lies.
        by: BlockNr,
    },
    /// See [`Harm::Swap`].
    Overwritten {
        /// Where the other block lies.
        by: BlockNr,
    },
}

/// In words: `block 23, array-block 2: zeroed`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, kind, ordinal, .. } = self;
        write!(f, "block {at}, {}: ", kind.numbered(*ordinal))?;
        match self.done {
            Done::Zeroed => write!(f, "zeroed"),
            Done::Randomized => write!(f, "overwritten with random bytes"),
            Done::BitFlipped { byte, bit } => write!(f, "bit {bit} of byte {byte} flipped"),
            Done::ChecksumChanged => write!(f, "checksum changed"),
            Done::Replaced { by } => write!(f, "replaced by an older copy, from block {by}"),
            Done::Overwritten { by } => write!(f, "overwritten with block {by}"),
        }
    }
}

/// Damages one block of metadata, which must be sound as far as the way to the block goes.
/// Nothing else is written, and the same seed damages the same metadata in the same way.
///
/// Several calls damage several blocks, if those that lead to others come last.
///
/// # Errors
/// See [`DamageError`]. Nothing has changed then, unless writing failed.
pub fn damage<D: Device>(
    device: &D,
    target: Target,
    harm: Harm,
    seed: u64,
) -> Result<Change, DamageError> {
    let Target { kind, ordinal } = target;
    let blocks = blocks_of(device, kind)?;
    let count = blocks.len() as u64;
    if count == 0 && kind == Kind::BitsetNode {
        return Err(DamageError::NoInternalNodes);
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let first = ordinal.unwrap_or_else(|| rng.random_range(0..count.max(1)));
    if first >= count {
        return Err(DamageError::NoSuchBlock { kind, ordinal: first, count });
    }
    let mut result = damage_one(device, kind, first, &blocks, harm, &mut rng);
    if ordinal.is_none() {
        // Those that have hardly changed may have no older copy, and others will do as well.
        for other in (first + 1..count).chain(0..first) {
            if !matches!(result, Err(DamageError::NoOlderCopy { .. })) {
                break;
            }
            result = damage_one(device, kind, other, &blocks, harm, &mut rng);
        }
    }
    result
}

/// Damages number `ordinal` of `blocks`, which are all of `kind`.
fn damage_one<D: Device>(
    device: &D,
    kind: Kind,
    ordinal: u64,
    blocks: &[BlockNr],
    harm: Harm,
    rng: &mut StdRng,
) -> Result<Change, DamageError> {
    let at = blocks[ordinal as usize];
    let mut block = read_raw(device, at)?;
    Form::of_kind(kind).check(&block, at)?;
    let done = match harm {
        Harm::Zero => {
            block = RawBlock::ZERO;
            Done::Zeroed
        }
        Harm::Random => {
            rng.fill(block.bytes_mut());
            Done::Randomized
        }
        Harm::Bit => {
            let (byte, bit) =
                (rng.random_range(0..block.bytes().len()), rng.random_range(0..u8::BITS as u8));
            block.bytes_mut()[byte] ^= 1 << bit;
            Done::BitFlipped { byte: byte as u16, bit }
        }
        Harm::Checksum => {
            let (csum, _) = block.bytes_mut().split_at_mut(size_of::<u32>());
            csum[rng.random_range(0..csum.len())] ^= rng.random_range(1..=u8::MAX);
            Done::ChecksumChanged
        }
        Harm::Stale => {
            let copies = older_copies(device, kind, ordinal, blocks, &block)?;
            if copies.is_empty() {
                return Err(DamageError::NoOlderCopy { kind, ordinal, at });
            }
            let by = pick(&copies, rng);
            block = read_raw(device, by)?;
            (Form::of_kind(kind).seal)(&mut block, at);
            Done::Replaced { by }
        }
        Harm::Swap => {
            let by = pick(&others(device, kind, at)?, rng);
            block = read_raw(device, by)?;
            Done::Overwritten { by }
        }
    };
    device.write(at, std::slice::from_ref(&block)).map_err(|source| Error::Write { at, source })?;
    device.flush().map_err(|source| Error::Flush { source })?;
    Ok(Change { at, kind, ordinal, done })
}

fn pick(blocks: &[BlockNr], rng: &mut StdRng) -> BlockNr {
    blocks[rng.random_range(0..blocks.len())]
}

/// The blocks that `at`, a block of `kind`, can be swapped for: those of its kind, in use or not;
/// if there are none, all other blocks of metadata.
fn others<D: Device>(device: &D, kind: Kind, at: BlockNr) -> Result<Vec<BlockNr>, Error> {
    let (mut alike, mut all) = (Vec::new(), Vec::new());
    scan(device, |found, form, _| {
        if found != at {
            all.push(found);
            if form == Form::of_kind(kind) {
                alike.push(found);
            }
        }
    })?;
    Ok(if alike.is_empty() { all } else { alike })
}
