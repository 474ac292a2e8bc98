//! Logs, traces and the like that cannot be written: the clones are served anyway.

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use clone_daemon::control::protocol::Verb;
use clone_tests::nbd::NbdClient;
use rustix::process::Signal;

use crate::full::Small;
use crate::support::cloned::{Cloned, cloned};
use crate::support::free_address;
use crate::support::hosting::{Hosting, Peer};

const RUN: [&str; 14] = [
    "run",
    "-m",
    "metadata",
    "-d",
    "disk",
    "-s",
    "source",
    "--no-hydration",
    "--nbd",
    "unix:socket",
    "--control",
    "control",
    "--metrics",
    "tcp:127.0.0.1:0",
];

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("source"), vec![7; 1 << 20]).unwrap();
    folder
}

fn wait_until_served(folder: &Path) -> Peer {
    loop {
        // The socket listens before it serves, and replies when it does.
        if let Ok(stream) = UnixStream::connect(folder.join("control")) {
            return Peer(stream);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Causes events, sends messages, and does a durable write.
fn use_clone(folder: &Path, peer: &Peer) {
    let name = || "disk".to_owned();
    for verb in [Verb::Suspend { name: name() }, Verb::Resume { name: name() }] {
        assert!(peer.ask(verb).1.end);
    }
    let message = Verb::Message { name: name(), message: "hydrate 0 4096".into() };
    assert!(peer.ask(message).1.end);
    let mut client = NbdClient::connect(&folder.join("socket"), "disk").unwrap();
    client.write(8192, &[9; 4096], true).unwrap();
    client.flush().unwrap();
    let (items, end) = peer.ask(Verb::Status { name: Some(name()), flush: true });
    assert!(end.end && items.len() == 1);
}

#[test]
fn a_log_that_cannot_be_written_costs_lines_and_nothing_else() {
    let folder = folder();
    for way in ["a full disk", "a pipe that nobody reads any more"] {
        let stderr: Stdio = match way {
            "a full disk" => File::options().write(true).open("/dev/full").unwrap().into(),
            _ => pipe().unwrap().1.into(),
        };
        let mut daemon = Cloned::spawn_telling(cloned(folder.path(), &RUN), stderr);
        let peer = wait_until_served(folder.path());
        for _ in 0..20 {
            use_clone(folder.path(), &peer);
        }
        daemon.signal(Signal::TERM);
        assert!(daemon.wait().success(), "{way}");
    }
}

#[test]
fn a_reader_of_the_log_that_reads_no_more_holds_up_nobody_not_even_the_end() {
    let folder = folder();
    let (mut reader, writer) = pipe().unwrap();
    let mut daemon = Cloned::spawn_telling(cloned(folder.path(), &RUN), writer);
    let peer = wait_until_served(folder.path());
    // Far more lines than the pipe and the queue can hold.
    for _ in 0..10_000 {
        let message = Verb::Message { name: "disk".into(), message: "hydration_rate 1M".into() };
        assert!(peer.ask(message).1.end);
    }
    use_clone(folder.path(), &peer);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert!(said.contains("hydration_rate"));
}

#[test]
fn what_a_log_has_lost_is_told_when_it_can_be_written_again_and_counted() {
    let folder = folder();
    let Some(_small) = Small::mount(&folder.path().join("small"), 2) else { return };
    let log = folder.path().join("small/log");
    let stderr = File::create(&log).unwrap();
    let address = free_address();
    let metrics = format!("tcp:{address}");
    let arguments = [&RUN[..RUN.len() - 1], &[&metrics]].concat();
    let mut daemon = Cloned::spawn_telling(cloned(folder.path(), &arguments), stderr);
    let peer = wait_until_served(folder.path());
    use_clone(folder.path(), &peer);
    let said = || fs::read_to_string(&log).unwrap();
    let ballast = folder.path().join("small/ballast");
    let mut file = File::create(&ballast).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let before = said().len();
    // The rest of the last page is used up too.
    while said().len() < before.next_multiple_of(4096) {
        use_clone(folder.path(), &peer);
    }
    let lost = || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find(|line| line.starts_with("cloned_log_lines_lost_total "));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    while lost() == 0 {
        use_clone(folder.path(), &peer);
    }
    drop(file);
    fs::remove_file(&ballast).unwrap();
    while !said().contains("log lines could not be written") {
        use_clone(folder.path(), &peer);
    }
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
}

#[test]
fn a_supervisor_that_does_not_listen_holds_up_nobody() {
    let folder = folder();
    // Its queue has room for some messages, which are never read.
    let _supervisor = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    let mut command = cloned(folder.path(), &RUN);
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "2000");
    let mut daemon = Cloned::spawn(command);
    daemon.wait_for("cannot notify systemd");
    use_clone(folder.path(), &wait_until_served(folder.path()));
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
}

#[test]
fn what_cannot_be_written_or_listened_at_is_found_before_anything_is_made_and_by_a_dry_run() {
    let folder = folder();
    fs::write(folder.path().join("file"), "").unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp:{}", taken.local_addr().unwrap());
    let long = format!("unix:{}", "x".repeat(200));
    let names = |folder: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names(folder.path());
    for (option, value, reason) in [
        ("--record", "nodir/trace", "there is no directory nodir"),
        ("--record", ".", "it is not a regular file"),
        ("--record", "source", "it is a device of the clone"),
        ("--record", "./folder/../disk", "it is a device of the clone"),
        ("--prefetch", "file", "file is not a trace file"),
        ("--prefetch", "missing", "missing"),
        ("--metrics", &taken, "cannot serve metrics"),
        ("--control", "nodir/control", "nodir/control"),
        ("--control", "source", "is not a socket"),
        ("--nbd", "unix:nodir/socket", "cannot listen on unix:nodir/socket"),
        ("--nbd", &long, "cannot listen on unix:xxx"),
    ] {
        for dry in [&["--dry-run"][..], &[]] {
            let arguments = ["run", "-m", "metadata", "-d", "disk", "-s", "source", option, value];
            let ran = cloned(folder.path(), &[&arguments[..], dry].concat()).output().unwrap();
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert_eq!(ran.status.code(), Some(1), "{option} {value}: {said}");
            assert!(said.contains(reason), "{option} {value}: {said}");
            assert_eq!(names(folder.path()), before, "{option} {value}");
        }
    }
}

#[test]
fn hydration_that_cannot_be_enabled_is_refused_with_the_reason() {
    let hosting = Hosting::new(&["disk"]);
    fs::write(hosting.folder.path().join("source"), vec![8; 1 << 20]).unwrap();
    hosting.clonectl(&["message", "disk", "hydrate", "0", "64k"]).text();
    let events = Command::new(env!("CARGO_BIN_EXE_clonectl"))
        .env("CLONED_SOCKET", hosting.socket())
        .args(["wait", "disk", "--verbose"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&events.stdout).contains("source has changed"));
    let said = hosting.clonectl(&["message", "disk", "enable_hydration"]).fails(1);
    assert!(said.contains("nothing can be hydrated: the source has changed"), "{said}");
    hosting.clonectl(&["message", "disk", "hydration_rate", "1M"]).text();
}
