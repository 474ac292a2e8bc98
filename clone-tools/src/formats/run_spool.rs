//! Stores the runs of a document until all of it has been validated.

use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use byteorder::{LittleEndian, ReadBytesExt, WriteBytesExt};
use clone_core::geometry::{MAX_REGIONS, RegionRange};
use tempfile::SpooledTempFile;

/// The bytes that are kept in memory: documents with less than a million runs need no file.
const IN_MEMORY: usize = 8 << 20;

// Both ends of a run fit into 32 bits.
const _: () = assert!(MAX_REGIONS <= u32::MAX as u64);

/// Stores runs in order. Its temporary file, if it needs one, has no name, so that nothing is left
/// behind even if the process is killed.
#[derive(Debug)]
pub struct RunSpool {
    spool: BufWriter<SpooledTempFile>,
    nr_runs: u64,
    hydrated: u64,
    end: u64,
}

impl RunSpool {
    /// Creates an empty spool.
    pub fn new() -> Self {
        Self {
            spool: BufWriter::new(SpooledTempFile::new(IN_MEMORY)),
            nr_runs: 0,
            hydrated: 0,
            end: 0,
        }
    }

    /// Creates a spool with one run.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    ///
    /// # Panics
    /// As for [`push`](Self::push).
    pub fn of(run: RegionRange) -> io::Result<Self> {
        let mut spool = Self::new();
        spool.push(run)?;
        Ok(spool)
    }

    /// Adds a run of regions, which must begin at the end of the last one or later.
    ///
    /// # Errors
    /// The temporary file cannot be created or written.
    ///
    /// # Panics
    /// If the run is empty, overlaps the last one, or ends past the largest number of regions.
    pub fn push(&mut self, run: RegionRange) -> io::Result<()> {
        assert!(self.end <= run.start && run.start < run.end, "run {run:?} after {}", self.end);
        for end in [run.start, run.end] {
            let end = u32::try_from(end).expect("a run ends within the largest number of regions");
            self.spool.write_u32::<LittleEndian>(end)?;
        }
        self.nr_runs += 1;
        self.hydrated += run.end - run.start;
        self.end = run.end;
        Ok(())
    }

    /// Returns the number of regions in all runs.
    pub fn hydrated(&self) -> u64 {
        self.hydrated
    }

    /// Returns the end of the last run (exclusive), or 0 if there is none.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Reads the runs back in order.
    ///
    /// # Errors
    /// The temporary file cannot be written or rewound.
    pub fn into_runs(mut self) -> io::Result<SpooledRuns> {
        self.spool.flush()?;
        let (spool, _) = self.spool.into_parts();
        let mut spool = BufReader::new(spool);
        spool.seek(SeekFrom::Start(0))?;
        Ok(SpooledRuns { spool, left: self.nr_runs })
    }
}

impl Default for RunSpool {
    fn default() -> Self {
        Self::new()
    }
}

/// The runs of a [`RunSpool`].
#[derive(Debug)]
pub struct SpooledRuns {
    spool: BufReader<SpooledTempFile>,
    left: u64,
}

impl SpooledRuns {
    fn read(&mut self) -> io::Result<RegionRange> {
        let mut ends = [0; 8];
        self.spool.read_exact(&mut ends)?;
        let mut ends = ends.as_slice();
        let begin = ends.read_u32::<LittleEndian>()?;
        let end = ends.read_u32::<LittleEndian>()?;
        Ok(u64::from(begin)..u64::from(end))
    }
}

impl Iterator for SpooledRuns {
    type Item = io::Result<RegionRange>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let run = self.read();
        if run.is_err() {
            self.left = 0;
        }
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::{IN_MEMORY, RunSpool};

    fn spooled(runs: impl Iterator<Item = Range<u64>>) -> RunSpool {
        let mut spool = RunSpool::new();
        for run in runs {
            spool.push(run).unwrap();
        }
        spool
    }

    #[test]
    fn runs_come_back_as_they_went_in_from_memory_and_from_a_file() {
        for nr_runs in [0, 1, 1000, IN_MEMORY as u64 / 8 + 10_000] {
            let runs = || (0..nr_runs).map(|i| 3 * i..3 * i + 1 + i % 3);
            let spool = spooled(runs());
            assert_eq!(spool.hydrated(), runs().map(|run| run.end - run.start).sum::<u64>());
            assert!(spool.into_runs().unwrap().map(Result::unwrap).eq(runs()));
        }
    }

    #[test]
    fn the_last_region_of_the_largest_clone_fits() {
        let last = (1 << 31) - 1..1 << 31;
        let spool = spooled([last.clone()].into_iter());
        assert_eq!(spool.end(), 1 << 31);
        assert_eq!(spool.into_runs().unwrap().next().unwrap().unwrap(), last);
    }
}
