//! A metadata block as it lies on the device, and the two doors through which its bytes become a
//! structure and back: [`check`] on the way in, [`seal`] on the way out.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::number::{BLOCK_SIZE, BlockNr};

/// The bytes of one metadata block, aligned for direct I/O.
#[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
pub struct RawBlock([u8; BLOCK_SIZE]);

const _: () = assert!(size_of::<RawBlock>() == BLOCK_SIZE);

impl RawBlock {
    /// A block of zeroes.
    pub const ZERO: Self = Self([0; BLOCK_SIZE]);

    /// The bytes.
    pub fn bytes(&self) -> &[u8; BLOCK_SIZE] {
        &self.0
    }

    /// The bytes, to change. What is changed has to be [sealed](seal) again before it is written.
    pub fn bytes_mut(&mut self) -> &mut [u8; BLOCK_SIZE] {
        &mut self.0
    }

    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }
}

impl std::fmt::Debug for RawBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawBlock({:02x?}..)", &self.0[..16])
    }
}

/// A kind of block: what its bytes mean, and how they vouch for themselves.
///
/// The counterpart of the kernel's `struct dm_block_validator`
/// (`drivers/md/persistent-data/dm-block-manager.h`).
pub trait BlockKind: 'static {
    /// How messages call the kind.
    const NAME: &'static str;
    /// What the kind XORs into its checksum, so that a block of another kind does not pass.
    const CSUM_SALT: u32;
    /// The layout. It fills a block, with alignment 1 and little-endian fields.
    type Disk: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned;

    /// Where the block says that it lies.
    fn location(disk: &Self::Disk) -> BlockNr;
    /// Stores where the block lies.
    fn set_location(disk: &mut Self::Disk, at: BlockNr);
}

/// Why bytes are not a block of the kind that was expected at their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The checksum does not match the content.
    #[error("bad checksum: {found:#010x}, the content gives {expected:#010x}")]
    Checksum {
        /// The checksum that the block holds.
        found: u32,
        /// The checksum of the content, for the expected kind.
        expected: u32,
    },
    /// Intact, but written for another place.
    #[error("wrong block number: it says that it is block {claimed}")]
    Misplaced {
        /// The block number stored in the block.
        claimed: BlockNr,
    },
}

/// The checksum of `block`'s content as a block of a kind with `salt`.
///
/// CRC-32C of all but the first four bytes, seeded with ones and not inverted at the end
/// (`dm_bm_checksum` in `dm-block-manager.c`).
pub fn checksum(block: &RawBlock, salt: u32) -> u32 {
    !crc32c::crc32c(&block.0[4..]) ^ salt
}

/// The checksum that `block` holds, whatever its kind: its first four bytes.
pub fn stored_checksum(block: &RawBlock) -> u32 {
    u32::from_le_bytes(*block.0.first_chunk().expect("a block is longer than four bytes"))
}

/// The bytes as the layout of kind `K`, verified by nothing.
pub fn view<K: BlockKind>(block: &RawBlock) -> &K::Disk {
    const { assert!(size_of::<K::Disk>() == BLOCK_SIZE) };
    K::Disk::ref_from_bytes(&block.0).expect("a layout is as large as a block")
}

/// The bytes as the layout of kind `K`, to change.
pub fn view_mut<K: BlockKind>(block: &mut RawBlock) -> &mut K::Disk {
    const { assert!(size_of::<K::Disk>() == BLOCK_SIZE) };
    K::Disk::mut_from_bytes(&mut block.0).expect("a layout is as large as a block")
}

/// The way in: `block`, read from `at`, as a `K`, once its checksum and its own block number are
/// what they must be.
///
/// A checksum alone does not catch a block that was written to, or read from, the wrong place.
pub fn check<K: BlockKind>(block: &RawBlock, at: BlockNr) -> Result<&K::Disk, BlockError> {
    let found = stored_checksum(block);
    let expected = checksum(block, K::CSUM_SALT);
    if found != expected {
        return Err(BlockError::Checksum { found, expected });
    }
    let disk = view::<K>(block);
    let claimed = K::location(disk);
    if claimed != at {
        return Err(BlockError::Misplaced { claimed });
    }
    Ok(disk)
}

/// The way out: stores the block number and then the checksum, which makes the block fit to be
/// written to `at`.
pub fn seal<K: BlockKind>(block: &mut RawBlock, at: BlockNr) {
    K::set_location(view_mut::<K>(block), at);
    let csum = checksum(block, K::CSUM_SALT);
    block.0[..4].copy_from_slice(&csum.to_le_bytes());
}

/// A shared block that has passed [`check`], or that this process made, as a `K`.
pub struct Block<K: BlockKind> {
    raw: Arc<RawBlock>,
    kind: PhantomData<K>,
}

impl<K: BlockKind> Block<K> {
    /// Checks `raw`, read from `at`.
    pub fn checked(raw: Arc<RawBlock>, at: BlockNr) -> Result<Self, BlockError> {
        check::<K>(&raw, at)?;
        Ok(Self::trusted(raw))
    }

    /// `raw` as a `K`, on the word of the caller: it was checked before, or never left memory.
    pub(crate) fn trusted(raw: Arc<RawBlock>) -> Self {
        Self { raw, kind: PhantomData }
    }

    /// The bytes.
    pub fn into_raw(self) -> Arc<RawBlock> {
        self.raw
    }
}

impl<K: BlockKind> Clone for Block<K> {
    fn clone(&self) -> Self {
        Self::trusted(Arc::clone(&self.raw))
    }
}

impl<K: BlockKind> Deref for Block<K> {
    type Target = K::Disk;

    fn deref(&self) -> &K::Disk {
        view::<K>(&self.raw)
    }
}

#[cfg(test)]
mod tests {
    use super::{BlockError, RawBlock, check, seal};
    use crate::format::{ArrayBlock, Node};
    use crate::number::BlockNr;

    #[test]
    fn a_sealed_block_checks_at_its_place_as_its_kind_and_nowhere_else() {
        let mut block = RawBlock::ZERO;
        seal::<Node>(&mut block, BlockNr(7));
        assert!(check::<Node>(&block, BlockNr(7)).is_ok());
        assert_eq!(
            check::<Node>(&block, BlockNr(8)).err(),
            Some(BlockError::Misplaced { claimed: BlockNr(7) })
        );
        assert!(matches!(
            check::<ArrayBlock>(&block, BlockNr(7)),
            Err(BlockError::Checksum { .. })
        ));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut block = RawBlock::ZERO;
        seal::<ArrayBlock>(&mut block, BlockNr(3));
        for byte in 0..block.bytes().len() {
            for bit in 0..8 {
                block.bytes_mut()[byte] ^= 1 << bit;
                assert!(check::<ArrayBlock>(&block, BlockNr(3)).is_err(), "byte {byte} bit {bit}");
                block.bytes_mut()[byte] ^= 1 << bit;
            }
        }
        assert!(check::<ArrayBlock>(&block, BlockNr(3)).is_ok());
    }
}
