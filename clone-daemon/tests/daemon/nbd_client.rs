//! The NBD client with servers of other projects.

mod clones;
mod hostile;
mod servers;
mod tls;

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, iter};

use clone_core::block_io::{Extent, SourceChanged};
use clone_daemon::source::nbd::{NbdError, NbdOptions, NbdRemote};
use clone_daemon::source::remote::{Remote, RemoteError};
use clone_daemon::source::uri::{NbdAddress, NbdEndpoint};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::servers::{Server, address, noise, remote, soon, sparse, tcp, unix};
use crate::support::program;

const MIB: usize = 1 << 20;

/// Reads all of the export, and pieces of any alignment, on several threads at a time.
fn check(remote: &NbdRemote, expected: &[u8]) {
    assert_eq!(remote.size_bytes(), expected.len() as u64);
    let mut whole = vec![0xaa; expected.len()];
    remote.read_at(0, &mut whole, soon()).unwrap();
    assert!(whole == expected, "the whole of it");
    thread::scope(|scope| {
        for seed in 0..8 {
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..20 {
                    let len = 1 << random.random_range(0..20);
                    let len = random.random_range(1..=len);
                    let at = random.random_range(0..=expected.len() - len);
                    let mut piece = vec![0xaa; len];
                    remote.read_at(at as u64, &mut piece, soon()).unwrap();
                    assert!(piece == expected[at..at + len], "{len} bytes at {at}");
                }
            });
        }
    });
    let error = remote.read_at(whole.len() as u64 - 1, &mut [0; 2], soon()).unwrap_err();
    assert!(matches!(error, RemoteError::Final(_)), "{error}");
    remote.read_at(0, &mut [], soon()).unwrap();
}

/// Returns all extents, each found from the end of the one before it, and the number of data bytes.
fn extents(remote: &NbdRemote) -> (Vec<Extent>, u64) {
    let mut at = 0;
    let found: Vec<Extent> = iter::from_fn(|| {
        (at < remote.size_bytes()).then(|| {
            let extent = remote.extent(at, soon()).unwrap();
            assert!(extent.end > at && extent.end <= remote.size_bytes(), "{extent:?} at {at}");
            at = extent.end;
            extent
        })
    })
    .collect();
    let starts = iter::once(0).chain(found.iter().map(|extent| extent.end));
    let data = starts.zip(&found).filter(|(_, extent)| !extent.zeroes);
    let data = data.map(|(start, extent)| extent.end - start).sum();
    (found, data)
}

/// Creates a file of which every other part is a hole. Returns its path and contents.
fn source(folder: &Path, len: usize) -> (String, Vec<u8>) {
    let path = folder.join("source");
    let bytes = sparse(&path, len, 256 << 10);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < len as u64 * 3 / 4, "no holes here");
    (path.to_str().unwrap().to_owned(), bytes)
}

#[test]
fn an_export_reads_right_whatever_its_server_can_do() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = source(folder.path(), 4 * MIB);
    let file = ["file", &path];
    let blocks = "--filter=blocksize-policy";
    let strict = "blocksize-error-policy=error";
    let preferred = "blocksize-preferred=65536";
    let cases: &[&[&str]] = &[
        &[],
        &["--no-sr"],
        &["--mask-handshake=0"],
        &["--mask-handshake=1"],
        &["--read-only"],
        &["--threads=1"],
        &["--filter=noextents"],
        &["--filter=noparallel"],
        &["--filter=multi-conn", "multi-conn-mode=disable"],
        &[blocks, "blocksize-minimum=4096", "blocksize-maximum=8192", strict],
        &[blocks, "blocksize-minimum=65536", preferred, "blocksize-maximum=65536", strict],
        &["--filter=delay", "rdelay=1ms"],
        &["--filter=rate", "rate=400M"],
        &["--filter=retry-request", "--filter=error", "error-rate=1%", "retry-request-delay=1"],
    ];
    for case in cases {
        for endpoint in [unix(folder.path()), tcp()] {
            let (options, parameters): (Vec<&str>, Vec<&str>) =
                case.iter().partition(|arg| arg.starts_with("--"));
            let args = [&options[..], &file, &parameters].concat();
            let Some(_server) = Server::nbdkit(&endpoint, &args) else { return };
            eprintln!("{args:?} at {endpoint:?}");
            check(&remote(&endpoint), &bytes);
        }
    }
}

#[test]
fn exports_of_any_size_read_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd");
    let endpoint = unix(folder.path());
    for len in [1, 511, 513, 65_537, 3 * MIB + 1] {
        let bytes = noise(len as u64, len);
        fs::write(&path, &bytes).unwrap();
        let args = ["file", path.to_str().unwrap()];
        let Some(_server) = Server::nbdkit(&endpoint, &args) else { return };
        let remote = remote(&endpoint);
        let mut whole = vec![0xaa; len];
        remote.read_at(0, &mut whole, soon()).unwrap();
        assert!(whole == bytes, "{len} bytes");
        assert_eq!(extents(&remote).0.last().map(|extent| extent.end), Some(len as u64));
    }
}

