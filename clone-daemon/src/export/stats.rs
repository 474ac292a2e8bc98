//! What is counted of the requests to a clone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clone_core::engine::Operation;

/// What users ask for, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes, of data.
    Write,
    /// Writes of zeroes.
    WriteZeroes,
    /// Discards.
    Discard,
    /// Hydration of a range.
    Hydrate,
    /// Flushes, and commits.
    Flush,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::WriteZeroes, Self::Discard, Self::Hydrate, Self::Flush];

    /// As which an operation is counted.
    pub fn of(operation: Operation) -> Self {
        match operation {
            Operation::Read => Self::Read,
            Operation::Write => Self::Write,
            Operation::WriteZeroes { .. } => Self::WriteZeroes,
            Operation::Discard => Self::Discard,
            Operation::Hydrate => Self::Hydrate,
            Operation::Flush | Operation::Commit => Self::Flush,
        }
    }

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::WriteZeroes => "write_zeroes",
            Self::Discard => "discard",
            Self::Hydrate => "hydrate",
            Self::Flush => "flush",
        }
    }
}

/// The upper ends of the classes of latency, in microseconds; beyond the last there is one more.
pub const LATENCY_ENDS: [u64; 20] = [
    4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072,
    262_144, 524_288, 1_048_576, 8_388_608,
];

/// Requests of one kind.
#[derive(Debug, Default)]
pub struct Counts {
    /// By latency: see [`LATENCY_ENDS`].
    pub classes: [AtomicU64; LATENCY_ENDS.len() + 1],
    /// Their latencies, added up, in microseconds.
    pub micros: AtomicU64,
    /// Their bytes.
    pub bytes: AtomicU64,
    /// How many of them failed.
    pub failed: AtomicU64,
}

/// What is counted of one clone.
#[derive(Debug, Default)]
pub struct Figures {
    /// By kind, and for each first those whose range was hydrated when they came.
    counts: [[Counts; 2]; Kind::ALL.len()],
    in_flight: AtomicU64,
}

impl Figures {
    /// Counts a request that has been answered.
    pub fn note(&self, kind: Kind, hydrated: bool, bytes: u64, took: Duration, ok: bool) {
        let counts = self.counts(kind, hydrated);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = LATENCY_ENDS.partition_point(|&end| end < micros);
        let add = |counter: &AtomicU64, value| counter.fetch_add(value, Ordering::Relaxed);
        add(&counts.classes[class], 1);
        add(&counts.micros, micros);
        add(&counts.bytes, bytes);
        if !ok {
            add(&counts.failed, 1);
        }
    }

    /// Requests of one kind, whose range was hydrated when they came, or was not.
    pub fn counts(&self, kind: Kind, hydrated: bool) -> &Counts {
        &self.counts[kind as usize][usize::from(!hydrated)]
    }

    /// A request is under way from now on.
    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// It is not any more.
    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many requests are under way that were not done at once.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::{Figures, Kind, LATENCY_ENDS};

    #[test]
    fn a_request_is_counted_in_the_class_that_its_latency_ends_in() {
        let figures = Figures::default();
        for micros in [0, 4, 5, 8_388_608, 8_388_609] {
            figures.note(Kind::Write, false, 512, Duration::from_micros(micros), micros != 5);
        }
        let counts = figures.counts(Kind::Write, false);
        let classes: Vec<u64> =
            counts.classes.iter().map(|class| class.load(Ordering::Relaxed)).collect();
        assert_eq!((classes[0], classes[1], classes[LATENCY_ENDS.len() - 1]), (2, 1, 1));
        assert_eq!(classes[LATENCY_ENDS.len()], 1);
        assert_eq!(counts.bytes.load(Ordering::Relaxed), 5 * 512);
        assert_eq!(counts.failed.load(Ordering::Relaxed), 1);
        assert_eq!(figures.counts(Kind::Write, true).bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn each_kind_has_a_place_of_its_own() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
    }
}
