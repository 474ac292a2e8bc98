//! Estimates how much a hydration has to read from the source, for progress.

use std::ops::Range;

use clone_core::block_io::Source;

/// The maximum number of extents and regions that are examined. That takes less than a second;
/// everything beyond counts as data.
const LOOKS_MAX: usize = 1 << 17;

/// Returns the number of bytes in `wanted` that the source does not know to be zeroes. The ranges
/// of `wanted` are in bytes and ascend; `total` is their length.
pub(super) fn bytes_to_read(
    source: &dyn Source,
    wanted: impl Iterator<Item = Range<u64>>,
    total: u64,
) -> u64 {
    let (mut looks, mut seen, mut zeroes) = (0, 0, 0);
    // The end and the kind of the last extent.
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

/// Returns the regions that are not hydrated, as ascending ranges of bytes.
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

    use clone_core::block_io::ReadData;
    use clone_core::block_io::{Extent, Source};

    use super::{bytes_to_read, runs_to_copy};

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