#[test]
fn holes_are_told_where_the_server_knows_them() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = source(folder.path(), 16 * MIB);
    let endpoint = unix(folder.path());
    let half = bytes.len() as u64 / 2;
    let least = ["blocksize-minimum=65536", "blocksize-preferred=65536"];
    let blocks = ["--filter=blocksize-policy", "file", &path, least[0], least[1]];
    for (args, data, count) in [
        (&["file", &path][..], half, 64),
        (&blocks, half, 64),
        (&["--no-sr", "file", &path], 2 * half, 1),
        (&["--filter=noextents", "file", &path], 2 * half, 1),
        (&["--filter=error", "file", &path, "error-extents-rate=1"], 2 * half, 1),
        (&["null", "size=1T"], 0, 1),
    ] {
        let Some(_server) = Server::nbdkit(&endpoint, args) else { return };
        let remote = remote(&endpoint);
        let (found, bytes) = extents(&remote);
        assert_eq!(bytes, data, "{args:?}: {found:?}");
        assert!(found.len() >= count, "{args:?}: {found:?}");
        let middle = remote.extent(300 << 10, soon()).unwrap();
        assert_eq!(middle.zeroes, data <= half, "{args:?}");
        let error = remote.extent(remote.size_bytes(), soon()).unwrap_err();
        assert!(matches!(error, RemoteError::Final(_)), "{error}");
    }
}

#[test]
fn a_server_that_is_slow_to_tell_its_holes_is_not_waited_for_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = source(folder.path(), 4 * MIB);
    let endpoint = unix(folder.path());
    let args = ["--filter=delay", "file", &path, "delay-extents=1"];
    let Some(_server) = Server::nbdkit(&endpoint, &args) else { return };
    let extents_timeout = Duration::from_millis(100);
    let options = NbdOptions { extents_timeout, ..NbdOptions::default() };
    let remote = NbdRemote::open(address(&endpoint), options, soon()).unwrap();
    let late = iter::repeat_with(|| remote.extent(300 << 10, soon()));
    let late =
        late.take(20).take_while(|told| matches!(told, Err(RemoteError::Passing(_)))).count();
    assert!((1..10).contains(&late), "{late} times");
    // The result depends on what the server would have reported.
    let told = remote.extent(0, soon());
    assert!(told.is_err() || matches!(told, Ok(Extent { zeroes: false, .. })), "{told:?}");
    let told = remote.extent(300 << 10, soon()).unwrap();
    assert_eq!(told, Extent { zeroes: false, end: bytes.len() as u64 });
    check(&remote, &bytes);
}

#[test]
fn raw_files_and_images_are_read_from_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = source(folder.path(), 8 * MIB);
    let Some(qemu_img) = program("qemu-img") else { return };
    let image = folder.path().join("image").to_str().unwrap().to_owned();
    let convert = ["convert", "-f", "raw", "-O", "qcow2", &path, &image];
    assert!(Command::new(qemu_img).args(convert).status().unwrap().success());
    for (format, file) in [("raw", &path), ("qcow2", &image)] {
        for shared in ["--shared=1", "--shared=8"] {
            for endpoint in [unix(folder.path()), tcp()] {
                let args = ["--format", format, "--read-only", shared, file];
                let Some(_server) = Server::qemu(&endpoint, &args) else { return };
                let remote = remote(&endpoint);
                check(&remote, &bytes);
                let (found, data) = extents(&remote);
                assert_eq!(data, bytes.len() as u64 / 2, "{format}: {found:?}");
            }
        }
    }
}

#[test]
fn an_export_is_found_by_its_name_and_one_that_is_not_there_is_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = unix(folder.path());
    let args = ["--filter=exportname", "null", "1M", "exportname=disk", "exportname-strict=true"];
    let open = |export: &str| {
        let address = NbdAddress { export: export.into(), ..address(&endpoint) };
        NbdRemote::open(address, NbdOptions::default(), soon())
    };
    let error = RemoteError::from(open("disk").err().unwrap());
    assert!(matches!(error, RemoteError::Passing(_)), "there may be a server later: {error}");
    let Some(_server) = Server::nbdkit(&endpoint, &args) else { return };
    assert_eq!(open("disk").unwrap().size_bytes(), MIB as u64);
    let error = open("disc").err().unwrap();
    assert!(error.to_string().contains("there is no such export"), "{error}");
    let RemoteError::Final(error) = error.into() else { panic!("it will not be there later") };
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn errors_of_the_server_say_where_and_why_and_what_may_help() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = unix(folder.path());
    for (name, passes) in [("EIO", true), ("ENOMEM", true), ("EPERM", false), ("EINVAL", false)] {
        let error = format!("error={name}");
        let args = ["--filter=error", "null", "1M", &error, "error-pread-rate=1"];
        let Some(_server) = Server::nbdkit(&endpoint, &args) else { return };
        let error = remote(&endpoint).read_at(512, &mut [0; 512], soon()).unwrap_err();
        assert_eq!(matches!(error, RemoteError::Passing(_)), passes, "{name}: {error}");
        let told = error.to_string();
        let expected = format!("the NBD server cannot read bytes 512..1024: {name}");
        assert!(told.starts_with(&expected), "{told}");
    }
}

