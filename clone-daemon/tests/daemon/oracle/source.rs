//! Sources, and their failures.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::plan::Origin;
use super::run::Run;
use crate::support::program;
use crate::support::web::{Act, Ask, Web};

/// The source of a clone.
pub(super) enum Source {
    File(PathBuf),
    Web { web: Web, is_troubled: Arc<AtomicBool>, is_stalled: Arc<AtomicBool> },
    Nbd(Box<NbdServer>),
}

/// nbdkit. A client may crash it.
pub(super) struct NbdServer {
    command: Mutex<Command>,
    child: Mutex<Child>,
    socket: PathBuf,
    pid: PathBuf,
    /// Reads fail while this file exists.
    trouble: PathBuf,
}

impl Source {
    /// Starts the source. Returns `None` if a required program is missing.
    pub(super) fn new(run: &Run, folder: &Path) -> Option<Self> {
        let path = folder.join("source");
        match run.plan.origin {
            Origin::File => {
                write_sparse(&path, run.content.source());
                Some(Self::File(path))
            }
            Origin::Web { trouble } => Some(Self::web(run, trouble)),
            Origin::Nbd { delay_ms, trouble } => {
                let nbdkit = program("nbdkit")?;
                write_sparse(&path, run.content.source());
                Some(Self::nbd(&nbdkit, &path, folder, delay_ms, trouble))
            }
        }
    }

    fn web(run: &Run, trouble: u32) -> Self {
        let web = Web::start(run.content.source());
        let (is_troubled, is_stalled) = (Arc::<AtomicBool>::default(), Arc::default());
        let random = Mutex::new(StdRng::seed_from_u64(run.plan.seed));
        let size = run.plan.size as usize;
        let (for_script, stalled) = (is_troubled.clone(), Arc::<AtomicBool>::clone(&is_stalled));
        web.script(move |ask| {
            if stalled.load(Ordering::Acquire) {
                return Act::Stall;
            }
            let mut random = random.lock().unwrap_or_else(PoisonError::into_inner);
            let is_bad =
                for_script.load(Ordering::Acquire) && random.random_range(0..100) < trouble;
            if is_bad { lie(ask, size, &mut random) } else { Act::Serve }
        });
        Self::Web { web, is_troubled, is_stalled }
    }

    fn nbd(nbdkit: &Path, path: &Path, folder: &Path, delay_ms: u64, trouble: u32) -> Self {
        let (socket, pid) = (folder.join("source.socket"), folder.join("source.pid"));
        let errors = folder.join("trouble");
        let mut command = Command::new(nbdkit);
        command.args(["--foreground", "--exit-with-parent", "--filter=error", "--filter=delay"]);
        command.arg("--unix").arg(&socket).arg("--pidfile").arg(&pid).arg("file").arg(path);
        command.args([&format!("rdelay={delay_ms}ms"), "error-pread=EIO"]);
        command.arg(format!("error-pread-rate={trouble}%"));
        command.arg(format!("error-pread-file={}", errors.display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = spawn(&mut command, &pid).into();
        let server = NbdServer { command: command.into(), child, socket, pid, trouble: errors };
        Self::Nbd(Box::new(server))
    }

    /// Restarts a server that has died: it is not under test. Returns its exit status.
    pub(super) fn revive(&self) -> Option<ExitStatus> {
        let Self::Nbd(server) = self else { return None };
        let mut child = server.child.lock().unwrap_or_else(PoisonError::into_inner);
        let status = child.try_wait().unwrap()?;
        // The files may be missing.
        let _ = fs::remove_file(&server.pid);
        let _ = fs::remove_file(&server.socket);
        let mut command = server.command.lock().unwrap_or_else(PoisonError::into_inner);
        *child = spawn(&mut command, &server.pid);
        Some(status)
    }

    /// Returns the name of the source in a clonetab.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Web { web, .. } => web.url(),
            Self::Nbd(server) => format!("nbd+unix:///?socket={}", server.socket.display()),
        }
    }

    /// Makes the source fail, or ends that.
    pub(super) fn set_troubled(&self, is_troubled_now: bool) {
        match self {
            Self::File(_) => {}
            Self::Web { is_troubled, .. } => is_troubled.store(is_troubled_now, Ordering::Release),
            Self::Nbd(server) if is_troubled_now => drop(File::create(&server.trouble).unwrap()),
            Self::Nbd(server) => drop(fs::remove_file(&server.trouble)),
        }
    }

    /// Makes the source stop responding, or ends that.
    pub(super) fn set_stalled(&self, is_stalled_now: bool) {
        if let Self::Web { is_stalled, .. } = self {
            is_stalled.store(is_stalled_now, Ordering::Release);
        }
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It may have ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Starts a server that writes a file when it is reachable.
fn spawn(command: &mut Command, pid: &Path) -> Child {
    let server = command.spawn().unwrap();
    let until = Instant::now() + super::watchdog::bound();
    while fs::read(pid).map_or(true, |pid| pid.is_empty()) {
        assert!(Instant::now() < until, "{command:?} does not start");
        thread::sleep(Duration::from_millis(2));
    }
    server
}

/// Writes a file with holes where `content` has blocks of zeroes.
fn write_sparse(path: &Path, content: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (offset, block) in (0..).step_by(4096).zip(content.chunks(4096)) {
        if block.iter().any(|&byte| byte != 0) {
            file.write_all_at(block, offset).unwrap();
        }
    }
}

/// Chooses a response that a server should never send.
fn lie(ask: &Ask, size: usize, random: &mut StdRng) -> Act {
    let asked = ask.range.clone().unwrap_or(0..size);
    let len = asked.end.min(size).saturating_sub(asked.start);
    let mut other = || {
        let start = random.random_range(0..=size - len);
        start..start + len
    };
    let other = other();
    match random.random_range(0..14) {
        0 => Act::Late(Duration::from_millis(random.random_range(1..200))),
        1 => Act::HangUpAfter(random.random_range(0..=len)),
        2 => Act::Status(503, ""),
        3 => Act::Status(500, "retry-after: 0\r\n"),
        4 => Act::Short,
        5 => Act::Long,
        6 | 7 => Act::Other(other),
        8 => Act::Chunks,
        9 => Act::BrokenChunks,
        10 => Act::Drip(1 + len / 4, Duration::from_millis(3)),
        11 if len > 0 => Act::StallAfter(len / 2),
        _ => Act::Contradict(other),
    }
}
