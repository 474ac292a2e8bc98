//! Sources that a web server has, and what becomes of them when it misbehaves.

use std::sync::atomic::Ordering;
use std::time::Duration;

use clone_core::driver::SourceChanged;
use clone_daemon::source::{self, Opened, SourceError, SourceOptions};

use crate::support::web::{Act, Ask, Web};

/// Bytes that tell where they are from.
pub(crate) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at / 4096) as u8).wrapping_mul(31) ^ at as u8 | 1).collect()
}

/// Does not wait for long.
fn hasty() -> SourceOptions {
    SourceOptions {
        timeout: Duration::from_millis(500),
        give_up_after: Duration::from_secs(20),
        ..SourceOptions::default()
    }
}

fn open(url: &str, options: &SourceOptions) -> Result<Opened, SourceError> {
    source::open(&url.parse().unwrap(), None, options)
}

/// Answers the request that opens the source, and then does what `act` says of the others, which
/// are counted from 0.
fn then(act: impl Fn(usize, &Ask) -> Act + Send + Sync + 'static) -> impl Fn(&Ask) -> Act {
    move |ask| ask.number.checked_sub(1).map_or(Act::Serve, |number| act(number, ask))
}

fn count(opened: &Opened, of: fn(&source::SourceFigures) -> &std::sync::atomic::AtomicU64) -> u64 {
    of(&opened.remote.as_ref().unwrap().figures).load(Ordering::Relaxed)
}

#[test]
fn ranges_are_read_over_connections_that_are_kept_and_the_version_is_required() {
    let bytes = content(100_000);
    let web = Web::start(&bytes);
    let opened = open(&web.url(), &hasty()).unwrap();
    assert!(opened.is_remote());
    assert_eq!((opened.source.size_bytes(), opened.limits.size.0), (100_000, 195));
    assert_eq!(opened.identity.warning(), None);
    for (start, end) in [(0, 1), (99_999, 100_000), (5, 70_000), (0, 100_000)] {
        let mut into = vec![0; end - start];
        opened.source.read_at(start as u64, &mut into).unwrap();
        assert_eq!(into, bytes[start..end]);
    }
    opened.source.read_at(0, &mut []).unwrap();
    assert!(opened.source.read_at(99_999, &mut [0; 2]).is_err());
    assert!(opened.source.read_at(u64::MAX, &mut [0; 2]).is_err());
    let asked = web.asked();
    assert_eq!(asked.len(), 5);
    assert!(asked.iter().all(|ask| ask.connection == 0 && ask.path == "/disk"));
    assert!(asked[1..].iter().all(|ask| ask.header("if-match") == Some("\"one\"")));
    assert!(asked.iter().all(|ask| ask.header("accept-encoding") == Some("identity")));
    assert!(asked[0].header("user-agent").unwrap().starts_with("cloned/"));
    assert_eq!(count(&opened, |figures| &figures.requests), 5);
    assert_eq!(count(&opened, |figures| &figures.bytes), 169_997);
    assert_eq!(count(&opened, |figures| &figures.retries), 0);
}

#[test]
fn what_goes_wrong_once_is_tried_again_and_only_right_bytes_are_handed_out() {
    let bytes = content(64 << 10);
    for act in [
        Act::Stall,
        Act::StallAfter(0),
        Act::StallAfter(1000),
        Act::HangUpAfter(0),
        Act::HangUpAfter(4095),
        Act::Status(503, ""),
        Act::Status(500, ""),
        Act::Status(429, "retry-after: 0\r\n"),
        Act::Status(503, "retry-after: Mon, 23 Nov 2026 02:00:00 GMT\r\n"),
        Act::Status(408, "connection: close\r\n"),
        Act::Short,
        Act::Long,
        Act::Other(0..4096),
        Act::Other(4096..8191),
        Act::Whole,
        Act::BrokenChunks,
        Act::Silent,
    ] {
        let web = Web::start(&bytes);
        let once = act.clone();
        web.script(then(move |number, _| if number == 0 { once.clone() } else { Act::Serve }));
        let opened = open(&web.url(), &hasty()).unwrap();
        let mut into = vec![0; 4096];
        opened.source.read_at(4096, &mut into).unwrap_or_else(|error| panic!("{act:?}: {error}"));
        assert_eq!(into, bytes[4096..8192], "{act:?}");
        let requests = web.asked().len();
        assert_eq!(requests, 3, "{act:?}: {requests} requests");
        assert_eq!(count(&opened, |figures| &figures.retries), 1, "{act:?}");
        assert_eq!(count(&opened, |figures| &figures.failures), 0, "{act:?}");
    }
}

