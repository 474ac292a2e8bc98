//! Counters of the requests to a clone. [`volume`](crate::export::volume) updates them, and the
//! metrics show them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clone_core::engine::Operation;

/// The kinds of requests that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Read,
    /// Writes of data.
    Write,
    /// Writes of zeroes.
    WriteZeroes,
    /// Discards.
    Discard,
    /// Hydration of a range, for example by `NBD_CMD_CACHE`.
    Hydrate,
    /// Flushes and commits.
    Flush,
}

impl Kind {
    /// All kinds, in the order of their values.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Write, Self::WriteZeroes, Self::Discard, Self::Hydrate, Self::Flush];

    /// Returns the kind as which an operation is counted.
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

    /// Returns the name, as the metrics and the control protocol use it.
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

/// Upper bounds of the latency classes in microseconds, inclusive. One more class has no bound.
pub const LATENCY_ENDS: [u64; 20] = [
    4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072,
    262_144, 524_288, 1_048_576, 8_388_608,
];

/// Counters of one kind of requests.
#[derive(Debug, Default)]
pub struct Counts {
    /// Number of requests by latency class: see [`LATENCY_ENDS`].
    pub classes: [AtomicU64; LATENCY_ENDS.len() + 1],
    /// Sum of the latencies in microseconds.
    pub micros: AtomicU64,
    /// Sum of the lengths in bytes.
    pub bytes: AtomicU64,
    /// Number of failed requests.
    pub failed: AtomicU64,
}

/// Counters of one clone.
#[derive(Debug, Default)]
pub struct Stats {
    /// By kind; for each kind first the requests whose range was hydrated when they arrived.
    counts: [[Counts; 2]; Kind::ALL.len()],
    in_flight: AtomicU64,
}

impl Stats {
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

    /// Returns the counters of one kind, for requests whose range was hydrated when they arrived,
    /// or for the others.
    pub fn counts(&self, kind: Kind, hydrated: bool) -> &Counts {
        &self.counts[kind as usize][usize::from(!hydrated)]
    }

    /// Counts the start of a submitted request.
    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a submitted request.
    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the number of submitted requests in flight. Requests on the fast path do not count.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::{Kind, LATENCY_ENDS, Stats};

    #[test]
    fn a_request_is_counted_in_the_class_that_its_latency_ends_in() {
        let stats = Stats::default();
        for micros in [0, 4, 5, 8_388_608, 8_388_609] {
            stats.note(Kind::Write, false, 512, Duration::from_micros(micros), micros != 5);
        }
        let counts = stats.counts(Kind::Write, false);
        let classes: Vec<u64> =
            counts.classes.iter().map(|class| class.load(Ordering::Relaxed)).collect();
        assert_eq!((classes[0], classes[1], classes[LATENCY_ENDS.len() - 1]), (2, 1, 1));
        assert_eq!(classes[LATENCY_ENDS.len()], 1);
        assert_eq!(counts.bytes.load(Ordering::Relaxed), 5 * 512);
        assert_eq!(counts.failed.load(Ordering::Relaxed), 1);
        assert_eq!(stats.counts(Kind::Write, true).bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn each_kind_has_a_place_of_its_own() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
    }
}
