use std::time::Duration;

use ureq::http::{HeaderMap, HeaderName, StatusCode};

use super::{Found, check, found};
use crate::source::identity::{Identity, Version};
use crate::source::remote::{Busy, RemoteError};

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    headers
}

fn pinned(version: Version) -> Identity {
    Identity { size_bytes: 100, version }
}

fn etag() -> Identity {
    pinned(Version::Etag { etag: "\"a\"".into() })
}

/// Returns the kind of the outcome and its message.
fn outcome(result: Result<(), RemoteError>) -> (&'static str, String) {
    match result {
        Ok(()) => ("right", String::new()),
        Err(RemoteError::Passing(error)) => ("passing", error.to_string()),
        Err(RemoteError::Final(error)) => ("final", error.to_string()),
        Err(RemoteError::Changed(changed)) => ("changed", changed.0),
    }
}

#[test]
fn a_part_is_right_only_if_everything_that_is_said_of_it_is() {
    let right = [("etag", "\"a\""), ("content-range", "bytes 10-19/100"), ("content-length", "10")];
    for (name, value, wanted) in [
        ("etag", "\"a\"", "right"),
        ("etag", "\"b\"", "changed"),
        ("etag", "W/\"a\"", "passing"),
        ("etag", "W/\"b\"", "changed"),
        ("etag", "", "passing"),
        ("content-range", "bytes 10-19/100", "right"),
        ("content-range", "bytes 10-19/*", "right"),
        ("content-range", "bytes 10-19/101", "changed"),
        ("content-range", "bytes 10-19/20", "changed"),
        ("content-range", "bytes 10-19/19", "passing"),
        ("content-range", "bytes 9-18/100", "passing"),
        ("content-range", "bytes 10-20/100", "passing"),
        ("content-range", "bytes 19-10/100", "passing"),
        ("content-range", "bytes +10-19/100", "passing"),
        ("content-range", "bytes 10-18446744073709551615/100", "passing"),
        ("content-range", "bytes 10-99999999999999999999/100", "passing"),
        ("content-range", "sectors 10-19/100", "passing"),
        ("content-range", "", "passing"),
        ("content-length", "10", "right"),
        ("content-length", "9", "passing"),
        ("content-length", "11", "passing"),
        ("content-encoding", "identity", "right"),
        ("content-encoding", "gzip", "final"),
        ("transfer-encoding", "chunked", "right"),
        ("transfer-encoding", "gzip, chunked", "final"),
    ] {
        let mut headers = headers(&right);
        headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        if name == "transfer-encoding" {
            headers.remove("content-length");
        }
        let checked = check(StatusCode::PARTIAL_CONTENT, &headers, &(10..20), &etag());
        assert_eq!(outcome(checked).0, wanted, "{name}: {value}");
    }
}

#[test]
fn weaker_signs_of_a_version_are_compared_as_they_are() {
    let weak = |last_modified: Option<&str>| {
        let last_modified = last_modified.map(str::to_owned);
        pinned(Version::WeakEtag { etag: "W/\"a\"".into(), last_modified })
    };
    let time = || pinned(Version::LastModified { last_modified: "then".into() });
    let unknown = || pinned(Version::Unknown);
    for (pinned, etag, last_modified, wanted) in [
        (weak(None), "W/\"a\"", "", "right"),
        (weak(None), "W/\"b\"", "", "changed"),
        (weak(None), "\"a\"", "", "passing"),
        (weak(None), "", "then", "passing"),
        (weak(Some("then")), "W/\"a\"", "then", "right"),
        (weak(Some("then")), "W/\"a\"", "now", "changed"),
        (weak(Some("then")), "W/\"a\"", "", "passing"),
        (time(), "", "then", "right"),
        (time(), "\"new\"", "then", "right"),
        (time(), "", "now", "changed"),
        (time(), "\"new\"", "", "passing"),
        (unknown(), "\"new\"", "now", "right"),
        (etag(), "", "then", "passing"),
    ] {
        let mut headers = headers(&[("content-range", "bytes 10-19/100")]);
        for (name, value) in [("etag", etag), ("last-modified", last_modified)] {
            if !value.is_empty() {
                headers.insert(name, value.parse().unwrap());
            }
        }
        let checked = check(StatusCode::PARTIAL_CONTENT, &headers, &(10..20), &pinned);
        assert_eq!(outcome(checked).0, wanted, "{pinned:?} and {headers:?}");
    }
}

