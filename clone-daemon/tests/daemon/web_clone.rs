//! Clones of objects on a web server.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use clone_core::dm_target::Message;
use clone_core::driver::RunningClone;
use clone_core::engine::{Command, EventKind, RequestError};
use clone_core::geometry::Sectors;
use clone_daemon::source::{self, Opened, SourceOptions, SourceStats};
use persistent_data::device::FileDevice;

use crate::support::web::{Act, Web};
use crate::support::{LONG, Rig};
use crate::web_source::content;

fn options() -> SourceOptions {
    SourceOptions { timeout: LONG, give_up_after: LONG, ..SourceOptions::default() }
}

/// A clone of an object on a web server, with 64 KiB regions.
struct Cloned {
    rig: Rig,
    web: Web,
    opened: Opened,
    bytes: Vec<u8>,
}

impl Cloned {
    fn new(bytes: Vec<u8>, options: &SourceOptions) -> Self {
        let rig = Rig::new(Sectors(128), &bytes);
        let web = Web::start(&bytes);
        let opened = source::open(&web.url().parse().unwrap(), None, options).unwrap();
        Self { rig, web, opened, bytes }
    }

    /// Starts the clone with copies of 256 KiB, eight at a time. Hydration is still disabled.
    fn start(&self) -> RunningClone<FileDevice> {
        let clone = self.rig.start_from(self.opened.source.clone(), false);
        clone.command(Command::Kernel(Message::HydrationBatchSize(4)));
        clone.command(Command::Kernel(Message::HydrationThreshold(32)));
        clone
    }

    fn stats(&self) -> &SourceStats {
        &self.opened.remote.as_ref().unwrap().stats
    }
}

fn resume(clone: &RunningClone<FileDevice>) {
    clone.command(Command::Kernel(Message::EnableHydration));
}

/// Returns the first event after number `after`, with its own number.
fn next(clone: &RunningClone<FileDevice>, after: u64) -> (u64, EventKind) {
    let mut notices = clone.wait_for(after, LONG);
    assert!(!notices.is_empty(), "nothing happens");
    let first = notices.remove(0);
    (first.number, first.kind)
}

#[test]
fn a_clone_is_complete_and_right_whatever_fails_now_and_then() {
    // Long enough for a complete response, and short enough to wait for the missing ones.
    let options = SourceOptions { timeout: Duration::from_secs(2), ..options() };
    let cloned = Cloned::new(content(4 << 20), &options);
    let tries = Mutex::new(HashMap::new());
    cloned.web.script(move |ask| {
        let start = ask.range.as_ref().unwrap().start;
        let mut tries = tries.lock().unwrap();
        let tries = tries.entry(start).or_insert(0);
        *tries += 1;
        match (*tries, (start / (256 << 10) + *tries) % 5) {
            (3.., _) => Act::Serve,
            (_, 0) => Act::Status(503, ""),
            (_, 1) => Act::HangUpAfter(5000),
            (_, 2) => Act::Short,
            (_, 3) => Act::Other(0..4096),
            _ => Act::StallAfter(100),
        }
    });
    let clone = cloned.start();
    resume(&clone);
    assert_eq!(next(&clone, 0).1, EventKind::Finished);
    clone.stop();
    assert_eq!(cloned.rig.destination(), cloned.bytes);
    assert_eq!(cloned.stats().failures.load(Ordering::Relaxed), 0);
}

#[test]
fn a_source_that_changes_under_way_ends_hydration_is_told_once_and_is_never_mixed_in() {
    let cloned = Cloned::new(content(4 << 20), &options());
    let clone = cloned.start();
    let client = clone.client();
    client.hydrate(0..1 << 20).unwrap();
    let other: Vec<u8> = cloned.bytes.iter().map(|byte| !byte).collect();
    // The length is the same: only the ETag differs.
    cloned.web.change(|object| {
        object.content = other.into();
        object.etag = Some("\"two\"".into());
    });
    resume(&clone);
    let (number, what) = next(&clone, 0);
    let EventKind::SourceChanged { reason } = &what else { panic!("{what}") };
    assert!(reason.contains("the ETag \"one\" is no longer the current version"), "{reason}");

    let mut into = vec![0; 4096];
    let read = client.read(2 << 20, &mut into);
    assert!(matches!(read, Err(RequestError::Device(_))), "{read:?}");
    client.read(0, &mut into).unwrap();
    assert_eq!(into, cloned.bytes[..4096]);
    // A write of a whole region needs no source.
    client.write(3 << 20, &[9; 64 << 10], true).unwrap();
    let after: Vec<_> = clone.wait_for(number, Duration::ZERO);
    assert!(after.is_empty(), "{after:?}");

    // A retry reports the change again without asking the server. Requests in flight at the time of
    // the change have ended by then.
    let until = Instant::now() + LONG;
    while cloned.stats().in_flight.load(Ordering::Relaxed) > 0 {
        assert!(Instant::now() < until, "requests that do not end");
        thread::sleep(Duration::from_millis(1));
    }
    let asked = cloned.web.asked().len();
    resume(&clone);
    assert_eq!(next(&clone, number).1, what);
    assert_eq!(cloned.web.asked().len(), asked);
    clone.stop();
    let destination = cloned.rig.destination();
    assert_eq!(destination[..1 << 20], cloned.bytes[..1 << 20]);
    assert_eq!(destination[1 << 20..3 << 20], vec![0xee; 2 << 20]);
    assert_eq!(destination[3 << 20..][..64 << 10], vec![9; 64 << 10]);
    assert_eq!(destination[(3 << 20) + (64 << 10)..], vec![0xee; (1 << 20) - (64 << 10)]);
}

