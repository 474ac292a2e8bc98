//! Sources on a web server that misbehaves.

use std::fs;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use clone_core::block_io::SourceChanged;
use clone_daemon::source::{self, Opened, SourceError, SourceOptions, pin};

use crate::support::web::{Act, Ask, Web};
use crate::support::{LONG, open_pinned};

/// Returns bytes that reveal their offset.
pub(crate) fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| ((at / 4096) as u8).wrapping_mul(31) ^ at as u8 | 1).collect()
}

/// Returns options with very long time limits.
fn patient() -> SourceOptions {
    SourceOptions { timeout: LONG, give_up_after: LONG, ..SourceOptions::default() }
}

fn open(url: &str, options: &SourceOptions) -> Result<Opened, SourceError> {
    source::open(&url.parse().unwrap(), None, options)
}

/// Serves the request that opens the source, then follows `act` for the others, counted from 0.
fn then(act: impl Fn(usize, &Ask) -> Act + Send + Sync + 'static) -> impl Fn(&Ask) -> Act {
    move |ask| ask.number.checked_sub(1).map_or(Act::Serve, |number| act(number, ask))
}

fn count(opened: &Opened, of: fn(&source::SourceStats) -> &std::sync::atomic::AtomicU64) -> u64 {
    of(&opened.remote.as_ref().unwrap().stats).load(Ordering::Relaxed)
}

