//! Concurrent writes, zeroes and discards that overlap.

use std::ops::Range;
use std::sync::Barrier;
use std::thread;

use persistent_data::sim::seeds;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{content, on_all};
use crate::block_io::device::ReadData;
use crate::block_io::{Destination, FileDestination};

const SIZE: u64 = 64 << 10;
const THREADS: usize = 3;
const ROUNDS: usize = 40;

/// The operation of one thread in one round.
#[derive(Clone, Debug)]
enum Change {
    /// Write bytes of this value.
    Write(Range<u64>, u8),
    Zero(Range<u64>, bool),
    Discard(Range<u64>),
}

impl Change {
    fn draw(rng: &mut StdRng, tag: u8) -> Self {
        // Most of them overlap in a few blocks.
        let block = 1 << rng.random_range(9..=14);
        let start = rng.random_range(0..4) * block;
        let range = match rng.random_bool(0.5) {
            true => start..start + block * rng.random_range(1..=3),
            false => {
                let from = start + rng.random_range(0..block);
                from..from + rng.random_range(1..=block)
            }
        };
        let range = range.start..range.end.min(SIZE);
        match rng.random_range(0..8) {
            0 => Self::Zero(range, rng.random()),
            1 => Self::Discard(range),
            _ => Self::Write(range, tag),
        }
    }

    fn make(&self, device: &FileDestination) {
        let made = match self {
            Self::Write(range, byte) => {
                let data = vec![*byte; (range.end - range.start) as usize];
                device.write_at(range.start, &data)
            }
            Self::Zero(range, deallocate) => device.zero(range.clone(), *deallocate),
            Self::Discard(range) => device.discard(range.clone()),
        };
        made.unwrap_or_else(|error| panic!("{self:?}: {error}"));
    }

    fn range(&self) -> &Range<u64> {
        match self {
            Self::Write(range, _) | Self::Zero(range, _) | Self::Discard(range) => range,
        }
    }

    /// Returns true if a byte of its range may be `byte` if this change is the last one to reach
    /// it; `before` lists its other possible values.
    fn may_leave(&self, byte: u8, before: &[u8]) -> bool {
        match self {
            Self::Write(_, tag) => byte == *tag,
            Self::Zero(..) => byte == 0,
            // Zeroes, or no change.
            Self::Discard(_) => byte == 0 || before.contains(&byte),
        }
    }
}

/// Checks that each byte was left by one of the changes that cover it, or is unchanged if there is
/// none.
fn check(before: &[u8], after: &[u8], changes: &[Change]) -> Result<(), String> {
    for (at, (&was, &byte)) in before.iter().zip(after).enumerate() {
        let of: Vec<_> =
            changes.iter().filter(|change| change.range().contains(&(at as u64))).collect();
        let mut possible = vec![was];
        possible.extend(of.iter().filter_map(|change| match change {
            Change::Write(_, tag) => Some(*tag),
            Change::Zero(..) => Some(0),
            Change::Discard(_) => None,
        }));
        let is_right = match of.as_slice() {
            [] => byte == was,
            of => of.iter().any(|change| change.may_leave(byte, &possible)),
        };
        if !is_right {
            return Err(format!("byte {at} was {was}, is {byte}: {changes:?}"));
        }
    }
    Ok(())
}

fn run(device: &FileDestination, rng: &mut StdRng) -> Result<(), String> {
    let mut before = content(device);
    for round in 0..ROUNDS {
        let tag = |thread: usize| (1 + round % 80 * THREADS + thread) as u8;
        let changes: Vec<_> = (0..THREADS).map(|thread| Change::draw(rng, tag(thread))).collect();
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for change in &changes {
                scope.spawn(|| {
                    start.wait();
                    change.make(device);
                });
            }
        });
        let after = content(device);
        check(&before, &after, &changes).map_err(|wrong| format!("round {round}: {wrong}"))?;
        before = after;
    }
    Ok(())
}

#[test]
fn every_byte_is_what_one_of_the_changes_that_overlap_it_made_of_it() {
    on_all(SIZE as usize, |name, device| {
        for seed in seeds("every_byte_is_what_one_of_the_changes", 3) {
            if let Err(wrong) = run(device, &mut seed.rng()) {
                panic!("{name}: {wrong}");
            }
        }
    });
}

#[test]
fn a_write_within_a_block_takes_nothing_from_a_write_of_the_whole_block() {
    const PAIRS: usize = 200;
    on_all(SIZE as usize, |name, device| {
        let whole = (0..SIZE).step_by(4096);
        let mut lost = 0;
        for (nr, start) in (0..PAIRS).zip(whole.cycle()) {
            let tag = (nr % 100) as u8;
            let ready = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    ready.wait();
                    Change::Write(start..start + 4096, 1 + tag).make(device);
                });
                scope.spawn(|| {
                    ready.wait();
                    Change::Write(start + 1000..start + 1100, 101 + tag).make(device);
                });
            });
            let mut block = [0xee; 4096];
            device.read_at(start, &mut block).unwrap();
            let outside = block[..1000].iter().chain(&block[1100..]);
            let is_inside = |byte: &u8| [1 + tag, 101 + tag].contains(byte);
            let is_right = outside.clone().all(|&byte| byte == 1 + tag)
                && block[1000..1100].iter().all(is_inside);
            lost += usize::from(!is_right);
        }
        assert_eq!(lost, 0, "{name}: of {PAIRS} pairs");
    });
}
