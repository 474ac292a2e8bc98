//! Options of the negotiation and their replies.

use super::raw::{Raw, be32, be64};
use super::served::{Served, noise};
use byteorder::{BigEndian, ByteOrder};
use clone_daemon::nbd_protocol::{export, info, option, option_reply as answer};

fn served() -> Served {
    Served::new(&noise(4, 64 << 10))
}

/// Returns the data of a query for metadata contexts.
fn query(name: &str, queries: &[&str]) -> Vec<u8> {
    let string = |text: &str| [&be32(text.len() as u32)[..], text.as_bytes()].concat();
    let all: Vec<Vec<u8>> = queries.iter().map(|query| string(query)).collect();
    [string(name), be32(queries.len() as u32).to_vec(), all.concat()].concat()
}

fn kinds(replies: &[(u32, Vec<u8>)]) -> Vec<u32> {
    replies.iter().map(|reply| reply.0).collect()
}

#[test]
fn an_export_is_listed_described_and_chosen_by_its_name_or_by_none() {
    let served = served();
    let mut raw = Raw::greeted(served.connect());
    let told = raw.option(option::LIST, &[]);
    assert_eq!(kinds(&told), [answer::SERVER, answer::ACK]);
    assert!(told[0].1.starts_with(b"\0\0\0\x04disk"));
    assert_eq!(kinds(&raw.option(option::LIST, b"x")), [answer::ERR_INVALID]);
    let told = raw.option(option::INFO, b"\0\0\0\0\0\x03\0\x03\0\x01\0\x02");
    assert_eq!(kinds(&told), [vec![answer::INFO; 4], vec![answer::ACK]].concat());
    let export = [&[0, info::EXPORT as u8][..], &be64(64 << 10)].concat();
    assert!(told[0].1.starts_with(&export));
    assert_eq!(told[1].1, b"\0\x01disk");
    assert_eq!(told[3].1, [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
    let none = raw.option(option::GO, b"\0\0\0\x03dis\0\0");
    assert_eq!(kinds(&none), [answer::ERR_UNKNOWN]);
    for wrong in [&b"\0\0\0\x05disk"[..], b"", b"\0\0\0\x04disk\0\x01", b"\0\0\0\x01\0\0\0"] {
        assert_eq!(kinds(&raw.option(option::GO, wrong)), [answer::ERR_INVALID]);
    }
    raw.go();
    raw.is_served();
}

#[test]
fn the_old_way_to_choose_an_export_works_and_hangs_up_on_what_is_unknown() {
    let served = served();
    for (flags, zeroes) in [(1, 124), (3, 0)] {
        let mut raw = Raw::new(served.connect());
        raw.send(&[0, 0, 0, flags]);
        raw.send(&Raw::option_bytes(option::EXPORT_NAME, b"disk"));
        let told = raw.receive(10 + zeroes);
        assert_eq!(told[..8], be64(64 << 10));
        assert_eq!(BigEndian::read_u16(&told[8..]) & export::SEND_DF, 0);
        assert!(told[10..].iter().all(|&byte| byte == 0));
        raw.is_served();
    }
    for (before, name) in [(None, "none"), (Some(option::EXTENDED_HEADERS), "disk")] {
        let mut raw = Raw::greeted(served.connect());
        if let Some(option) = before {
            raw.option(option, &[]);
        }
        raw.send(&Raw::option_bytes(option::EXPORT_NAME, name.as_bytes()));
        assert!(raw.hung_up().is_empty());
    }
}

#[test]
fn what_is_unknown_too_long_or_out_of_place_is_answered_and_the_client_may_go_on() {
    let served = served();
    let mut raw = Raw::greeted(served.connect());
    assert_eq!(kinds(&raw.option(4, b"disk")), [answer::ERR_UNSUP]);
    assert_eq!(kinds(&raw.option(u32::MAX, b"")), [answer::ERR_UNSUP]);
    assert_eq!(kinds(&raw.option(99, &vec![0; 1 << 20])), [answer::ERR_TOO_BIG]);
    assert_eq!(kinds(&raw.option(option::STARTTLS, b"")), [answer::ERR_POLICY]);
    assert_eq!(kinds(&raw.option(option::STRUCTURED_REPLY, b"x")), [answer::ERR_INVALID]);
    let set = option::SET_META_CONTEXT;
    let contexts = query("disk", &["base:allocation"]);
    assert_eq!(kinds(&raw.option(set, &contexts)), [answer::ERR_INVALID]);
    assert_eq!(kinds(&raw.option(option::EXTENDED_HEADERS, &[])), [answer::ACK]);
    let told = raw.option(option::STRUCTURED_REPLY, &[]);
    assert_eq!(kinds(&told), [answer::ERR_EXT_HEADER_REQD]);
    assert_eq!(kinds(&raw.option(set, &contexts)), [answer::META_CONTEXT, answer::ACK]);
    assert_eq!(kinds(&raw.option(option::ABORT, &[])), [answer::ACK]);
    assert!(raw.hung_up().is_empty());
}

#[test]
fn metadata_contexts_are_found_by_their_names_and_listed_by_their_namespaces() {
    let served = served();
    let mut raw = Raw::greeted(served.connect());
    raw.option(option::STRUCTURED_REPLY, &[]);
    let mut names = |option, queries: &[&str]| -> Vec<String> {
        let told = raw.option(option, &query("disk", queries));
        assert_eq!(told.last().unwrap().0, answer::ACK);
        let name = |reply: &(u32, Vec<u8>)| String::from_utf8(reply.1[4..].to_vec()).unwrap();
        told[..told.len() - 1].iter().map(name).collect()
    };
    let (list, set) = (option::LIST_META_CONTEXT, option::SET_META_CONTEXT);
    let both = ["base:allocation", "clone:hydrated"];
    assert_eq!(names(list, &[]), both);
    assert_eq!(names(list, &["clone:"]), both[1..]);
    assert_eq!(names(list, &["base:", "clone:hydrated"]), both);
    assert_eq!(names(list, &["qemu:", "base:alloc", "", "base"]), [""; 0]);
    assert_eq!(names(set, &[]), [""; 0]);
    assert_eq!(names(set, &["base:"]), [""; 0]);
    assert_eq!(names(set, &["qemu:dirty-bitmap:x", "clone:hydrated"]), both[1..]);
    assert_eq!(names(set, &["clone:hydrated", "base:allocation", "base:allocation"]), both);
    let unknown = raw.option(set, &query("none", &["base:allocation"]));
    assert_eq!(kinds(&unknown), [answer::ERR_UNKNOWN]);
    // It voided the earlier selection.
    raw.go();
    raw.request((0, 7), 1, 0, 4096);
    assert_eq!(raw.reply().error(), Some(22));
    raw.is_served();
}

#[test]
fn a_client_that_breaks_the_rules_of_negotiation_is_cut_off() {
    let served = served();
    let request = Raw::request_bytes(false, (0, 0), 1, 0, 512);
    let long = [&b"IHAVEOPT\0\0\0\x07"[..], &be32(u32::MAX)].concat();
    for (greeting, rest) in [
        ([0, 0, 0, 7], &b""[..]),
        ([0, 0, 0, 3], b"IHAVEOPX\0\0\0\x03\0\0\0\0"),
        ([0, 0, 0, 3], &request),
        ([0, 0, 0, 3], &long),
    ] {
        let mut raw = Raw::new(served.connect());
        raw.send(&greeting);
        raw.send(rest);
        assert!(raw.hung_up().is_empty(), "{rest:?}");
    }
    Raw::chosen(served.connect(), &[]).is_served();
}
