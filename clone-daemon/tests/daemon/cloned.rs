//! `cloned` as a process: errors, created files and exit.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output};

use clone_core::metadata::Metadata;
use clone_core::metadata::check::read;
use persistent_data::device::FileDevice;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::nbd_server::served::script;
use crate::support::cloned::{Cloned, cloned};
use crate::support::{LONG, skipped};

const SIZE: usize = 4 << 20;

/// Creates a directory with a source.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut content = vec![0; SIZE];
    StdRng::seed_from_u64(1).fill_bytes(&mut content);
    fs::write(folder.path().join("source"), content).unwrap();
    folder
}

const RUN: [&str; 7] = ["run", "-m", "metadata", "-d", "destination", "-s", "source"];

fn run(folder: &Path, arguments: &[&str]) -> Output {
    cloned(folder, arguments).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Returns the files of a directory with their content.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    entries
}

fn hydrated(folder: &Path) -> u64 {
    let device = FileDevice::open_read(folder.join("metadata")).unwrap();
    let report = read(&device, &());
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    report.regions.unwrap().hydrated()
}

#[test]
fn a_clone_that_is_begun_is_finished_and_the_metadata_says_so() {
    let folder = folder();
    let mut daemon = Cloned::start(folder.path(), &RUN);
    daemon.wait_for("hydration finished");
    assert!(daemon.stop().success());
    let path = |name: &str| folder.path().join(name);
    assert!(fs::read(path("destination")).unwrap() == fs::read(path("source")).unwrap());
    assert_eq!(hydrated(folder.path()), SIZE as u64 / 4096);
    // A complete clone does not need its source.
    fs::remove_file(path("source")).unwrap();
    let mut daemon = Cloned::start(folder.path(), &[&RUN[..], &["--fuse", "file"]].concat());
    assert!(daemon.said.iter().any(|line| line.contains("served without its source")));
    daemon.signal(Signal::INT);
    assert!(daemon.wait().success());
}

