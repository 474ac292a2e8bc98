//! A clone has one source, from start to completion.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Trio;
use super::signals::Running;
use crate::support::{run, run_with_stdin};

/// A timeout far longer than any operation takes.
const PATIENCE: Duration = Duration::from_secs(100);

fn pin_of(clone: &Trio) -> PathBuf {
    clone.scratch.path("metadata.source.json")
}

/// Makes a source of the same size with different content everywhere.
fn other(clone: &Trio) -> PathBuf {
    let bytes = fs::read(&clone.source).unwrap().iter().map(|byte| !byte).collect::<Vec<_>>();
    clone.scratch.file("other", bytes)
}

fn contents(paths: &[&Path]) -> Vec<Vec<u8>> {
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn a_clone_goes_on_only_with_the_source_that_it_was_begun_with() {
    let mut clone = Trio::full(16384);
    clone.run(&["--limit=1M", "-q"]).exits(0).stays_silent();
    let pin: Value = serde_json::from_slice(&fs::read(pin_of(&clone)).unwrap()).unwrap();
    assert_eq!(pin["source"], json!(clone.source));
    assert_eq!(pin["identity"]["size_bytes"], json!(8 << 20));

    let (source, other) = (clone.source.clone(), other(&clone));
    let pin = pin_of(&clone);
    let [metadata, destination] = [&clone.metadata, &clone.destination].map(PathBuf::clone);
    let all = || contents(&[&metadata, &destination, &pin]);
    let before = all();
    clone.source.clone_from(&other);
    for more in [&[][..], &["-q"], &["--json"], &["--direct"]] {
        let ran = clone.run(more).exits(1).leaves_stdout_empty();
        let ran = ran.says(
            "other is not the original source of the clone: it was identified by \
                            inode",
        );
        ran.says("restore the original source, start a new clone, or use --repin");
        assert!(all() == before, "something was changed");
    }
    // The same file under another name is the same source.
    fs::rename(&source, clone.scratch.path("moved")).unwrap();
    clone.source = clone.scratch.path("link");
    symlink("moved", &clone.source).unwrap();
    clone.run(&["--limit=1M", "-q"]).exits(0).stays_silent();
    assert_eq!(clone.check(&[]), 512);
    // A copy in place of the file is another source.
    fs::copy(&clone.source, &source).unwrap();
    clone.source = source;
    clone.run(&[]).exits(1).leaves_stdout_empty().says("is not the original source of the clone");
    // With --repin the other source is accepted, and required from then on.
    clone.run(&["--repin", "--limit=1M", "-q"]).exits(0).stays_silent();
    clone.run(&["-q"]).exits(0).stays_silent();
    assert_eq!(clone.check(&[]), 2048);
    // A complete clone needs no source.
    clone.source = other;
    assert!(clone.run(&[]).exits(0).text().starts_with("already complete"));
}

#[test]
fn a_clone_that_the_daemon_began_with_what_a_server_has_is_not_finished_with_a_file() {
    let clone = Trio::new(8, 16384, &[(0, 7)], |_| true);
    let pin = json!({
        "version": 1,
        "source": "https://server/image",
        "identity": {"size_bytes": 8 << 20, "version": {"etag": {"etag": "\"a\""}}},
        "pinned_at": 1_796_072_810,
    });
    fs::write(pin_of(&clone), pin.to_string()).unwrap();
    let ran = clone.run(&[]).exits(1).leaves_stdout_empty();
    ran.says("it was identified by the ETag \"a\", and is now identified by inode");
    assert_eq!(clone.hydrated(), 7);
    let nothing_but_the_size =
        pin.to_string().replace(r#"{"etag":{"etag":"\"a\""}}"#, "\"unknown\"");
    fs::write(pin_of(&clone), nothing_but_the_size).unwrap();
    let ran = clone.run(&[]).exits(1).leaves_stdout_empty();
    ran.says("the original source of the clone is https://server/image, and this is ")
        .says("use --repin");
    assert_eq!(clone.hydrated(), 7);
}

/// Waits until at least one region is hydrated, but not all are.
fn wait_until_it_copies(clone: &Trio, running: &Running) {
    let until = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < until && running.is_running(), "it copies nothing");
        let checked = run("clone_check", ["--live", "--json", clone.metadata.to_str().unwrap()]);
        if checked.code == Some(0) && checked.json()["hydrated"].as_u64() > Some(0) {
            return;
        }
    }
}