#[test]
fn statuses_mean_what_they_say() {
    let other = headers(&[("etag", "\"b\""), ("content-length", "100")]);
    let same = headers(&[("etag", "\"a\""), ("content-length", "100")]);
    let longer = headers(&[("etag", "\"a\""), ("content-length", "101")]);
    let end = |total: &str| headers(&[("content-range", &format!("bytes */{total}"))]);
    for (status, headers, wanted, told) in [
        (200, &same, "passing", "the whole object"),
        (200, &longer, "changed", "it had 100 bytes, and has 101"),
        (200, &other, "changed", "and is now identified by the ETag \"b\""),
        (304, &same, "final", "304"),
        (400, &same, "final", "400 Bad Request"),
        (401, &same, "final", "401 Unauthorized"),
        (403, &same, "final", "403 Forbidden"),
        (404, &same, "final", "404 Not Found"),
        (410, &same, "final", "410 Gone"),
        (408, &same, "passing", "408"),
        (412, &same, "changed", "has not the ETag \"a\" any more"),
        (416, &end("100"), "final", "refuses this range"),
        (416, &end("15"), "changed", "and has 15"),
        (416, &end("*"), "changed", "ends before byte 20"),
        (425, &same, "passing", "425"),
        (429, &same, "passing", "429"),
        (500, &same, "passing", "500"),
        (501, &same, "final", "501"),
        (503, &same, "passing", "503"),
        (599, &same, "passing", "599"),
        (799, &same, "final", "799"),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let (outcome, said) = outcome(check(status, headers, &(10..20), &etag()));
        assert_eq!(outcome, wanted, "{status}: {said}");
        assert!(said.contains(told), "{status}: {said}");
    }
}

#[test]
fn a_server_that_is_busy_is_asked_when_it_wants_to_be() {
    for (value, wait) in [
        ("0", Some(0)),
        ("7", Some(7)),
        ("99999999999999999999", Some(u64::MAX)),
        ("Mon, 23 Nov 2026 02:00:00 GMT", Some(2)),
        ("-1", Some(2)),
    ] {
        let headers = headers(&[("retry-after", value)]);
        let answer = check(StatusCode::SERVICE_UNAVAILABLE, &headers, &(10..20), &etag());
        let Err(RemoteError::Passing(error)) = answer else { panic!("{answer:?}") };
        assert_eq!(Busy::wait_of(&error), wait.map(Duration::from_secs), "{value}");
    }
}

#[test]
fn an_object_is_known_by_the_best_that_the_server_tells() {
    let part = ("content-range", "bytes 0-0/100");
    let time = ("last-modified", "then");
    let version = |lines: &[(&str, &str)]| {
        match found(StatusCode::PARTIAL_CONTENT, &headers(lines)) {
            Ok(Found::Object(identity)) => identity,
            other => panic!("{other:?}"),
        }
        .version
    };
    let last_modified = || Some("then".to_owned());
    assert_eq!(version(&[part, time, ("etag", "\"a\"")]), etag().version);
    for (etag, last_modified) in [("W/\"a\"", last_modified()), ("odd", None), ("\"", None)] {
        let lines = [part, time, ("etag", etag)];
        let lines = if last_modified.is_some() { &lines[..] } else { &[part, lines[2]] };
        assert_eq!(version(lines), Version::WeakEtag { etag: etag.into(), last_modified });
    }
    let then = Version::LastModified { last_modified: "then".into() };
    assert_eq!(version(&[part, time]), then);
    assert_eq!(version(&[part, time, ("etag", "")]), then);
    assert_eq!(version(&[part]), Version::Unknown);
}

#[test]
fn what_cannot_be_read_in_parts_is_refused_at_the_start() {
    let told = |status: u16, lines: &[(&str, &str)]| {
        let found = found(StatusCode::from_u16(status).unwrap(), &headers(lines));
        outcome(found.map(|found| panic!("{found:?}")))
    };
    assert!(told(200, &[]).1.contains("does not support range requests"));
    assert_eq!(told(200, &[]).0, "final");
    let part = ("content-range", "bytes 0-0/*");
    assert!(told(206, &[part]).1.contains("does not report the length"));
    assert_eq!(told(206, &[("content-range", "bytes 0-1/2")]).0, "passing");
    assert_eq!(told(206, &[]).0, "passing");
    let gzip = ("content-encoding", "gzip");
    assert!(told(206, &[("content-range", "bytes 0-0/5"), gzip]).1.contains("encodes"));
    assert_eq!(told(404, &[]).0, "final");
    assert_eq!(told(503, &[]).0, "passing");
    assert_eq!(told(416, &[("content-range", "bytes */7")]).0, "final");
    for lines in [&[("content-range", "bytes */0")][..], &[]] {
        let found = found(StatusCode::RANGE_NOT_SATISFIABLE, &headers(lines));
        assert!(matches!(found, Ok(Found::Empty)), "{found:?}");
    }
}
