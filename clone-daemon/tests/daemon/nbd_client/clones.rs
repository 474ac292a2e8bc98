//! Clones whose source is an NBD export.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clone_core::block_io::Source;
use clone_core::dm_target::Message;
use clone_core::driver::RunningClone;
use clone_core::engine::{Command, Device, Event, EventKind, RequestError};
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::ServerOptions;
use clone_daemon::source::{self, SourceOptions};
use persistent_data::device::FileDevice;

use super::servers::{LONG, Server, noise, soon, sparse, unix};
use crate::nbd_server::served::Served;
use crate::support::Rig;

const MIB: usize = 1 << 20;
/// Regions of 64 KiB.
const REGION: Sectors = Sectors(128);

/// Opens the export at the socket of a folder like the daemon does, with its retry policy.
fn open(folder: &Path, options: &SourceOptions) -> Arc<dyn Source> {
    let uri = format!("nbd+unix:///?socket={}", folder.join("nbd").display());
    source::open(&uri.parse().unwrap(), None, options).unwrap().source
}

/// Waits for the first event for which `is_it` is true.
fn wait_for(clone: &RunningClone<FileDevice>, is_it: impl Fn(&EventKind) -> bool) -> EventKind {
    wait_after(clone, &mut 0, is_it)
}

/// Waits for the first event after number `last` for which `is_it` is true, and stores its number.
fn wait_after(
    clone: &RunningClone<FileDevice>,
    last: &mut u64,
    is_it: impl Fn(&EventKind) -> bool,
) -> EventKind {
    let until = soon();
    loop {
        assert!(Instant::now() < until, "{:?}", clone.progress());
        for Event { number, kind } in clone.wait_for(*last, LONG) {
            *last = number;
            if is_it(&kind) {
                return kind;
            }
        }
    }
}

