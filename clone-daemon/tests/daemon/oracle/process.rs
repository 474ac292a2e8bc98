//! The daemon, as a process that comes and goes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use clone_core::geometry::{Geometry, RegionSize, Sectors};
use clone_core::metadata::check::read;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_daemon::control::protocol::{CloneStatus, Item, Verb};
use persistent_data::device::FileDevice;
use rustix::process::{Pid, Signal, kill_process};

use super::disk::Disk;
use super::plan::Place;
use super::run::{NAME, Run};
use super::source::Source;
use super::verbs::{Answer, ask};

/// How often it is looked whether something has happened.
const GLANCE: Duration = Duration::from_millis(2);

/// The clone on disk, and the daemon that serves it.
pub(super) struct Daemon<'a> {
    run: &'a Run,
    /// Where metadata and destination are.
    folder: PathBuf,
    /// The disk that these are on, if it can lose power.
    disk: Option<Disk>,
    line: String,
    child: Option<Child>,
    /// It was complete when it was started: it does not tell that it has become so.
    pub(super) was_complete: bool,
}

impl<'a> Daemon<'a> {
    pub(super) fn new(run: &'a Run, source: &Source, folder: PathBuf) -> Self {
        let disk = match run.plan.place {
            Place::Volatile { flush_ms } => Some(volatile(run, &folder, flush_ms)),
            _ => None,
        };
        let (line, child, was_complete) = (String::new(), None, false);
        let mut daemon = Self { run, folder, disk, line, child, was_complete };
        let (metadata, destination) = (daemon.metadata(), daemon.destination());
        let options: Vec<String> = run.plan.options.clone();
        daemon.line = format!(
            "{NAME} {} {} {} {}",
            source.name(),
            destination.display(),
            metadata.display(),
            options.join(",")
        );
        fs::write(run.folder.join("clonetab"), &daemon.line).unwrap();
        daemon
    }

    /// The line of its clone in a clonetab.
    pub(super) fn line(&self) -> &str {
        &self.line
    }

    fn metadata(&self) -> PathBuf {
        self.run.folder.join("metadata")
    }

    pub(super) fn destination(&self) -> PathBuf {
        match self.run.plan.place {
            Place::Small(_) => self.folder.join("small/destination"),
            _ => self.folder.join("destination"),
        }
    }

    fn fuse(&self) -> PathBuf {
        self.run.folder.join("fuse")
    }

    /// Starts it, and waits until it serves the clone; whether it does.
    pub(super) fn start(&mut self) -> bool {
        let plan = &self.run.plan;
        let mut command = match std::env::var_os("ORACLE_CLONED") {
            Some(other) => Command::new(other),
            None => Command::new(env!("CARGO_BIN_EXE_cloned")),
        };
        command.current_dir(&self.run.folder).args(["serve", "--clonetab", "clonetab"]);
        command.args(["--nbd", "unix:nbd", "--control", "control"]).args(&plan.arguments);
        if plan.fuse_users > 0 {
            fs::create_dir_all(self.fuse()).unwrap();
            command.arg("--fuse").arg("fuse");
        }
        let log = File::options().create(true).append(true).open(self.run.folder.join("log"));
        let said = if plan.is_mute { File::options().write(true).open("/dev/full") } else { log };
        command.stdin(Stdio::null()).stderr(said.unwrap());
        let child = command.spawn().unwrap();
        self.run.pid.store(child.id(), Ordering::Release);
        self.child = Some(child);
        self.run.tally.add("starts", 1);
        let waiting = self.run.waits.begin("the start of the daemon");
        let status = self.wait_until_served();
        drop(waiting);
        match status {
            Some(status) => {
                self.was_complete = status.complete;
                true
            }
            None => {
                self.run.find("the daemon does not start, or not with the clone");
                false
            }
        }
    }

    fn wait_until_served(&mut self) -> Option<CloneStatus> {
        loop {
            let ended = self.child.as_mut()?.try_wait().unwrap();
            if self.run.is_over() || ended.is_some() {
                return None;
            }
            match self.ask_for_status() {
                Answer::Done(items) => return status_in(items),
                // It has nothing to say before it has set up its clones.
                Answer::Refused(_) => return None,
                Answer::Gone(_) => {}
            }
            thread::sleep(GLANCE);
        }
    }

