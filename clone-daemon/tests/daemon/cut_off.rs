//! Destinations that are truncated while they are in use.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use clone_tests::nbd::NbdClient;

use crate::support::cloned::{Cloned, cloned};

const SIZE: u64 = 4 << 20;
const CLIENTS: u64 = 3;

const ARGUMENTS: [&str; 11] = [
    "run",
    "-m",
    "metadata",
    "-d",
    "disk",
    "-s",
    "source",
    "--nbd",
    "unix:socket",
    "--control",
    "none",
];

/// Reads and writes at random until `is_over`. The content has no zero bytes. Returns the number of
/// reads that found a zero.
fn use_it(folder: &Path, seed: u64, is_over: &AtomicBool, steps: &AtomicUsize) -> usize {
    let mut client = NbdClient::connect(&folder.join("socket"), "disk").unwrap();
    let mut state = seed;
    let mut random = |below: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % below
    };
    let mut zeroes = 0;
    while !is_over.load(Ordering::Relaxed) {
        let offset = random(SIZE / 512) * 512;
        let len = (1 + random(16)) * 512;
        let mut bytes = vec![1 + random(255) as u8; len.min(SIZE - offset) as usize];
        if random(2) == 0 {
            let read = client.read(offset, &mut bytes);
            zeroes += usize::from(read.is_ok() && bytes.contains(&0));
        } else {
            // The result of a write does not matter: only reads are checked.
            let _ = client.write(offset, &bytes, random(8) == 0);
        }
        steps.fetch_add(1, Ordering::Relaxed);
    }
    zeroes
}

#[test]
fn a_clone_whose_destination_is_truncated_fails_and_hands_out_no_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("source"), vec![7; SIZE as usize]).unwrap();
    let mut daemon = Cloned::start(path, &ARGUMENTS);
    daemon.wait_for("hydration finished");
    let (is_over, steps) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    let disk = File::options().write(true).open(path.join("disk")).unwrap();
    let zeroes: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| scope.spawn(move || use_it(path, seed_of(seed), is_over, steps)))
            .collect();
        let wait_for_steps = |more: usize| {
            let until = steps.load(Ordering::Relaxed) + more;
            while steps.load(Ordering::Relaxed) < until {
                thread::yield_now();
            }
        };
        wait_for_steps(300);
        disk.set_len(SIZE / 3).unwrap();
        wait_for_steps(3000);
        disk.set_len(SIZE).unwrap();
        wait_for_steps(300);
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert_eq!(zeroes, 0, "reads of zeroes that nobody has written");
    let told = daemon.wait_for("the clone has failed");
    assert!(told.contains("disk has become shorter: it had 4194304 bytes when it was"), "{told}");
    assert!(told.contains("restore the destination from a backup"), "{told}");
    let mut client = NbdClient::connect(&path.join("socket"), "disk").unwrap();
    client.read(0, &mut [0; 512]).unwrap_err();
    client.flush().unwrap_err();
    drop(client);
    assert!(!daemon.stop().success());

    // The truncated file does not fit the metadata.
    disk.set_len(SIZE / 3).unwrap();
    let again = cloned(path, &ARGUMENTS).output().unwrap();
    assert!(!again.status.success());
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(told.contains("the destination disk has "), "{told}");
}

/// Returns unrelated numbers.
fn seed_of(client: u64) -> u64 {
    (client + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
