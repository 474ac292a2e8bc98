//! The pack format: the relevant blocks of a metadata device, in a small file.
//!
//! `clone_metadata_pack` writes it and `clone_metadata_unpack` reads it. All numbers are
//! little-endian. docs/decisions/0010-pack-format.md explains the design.
//!
//! | part | content |
//! |---|---|
//! | header | `HeaderDisk` |
//! | chunks | each a `ChunkDisk`, followed by `len` bytes of raw deflate |
//! | end | a `ChunkDisk` with no records; its bytes are those after the device's last whole block |
//! | checksum | CRC-32C of everything before |
//!
//! A record is a block that is kept. A chunk inflates to three columns with one row per record: the
//! number of blocks between it and the previous record (8 bytes); the distance in records to the
//! earlier record that it is a difference from, or 0 for none (2 bytes); and the block, XORed with
//! that record (4096 bytes). Blocks without a record are zero.

use std::mem::offset_of;

use persistent_data::BLOCK_SIZE;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

mod likeness;
mod read;
mod write;

pub use read::{PackError, Reader};
pub use write::Writer;

/// The first bytes of a pack. Neither text nor metadata begins so: a superblock has zeroes here.
const MAGIC: [u8; 8] = *b"\x89clnpak\n";

/// The version of the format; no other version is accepted.
const VERSION: u32 = 1;

/// The maximum number of records in a chunk. A whole chunk is kept in memory.
const CHUNK_RECORDS: usize = 256;

/// The inflated size of a record in bytes.
const RECORD: usize = 8 + 2 + BLOCK_SIZE;

/// The maximum deflated size of a chunk in bytes. Incompressible data grows by less than this
/// allows.
const CHUNK_MAX: usize = CHUNK_RECORDS * RECORD + CHUNK_RECORDS * RECORD / 64;

/// The maximum distance of a reference, in records.
const WINDOW: usize = 2048;

const _: () = assert!(WINDOW <= u16::MAX as usize);

/// The description of the packed device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The size of the device in bytes.
    pub size_bytes: u64,
    /// The number of blocks that are kept.
    pub nr_records: u64,
    /// The number of dropped blocks that were not all zero.
    pub nr_dropped: u64,
}

impl Contents {
    /// Returns the number of whole blocks on the device.
    fn nr_blocks(&self) -> u64 {
        self.size_bytes / BLOCK_SIZE as u64
    }

    /// Returns the number of bytes after the last whole block of the device.
    fn tail_len(&self) -> usize {
        (self.size_bytes % BLOCK_SIZE as u64) as usize
    }
}

/// The header of a pack.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct HeaderDisk {
    magic: [u8; 8],
    version: le::U32,
    block_size: le::U32,
    size_bytes: le::U64,
    nr_records: le::U64,
    nr_dropped: le::U64,
    /// The CRC-32C of the fields above.
    csum: le::U32,
}

/// The header of a chunk.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ChunkDisk {
    /// The number of records, up to [`CHUNK_RECORDS`]; 0 at the end.
    nr_records: le::U32,
    /// The number of bytes that follow.
    len: le::U32,
    /// The CRC-32C of the bytes that follow.
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
