//! Simulated storage for tests: disks that lose power and fail, rules that check the recorded
//! operations, and a block store that enforces the contract of writers.
//!
//! # Fault model
//!
//! - Reads return the latest write.
//! - Between two flushes any subset of the written 512-byte sectors survives a crash, in any
//!   order. If several writes of a sector are pending, any one of them may survive.
//! - A sector survives whole or not at all.
//! - A successful flush makes all earlier writes durable.
//! - A failed write may have written any subset of its sectors.
//! - A failed flush has made any subset of the sectors durable and has *forgotten* the others, as
//!   the page cache does: they can still be read, and no later flush stores them.

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
