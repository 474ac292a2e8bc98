//! `clonectl`, as users and scripts run it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::hosting::Hosting;
use clone_core::dm_target::{StatusLine, TableLine};

const VERBS: [&str; 12] = [
    "ls", "status", "table", "message", "suspend", "resume", "wait", "events", "create", "remove",
    "reload", "watch",
];

/// `UPDATE_GOLDEN=1` accepts the printed text as the expected one.
#[test]
fn help_is_word_for_word_what_was_agreed() {
    let clonectl = |args: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_clonectl")).args(args).output().unwrap();
        assert_eq!(ran.status.code(), Some(0));
        String::from_utf8(ran.stdout).unwrap()
    };
    let helps = VERBS.map(|verb| clonectl(&[verb, "--help"]));
    let help = [&[clonectl(&["--help"])], &helps[..]].concat().join("\n----\n\n");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/daemon/help/clonectl.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &help).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(help, golden, "clonectl --help; UPDATE_GOLDEN=1 accepts it");
    assert!(helps.iter().all(|help| help.contains("Exit codes:")));
}

#[test]
fn status_and_table_are_lines_that_dmsetup_would_print() {
    let hosting = Hosting::new(&["disk", "tape"]);
    let disk = hosting.clonectl(&["status", "disk"]).text();
    let line = StatusLine::parse(disk.trim_end()).unwrap();
    assert_eq!(line.to_string() + "\n", disk);
    assert!(disk.starts_with("0 2048 clone 8 ") && disk.contains(" 8 0/256 0 1 no_hydration "));
    assert_eq!(hosting.clonectl(&["status", "--noflush", "disk"]).text(), disk);
    let all = hosting.clonectl(&["status"]).text();
    assert_eq!(all, format!("disk: {disk}tape: {disk}"));
    let table = hosting.clonectl(&["table", "disk"]).text();
    let parsed = TableLine::parse(table.trim_end()).unwrap();
    assert_eq!(parsed.to_string() + "\n", table);
    assert!(hosting.clonectl(&["table"]).text().starts_with(&format!("disk: {table}tape: 0 ")));

    let json = hosting.clonectl(&["status", "--json", "disk"]).json();
    assert_eq!(json["status"], disk.trim_end());
    assert_eq!((json["regions"].as_u64(), json["hydrated_regions"].as_u64()), (Some(256), Some(0)));
    assert_eq!((&json["mode"], &json["settings"]["hydration"]), (&"rw".into(), &false.into()));
    let list = hosting.clonectl(&["ls", "--json"]).json();
    assert_eq!((&list[0], &list[1]["name"]), (&json, &"tape".into()));
    assert!(hosting.clonectl(&["ls"]).text().contains("disk  1 MiB  0 %       not hydrating"));
}

#[test]
fn a_clone_is_hydrated_by_messages_and_its_events_miss_nothing() {
    let hosting = Hosting::new(&["disk"]);
    for quiet in [
        &["message", "disk", "hydration_batch_size", "4"][..],
        &["message", "disk", "hydration_threshold", "8"],
        &["suspend", "disk"],
        &["resume", "disk"],
        &["message", "disk", "0", "enable_hydration"],
        &["wait", "disk", "2"],
    ] {
        assert_eq!(hosting.clonectl(quiet).text(), "", "{quiet:?}");
    }
    let status = hosting.clonectl(&["status", "disk"]).text();
    let words = " 256/256 0 0 4 hydration_threshold 8 hydration_batch_size 4 rw\n";
    assert!(status.ends_with(words), "{status}");
    assert_eq!(hosting.clonectl(&["status", "--json", "disk"]).json()["event_nr"], 3);

    let events = hosting.clonectl(&["events", "disk", "--json"]).text();
    let events: Vec<serde_json::Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let whats: Vec<_> = events.iter().map(|event| event["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["suspended", "resumed", "finished"]);
    assert!(events.iter().all(|event| event["time"].as_f64().unwrap() > 1.7e9));
    let waited = hosting.clonectl(&["wait", "disk", "2", "--verbose"]).text();
    assert!(waited.ends_with("Z disk 3 hydration finished\n"), "{waited}");
}

#[test]
fn events_are_followed_across_clones_that_come_and_go() {
    let hosting = Hosting::new(&["disk"]);
    let mut follower = Command::new(env!("CARGO_BIN_EXE_clonectl"))
        .args(["events", "--follow"])
        .env("CLONED_SOCKET", hosting.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap().split_once(' ').unwrap().1.to_owned();
    hosting.clonectl(&["suspend", "disk"]).text();
    assert_eq!(next(), "disk 1 suspended");
    hosting.clonectl(&["create", &hosting.line("tape")]).text();
    hosting.clonectl(&["suspend", "tape"]).text();
    assert_eq!(next(), "tape 1 suspended");
    hosting.clonectl(&["resume", "disk"]).text();
    assert_eq!(next(), "disk 2 resumed");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn clones_are_created_removed_and_reloaded() {
    let hosting = Hosting::new(&["disk"]);
    let names = || {
        let list = hosting.clonectl(&["ls", "--json"]).json();
        let names: Vec<String> =
            list.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().into()).collect();
        names.join(" ")
    };
    assert_eq!(hosting.clonectl(&["create", &hosting.line("tape")]).text(), "");
    let line = hosting.line("reel");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(hosting.clonectl(&[&["create"], &words[..]].concat()).text(), "");
    assert_eq!(names(), "disk reel tape");
    assert_eq!(hosting.clonectl(&["remove", "tape"]).text(), "");
    assert_eq!(names(), "disk reel");
    assert_eq!(hosting.clonectl(&["reload"]).text(), "nothing has changed\n");
    hosting.write_table(&[hosting.line("drum")]);
    assert_eq!(hosting.clonectl(&["reload"]).text(), "drum: started\ndisk: stopped\n");
    assert_eq!(names(), "drum reel");

    let again = hosting.clonectl(&["create", &hosting.line("reel")]).fails(1);
    assert!(again.contains("the clone \"reel\" already exists"), "{again}");
    hosting.write_table(&[hosting.line("drum"), hosting.line("bad").replace("source", "none")]);
    let failed = hosting.clonectl(&["reload"]).fails(1);
    assert!(failed.contains("bad: "), "{failed}");
}

#[test]
fn errors_say_what_is_wrong_and_what_can_be_done() {
    let mut hosting = Hosting::new(&["disk", "tape"]);
    let none = hosting.clonectl(&["status", "drum"]).fails(1);
    assert_eq!(none, "clonectl: there is no clone \"drum\"; there are: disk, tape\n");
    let message = hosting.clonectl(&["message", "disk", "fly"]).fails(1);
    assert!(message.contains("enable_hydration") && message.contains("hydrate_on_read on|off"));
    for wrong in [&["fly"][..], &[], &["status", "--fly"], &["message", "disk", "8", "x"]] {
        hosting.clonectl(wrong).fails(2);
    }
    hosting.stop_server();
    let gone = hosting.clonectl(&["ls"]).fails(1);
    assert!(gone.contains("cloned does not run") && gone.contains("--socket"), "{gone}");
    let socket = hosting.socket();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let left = hosting.clonectl(&["ls", "--socket", socket.to_str().unwrap()]).fails(1);
    assert!(left.contains("is no longer running"), "{left}");
}
