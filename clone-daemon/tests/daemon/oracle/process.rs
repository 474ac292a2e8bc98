//! The daemon process, which the test starts and ends repeatedly.

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

/// Polling interval.
const GLANCE: Duration = Duration::from_millis(2);

/// The clone on disk, and the daemon that serves it.
pub(super) struct Daemon<'a> {
    run: &'a Run,
    /// The directory of metadata and destination.
    folder: PathBuf,
    /// The disk that holds them, if it can lose power.
    disk: Option<Disk>,
    line: String,
    child: Option<Child>,
    /// True if the clone was complete at the start: then no event reports completion.
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

    /// Returns the clonetab line of the clone.
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

    /// Starts the daemon, and waits until it serves the clone. Returns whether it does.
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
                // It does not reply before its clones are set up.
                Answer::Refused(_) => return None,
                Answer::Gone(_) => {}
            }
            thread::sleep(GLANCE);
        }
    }

    /// Returns the status of the clone, if it exists.
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
        // The end of the process is detected elsewhere.
        let _ = kill_process(Pid::from_child(child), signal);
    }

    /// Waits for the end of the process.
    fn wait(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        let status = child.wait().unwrap();
        self.run.pid.store(0, Ordering::Release);
        Some(status)
    }

    /// Sends SIGKILL, and checks the metadata afterwards.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let waiting = self.run.waits.begin("kill -9");
        self.wait();
        drop(waiting);
        self.unmount();
        self.lose_power();
        self.check_metadata();
    }

    /// Simulates a loss of power, if the disk supports it.
    fn lose_power(&self) {
        if let Some(disk) = &self.disk {
            disk.lose_power();
        }
    }

    /// Makes the next flush of the destination fail.
    pub(super) fn fail_a_flush(&self) {
        if let Some(disk) = &self.disk {
            disk.fail_a_flush();
        }
    }

    /// Lets flushes of the destination succeed again, if none has failed yet.
    pub(super) fn fail_no_flush(&self) {
        if let Some(disk) = &self.disk {
            disk.fail_no_flush();
        }
    }

    /// Stops the daemon as systemd does.
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

    /// Removes the mount that a killed daemon leaves behind.
    fn unmount(&self) {
        if self.run.plan.fuse_users > 0 {
            let path = self.fuse().join(NAME);
            let _ = Command::new("fusermount3").arg("-uzq").arg(path).status();
        }
    }

    /// Checks the metadata while it is not in use. Returns the number of hydrated regions.
    pub(super) fn check_metadata(&self) -> u64 {
        let Ok(device) = FileDevice::open_read(self.metadata()) else { return 0 };
        let report = read(&device, &());
        if !report.damage.is_empty() {
            self.run.find(format!("the metadata is damaged: {:?}", report.damage));
        }
        report.regions.map_or(0, |regions| regions.hydrated())
    }

    /// Returns the content of the destination.
    pub(super) fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.run.plan.size as usize];
        File::open(self.destination()).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Removes the files of the clone, so that the next one is new.
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

/// Mounts a disk that can lose power, with the files of a new clone.
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

/// A small file system. It is unmounted on drop.
pub(super) struct Small(PathBuf);

impl Small {
    /// Mounts it. Returns `None` if this user may not mount.
    pub(super) fn mount(at: &Path, bytes: u64) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(at);
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then(|| Self(at.to_owned()))
    }

    /// Enlarges the file system.
    pub(super) fn grow(&self, bytes: u64) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={bytes}")]).arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A failure cannot be handled here.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
