//! Damages one block of metadata.

use std::fmt;

use persistent_data::block::RawBlock;
use persistent_data::device::Device;
use persistent_data::{BlockNr, Error};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use super::block_role::BlockRole;
use super::blocks::{Form, blocks_of, read_raw, scan};
pub use super::damage_error::DamageError;
use super::stale::older_copies;

/// The block to damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// BlockRole of block.
    pub role: BlockRole,
    /// Ordinal within its role, from 0. `None`: the seed selects a block that can be damaged so.
    pub ordinal: Option<u64>,
}

/// BlockRole of damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// All bytes are zero, as after a discard or a lost write.
    Zero,
    /// All bytes are random.
    Random,
    /// One bit is flipped.
    Bit,
    /// Only the checksum is changed.
    Checksum,
    /// An older copy of the same block, with the block number and checksum of its place, as after a
    /// lost write or a bad rollback. The block itself looks valid.
    Stale,
    /// Another block of the device, unchanged, as after a misdirected write. It is of the same
    /// kind, if there is one, so that only its block number is wrong.
    Swap,
}

impl DamageKind {
    /// All kinds of damage.
    pub const ALL: [Self; 6] =
        [Self::Zero, Self::Random, Self::Bit, Self::Checksum, Self::Stale, Self::Swap];
}

/// The change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Number of the block.
    pub at: BlockNr,
    /// BlockRole of the block.
    pub role: BlockRole,
    /// Ordinal within its role.
    pub ordinal: u64,
    /// The change.
    pub done: Done,
}

/// A change to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// See [`DamageKind::Zero`].
    Zeroed,
    /// See [`DamageKind::Random`].
    Randomized,
    /// See [`DamageKind::Bit`].
    BitFlipped {
        /// The byte, `0..4096`.
        byte: u16,
        /// The bit in it, `0..8`, lowest first.
        bit: u8,
    },
    /// See [`DamageKind::Checksum`].
    ChecksumChanged,
    /// See [`DamageKind::Stale`].
    Replaced {
        /// Block number of the older copy.
        by: BlockNr,
    },
    /// See [`DamageKind::Swap`].
    Overwritten {
        /// Block number of the other block.
        by: BlockNr,
    },
}

/// Formats the change like `block 23, array-block 2: zeroed`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, role, ordinal, .. } = self;
        write!(f, "block {at}, {}: ", role.numbered(*ordinal))?;
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

/// Damages one block of metadata. The path to the block must be sound. Nothing else is written, and
/// the same seed damages the same metadata in the same way.
///
/// Several calls can damage several blocks, if blocks that lead to others come last.
///
/// # Errors
/// Any [`DamageError`]. Nothing has changed then, unless the write failed.
pub fn damage<D: Device>(
    device: &D,
    target: Target,
    harm: DamageKind,
    seed: u64,
) -> Result<Change, DamageError> {
    let Target { role, ordinal } = target;
    let blocks = blocks_of(device, role)?;
    let count = blocks.len() as u64;
    if count == 0 && role == BlockRole::BitsetNode {
        return Err(DamageError::NoInternalNodes);
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let first = ordinal.unwrap_or_else(|| rng.random_range(0..count.max(1)));
    if first >= count {
        return Err(DamageError::NoSuchBlock { role, ordinal: first, count });
    }
    let mut result = damage_one(device, role, first, &blocks, harm, &mut rng);
    if ordinal.is_none() {
        // A block that hardly changed may have no older copy, and others serve as well.
        for other in (first + 1..count).chain(0..first) {
            if !matches!(result, Err(DamageError::NoOlderCopy { .. })) {
                break;
            }
            result = damage_one(device, role, other, &blocks, harm, &mut rng);
        }
    }
    result
}

/// Damages number `ordinal` of `blocks`, which are all blocks of `role`.
fn damage_one<D: Device>(
    device: &D,
    role: BlockRole,
    ordinal: u64,
    blocks: &[BlockNr],
    harm: DamageKind,
    rng: &mut StdRng,
) -> Result<Change, DamageError> {
    let at = blocks[ordinal as usize];
    let mut block = read_raw(device, at)?;
    Form::of_role(role).check(&block, at)?;
    let done = match harm {
        DamageKind::Zero => {
            block = RawBlock::ZERO;
            Done::Zeroed
        }
        DamageKind::Random => {
            rng.fill(block.bytes_mut());
            Done::Randomized
        }
        DamageKind::Bit => {
            let (byte, bit) =
                (rng.random_range(0..block.bytes().len()), rng.random_range(0..u8::BITS as u8));
            block.bytes_mut()[byte] ^= 1 << bit;
            Done::BitFlipped { byte: byte as u16, bit }
        }
        DamageKind::Checksum => {
            let (csum, _) = block.bytes_mut().split_at_mut(size_of::<u32>());
            csum[rng.random_range(0..csum.len())] ^= rng.random_range(1..=u8::MAX);
            Done::ChecksumChanged
        }
        DamageKind::Stale => {
            let copies = older_copies(device, role, ordinal, blocks, &block)?;
            if copies.is_empty() {
                return Err(DamageError::NoOlderCopy { role, ordinal, at });
            }
            let by = pick(&copies, rng);
            block = read_raw(device, by)?;
            (Form::of_role(role).seal)(&mut block, at);
            Done::Replaced { by }
        }
        DamageKind::Swap => {
            let by = pick(&others(device, role, at)?, rng);
            block = read_raw(device, by)?;
            Done::Overwritten { by }
        }
    };
    device.write(at, std::slice::from_ref(&block)).map_err(|source| Error::Write { at, source })?;
    device.flush().map_err(|source| Error::Flush { source })?;
    Ok(Change { at, role, ordinal, done })
}

fn pick(blocks: &[BlockNr], rng: &mut StdRng) -> BlockNr {
    blocks[rng.random_range(0..blocks.len())]
}

/// Returns the blocks with which `at`, a block of `role`, can be overwritten: those of its kind,
/// used or not, or all other metadata blocks if there are none.
fn others<D: Device>(device: &D, role: BlockRole, at: BlockNr) -> Result<Vec<BlockNr>, Error> {
    let (mut alike, mut all) = (Vec::new(), Vec::new());
    scan(device, |found, form, _| {
        if found != at {
            all.push(found);
            if form == Form::of_role(role) {
                alike.push(found);
            }
        }
    })?;
    Ok(if alike.is_empty() { all } else { alike })
}
