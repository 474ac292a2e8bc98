use std::sync::Arc;

use super::{Force, Model, WriteId};
use crate::oracle::content::{Content, Value};

const LEN: u64 = 10_000;

struct Rig {
    content: Arc<Content>,
    model: Model,
}

impl Rig {
    fn new() -> Self {
        let content = Arc::new(Content::new(3, LEN as usize));
        Self { model: Model::new(content.clone()), content }
    }

    fn begin(&mut self, range: std::ops::Range<u64>) -> (WriteId, Value) {
        let tag = self.model.tag();
        (self.model.begin(range, tag, Force::Full, 1), tag)
    }

    fn write(&mut self, range: std::ops::Range<u64>) -> Value {
        let (id, tag) = self.begin(range);
        self.model.end(id, Force::Full, false);
        tag
    }

    fn bytes(&self, value: Value, range: &std::ops::Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.content.fill(value, range.start, &mut bytes);
        bytes
    }

    /// Returns whether a read that begins and ends now may return this value.
    fn reads(&mut self, value: Value, range: std::ops::Range<u64>) -> bool {
        let bytes = self.bytes(value, &range);
        let submitted = self.model.begin_read();
        let read = self.model.read(range.start, &bytes, submitted);
        self.model.end_read(submitted);
        read.is_ok()
    }
}

#[test]
fn a_write_that_is_answered_is_read_and_nothing_before_it() {
    let mut rig = Rig::new();
    assert!(rig.reads(Value::Source, 0..LEN));
    let tag = rig.write(100..5000);
    assert!(rig.reads(tag, 100..5000) && rig.reads(Value::Source, 0..100));
    assert!(!rig.reads(Value::Source, 4999..5001));
    assert!(!rig.reads(tag, 99..101) && !rig.reads(Value::Zeroes, 200..201));
}

#[test]
fn of_two_writes_at_once_either_may_be_there_until_one_is_seen() {
    let mut rig = Rig::new();
    let (first, tag) = rig.begin(0..100);
    let (second, other) = rig.begin(50..150);
    assert!(rig.reads(Value::Source, 0..50));
    rig.model.end(first, Force::Full, false);
    rig.model.end(second, Force::Full, false);
    assert!(!rig.reads(Value::Source, 60..61));
    // Byte by byte; each byte keeps the version that was seen.
    assert!(rig.reads(tag, 50..70) && rig.reads(other, 70..100));
    assert!(!rig.reads(other, 60..61) && !rig.reads(tag, 80..81));
}

#[test]
fn what_was_read_of_a_write_under_way_is_there_from_then_on() {
    let mut rig = Rig::new();
    let (id, tag) = rig.begin(0..100);
    assert!(rig.reads(tag, 0..10));
    assert!(!rig.reads(Value::Source, 0..10) && rig.reads(Value::Source, 10..100));
    let failed = rig.model.begin(20..30, Value::Zeroes, Force::Partial, 1);
    rig.model.end(failed, Force::Partial, false);
    rig.model.end(id, Force::Full, false);
    assert!(rig.reads(tag, 0..20) && rig.reads(Value::Zeroes, 20..25) && rig.reads(tag, 25..100));
    assert!(!rig.reads(tag, 20..25) && !rig.reads(Value::Zeroes, 25..30));
}

#[test]
fn a_read_may_return_what_was_there_when_it_was_submitted() {
    let mut rig = Rig::new();
    let submitted = rig.model.begin_read();
    let tag = rig.write(0..100);
    let later = rig.write(0..100);
    let source = rig.bytes(Value::Source, &(0..100));
    assert!(rig.model.read(0, &source, submitted).is_ok());
    // Or a version that came and went while it was in flight.
    let bytes = rig.bytes(tag, &(0..100));
    assert!(rig.model.read(0, &bytes, submitted).is_ok());
    rig.model.end_read(submitted);
    assert!(rig.reads(later, 0..100) && !rig.reads(tag, 0..1));
}

#[test]
fn what_one_read_has_seen_another_one_need_not_that_was_submitted_before() {
    let mut rig = Rig::new();
    let (_, tag) = rig.begin(0..100);
    let [first, second] = [(); 2].map(|()| rig.model.begin_read());
    let (new, old) = (rig.bytes(tag, &(0..100)), rig.bytes(Value::Source, &(0..100)));
    assert!(rig.model.read(0, &new, first).is_ok() && rig.model.read(0, &old, second).is_ok());
    rig.model.end_read(second);
    assert!(!rig.reads(Value::Source, 0..1) && rig.reads(tag, 0..100));
}

