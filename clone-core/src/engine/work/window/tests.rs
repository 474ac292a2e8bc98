//! The window on a simulated line: fetches are answered in sequence at the rate of the line, each
//! after the latency of the source.

use std::collections::VecDeque;
use std::time::Duration;

use super::{LEAST_BYTES, Sample, Window};

const MS: Duration = Duration::from_millis(1);

struct Line {
    /// Bytes per second.
    rate: u64,
    latency: Duration,
    now: Duration,
    /// Time at which the line has transferred all requested bytes.
    busy_until: Duration,
    under_way: VecDeque<(Duration, u64, Sample)>,
    carried: u64,
    /// Maximum bytes of a fetch.
    longest: u64,
}

impl Line {
    fn new(rate: u64, latency: Duration) -> Self {
        let (now, busy_until) = Default::default();
        Self {
            rate,
            latency,
            now,
            busy_until,
            under_way: VecDeque::new(),
            carried: 0,
            longest: u64::MAX,
        }
    }

    fn bytes_under_way(&self) -> u64 {
        self.under_way.iter().map(|(_, bytes, _)| bytes).sum()
    }

    fn fill(&mut self, window: &mut Window) {
        loop {
            let (piece, under_way) =
                (window.piece_bytes().min(self.longest), self.bytes_under_way());
            if under_way > 0 && window.room(self.now, under_way) < piece {
                return;
            }
            if window.paced_at() > self.now {
                return;
            }
            let _ = window.room(self.now, under_way);
            let sample = window.begin(self.now, piece, under_way);
            let starts = self.busy_until.max(self.now + self.latency);
            self.busy_until = starts + Duration::from_secs_f64(piece as f64 / self.rate as f64);
            self.under_way.push_back((self.busy_until, piece, sample));
        }
    }

    /// Keeps the window full for `time`.
    fn run(&mut self, window: &mut Window, time: Duration) {
        let end = self.now + time;
        self.fill(window);
        loop {
            let paced_at = Some(window.paced_at()).filter(|at| *at > self.now);
            let next_end = self.under_way.front().map(|next| next.0);
            let Some(at) = paced_at.into_iter().chain(next_end).min().filter(|at| *at <= end)
            else {
                break;
            };
            self.now = at;
            if let Some((_, bytes, sample)) = self.under_way.pop_front_if(|next| next.0 <= at) {
                self.carried += bytes;
                window.delivered(at, sample, bytes);
            }
            self.fill(window);
        }
        self.now = end;
    }

    /// Returns how long a user's read would wait for the data in flight.
    fn wait(&self) -> Duration {
        self.busy_until.saturating_sub(self.now + self.latency)
    }
}

#[test]
fn the_line_is_kept_busy_and_a_user_waits_little_whatever_rate_and_latency() {
    for rate in [1 << 20, 3_000_000, 30_000_000, 100_000_000] {
        for latency in [0, 1, 30, 100, 300] {
            let mut window = Window::new(32 << 20, 16);
            let mut line = Line::new(rate, latency * MS);
            line.run(&mut window, 20_000 * MS);
            let before = line.carried;
            let mut longest = Duration::ZERO;
            for _ in 0..1000 {
                line.run(&mut window, 20 * MS);
                longest = longest.max(line.wait());
            }
            let used = (line.carried - before) as f64 / (rate as f64 * 20.0);
            assert!(used >= 0.9, "{used} of {rate} bytes/s, {latency} ms");
            // The queue of a line that is kept busy, or the smallest window. After a measurement of
            // the base time the window is filled at once.
            let least = Duration::from_secs_f64(2.0 * LEAST_BYTES as f64 / rate as f64);
            let most = least.max(125 * MS) + line.latency;
            assert!(longest <= most, "{longest:?} at {rate} bytes/s, {latency} ms");
        }
    }
}

/// As with the kernel's batches of one region.
#[test]
fn short_fetches_keep_the_line_busy_too() {
    for longest in [4 << 10, 16 << 10] {
        let mut window = Window::new(32 << 20, 16);
        let mut line = Line { longest, ..Line::new(3_000_000, 30 * MS) };
        line.run(&mut window, 20_000 * MS);
        let before = line.carried;
        line.run(&mut window, 20_000 * MS);
        let used = (line.carried - before) as f64 / 60_000_000.0;
        assert!(used >= 0.9, "{used} by fetches of {longest} bytes");
    }
}

#[test]
fn a_window_grows_with_the_line_and_shrinks_with_it() {
    let mut window = Window::new(32 << 20, 16);
    let mut line = Line::new(3_000_000, 30 * MS);
    line.run(&mut window, 10_000 * MS);
    assert!(window.bytes() < 500_000, "{}", window.bytes());
    line.rate = 100_000_000;
    line.run(&mut window, 5000 * MS);
    assert!(window.bytes() > 6_000_000, "{}", window.bytes());
    line.rate = 3_000_000;
    line.run(&mut window, 10_000 * MS);
    assert!(window.bytes() < 500_000, "{}", window.bytes());
}

#[test]
fn a_fast_source_has_all_buffers_within_a_second() {
    let mut window = Window::new(16 << 20, 4);
    let mut line = Line::new(2_000_000_000, MS / 10);
    line.run(&mut window, 1000 * MS);
    assert_eq!((window.bytes(), window.piece_bytes()), (16 << 20, 4 << 20));
}

#[test]
fn what_was_not_limited_by_the_window_does_not_shrink_it() {
    let mut window = Window::new(32 << 20, 16);
    let mut line = Line::new(100_000_000, 30 * MS);
    line.run(&mut window, 10_000 * MS);
    let before = window.bytes();
    let mut now = line.now + 10_000 * MS;
    for _ in 0..1000 {
        let _ = window.room(now, 0);
        let sample = window.begin(now, 65_536, 0);
        now += 40 * MS;
        window.delivered(now, sample, 65_536);
    }
    assert!(window.bytes() >= before / 2, "{} of {before}", window.bytes());
}