fn wait_until(clone: &RunningClone<FileDevice>, hydrated: u64) {
    let until = soon();
    while clone.progress().hydrated < hydrated {
        assert!(Instant::now() < until, "{:?}", clone.progress());
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_clone_has_the_data_of_an_export_and_its_holes() {
    let len = 32 * MIB;
    let rig = Rig::new(REGION, &vec![0; len]);
    let endpoint = unix(rig.folder.path());
    let file = rig.path("export");
    let bytes = sparse(&file, len, MIB);
    let Some(_server) = Server::nbdkit(&endpoint, &["file", file.to_str().unwrap()]) else {
        return;
    };
    let clone = rig.start_from(open(rig.folder.path(), &SourceOptions::default()), true);
    wait_for(&clone, |what| *what == EventKind::Finished);
    let progress = clone.progress();
    assert_eq!((progress.fetched_bytes, progress.zeroed_bytes), (len as u64 / 2, len as u64 / 2));
    clone.stop();
    assert!(rig.destination() == bytes);
    // Nothing but the copies was written.
    let taken = fs::metadata(rig.path("destination")).unwrap().blocks() * 512;
    assert!(taken <= len as u64 / 2 + (64 << 10), "{taken} bytes are taken");
}

#[test]
fn a_clone_that_is_served_can_be_cloned() {
    let len = 8 * MIB;
    let rig = Rig::new(REGION, &vec![0; len]);
    let bytes = sparse(&rig.path("source"), len, 512 << 10);
    let first = Served::with(rig, ServerOptions::default());
    first.clone.client().hydrate(0..3 * MIB as u64).unwrap();
    let rig = Rig::new(REGION, &vec![0; len]);
    let source = source::open(&first.uri().parse().unwrap(), None, &SourceOptions::default());
    let second = rig.start_from(source.unwrap().source, true);
    wait_for(&second, |what| *what == EventKind::Finished);
    let progress = second.progress();
    assert_eq!((progress.fetched_bytes, progress.zeroed_bytes), (len as u64 / 2, len as u64 / 2));
    second.stop();
    assert!(rig.destination() == bytes);
}

#[test]
fn a_clone_goes_on_by_itself_when_its_server_is_back() {
    let bytes = noise(1, 8 * MIB);
    let rig = Rig::new(REGION, &bytes);
    let endpoint = unix(rig.folder.path());
    let file = rig.path("source");
    let args = ["--filter=rate", "file", file.to_str().unwrap(), "rate=8M"];
    let Some(server) = Server::nbdkit(&endpoint, &args) else { return };
    let clone = rig.start_from(open(rig.folder.path(), &SourceOptions::default()), true);
    wait_until(&clone, 8);
    drop(server);
    let mut last = vec![0; 4096];
    thread::scope(|scope| {
        let client = clone.client();
        let (at, into) = (bytes.len() as u64 - 4096, &mut last);
        let reader = scope.spawn(move || client.read(at, into));
        thread::sleep(Duration::from_millis(200));
        let progress = clone.progress();
        assert!(progress.hydrated < progress.regions, "{progress:?}");
        let _server = Server::nbdkit(&endpoint, &["file", file.to_str().unwrap()]).unwrap();
        wait_for(&clone, |what| *what == EventKind::Finished);
        reader.join().unwrap().unwrap();
    });
    assert!(last == bytes[bytes.len() - 4096..]);
    clone.stop();
    assert!(rig.destination() == bytes);
}

#[test]
fn a_clone_takes_nothing_from_another_export_that_came_in_place_of_its_own() {
    let bytes = noise(2, 8 * MIB);
    let rig = Rig::new(REGION, &bytes);
    let endpoint = unix(rig.folder.path());
    let file = rig.path("source");
    let args = ["--filter=rate", "file", file.to_str().unwrap(), "rate=8M"];
    let Some(server) = Server::nbdkit(&endpoint, &args) else { return };
    let clone = rig.start_from(open(rig.folder.path(), &SourceOptions::default()), true);
    wait_until(&clone, 8);
    drop(server);
    let _server = Server::nbdkit(&endpoint, &["pattern", "16M"]).unwrap();
    let told = wait_for(&clone, |what| matches!(what, EventKind::SourceChanged { .. }));
    let told = told.to_string();
    assert!(told.contains("it had 8388608 bytes, and has 16777216"), "{told}");
    let client = clone.client();
    let mut block = [0; 4096];
    let (mut right, mut refused) = (0, 0);
    for (at, expected) in bytes.chunks(4096).enumerate() {
        match client.read(at as u64 * 4096, &mut block) {
            Ok(()) => {
                assert!(block == expected, "block {at}");
                right += 1;
            }
            Err(error) => {
                assert_eq!(error, RequestError::Device(Device::Source), "block {at}");
                refused += 1;
            }
        }
    }
    assert!(right >= 8 * 16 && refused > 0, "{right} right, {refused} refused");
    clone.stop();
}

#[test]
fn what_the_server_cannot_read_is_named_and_the_rest_is_hydrated() {
    let bytes = noise(3, 4 * MIB);
    let rig = Rig::new(REGION, &bytes);
    let endpoint = unix(rig.folder.path());
    // Bytes 1,500,160 to 1,599,488 are bad; they are in regions 22 to 24.
    let map = rig.path("map");
    let text = "0 ?\n0 1500160 +\n1500160 99328 -\n1599488 2594816 +\n";
    fs::write(&map, text).unwrap();
    let (file, map) = (rig.path("source"), format!("ddrescue-mapfile={}", map.display()));
    let args = ["--filter=ddrescue", "file", file.to_str().unwrap(), &map];
    let Some(_server) = Server::nbdkit(&endpoint, &args) else { return };
    let options =
        SourceOptions { give_up_after: Duration::from_secs(2), ..SourceOptions::default() };
    let source = open(rig.folder.path(), &options);
    let clone = rig.start_from(source, true);
    clone.command(Command::MaxFailures(0));
    wait_until(&clone, 61);
    clone.command(Command::MaxFailures(4));
    let mut seen = 0;
    let told = loop {
        let told =
            wait_after(&clone, &mut seen, |it| matches!(it, EventKind::HydrationStopped { .. }));
        // The last attempt of a copy may have begun shortly before its time limit.
        if !told.to_string().contains("did not answer in time") {
            break told;
        }
        clone.command(Command::Kernel(Message::EnableHydration));
    };
    let EventKind::HydrationStopped { failures, range, failure } = &told else { panic!("{told}") };
    assert!(*failures >= 4, "{told}");
    let region = 64 << 10;
    let bad = 22 * region..25 * region;
    assert!(bad.start <= range.start && range.end <= bad.end, "{told}");
    assert_eq!(failure.device, Device::Source);
    let told = told.to_string();
    assert!(told.contains("the NBD server cannot read bytes") && told.contains("EIO"), "{told}");
    let progress = clone.progress();
    assert_eq!((progress.hydrated, progress.regions), (61, 64));
    let aside: u64 =
        clone.failed_regions().iter().map(|it| it.regions.end - it.regions.start).sum();
    assert_eq!(aside, 3);
    let client = clone.client();
    let mut whole = vec![0; 64 << 10];
    for (at, expected) in bytes.chunks(64 << 10).enumerate() {
        let read = client.read(at as u64 * region, &mut whole);
        match (22..25).contains(&at) {
            true => assert_eq!(read, Err(RequestError::Device(Device::Source)), "region {at}"),
            false => assert!(read == Ok(()) && whole == expected, "region {at}: {read:?}"),
        }
    }
    clone.stop();
}
