//! NBD servers of other projects, for tests of the client.

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

/// Returns a deadline that is not supposed to pass.
pub(super) fn soon() -> Instant {
    Instant::now() + LONG
}

/// A server, which is stopped when this is dropped.
pub(super) struct Server {
    child: Child,
    socket: Option<PathBuf>,
}

impl Server {
    /// Starts nbdkit at `endpoint`; `None` if nbdkit is not installed.
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

    /// Starts qemu-nbd at `endpoint`; `None` if qemu-nbd is not installed.
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

    /// Starts a server, and waits for the file that it writes when it accepts connections.
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
        // The server may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().unwrap();
        if let Some(socket) = &self.socket {
            let _ = fs::remove_file(socket);
        }
    }
}

/// Returns an endpoint for a socket in a folder.
pub(super) fn unix(folder: &Path) -> NbdEndpoint {
    NbdEndpoint::Unix(folder.join("nbd"))
}

/// Returns an endpoint for a free port of this machine.
pub(super) fn tcp() -> NbdEndpoint {
    let address = free_address();
    NbdEndpoint::Tcp { host: address.ip().to_string(), port: address.port() }
}

/// Returns the address of the default export.
pub(super) fn address(endpoint: &NbdEndpoint) -> NbdAddress {
    NbdAddress { endpoint: endpoint.clone(), export: String::new(), tls: false }
}

/// Opens the default export as a source.
pub(super) fn remote(endpoint: &NbdEndpoint) -> NbdRemote {
    NbdRemote::open(address(endpoint), NbdOptions::default(), soon()).unwrap()
}

/// Returns random bytes.
pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

/// Creates a file of `len` bytes: blocks of `step` bytes, every other one of them a hole, the rest
/// noise. Returns the contents.
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
