//! A disk with a volatile cache that can fail and lose power.

use std::io;
use std::sync::{Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::fault::{Fault, Outcome};
use super::image::Image;
use super::order::{Operation, OperationKind};
use super::pending::{PendingWrite, apply_some};
use crate::block::RawBlock;
use crate::device::{Device, ReadDevice, check_range};
use crate::number::BlockNr;

/// Maximum number of pending writes for which [`SimDisk::every_crash`] tries all subsets.
pub const MAX_EXHAUSTIVE_WRITES: usize = 12;

/// Fill byte of the buffer after a failed read, so that a use of the buffer is noticed.
const GARBAGE: u8 = 0xa5;

/// Numbers of operations on a disk, including those that failed because of a [`Fault`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of reads.
    pub reads: u64,
    /// Number of blocks that were read.
    pub blocks_read: u64,
    /// Number of writes.
    pub writes: u64,
    /// Number of blocks that were written.
    pub blocks_written: u64,
    /// Number of flushes.
    pub flushes: u64,
}

impl Counts {
    /// Returns the number of operations of all kinds.
    pub fn total(&self) -> u64 {
        self.reads + self.changes()
    }

    /// Returns the number of writes and flushes.
    pub fn changes(&self) -> u64 {
        self.writes + self.flushes
    }
}

/// A disk with a volatile cache that follows the [fault model](super).
///
/// An operation past the end of the disk is refused as on any device. It is neither counted nor
/// recorded, and no fault affects it.
#[derive(Debug)]
pub struct SimDisk {
    state: Mutex<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// Content of the medium.
    durable: Image,
    /// Content that reads return.
    live: Image,
    /// Writes since the last flush, oldest first.
    pending: Vec<PendingWrite>,
    faults: Vec<Fault>,
    is_dead: bool,
    counts: Counts,
    log: Vec<Operation>,
    /// Determines, with the index of the operation, the partial effect of a failed operation.
    seed: u64,
}

impl SimDisk {
    /// Creates a disk of `nr_blocks` blocks of zeroes.
    pub fn new(nr_blocks: usize) -> Self {
        Self::from_image(Image::new(nr_blocks))
    }

    /// Creates a disk with `blocks` on its medium.
    pub fn from_blocks(blocks: impl IntoIterator<Item = RawBlock>) -> Self {
        Self::from_image(blocks.into_iter().collect())
    }

