//! The kernel under test. It is booted once, and kept as the saved state of a machine that waits
//! for requests.
//!
//! Under emulation, a boot takes some six seconds, and resuming from a saved state a quarter of
//! one. Every case can therefore have its own kernel, and a crash costs nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::vm::Vm;

/// Memory of a guest, in MiB.
const MEMORY: u32 = 512;

/// Command line of the kernel. An oops ends the guest, because later messages are not a verdict.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 oops=panic norandmaps mitigations=off rdinit=/init";

/// Time for which a saved state of another run is kept. Each takes 100 MB.
const KEPT: Duration = Duration::from_secs(12 * 60 * 60);

/// A kernel that can be started.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The folder made by `tests/kernel/prepare`.
    folder: PathBuf,
    /// The packed initial files of the guest.
    initrd: PathBuf,
    /// The saved state after the boot.
    state: PathBuf,
}

impl Kernel {
    /// Prepares the kernel in `folder`, with `programs` in the guest's path.
    ///
    /// # Errors
    /// If the guest cannot be packed or does not boot.
    pub fn prepare(folder: &Path, programs: &[PathBuf]) -> Result<Self> {
        let mut sum = crc32c::crc32c(format!("{COMMAND_LINE} {MEMORY} {ARGUMENTS:?}").as_bytes());
        for program in programs {
            let bytes = fs::read(program).with_context(|| program.display().to_string())?;
            sum = crc32c::crc32c_append(sum, &bytes);
        }
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        let kernel = Self {
            folder: folder.to_owned(),
            initrd: folder.join(format!("initrd-{sum:08x}")),
            state: folder.join(format!("state-{sum:08x}")),
        };
        if !kernel.state.exists() {
            kernel.forget_others()?;
            kernel.pack(programs).context("packing the guest")?;
            kernel.boot().context("booting the guest")?;
        }
        // The new timestamps show other processes that the files are in use.
        for file in [&kernel.initrd, &kernel.state] {
            File::open(file)?.set_modified(SystemTime::now())?;
        }
        Ok(kernel)
    }

    /// Returns the release of the kernel.
    ///
    /// # Errors
    /// If `tests/kernel/prepare` has not recorded it.
    pub fn release(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("release"))?.trim().to_owned())
    }

    /// Returns the path of a program from the same packages, for use in the guest.
    pub fn packaged(&self, program: &str) -> PathBuf {
        self.folder.join("root/usr").join(program)
    }

    /// Returns a command for a tool of the same packages, for use on the host.
    pub fn tool(&self, name: &str) -> Command {
        Command::new(self.folder.join("bin").join(name))
    }

    /// Returns the libraries that a program needs, as found by the packages' loader.
    pub(crate) fn libraries_of(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let root = self.folder.join("root");
        let lib = root.join("usr/lib");
        let path = format!("{}:{}", lib.join("x86_64-linux-gnu").display(), lib.display());
        let output = Command::new(root.join("lib64/ld-linux-x86-64.so.2"))
            .args(["--library-path", &path, "--list"])
            .arg(program)
            .output()?;
        ensure!(output.status.success(), "the libraries of {}: {output:?}", program.display());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let library = |line: &str| Some(line.split_once("=> ")?.1.split(' ').next()?.into());
        Ok(text.lines().filter_map(library).collect())
    }

    /// Returns the emulator's command with the arguments shared by all guests, without the
    /// connections to the host.
    pub(crate) fn emulator(&self) -> Command {
        let mut command = self.tool("qemu-system-x86_64");
        command
            .args(ARGUMENTS)
            .args(["-m", &MEMORY.to_string(), "-append", COMMAND_LINE])
            .arg("-kernel")
            .arg(self.folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(&self.initrd)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Removes files made for other programs, unless other processes may use them.
    fn forget_others(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let is_made = name.starts_with("state-") || name.starts_with("initrd-");
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if is_made && age > KEPT {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn pack(&self, programs: &[PathBuf]) -> Result<()> {
        let work = tempfile::tempdir_in(&self.folder)?;
        let copied = Command::new("cp")
            .arg("-a")
            .arg(self.folder.join("guest/."))
            .arg(work.path())
            .status()?;
        ensure!(copied.success(), "cp: {copied}");
        for program in programs {
            let name = program.file_name().context("a program's name")?;
            fs::copy(program, work.path().join("bin").join(name))?;
            for library in self.libraries_of(program)? {
                let name = library.file_name().context("a library's name")?;
                fs::copy(&library, work.path().join("lib").join(name))?;
            }
        }
        let mut find =
            Command::new("find").arg(".").current_dir(&work).stdout(Stdio::piped()).spawn()?;
        let names = find.stdout.take().context("the output of find")?;
        let packed = self
            .tool("cpio")
            .args(["-o", "-H", "newc", "--quiet"])
            .current_dir(&work)
            .stdin(names)
            .stdout(File::create(&self.initrd)?)
            .status()?;
        ensure!(find.wait()?.success() && packed.success(), "cpio: {packed}");
        Ok(())
    }

    fn boot(&self) -> Result<()> {
        let work = tempfile::tempdir()?;
        let mut vm = Vm::boot(self, work.path())?;
        let unfinished = self.state.with_extension("unfinished");
        let qmp = vm.qmp();
        // No limit: the default is meant for a network.
        qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 1_u64 << 40 }))?;
        // The file gets its name once it is complete.
        let (unfinished, state) = (unfinished.display(), self.state.display());
        let uri = format!("exec:cat > '{unfinished}' && mv '{unfinished}' '{state}'");
        qmp.execute("migrate", json!({ "uri": uri }))?;
        qmp.wait_until("query-migrate", "completed")?;
        let begin = Instant::now();
        while !self.state.exists() {
            ensure!(begin.elapsed() < Duration::from_secs(600), "the state was not saved: {state}");
            thread::sleep(Duration::from_millis(5));
        }
        vm.kill()
    }
}

/// Arguments of all guests. They use software emulation, so that results do not depend on the
/// machine's virtualization.
const ARGUMENTS: &[&str] = &[
    "-machine",
    "q35",
    "-accel",
    "tcg,thread=multi",
    "-cpu",
    "max",
    "-smp",
    "2",
    "-nodefaults",
    "-display",
    "none",
    "-no-reboot",
    // A port for requests, and one for the progress of a running script.
    "-device",
    "virtio-serial-pci",
    "-device",
    "virtserialport,chardev=requests,name=requests",
    "-device",
    "virtserialport,chardev=progress,name=progress",
    // Disks are attached and detached on this bus.
    "-device",
    "virtio-scsi-pci,id=disks",
    // The host is 10.0.2.2.
    "-nic",
    "user,model=virtio-net-pci",
];
