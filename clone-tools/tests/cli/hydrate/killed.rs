//! Kills a hydration with `kill -9`, again and again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clone_core::block_io::{Access, FileDestination, FileSource, Source};
use clone_core::driver::{Devices, DriverOptions, RunningClone};
use clone_core::engine::Settings;
use clone_core::metadata::Metadata;
use persistent_data::device::FileDevice;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Trio;
use crate::support::{Scratch, binary, run, seed};

const MIB: u64 = 1 << 20;

/// The number of kills.
const KILLS: usize = 50;

/// Makes a file system of `size_mib` in a file, with `data_mib` in files of all sizes, some of them
/// with holes. `None` if the machine has no program for that.
fn file_system(scratch: &Scratch, rng: &mut StdRng, size_mib: u64, data_mib: u64) -> Option<File> {
    let folder = scratch.path("files");
    let mut left = data_mib * MIB;
    for number in 0.. {
        if left == 0 {
            break;
        }
        let most = if number % 64 == 0 { 4 * MIB } else { 64 << 10 };
        let mut bytes = vec![0; rng.random_range(1..=most.min(left)) as usize];
        rng.fill(&mut bytes[..]);
        left -= bytes.len() as u64;
        let path = folder.join(format!("{}/{number}", number % 20));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        for (piece, chunk) in bytes.chunks(300_000).enumerate() {
            file.write_all_at(chunk, piece as u64 * 400_000).unwrap();
        }
    }
    let image = scratch.path("source");
    let made = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d"])
        .arg(&folder)
        .arg(&image)
        .arg(format!("{size_mib}M"))
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output();
    fs::remove_dir_all(&folder).unwrap();
    match made {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(File::open(image).unwrap())
        }
        Err(error) => {
            eprintln!("skipped: no mke2fs to make a file system with: {error}; see tests/setup");
            None
        }
    }
}

/// A clone whose hydration is killed, with its expected state.
struct Victim {
    clone: Trio,
    region_bytes: u64,
    /// The content of the clone: the source, overlaid with all writes to the clone.
    model: Vec<u8>,
    /// For each region, true if it was already seen hydrated and correct.
    seen: Vec<bool>,
    rng: StdRng,
    killed: usize,
}

impl Victim {
    fn new(test: &str, region_sectors: u64, size_mib: u64, data_mib: u64) -> Option<Self> {
        let mut rng = StdRng::seed_from_u64(seed(test));
        let scratch = Scratch::new();
        file_system(&scratch, &mut rng, size_mib, data_mib)?;
        let paths = ["metadata", "source", "destination"].map(|name| scratch.path(name));
        let [metadata, source, destination] = paths;
        File::create(&destination).unwrap().set_len(size_mib * MIB).unwrap();
        let (region, target) = (region_sectors.to_string(), format!("{size_mib}M"));
        let sizes = ["--region-size", &region, "--target-size", &target, "--hydrated", "none"];
        let output = ["-o", metadata.to_str().unwrap()];
        run("clone_restore", sizes.iter().chain(&output)).exits(0);

        let region_bytes = region_sectors * 512;
        let nr_regions = (size_mib * MIB).div_ceil(region_bytes);
        let model = fs::read(&source).unwrap();
        let clone = Trio { scratch, metadata, source, destination, nr_regions };
        let seen = vec![false; nr_regions as usize];
        Some(Self { clone, region_bytes, model, seen, rng, killed: 0 })
    }

