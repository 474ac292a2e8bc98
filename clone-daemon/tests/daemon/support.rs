//! A clone of a file and its volume, for the tests of exporters.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clone_core::block_io::Source;
use clone_core::block_io::{Access, Destination, FileDestination, FileSource};
use clone_core::driver::RunningClone;
use clone_core::driver::{Devices, DriverOptions};
use clone_core::engine::Settings;
use clone_core::geometry::{Geometry, RegionSize, Sectors};
use clone_core::metadata::Metadata;
use clone_core::metadata::ir::Header;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_daemon::export::volume::{Volume, Volumes};
use clone_daemon::source::{Opened, SourceError, SourceOptions, SourceSpec, pin};
use persistent_data::device::{FileDevice, OpenError};
use tempfile::TempDir;

pub(crate) mod cloned;
pub(crate) mod hosting;
pub(crate) mod web;

/// A directory with the devices of a clone.
pub(crate) struct Rig {
    pub(crate) folder: TempDir,
    pub(crate) region: Sectors,
    pub(crate) size: Sectors,
}

impl Rig {
    /// Creates devices for a clone with this source content, a whole number of sectors. Nothing is
    /// hydrated, and the destination has other content than the source.
    pub(crate) fn new(region: Sectors, source: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = Sectors(source.len() as u64 / 512);
        let rig = Self { folder, region, size };
        fs::write(rig.path("source"), source).unwrap();
        fs::write(rig.path("destination"), vec![0xee; source.len()]).unwrap();
        let geometry = rig.geometry();
        let blocks = MetadataSize::of(geometry).total_blocks();
        File::create(rig.path("metadata")).unwrap().set_len(blocks * 4096).unwrap();
        let device = FileDevice::open_write(rig.path("metadata")).unwrap();
        drop(Metadata::format(device, Header { uuid: [0; 16], geometry }).unwrap());
        rig
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn geometry(&self) -> Geometry {
        Geometry::new(RegionSize::new(self.region).unwrap(), self.size).unwrap()
    }

    /// Runs the clone. It hydrates in the background if `hydration` is true.
    pub(crate) fn start(&self, hydration: bool) -> RunningClone<FileDevice> {
        let source = FileSource::open(self.path("source"), Access::Buffered).unwrap();
        self.start_from(Arc::new(source), hydration)
    }

    /// Runs the clone with another source of the same content.
    pub(crate) fn start_from(
        &self,
        source: Arc<dyn Source>,
        hydration: bool,
    ) -> RunningClone<FileDevice> {
        let path = self.path("destination");
        let destination = unlocked(|| FileDestination::open(&path, Access::Buffered));
        self.start_with(source, Arc::new(destination), hydration)
    }

    /// Runs the clone with another source of the same content, and another destination.
    pub(crate) fn start_with(
        &self,
        source: Arc<dyn Source>,
        destination: Arc<dyn Destination>,
        hydration: bool,
    ) -> RunningClone<FileDevice> {
        let device = unlocked(|| FileDevice::open_write(self.path("metadata")));
        let metadata = Metadata::open(device).unwrap();
        let mut settings = Settings::default();
        settings.options.hydration = hydration;
        let devices = Devices { metadata, source, destination };
        RunningClone::start(devices, settings, DriverOptions::default()).unwrap()
    }

    /// Returns the content of the destination.
    pub(crate) fn destination(&self) -> Vec<u8> {
        let file = File::open(self.path("destination")).unwrap();
        let mut bytes = vec![0; self.size.to_bytes().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

/// Opens the source of a clone whose pin is at `path`. Pins it if there is no pin.
pub(crate) fn open_pinned(
    spec: &SourceSpec,
    path: &Path,
    options: &SourceOptions,
) -> Result<Opened, SourceError> {
    let (opened, new) = pin::open(spec, Some(path), options)?;
    new.map(|new| new.store(path)).transpose()?;
    Ok(opened)
}

/// Opens a device that was locked by this process before. A process that another test is just
/// starting inherits the lock for a moment.
fn unlocked<T>(open: impl Fn() -> Result<T, OpenError>) -> T {
    for _ in 0..3000 {
        match open() {
            Err(OpenError::InUse { .. }) => thread::sleep(Duration::from_millis(100)),
            opened => return opened.unwrap(),
        }
    }
    open().unwrap()
}

/// Returns a running clone as the volume `name`.
pub(crate) fn volume(rig: &Rig, name: &str, clone: &RunningClone<FileDevice>) -> Arc<Volume> {
    Arc::new(Volume::new(name, rig.region.to_bytes().unwrap(), clone.client()))
}

/// A list of volumes.
pub(crate) struct List(pub(crate) Vec<Arc<Volume>>);

impl Volumes for List {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.iter().map(|volume| volume.name().into()).collect();
        names.sort();
        names
    }

    fn find(&self, name: &str) -> Option<Arc<Volume>> {
        match (name, &self.0[..]) {
            ("", [only]) => Some(only.clone()),
            _ => self.0.iter().find(|volume| volume.name() == name).cloned(),
        }
    }
}

/// Longer than any operation that does not hang, also on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// Returns an address for a server that cannot get its port from the kernel. Each call returns
/// another loopback address, so that no other process takes the port first.
pub(crate) fn free_address() -> SocketAddr {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let process = process::id() as usize;
    let address = [process / 250 % 250, process % 250, count % 250].map(|part| part as u8 + 1);
    let address = Ipv4Addr::new(127, address[0], address[1], address[2]);
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}

/// Reports on stderr directly, past the capture of the test harness, why the current test is
/// skipped; `tests/all` counts these lines.
pub(crate) fn skipped(why: &str) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why}");
}

/// Returns the path of a program that a test needs. Reports a skipped test if it is missing.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    let found = env::split_paths(&path).chain(sbin).map(|folder| folder.join(name));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        skipped(&format!("there is no {name} here"));
    }
    found
}
