//! Devices that violate the order that commits rely on. They prove that tests detect it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard};

use super::order::SUPERBLOCK;
use crate::block::RawBlock;
use crate::device::{Device, ReadDevice};
use crate::number::BlockNr;

/// A device that reports a successful flush without flushing.
#[derive(Debug)]
pub struct NoFlush<D>(pub D);

impl<D: ReadDevice> ReadDevice for NoFlush<D> {
    fn nr_blocks(&self) -> u64 {
        self.0.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        self.0.read(first, into)
    }
}

impl<D: Device> Device for NoFlush<D> {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        self.0.write(first, from)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A device that makes the superblock durable before the blocks that were written earlier.
///
/// It holds those blocks back until the flush after the superblock. Reads return them, but they are
/// lost if the device is dropped before that flush.
#[derive(Debug)]
pub struct EarlySuperblock<D> {
    inner: D,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    blocks: BTreeMap<BlockNr, Box<RawBlock>>,
    superblock_is_written: bool,
}

impl<D> EarlySuperblock<D> {
    /// Reorders the writes to `inner`.
    pub fn new(inner: D) -> Self {
        Self { inner, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nothing panics with the lock held")
    }
}

impl<D: ReadDevice> ReadDevice for EarlySuperblock<D> {
    fn nr_blocks(&self) -> u64 {
        self.inner.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        self.inner.read(first, into)?;
        let end = first.plus(into.len() as u64);
        for (at, block) in self.held().blocks.range(first..end) {
            into[(at.0 - first.0) as usize].clone_from(block);
        }
        Ok(())
    }
}

impl<D: Device> Device for EarlySuperblock<D> {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        let mut held = self.held();
        for (at, block) in (first.0..).map(BlockNr).zip(from) {
            if at == SUPERBLOCK {
                self.inner.write(at, std::slice::from_ref(block))?;
                self.inner.flush()?;
                held.superblock_is_written = true;
            } else {
                held.blocks.insert(at, Box::new(block.clone()));
            }
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut held = self.held();
        if !held.superblock_is_written {
            return Ok(());
        }
        for (at, block) in std::mem::take(&mut held.blocks) {
            self.inner.write(at, std::slice::from_ref(&*block))?;
        }
        held.superblock_is_written = false;
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::{EarlySuperblock, NoFlush};
    use crate::block::RawBlock;
    use crate::device::{Device, ReadDevice};
    use crate::number::BlockNr;
    use crate::sim::{Died, Fault, Order, OrderError, SimDisk, Which, seeds};

    const COMMITS: u8 = 6;

    fn filled(byte: u8) -> RawBlock {
        let mut block = RawBlock::ZERO;
        block.bytes_mut().fill(byte);
        block
    }

    /// Commits generations from `first` on, which alternate between blocks 1, 2 and blocks 3, 4.
    /// The superblock and the blocks are filled with the generation.
    fn run(device: &impl Device, first: u8) -> io::Result<()> {
        for generation in first..first + COMMITS {
            let area = BlockNr(1 + 2 * u64::from(generation % 2));
            device.write(area, &[filled(generation), filled(generation)])?;
            device.flush()?;
            device.write(BlockNr(0), &[filled(generation)])?;
            device.flush()?;
        }
        Ok(())
    }

    /// Returns the generation in the superblock's first sector, if its blocks are whole.
    fn recover(disk: &SimDisk) -> Option<u8> {
        let image = disk.live_image();
        let generation = image.block(BlockNr(0)).bytes()[0];
        let area = BlockNr(1 + 2 * u64::from(generation % 2));
        let whole = |at: BlockNr| generation == 0 || *image.block(at) == filled(generation);
        (whole(area) && whole(area.plus(1))).then_some(generation)
    }

    /// Returns whether a run on the device that `wrap` makes can be recovered after a crash in it,
    /// and a second run after a second crash.
    fn survives<D: Device>(
        mut rng: StdRng,
        wrap: impl Fn(SimDisk) -> D,
        inner: impl Fn(D) -> SimDisk,
    ) -> bool {
        let mut disk = SimDisk::new(5);
        for _ in 0..2 {
            let Some(generation) = recover(&disk) else { return false };
            disk.inject(Fault::die_at(Which::Change, rng.random_range(0..30)));
            let device = wrap(disk);
            if let Err(error) = run(&device, generation + 1) {
                assert!(Died::caused(&error), "{error}");
            }
            disk = inner(device).crash(&mut rng);
        }
        recover(&disk).is_some()
    }

    #[test]
    fn commits_in_order_survive_every_crash() {
        for seed in seeds("commits_in_order_survive_every_crash", 2000) {
            assert!(survives(seed.rng(), |disk| disk, |disk| disk));
        }
    }

    #[test]
    fn a_missing_flush_is_found_by_crashing() {
        let survives = |seed| survives(StdRng::seed_from_u64(seed), NoFlush, |device| device.0);
        assert!((0..200).filter(|&seed| !survives(seed)).count() > 50);
    }

    #[test]
    fn a_superblock_ahead_of_its_blocks_is_found_by_crashing() {
        let survives = |seed| {
            survives(StdRng::seed_from_u64(seed), EarlySuperblock::new, |device| device.inner)
        };
        assert!((0..200).filter(|&seed| !survives(seed)).count() > 50);
    }

    #[test]
    fn both_are_found_in_the_log_of_a_run_without_a_crash() {
        let disk = SimDisk::new(5);
        run(&disk, 1).unwrap();
        let mut order = Order::new();
        assert_eq!(order.observe(&disk.take_log()), Ok(()));
        assert_eq!(order.finish(), Ok(()));

        run(&NoFlush(&disk), 1).unwrap();
        let broken = Order::new().observe(&disk.take_log());
        assert!(matches!(broken, Err(OrderError::UnflushedBlock { .. })), "{broken:?}");
    }

    #[test]
    fn early_superblocks_change_nothing_for_a_run_that_ends() {
        let (plain, early) = (SimDisk::new(5), EarlySuperblock::new(SimDisk::new(5)));
        run(&plain, 1).unwrap();
        run(&early, 1).unwrap();
        assert_eq!(early.inner.durable_image(), plain.durable_image());
    }

    #[test]
    fn blocks_that_are_held_back_are_read() {
        let disk = SimDisk::new(5);
        let early = EarlySuperblock::new(&disk);
        early.write(BlockNr(2), &[filled(2), filled(3)]).unwrap();
        early.flush().unwrap();
        assert_eq!(disk.counts().total(), 0);
        let mut blocks = vec![filled(9); 3];
        early.read(BlockNr(1), &mut blocks).unwrap();
        assert_eq!(blocks, [RawBlock::ZERO, filled(2), filled(3)]);
        assert!(early.read(BlockNr(4), &mut blocks).is_err());
    }
}
