//! Operations on devices, each from its beginning to its end, by one thread and without a lock but
//! that of metadata.

use std::error::Error;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use persistent_data::device;

use crate::driver::buffers::{CopyBuffer, Pool, length, lock};
use crate::driver::device::{Destination, Extent, Source};
use crate::driver::queue::{Laid, Work};
use crate::engine::{ByteRange, Done, Failure, RegionSet};
use crate::metadata::{Metadata, MetadataError};

/// What operations are done on.
pub(super) struct Hands {
    pub(super) source: Arc<dyn Source>,
    pub(super) destination: Arc<dyn Destination>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) pool: Arc<Pool>,
    pub(super) tally: Tally,
}

/// Metadata, of whatever device. Only one operation at a time is under way on it.
pub(super) trait Ledger: Send + Sync {
    /// Marks regions, and commits that. Returns how many blocks are in use.
    fn commit(&self, regions: &RegionSet) -> Result<u64, MetadataError>;

    /// Goes back to the last commit. Returns how many blocks are in use.
    fn abort(&self) -> Result<u64, MetadataError>;

    /// Closes it: it is needed no more.
    fn retire(&self);
}

impl<D: device::Device> Ledger for Mutex<Option<Metadata<D>>> {
    fn commit(&self, regions: &RegionSet) -> Result<u64, MetadataError> {
        let mut metadata = lock(self);
        let metadata = metadata.as_mut().expect("nothing is committed after it was retired");
        for run in regions.runs() {
            metadata.set_hydrated(run)?;
        }
        metadata.commit()?;
        Ok(metadata.block_use().0)
    }

    fn abort(&self) -> Result<u64, MetadataError> {
        let mut metadata = lock(self);
        let metadata = metadata.as_mut().expect("nothing is aborted after it was retired");
        metadata.abort()?;
        Ok(metadata.block_use().0)
    }

    fn retire(&self) {
        let metadata = lock(self).take();
        drop(metadata);
    }
}

/// What has been done since the beginning.
#[derive(Default)]
pub(super) struct Tally {
    /// Bytes read from the source in order to copy them.
    pub(super) fetched: AtomicU64,
    /// Bytes read from the source for users.
    pub(super) read_source: AtomicU64,
    /// Bytes of copies written to the destination.
    pub(super) copied: AtomicU64,
    /// Bytes of copies that became holes, or were made zeroes.
    pub(super) zeroed: AtomicU64,
    /// Commits of metadata.
    pub(super) commits: AtomicU64,
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Zeroes of fewer bytes are written, or read, with what is around them: a hole costs a call of its
/// own, and more of them make a file slower.
const HOLE_MIN: u64 = 64 << 10;

/// The unit in which zeroes are looked for.
const BLOCK: u64 = 4096;

impl Hands {
    /// Does one operation.
    pub(super) fn perform(&self, work: &Work, is_background: bool) -> Result<Done, Failure> {
        let done = self.on_data(work, is_background);
        let done = match (done, work) {
            (Some(result), _) => result.map_err(|error| reason(&error)),
            (None, Work::Commit { regions }) => {
                add(&self.tally.commits, 1);
                let used = self.ledger.commit(regions);
                used.map(|used| Done::Blocks { used }).map_err(|error| reason(&error))
            }
            (None, _) => {
                let used = self.ledger.abort();
                used.map(|used| Done::Blocks { used }).map_err(|error| reason(&error))
            }
        };
        done.map_err(|reason| Failure { device: work.device(), reason })
    }

    /// Does what is on one of the devices with data; `None` for what is on metadata.
    fn on_data(&self, work: &Work, is_background: bool) -> Option<io::Result<Done>> {
        let Self { source, destination, .. } = self;
        let result = match work {
            Work::ReadSource { request, range } => {
                add(&self.tally.read_source, length(range));
                request.fill(range, |into| source.read_at(range.start, into))
            }
            Work::ReadDestination { request, range } => {
                request.fill(range, |into| destination.read_at(range.start, into))
            }
            Work::Write { request, range } => {
                destination.write_at(range.start, request.given(range))
            }
            Work::Zero { range, deallocate } => {
                if is_background {
                    add(&self.tally.zeroed, length(range));
                }
                destination.zero(range.clone(), *deallocate)
            }
            Work::Discard { range } => destination.discard(range.clone()),
            Work::Fetch { copy } => return Some(self.fetch(copy)),
            Work::Store { copy, overlays } => self.store(copy, overlays),
            Work::Flush => destination.flush(),
            Work::Commit { .. } | Work::Abort => return None,
        };
        Some(result.map(|()| Done::Plain))
    }

    fn fetch(&self, copy: &CopyBuffer) -> io::Result<Done> {
        let range = copy.range();
        let first = self.extent(range.start, range.end);
        if first.zeroes && first.end >= range.end {
            return Ok(Done::Zeroes { until: first.end });
        }
        let mut buffer = Pool::take(&self.pool, length(range));
        let bytes = buffer.bytes_mut();
        // Where what is not read yet begins, and up to where it has been looked at.
        let (mut from, mut at) = (range.start, range.start);
        while at < range.end {
            let extent = self.extent(at, range.end);
            let end = extent.end.min(range.end);
            if extent.zeroes && end - at >= HOLE_MIN {
                self.read_source(range, from..at, bytes)?;
                bytes[copy.place(&(at..end))].fill(0);
                from = end;
            }
            at = end;
        }
        self.read_source(range, from..at, bytes)?;
        copy.set(buffer);
        Ok(Done::Plain)
    }

