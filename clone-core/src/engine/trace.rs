//! Traces: recorded reads, in order, to be prefetched the next time.
//!
//! The text form is the line `clone-trace 1`, followed by a line `<offset> <length>` for each
//! range, in bytes.

use std::fmt::Write;

use thiserror::Error;

use crate::engine::api::request::ByteRange;
use crate::engine::regions::region_set::RegionSet;
use crate::engine::work::requests::Sizes;

/// The first line of a trace.
const HEADER: &str = "clone-trace 1";

/// Maximum number of ranges that are recorded or parsed.
pub const RANGES_MAX: usize = 1 << 20;

/// The regions that were read, each once, in order of the first read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    ranges: Vec<ByteRange>,
}

/// A text that is not a valid trace.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The first line is wrong.
    #[error("line 1 is not {HEADER:?}: this is no trace, or one of another version")]
    Header,
    /// A line is not a range.
    #[error("line {line} is {text:?}: it must be an offset and a length in bytes")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// The first 60 characters of the line.
        text: String,
    },
    /// There are more than [`RANGES_MAX`] ranges.
    #[error("more than {RANGES_MAX} ranges")]
    TooLong,
}

impl Trace {
    /// Returns the half-open ranges, in bytes of the clone.
    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// Parses a trace. Its ranges may lie outside of the clone.
    ///
    /// # Errors
    /// [`TraceError::Header`] if the first line is not that of a trace, [`TraceError::Line`] if a
    /// line is not an offset and a length, and [`TraceError::TooLong`] if there are too many
    /// ranges.
    pub fn parse(text: &str) -> Result<Self, TraceError> {
        let mut lines = text.lines().zip(1..);
        if lines.next().is_none_or(|(first, _)| first != HEADER) {
            return Err(TraceError::Header);
        }
        let mut ranges = Vec::new();
        for (text, line) in lines {
            let range = text.split_once(' ').and_then(|(offset, length)| {
                let (offset, length): (u64, u64) = (offset.parse().ok()?, length.parse().ok()?);
                Some(offset..offset.checked_add(length)?)
            });
            let told = || text.chars().take(60).collect();
            ranges.push(range.ok_or_else(|| TraceError::Line { line, text: told() })?);
            if ranges.len() > RANGES_MAX {
                return Err(TraceError::TooLong);
            }
        }
        Ok(Self { ranges })
    }

    /// Returns the text form of the trace.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for range in &self.ranges {
            writeln!(text, "{} {}", range.start, range.end - range.start)
                .expect("a string takes all");
        }
        text
    }
}

/// Records reads.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    trace: Trace,
    seen: RegionSet,
}

impl Recorder {
    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Records the regions of `range` that were not read before, up to [`RANGES_MAX`] ranges.
    pub(super) fn note(&mut self, sizes: &Sizes, range: &ByteRange) {
        for region in sizes.touched(range) {
            if self.seen.contains(region) || self.trace.ranges.len() >= RANGES_MAX {
                continue;
            }
            self.seen.insert(region..region + 1);
            let bytes = sizes.bytes_of(&(region..region + 1));
            match self.trace.ranges.last_mut() {
                Some(last) if last.end == bytes.start => last.end = bytes.end,
                _ => self.trace.ranges.push(bytes),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::{Recorder, Trace, TraceError};
    use crate::engine::work::requests::Sizes;

    #[test]
    fn each_region_is_noted_once_in_the_order_of_the_reads() {
        let sizes = Sizes { size_bytes: 10 * 4096 + 512, region_shift: 12, nr_regions: 11 };
        let mut recorder = Recorder::default();
        for range in [8192..8193, 40960..41472, 0..4097, 5000..20000] {
            recorder.note(&sizes, &range);
        }
        assert_eq!(recorder.trace().ranges(), [8192..12288, 40960..41472, 0..8192, 12288..20480]);
        let text = "clone-trace 1\n8192 4096\n40960 512\n0 8192\n12288 8192\n";
        assert_eq!(recorder.trace().to_text(), text);
    }

    quickcheck! {
        fn a_trace_comes_back_from_its_text(ranges: Vec<(u64, u32)>) -> bool {
            let range = |(start, len): (u64, u32)| start..start.saturating_add(len.into());
            let trace = Trace { ranges: ranges.into_iter().map(range).collect() };
            Trace::parse(&trace.to_text()) == Ok(trace)
        }
    }

    #[test]
    fn what_is_no_trace_is_refused_by_its_line() {
        assert_eq!(Trace::parse(""), Err(TraceError::Header));
        assert_eq!(Trace::parse("clone-trace 2\n"), Err(TraceError::Header));
        for line in ["", "1", "1 2 3", "-1 2", "1 x", "18446744073709551615 1"] {
            let refused = Trace::parse(&format!("clone-trace 1\n0 1\n{line}\n0 1\n"));
            assert_eq!(refused, Err(TraceError::Line { line: 3, text: line.into() }));
        }
    }
}
