//! Model of the results that a clone may return. Each cell is a register with a list of the writes
//! whose value it may hold.
//!
//! A version is *superseded* by one that was submitted after it had ended. A read may return any
//! version that is not superseded by one that had ended before the read was submitted. After a
//! crash a cell may hold any version that is not superseded by one that is known to be durable.

use std::collections::BTreeSet;

use super::unit::{Cells, Tag};

/// A moment in the clients' order of events, counted in submissions and answers.
pub(super) type Moment = u32;

/// The end of a write or read that has not ended.
const NEVER: Moment = u32::MAX;

const NONE: u32 = u32::MAX;

/// Effect of a write on the versions before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    /// It replaces them once it has ended.
    Full,
    /// It may or may not replace them: a failed write, or a discard of hydrated regions.
    Partial,
    /// The content of the cells is undefined.
    Anything,
}

/// Identifies a write from its submission on.
pub(super) type RecordId = u32;

#[derive(Clone, Copy, Debug)]
struct Record {
    submitted: Moment,
    ended: Moment,
    force: Force,
    /// True if the write has ended and was promised to be durable, and for the initial content.
    durable: bool,
}

/// One version of one cell.
#[derive(Clone, Copy, Debug)]
struct Version {
    record: RecordId,
    value: Tag,
    /// The end of the first read that returned this version: from then on the version must be
    /// there.
    seen: Moment,
    next: u32,
}

/// The cells of a clone as users may see them.
#[derive(Debug)]
pub(super) struct Model {
    now: Moment,
    records: Vec<Record>,
    /// The newest version of each cell.
    newest: Vec<u32>,
    versions: Vec<Version>,
    /// Head of the list of unused versions, linked by `next`.
    free: u32,
    /// Everything that had ended before this moment is durable.
    flushed: Moment,
    /// Submission times of the reads in flight.
    reads: BTreeSet<Moment>,
}

impl Model {
    /// Creates a model whose cells hold `values`, all durable.
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

    /// Returns a new moment, after all others.
    pub(super) fn advance(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// Returns the last moment.
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    /// Submits a write.
    pub(super) fn begin(&mut self, force: Force) -> RecordId {
        let submitted = self.advance();
        self.records.push(Record { submitted, ended: NEVER, force, durable: false });
        self.records.len() as RecordId - 1
    }

    /// Adds the content of a write that has just been submitted.
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

    /// Frees versions that no read and no crash can return any more. Returns the first that
    /// remains.
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

    /// Returns whether a write is known to survive a crash, in place of the content before it.
    fn is_durable(&self, record: &Record) -> bool {
        record.force == Force::Full && (record.durable || record.ended < self.flushed)
    }

    /// Ends a write with its answer.
    pub(super) fn end(&mut self, record: RecordId, force: Force, durable: bool) {
        let ended = self.advance();
        let record = &mut self.records[record as usize];
        *record = Record { ended, force, durable, ..*record };
    }

    /// Returns whether a write is answered.
    pub(super) fn has_ended(&self, record: RecordId) -> bool {
        self.records[record as usize].ended != NEVER
    }

    /// Marks everything as durable that had ended before `submitted`: a flush from that moment has
    /// succeeded.
    pub(super) fn flush(&mut self, submitted: Moment) {
        self.flushed = self.flushed.max(submitted);
    }

    /// Submits a read.
    pub(super) fn begin_read(&mut self) -> Moment {
        let submitted = self.advance();
        self.reads.insert(submitted);
        submitted
    }

    /// Ends a read with its answer.
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

    /// Returns whether a read that was submitted at `submitted` and ends now may return `value`. If
    /// so, and if only one version matches, that version counts as present from now on.
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

    /// Returns whether the clone may hold `value` in `cell` now.
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

    /// Returns whether a crash now may leave `value` in `cell`.
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

    /// Restarts the model after a loss of power: `values` are durable, and no operation is in
    /// flight.
    pub(super) fn restart(&mut self, values: impl Iterator<Item = Tag>) {
        let now = self.advance();
        *self = Self { now, ..Self::new(values) };
    }

    /// Restarts the model after the process was killed. The clone now holds `values`; a later loss
    /// of power may still revert the writes that were not flushed.
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

    /// Lists the versions that `cell` may hold, for a failure message.
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