    /// What the source says of `at`. Where it cannot tell, reading it will.
    fn extent(&self, at: u64, end: u64) -> Extent {
        let data = Extent { zeroes: false, end };
        self.source.extent(at).ok().filter(|extent| extent.end > at).unwrap_or(data)
    }

    fn read_source(&self, whole: &ByteRange, part: ByteRange, bytes: &mut [u8]) -> io::Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let place = (part.start - whole.start) as usize..(part.end - whole.start) as usize;
        add(&self.tally.fetched, place.len());
        self.source.read_at(part.start, &mut bytes[place])
    }

    fn store(&self, copy: &CopyBuffer, overlays: &[Laid]) -> io::Result<()> {
        if !overlays.is_empty() {
            copy.change(&self.pool, |bytes| {
                for Laid { range, of } in overlays {
                    let into = &mut bytes[copy.place(range)];
                    match of {
                        Some(write) => into.copy_from_slice(write.given(range)),
                        None => into.fill(0),
                    }
                }
            });
        }
        let range = copy.range();
        let bytes = copy.get();
        let Some(bytes) = &*bytes else {
            add(&self.tally.zeroed, length(range));
            return self.destination.zero(range.clone(), true);
        };
        for (run, zeroes) in runs(range.start, bytes.bytes()) {
            if zeroes {
                add(&self.tally.zeroed, length(&run));
                self.destination.zero(run, true)?;
            } else {
                add(&self.tally.copied, length(&run));
                self.destination.write_at(run.start, &bytes.bytes()[copy.place(&run)])?;
            }
        }
        Ok(())
    }
}

/// What a device said, and what that came from.
fn reason(error: &dyn Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason = format!("{reason}: {error}");
        source = error.source();
    }
    reason
}

/// Cuts what begins at `offset` into zeroes that pay as a hole and what is to be written. Where all
/// is zeroes, a hole costs no more than a write.
fn runs(offset: u64, bytes: &[u8]) -> Vec<(Range<u64>, bool)> {
    let end = offset + bytes.len() as u64;
    if is_zero(bytes) {
        return vec![(offset..end, true)];
    }
    let mut runs = Vec::new();
    // Where what is to be written begins, and where the zeroes do that end at `at`.
    let (mut data, mut zeroes, mut at) = (offset, offset, offset);
    while at < end {
        let next = ((at / BLOCK + 1) * BLOCK).min(end);
        if !is_zero(&bytes[(at - offset) as usize..(next - offset) as usize]) {
            cut(&mut runs, &mut data, zeroes..at);
            zeroes = next;
        }
        at = next;
    }
    cut(&mut runs, &mut data, zeroes..end);
    if data < end {
        runs.push((data..end, false));
    }
    runs
}

/// Takes zeroes out of what begins at `data`, if they are large enough.
fn cut(runs: &mut Vec<(Range<u64>, bool)>, data: &mut u64, zeroes: Range<u64>) {
    if zeroes.end - zeroes.start < HOLE_MIN {
        return;
    }
    if *data < zeroes.start {
        runs.push((*data..zeroes.start, false));
    }
    *data = zeroes.end;
    runs.push((zeroes, true));
}

fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let or = |sum: u128, chunk: &[u8; 16]| sum | u128::from_le_bytes(*chunk);
    chunks.iter().fold(0, or) == 0 && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::{HOLE_MIN, runs};

    #[test]
    fn zeroes_that_pay_as_a_hole_are_cut_out_and_the_others_written() {
        let hole = HOLE_MIN as usize;
        let mut bytes = vec![0; 4 * hole];
        assert_eq!(runs(0, &bytes), [(0..4 * HOLE_MIN, true)]);
        bytes[0] = 1;
        bytes[hole + 4096] = 1;
        bytes[hole + 8192 + hole] = 1;
        let second = HOLE_MIN + 8192;
        assert_eq!(
            runs(0, &bytes),
            [
                (0..4096, false),
                (4096..HOLE_MIN + 4096, true),
                (HOLE_MIN + 4096..second, false),
                (second..second + HOLE_MIN, true),
                (second + HOLE_MIN..second + HOLE_MIN + 4096, false),
                (second + HOLE_MIN + 4096..4 * HOLE_MIN, true),
            ]
        );
    }

    #[test]
    fn few_zeroes_are_written_with_what_is_around_them() {
        let mut bytes = vec![0; HOLE_MIN as usize + 4096];
        bytes[4096] = 1;
        let end = 512 + bytes.len() as u64;
        assert_eq!(runs(512, &bytes), [(512..end, false)]);
        bytes[0] = 1;
        assert_eq!(runs(512, &bytes[..1000]), [(512..1512, false)]);
    }

    #[test]
    fn a_copy_of_nothing_but_zeroes_becomes_a_hole_however_small_it_is() {
        assert_eq!(runs(4096, &[0; 4096]), [(4096..8192, true)]);
        assert_eq!(runs(4096, &[0; 512]), [(4096..4608, true)]);
    }
}
