//! Readahead: detects sequential reads and sizes their readahead window.
//!
//! `read_ahead` in `wanted.rs` asks it after each planned read.

use crate::engine::api::request::ByteRange;

/// Maximum number of sequential streams that are tracked at a time.
const STREAMS: usize = 8;

/// Initial readahead window, in bytes.
const FIRST_WINDOW: u64 = 128 << 10;

/// Sequential read streams, most recent first.
#[derive(Debug, Default)]
pub(in crate::engine) struct Streams {
    streams: Vec<Stream>,
}

#[derive(Clone, Debug)]
struct Stream {
    /// End of the last read.
    end: u64,
    /// Size of the readahead window behind `end`, in bytes.
    window: u64,
}

impl Streams {
    /// Records a read. Returns the number of bytes after it to fetch now, at most `most`, if the
    /// read continues a stream.
    ///
    /// Reads of hydrated regions use the fast path and are not recorded. A read that begins within
    /// the readahead window of a stream, or at its end, therefore also continues the stream.
    pub(in crate::engine) fn read(&mut self, range: &ByteRange, most: u64) -> Option<u64> {
        let goes_on = |stream: &Stream| {
            (stream.end..=stream.end.saturating_add(stream.window)).contains(&range.start)
        };
        let found = self.streams.iter().position(goes_on);
        let window = found.map(|index| {
            let before = self.streams.remove(index).window;
            (before * 2).clamp(FIRST_WINDOW.min(most), most)
        });
        self.streams.truncate(STREAMS - 1);
        self.streams.insert(0, Stream { end: range.end, window: window.unwrap_or(0) });
        window
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST_WINDOW, STREAMS, Streams};

    #[test]
    fn only_a_read_that_goes_on_looks_ahead_and_each_time_farther() {
        let mut streams = Streams::default();
        assert_eq!(streams.read(&(0..4096), 1 << 20), None);
        assert_eq!(streams.read(&(8192..12288), 1 << 20), None);
        assert_eq!(streams.read(&(4096..8192), 1 << 20), Some(FIRST_WINDOW));
        let next = 8192 + FIRST_WINDOW;
        assert_eq!(streams.read(&(next..next + 512), 1 << 20), Some(2 * FIRST_WINDOW));
        for _ in 0..10 {
            let end = streams.streams[0].end;
            streams.read(&(end..end + 512), 1 << 20);
        }
        let end = streams.streams[0].end;
        assert_eq!(streams.read(&(end..end + 512), 1 << 20), Some(1 << 20));
        assert_eq!(streams.read(&(0..512), 1 << 20), None);
    }

    #[test]
    fn the_latest_streams_are_kept_and_no_more() {
        let mut streams = Streams::default();
        for stream in 0..=STREAMS as u64 {
            assert_eq!(streams.read(&(stream << 30..(stream << 30) + 512), 1 << 20), None);
        }
        assert_eq!(streams.read(&(512..1024), 1 << 20), None);
        let last = (STREAMS as u64) << 30;
        assert_eq!(streams.read(&(last + 512..last + 1024), 1 << 20), Some(FIRST_WINDOW));
        assert_eq!(streams.streams.len(), STREAMS);
    }
}