#[test]
fn a_dry_run_says_what_a_start_would_do_and_changes_nothing() {
    let folder = folder();
    let dry = [&RUN[..], &["--dry-run"]].concat();
    let before = content(folder.path());
    let output = run(folder.path(), &dry);
    assert!(output.status.success(), "{}", told(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "destination: 8192 sectors (4 MiB), 1024 regions of 8 sectors (4 KiB)",
        "table: 0 8192 clone metadata destination source 8 0 4 hydration_threshold",
        "metadata: metadata, to be made",
        "destination: destination, to be made",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert!(content(folder.path()) == before);

    drop(Cloned::start(folder.path(), &[&RUN[..], &["--no-hydration"]].concat()));
    let before = content(folder.path());
    let output = run(folder.path(), &dry);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("sound; 0 of 1024 regions hydrated"), "{said}");
    assert!(content(folder.path()) == before);
    // The table line of a dry run can also start the clone.
    let line = said.lines().find_map(|line| line.strip_prefix("table: ")).unwrap();
    assert!(run(folder.path(), &["run", "--dry-run", "--table", line]).status.success());
    assert!(content(folder.path()) == before);
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason_and_nothing_is_changed() {
    let folder = folder();
    let path = folder.path();
    let paused = [&RUN[..], &["--no-hydration"]].concat();
    assert!(Cloned::start(path, &paused).stop().success());
    // Some regions are hydrated, so that no other destination is accepted, but not all, so that the
    // source is needed.
    let device = FileDevice::open_write(path.join("metadata")).unwrap();
    let mut metadata = Metadata::open(device).unwrap();
    metadata.set_hydrated(3..7).unwrap();
    metadata.commit().unwrap();
    drop(metadata);
    fs::write(path.join("short"), vec![0; SIZE / 2]).unwrap();
    fs::write(path.join("garbage"), vec![0xaa; 1 << 20]).unwrap();
    fs::write(path.join("tiny"), vec![0; 4096]).unwrap();
    let before = content(path);
    for (table, reason) in [
        ("0 8192 clone metadata destination source 16", "with regions of 8 sectors (4 KiB)"),
        ("0 8000 clone metadata destination source 8", "of 8192 sectors (4 MiB), and not of 8000"),
        ("clone metadata short source 8", "the destination short has 2 MiB, and the clone 4 MiB"),
        ("clone metadata destination short 8", "it had 4194304 bytes, and has 2097152"),
        ("clone garbage destination source 8", "garbage: "),
        ("clone tiny new source 8", "tiny has 8 sectors (4 KiB), which is too small"),
        ("clone metadata ./metadata source 8", "are the same"),
        ("clone metadata nowhere source 8", "nowhere does not exist, and no new one will do"),
        ("clone new no/where source 8", "there is no directory no"),
        ("clone new other missing 8", "missing does not exist"),
    ] {
        let output = run(path, &["run", "--table", table]);
        assert_eq!(output.status.code(), Some(1), "{table}: {}", told(&output));
        assert!(told(&output).contains(reason), "{table}: {}", told(&output));
        assert!(content(path) == before, "{table}");
    }
    for (table, reason) in [
        ("0 8192 clone metadata destination source 9", "word 7, the region size, is \"9\""),
        ("clone destination destination source 8", "is the metadata device and the destination"),
    ] {
        let output = run(path, &["run", "--table", table]);
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains(reason), "{}", told(&output));
        assert!(content(path) == before, "{table}");
    }
}

#[test]
fn a_place_where_it_cannot_be_served_is_found_before_anything_is_made() {
    let folder = folder();
    fs::write(folder.path().join("full"), "x").unwrap();
    let before = content(folder.path());
    for place in ["full", "no/where"] {
        let output = run(folder.path(), &[&RUN[..], &["--fuse", place]].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(told(&output).contains(place), "{}", told(&output));
        assert!(content(folder.path()) == before);
    }
}

#[test]
fn two_daemons_never_have_the_same_metadata_or_destination() {
    let folder = folder();
    let first = Cloned::start(folder.path(), &[&RUN[..], &["--no-hydration"]].concat());
    for (table, name) in [
        ("clone metadata other source 8", "metadata is in use"),
        ("clone other destination source 8", "destination is in use"),
    ] {
        let output = run(folder.path(), &["run", "--table", table]);
        assert_eq!(output.status.code(), Some(1));
        assert!(told(&output).contains(name), "{}", told(&output));
    }
    assert!(!folder.path().join("other").exists());
    // QEMU cannot open it either.
    if let Some(qemu_io) = crate::support::program("qemu-io") {
        let path = folder.path().join("destination");
        let output =
            Command::new(qemu_io).args(["-f", "raw", "-c", "write 0 512"]).arg(path).output();
        assert!(told(&output.unwrap()).contains("lock"));
    }
    assert!(first.stop().success());
}

#[test]
fn metadata_that_is_all_zero_is_formatted_and_what_is_overwritten_is_told() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    File::create(path("metadata")).unwrap().set_len(1 << 20).unwrap();
    fs::write(path("destination"), vec![7; SIZE]).unwrap();
    let daemon = Cloned::start(folder.path(), &[&RUN[..], &["--no-hydration"]].concat());
    let warning = "what destination holds will be overwritten";
    assert!(daemon.said.iter().any(|line| line.contains(warning)), "{:?}", daemon.said);
    assert!(daemon.stop().success());
    assert_eq!(hydrated(folder.path()), 0);
}

#[test]
fn what_was_copied_before_a_signal_is_not_copied_again() {
    let folder = folder();
    let slow = [&RUN[..], &["--hydration-rate", "128k", "--record", "trace"]].concat();
    let mut daemon = Cloned::start(folder.path(), &slow);
    while File::open(folder.path().join("destination"))
        .is_ok_and(|file| file.read_exact_at(&mut [0; 1], 1 << 20).is_ok_and(|()| is_empty(&file)))
    {
        std::thread::yield_now();
    }
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    let first = hydrated(folder.path());
    assert!(first > 0 && first < 1024, "{first}");
    assert!(folder.path().join("trace").exists());
    let mut daemon = Cloned::start(folder.path(), &[&RUN[..], &["--prefetch", "trace"]].concat());
    daemon.wait_for("hydration finished");
    assert!(daemon.stop().success());
    let device = FileDevice::open_write(folder.path().join("metadata")).unwrap();
    assert_eq!(Metadata::open(device).unwrap().nr_hydrated(), 1024);
}

/// Returns whether nothing has been written to a destination.
fn is_empty(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.blocks() == 0)
}

#[test]
fn a_source_that_is_another_one_is_refused_until_it_is_taken_for_the_same() {
    let folder = folder();
    let paused = [&RUN[..], &["--no-hydration"]].concat();
    assert!(Cloned::start(folder.path(), &paused).stop().success());
    assert!(folder.path().join("metadata.source.json").exists());
    let source = folder.path().join("source");
    fs::copy(&source, folder.path().join("copy")).unwrap();
    fs::rename(folder.path().join("copy"), &source).unwrap();
    let output = run(folder.path(), &RUN);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("is not the original source of the clone"), "{}", told(&output));
    let again = [&paused[..], &["--repin"]].concat();
    assert!(Cloned::start(folder.path(), &again).stop().success());
    assert!(Cloned::start(folder.path(), &paused).stop().success());
}

