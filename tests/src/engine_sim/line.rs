//! The network line to a source: a fixed rate in bytes per second, shared by all fetches in flight.

use std::collections::VecDeque;

/// Nanoseconds per second.
const SECOND: u64 = 1_000_000_000;

/// The order in which a line serves concurrent fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discipline {
    /// One after the other, as over one connection.
    InOrder,
    /// All at once with equal shares of the rate, as over one connection each.
    Shared,
}

/// The line to a source.
#[derive(Debug)]
pub(super) struct Line {
    discipline: Discipline,
    /// Bytes per second.
    rate: u64,
    /// Fetches in flight: the operation, and the nanoseconds that its rest takes on an otherwise
    /// idle line.
    transfers: VecDeque<(u64, u64)>,
    /// The time up to which `transfers` is computed, in nanoseconds.
    now: u64,
    /// Nanoseconds during which the line was in use.
    pub(super) busy: u64,
}

impl Line {
    pub(super) fn new(discipline: Discipline, rate: u64) -> Self {
        Self { discipline, rate, transfers: VecDeque::new(), now: 0, busy: 0 }
    }

    /// Returns the nanoseconds that a transfer of `bytes` takes on an otherwise idle line.
    pub(super) fn cost(&self, bytes: u64) -> u64 {
        (u128::from(bytes) * u128::from(SECOND)).div_ceil(self.rate.into()) as u64
    }

    /// Returns the number of fetches that are served at the same time.
    fn nr_served(&self) -> u64 {
        match self.discipline {
            Discipline::InOrder => self.transfers.len().min(1) as u64,
            Discipline::Shared => self.transfers.len() as u64,
        }
    }

    /// Begins a fetch.
    pub(super) fn begin(&mut self, now: u64, op: u64, bytes: u64) {
        self.pass(now);
        let cost = self.cost(bytes);
        self.transfers.push_back((op, cost));
    }

    /// Returns when the next fetch ends if no other one begins before.
    pub(super) fn next_end(&self) -> Option<u64> {
        let nr = self.nr_served();
        let served = self.transfers.iter().take(nr as usize);
        let least = served.map(|&(_, left)| left).min()?;
        Some(self.now + least * nr)
    }

    /// Removes and returns a fetch that has ended.
    pub(super) fn take_ended(&mut self, now: u64) -> Option<u64> {
        self.pass(now);
        let ended = self.transfers.iter().position(|&(_, left)| left == 0)?;
        self.transfers.remove(ended).map(|(op, _)| op)
    }

    fn pass(&mut self, now: u64) {
        let (nr, passed) = (self.nr_served(), now - self.now);
        self.now = now;
        if nr > 0 {
            self.busy += passed;
            let served = self.transfers.iter_mut().take(nr as usize);
            served.for_each(|(_, left)| *left = left.saturating_sub(passed.div_ceil(nr)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Discipline, Line};

    fn ends(discipline: Discipline) -> Vec<(u64, u64)> {
        let mut line = Line::new(discipline, 1_000_000_000);
        line.begin(0, 1, 100);
        line.begin(0, 2, 10);
        let mut ends = Vec::new();
        while let Some(at) = line.next_end() {
            let op = line.take_ended(at).expect("it ends then");
            ends.push((op, at));
        }
        assert_eq!(line.busy, 110);
        ends
    }

    #[test]
    fn a_short_fetch_waits_for_a_long_one_only_where_it_has_to() {
        assert_eq!(ends(Discipline::InOrder), [(1, 100), (2, 110)]);
        assert_eq!(ends(Discipline::Shared), [(2, 20), (1, 110)]);
    }
}
