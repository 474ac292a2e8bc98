//! The source of the clone, and the ranges that the clients use.

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

/// Size in bytes of a region, and of a bad spot of the source.
pub(super) const REGION: u64 = 4 * KIB;

/// The range that all clients read and none writes.
pub(super) const SHARED: Range<u64> = 0..1536 * KIB;

/// The part of it without bad spots.
pub(super) const SOUND: Range<u64> = 0..1024 * KIB;

/// A part of it that is a hole, and is reported as one.
const HOLE: Range<u64> = 384 * KIB..640 * KIB;

/// Size in bytes of the range that one client uses alone. The client writes it, except for the last
/// part, which it discards; the contents of that part are undefined then.
const OWN: u64 = 512 * KIB;
const DISCARDED: u64 = 64 * KIB;

pub(super) fn is_apart(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.end <= b.start || b.end <= a.start
}

/// Returns the range that client `number` writes.
pub(super) fn written_by(number: u64) -> Range<u64> {
    let start = SHARED.end + number * OWN;
    start..start + OWN - DISCARDED
}

/// Returns the range that client `number` discards.
pub(super) fn discarded_by(number: u64) -> Range<u64> {
    let end = written_by(number).end;
    end..end + DISCARDED
}

/// Returns the contents of a source for this number of clients, and its bad spots.
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

/// A source with spots that cannot be read. It is slow now and then.
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