#[test]
fn a_source_that_is_rewritten_while_it_is_copied_is_never_mixed_in() {
    type Change = fn(&File, &[u8]);
    let ways: [(&str, Change); 4] = [
        ("rewritten", |file, new| file.write_all_at(new, 0).unwrap()),
        ("in one place", |file, new| file.write_all_at(&new[..512], 5 << 20).unwrap()),
        ("shorter", |file, _| file.set_len(1 << 20).unwrap()),
        ("longer", |file, _| file.set_len(9 << 20).unwrap()),
    ];
    for (way, change) in ways {
        let clone = Trio::full(16384);
        let old = fs::read(&clone.source).unwrap();
        let new = fs::read(other(&clone)).unwrap();
        let source = File::options().write(true).open(&clone.source).unwrap();
        let running = Running::start(&clone, &["--rate=512k", "--batch=64k", "--json"]);
        wait_until_it_copies(&clone, &running);
        change(&source, &new);
        let ran = running.wait().exits(1).says("has changed while it was copied: ");
        let ran = ran.says("all of the original version").says("start a new clone; or use --repin");
        let told = ran.json();
        assert_eq!(told["ended"], json!("source_changed"), "{way}");
        let hydrated = clone.hydrated();
        assert_eq!(told["hydrated"], json!(hydrated), "{way}");
        assert!((1..2048).contains(&hydrated), "{way}: {hydrated}");
        // All hydrated regions have the data of the old version.
        fs::write(clone.scratch.path("old"), &old).unwrap();
        let judged = Trio { source: clone.scratch.path("old"), ..clone };
        judged.check(&[]);
        // The clone does not continue with the new version.
        let clone = Trio { source: judged.scratch.path("source"), ..judged };
        clone.run(&[]).exits(1).leaves_stdout_empty().says(
            "is not the original source of the \
                                                            clone",
        );
        assert_eq!(clone.hydrated(), hydrated, "{way}");
    }
}

#[test]
fn a_pin_that_cannot_be_read_is_told_at_once_and_is_not_taken_for_none() {
    let clone = Trio::full(80);
    let pin = pin_of(&clone);
    let remove = || fs::remove_file(&pin).or_else(|_| fs::remove_dir(&pin)).unwrap();
    assert!(Command::new("mkfifo").arg(&pin).status().unwrap().success());
    clone.run(&[]).exits(1).leaves_stdout_empty().says("metadata.source.json").says("it is a FIFO");
    remove();
    symlink("nowhere", &pin).unwrap();
    clone.run(&[]).exits(1).leaves_stdout_empty().says(
        "a symbolic link to nowhere, which does not \
                                                        exist",
    );
    remove();
    fs::create_dir(&pin).unwrap();
    clone.run(&[]).exits(1).leaves_stdout_empty().says("it is a directory");
    remove();
    fs::write(&pin, "{\"version\":1,\"version\":1}").unwrap();
    clone.run(&[]).exits(1).leaves_stdout_empty().says("duplicate field").says("use --repin");
    assert_eq!(clone.hydrated(), 0);
    // --repin ignores the content of the pin.
    clone.run(&["--repin", "-q"]).exits(0).stays_silent();
    assert_eq!(clone.check(&[]), 10);
}

#[test]
fn nothing_is_copied_if_the_source_cannot_be_written_down() {
    let clone = Trio::full(80);
    // A file name has at most 255 bytes, so the name of the pin is too long.
    let long = clone.scratch.path(&"m".repeat(250));
    fs::rename(&clone.metadata, &long).unwrap();
    let clone = Trio { metadata: long, ..clone };
    let ran = clone.run(&[]).exits(1).leaves_stdout_empty();
    ran.says(".source.json, the record of the clone's source: ");
    assert_eq!(clone.hydrated(), 0);
}

#[test]
fn fresh_metadata_has_no_source_yet_and_that_of_a_dump_may_have() {
    let mut clone = Trio::full(80);
    clone.run(&["--limit=8k", "-q"]).exits(0).stays_silent();
    let dump = run("clone_dump", [&clone.metadata]).exits(0).text();
    let output = ["-o".to_owned(), clone.metadata.display().to_string()];
    let restored = run_with_stdin("clone_restore", ["-i", "-", "-o", &output[1]], dump.clone());
    restored.exits(0).says("metadata.source.json stays: it records the source of the clone");
    let quiet = run_with_stdin("clone_restore", ["-q", "-i", "-", "-o", &output[1]], dump);
    quiet.exits(0).stays_silent();
    clone.source = other(&clone);
    clone.run(&[]).exits(1).leaves_stdout_empty().says("is not the original source of the clone");

    let sizes = ["--region-size", "8", "--target-size", "80", "--hydrated", "none"];
    let sizes = sizes.map(str::to_owned);
    run("clone_restore", sizes.iter().chain(&output)).exits(0).stays_silent();
    assert!(!pin_of(&clone).exists());
    clone.run(&["-q"]).exits(0).stays_silent();
    assert_eq!(clone.check(&[]), 10);
}
