//! The device-mapper *persistent-data* format and its transactions.
//!
//! Thin, cache, era and clone metadata use this format: checksummed blocks of 4096 bytes that hold
//! btrees, arrays and bitsets, space maps that count the references to each block, and
//! copy-on-write transactions that apply all changes or none.
//!
//! From the bottom up:
//!
//! - [`mod@format`]: the on-disk structures; [`block`]: checking and sealing of blocks.
//! - [`device`]: the devices that store blocks.
//! - [`store`]: the traits [`Reader`](store::Reader) and [`Writer`](store::Writer), which all
//!   modules above it are written against.
//! - [`btree`], [`mod@array`], [`bitset`]: the data structures.
//! - [`space_map`]: reference counts.
//! - [`transaction`]: shadowing, commit, abort.
//!
//! # Invariants
//!
//! 1. A block that the last committed superblock reaches is never written.
//! 2. A block that a transaction frees is not reused in the same transaction.
//! 3. All blocks of a transaction are on the medium before its superblock is written.
//! 4. After a failed write or flush nothing more is written.
//! 5. A number read from a device is bounded before it is used.

pub mod array;
pub mod bitset;
pub mod block;
pub mod btree;
pub mod device;
pub mod error;
pub mod format;
pub mod number;
pub mod space_map;
pub mod store;
pub mod transaction;

#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub use error::{Error, Result};
pub use number::{BLOCK_SIZE, BlockNr};