#[test]
fn ranges_are_read_over_connections_that_are_kept_and_the_version_is_required() {
    let bytes = content(100_000);
    let web = Web::start(&bytes);
    let opened = open(&web.url(), &patient()).unwrap();
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
    let check = |act: &Act| {
        let web = Web::start(&bytes);
        let once = act.clone();
        web.script(then(move |number, _| if number == 0 { once.clone() } else { Act::Serve }));
        // Responses that never come time out; slow ones must not.
        let timeout = if act.stalls() { Duration::from_secs(4) } else { LONG };
        let opened = open(&web.url(), &SourceOptions { timeout, ..patient() }).unwrap();
        let mut into = vec![0; 4096];
        opened.source.read_at(4096, &mut into).unwrap_or_else(|error| panic!("{act:?}: {error}"));
        assert_eq!(into, bytes[4096..8192], "{act:?}");
        let requests = web.asked().len();
        assert_eq!(requests, 3, "{act:?}: {requests} requests");
        assert_eq!(count(&opened, |figures| &figures.retries), 1, "{act:?}");
        assert_eq!(count(&opened, |figures| &figures.failures), 0, "{act:?}");
    };
    let acts = [
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
    ];
    thread::scope(|scope| {
        for act in &acts {
            scope.spawn(|| check(act));
        }
    });
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
    let opened = open(&web.url(), &patient()).unwrap();
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
        // A server that supports If-Match.
        (
            "\"one\"",
            Some("\"two\""),
            other.clone(),
            Act::Serve,
            "the ETag \"one\" is no longer the current version",
        ),
        // Servers that do not.
        ("\"one\"", Some("\"two\""), other.clone(), Act::Late(Duration::ZERO), "ETag \"two\""),
        ("\"one\"", Some("\"two\""), other.clone(), Act::Whole, "ETag \"two\""),
        ("\"one\"", Some("\"one\""), longer.clone(), Act::Serve, "and has 66048"),
        ("\"one\"", Some("\"one\""), longer.clone(), Act::Whole, "and has 66048"),
        ("W/\"one\"", Some("W/\"two\""), other.clone(), Act::Serve, "weak ETag W/\"two\""),
        ("odd", Some("other"), other.clone(), Act::Serve, "weak ETag other"),
        ("\"one\"", Some("\"one\""), bytes[..4096].to_vec(), Act::Serve, "and has 4096"),
    ];
    for (before, after, content, act, told) in cases {
        let web = Web::start(&bytes);
        web.change(|object| object.etag = Some(before.into()));
        let opened = open(&web.url(), &patient()).unwrap();
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

        // Even if the old version comes back: the data read meanwhile is unknown.
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

#[test]
fn a_read_that_never_succeeds_fails_in_time_and_says_what_was_tried() {
    let bytes = content(64 << 10);
    let check = |act: &Act, told: &str| {
        let web = Web::start(&bytes);
        let always = act.clone();
        web.script(then(move |_, _| always.clone()));
        let options = SourceOptions {
            timeout: Duration::from_secs(1),
            give_up_after: Duration::from_secs(5),
            ..SourceOptions::default()
        };
        let opened = open(&web.url(), &options).unwrap();
        let mut failures = 0;
        let error = loop {
            let error = opened.source.read_at(512, &mut [0; 1024]).unwrap_err().to_string();
            failures += 1;
            assert_eq!(count(&opened, |figures| &figures.failures), failures);
            let place =
                format!("http://localhost:{}/disk: reading bytes 512..1536 failed", web.port());
            assert!(error.starts_with(&place), "{act:?}: {error}");
            if error.contains(told) {
                break error;
            }
            // The last attempt may have begun just before the time limit.
            assert!(error.contains("timeout") && failures < 20, "{act:?}: {error}");
        };
        // The source is not lost forever.
        web.script(|_| Act::Serve);
        if !error.contains("once") {
            opened.source.read_at(512, &mut [0; 1024]).unwrap();
        }
    };
    let cases = [
        (Act::Stall, "timeout"),
        (Act::StallAfter(10), "the body was not received"),
        (Act::Status(503, ""), "503 Service Unavailable"),
        (Act::Drip(1, Duration::from_millis(20)), "timeout"),
        (Act::Status(503, "retry-after: 4000000000\r\n"), "503 Service Unavailable"),
    ];
    thread::scope(|scope| {
        for (act, told) in &cases {
            scope.spawn(|| check(act, told));
        }
    });
}

#[test]
fn what_will_not_be_better_is_not_tried_again_but_may_come_back() {
    let web = Web::start(&content(64 << 10));
    let opened = open(&web.url(), &patient()).unwrap();
    for (status, told) in [(403, "403 Forbidden"), (404, "404 Not Found"), (410, "410 Gone")] {
        let before = web.asked().len();
        web.script(move |_| Act::Status(status, ""));
        let error = opened.source.read_at(0, &mut [0; 512]).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!((SourceChanged::of(&error), web.asked().len()), (None, before + 1));
        web.script(|_| Act::Serve);
        opened.source.read_at(0, &mut [0; 512]).unwrap();
    }
    web.script(|_| Act::Encoded);
    let error = opened.source.read_at(0, &mut [0; 512]).unwrap_err().to_string();
    assert!(error.contains("encodes the body"), "{error}");
    web.script(|_| Act::Total(1 << 40));
    let error = opened.source.read_at(0, &mut [0; 512]).unwrap_err();
    assert!(SourceChanged::of(&error).unwrap().0.contains("and has 1099511627776"), "{error}");
}

#[test]
fn a_server_that_cannot_serve_a_clone_is_refused_at_the_start() {
    let told = |web: &Web, options: &SourceOptions| match open(&web.url(), options) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    let patient = patient();
    let hasty = SourceOptions { give_up_after: Duration::from_secs(1), ..patient.clone() };
    let web = Web::start(&content(4096));
    for (act, wanted) in [
        (Act::Whole, "the server does not support range requests"),
        (Act::Encoded, "encodes the body"),
        (Act::Status(404, ""), "404 Not Found"),
        (Act::Status(503, ""), "opening it failed"),
        (Act::Silent, "Content-Range is missing"),
        (Act::Redirect(302, "/disk".into()), "redirected more than 10 times"),
        (Act::Redirect(301, "ftp://localhost/".into()), "that is not a web URL"),
    ] {
        // Temporary failures are retried until the time limit, and the last attempt may have no
        // time left.
        let passes = matches!(act, Act::Status(503, _) | Act::Silent);
        web.script(move |_| act.clone());
        let told = || told(&web, if passes { &hasty } else { &patient });
        let told = (0..20).map(|_| told()).find(|told| !told.contains("timeout")).unwrap();
        assert!(told.starts_with("cannot open the source: http://localhost:"), "{told}");
        assert!(told.contains(wanted), "{told}");
    }
    let empty = Web::start(&[]);
    assert!(told(&empty, &patient).ends_with("it is empty"));
    let url = web.url();
    drop(web);
    let Err(error) = open(&url, &hasty) else { panic!("{url} was opened") };
    assert!(error.to_string().contains("opening it failed"), "{error}");
    let agent = SourceOptions { user_agent: "a\nb".into(), ..patient };
    assert!(matches!(open(&url, &agent), Err(SourceError::UserAgent)));
}

#[test]
fn a_source_is_opened_again_only_as_what_it_was() {
    let bytes = content(8192);
    let web = Web::start(&bytes);
    let folder = tempfile::tempdir().unwrap();
    let pin = pin::place(&folder.path().join("meta")).unwrap();
    let spec = web.url().parse().unwrap();
    let open = || open_pinned(&spec, &pin, &patient());
    pin::open(&spec, Some(&pin), &patient()).unwrap();
    assert!(!pin.exists(), "it is pinned by those who only look");
    open().unwrap();
    let first = fs::read(&pin).unwrap();
    open().unwrap();
    assert_eq!(fs::read(&pin).unwrap(), first);

    web.change(|object| object.etag = Some("\"two\"".into()));
    let Err(error) = open() else { panic!("another version was opened") };
    let told = error.to_string();
    assert!(
        told.contains("by the ETag \"one\", and is now identified by the ETag \"two\""),
        "{told}"
    );
    assert!(told.contains("start a new clone"), "{told}");
    assert_eq!(fs::read(&pin).unwrap(), first);
    let (_, new) = pin::open(&spec, None, &patient()).unwrap();
    new.unwrap().store(&pin).unwrap();
    open().unwrap();

    // An invalid file is not treated as a missing one.
    fs::write(&pin, "{}").unwrap();
    assert!(open().is_err());
}

#[test]
fn one_goes_where_a_server_sends_one_and_secrets_stay_behind() {
    let bytes = content(8192);
    let (front, back) = (Web::start(&bytes), Web::start(&bytes));
    let place = format!("http://127.0.0.1:{}/store?signature", back.port());
    let there = place.clone();
    front.script(move |ask| match ask.path.as_str() {
        "/disk" => Act::Redirect(302, "/here".into()),
        _ => Act::Redirect(307, there.clone()),
    });
    let folder = tempfile::tempdir().unwrap();
    let header_file = folder.path().join("headers");
    fs::write(&header_file, "X-Token: secret\n").unwrap();
    let options = SourceOptions { header_file: Some(header_file), ..patient() };
    let url = front.url().replace("//", "//me:pass@");
    let opened = open(&url, &options).unwrap();
    let mut into = vec![0; 512];
    for _ in 0..2 {
        opened.source.read_at(4096, &mut into).unwrap();
        assert_eq!(into, bytes[4096..4608]);
    }
    for ask in front.asked() {
        assert_eq!(ask.header("authorization"), Some("Basic bWU6cGFzcw=="));
        assert_eq!(ask.header("x-token"), Some("secret"));
    }
    assert!(back.asked().iter().all(|ask| ask.header("authorization").is_none()));
    assert!(back.asked().iter().all(|ask| ask.header("x-token").is_none()));
    // The redirect target is remembered, and requested again when it has expired.
    assert_eq!((front.asked().len(), back.asked().len()), (2, 3));
    back.script(|ask| if ask.number == 3 { Act::Status(403, "") } else { Act::Serve });
    opened.source.read_at(0, &mut into).unwrap();
    assert_eq!((front.asked().len(), back.asked().len()), (4, 5));

    // Every target must lead to the same version.
    back.change(|object| object.etag = Some("\"two\"".into()));
    let error = opened.source.read_at(0, &mut into).unwrap_err();
    assert!(SourceChanged::of(&error).is_some(), "{error}");
}

#[test]
fn a_long_read_becomes_several_requests_and_no_more_than_allowed() {
    let bytes = content(1 << 20);
    let web = Web::start(&bytes);
    // The first three requests are served only when all three have arrived.
    let together = Barrier::new(3);
    web.script(move |ask| {
        if (1..4).contains(&ask.number) {
            together.wait();
        }
        Act::Late(Duration::from_millis(20))
    });
    let options = SourceOptions { request_bytes: 64 << 10, requests_max: 3, ..patient() };
    let opened = open(&web.url(), &options).unwrap();
    let mut into = vec![0; (1 << 20) - 100];
    opened.source.read_at(100, &mut into).unwrap();
    assert_eq!(into, bytes[100..]);
    assert_eq!((web.asked().len(), web.under_way_max()), (17, 3));
    assert_eq!(count(&opened, |figures| &figures.in_flight_max), 3);
    assert_eq!(count(&opened, |figures| &figures.in_flight), 0);

    // If one piece fails the read fails, and the remaining pieces are not requested.
    web.script(|ask| match ask.range {
        Some(Range { start: 0, .. }) => Act::Status(404, ""),
        _ => Act::Late(Duration::from_secs(1)),
    });
    let error = opened.source.read_at(0, &mut into).unwrap_err();
    assert!(error.to_string().contains("bytes 0..65536"), "{error}");
    assert!(web.asked().len() < 17 + 8, "{}", web.asked().len());
}

#[test]
fn a_server_that_wants_to_be_left_alone_is_left_alone_by_all() {
    let web = Web::start(&content(1 << 20));
    let opened = open(&web.url(), &patient()).unwrap();
    web.script(|ask| match ask.number {
        1 => Act::Status(429, "retry-after: 1\r\n"),
        _ => Act::Serve,
    });
    thread::scope(|scope| {
        let read = |offset| opened.source.read_at(offset, &mut [0; 512]).unwrap();
        scope.spawn(move || read(0));
        // Requests after the response of the server wait too.
        while count(&opened, |figures| &figures.requests) < 2
            || count(&opened, |figures| &figures.in_flight) > 0
        {
            thread::yield_now();
        }
        scope.spawn(move || read(4096));
    });
    let asked = web.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked[2..].iter().all(|ask| ask.at - asked[1].at >= Duration::from_secs(1)));
}

#[test]
fn a_source_that_is_abandoned_lets_go_of_all_who_wait() {
    let web = Web::start(&content(1 << 20));
    let options = SourceOptions {
        timeout: Duration::from_secs(1000),
        give_up_after: Duration::from_secs(1000),
        ..SourceOptions::default()
    };
    let stalled = open(&web.url(), &options).unwrap();
    let resting = Web::start(&content(1 << 20));
    let waiting = open(&resting.url(), &options).unwrap();
    resting.script(|_| Act::Status(503, "retry-after: 3600\r\n"));
    web.script(|_| Act::Stall);
    thread::scope(|scope| {
        for (opened, web) in [(&stalled, &web), (&waiting, &resting)] {
            let reader = scope.spawn(|| opened.source.read_at(0, &mut [0; 512]));
            while web.asked().len() < 2 {
                thread::yield_now();
            }
            opened.remote.as_ref().unwrap().abandon();
            assert!(reader.join().unwrap().is_err());
            let error = opened.source.read_at(0, &mut [0; 512]).unwrap_err();
            assert_eq!(error.to_string(), "the source is no longer read");
        }
    });
}
