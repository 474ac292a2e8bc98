//! How fast it goes, and how long it will take.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use clone_core::driver::Source;

/// Over how long the rate is taken: shorter is nervous, longer is late.
const WINDOW: Duration = Duration::from_secs(15);

/// The least time from which a rate can be told.
const LEAST: Duration = Duration::from_secs(1);

/// How many extents and regions are looked at to find out what there is to be read. It takes less
/// than a second, and what is beyond is taken to be data.
const LOOKS_MAX: usize = 1 << 17;

/// The rate over the last seconds.
///
/// What counts is what is read: a hole takes no time, however large it is.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Times and bytes read by then, the oldest first.
    samples: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// Takes down that `bytes` have been read by `now`.
    pub(super) fn note(&mut self, now: Duration, bytes: u64) {
        self.samples.push_back((now, bytes));
        while self.samples.len() > 2 && self.samples[1].0 + WINDOW <= now {
            self.samples.pop_front();
        }
    }

    /// Bytes a second, if that can be told yet.
    pub(super) fn rate(&self) -> Option<u64> {
        let (&(first, before), &(last, by_now)) = (self.samples.front()?, self.samples.back()?);
        let time = last.checked_sub(first).filter(|&time| time >= LEAST)?;
        Some(per_second(by_now - before, time))
    }

    /// How long it takes at this rate to read as much as is left of `to_read`.
    pub(super) fn left(&self, to_read: u64) -> Option<Left> {
        let &(_, by_now) = self.samples.back()?;
        let rate = self.rate().filter(|&rate| rate > 0)?;
        Some(Left(to_read.saturating_sub(by_now).div_ceil(rate)))
    }
}

/// Bytes a second.
pub(super) fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = u128::from(bytes) * 1000 / time.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Seconds that are left, for people: no more exact than anybody can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left(u64);

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

/// The bytes of `wanted`, which ascend, that the source does not know to be zeroes. `total` is how
/// many bytes `wanted` has.
pub(super) fn bytes_to_read(
    source: &dyn Source,
    wanted: impl Iterator<Item = Range<u64>>,
    total: u64,
) -> u64 {
    let (mut looks, mut seen, mut zeroes) = (0, 0, 0);
    // Of the extent that was looked at last.
    let (mut end, mut is_zeroes) = (0, false);
    for Range { start: mut at, end: stop } in wanted {
        while at < stop && looks < LOOKS_MAX {
            if at >= end {
                let Ok(extent) = source.extent(at) else { return total - zeroes };
                (end, is_zeroes) = (extent.end.max(at + 1), extent.zeroes);
            }
            let next = end.min(stop);
            zeroes += if is_zeroes { next - at } else { 0 };
            seen += next - at;
            at = next;
            looks += 1;
        }
        if looks >= LOOKS_MAX || seen >= total {
            break;
        }
    }
    total.saturating_sub(zeroes)
}

/// The regions that are not hydrated, as runs of bytes.
pub(super) fn runs_to_copy(
    words: impl Iterator<Item = u64>,
    region_bytes: u64,
    size_bytes: u64,
) -> impl Iterator<Item = Range<u64>> {
    let runs = words.zip((0..).step_by(64)).flat_map(move |(word, first)| {
        let mut rest = !word;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let start = rest.trailing_zeros();
            let len = (rest >> start).trailing_ones();
            rest &= u64::MAX.checked_shl(start + len).unwrap_or(0);
            let start = first + u64::from(start);
            Some(start * region_bytes..(start + u64::from(len)) * region_bytes)
        })
    });
    runs.map(move |run| run.start.min(size_bytes)..run.end.min(size_bytes))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use clone_core::content::ReadData;
    use clone_core::driver::{Extent, Source};

    use super::{Left, Pace, bytes_to_read, runs_to_copy};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_a_hole_changes_nothing() {
        let mut pace = Pace::default();
        pace.note(Duration::ZERO, 0);
        assert_eq!((pace.rate(), pace.left(1000)), (None, None));
        for second in 1..=100u32 {
            pace.note(second * SECOND, u64::from(second) * 1000);
            assert_eq!(pace.rate(), Some(1000));
        }
        assert_eq!(pace.left(160_000), Some(Left(60)));
        for second in 101..=120u32 {
            pace.note(second * SECOND, 100_000 + u64::from(second - 100) * 500);
        }
        assert_eq!(pace.rate(), Some(500));
        assert_eq!(pace.left(100), Some(Left(0)));
        assert!(pace.samples.len() < 20);
    }

    #[test]
    fn where_nothing_is_read_nobody_knows_how_long_it_takes() {
        let mut pace = Pace::default();
        pace.note(Duration::ZERO, 0);
        pace.note(10 * SECOND, 0);
        assert_eq!((pace.rate(), pace.left(1000)), (Some(0), None));
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

    /// Every second kilobyte is a hole.
    struct Striped;

    impl ReadData for Striped {
        fn size_bytes(&self) -> u64 {
            1 << 20
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl Source for Striped {
        fn extent(&self, offset: u64) -> io::Result<Extent> {
            Ok(Extent { zeroes: offset / 1024 % 2 == 1, end: (offset / 1024 + 1) * 1024 })
        }
    }

    #[test]
    fn holes_are_not_to_be_read_and_what_is_hydrated_is_not_either() {
        let count = |wanted: &[std::ops::Range<u64>]| {
            let total = wanted.iter().map(|run| run.end - run.start).sum();
            bytes_to_read(&Striped, wanted.iter().cloned(), total)
        };
        assert_eq!(count(&[0..4096]), 2048);
        assert_eq!(count(&[1024..2048]), 0);
        assert_eq!(count(&[512..1536, 1600..1700, 2000..2100]), 512 + 52);
    }

    #[test]
    fn runs_are_of_zero_bits_and_end_with_the_clone() {
        let runs: Vec<_> =
            runs_to_copy([0b1101, u64::MAX, 1 << 63].into_iter(), 10, 1900).collect();
        assert_eq!(runs, [10..20, 40..640, 1280..1900]);
        let runs: Vec<_> = runs_to_copy([0].into_iter(), 10, 35).collect();
        assert_eq!(runs, [0..35]);
    }
}
