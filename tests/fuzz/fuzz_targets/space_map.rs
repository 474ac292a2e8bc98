//! Any operations on a space map, checked against a table of counts.

#![no_main]

use std::collections::HashMap;

use clone_core::metadata::format::{Superblock, SuperblockDisk};
use libfuzzer_sys::fuzz_target;
use persistent_data::device::MemoryDevice;
use persistent_data::format::SpaceMapRoot;
use persistent_data::space_map::DiskSpaceMap;
use persistent_data::transaction::Transaction;
use persistent_data::{BlockNr, Error};
use zerocopy::FromZeros;

/// More blocks than two bitmaps cover.
const NR_BLOCKS: u64 = 40_000;

fuzz_target!(|operations: &[u8]| {
    let device = MemoryDevice::new(600);
    let mut transaction = Transaction::create(&device).expect("room for a superblock");
    let map = DiskSpaceMap::create(&mut transaction, NR_BLOCKS).expect("room for a map");
    let mut run = Run { transaction, map, counts: HashMap::new(), nr_blocks: NR_BLOCKS };
    for operation in operations.as_chunks::<3>().0.iter().take(300) {
        run.step(operation[0], u64::from(u16::from_le_bytes([operation[1], operation[2]])));
    }
    run.commit();
    // The sum of blocks in use agrees, so no other blocks are in use.
    for (&block, &count) in &run.counts {
        assert_eq!(run.count(block), count);
    }
});

struct Run<'a> {
    transaction: Transaction<&'a MemoryDevice>,
    map: DiskSpaceMap,
    counts: HashMap<u64, u32>,
    nr_blocks: u64,
}

impl Run<'_> {
    fn step(&mut self, operation: u8, block: u64) {
        match operation % 8 {
            0..=2 => self.inc(block),
            3 | 4 => self.dec(block),
            5 => self.alloc(),
            6 => {
                assert_eq!(self.count(block), self.counts.get(&block).copied().unwrap_or(0));
            }
            _ if block.is_multiple_of(16) => {
                self.map.extend(block / 16).expect("far from the largest number");
                self.nr_blocks += block / 16;
            }
            _ => self.commit(),
        }
    }

    fn count(&self, block: u64) -> u32 {
        match self.map.count(&self.transaction, BlockNr(block)) {
            Err(Error::OutOfRange { .. }) if block >= self.nr_blocks => 0,
            count => count.expect("a sound map"),
        }
    }

    fn inc(&mut self, block: u64) {
        match self.map.inc(&self.transaction, BlockNr(block)) {
            Err(Error::OutOfRange { .. }) => assert!(block >= self.nr_blocks),
            result => {
                result.expect("a sound map");
                *self.counts.entry(block).or_default() += 1;
            }
        }
    }

    fn dec(&mut self, block: u64) {
        let count = self.counts.get(&block).copied().unwrap_or(0);
        match self.map.dec(&self.transaction, BlockNr(block)) {
            Err(Error::OutOfRange { .. }) => assert!(block >= self.nr_blocks),
            Err(Error::CountUnderflow { .. }) => assert_eq!(count, 0),
            result => {
                result.expect("a sound map");
                self.counts.insert(block, count.checked_sub(1).expect("it was counted"));
            }
        }
    }

    fn alloc(&mut self) {
        let at = self.map.alloc(&self.transaction).expect("blocks are left");
        assert!(at.0 < self.nr_blocks);
        let before = self.counts.insert(at.0, 1);
        assert!(before.is_none_or(|count| count == 0), "block {at} was in use");
    }

    /// Commits, and continues from the committed state.
    fn commit(&mut self) {
        let root = self.map.commit(&mut self.transaction).expect("room enough");
        let area = SpaceMapRoot::from_area(&root.to_area());
        let prepared = self.transaction.prepare().expect("room enough");
        prepared
            .commit::<Superblock>(&SuperblockDisk::new_zeroed())
            .expect("the device does not fail");
        self.map = DiskSpaceMap::open(area);
        let in_use = self.counts.values().filter(|&&count| count > 0).count() as u64;
        assert_eq!(self.map.nr_allocated(), in_use);
    }
}