#[test]
fn chunks_and_slow_answers_are_as_good_as_others() {
    let bytes = content(64 << 10);
    let web = Web::start(&bytes);
    web.script(then(|number, _| match number {
        0 => Act::Chunks,
        1 => Act::Late(Duration::from_millis(100)),
        _ => Act::Drip(300, Duration::from_millis(1)),
    }));
    let opened = open(&web.url(), &SourceOptions::default()).unwrap();
    for _ in 0..3 {
        let mut into = vec![0; 10_000];
        opened.source.read_at(777, &mut into).unwrap();
        assert_eq!(into, bytes[777..10_777]);
    }
    assert_eq!(web.asked().len(), 4);
}

#[test]
fn another_version_is_seen_in_whatever_way_it_shows_and_nothing_is_read_any_more() {
    let bytes = content(64 << 10);
    let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    let longer = [&bytes[..], &[0; 512]].concat();
    type Case = (&'static str, Option<&'static str>, Vec<u8>, Act, &'static str);
    let cases: [Case; 8] = [
        // A server that heeds If-Match.
        (
            "\"one\"",
            Some("\"two\""),
            other.clone(),
            Act::Serve,
            "has not the ETag \"one\" any more",
        ),
        // One that does not.
        ("\"one\"", Some("\"two\""), other.clone(), Act::Late(Duration::ZERO), "ETag \"two\""),
        ("\"one\"", Some("\"two\""), other.clone(), Act::Whole, "ETag \"two\""),
        ("\"one\"", Some("\"one\""), longer.clone(), Act::Serve, "and has 66048"),
        ("\"one\"", Some("\"one\""), longer.clone(), Act::Whole, "and has 66048"),
        ("W/\"one\"", Some("W/\"two\""), other.clone(), Act::Serve, "weak ETag W/\"two\""),
        ("odd", Some("other"), other.clone(), Act::Serve, "weak ETag other"),
        ("\"one\"", Some("\"one\""), bytes[..4096].to_vec(), Act::Serve, "ends before byte 8192"),
    ];
    for (before, after, content, act, told) in cases {
        let web = Web::start(&bytes);
        web.change(|object| object.etag = Some(before.into()));
        let opened = open(&web.url(), &hasty()).unwrap();
        let mut into = vec![0; 4096];
        opened.source.read_at(4096, &mut into).unwrap();
        assert_eq!(into, bytes[4096..8192]);
        web.change(|object| {
            object.etag = after.map(str::to_owned);
            object.content = content.clone().into();
        });
        let act_now = act.clone();
        web.script(move |_| act_now.clone());
        let error = opened.source.read_at(4096, &mut into).unwrap_err();
        let changed = SourceChanged::of(&error).unwrap_or_else(|| panic!("{act:?}: {error}"));
        assert!(changed.0.contains(told), "{act:?}: {changed}");
        assert_eq!(into, bytes[4096..8192], "{act:?} put bytes of the other version there");

        // Even if the old one comes back: what was read meanwhile nobody knows.
        web.change(|object| {
            object.etag = Some(before.into());
            object.content = bytes.clone().into();
        });
        web.script(|_| Act::Serve);
        let requests = web.asked().len();
        let again = opened.source.read_at(0, &mut into).unwrap_err();
        assert_eq!(SourceChanged::of(&again), Some(changed));
        assert_eq!(web.asked().len(), requests);
    }
}
