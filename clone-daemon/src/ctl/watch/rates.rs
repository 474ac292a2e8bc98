//! Computes rates from consecutive snapshots.

use std::collections::BTreeMap;
use std::time::Duration;

use clone_tools::common::throughput::{Left, Throughput, per_second};

use crate::control::protocol::{Requests, Snapshot};
use crate::ctl::show::size;

/// Rates per second.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Bytes per second that hydration reads from the source, if they are known yet.
    pub fetched: Option<u64>,
    /// The time left at the current rate.
    pub left: Option<Left>,
    /// The rates of user requests, by the names of their kinds.
    pub users: BTreeMap<String, UserRate>,
}

/// The rates of one kind of user requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserRate {
    /// Requests per second.
    pub requests: u64,
    /// Bytes per second.
    pub bytes: u64,
    /// The average latency in microseconds; `None` without requests.
    pub micros: Option<u64>,
}

impl Rates {
    /// Describes the speed of the hydration and the time left.
    pub(super) fn speed(&self) -> Vec<String> {
        let rate = self.fetched.map(|rate| format!("{}/s", size(rate)));
        let left = self.left.map(|left| left.to_string());
        rate.into_iter().chain(left).collect()
    }
}

/// Computes rates from the snapshots of one clone.
#[derive(Debug, Default)]
pub struct Meter {
    fetched: Throughput,
    hydrated: Throughput,
    before: Option<(u64, BTreeMap<String, Requests>)>,
}

impl Meter {
    /// Adds a snapshot, and returns the current rates.
    pub fn note(&mut self, snapshot: &Snapshot) -> Rates {
        let clone = &snapshot.clone;
        let now = Duration::from_micros(snapshot.micros);
        self.fetched.note(now, snapshot.fetched_bytes);
        let hydrated = clone.hydrated_regions.saturating_mul(clone.region_bytes);
        self.hydrated.note(now, hydrated.min(clone.size_bytes));
        let left = self.hydrated.left(clone.size_bytes);
        let users = self.users(snapshot);
        self.before = Some((snapshot.micros, snapshot.requests.clone()));
        Rates { fetched: self.fetched.rate(), left: left.filter(|_| !clone.complete), users }
    }

    fn users(&self, snapshot: &Snapshot) -> BTreeMap<String, UserRate> {
        let Some((then, before)) = &self.before else { return BTreeMap::new() };
        let time = Duration::from_micros(snapshot.micros.saturating_sub(*then));
        let rate = |(name, now): (&String, &Requests)| {
            let then = before.get(name).copied().unwrap_or_default();
            let count = now.count.saturating_sub(then.count);
            let rate = UserRate {
                requests: per_second(count, time),
                bytes: per_second(now.bytes.saturating_sub(then.bytes), time),
                micros: now.micros.saturating_sub(then.micros).checked_div(count),
            };
            (name.clone(), rate)
        };
        snapshot.requests.iter().map(rate).collect()
    }
}
