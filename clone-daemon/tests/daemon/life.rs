//! Clones that are created and removed, and the end of the daemon.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clone_daemon::export::exporter::Exporter;
use clone_daemon::export::volume::Volume;
use clone_daemon::host::HostError;
use persistent_data::device::FileDevice;
use rustix::process::Signal;

use crate::support::cloned::{Cloned, cloned};
use crate::support::hosting::Hosting;
use crate::support::web::{Act, Web};

/// No request times out during a test.
const PATIENT: [&str; 4] = ["--source-timeout", "3000", "--source-give-up", "3000"];

/// Starts a server whose source can be opened but not read.
fn dead_source() -> Web {
    let web = Web::start(&vec![7; 4 << 20]);
    web.script(|ask| {
        let is_data = ask.range.as_ref().is_some_and(|range| range.len() >= 4096);
        if is_data { Act::Stall } else { Act::Serve }
    });
    web
}

fn wait_until(is_it: impl Fn() -> bool) {
    while !is_it() {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_name_and_its_files_are_free_at_once_whoever_removes_the_clone_and_whoever_still_has_it() {
    let hosting = Hosting::new(&[]);
    let (line, host) = (hosting.line("disk"), &hosting.host);
    let mut users = Vec::new();
    for _ in 0..20 {
        let served = host.create(&line).unwrap();
        users.push((served.volume().user(), served.volume().clone(), served));
        let together = Barrier::new(4);
        let removed = thread::scope(|scope| {
            let remove = || {
                together.wait();
                host.remove("disk")
            };
            let removes: Vec<_> = (0..4).map(|_| scope.spawn(remove)).collect();
            removes.into_iter().map(|remove| remove.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(removed.iter().filter(|removed| removed.is_ok()).count(), 1);
        for refused in removed.into_iter().filter_map(Result::err) {
            let is_right = matches!(refused, HostError::NoSuch { .. } | HostError::Busy(_));
            assert!(is_right, "{refused}");
        }
    }
}

/// An exporter that delays the setup of a clone until it is told to go on.
struct Gate {
    came: Mutex<Sender<()>>,
    goes: Mutex<Receiver<()>>,
}

impl Exporter for Gate {
    fn check(&self, _: &str) -> Result<()> {
        self.came.lock().unwrap().send(()).unwrap();
        Ok(self.goes.lock().unwrap().recv()?)
    }

    fn add(&self, _: &Arc<Volume>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn remove(&self, _: &Arc<Volume>) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_clone_that_is_set_up_while_the_host_stops_does_not_run_on() {
    let hosting = Hosting::new(&["other"]);
    let (came, has_come) = mpsc::channel();
    let (go, goes) = mpsc::channel();
    hosting.host.add_exporter(Arc::new(Gate { came: Mutex::new(came), goes: Mutex::new(goes) }));
    let line = hosting.line("disk");
    thread::scope(|scope| {
        let created = scope.spawn(|| hosting.host.create(&line).map(drop));
        has_come.recv().unwrap();
        let stopped = scope.spawn(|| hosting.host.stop());
        wait_until(|| hosting.host.find("other").is_none());
        // A stop that does not wait for the other clone has returned by then.
        thread::sleep(Duration::from_millis(300));
        go.send(()).unwrap();
        created.join().unwrap().unwrap();
        stopped.join().unwrap().unwrap();
    });
    assert!(hosting.host.list().is_empty());
    FileDevice::open_write(hosting.folder.path().join("disk.meta")).unwrap();
    let refused = hosting.host.create(&hosting.line("late")).err();
    assert!(matches!(refused, Some(HostError::Stopping)), "{refused:?}");
}

fn run(folder: &Path, url: &str, more: &[&str]) -> Cloned {
    let run = ["run", "-m", "metadata", "-d", "disk", "-s", url, "--control", "control"];
    Cloned::spawn(cloned(folder, &[&run[..], &PATIENT, more].concat()))
}

#[test]
fn a_daemon_ends_in_time_though_a_clone_is_suspended_whose_source_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let web = dead_source();
    let mut daemon = run(folder.path(), &web.url(), &["--region-size", "64k"]);
    daemon.wait_for("serving ");
    // A copy is in flight, and does not end.
    wait_until(|| {
        web.asked().iter().any(|ask| ask.range.as_ref().is_some_and(|r| r.len() >= 4096))
    });
    let suspend = Command::new(env!("CARGO_BIN_EXE_clonectl"))
        .current_dir(folder.path())
        .args(["--socket", "control", "suspend", "disk"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It is waiting by then; otherwise the test shows less.
    thread::sleep(Duration::from_millis(500));
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    let output = suspend.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped"), "{said}");
}

#[test]
fn a_daemon_that_opens_a_source_which_does_not_answer_ends_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let web = Web::start(&[7; 1 << 20]);
    web.script(|_| Act::Stall);
    let mut daemon = run(folder.path(), &web.url(), &[]);
    wait_until(|| !web.asked().is_empty());
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert!(!folder.path().join("metadata").exists() && !folder.path().join("control").exists());

    // The same during a reload.
    let tab = folder.path().join("clonetab");
    fs::write(&tab, "").unwrap();
    let serve = ["serve", "--clonetab", "clonetab", "--control", "none"];
    let mut daemon = Cloned::start(folder.path(), &[&serve[..], &PATIENT].concat());
    fs::write(&tab, format!("disk {} data metadata\n", web.url())).unwrap();
    let asked = web.asked().len();
    daemon.signal(Signal::HUP);
    wait_until(|| web.asked().len() > asked);
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
}

#[test]
fn clones_whose_sources_do_not_answer_are_ended_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let web = dead_source();
    let line = |disk| format!("disk{disk} {} data{disk} meta{disk} region_size=128\n", web.url());
    // In sequence, with the time limit of each source, they would take too long.
    let table: String = (0..16).map(line).collect();
    fs::write(folder.path().join("clonetab"), table).unwrap();
    let serve = ["serve", "--clonetab", "clonetab", "--control", "none"];
    let mut daemon = Cloned::start(folder.path(), &[&serve[..], &PATIENT].concat());
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
}

#[test]
fn a_suspend_ends_when_somebody_resumes_the_clone_or_removes_it() {
    let hosting = Hosting::new(&["disk"]);
    let web = dead_source();
    let path = |name: &str| hosting.folder.path().join(name).display().to_string();
    let (data, metadata) = (path("slow.data"), path("slow.meta"));
    let line = format!("slow {} {data} {metadata} region_size=128", web.url());
    hosting.host.create(&line).unwrap();
    wait_until(|| {
        web.asked().iter().any(|ask| ask.range.as_ref().is_some_and(|r| r.len() >= 4096))
    });
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let suspend = scope.spawn(|| {
            let said = hosting.clonectl(&["suspend", "slow"]).fails(1);
            is_over.store(true, Ordering::SeqCst);
            said
        });
        while !is_over.load(Ordering::SeqCst) {
            hosting.clonectl(&["resume", "slow"]).text();
        }
        assert!(suspend.join().unwrap().contains("was resumed before it had come to rest"));
        let suspend = scope.spawn(|| hosting.clonectl(&["suspend", "slow"]).fails(1));
        thread::sleep(Duration::from_millis(300));
        hosting.clonectl(&["remove", "slow"]).text();
        suspend.join().unwrap();
    });
    hosting.host.create(&line).unwrap();
    hosting.host.stop().unwrap();
}
