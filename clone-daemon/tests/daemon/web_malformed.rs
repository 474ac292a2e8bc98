//! Web servers whose headers contradict themselves about a body.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use clone_core::block_io::SourceChanged;
use clone_core::dm_target::Message;
use clone_core::engine::{Command, EventKind};
use clone_core::geometry::Sectors;
use clone_daemon::source::{self, Opened, SourceOptions};

use crate::support::Rig;
use crate::support::web::{Act, Object, Web};
use crate::web_source::content;

/// Longer than any wait here.
const LONG: Duration = Duration::from_secs(60);

const SIZE: usize = 1 << 20;

fn open(web: &Web) -> Opened {
    let options = SourceOptions { give_up_after: LONG, ..SourceOptions::default() };
    source::open(&web.url().parse().unwrap(), None, &options).unwrap()
}

/// Returns bytes that differ from the object at `range`.
fn garbage(range: &Range<usize>) -> Vec<u8> {
    content(SIZE)[range.clone()].iter().map(|byte| !byte).collect()
}

fn in_one_chunk(body: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
}

/// Returns a response with a part of the object and these header lines. In them `ASKED` stands for
/// the requested range, `OTHER` for another range of the same length, `LENGTH` for the length.
fn answer(lines: &[&str], range: &Range<usize>, body: &[u8]) -> Act {
    let (first, last, length) = (range.start, range.end - 1, range.len());
    let text = |line: &&str| {
        let line = line.replace("ASKED", &format!("bytes {first}-{last}/{SIZE}"));
        let line = line.replace("OTHER", &format!("bytes {}-{}/{SIZE}", first ^ 4096, last ^ 4096));
        line.replace("LENGTH", &length.to_string()) + "\r\n"
    };
    let head: String = lines.iter().map(text).collect();
    let head = format!("HTTP/1.1 206 Partial Content\r\n{head}\r\n");
    let is_chunked = lines.iter().any(|line| line.starts_with("transfer-encoding"));
    let body = if is_chunked { in_one_chunk(body) } else { body.to_vec() };
    Act::Raw([head.into_bytes(), body].concat())
}

const RANGE: &str = "content-range: ASKED";
const ETAG: &str = "etag: \"one\"";
const LENGTH: &str = "content-length: LENGTH";

/// Headers that do not clearly describe the body.
const MALFORMED: [&[&str]; 21] = [
    &[RANGE, "content-range: OTHER", ETAG, LENGTH],
    &["content-range: OTHER", RANGE, ETAG, LENGTH],
    // A repetition is not clearer: a cache has joined two responses.
    &[RANGE, RANGE, ETAG, LENGTH],
    &["content-range: ASKED, OTHER", ETAG, LENGTH],
    &["content-range: ASKED, ASKED", ETAG, LENGTH],
    &["content-range: bytes */1048576", ETAG, LENGTH],
    &["content-range: bytes *-*/1048576", ETAG, LENGTH],
    &["content-range: bytes 0-4095/1048576/1048576", ETAG, LENGTH],
    &[ETAG, LENGTH],
    &[RANGE, ETAG, "etag: \"two\"", LENGTH],
    &[RANGE, "etag: \"two\"", ETAG, LENGTH],
    &[RANGE, ETAG, "etag: W/\"one\"", LENGTH],
    &[RANGE, "etag: \"one\", \"two\"", LENGTH],
    &[RANGE, "etag: \"one\", \"one\"", LENGTH],
    &[RANGE, ETAG, LENGTH, "content-type: multipart/byteranges; boundary=b"],
    &[RANGE, ETAG, LENGTH, "content-type: text/plain", "content-type: Multipart/ByteRanges"],
    &[RANGE, ETAG, LENGTH, "content-length: 4095"],
    &[RANGE, ETAG, "content-length: LENGTH, 4095"],
    &[RANGE, ETAG, LENGTH, "transfer-encoding: chunked"],
    &[RANGE, ETAG, "transfer-encoding: chunked", "transfer-encoding: chunked"],
    &[RANGE, ETAG, LENGTH, "last-modified: Mon, 1 A 2026, Tue, 2 A 2026"],
];

#[test]
fn an_answer_that_contradicts_itself_is_not_used_and_asked_for_again() {
    let web = Web::start(&content(SIZE));
    let opened = open(&web);
    let range = 8192..12_288;
    for lines in MALFORMED {
        let (before, bad) = (web.asked().len(), answer(lines, &range, &garbage(&range)));
        web.script(move |ask| if ask.number == before { bad.clone() } else { Act::Serve });
        let mut into = vec![0xaa; range.len()];
        opened.source.read_at(range.start as u64, &mut into).unwrap();
        assert!(into == content(SIZE)[range.clone()], "the body of {lines:?} is used");
        assert_eq!(web.asked().len(), before + 2, "{lines:?}");
    }
    // An encoded response would be encoded again on a retry.
    for encodings in [["identity", "gzip"], ["gzip", "identity"], ["identity, gzip", "identity"]] {
        let encodings = encodings.map(|encoding| format!("content-encoding: {encoding}"));
        let lines = [RANGE, ETAG, LENGTH, &encodings[0], &encodings[1]];
        let bad = answer(&lines, &range, &garbage(&range));
        web.script(move |_| bad.clone());
        let mut into = vec![0xaa; range.len()];
        let error = opened.source.read_at(range.start as u64, &mut into).unwrap_err();
        assert!(error.to_string().contains("encodes the body"), "{error}");
        assert_eq!(into, vec![0xaa; range.len()]);
    }
}

