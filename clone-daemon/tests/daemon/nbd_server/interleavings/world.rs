//! What is cloned, and what clients know of it.

use std::io;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use clone_core::block_io::ReadData;
use clone_core::block_io::{Extent, Source};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::served::noise;

pub(super) const KIB: u64 = 1 << 10;

/// Bytes of a region, and of what cannot be read in a spot that is bad.
pub(super) const REGION: u64 = 4 * KIB;

/// What all clients read and nobody writes.
pub(super) const SHARED: Range<u64> = 0..1536 * KIB;

/// The part of it in which nothing is bad.
pub(super) const SOUND: Range<u64> = 0..1024 * KIB;

/// A part of it that is a hole, and known to be one.
const HOLE: Range<u64> = 384 * KIB..640 * KIB;

/// What one client writes, and nobody else uses; and, at its end, what it discards: nobody knows
/// what that holds then.
const OWN: u64 = 512 * KIB;
const DISCARDED: u64 = 64 * KIB;

pub(super) fn is_apart(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.end <= b.start || b.end <= a.start
}

/// What client `number` writes.
pub(super) fn written_by(number: u64) -> Range<u64> {
    let start = SHARED.end + number * OWN;
    start..start + OWN - DISCARDED
}

/// What client `number` discards.
pub(super) fn discarded_by(number: u64) -> Range<u64> {
    let end = written_by(number).end;
    end..end + DISCARDED
}

/// The content of a source for so many clients, and its bad spots.
pub(super) fn content(seed: u64, clients: u64) -> (Vec<u8>, Vec<Range<u64>>) {
    let size = SHARED.end + clients * OWN;
    let mut content = noise(seed, size as usize);
    content[HOLE.start as usize..HOLE.end as usize].fill(0);
    let mut rng = StdRng::seed_from_u64(seed);
    let places = (SHARED.end - SOUND.end) / REGION;
    let bad = (0..4).map(|_| {
        let start = SOUND.end + rng.next_u64() % places * REGION;
        start..start + REGION
    });
    (content, bad.collect())
}

/// A source that cannot be read in spots, and takes its time now and then.
pub(super) struct Spotted {
    pub(super) content: Vec<u8>,
    pub(super) bad: Vec<Range<u64>>,
}

impl ReadData for Spotted {
    fn size_bytes(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let range = offset..offset + into.len() as u64;
        if (offset / REGION).is_multiple_of(5) {
            thread::sleep(Duration::from_micros(200));
        }
        if self.bad.iter().any(|bad| !is_apart(bad, &range)) {
            return Err(io::Error::other("a spot is bad"));
        }
        into.copy_from_slice(&self.content[range.start as usize..range.end as usize]);
        Ok(())
    }
}

impl Source for Spotted {
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let data_until = |end| Ok(Extent { zeroes: false, end });
        match offset {
            _ if HOLE.contains(&offset) => Ok(Extent { zeroes: true, end: HOLE.end }),
            _ if offset < HOLE.start => data_until(HOLE.start),
            _ => data_until(self.size_bytes()),
        }
    }
}
