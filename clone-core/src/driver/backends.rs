//! Performs operations on devices. A worker runs each one from start to end, with no lock but that
//! of the metadata.

use std::error::Error;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use persistent_data::device;

use crate::block_io::zero_runs;
use crate::block_io::{Destination, DestinationLost, Extent, Source, SourceChanged};
use crate::driver::buffers::{BufferPool, CopyBuffer, length};
use crate::driver::queue::{Laid, Work};
use crate::engine::{ByteRange, Done, Failure, RegionSet};
use crate::metadata::{Metadata, MetadataError};
use crate::sync::lock;

/// The backends that operations run on.
pub(super) struct Backends {
    pub(super) source: Arc<dyn Source>,
    pub(super) destination: Arc<dyn Destination>,
    pub(super) metadata_store: Arc<dyn MetadataStore>,
    pub(super) buffers: Arc<BufferPool>,
    pub(super) tally: Tally,
    /// The reason of a source change, until the engine receives it.
    pub(super) changed: Mutex<Option<String>>,
    /// The reason why the clone cannot continue, until it has failed.
    pub(super) lost: Mutex<Option<Failure>>,
}

/// Metadata on any device. At most one operation is in flight on it.
pub(super) trait MetadataStore: Send + Sync {
    /// Marks regions as hydrated, and commits. Returns the number of blocks in use.
    fn commit(&self, regions: &RegionSet) -> Result<u64, MetadataError>;

    /// Restores the last commit. Returns the number of blocks in use.
    fn abort(&self) -> Result<u64, MetadataError>;

    /// Closes the metadata, which is no longer needed.
    fn retire(&self);
}

impl<D: device::Device> MetadataStore for Mutex<Option<Metadata<D>>> {
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

/// Counters since the start of the clone.
#[derive(Default)]
pub(super) struct Tally {
    /// Bytes read from the source for copies.
    pub(super) fetched: AtomicU64,
    /// Bytes read from the source for users.
    pub(super) read_source: AtomicU64,
    /// Bytes of copies written to the destination.
    pub(super) copied: AtomicU64,
    /// Bytes of copies that became holes, or were zeroed.
    pub(super) zeroed: AtomicU64,
    /// Number of metadata commits.
    pub(super) commits: AtomicU64,
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Granularity of the search for zeroes, in bytes: most file systems punch holes of such blocks.
const BLOCK: usize = 4096;

impl Backends {
    /// Performs one operation.
    pub(super) fn perform(&self, work: &Work, is_background: bool) -> Result<Done, Failure> {
        let device = work.device();
        let failed = |error: &dyn Error, is_full| {
            let reason = reason(error);
            Failure { device, reason, is_full }
        };
        if let Some(result) = self.on_data(work, is_background) {
            return result.map_err(|error| {
                if let Some(SourceChanged(what)) = SourceChanged::of(&error) {
                    *lock(&self.changed) = Some(what.clone());
                }
                let failure = failed(&error, is_full(&error));
                if DestinationLost::of(&error).is_some() {
                    *lock(&self.lost) = Some(failure.clone());
                }
                failure
            });
        }
        let used = match work {
            Work::Commit { regions } => {
                add(&self.tally.commits, 1);
                self.metadata_store.commit(regions)
            }
            _ => self.metadata_store.abort(),
        };
        used.map(|used| Done::Blocks { used }).map_err(|error| failed(&error, false))
    }

    /// Performs an operation on source or destination; returns `None` for one on the metadata.
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
                let done = destination.zero(range.clone(), *deallocate);
                if is_background && done.is_ok() {
                    add(&self.tally.zeroed, length(range));
                }
                done
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
        let mut buffer = BufferPool::take(&self.buffers, length(range));
        let bytes = buffer.bytes_mut();
        // The start of the part that is not read yet, and the end of the part that was checked.
        let (mut from, mut at) = (range.start, range.start);
        while at < range.end {
            let extent = self.extent(at, range.end);
            let end = extent.end.min(range.end);
            if extent.zeroes && end - at >= BLOCK as u64 {
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

    /// Returns the extent of the source at `at`. If it is unknown, the range is read as data.
    fn extent(&self, at: u64, end: u64) -> Extent {
        let data = Extent { zeroes: false, end };
        self.source.extent(at).ok().filter(|extent| extent.end > at).unwrap_or(data)
    }

    fn read_source(&self, whole: &ByteRange, part: ByteRange, bytes: &mut [u8]) -> io::Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let place = (part.start - whole.start) as usize..(part.end - whole.start) as usize;
        let len = place.len();
        self.source.read_at(part.start, &mut bytes[place])?;
        add(&self.tally.fetched, len);
        Ok(())
    }

    fn store(&self, copy: &CopyBuffer, overlays: &[Laid]) -> io::Result<()> {
        if !overlays.is_empty() {
            copy.change(&self.buffers, |bytes| {
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
            self.destination.zero(range.clone(), true)?;
            add(&self.tally.zeroed, length(range));
            return Ok(());
        };
        for (run, zeroes) in runs(range.start, bytes.bytes()) {
            let len = length(&run);
            if zeroes {
                self.destination.zero(run, true)?;
                add(&self.tally.zeroed, len);
            } else {
                self.destination.write_at(run.start, &bytes.bytes()[copy.place(&run)])?;
                add(&self.tally.copied, len);
            }
        }
        Ok(())
    }
}

/// Returns true if a device is out of space, or its user out of quota.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns the text of an error and of its causes.
fn reason(error: &dyn Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason = format!("{reason}: {error}");
        source = error.source();
    }
    reason
}

/// Splits data at `offset` into runs of zeroes, which need not be written, and other data.
fn runs(offset: u64, bytes: &[u8]) -> Vec<(Range<u64>, bool)> {
    let place = |run: Range<usize>| offset + run.start as u64..offset + run.end as u64;
    let mut runs = Vec::new();
    let mut at = 0;
    for zeroes in zero_runs(bytes, BLOCK) {
        if at < zeroes.start {
            runs.push((place(at..zeroes.start), false));
        }
        at = zeroes.end;
        runs.push((place(zeroes), true));
    }
    if at < bytes.len() {
        runs.push((place(at..bytes.len()), false));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn zeroes_are_cut_out_by_the_block_and_the_rest_stays_together() {
        assert_eq!(runs(4096, &[0; 8192]), [(4096..12288, true)]);
        assert_eq!(runs(4096, &[0; 512]), [(4096..4608, true)]);
        let mut bytes = vec![0; 6 * 4096 + 100];
        (bytes[4096], bytes[3 * 4096 - 1], bytes[5 * 4096 + 7]) = (1, 2, 3);
        let at = |block: u64| 512 + block * 4096;
        assert_eq!(
            runs(512, &bytes),
            [
                (at(0)..at(1), true),
                (at(1)..at(3), false),
                (at(3)..at(5), true),
                (at(5)..at(6), false),
                (at(6)..at(6) + 100, true),
            ]
        );
        assert_eq!(runs(0, &[1; 5000]), [(0..5000, false)]);
        assert_eq!(runs(7, &[]), []);
    }
}