#[test]
fn what_is_said_twice_in_the_same_way_does_no_harm() {
    let web = Web::start(&content(SIZE));
    let opened = open(&web);
    let range = 8192..12_288;
    for lines in [
        &[RANGE, ETAG, LENGTH][..],
        &[RANGE, ETAG, ETAG, LENGTH],
        &[RANGE, ETAG, LENGTH, LENGTH],
        &[RANGE, ETAG, LENGTH, "last-modified: a", "last-modified:  a "],
        &[RANGE, ETAG, LENGTH, "content-encoding: identity", "content-encoding: identity"],
        &[RANGE, ETAG, "transfer-encoding: chunked"],
        &[RANGE, ETAG, LENGTH, "content-type: multipart/mixed"],
    ] {
        let (before, good) =
            (web.asked().len(), answer(lines, &range, &content(SIZE)[range.clone()]));
        web.script(move |_| good.clone());
        let mut into = vec![0; range.len()];
        opened.source.read_at(range.start as u64, &mut into).unwrap();
        assert!(into == content(SIZE)[range.clone()], "{lines:?}");
        assert_eq!(web.asked().len(), before + 1, "{lines:?}");
    }
}

#[test]
fn weaker_signs_of_a_version_are_not_settled_by_the_first_either() {
    type Say = fn(&mut Object);
    let weak: Say = |object| object.etag = Some("W/\"one\"".into());
    let odd: Say = |object| object.etag = Some("one".into());
    let time: Say = |object| object.etag = None;
    for (say, right, wrong) in [
        (weak, "etag: W/\"one\"", "etag: W/\"two\""),
        (odd, "etag: one", "etag: two"),
        (time, "last-modified: Mon, 23 Nov 2026 02:00:00 GMT", "last-modified: now"),
    ] {
        let web = Web::start(&content(SIZE));
        web.change(say);
        let opened = open(&web);
        let range = 8192..12_288;
        for lines in [[RANGE, right, wrong, LENGTH], [RANGE, wrong, right, LENGTH]] {
            let (before, bad) = (web.asked().len(), answer(&lines, &range, &garbage(&range)));
            web.script(move |ask| if ask.number == before { bad.clone() } else { Act::Serve });
            let mut into = vec![0; range.len()];
            opened.source.read_at(range.start as u64, &mut into).unwrap();
            assert!(into == content(SIZE)[range.clone()], "the body of {lines:?} is used");
            assert_eq!(web.asked().len(), before + 2, "{lines:?}");
        }
    }
}

#[test]
fn a_source_is_not_opened_as_what_an_answer_says_that_contradicts_itself() {
    for lines in MALFORMED {
        let web = Web::start(&content(SIZE));
        let bad = answer(lines, &(0..1), &[0xaa]);
        web.script(move |ask| if ask.number == 0 { bad.clone() } else { Act::Serve });
        let opened = open(&web);
        assert_eq!(opened.source.size_bytes(), SIZE as u64, "{lines:?}");
        let mut into = vec![0; 4096];
        opened.source.read_at(0, &mut into).unwrap();
        assert!(into == content(SIZE)[..4096], "{lines:?}");
    }
    // A total size other than that of the object means another version.
    let web = Web::start(&content(SIZE));
    let opened = open(&web);
    let bad =
        answer(&["content-range: bytes 0-4095/1048577", ETAG, LENGTH], &(0..4096), &[0; 4096]);
    web.script(move |_| bad.clone());
    let error = opened.source.read_at(0, &mut [0; 4096]).unwrap_err();
    assert!(SourceChanged::of(&error).is_some(), "{error}");
}

#[test]
fn a_clone_takes_nothing_from_answers_that_contradict_themselves() {
    let bytes = content(SIZE);
    let rig = Rig::new(Sectors(8), &bytes);
    let web = Web::start(&bytes);
    let opened = open(&web);
    let tries = Mutex::new(HashMap::new());
    web.script(move |ask| {
        let range = ask.range.clone().unwrap();
        let mut tries = tries.lock().unwrap();
        let number = tries.len();
        let nth = tries.entry(range.start).or_insert(0);
        *nth += 1;
        match nth {
            // The first response for each range is malformed, in varying ways.
            1 => answer(MALFORMED[number % MALFORMED.len()], &range, &garbage(&range)),
            _ => Act::Serve,
        }
    });
    let clone = rig.start_from(opened.source.clone(), false);
    clone.command(Command::Kernel(Message::HydrationBatchSize(4)));
    clone.command(Command::Kernel(Message::HydrationThreshold(32)));
    clone.command(Command::Kernel(Message::EnableHydration));
    assert!(clone.wait_for(0, LONG).iter().any(|event| event.kind == EventKind::Finished));
    clone.stop();
    let wrong = rig.destination();
    let wrong = wrong.chunks(4096).zip(bytes.chunks(4096)).filter(|(has, right)| has != right);
    assert_eq!(wrong.count(), 0, "regions of {} hold garbage", SIZE / 4096);
}