#[test]
fn a_range_that_always_fails_is_set_aside_and_all_the_rest_is_hydrated() {
    let cloned = Cloned::new(content(4 << 20), &options());
    let broken = 1 << 20;
    cloned.web.script(move |ask| match &ask.range {
        Some(range) if range.contains(&broken) => Act::Status(403, ""),
        _ => Act::Serve,
    });
    let clone = cloned.start();
    clone.command(Command::MaxFailures(0));
    resume(&clone);
    let until = Instant::now() + LONG;
    while clone.progress().hydrated < 63 {
        assert!(Instant::now() < until, "{:?}", clone.progress());
        thread::sleep(Duration::from_millis(1));
    }
    clone.command(Command::MaxFailures(2));
    let (number, what) = next(&clone, 0);
    let EventKind::HydrationStopped { range, failure, .. } = &what else { panic!("{what}") };
    assert!(range.contains(&(broken as u64)), "{what}");
    assert!(failure.reason.contains("the server returned 403 Forbidden"), "{failure}");
    assert_eq!(clone.progress().hydrated, 63);

    cloned.web.script(|_| Act::Serve);
    resume(&clone);
    assert_eq!(next(&clone, number).1, EventKind::Finished);
    clone.stop();
    assert_eq!(cloned.rig.destination(), cloned.bytes);
}

#[test]
fn a_server_that_is_gone_stops_hydration_and_one_that_is_back_is_used_again() {
    let options = SourceOptions { give_up_after: Duration::from_secs(2), ..options() };
    let cloned = Cloned::new(content(4 << 20), &options);
    cloned.web.script(|_| Act::Status(502, ""));
    let clone = cloned.start();
    let mut number = 0;
    loop {
        resume(&clone);
        let what;
        (number, what) = next(&clone, number);
        let EventKind::HydrationStopped { failure, .. } = &what else { panic!("{what}") };
        if failure.reason.contains("the server returned 502 Bad Gateway") {
            break;
        }
        // The last attempt may have begun just before its time limit.
        assert!(failure.reason.contains("timeout"), "{failure}");
    }
    let mut into = vec![0; 4096];
    assert!(clone.client().read(0, &mut into).is_err());

    cloned.web.script(|_| Act::Serve);
    let until = Instant::now() + LONG;
    while let Err(error) = clone.client().read(0, &mut into) {
        assert!(Instant::now() < until, "{error}");
    }
    assert_eq!(into, cloned.bytes[..4096]);
    resume(&clone);
    assert_eq!(next(&clone, number).1, EventKind::Finished);
    clone.stop();
    assert_eq!(cloned.rig.destination(), cloned.bytes);
}

/// Hydrates 64 MiB in copies of 1 MiB at 50 ms per request, with at most `requests_max` requests in
/// flight. Returns the time that it took.
fn hydrate_slowly(requests_max: usize) -> Duration {
    let options = SourceOptions { requests_max, ..options() };
    let cloned = Cloned::new(content(64 << 20), &options);
    cloned.web.script(|_| Act::Late(Duration::from_millis(50)));
    let clone = cloned.start();
    clone.command(Command::Kernel(Message::HydrationBatchSize(16)));
    clone.command(Command::Kernel(Message::HydrationThreshold(256)));
    // Ignore the requests before hydration.
    let opening = cloned.web.asked().len();
    let began = Instant::now();
    resume(&clone);
    assert_eq!(next(&clone, 0).1, EventKind::Finished);
    let took = began.elapsed();
    clone.stop();
    assert!(cloned.rig.destination() == cloned.bytes);

    let mut ranges: Vec<_> =
        cloned.web.asked()[opening..].iter().map(|ask| ask.range.clone().unwrap()).collect();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|two| two[0].end == two[1].start), "fetched twice: {ranges:?}");
    let most = cloned.web.under_way_max();
    assert!(most <= requests_max && (requests_max == 1 || most > 2), "{most} at a time");
    eprintln!("{requests_max} at a time: {took:?}, {} requests, {most} at once", ranges.len());
    took
}

#[test]
fn several_copies_are_under_way_at_a_time_and_no_byte_is_fetched_twice() {
    let alone = hydrate_slowly(1);
    let together = hydrate_slowly(SourceOptions::default().requests_max);
    eprintln!("together {:.1} times as fast", alone.as_secs_f64() / together.as_secs_f64());
}
