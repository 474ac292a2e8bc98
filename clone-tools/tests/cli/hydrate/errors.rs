//! Refusals of `clone_hydrate`, and failing devices.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use super::Trio;
use super::signals::Running;
use crate::support::run_after;

fn resize(path: &Path, bytes: u64) {
    File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

/// Runs it on a clone that it must refuse without changing anything.
#[track_caller]
fn refuses(clone: &Trio, words: &[&str]) {
    let content = |path: &Path| path.is_file().then(|| fs::read(path).unwrap());
    let all = || [&clone.metadata, &clone.source, &clone.destination].map(|path| content(path));
    let before = all();
    let mut ran = clone.run(&[]).exits(1).leaves_stdout_empty();
    for words in words {
        ran = ran.says(words);
    }
    assert!(all() == before, "changed by {ran}");
}

#[test]
fn a_device_that_is_too_small_is_refused() {
    let clone = Trio::full(80);
    resize(&clone.destination, 80 * 512 - 1);
    refuses(&clone, &["the destination ", "40959 bytes", "truncate -s 40960"]);
    let clone = Trio::full(80);
    resize(&clone.source, 79 * 512);
    refuses(&clone, &["the source ", "it is another one, or has been truncated"]);
    // Larger devices are accepted.
    let clone = Trio::full(80);
    resize(&clone.source, 81 * 512);
    resize(&clone.destination, 81 * 512);
    clone.run(&[]).exits(0);
}

#[test]
fn a_device_that_is_none_is_refused() {
    for (is_source, path, words) in [
        (true, "/nowhere", "/nowhere does not exist"),
        (true, "/proc", "/proc is a directory"),
        (true, "/dev/null", "neither"),
        (false, "/proc", "/proc is a directory"),
        (false, "/dev/null", "neither"),
    ] {
        let mut clone = Trio::full(80);
        let device = if is_source { &mut clone.source } else { &mut clone.destination };
        *device = path.into();
        refuses(&clone, &[words]);
    }
}

#[test]
fn a_missing_destination_is_not_made_but_it_is_told_how_to() {
    let clone = Trio::full(80);
    fs::remove_file(&clone.destination).unwrap();
    refuses(&clone, &["destination does not exist; truncate -s 40960", "for this new clone"]);
    let clone = Trio::new(8, 80, &[(1, 4)], |_| true);
    fs::remove_file(&clone.destination).unwrap();
    refuses(&clone, &["a new one cannot replace it: 3 regions", "on the original destination"]);
    assert!(!clone.destination.exists());
}

#[test]
fn one_file_in_two_places_is_refused_under_whatever_names() {
    for link in ["same", "hard", "symbolic"] {
        for pair in 0..3 {
            let mut clone = Trio::full(80);
            let other = clone.scratch.path("other");
            let Trio { metadata, source, destination, .. } = &mut clone;
            let (kept, replaced) = match pair {
                0 => (metadata, source),
                1 => (metadata, destination),
                _ => (source, destination),
            };
            match link {
                "hard" => fs::hard_link(&kept, &other).unwrap(),
                "symbolic" => symlink(&kept, &other).unwrap(),
                _ => {}
            }
            *replaced = if link == "same" { kept.clone() } else { other };
            refuses(&clone, &["are the same", "three devices"]);
        }
    }
}

#[test]
fn damaged_metadata_is_refused_with_what_to_do() {
    let clone = Trio::full(80);
    let mut bytes = fs::read(&clone.metadata).unwrap();
    // Damages the blocks after the superblock.
    bytes[4096 + 100] ^= 1;
    bytes[2 * 4096 + 100] ^= 1;
    bytes[3 * 4096 + 100] ^= 1;
    fs::write(&clone.metadata, bytes).unwrap();
    refuses(&clone, &["is damaged", "nothing was written", "clone_check ", "clone_repair -i "]);
    let clone = Trio::full(80);
    fs::write(&clone.metadata, [0; 40960]).unwrap();
    refuses(&clone, &["not formatted", "clone_repair -i ", "clone_restore --hydrated none"]);
}

#[test]
fn a_clone_that_somebody_works_on_is_refused() {
    let clone = Trio::full(16384);
    let running = Running::start(&clone, &["--rate=8"]);
    clone.run(&[]).exits(1).leaves_stdout_empty().says("in use by another program");
    // Metadata of another clone does not free the destination.
    let mut other = Trio::full(16384);
    other.destination.clone_from(&clone.destination);
    refuses(&other, &["destination is in use by another program"]);
    running.signal(Signal::KILL);
    running.wait();
    clone.run(&["-q"]).exits(0);
}

#[test]
fn a_full_destination_ends_it_and_what_was_copied_is_kept() {
    let clone = Trio::full(4096);
    let args = clone.args(&["--batch=64k", "--json"]);
    let ran = run_after("ulimit -f 1024", "clone_hydrate", args).exits(1);
    let ran = ran.says("could not be copied: destination: File too large");
    let ran = ran.says("stopped after 16 failures in a row").says("the same command continues");
    let told = ran.json();
    assert_eq!((&told["ok"], &told["ended"]), (&json!(false), &json!("failures")));
    let (begin, end) = (&told["failed"][0]["bytes"][0], &told["failed"][0]["bytes"][1]);
    assert!(begin.as_u64().unwrap() >= 512 << 10 && begin.as_u64() < end.as_u64(), "{told}");
    let copied = clone.check(&[]);
    assert_eq!(told["hydrated"], json!(copied));
    assert_eq!(told["copied_bytes"], json!(copied * 4096));
    assert!((1..=128).contains(&copied), "{copied}");
    clone.run(&["-q"]).exits(0).stays_silent();
    assert_eq!(clone.check(&[]), 512);
}