#[test]
fn a_crash_keeps_what_was_flushed_and_of_the_rest_any_version() {
    let mut rig = Rig::new();
    let first = rig.write(0..100);
    let flush = rig.model.advance();
    let second = rig.write(0..50);
    rig.model.flush(flush);
    let (third, tag) = rig.begin(0..20);
    let last = rig.write(0..10);
    rig.model.crash();
    let _ = third;
    assert!(!rig.reads(Value::Source, 0..100));
    assert!(rig.reads(first, 50..100) && rig.reads(second, 20..50));
    assert!(rig.reads(tag, 10..20) && rig.reads(first, 0..5) && rig.reads(last, 5..10));
    // The read has settled the content, and no later crash changes that.
    rig.model.crash();
    assert!(!rig.reads(second, 0..5) && !rig.reads(second, 10..20) && rig.reads(first, 0..5));
}

#[test]
fn a_flush_after_a_crash_does_not_bring_back_what_the_crash_has_lost() {
    let mut rig = Rig::new();
    let first = rig.write(0..100);
    let flush = rig.model.advance();
    rig.model.flush(flush);
    rig.write(0..100);
    rig.model.crash();
    let flush = rig.model.advance();
    rig.model.flush(flush);
    rig.model.crash();
    assert!(rig.reads(first, 0..100) && !rig.reads(Value::Source, 0..1));
}

#[test]
fn an_orderly_end_loses_nothing_that_was_answered() {
    let mut rig = Rig::new();
    let first = rig.write(0..100);
    let (_, second) = rig.begin(0..50);
    rig.model.stop();
    assert!(!rig.reads(Value::Source, 0..1));
    assert!(rig.reads(first, 0..10) && rig.reads(second, 10..50) && rig.reads(first, 50..100));
    rig.model.crash();
    assert!(!rig.reads(second, 0..10) && !rig.reads(Value::Source, 0..100));
}

#[test]
fn a_clone_that_is_read_only_loses_what_was_not_committed_however_it_ends() {
    let mut rig = Rig::new();
    let first = rig.write(0..100);
    let flush = rig.model.advance();
    rig.model.flush(flush);
    let second = rig.write(0..50);
    rig.model.is_lossy = true;
    assert!(rig.reads(first, 0..50) && rig.reads(second, 0..50));
    assert!(!rig.reads(Value::Source, 0..50));
    rig.model.stop();
    assert!(!rig.reads(Value::Source, 50..100) && rig.reads(first, 0..50));
}

#[test]
fn a_durable_write_survives_without_a_flush() {
    let mut rig = Rig::new();
    let (id, tag) = rig.begin(0..100);
    rig.model.end(id, Force::Full, true);
    rig.model.crash();
    assert!(!rig.reads(Value::Source, 0..100) && rig.reads(tag, 0..100));
}

#[test]
fn what_is_settled_takes_one_version() {
    let mut rig = Rig::new();
    for round in 0..500 {
        let start = round * 17 % 9000;
        rig.write(start..start + 700);
    }
    let flush = rig.model.advance();
    rig.model.flush(flush);
    rig.write(0..LEN);
    let flush = rig.model.advance();
    rig.model.flush(flush);
    rig.model.stop();
    assert_eq!(rig.model.segments(), 1);
}

/// A read may return the head of one write and the tail of another. A discard whose bytes are
/// unknown explains that too, but it is not known to have happened.
#[test]
fn a_discard_is_not_seen_in_what_other_writes_explain() {
    let mut rig = Rig::new();
    let old = rig.write(0..100);
    let discard = rig.model.begin(0..100, Value::Unknown, Force::Partial, 1);
    let (write, tag) = rig.begin(0..100);
    let torn = [rig.bytes(tag, &(0..50)), rig.bytes(old, &(50..100))].concat();
    let submitted = rig.model.begin_read();
    rig.model.read(0, &torn, submitted).unwrap();
    rig.model.end_read(submitted);
    rig.model.end(write, Force::Full, false);
    let last = rig.write(0..100);
    assert!(rig.reads(last, 0..100));
    // The discard is still in flight, and lands only now.
    assert!(rig.reads(Value::Zeroes, 0..100));
    rig.model.end(discard, Force::Partial, false);
}