#[test]
fn a_table_of_clones_is_read_again_and_the_others_are_left_alone() {
    let folder = folder();
    let tab = folder.path().join("clonetab");
    let line = |name: &str| format!("{name} source {name}.img {name}.meta no_hydration\n");
    fs::write(&tab, format!("# two\n{}{}", line("a"), line("b"))).unwrap();
    let mut daemon = Cloned::start(folder.path(), &["serve", "--clonetab", "clonetab"]);
    assert!(daemon.said.iter().any(|said| said.contains("2 set up, 0 taken down, 0 failed")));
    let changed = line("a").replace("no_hydration", "region_size=16");
    fs::write(&tab, format!("{changed}{}x source a.img x.meta\n", line("c"))).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("a.img is in use");
    daemon.wait_for("1 set up, 1 taken down, 1 failed");
    assert!(daemon.said.iter().any(|said| said.contains("its line has changed")));
    // An invalid clonetab changes nothing.
    fs::write(&tab, "a\n").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("clonetab: line 1: 1 fields");
    fs::write(&tab, "").unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("0 set up, 2 taken down, 0 failed");
    assert!(daemon.stop().success());
    let refused = run(folder.path(), &["serve", "--clonetab", "nowhere"]);
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn systemd_is_told_how_the_daemon_is() {
    let folder = folder();
    let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let told = |text: &str| {
        let mut message = [0; 4096];
        loop {
            let len = socket.recv(&mut message).unwrap();
            if String::from_utf8_lossy(&message[..len]).lines().any(|line| line == text) {
                return;
            }
        }
    };
    let tab = folder.path().join("clonetab");
    fs::write(&tab, "disk source disk.img disk.meta no_hydration\n").unwrap();
    let mut command = cloned(folder.path(), &["serve", "--clonetab", "clonetab"]);
    command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "100000");
    let mut daemon = Cloned::spawn(command);
    told("READY=1");
    told("WATCHDOG=1");
    daemon.signal(Signal::HUP);
    told("RELOADING=1");
    told("READY=1");
    daemon.signal(Signal::TERM);
    told("STOPPING=1");
    assert!(daemon.wait().success());
}

#[test]
fn sockets_that_systemd_passes_on_are_served() {
    let folder = folder();
    let arguments = [&RUN[..], &["--nbd", "systemd", "--control", "none"]].concat();
    let mut command = vec![env!("CARGO_BIN_EXE_cloned")];
    command.extend(arguments);
    // libnbd passes a socket on as systemd does.
    let text = format!(
        "import os\nos.chdir({:?})\nh.connect_systemd_socket_activation({command:?})\n\
         assert h.get_size() == {SIZE}\n\
         assert h.pread(4096, 4096) == open('source', 'rb').read()[4096:8192]\nh.shutdown()\n",
        folder.path()
    );
    script("", &text);
}

#[test]
fn the_check_before_the_kernel_sets_a_clone_up_lets_sound_and_new_metadata_pass() {
    let folder = folder();
    drop(Cloned::start(folder.path(), &RUN));
    let path = |name: &str| folder.path().join(name);
    let mut damaged = fs::read(path("metadata")).unwrap();
    damaged[100] ^= 1;
    fs::write(path("damaged"), damaged).unwrap();
    fs::write(path("new"), vec![0; 40960]).unwrap();
    let names = ["metadata", "damaged", "new"];
    let lines = names.map(|name| format!("{name} s d {} -\n", path(name).display()));
    fs::write(path("clonetab"), lines.concat()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/check-before-setup");
    let tools = Path::new(env!("CARGO_BIN_EXE_cloned")).parent().unwrap();
    if !tools.join("clone_check").exists() {
        skipped("clone_check is not built; `cargo test --workspace` builds it");
        return;
    }
    let programs = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
    let checked = |name: &str| {
        let mut check = Command::new(script);
        check.arg(name).arg(path("clonetab")).env("PATH", &programs);
        check.output().unwrap()
    };
    for (name, code) in [("metadata", 0), ("new", 0), ("damaged", 1), ("nobody", 1)] {
        let output = checked(name);
        assert_eq!(output.status.code(), Some(code), "{name}: {}", told(&output));
    }
    assert!(told(&checked("damaged")).contains("is not set up: its metadata"));
    assert!(told(&checked("nobody")).contains("has no clone nobody"));
}