    /// How the clone stands, if it is there.
    pub(super) fn status(&self) -> Option<CloneStatus> {
        match self.ask_for_status() {
            Answer::Done(items) => status_in(items),
            Answer::Refused(_) | Answer::Gone(_) => None,
        }
    }

    fn ask_for_status(&self) -> Answer {
        let verb = Verb::Status { name: Some(NAME.into()), flush: false };
        ask(self.run, "the director", verb)
    }

    pub(super) fn signal(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        // If it has ended, that is found out elsewhere.
        let _ = kill_process(Pid::from_child(child), signal);
    }

    /// Waits until it has ended.
    fn wait(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        let status = child.wait().unwrap();
        self.run.pid.store(0, Ordering::Release);
        Some(status)
    }

    /// kill -9, and what that leaves of the metadata.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let waiting = self.run.waits.begin("kill -9");
        self.wait();
        drop(waiting);
        self.unmount();
        self.lose_power();
        self.check_metadata();
    }

    /// Of what was not flushed some is lost, if the disk can lose power.
    fn lose_power(&self) {
        if let Some(disk) = &self.disk {
            disk.lose_power();
        }
    }

    /// The next flush of the destination fails.
    pub(super) fn fail_a_flush(&self) {
        if let Some(disk) = &self.disk {
            disk.fail_a_flush();
        }
    }

    /// Has it end as systemd does.
    pub(super) fn end(&mut self) {
        self.signal(Signal::TERM);
        let waiting = self.run.waits.begin("SIGTERM");
        let status = self.wait();
        drop(waiting);
        let is_well = status.is_none_or(|status| status.success());
        if !(is_well || self.run.is_over() || self.run.may_be_broken()) {
            self.run.find(format!("after SIGTERM it ends with {status:?}"));
        }
        if !is_well {
            self.unmount();
            self.lose_power();
        }
        self.check_metadata();
    }

    /// What a daemon leaves behind that cannot clean up any more.
    fn unmount(&self) {
        if self.run.plan.fuse_users > 0 {
            let path = self.fuse().join(NAME);
            let _ = Command::new("fusermount3").arg("-uzq").arg(path).status();
        }
    }

    /// Checks the metadata, which nobody uses; how many regions are hydrated.
    pub(super) fn check_metadata(&self) -> u64 {
        let Ok(device) = FileDevice::open_read(self.metadata()) else { return 0 };
        let report = read(&device, &());
        if !report.damage.is_empty() {
            self.run.find(format!("the metadata is damaged: {:?}", report.damage));
        }
        report.regions.map_or(0, |regions| regions.hydrated())
    }

    /// What the destination holds.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.run.plan.size as usize];
        File::open(self.destination()).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Removes what makes up the clone, so that another one begins.
    pub(super) fn forget(&self) {
        let pin = PathBuf::from(format!("{}.source.json", self.metadata().display()));
        fs::remove_file(pin).unwrap();
        match &self.disk {
            Some(disk) => disk.forget(),
            None => {
                for path in [&self.metadata(), &self.destination()] {
                    fs::remove_file(path).unwrap();
                }
            }
        }
    }
}

/// A disk that can lose power, with metadata and destination of a new clone.
fn volatile(run: &Run, folder: &Path, flush_ms: u64) -> Disk {
    let (region, size) = (Sectors(run.plan.region / 512), Sectors(run.plan.size / 512));
    let geometry = Geometry::new(RegionSize::new(region).unwrap(), size).unwrap();
    let metadata = MetadataSize::of(geometry).total_blocks() as usize * 4096;
    let (at, flush) = (|name: &str| folder.join(name), Duration::from_millis(flush_ms));
    let sizes = [metadata, run.plan.size as usize];
    Disk::mount([&at("metadata"), &at("destination")], sizes, run.plan.seed, flush).unwrap()
}

fn status_in(mut items: Vec<Item>) -> Option<CloneStatus> {
    match items.pop() {
        Some(Item::Clone(status)) => Some(*status),
        _ => None,
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
            self.run.pid.store(0, Ordering::Release);
            self.unmount();
        }
    }
}

/// A file system with little room. It is unmounted when this is dropped.
pub(super) struct Small(PathBuf);

impl Small {
    /// `None` if this user may not mount.
    pub(super) fn mount(at: &Path, bytes: u64) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(at);
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then(|| Self(at.to_owned()))
    }

    /// From now on there is enough room.
    pub(super) fn grow(&self, bytes: u64) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={bytes}")]).arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Nothing can be done about it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
