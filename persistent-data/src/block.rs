//! Metadata blocks as they are stored on a device.
//!
//! [`check`] verifies a block that was read and returns its structure. [`seal`] makes a block fit
//! to be written. [`store`](crate::store) calls the first and
//! [`transaction`](crate::transaction) both.

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

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8; BLOCK_SIZE] {
        &self.0
    }

    /// Returns the bytes, mutably. A changed block must be [sealed](seal) before it is written.
    pub fn bytes_mut(&mut self) -> &mut [u8; BLOCK_SIZE] {
        &mut self.0
    }

    /// True if every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }
}

impl std::fmt::Debug for RawBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawBlock({:02x?}..)", &self.0[..16])
    }
}

/// A kind of block: its layout and its checksum salt.
///
/// The counterpart of the kernel's `struct dm_block_validator`
/// (`drivers/md/persistent-data/dm-block-manager.h`).
pub trait BlockKind: 'static {
    /// Name of the kind in messages.
    const NAME: &'static str;
    /// Value that is XORed into the checksum, so that a block of another kind does not pass.
    const CSUM_SALT: u32;
    /// The layout. It fills a whole block, has alignment 1 and little-endian fields.
    type Disk: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned;

    /// Returns the block number that is stored in the block.
    fn location(disk: &Self::Disk) -> BlockNr;
    /// Stores the block's own number.
    fn set_location(disk: &mut Self::Disk, at: BlockNr);
}

/// Reason why a block is not a valid block of the expected kind.
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
    /// The block is intact, but was written for another block number.
    #[error("wrong block number: it says that it is block {claimed}")]
    Misplaced {
        /// The block number stored in the block.
        claimed: BlockNr,
    },
}

/// Returns the checksum of `block`'s content for a kind with `salt`.
///
/// CRC-32C of all but the first four bytes, seeded with all ones and not inverted at the end
/// (`dm_bm_checksum` in `dm-block-manager.c`).
pub fn checksum(block: &RawBlock, salt: u32) -> u32 {
    !crc32c::crc32c(&block.0[4..]) ^ salt
}

/// Returns the checksum that `block` holds in its first four bytes. Every kind stores it there.
pub fn stored_checksum(block: &RawBlock) -> u32 {
    u32::from_le_bytes(*block.0.first_chunk().expect("a block is longer than four bytes"))
}

/// Returns the bytes as the layout of kind `K`, without any verification.
pub fn view<K: BlockKind>(block: &RawBlock) -> &K::Disk {
    const { assert!(size_of::<K::Disk>() == BLOCK_SIZE) };
    K::Disk::ref_from_bytes(&block.0).expect("a layout is as large as a block")
}

/// Returns the bytes as the mutable layout of kind `K`.
pub fn view_mut<K: BlockKind>(block: &mut RawBlock) -> &mut K::Disk {
    const { assert!(size_of::<K::Disk>() == BLOCK_SIZE) };
    K::Disk::mut_from_bytes(&mut block.0).expect("a layout is as large as a block")
}

/// Verifies the checksum and the block number of `block`, which was read from `at`, and returns it
/// as a `K`.
///
/// A checksum alone does not detect a block that was written to, or read from, the wrong place.
///
/// # Errors
/// [`BlockError::Checksum`] if the checksum is wrong, and [`BlockError::Misplaced`] if the block
/// holds another block number than `at`.
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

/// Stores the block number and then the checksum. The block can then be written to `at`.
pub fn seal<K: BlockKind>(block: &mut RawBlock, at: BlockNr) {
    K::set_location(view_mut::<K>(block), at);
    let csum = checksum(block, K::CSUM_SALT);
    block.0[..4].copy_from_slice(&csum.to_le_bytes());
}

/// A shared block of kind `K` that has passed [`check`] or was made by this process.
pub struct Block<K: BlockKind> {
    raw: Arc<RawBlock>,
    kind: PhantomData<K>,
}

impl<K: BlockKind> Block<K> {
    /// Checks `raw`, which was read from `at`.
    ///
    /// # Errors
    /// Those of [`check`].
    pub fn checked(raw: Arc<RawBlock>, at: BlockNr) -> Result<Self, BlockError> {
        check::<K>(&raw, at)?;
        Ok(Self::trusted(raw))
    }

    /// Returns `raw` as a `K` without a check. The caller has checked it, or it never left memory.
    pub(crate) fn trusted(raw: Arc<RawBlock>) -> Self {
        Self { raw, kind: PhantomData }
    }

    /// Returns the raw block.
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
