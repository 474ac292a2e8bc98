//! What becomes of two snapshots: rates.

use std::collections::BTreeMap;
use std::time::Duration;

use clone_tools::common::throughput::{Left, Pace, per_second};

use crate::control::protocol::{Requests, Snapshot};
use crate::ctl::show::size;

/// What happens in a second.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Bytes of the source that hydration reads, if that can be told yet.
    pub fetched: Option<u64>,
    /// How long it takes at the rate of the last seconds, if it goes on.
    pub left: Option<Left>,
    /// What users do, by the names of requests.
    pub users: BTreeMap<String, UserRate>,
}

/// What users do in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserRate {
    /// Requests.
    pub requests: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// What one of them took, on average, in microseconds; `None` if there were none.
    pub micros: Option<u64>,
}

impl Rates {
    /// How fast hydration goes, and how long it will take.
    pub(super) fn speed(&self) -> Vec<String> {
        let rate = self.fetched.map(|rate| format!("{}/s", size(rate)));
        let left = self.left.map(|left| left.to_string());
        rate.into_iter().chain(left).collect()
    }
}

/// Watches snapshots of one clone.
#[derive(Debug, Default)]
pub struct Meter {
    fetched: Pace,
    hydrated: Pace,
    before: Option<(u64, BTreeMap<String, Requests>)>,
}

impl Meter {
    /// Takes down one more snapshot.
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
