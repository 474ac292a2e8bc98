//! The hydration window: the bytes that hydration may have in flight on the source.
//!
//! A user's read queues behind the data in flight on the line to the source. Hydration therefore
//! keeps only as many bytes in flight as the line needs to stay busy: the bytes that it delivers in
//! the response time of the source, plus a short queue ([`QUEUE_TIME`]). Both values are measured
//! from fetches, as in BBR congestion control (draft-cardwell-iccrg-bbr-congestion-control):
//!
//! - the *rate* is the highest recent delivery rate with a full window;
//! - the *base time* is the shortest time of a fetch. With a full window each fetch waits for those
//!   before it, so now and then the window is drained and one fetch is timed alone.
//!
//! On a fast source the window is larger than all buffers and limits nothing.

use std::time::Duration;

use crate::engine::CHUNK_MIN;

/// Target for the time that a user's read waits behind bulk data.
const QUEUE_TIME: Duration = Duration::from_millis(50);

/// Initial and minimum window, in bytes.
const INITIAL_BYTES: u64 = 512 << 10;
const LEAST_BYTES: u64 = 2 * CHUNK_MIN;

/// Minimum time between two doublings of the window: a source that answers a short burst from a
/// cache says little about the rest.
const GROWTH_TIME: Duration = Duration::from_millis(50);

/// Minimum time for which a measured rate is used; the maximum is twice as long.
const RATE_TIME: Duration = Duration::from_secs(1);

/// Minimum time between two measurements of the base time, and time of the first one.
const BASE_TIME: Duration = Duration::from_secs(10);
const FIRST_BASE_TIME: Duration = Duration::from_millis(500);

/// The inverse of the maximum share of time spent on these measurements.
const BASE_SHARE: u32 = 50;

/// Minimum time for which nothing else is fetched during a measurement of the base time.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// The interval between the starts of two fetches, as a fraction of the time that the line needs
/// for the first.
const PACE: (u32, u32) = (4, 5);

/// Number of rounds without a higher rate after which the line counts as full.
const ROUNDS_AT_FULL_RATE: u32 = 3;

/// The state at the start of a fetch.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Sample {
    at: Duration,
    /// Total bytes that the source had delivered.
    delivered: u64,
    /// True if this fetch filled the window: only then does the rate show the limit of the line.
    is_full: bool,
    /// True if nothing else was in flight, to measure the base time.
    is_probe: bool,
    /// True if the fetch measures the line. Fetches for users do not: they may be short, and a long
    /// fetch that had nearly completed may end while they run.
    is_bulk: bool,
}

impl Sample {
    /// Returns the start of the fetch.
    pub(in crate::engine) fn began(&self) -> Duration {
        self.at
    }
}

/// The limit for the bytes in flight that no user reads.
#[derive(Debug)]
pub(in crate::engine) struct Window {
    bytes: u64,
    /// Maximum of `bytes`.
    most: u64,
    /// Number of fetches that share the window.
    fetches: u64,
    delivered: u64,
    rate: MaxRate,
    base: Option<Duration>,
    /// Time of the next measurement of the base time.
    base_due: Duration,
    is_probing: bool,
    /// Time at which a measurement is abandoned: a stuck fetch must not block all others.
    probe_until: Duration,
    startup: Option<Startup>,
    grown_at: Duration,
    /// Earliest start of the next fetch.
    paced_at: Duration,
}

/// Maximum rate in the current and the previous period, in bytes per second.
#[derive(Debug, Default)]
struct MaxRate {
    current: u64,
    previous: u64,
    began: Duration,
}

/// The startup phase: until the line is found to be full, the target window is twice as large.
#[derive(Debug, Default)]
struct Startup {
    /// A fetch that began after this many delivered bytes starts the next round.
    round_at: u64,
    rate: u64,
    rounds: u32,
}

impl Window {
    /// Creates a window of at most `most` bytes, shared by about `fetches` fetches.
    pub(in crate::engine) fn new(most: u64, fetches: u32) -> Self {
        Self {
            bytes: INITIAL_BYTES.min(most),
            most,
            // A single fetch would take the whole window, and allow a larger one each time.
            fetches: fetches.max(4).into(),
            delivered: 0,
            rate: MaxRate::default(),
            base: None,
            // Early: until then the base time comes from fetches that shared the line.
            base_due: FIRST_BASE_TIME,
            is_probing: false,
            probe_until: Duration::ZERO,
            startup: Some(Startup::default()),
            grown_at: Duration::ZERO,
            paced_at: Duration::ZERO,
        }
    }

    /// Returns the size of the window, in bytes.
    pub(in crate::engine) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the largest fetch, in bytes, for a user who wants less: an eighth of the window, so
    /// that it takes little longer than the data that the user wants.
    pub(in crate::engine) fn user_bytes(&self) -> u64 {
        self.bytes / 8
    }

    /// Returns the preferred size of one fetch, in bytes: a power of two.
    pub(in crate::engine) fn piece_bytes(&self) -> u64 {
        (self.bytes / self.fetches).max(CHUNK_MIN).next_power_of_two()
    }

