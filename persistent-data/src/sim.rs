//! Simulated storage for tests: disks that lose power and fail, rules to hold against what was
//! done to them, and a store of blocks that enforces what writers promise.
//!
//! # Fault model
//!
//! - Reads see every write.
//! - Between two flushes any subset of the 512-byte sectors written survives a crash, in any
//!   order. Where several writes of a sector are pending, any one of them may be what survives.
//! - A sector survives whole or not at all.
//! - A flush that succeeds makes all that was written before it durable.
//! - A write that fails may have written any subset of its sectors.
//! - A flush that fails has made any subset of the sectors durable, and has *forgotten* the
//!   others, as the page cache does: they can still be read, and no later flush stores them.

mod disk;
mod fault;
mod image;
mod mutant;
mod order;
mod pending;
mod rng;
mod store;

pub use disk::{Counts, MAX_EXHAUSTIVE_WRITES, SimDisk};
pub use fault::{Died, Fault, Injected, Which};
pub use image::Image;
pub use mutant::{EarlySuperblock, NoFlush};
pub use order::{Operation, OperationKind, Order, OrderError, SUPERBLOCK, written};
pub use rng::{Seed, seeds};
pub use store::MemoryStore;
