//! The file that `clone_metadata_pack` writes: what matters of a metadata device, small.
//!
//! All numbers are little-endian. docs/decisions/0010-pack-format.md tells why it is so.
//!
//! | part | holds |
//! |---|---|
//! | header | `HeaderDisk` |
//! | chunks | each a `ChunkDisk`, then so many bytes of raw deflate |
//! | end | a `ChunkDisk` of no records, whose bytes are the device's after its last whole block |
//! | checksum | CRC-32C of everything before |
//!
//! A chunk inflates to three columns with a row for each record, a block that is kept: how many
//! blocks lie between it and the record before (8 bytes), how many records before it the one lies
//! that it is told as a difference from, 0 if it is told by itself (2 bytes), and the block, XORed
//! with that one (4096 bytes). What no record tells is zero.

use std::mem::offset_of;

use persistent_data::BLOCK_SIZE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

mod likeness;
mod read;
mod write;

pub use read::{PackError, Reader};
pub use write::Writer;

/// What a pack begins with. No text does, nor does metadata: its superblock has zeroes here.
const MAGIC: [u8; 8] = *b"\x89clnpak\n";

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// The most records in a chunk: as much as is kept in memory.
const CHUNK_RECORDS: usize = 256;

/// Bytes of a record, inflated.
const RECORD: usize = 8 + 2 + BLOCK_SIZE;

/// The most bytes of a chunk, deflated. What cannot be made smaller grows by less.
const CHUNK_MAX: usize = CHUNK_RECORDS * RECORD + CHUNK_RECORDS * RECORD / 64;

/// How far back a record may refer.
const WINDOW: usize = 2048;

const _: () = assert!(WINDOW <= u16::MAX as usize);

/// What a pack says about the device that it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Bytes on the device.
    pub size_bytes: u64,
    /// Blocks that are kept.
    pub nr_records: u64,
    /// Blocks that are not, though they were not all zeroes.
    pub nr_dropped: u64,
}

impl Contents {
    /// Whole blocks on the device.
    fn nr_blocks(&self) -> u64 {
        self.size_bytes / BLOCK_SIZE as u64
    }

    /// Bytes on the device after its last whole block.
    fn tail_len(&self) -> usize {
        (self.size_bytes % BLOCK_SIZE as u64) as usize
    }
}

/// How a pack begins.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HeaderDisk {
    magic: [u8; 8],
    version: le::U32,
    block_size: le::U32,
    size_bytes: le::U64,
    nr_records: le::U64,
    nr_dropped: le::U64,
    /// CRC-32C of the fields above.
    csum: le::U32,
}

/// How a chunk begins.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ChunkDisk {
    /// Up to [`CHUNK_RECORDS`]; none at the end.
    nr_records: le::U32,
    /// Bytes that follow.
    len: le::U32,
    /// CRC-32C of the bytes that follow.
    csum: le::U32,
}

const _: () = {
    assert!(size_of::<HeaderDisk>() == 44);
    assert!(offset_of!(HeaderDisk, version) == 8);
    assert!(offset_of!(HeaderDisk, size_bytes) == 16);
    assert!(offset_of!(HeaderDisk, csum) == 40);
    assert!(size_of::<ChunkDisk>() == 12);
};

impl HeaderDisk {
    fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.as_bytes()[..offset_of!(HeaderDisk, csum)])
    }
}

#[cfg(test)]
mod tests;