    /// Returns how many bytes may start beside `under_way` bytes in flight: 0 while the base time
    /// is measured, but never 0 if nothing is in flight.
    pub(in crate::engine) fn room(&mut self, now: Duration, under_way: u64) -> u64 {
        if self.base_due <= now && self.startup.is_none() && !self.is_probing {
            self.is_probing = true;
            let base = self.base.unwrap_or_default();
            self.probe_until = now.saturating_add(PROBE_TIME.max(base.saturating_mul(4)));
        }
        match under_way {
            0 => self.bytes,
            _ if self.is_probing => 0,
            _ => self.bytes.saturating_sub(under_way),
        }
    }

    /// Returns the time at which [`expire`](Self::expire) has to run, if any.
    pub(in crate::engine) fn expires_at(&self) -> Option<Duration> {
        self.is_probing.then_some(self.probe_until)
    }

    /// Abandons a measurement of the base time that takes too long; the next one is tried later.
    pub(in crate::engine) fn expire(&mut self, now: Duration) {
        if self.expires_at().is_some_and(|at| at <= now) {
            self.is_probing = false;
            self.base_due = now.saturating_add(BASE_TIME);
        }
    }

    /// Returns the earliest start of the next fetch, even if there is room. Fetches that begin
    /// together share the line and end together, and then the line is idle until the next ones are
    /// answered.
    pub(in crate::engine) fn paced_at(&self) -> Duration {
        self.paced_at
    }

    /// Returns the sample of a fetch for a user, which does not count against the window.
    pub(in crate::engine) fn begin_for_user(&self, now: Duration) -> Sample {
        let delivered = self.delivered;
        Sample { at: now, delivered, is_full: false, is_probe: false, is_bulk: false }
    }

    /// Returns the sample of a fetch of `bytes` that begins beside `under_way` bytes in flight.
    pub(in crate::engine) fn begin(&mut self, now: Duration, bytes: u64, under_way: u64) -> Sample {
        let is_full = under_way + bytes + self.piece_bytes() > self.bytes;
        let is_probe = self.is_probing && under_way == 0;
        if self.startup.is_none() && self.bytes < self.most {
            let time = time_for(bytes, self.rate.get()) * PACE.0 / PACE.1;
            self.paced_at = self.paced_at.max(now).saturating_add(time);
        }
        Sample { at: now, delivered: self.delivered, is_full, is_probe, is_bulk: true }
    }

    /// Handles the end of a fetch that read all of its `bytes`.
    pub(in crate::engine) fn delivered(&mut self, now: Duration, sample: Sample, bytes: u64) {
        self.delivered += bytes;
        if !sample.is_bulk {
            return;
        }
        let took = now.saturating_sub(sample.at).max(Duration::from_nanos(1));
        let rate = per_second(self.delivered - sample.delivered, took);
        let period = RATE_TIME.max(self.base.unwrap_or_default().saturating_mul(4));
        self.rate.note(now, period, rate, sample.is_full);
        self.note_base(now, took, sample);
        if sample.is_full {
            self.note_round(sample);
        }
        self.adapt(now);
    }

    /// Handles the end of a fetch that read nothing, which says nothing about the line.
    pub(in crate::engine) fn ended(&mut self, now: Duration, sample: Sample) {
        if sample.is_probe {
            self.is_probing = false;
            self.base_due = now.saturating_add(RATE_TIME);
        }
    }

    fn note_base(&mut self, now: Duration, base: Duration, sample: Sample) {
        let is_shorter = self.base.is_none_or(|known| base <= known);
        if is_shorter || sample.is_probe {
            self.base = Some(base);
        }
        if sample.is_probe {
            self.base_due = now.saturating_add(BASE_TIME.max(base.saturating_mul(BASE_SHARE)));
            self.is_probing = false;
        }
    }

    fn note_round(&mut self, sample: Sample) {
        let Some(startup) = &mut self.startup else { return };
        if sample.delivered < startup.round_at {
            return;
        }
        startup.round_at = self.delivered;
        let rate = self.rate.get();
        if rate > startup.rate.saturating_add(startup.rate / 4) {
            (startup.rate, startup.rounds) = (rate, 0);
        } else {
            startup.rounds += 1;
        }
        if startup.rounds >= ROUNDS_AT_FULL_RATE {
            self.startup = None;
        }
    }

    fn adapt(&mut self, now: Duration) {
        let rate = self.rate.get();
        // The window is filled by whole fetches, and one is transferred while the next is answered.
        let queue = bytes_in(QUEUE_TIME, rate).max(LEAST_BYTES);
        let target = bytes_in(self.base.unwrap_or_default(), rate).saturating_add(queue);
        let gain = if self.startup.is_some() { 2 } else { 1 };
        let target = target.saturating_mul(gain).min(self.most);
        if target < self.bytes {
            self.bytes = target;
        } else if self.grown_at.saturating_add(GROWTH_TIME) <= now {
            self.grown_at = now;
            self.bytes = target.min(self.bytes.saturating_mul(2));
        }
    }
}

impl MaxRate {
    fn get(&self) -> u64 {
        self.current.max(self.previous)
    }

    /// A rate measured without a full window is only a lower bound for the line.
    fn note(&mut self, now: Duration, period: Duration, rate: u64, is_full: bool) {
        if is_full && self.began.saturating_add(period) <= now {
            (self.previous, self.current, self.began) = (self.current, rate, now);
        } else {
            self.current = self.current.max(rate);
        }
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn time_for(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn bytes_in(time: Duration, rate: u64) -> u64 {
    let bytes = time.as_nanos().saturating_mul(rate.into()) / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