#[test]
fn a_reply_that_comes_too_late_is_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = source(folder.path(), 4 * MIB);
    let endpoint = unix(folder.path());
    let args = ["--filter=delay", "file", &path, "rdelay=700ms"];
    let Some(_server) = Server::nbdkit(&endpoint, &args) else { return };
    // With one connection, late replies arrive between those for other callers.
    let options = NbdOptions { connections: 1, ..NbdOptions::default() };
    let remote = NbdRemote::open(address(&endpoint), options, soon()).unwrap();
    let mut late = vec![0; MIB];
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut whole = vec![0; bytes.len()];
            remote.read_at(0, &mut whole, soon()).unwrap();
            whole == bytes
        });
        let deadline = Instant::now() + Duration::from_millis(100);
        let RemoteError::Passing(error) = remote.read_at(0, &mut late, deadline).unwrap_err()
        else {
            panic!("the server is just slow");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(others.join().unwrap());
    });
    assert!(late.iter().all(|&byte| byte == 0), "nothing comes after the deadline");
    remote.read_at(0, &mut late, soon()).unwrap();
    assert!(late == bytes[..MIB]);
}

#[test]
fn callers_who_give_up_at_any_time_disturb_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = source(folder.path(), 4 * MIB);
    let endpoint = unix(folder.path());
    let args = ["--filter=delay", "file", &path, "rdelay=2ms"];
    for (connections, request_bytes) in [(1, 4096), (2, 64 << 10)] {
        // Each case has a server of its own: nbdkit 1.32 may abort ("raw_send_socket: Assertion
        // `sock >= 0' failed") when a connection with requests in flight is closed.
        let Some(_server) = Server::nbdkit(&endpoint, &args) else { return };
        let options = NbdOptions { connections, request_bytes, ..NbdOptions::default() };
        let remote = NbdRemote::open(address(&endpoint), options, soon()).unwrap();
        let (remote, bytes) = (&remote, &bytes);
        let late: usize = thread::scope(|scope| {
            let work = |seed| {
                move || {
                    let mut random = StdRng::seed_from_u64(seed);
                    let mut late = 0;
                    for round in 0..100 {
                        let len = random.random_range(1..256 << 10);
                        let at = random.random_range(0..=bytes.len() - len);
                        let patience = match (seed + round) % 3 {
                            0 => Duration::from_micros(random.random_range(0..10_000)),
                            _ => servers::LONG,
                        };
                        let mut piece = vec![0xaa; len];
                        match remote.read_at(at as u64, &mut piece, Instant::now() + patience) {
                            Ok(()) => assert!(piece == bytes[at..at + len], "{len} at {at}"),
                            Err(RemoteError::Passing(error)) => {
                                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                                assert!(patience < servers::LONG, "{error}");
                                late += 1;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    late
                }
            };
            let threads: Vec<_> = (0..12).map(|seed| scope.spawn(work(seed))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(late > 0, "nobody gave up");
    }
}

#[test]
fn a_server_that_is_back_is_used_again_if_it_has_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = source(folder.path(), 4 * MIB);
    for endpoint in [unix(folder.path()), tcp()] {
        let Some(server) = Server::nbdkit(&endpoint, &["file", &path]) else { return };
        let remote = remote(&endpoint);
        check(&remote, &bytes);
        drop(server);
        let mut piece = vec![0; MIB];
        for _ in 0..3 {
            let error = remote.read_at(0, &mut piece, soon()).unwrap_err();
            assert!(matches!(error, RemoteError::Passing(_)), "{error}");
        }
        let server = Server::nbdkit(&endpoint, &["file", &path]).unwrap();
        check(&remote, &bytes);
        drop(server);
        let _server = Server::nbdkit(&endpoint, &["null", "8M"]).unwrap();
        // The first call may be the one that finds the connection lost.
        let changed = (0..3).find_map(|_| match remote.read_at(0, &mut piece, soon()) {
            Err(RemoteError::Changed(changed)) => Some(changed),
            Err(RemoteError::Passing(_)) => None,
            other => panic!("{other:?}"),
        });
        let told = "it had 4194304 bytes, and has 8388608";
        assert_eq!(changed, Some(SourceChanged(told.into())));
    }
}

#[test]
fn what_is_no_nbd_server_is_told_and_not_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        io::Write::write_all(&mut stream, b"220 mail.example ESMTP ready\r\n").unwrap();
        stream
    });
    let endpoint = NbdEndpoint::Tcp { host: "127.0.0.1".into(), port };
    let error = NbdRemote::open(address(&endpoint), NbdOptions::default(), soon()).err().unwrap();
    assert!(matches!(error, NbdError::Greeting(_)), "{error}");
    assert!(matches!(error.into(), RemoteError::Final(_)));
    drop(server.join().unwrap());
}
