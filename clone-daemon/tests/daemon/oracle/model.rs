//! A model of the replies that a clone may give. Each byte is a register with the writes that may
//! be its value. Bytes with the same history form one segment.
//!
//! A version is *dead* from the moment at which another version is known to have replaced it: a
//! read submitted later must not return it. This is known when a write is acknowledged that was
//! submitted after the version existed, and when a read has returned another version. After a crash
//! a byte may hold any version, dead or not, that is not replaced by a version known to be durable.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::content::{Content, Value};

mod explain;
#[cfg(test)]
mod tests;

/// A moment, counted in submissions and replies that clients see.
pub(super) type Moment = u64;

/// The end of an operation that has not ended.
const NEVER: Moment = Moment::MAX;

/// The effect of a write on earlier versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Force {
    /// It replaces them once it is acknowledged.
    Full,
    /// It may replace them, byte by byte: a failed write, or a discard.
    Partial,
}

/// Identifies a write from its submission on.
pub(super) type WriteId = u32;

#[derive(Clone, Debug)]
struct Write {
    range: Range<u64>,
    value: Value,
    submitted: Moment,
    ended: Moment,
    force: Force,
    /// True if the write was acknowledged as durable.
    durable: bool,
    /// Number of the user, for messages.
    by: u32,
}

/// A version of the bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    write: WriteId,
    /// The end of the first read that returned it: it existed by then.
    seen: Moment,
    /// Reads submitted at this moment or later must not return it.
    dead: Moment,
    /// True if not even a crash can restore it.
    gone: bool,
}

#[derive(Clone, Debug)]
struct Segment {
    end: u64,
    /// In order of submission.
    versions: Vec<Version>,
}

/// Bytes returned by a read that cannot be there.
#[derive(Debug)]
pub(super) struct Mismatch(pub(super) String);

/// A clone as its users may see it.
pub(super) struct Model {
    content: Arc<Content>,
    now: Moment,
    writes: Vec<Write>,
    /// By start offset. Together they cover the clone.
    segments: BTreeMap<u64, Segment>,
    /// Submission times of the reads in flight.
    reads: BTreeSet<Moment>,
    /// All writes that ended before this moment are durable.
    flushed: Moment,
    /// The moment of the last stop or kill of the daemon.
    interrupted: Moment,
    /// True if the clone is read-only, so that writes after the last commit may be lost at any
    /// time.
    pub(super) is_lossy: bool,
    next_tag: u8,
}

impl Model {
    /// Creates the model of a clone without writes.
    pub(super) fn new(content: Arc<Content>) -> Self {
        let mut model = Self {
            content,
            now: 0,
            writes: Vec::new(),
            segments: BTreeMap::new(),
            reads: BTreeSet::new(),
            flushed: 0,
            interrupted: 0,
            is_lossy: false,
            next_tag: 0,
        };
        model.renew();
        model
    }

    /// Replaces the clone with a new clone of the same source. Nothing is in flight.
    pub(super) fn renew(&mut self) {
        let range = 0..self.content.len();
        let submitted = self.advance();
        let write = Write {
            range: range.clone(),
            value: Value::Source,
            submitted,
            ended: submitted,
            force: Force::Full,
            durable: true,
            by: 0,
        };
        self.writes.push(write);
        let write = self.writes.len() as WriteId - 1;
        let base = Version { write, seen: submitted, dead: NEVER, gone: false };
        self.segments = [(0, Segment { end: range.end, versions: vec![base] })].into();
        self.reads.clear();
        self.is_lossy = false;
    }

