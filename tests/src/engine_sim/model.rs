//! What a clone may answer: each cell as a register, with the writes to it that may be what it
//! holds.
//!
//! A version is *superseded* by one that was submitted after it had ended. A read may return any
//! version that is not superseded by one that had ended before the read was submitted. After a
//! crash a cell may hold any version that is not superseded by one that is known to be durable.

use std::collections::BTreeSet;

use super::unit::{Cells, Tag};

/// A moment, counted in what clients see: submissions and answers.
pub(super) type Moment = u32;

/// The end of what has not ended.
const NEVER: Moment = u32::MAX;

const NONE: u32 = u32::MAX;

/// What a write means for the versions before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    /// It has taken their place once it has ended.
    Full,
    /// It has taken their place, or not: a write that failed, and a discard of what is hydrated.
    Partial,
    /// Nobody can tell what the cells hold.
    Anything,
}

/// Names a write from its submission on.
pub(super) type RecordId = u32;

#[derive(Clone, Copy, Debug)]
struct Record {
    submitted: Moment,
    ended: Moment,
    force: Force,
    /// Ended, and promised to be durable, or base of all.
    durable: bool,
}

/// One version of one cell.
#[derive(Clone, Copy, Debug)]
struct Version {
    record: RecordId,
    value: Tag,
    /// When a read that returned it had ended: what was read once is there from then on.
    seen: Moment,
    next: u32,
}

/// The cells of a clone, as users may see them.
#[derive(Debug)]
pub(super) struct Model {
    now: Moment,
    records: Vec<Record>,
    /// Per cell, its newest version.
    newest: Vec<u32>,
    versions: Vec<Version>,
    /// Versions that are not used, by `next`.
    free: u32,
    /// All that had ended before this is durable.
    flushed: Moment,
    /// When the reads under way were submitted.
    reads: BTreeSet<Moment>,
}

impl Model {
    /// Cells with these values, all of them durable.
    pub(super) fn new(values: impl Iterator<Item = Tag>) -> Self {
        let base = Record { submitted: 0, ended: 0, force: Force::Full, durable: true };
        let versions: Vec<Version> =
            values.map(|value| Version { record: 0, value, seen: 0, next: NONE }).collect();
        Self {
            now: 0,
            records: vec![base],
            newest: (0..versions.len() as u32).collect(),
            versions,
            free: NONE,
            flushed: 0,
            reads: BTreeSet::new(),
        }
    }

