//! A clone that is exported on a socket.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use clone_core::driver::RunningClone;
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::{Address, BindOptions, Listener, Server, ServerOptions};
use clone_daemon::export::volume::Volume;
use persistent_data::device::FileDevice;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{List, Rig, program, skipped, volume};

/// A clone called `disk`, and its server. Fields are dropped in the order of their declaration.
pub(crate) struct Served {
    pub(crate) server: Server,
    pub(crate) volume: Arc<Volume>,
    pub(crate) clone: RunningClone<FileDevice>,
    pub(crate) rig: Rig,
}

/// Returns random bytes.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

impl Served {
    /// Creates a clone of `source` with regions of 4 KiB, none of them hydrated.
    pub(crate) fn new(source: &[u8]) -> Self {
        Self::with(Rig::new(Sectors(8), source), ServerOptions::default())
    }

    pub(crate) fn with(rig: Rig, options: ServerOptions) -> Self {
        let clone = rig.start(false);
        Self::of(rig, clone, options)
    }

    /// Exports `clone`, which uses the devices of `rig`.
    pub(crate) fn of(rig: Rig, clone: RunningClone<FileDevice>, options: ServerOptions) -> Self {
        let listeners = listen(&rig.path("socket"));
        let volume = volume(&rig, "disk", &clone);
        let volumes = Arc::new(List(vec![volume.clone()]));
        let server = Server::start(listeners, volumes, options).unwrap();
        Self { server, volume, clone, rig }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.rig.path("socket")
    }

    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.socket().display())
    }

    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    /// Hydrates the whole clone.
    pub(crate) fn hydrate(&self) {
        self.clone.client().hydrate(0..self.rig.size.to_bytes().unwrap()).unwrap();
    }
}

pub(crate) fn listen(path: &Path) -> Vec<Listener> {
    Listener::bind(&Address::Unix(path.into()), &BindOptions::default()).unwrap()
}

/// Runs a program for at most ten minutes. Returns its output, if it is installed and succeeds.
pub(crate) fn run(name: &str, arguments: &[&str]) -> Option<String> {
    let output = output(name, arguments)?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {told}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn output(name: &str, arguments: &[&str]) -> Option<Output> {
    let path = program(name)?;
    let mut command = Command::new("timeout");
    command.arg("600").arg(path).args(arguments).stdin(Stdio::null());
    Some(command.output().unwrap())
}

/// Runs a Python script with libnbd. In it, `h` is not yet connected to `uri`.
pub(crate) fn script(uri: &str, text: &str) -> Option<String> {
    if !Path::new("/usr/lib/python3/dist-packages/nbd.py").exists() {
        skipped("libnbd for Python is not installed");
        return None;
    }
    let text = format!("import nbd\nuri = {uri:?}\nh = nbd.NBD()\n{text}");
    run("/usr/bin/python3", &["-c", &text])
}
