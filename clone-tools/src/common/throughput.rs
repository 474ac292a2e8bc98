//! The speed of a hydration and the time that it still needs.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// The time over which the rate is averaged: a shorter one fluctuates, a longer one lags.
const WINDOW: Duration = Duration::from_secs(15);

/// The minimum time that a rate is computed from.
const LEAST: Duration = Duration::from_secs(1);

/// The read rate over the last seconds.
///
/// Only bytes that are read count: a hole takes no time, however large it is.
#[derive(Debug, Default)]
pub struct Throughput {
    /// Times, and the bytes read until then, the oldest first.
    samples: VecDeque<(Duration, u64)>,
}

impl Throughput {
    /// Records that `bytes` have been read in total at the time `now`.
    pub fn note(&mut self, now: Duration, bytes: u64) {
        self.samples.push_back((now, bytes));
        while self.samples.len() > 2 && self.samples[1].0 + WINDOW <= now {
            self.samples.pop_front();
        }
    }

    /// Returns the rate in bytes per second, or `None` if it is too early for one.
    pub fn rate(&self) -> Option<u64> {
        let (&(first, before), &(last, by_now)) = (self.samples.front()?, self.samples.back()?);
        let time = last.checked_sub(first).filter(|&time| time >= LEAST)?;
        Some(per_second(by_now.saturating_sub(before), time))
    }

    /// Returns the time that the rest of `to_read` bytes takes at the current rate.
    pub fn left(&self, to_read: u64) -> Option<Left> {
        let &(_, by_now) = self.samples.back()?;
        let rate = self.rate().filter(|&rate| rate > 0)?;
        Some(Left(to_read.saturating_sub(by_now).div_ceil(rate)))
    }
}

/// Returns a rate in bytes per second.
pub fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = u128::from(bytes) * 1000 / time.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// A time left in seconds, displayed only as precisely as it can be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left(u64);

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(seconds) = *self;
        let (minutes, hours) = (seconds.div_ceil(60), seconds.div_ceil(60) / 60);
        match seconds {
            0..100 => write!(f, "{seconds} s left"),
            100..6000 => write!(f, "{minutes} min left"),
            6000..172_800 => write!(f, "{hours} h {} min left", minutes % 60),
            _ => write!(f, "{} d {} h left", hours / 24, hours % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Left, Throughput};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_a_hole_changes_nothing() {
        let mut throughput = Throughput::default();
        throughput.note(Duration::ZERO, 0);
        assert_eq!((throughput.rate(), throughput.left(1000)), (None, None));
        for second in 1..=100u32 {
            throughput.note(second * SECOND, u64::from(second) * 1000);
            assert_eq!(throughput.rate(), Some(1000));
        }
        assert_eq!(throughput.left(160_000), Some(Left(60)));
        for second in 101..=120u32 {
            throughput.note(second * SECOND, 100_000 + u64::from(second - 100) * 500);
        }
        assert_eq!(throughput.rate(), Some(500));
        assert_eq!(throughput.left(100), Some(Left(0)));
        assert!(throughput.samples.len() < 20);
    }

    #[test]
    fn where_nothing_is_read_nobody_knows_how_long_it_takes() {
        let mut throughput = Throughput::default();
        throughput.note(Duration::ZERO, 0);
        throughput.note(10 * SECOND, 0);
        assert_eq!((throughput.rate(), throughput.left(1000)), (Some(0), None));
    }

    #[test]
    fn what_is_left_is_told_in_the_unit_that_people_would_use() {
        let told = |seconds| Left(seconds).to_string();
        assert_eq!(told(99), "99 s left");
        assert_eq!(told(100), "2 min left");
        assert_eq!(told(5999), "100 min left");
        assert_eq!(told(7201), "2 h 1 min left");
        assert_eq!(told(200_000), "2 d 7 h left");
    }
}
