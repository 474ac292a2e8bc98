//! How much is read from the source ahead of users.
//!
//! A read of a user goes behind whatever the line to the source is carrying. So hydration has no
//! more bytes under way than it takes to keep the line busy: what the line delivers in the time
//! that the source needs to answer, and a little more ([`QUEUE_TIME`]). Both are measured from
//! fetches, as BBR congestion control does (draft-cardwell-iccrg-bbr-congestion-control):
//!
//! - the *rate* is the highest that was delivered lately while the window was full;
//! - the *base time* is the shortest time that a fetch took. With a full window each fetch waits
//!   for those before it, so now and then the window is drained and one fetch is timed alone.
//!
//! On a fast source the window is larger than all buffers and limits nothing.

use std::time::Duration;

use crate::engine::CHUNK_MIN;

/// What a read of a user may wait behind bytes that were fetched for nobody.
const QUEUE_TIME: Duration = Duration::from_millis(50);

/// The window before anything was measured, and the smallest, in bytes.
const INITIAL_BYTES: u64 = 512 << 10;
const LEAST_BYTES: u64 = 2 * CHUNK_MIN;

/// The window doubles in this time at most: a source that answers a short burst from a cache says
/// little about the rest.
const GROWTH_TIME: Duration = Duration::from_millis(50);

/// How long a rate counts, at least; up to twice as long.
const RATE_TIME: Duration = Duration::from_secs(1);

/// How often the base time is measured anew, at most, and when it is for the first time.
const BASE_TIME: Duration = Duration::from_secs(10);
const FIRST_BASE_TIME: Duration = Duration::from_millis(500);

/// The share of time that may be spent on that.
const BASE_SHARE: u32 = 50;

/// How long nothing else is fetched for the base time.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// What part of the time that the line takes for a fetch lies between its beginning and that of the
/// next.
const PACE: (u32, u32) = (4, 5);

/// Rounds without a higher rate after which the line counts as full.
const ROUNDS_AT_FULL_RATE: u32 = 3;

/// What was known when a fetch was begun.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Sample {
    at: Duration,
    /// Bytes that the source had delivered since the beginning.
    delivered: u64,
    /// Whether the window was full with it: a rate that was measured otherwise may be anything.
    is_full: bool,
    /// Whether nothing else was under way, in order to measure the base time.
    is_probe: bool,
    /// Whether it tells of the line: fetches for users may be short, and a long one may end during
    /// them that was nearly over.
    is_bulk: bool,
}

impl Sample {
    /// When the fetch was begun.
    pub(in crate::engine) fn began(&self) -> Duration {
        self.at
    }
}

/// How many bytes of copies that nobody waits for may be under way.
#[derive(Debug)]
pub(in crate::engine) struct Window {
    bytes: u64,
    /// The most that `bytes` can be.
    most: u64,
    /// How many fetches share the window.
    fetches: u64,
    delivered: u64,
    rate: MaxRate,
    base: Option<Duration>,
    /// When the base time is to be measured anew.
    base_due: Duration,
    is_probing: bool,
    /// When that is given up: a fetch that hangs must not keep all others.
    probe_until: Duration,
    startup: Option<Startup>,
    grown_at: Duration,
    /// When the next fetch may begin.
    paced_at: Duration,
}

/// The highest rate, in bytes a second, of this period and the one before.
#[derive(Debug, Default)]
struct MaxRate {
    current: u64,
    previous: u64,
    began: Duration,
}

/// Until the line is found to be full the window grows twice as fast.
#[derive(Debug, Default)]
struct Startup {
    /// A fetch that was begun after so many bytes begins the next round.
    round_at: u64,
    rate: u64,
    rounds: u32,
}

impl Window {
    /// At most `most` bytes, shared by about `fetches` fetches.
    pub(in crate::engine) fn new(most: u64, fetches: u32) -> Self {
        Self {
            bytes: INITIAL_BYTES.min(most),
            most,
            // One alone would have all of the window, and make room for a longer one each time.
            fetches: fetches.max(4).into(),
            delivered: 0,
            rate: MaxRate::default(),
            base: None,
            // Soon: until then the base time is that of fetches that shared the line.
            base_due: FIRST_BASE_TIME,
            is_probing: false,
            probe_until: Duration::ZERO,
            startup: Some(Startup::default()),
            grown_at: Duration::ZERO,
            paced_at: Duration::ZERO,
        }
    }

    /// How many bytes may be under way.
    pub(in crate::engine) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The longest fetch, in bytes, that a user may wait for who wants less: an eighth, so that it
    /// takes little longer than what is asked for.
    pub(in crate::engine) fn user_bytes(&self) -> u64 {
        self.bytes / 8
    }

    /// How many bytes one fetch should have: a power of two.
    pub(in crate::engine) fn piece_bytes(&self) -> u64 {
        (self.bytes / self.fetches).max(CHUNK_MIN).next_power_of_two()
    }

    /// How many bytes more may be begun beside `under_way`; 0 while the base time is measured.
    /// Where nothing is under way something always may.
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

    /// When [`expire`](Self::expire) has something to do, if it has.
    pub(in crate::engine) fn expires_at(&self) -> Option<Duration> {
        self.is_probing.then_some(self.probe_until)
    }

    /// Measures the base time later, if the fetch for it takes too long.
    pub(in crate::engine) fn expire(&mut self, now: Duration) {
        if self.expires_at().is_some_and(|at| at <= now) {
            self.is_probing = false;
            self.base_due = now.saturating_add(BASE_TIME);
        }
    }

    /// When the next fetch may begin, though there is room: fetches that begin at once share the
    /// line and end at once, and then it is idle until the next ones are answered.
    pub(in crate::engine) fn paced_at(&self) -> Duration {
        self.paced_at
    }

    /// A fetch for a user is begun, which the window does not count.
    pub(in crate::engine) fn begin_for_user(&self, now: Duration) -> Sample {
        let delivered = self.delivered;
        Sample { at: now, delivered, is_full: false, is_probe: false, is_bulk: false }
    }

    /// A fetch of `bytes` is begun beside `under_way` bytes.
    pub(in crate::engine) fn begin(&mut self, now: Duration, bytes: u64, under_way: u64) -> Sample {
        let is_full = under_way + bytes + self.piece_bytes() > self.bytes;
        let is_probe = self.is_probing && under_way == 0;
        if self.startup.is_none() && self.bytes < self.most {
            let time = time_for(bytes, self.rate.get()) * PACE.0 / PACE.1;
            self.paced_at = self.paced_at.max(now).saturating_add(time);
        }
        Sample { at: now, delivered: self.delivered, is_full, is_probe, is_bulk: true }
    }

    /// A fetch of `bytes` has read all of them.
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

    /// A fetch has ended without reading: it says nothing of the line.
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
        // The window is filled by whole fetches, and one is carried while the next is answered.
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

    /// What was not measured with a full window tells only that the line can do as much.
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