    /// Creates a disk with `image` on its medium.
    pub fn from_image(image: Image) -> Self {
        let state = State {
            live: image.clone(),
            durable: image,
            pending: Vec::new(),
            faults: Vec::new(),
            is_dead: false,
            counts: Counts::default(),
            log: Vec::new(),
            seed: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Sets the seed that determines the partial effects of failed operations. It is 0 on a new
    /// disk, and drawn at random for a disk after a crash.
    pub fn set_seed(&self, seed: u64) {
        self.state().seed = seed;
    }

    /// Returns the content of the medium. It survives a crash even if no pending write does.
    pub fn durable_image(&self) -> Image {
        self.state().durable.clone()
    }

    /// Returns the content that reads return. Does not count as an operation; no fault affects it.
    pub fn live_image(&self) -> Image {
        self.state().live.clone()
    }

    /// Returns the number of writes since the last flush, which may be lost.
    pub fn nr_pending(&self) -> usize {
        self.state().pending.len()
    }

    /// Returns the numbers of operations since the disk was made.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Takes the operations since the log was last taken, oldest first.
    pub fn take_log(&self) -> Vec<Operation> {
        std::mem::take(&mut self.state().log)
    }

    /// Adds a fault to the planned ones.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Removes all planned faults. A disk without power stays without.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// True if the power is lost.
    pub fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    /// Returns the disk after a loss of power now, with a subset of the pending writes, drawn from
    /// `rng`. It works, has no planned faults, and has seen no operations.
    pub fn crash(&self, rng: &mut impl Rng) -> Self {
        let state = self.state();
        let mut image = state.durable.clone();
        apply_some(&state.pending, &mut image, rng);
        let disk = Self::from_image(image);
        disk.set_seed(rng.random());
        disk
    }

    /// Returns the disks after a loss of power now, one for each subset of the pending writes. Each
    /// write survives whole or not at all. `None` if more than [`MAX_EXHAUSTIVE_WRITES`] are
    /// pending.
    pub fn every_crash(&self) -> Option<impl Iterator<Item = Self> + use<>> {
        let state = self.state();
        let (durable, pending) = (state.durable.clone(), state.pending.clone());
        (pending.len() <= MAX_EXHAUSTIVE_WRITES).then(|| {
            (0_u32..1 << pending.len()).map(move |survives| {
                let mut image = durable.clone();
                for (at, write) in pending.iter().enumerate() {
                    if survives & (1 << at) != 0 {
                        write.apply(&mut image);
                    }
                }
                Self::from_image(image)
            })
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics with the lock held")
    }
}

/// Returns a disk in the same state, including pending writes and planned faults.
impl Clone for SimDisk {
    fn clone(&self) -> Self {
        Self { state: Mutex::new(self.state().clone()) }
    }
}

impl State {
    /// Counts and records an operation.
    ///
    /// # Errors
    /// If the disk was dead before.
    fn begin(&mut self, kind: OperationKind, first: BlockNr, len: usize) -> io::Result<Outcome> {
        if self.is_dead {
            Outcome::Death.of(kind)?;
        }
        let strikes = self.faults.iter_mut().map(|fault| fault.strike(kind));
        let outcome = strikes.max().unwrap_or(Outcome::Success);
        self.is_dead = outcome == Outcome::Death;

        let (index, nr_blocks) = (self.counts.total(), len as u64);
        let succeeded = outcome == Outcome::Success;
        self.log.push(Operation { index, kind, first, nr_blocks, succeeded });
        match kind {
            OperationKind::Read => {
                self.counts.reads += 1;
                self.counts.blocks_read += nr_blocks;
            }
            OperationKind::Write => {
                self.counts.writes += 1;
                self.counts.blocks_written += nr_blocks;
            }
            OperationKind::Flush => self.counts.flushes += 1,
        }
        Ok(outcome)
    }

    /// Returns the seed for the operation that has just begun.
    fn operation_seed(&self) -> u64 {
        self.seed.wrapping_add(self.counts.total())
    }

    fn flush(&mut self, outcome: Outcome) {
        match outcome {
            // Not a copy of the live image: sectors that an earlier flush forgot stay unwritten.
            Outcome::Success => {
                for write in &self.pending {
                    write.apply(&mut self.durable);
                }
            }
            Outcome::Failure => {
                let mut rng = StdRng::seed_from_u64(self.operation_seed());
                apply_some(&self.pending, &mut self.durable, &mut rng);
            }
            // Each pending write may still survive: the crash decides.
            Outcome::Death => return,
        }
        self.pending.clear();
    }
}

impl ReadDevice for SimDisk {
    fn nr_blocks(&self) -> u64 {
        self.state().live.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        let mut state = self.state();
        check_range(state.live.nr_blocks(), first, into.len())?;
        match state.begin(OperationKind::Read, first, into.len())? {
            Outcome::Success => state.live.read(first, into),
            outcome => {
                into.iter_mut().for_each(|block| block.bytes_mut().fill(GARBAGE));
                outcome.of(OperationKind::Read)
            }
        }
    }
}

impl Device for SimDisk {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        let mut state = self.state();
        check_range(state.live.nr_blocks(), first, from.len())?;
        let outcome = state.begin(OperationKind::Write, first, from.len())?;
        let write = PendingWrite::new(first, from);
        let write = match outcome {
            Outcome::Success => Some(write),
            Outcome::Failure | Outcome::Death => write.torn(state.operation_seed()),
        };
        if let Some(write) = write {
            write.apply(&mut state.live);
            state.pending.push(write);
        }
        outcome.of(OperationKind::Write)
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state();
        let outcome = state.begin(OperationKind::Flush, BlockNr(0), 0)?;
        state.flush(outcome);
        outcome.of(OperationKind::Flush)
    }
}

#[cfg(test)]
mod tests;
