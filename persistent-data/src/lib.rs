//! The device-mapper *persistent-data* format and its transactions.
//!
//! This is what thin, cache, era and clone metadata are made of: checksummed blocks of 4096 bytes,
//! btrees, arrays and bitsets in them, space maps that count the references to each block, and
//! copy-on-write transactions that change all of it at once or not at all.
//!
//! From the bottom up:
//!
//! - [`mod@format`]: the structures on the device; [`block`]: checking and sealing them.
//! - [`device`]: where blocks are kept.
//! - [`store`]: the two traits, [`Reader`](store::Reader) and [`Writer`](store::Writer), that all
//!   above is written against.
//! - [`btree`], [`mod@array`], [`bitset`]: the structures.
//! - [`space_map`]: reference counts.
//! - [`transaction`]: shadowing, commit, abort.
//!
//! # Invariants
//!
//! 1. A block that the last committed superblock reaches is never written.
//! 2. A block that is freed in a transaction is not used again in it.
//! 3. All blocks of a transaction are on the medium before its superblock is written.
//! 4. After a failed write or flush nothing is written any more.
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
