//! Locks on ranges of a device.

use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::sync::lock;

/// The table of locked ranges.
///
/// A lock waits only for conflicting locks that were requested before it, so none waits forever,
/// and distant ranges never wait for each other. There are only as many locks as threads with I/O
/// in flight: a linear scan is cheaper than any index.
#[derive(Debug, Default)]
pub(super) struct RangeLocks {
    table: Mutex<Table>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// Locks that are held or waited for, in no order.
    entries: Vec<Entry>,
    next_ticket: u64,
    /// Number of waiting threads.
    waiting: usize,
}

#[derive(Debug)]
struct Entry {
    /// Sequence number of the lock request.
    ticket: u64,
    range: Range<u64>,
    mode: Mode,
}

/// The mode of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Other shared locks may overlap this one.
    Shared,
    /// No other lock may overlap this one.
    Exclusive,
}

/// Holds a lock until it is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct RangeLock<'a> {
    locks: &'a RangeLocks,
    ticket: u64,
}

impl RangeLocks {
    /// Waits until no conflicting lock that was requested earlier is held.
    pub(super) fn lock(&self, range: Range<u64>, mode: Mode) -> RangeLock<'_> {
        let mut table = lock(&self.table);
        let ticket = table.next_ticket;
        table.next_ticket += 1;
        if table.is_blocked(ticket, &range, mode) {
            table.entries.push(Entry { ticket, range: range.clone(), mode });
            table.waiting += 1;
            while table.is_blocked(ticket, &range, mode) {
                table = self.released.wait(table).unwrap_or_else(PoisonError::into_inner);
            }
            table.waiting -= 1;
        } else {
            table.entries.push(Entry { ticket, range, mode });
        }
        RangeLock { locks: self, ticket }
    }
}

impl Table {
    fn is_blocked(&self, ticket: u64, range: &Range<u64>, mode: Mode) -> bool {
        self.entries.iter().any(|entry| {
            let conflicts = mode == Mode::Exclusive || entry.mode == Mode::Exclusive;
            let overlaps = entry.range.start < range.end && range.start < entry.range.end;
            entry.ticket < ticket && conflicts && overlaps
        })
    }
}

impl Drop for RangeLock<'_> {
    fn drop(&mut self) {
        let mut table = lock(&self.locks.table);
        let held = table.entries.iter().position(|entry| entry.ticket == self.ticket);
        table.entries.swap_remove(held.expect("a lock is released once"));
        let has_waiters = table.waiting > 0;
        drop(table);
        if has_waiters {
            self.locks.released.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::Mode::{Exclusive, Shared};
    use super::{Mode, RangeLocks};

    /// Returns true if a second lock waits while the first one is held.
    fn waits(first: (Range<u64>, Mode), second: (Range<u64>, Mode)) -> bool {
        let locks = RangeLocks::default();
        let held = locks.lock(first.0, first.1);
        let is_blocked = super::lock(&locks.table).is_blocked(u64::MAX, &second.0, second.1);
        drop(held);
        assert!(!super::lock(&locks.table).is_blocked(u64::MAX, &second.0, second.1));
        is_blocked
    }

    #[test]
    fn only_locks_that_overlap_wait_and_shared_ones_do_not_wait_for_each_other() {
        for (first, second) in [(Shared, Exclusive), (Exclusive, Shared), (Exclusive, Exclusive)] {
            assert!(waits((0..8, first), (7..9, second)));
            assert!(waits((4..5, first), (0..9, second)));
            assert!(!waits((0..8, first), (8..9, second)));
        }
        assert!(!waits((0..8, Shared), (0..8, Shared)));
    }

    #[test]
    fn a_lock_that_waits_goes_before_those_that_came_later() {
        let locks = RangeLocks::default();
        let (tell, told) = mpsc::channel();
        let first = locks.lock(0..8, Shared);
        thread::scope(|scope| {
            let spawn = |name: &'static str, mode, waiting| {
                let (locks, tell) = (&locks, tell.clone());
                scope.spawn(move || {
                    let _held = locks.lock(0..8, mode);
                    tell.send(name).unwrap();
                });
                while super::lock(&locks.table).waiting < waiting {
                    thread::sleep(Duration::from_millis(1));
                }
            };
            spawn("exclusive", Exclusive, 1);
            // It does not conflict with the held lock, but would delay the waiting one.
            spawn("shared", Shared, 2);
            assert!(told.try_recv().is_err());
            drop(first);
            assert_eq!([told.recv().unwrap(), told.recv().unwrap()], ["exclusive", "shared"]);
        });
    }

    #[test]
    fn an_exclusive_lock_is_held_alone() {
        let locks = RangeLocks::default();
        let inside: [AtomicUsize; 4] = Default::default();
        thread::scope(|scope| {
            for thread in 0..4 {
                let (locks, inside) = (&locks, &inside);
                scope.spawn(move || {
                    for round in 0..2000 {
                        let block = (thread + round) % 3;
                        let range = block as u64 * 8..block as u64 * 8 + 16;
                        let _held = locks.lock(range, Exclusive);
                        for block in [block, block + 1] {
                            assert_eq!(inside[block].fetch_add(1, Ordering::Relaxed), 0);
                        }
                        thread::yield_now();
                        for block in [block, block + 1] {
                            inside[block].fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(super::lock(&locks.table).entries.is_empty());
    }
}
