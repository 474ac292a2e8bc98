//! The line to a source: so many bytes a second, shared by all that is being fetched.

use std::collections::VecDeque;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// How a line serves those who fetch at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discipline {
    /// One after the other, as over one connection.
    InOrder,
    /// All at once, each with the same part of the line, as over one connection each.
    Shared,
}

/// What fetches go through.
#[derive(Debug)]
pub(super) struct Line {
    discipline: Discipline,
    /// Bytes a second.
    rate: u64,
    /// Fetches, with how many nanoseconds the line takes for the rest of each if it has no other.
    transfers: VecDeque<(u64, u64)>,
    /// Up to when that is known.
    now: u64,
    /// How long it was in use.
    pub(super) busy: u64,
}

impl Line {
    pub(super) fn new(discipline: Discipline, rate: u64) -> Self {
        Self { discipline, rate, transfers: VecDeque::new(), now: 0, busy: 0 }
    }

    /// How many nanoseconds it takes for so many bytes.
    pub(super) fn cost(&self, bytes: u64) -> u64 {
        (u128::from(bytes) * u128::from(SECOND)).div_ceil(self.rate.into()) as u64
    }

    /// How many share the line.
    fn nr_served(&self) -> u64 {
        match self.discipline {
            Discipline::InOrder => self.transfers.len().min(1) as u64,
            Discipline::Shared => self.transfers.len() as u64,
        }
    }

    /// Begins to fetch.
    pub(super) fn begin(&mut self, now: u64, op: u64, bytes: u64) {
        self.pass(now);
        let cost = self.cost(bytes);
        self.transfers.push_back((op, cost));
    }

    /// When the next one ends, if no other begins before.
    pub(super) fn next_end(&self) -> Option<u64> {
        let nr = self.nr_served();
        let served = self.transfers.iter().take(nr as usize);
        let least = served.map(|&(_, left)| left).min()?;
        Some(self.now + least * nr)
    }

    /// Takes out one that has ended.
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