    /// Returns a new moment, after all others.
    pub(super) fn advance(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// Returns a tag that no write in flight has.
    pub(super) fn tag(&mut self) -> Value {
        self.next_tag = self.next_tag % 254 + 1;
        Value::Tag(self.next_tag)
    }

    /// Records the submission of a write.
    pub(super) fn begin(
        &mut self,
        range: Range<u64>,
        value: Value,
        force: Force,
        by: u32,
    ) -> WriteId {
        let submitted = self.advance();
        let write = Write { range, value, submitted, ended: NEVER, force, durable: false, by };
        let id = self.writes.len() as WriteId;
        let range = write.range.clone();
        self.writes.push(write);
        let version = Version { write: id, seen: NEVER, dead: NEVER, gone: false };
        self.change(&range, |_, segment| segment.versions.push(version));
        id
    }

    /// Records the reply to a write. With [`Force::Partial`] it may have happened, byte by byte.
    pub(super) fn end(&mut self, id: WriteId, force: Force, durable: bool) {
        let ended = self.advance();
        let write = &mut self.writes[id as usize];
        write.ended = ended;
        write.durable = durable;
        if force == Force::Partial {
            write.force = force;
        }
        let (range, submitted, force) = (write.range.clone(), write.submitted, write.force);
        self.change(&range, |writes, segment| {
            if force == Force::Full {
                for version in &mut segment.versions {
                    if version.ended(writes) < submitted {
                        version.dead = version.dead.min(ended);
                    }
                }
            }
        });
    }

    /// Records the success of a flush submitted at `submitted`.
    pub(super) fn flush(&mut self, submitted: Moment) {
        self.flushed = self.flushed.max(submitted);
        self.advance();
    }

    /// Records the submission of a read.
    pub(super) fn begin_read(&mut self) -> Moment {
        let submitted = self.advance();
        self.reads.insert(submitted);
        submitted
    }

    /// Records the reply to a read, or that it was given up.
    pub(super) fn end_read(&mut self, submitted: Moment) {
        self.advance();
        self.reads.remove(&submitted);
    }

    /// Checks and records the result of a read submitted at `submitted`.
    pub(super) fn read(
        &mut self,
        offset: u64,
        data: &[u8],
        submitted: Moment,
    ) -> Result<(), Mismatch> {
        // After the submission of all requests in flight: they may still see earlier versions.
        self.advance();
        let range = offset..offset + data.len() as u64;
        let mut seen = Vec::new();
        for (segment, versions) in self.within(&range) {
            let data = &data[(segment.start - offset) as usize..(segment.end - offset) as usize];
            self.look(segment, versions, data, submitted, &mut seen)?;
        }
        for (range, versions) in seen {
            self.observe(&range, &versions, submitted);
        }
        Ok(())
    }

    /// Checks that a request submitted at `submitted` may report `range` as zeroes.
    pub(super) fn zeroes(&self, range: &Range<u64>, submitted: Moment) -> Result<(), Mismatch> {
        for (segment, versions) in self.within(range) {
            let zeroes = vec![0; (segment.end - segment.start) as usize];
            self.look(segment, versions, &zeroes, submitted, &mut Vec::new())?;
        }
        Ok(())
    }

    /// Returns the segments of a range, cut to it.
    fn within(&self, range: &Range<u64>) -> impl Iterator<Item = (Range<u64>, &[Version])> {
        let range = range.clone();
        let first = self.segments.range(..=range.start).next_back().map_or(0, |(start, _)| *start);
        let end = range.end;
        self.segments.range(first..end).filter_map(move |(start, segment)| {
            let cut = range.start.max(*start)..range.end.min(segment.end);
            (!cut.is_empty()).then_some((cut, &segment.versions[..]))
        })
    }

    /// Returns whether a read submitted at `submitted` may return this version.
    fn may_return(&self, version: &Version, durable: Moment, submitted: Moment) -> bool {
        let survives = || !version.gone && version.ended(&self.writes) >= durable;
        version.dead > submitted || self.is_lossy && survives()
    }

    /// Compares bytes of one segment and records the versions that they match.
    fn look(
        &self,
        range: Range<u64>,
        versions: &[Version],
        data: &[u8],
        submitted: Moment,
        seen: &mut Vec<(Range<u64>, Vec<WriteId>)>,
    ) -> Result<(), Mismatch> {
        let durable = self.durable_from(versions);
        let may = |version: &&Version| self.may_return(version, durable, submitted);
        let value = |version: &Version| self.writes[version.write as usize].value;
        let may: Vec<Version> = versions.iter().filter(may).copied().collect();
        let is = |version: &&Version| self.content.is(value(version), range.start, data);
        let whole: Vec<WriteId> = may.iter().filter(is).map(|version| version.write).collect();
        // Unknown bytes may be anything, also bytes of two other versions. So they are only taken
        // for what was seen where no other version explains a byte.
        let is_known = |id: &WriteId| self.writes[*id as usize].value != Value::Unknown;
        if whole.iter().any(is_known) {
            if may.len() > 1 {
                seen.push((range, whole));
            }
            return Ok(());
        }
        // The bytes are from several versions, or from none.
        let mut runs: Vec<(Range<u64>, Vec<WriteId>)> = Vec::new();
        for (offset, byte) in (range.start..).zip(data) {
            let is = |version: &&Version| {
                self.content.is(value(version), offset, std::slice::from_ref(byte))
            };
            let fit: Vec<WriteId> = may.iter().filter(is).map(|version| version.write).collect();
            if fit.is_empty() {
                return Err(Mismatch(self.explain(offset, &range, data, versions, submitted)));
            }
            match runs.last_mut() {
                Some((run, same)) if *same == fit => run.end = offset + 1,
                _ => runs.push((offset..offset + 1, fit)),
            }
        }
        seen.extend(runs);
        Ok(())
    }

    /// Records that a read submitted at `submitted` has just returned one of `writes`.
    fn observe(&mut self, range: &Range<u64>, writes: &[WriteId], submitted: Moment) {
        if self.is_lossy {
            return;
        }
        let (now, interrupted) = (self.now, self.interrupted);
        self.change(range, |all, segment| {
            let is_seen = |version: &Version| writes.contains(&version.write);
            let only = match writes {
                [only] => Some(&all[*only as usize]),
                _ => None,
            };
            let is_old = |write: WriteId| all[write as usize].ended <= interrupted;
            let settles = writes.iter().all(|&write| is_old(write));
            for version in &mut segment.versions {
                if is_seen(version) {
                    if only.is_some() {
                        version.seen = version.seen.min(now);
                    }
                    continue;
                }
                let ended = version.ended(all);
                if ended < submitted || only.is_some_and(|only| ended < only.submitted) {
                    version.dead = version.dead.min(now);
                    // The read settles which version an interruption has left.
                    version.gone |= settles && is_old(version.write);
                }
            }
        });
    }

    /// Returns the submission of the last write known to be durable.
    fn durable_from(&self, versions: &[Version]) -> Moment {
        let durable = versions.iter().map(|version| &self.writes[version.write as usize]);
        let durable = durable.filter(|write| {
            write.force == Force::Full && (write.durable || write.ended < self.flushed)
        });
        durable.map(|write| write.submitted).max().unwrap_or(0)
    }

    /// Changes the segments of a range, after cutting them at its ends, and drops versions that no
    /// read and no crash can return.
    fn change(&mut self, range: &Range<u64>, change: impl Fn(&[Write], &mut Segment)) {
        self.cut(range.start);
        self.cut(range.end);
        let oldest = self.reads.first().copied().unwrap_or(NEVER);
        let starts: Vec<u64> =
            self.segments.range(range.clone()).map(|(start, _)| *start).collect();
        for start in &starts {
            let Some(mut segment) = self.segments.remove(start) else { continue };
            change(&self.writes, &mut segment);
            self.prune(&mut segment, oldest);
            self.segments.insert(*start, segment);
        }
        for start in starts {
            self.join(start);
        }
        self.join(range.end);
    }

    fn prune(&self, segment: &mut Segment, oldest: Moment) {
        if segment.versions.len() > 1 {
            let durable = self.durable_from(&segment.versions);
            segment.versions.retain(|version| {
                let is_lost = version.gone || version.ended(&self.writes) < durable;
                version.dead > oldest || !is_lost
            });
        }
    }

    /// Splits the segment that contains `at`, so that one starts there.
    fn cut(&mut self, at: u64) {
        let Some((_, segment)) = self.segments.range_mut(..at).next_back() else { return };
        if segment.end > at {
            let rest = segment.clone();
            segment.end = at;
            self.segments.insert(at, rest);
        }
    }

    /// Joins the segment that starts at `at` to the one before it, if their histories are equal.
    fn join(&mut self, at: u64) {
        let mut segments = self.segments.range(..=at).rev();
        let (Some((start, segment)), Some((before, first))) = (segments.next(), segments.next())
        else {
            return;
        };
        if *start == at && segment.versions == first.versions {
            let (before, end) = (*before, segment.end);
            self.segments.remove(&at);
            if let Some(first) = self.segments.get_mut(&before) {
                first.end = end;
            }
        }
    }

    /// Records that the daemon was killed. All requests in flight are given up.
    pub(super) fn crash(&mut self) {
        self.interrupt(false);
    }

    /// Records that the daemon stopped in order, or that the clone was removed: all acknowledged
    /// writes are committed.
    pub(super) fn stop(&mut self) {
        self.interrupt(true);
    }

    fn interrupt(&mut self, is_orderly: bool) {
        let now = self.advance();
        let loses = std::mem::take(&mut self.is_lossy) || !is_orderly;
        if !loses {
            self.flushed = now;
        }
        let all = 0..self.content.len();
        self.change(&all, |_, _| {});
        let mut segments = std::mem::take(&mut self.segments);
        for segment in segments.values_mut() {
            let durable = self.durable_from(&segment.versions);
            segment.versions.retain(|version| match loses {
                true => !version.gone && version.ended(&self.writes) >= durable,
                false => version.dead == NEVER,
            });
            for version in &mut segment.versions {
                version.dead = NEVER;
            }
        }
        let flushed = self.flushed;
        for write in &mut self.writes {
            // A write that may be lost no longer replaces earlier versions.
            if !(write.durable || write.ended < flushed) {
                (write.ended, write.force) = (write.ended.min(now), Force::Partial);
            }
        }
        self.segments = segments;
        self.reads.clear();
        self.interrupted = now;
        self.change(&all, |_, _| {});
    }

    /// Returns the number of segments.
    #[cfg(test)]
    fn segments(&self) -> usize {
        self.segments.len()
    }
}

impl Version {
    /// Returns the moment from which the version existed, or had failed.
    fn ended(&self, writes: &[Write]) -> Moment {
        writes[self.write as usize].ended.min(self.seen)
    }
}