    /// A new moment, after all others.
    pub(super) fn advance(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// The last moment.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    /// A write is submitted.
    pub(super) fn begin(&mut self, force: Force) -> RecordId {
        let submitted = self.advance();
        self.records.push(Record { submitted, ended: NEVER, force, durable: false });
        self.records.len() as RecordId - 1
    }

    /// What a write that has just been submitted would store.
    pub(super) fn writes(&mut self, record: RecordId, cells: Cells, value: Tag) {
        let oldest_read = self.reads.first().copied().unwrap_or(NEVER);
        for cell in cells {
            let next = self.newest[cell];
            let next = if self.versions[next as usize].next == NONE {
                next
            } else {
                self.prune(next, oldest_read)
            };
            self.newest[cell] = self.version(Version { record, value, seen: NEVER, next });
        }
    }

    fn version(&mut self, version: Version) -> u32 {
        if self.free == NONE {
            self.versions.push(version);
            return self.versions.len() as u32 - 1;
        }
        let at = self.free;
        self.free = self.versions[at as usize].next;
        self.versions[at as usize] = version;
        at
    }

    /// Forgets versions that nothing can return any more, and gives the first that is left.
    fn prune(&mut self, first: u32, oldest_read: Moment) -> u32 {
        let mut durable_from = 0;
        let mut at = first;
        while at != NONE {
            let version = self.versions[at as usize];
            let record = &self.records[version.record as usize];
            if self.is_durable(record) && record.ended < oldest_read {
                durable_from = durable_from.max(record.submitted);
            }
            at = version.next;
        }
        let (mut kept_first, mut kept_last, mut at) = (NONE, NONE, first);
        while at != NONE {
            let next = self.versions[at as usize].next;
            let record = &self.records[self.versions[at as usize].record as usize];
            if record.ended < durable_from {
                self.versions[at as usize].next = self.free;
                self.free = at;
            } else if kept_last == NONE {
                (kept_first, kept_last) = (at, at);
            } else {
                self.versions[kept_last as usize].next = at;
                kept_last = at;
            }
            at = next;
        }
        self.versions[kept_last as usize].next = NONE;
        kept_first
    }

    /// Whether it is known to survive a crash, in place of what was there before.
    fn is_durable(&self, record: &Record) -> bool {
        record.force == Force::Full && (record.durable || record.ended < self.flushed)
    }

    /// A write is answered.
    pub(super) fn end(&mut self, record: RecordId, force: Force, durable: bool) {
        let ended = self.advance();
        let record = &mut self.records[record as usize];
        *record = Record { ended, force, durable, ..*record };
    }

    /// Whether a write is answered.
    pub(super) fn has_ended(&self, record: RecordId) -> bool {
        self.records[record as usize].ended != NEVER
    }

    /// A flush that was submitted at `submitted` has succeeded.
    pub(super) fn flush(&mut self, submitted: Moment) {
        self.flushed = self.flushed.max(submitted);
    }

    /// A read is submitted.
    pub(super) fn begin_read(&mut self) -> Moment {
        let submitted = self.advance();
        self.reads.insert(submitted);
        submitted
    }

    /// A read is answered.
    pub(super) fn end_read(&mut self, submitted: Moment) {
        self.advance();
        self.reads.remove(&submitted);
    }

    fn versions_of(&self, cell: usize) -> impl Iterator<Item = (u32, &Version, &Record)> {
        let mut at = self.newest[cell];
        std::iter::from_fn(move || {
            let index = at;
            let version = self.versions.get(index as usize)?;
            at = version.next;
            Some((index, version, &self.records[version.record as usize]))
        })
    }

    /// Whether a read that was submitted at `submitted`, and ends now, may return `value`. What it
    /// returns is there from now on.
    pub(super) fn read(&mut self, cell: usize, value: Tag, submitted: Moment) -> bool {
        let newest = self.versions[self.newest[cell] as usize];
        if newest.next == NONE {
            return newest.value == value
                || self.records[newest.record as usize].force == Force::Anything;
        }
        let mut matching = self.matching(cell, value, submitted);
        let (first, second) = (matching.next(), matching.next());
        drop(matching);
        if let (Some((at, Force::Full)), None) = (first, second) {
            let seen = &mut self.versions[at as usize].seen;
            *seen = self.now.min(*seen);
        }
        first.is_some()
    }

    /// Whether something that is on the clone now may be `value`.
    pub(super) fn may_hold(&self, cell: usize, value: Tag) -> bool {
        let newest = self.versions[self.newest[cell] as usize];
        if newest.next == NONE && newest.value == value {
            return true;
        }
        self.matching(cell, value, self.now + 1).next().is_some()
    }

    fn matching(
        &self,
        cell: usize,
        value: Tag,
        submitted: Moment,
    ) -> impl Iterator<Item = (u32, Force)> {
        let ended = |version: &Version, record: &Record| record.ended.min(version.seen);
        let before = |&(_, version, record): &(u32, &Version, &Record)| {
            record.force == Force::Full && ended(version, record) < submitted
        };
        let last = self.versions_of(cell).filter(before).map(|(_, _, record)| record.submitted);
        let last = last.max().unwrap_or(0);
        self.versions_of(cell).filter_map(move |(at, version, record)| {
            let is_value = version.value == value || record.force == Force::Anything;
            (is_value && ended(version, record) >= last).then_some((at, record.force))
        })
    }

    /// Whether a crash now may leave `value`.
    pub(super) fn survives(&self, cell: usize, value: Tag) -> bool {
        let newest = self.versions[self.newest[cell] as usize];
        if newest.next == NONE && newest.value == value {
            return true;
        }
        let durable = self.versions_of(cell).filter(|(_, _, record)| self.is_durable(record));
        let last = durable.map(|(_, _, record)| record.submitted).max().unwrap_or(0);
        self.versions_of(cell).any(|(_, version, record)| {
            let is_value = version.value == value || record.force == Force::Anything;
            is_value && record.ended >= last
        })
    }

    /// The power went, and this is left: it is durable, and nothing is under way.
    pub(super) fn restart(&mut self, values: impl Iterator<Item = Tag>) {
        let now = self.advance();
        *self = Self { now, ..Self::new(values) };
    }

    /// Whoever ran the clone is gone, and this is what it holds now; of that a loss of power may
    /// still take what was not flushed.
    pub(super) fn interrupt(&mut self, values: impl Iterator<Item = Tag>) {
        let interrupted = self.advance();
        for record in self.records.iter_mut().filter(|record| record.ended == NEVER) {
            let is_anything = record.force == Force::Anything;
            let force = if is_anything { Force::Anything } else { Force::Partial };
            *record = Record { ended: interrupted, force, ..*record };
        }
        self.reads.clear();
        let record = self.begin(Force::Full);
        for (cell, value) in values.enumerate() {
            self.writes(record, cell..cell + 1, value);
        }
        self.end(record, Force::Full, false);
    }

    /// What could be there, for people.
    pub(super) fn explain(&self, cell: usize) -> String {
        let told = self.versions_of(cell).map(|(_, version, record)| {
            let ended = match record.ended {
                NEVER => "under way".to_owned(),
                ended => format!("ended at {ended}"),
            };
            let Record { submitted, force, .. } = record;
            let durable = if self.is_durable(record) { ", durable" } else { "" };
            let value = super::unit::named(version.value);
            format!("{value} ({force:?}, submitted at {submitted}, {ended}{durable})")
        });
        told.collect::<Vec<_>>().join("; ")
    }
}
