//! NBD servers of others, to read from.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clone_daemon::source::nbd::{NbdOptions, NbdRemote};
use clone_daemon::source::uri::{NbdAddress, NbdEndpoint};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(super) use crate::support::LONG;
use crate::support::{free_address, program};

/// A deadline that is not meant to pass.
pub(super) fn soon() -> Instant {
    Instant::now() + LONG
}

/// A server, which ends with this.
pub(super) struct Server {
    child: Child,
    socket: Option<PathBuf>,
}

impl Server {
    /// nbdkit at `endpoint`; `None` if there is no nbdkit here.
    pub(super) fn nbdkit(endpoint: &NbdEndpoint, args: &[&str]) -> Option<Self> {
        let mut command = Command::new(program("nbdkit")?);
        command.args(["--foreground", "--exit-with-parent"]);
        match endpoint {
            NbdEndpoint::Unix(path) => command.arg("--unix").arg(path),
            NbdEndpoint::Tcp { host, port } => {
                command.args(["--ipaddr", host, "--port", &port.to_string()])
            }
        };
        Some(Self::start(command.args(args), "--pidfile", endpoint))
    }

    /// qemu-nbd at `endpoint`; `None` if there is no qemu-nbd here.
    pub(super) fn qemu(endpoint: &NbdEndpoint, args: &[&str]) -> Option<Self> {
        let mut command = Command::new(program("qemu-nbd")?);
        command.arg("--persistent");
        match endpoint {
            NbdEndpoint::Unix(path) => command.arg("--socket").arg(path),
            NbdEndpoint::Tcp { host, port } => {
                command.args(["--bind", host, "--port", &port.to_string()])
            }
        };
        Some(Self::start(command.args(args), "--pid-file", endpoint))
    }

    /// Waits until the file is there that it writes when it can be reached.
    fn start(command: &mut Command, option: &str, endpoint: &NbdEndpoint) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("pid");
        command.arg(format!("{option}={}", ready.display()));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let until = soon();
        while fs::read(&ready).map_or(true, |pid| pid.is_empty()) {
            assert_eq!(child.try_wait().unwrap(), None, "{command:?} has ended");
            assert!(Instant::now() < until, "{command:?} does not start");
            thread::sleep(Duration::from_millis(5));
        }
        let socket = match endpoint {
            NbdEndpoint::Unix(path) => Some(path.clone()),
            NbdEndpoint::Tcp { .. } => None,
        };
        Self { child, socket }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().unwrap();
        if let Some(socket) = &self.socket {
            let _ = fs::remove_file(socket);
        }
    }
}

/// A socket in a folder.
pub(super) fn unix(folder: &Path) -> NbdEndpoint {
    NbdEndpoint::Unix(folder.join("nbd"))
}

/// A port of this machine that nobody uses.
pub(super) fn tcp() -> NbdEndpoint {
    let address = free_address();
    NbdEndpoint::Tcp { host: address.ip().to_string(), port: address.port() }
}

/// The default export there.
pub(super) fn address(endpoint: &NbdEndpoint) -> NbdAddress {
    NbdAddress { endpoint: endpoint.clone(), export: String::new(), tls: false }
}

/// The default export there, as a source.
pub(super) fn remote(endpoint: &NbdEndpoint) -> NbdRemote {
    NbdRemote::open(address(endpoint), NbdOptions::default(), soon()).unwrap()
}

/// Bytes that look like nothing else.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

/// Makes a file of `len` bytes, noise every other `step` bytes, holes between them. Returns what
/// it reads as.
pub(super) fn sparse(path: &Path, len: usize, step: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let file = File::create(path).unwrap();
    file.set_len(len as u64).unwrap();
    for start in (0..len).step_by(2 * step) {
        let end = len.min(start + step);
        bytes[start..end].copy_from_slice(&noise(start as u64, end - start));
        file.write_all_at(&bytes[start..end], start as u64).unwrap();
    }
    bytes
}