    fn spawn(&self, more: &[&str]) -> Child {
        Command::new(binary("clone_hydrate"))
            .args(self.clone.args(more))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Hydrates for a while and kills it: before, during or after the commit that ends a limit, or
    /// when the metadata has begun to change.
    fn hydrate_and_kill(&mut self) {
        // At 16 MiB per second each MiB takes about 60 ms, and then it commits.
        let limit: u64 = self.rng.random_range(64..2048);
        let millis = limit * 1000 / (16 << 10) + 15;
        let limit = format!("{limit}k");
        let mut child = if self.rng.random_ratio(1, 8) {
            let before = fs::read(&self.clone.metadata).unwrap();
            let mut child = self.spawn(&["-q", "--rate=1M", "--batch=64k"]);
            while child.try_wait().unwrap().is_none()
                && fs::read(&self.clone.metadata).unwrap() == before
            {
                thread::yield_now();
            }
            child
        } else {
            let child = self.spawn(&["-q", "--rate=16M", "--batch=64k", "--limit", &limit]);
            thread::sleep(Duration::from_micros(self.rng.random_range(0..millis * 1100)));
            child
        };
        child.kill().unwrap();
        self.killed += usize::from(child.wait().unwrap().code().is_none());
        self.check();
    }

    /// Checks that the metadata is sound and correct, and has lost no hydrated region.
    fn check(&mut self) {
        let metadata = &self.clone.metadata;
        let check = || run("clone_check", ["-q".as_ref(), metadata.as_os_str()]);
        let mut checked = check();
        // A process that another test is just starting still shares the locks of this process.
        for _ in 0..3000 {
            if !checked.stderr.contains("in use by another program") {
                break;
            }
            thread::sleep(Duration::from_millis(20));
            checked = check();
        }
        checked.exits(0).stays_silent();
        let dump = run("clone_dump", ["--format=json".as_ref(), metadata.as_os_str()]).json();
        let mut hydrated = vec![false; self.seen.len()];
        for run in dump["runs"].as_array().unwrap() {
            let run = [0, 1].map(|end| run[end].as_u64().unwrap() as usize);
            hydrated[run[0]..run[1]].fill(true);
        }
        let destination = File::open(&self.clone.destination).unwrap();
        for (region, hydrated) in hydrated.into_iter().enumerate() {
            let (was, begin) = (self.seen[region], region as u64 * self.region_bytes);
            assert!(hydrated || !was, "region {region} is forgotten");
            if hydrated && !was {
                let end = (begin + self.region_bytes).min(self.model.len() as u64);
                let mut bytes = vec![0; (end - begin) as usize];
                destination.read_exact_at(&mut bytes, begin).unwrap();
                let is_right = bytes == self.model[begin as usize..end as usize];
                assert!(is_right, "region {region} is not on the destination");
                self.seen[region] = true;
            }
        }
    }

    /// Writes at random places through a clone that runs in this process, and may hydrate at the
    /// same time.
    fn write(&mut self) {
        let mut settings = Settings { hydration_rate: Some(4 * MIB), ..Settings::default() };
        settings.options.hydration = self.rng.random();
        settings.options.hydration_batch_size = 16;
        settings.options.hydration_threshold = 64;
        let Trio { metadata, source, destination, .. } = &self.clone;
        let metadata = Metadata::open(FileDevice::open_write(metadata).unwrap()).unwrap();
        let source = Arc::new(FileSource::open(source, Access::Buffered).unwrap());
        let destination = Arc::new(FileDestination::open(destination, Access::Buffered).unwrap());
        let devices = Devices { metadata, source, destination };
        let running = RunningClone::start(devices, settings, DriverOptions::default()).unwrap();
        let client = running.client();
        for _ in 0..self.rng.random_range(1..30) {
            let len = if self.rng.random() { 5000 } else { 300_000 };
            let len = self.rng.random_range(1..=len);
            let at = self.rng.random_range(0..self.model.len() - len);
            let model = &mut self.model[at..at + len];
            if self.rng.random_ratio(1, 4) {
                model.fill(0);
                let range = at as u64..(at + len) as u64;
                client.write_zeroes(range, self.rng.random(), false).unwrap();
            } else {
                self.rng.fill(&mut model[..]);
                client.write(at as u64, model, self.rng.random_ratio(1, 8)).unwrap();
            }
            if self.rng.random_ratio(1, 8) {
                client.flush().unwrap();
            }
            let regions =
                at / self.region_bytes as usize..=(at + len - 1) / self.region_bytes as usize;
            // The written regions are checked again.
            self.seen[regions].fill(false);
        }
        drop(client);
        if self.rng.random() {
            assert!(running.stop().failure.is_none());
        } else {
            drop(running);
        }
        self.check();
    }

    /// Completes the hydration.
    fn finish(&mut self) {
        assert!(self.killed >= KILLS / 2, "only {} of {KILLS} were killed at work", self.killed);
        let is_done = self.seen.iter().all(|&seen| seen);
        assert!(!is_done, "nothing was left to do");
        self.clone.run(&["-q"]).exits(0).stays_silent();
        self.check();
        assert_eq!(self.clone.hydrated(), self.clone.nr_regions);
        assert!(fs::read(&self.clone.destination).unwrap() == self.model);
    }
}

/// Returns the number of bytes of a file that are not in holes.
fn data_bytes(path: &Path) -> u64 {
    let file = FileSource::open(path, Access::Buffered).unwrap();
    let size_bytes = fs::metadata(path).unwrap().len();
    let (mut at, mut data) = (0, 0);
    while at < size_bytes {
        let extent = file.extent(at).unwrap();
        data += if extent.zeroes { 0 } else { extent.end - at };
        at = extent.end;
    }
    data
}

#[test]
fn a_clone_that_is_killed_again_and_again_becomes_its_source() {
    let test = "a_clone_that_is_killed_again_and_again_becomes_its_source";
    let Some(mut victim) = Victim::new(test, 8, 384, 64) else { return };
    for _ in 0..KILLS {
        victim.hydrate_and_kill();
    }
    victim.finish();
    let (source, destination) = (&victim.clone.source, &victim.clone.destination);
    assert!(fs::read(source).unwrap() == fs::read(destination).unwrap());
    let (there, here) = (data_bytes(source), data_bytes(destination));
    assert!(here <= there, "{here} bytes of data, and the source has {there}");
}

#[test]
fn a_clone_that_is_written_to_between_kills_keeps_every_write() {
    let test = "a_clone_that_is_written_to_between_kills_keeps_every_write";
    for region_sectors in [8, 128] {
        let Some(mut victim) = Victim::new(test, region_sectors, 160, 64) else { return };
        for _ in 0..KILLS {
            victim.hydrate_and_kill();
            if victim.rng.random_ratio(1, 3) {
                victim.write();
            }
        }
        victim.finish();
    }
}
