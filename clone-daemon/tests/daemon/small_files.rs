//! Paths of small files that are not regular files.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use crate::support::cloned::{Cloned, cloned};

/// Creates a directory with a source, a clonetab, and files that are not regular.
fn folder() -> (tempfile::TempDir, UnixListener) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("source"), [1; 8192]).unwrap();
    assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    symlink("nowhere", path("link")).unwrap();
    fs::create_dir(path("folder")).unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(path("cert"), certified.cert.pem()).unwrap();
    fs::write(path("key"), certified.signing_key.serialize_pem()).unwrap();
    let socket = UnixListener::bind(path("socket")).unwrap();
    (folder, socket)
}

/// Runs the daemon until it ends by itself, after logging `words`.
fn is_refused(folder: &Path, arguments: &[&str], words: &str) {
    let mut daemon = Cloned::spawn(cloned(folder, arguments));
    let said = daemon.wait_for(words);
    assert_eq!(daemon.wait().code(), Some(1), "{arguments:?}: {said}");
}

#[test]
fn a_small_file_that_is_none_is_told_at_once() {
    let (folder, _socket) = folder();
    let folder = folder.path();
    let of =
        |source: &'static str| ["run", "-m", "m", "-d", "d", "--control", "none", "-s", source];
    let (file, web, nbd) = (of("source"), of("https://localhost:1/"), of("nbds://localhost:1/"));
    let serve = ["serve", "--control", "none"];
    let nbd_server = [&file[..], &["--nbd", "unix:s"]].concat();
    let kinds = [
        ("fifo", "it is a FIFO or a pipe, not a regular file"),
        ("socket", "it is a socket, not a regular file"),
        ("folder", "it is a directory, not a regular file"),
        ("/dev/null", "it is a character device, not a regular file"),
        ("link", "it is a symbolic link to nowhere, which does not exist"),
    ];
    for (name, words) in kinds {
        is_refused(folder, &[&file[..], &["--prefetch", name]].concat(), words);
        is_refused(folder, &[&serve[..], &["--clonetab", name]].concat(), words);
        is_refused(folder, &[&web[..], &["--source-ca", name]].concat(), words);
        is_refused(folder, &[&web[..], &["--source-headers", name]].concat(), words);
        is_refused(folder, &[&nbd[..], &["--source-ca", name]].concat(), words);
        for [cert, key, authority] in
            [[name, "key", "cert"], ["cert", name, "cert"], ["cert", "key", name]]
        {
            let tls = ["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", authority];
            is_refused(folder, &[&nbd_server[..], &tls].concat(), words);
        }
    }
}

#[test]
fn a_pin_that_is_no_file_is_told_at_once() {
    let (folder, _socket) = folder();
    let folder = folder.path();
    let run = ["run", "-m", "m", "-d", "d", "--control", "none", "--no-hydration", "-s", "source"];
    assert!(Cloned::start(folder, &run).stop().success());
    let pin = folder.join("m.source.json");
    for (name, words) in [
        ("fifo", "it is a FIFO or a pipe, not a regular file"),
        ("socket", "it is a socket, not a regular file"),
        ("folder", "it is a directory, not a regular file"),
        ("nowhere", "m.source.json, the record of the clone's source: it is a symbolic"),
    ] {
        fs::remove_file(&pin).unwrap();
        symlink(name, &pin).unwrap();
        is_refused(folder, &run, words);
    }
}
