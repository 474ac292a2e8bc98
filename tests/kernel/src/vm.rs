//! A virtual machine that runs scripts.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::kernel::Kernel;
use crate::qmp::Qmp;

/// Time limit for an answer of a guest, far more than any script needs.
const PATIENCE: Duration = Duration::from_secs(900);

/// A running kernel that accepts requests.
pub struct Vm {
    kernel: Kernel,
    emulator: Child,
    requests: UnixStream,
    qmp: Qmp,
    folder: PathBuf,
    next_disk: u32,
    /// Keeps the folder of the sockets, whose paths have to be short.
    _sockets: TempDir,
}

/// A disk of a guest.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its node in the guest.
    pub node: String,
    id: String,
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

/// The result of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Output on both streams.
    pub text: String,
}

/// The guest does not answer any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Death {
    /// Its kernel crashed; holds the last messages.
    Died(String),
    /// It has been silent for too long; holds its console output.
    Silent(String),
}

impl std::error::Error for Death {}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died(console) => write!(f, "the guest died:\n{console}"),
            Self::Silent(console) => write!(f, "the guest does not answer:\n{console}"),
        }
    }
}

impl Vm {
    /// Starts a guest from the state right after the boot. `folder`, which no other guest may use,
    /// holds its console and sockets.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(kernel: &Kernel, folder: &Path) -> Result<Self> {
        let incoming = format!("exec:cat '{}'", kernel.state().display());
        let mut vm = Self::launch(kernel, folder, &["-incoming", &incoming])?;
        vm.qmp.wait_until("query-status", "running").context(
            "the saved state of the guest cannot be used: remove the cache and try again",
        )?;
        Ok(vm)
    }

    /// Boots a guest, and waits until it accepts requests.
    pub(crate) fn boot(kernel: &Kernel, folder: &Path) -> Result<Self> {
        let mut vm = Self::launch(kernel, folder, &[])?;
        let ready = vm.line()?;
        ensure!(ready == "ready", "the guest said {ready:?}");
        let console = vm.console();
        ensure!(!console.contains("insmod"), "a module cannot be loaded:\n{console}");
        ensure!(console.contains("clone "), "there is no clone target:\n{console}");
        Ok(vm)
    }

    fn launch(kernel: &Kernel, folder: &Path, arguments: &[&str]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let file = |name: &str| folder.join(name).display().to_string();
        let sockets = tempfile::tempdir()?;
        let socket = |name: &str| sockets.path().join(name).display().to_string();
        let (requests, qmp) = (socket("requests"), socket("qmp"));
        let mut emulator = kernel
            .emulator()
            .args(["-serial", &format!("file:{}", file("console"))])
            .args(["-chardev", &format!("socket,id=requests,path={requests},server=on,wait=off")])
            .args(["-chardev", &format!("file,id=progress,path={}", file("progress"))])
            .args(["-qmp", &format!("unix:{qmp},server=on,wait=off")])
            .args(arguments)
            .stderr(fs::File::create(file("emulator"))?)
            .spawn()
            .context("starting the emulator")?;
        let said = folder.join("emulator");
        let requests = connect(&requests, &mut emulator, &said)?;
        requests.set_read_timeout(Some(PATIENCE))?;
        let qmp = connect(&qmp, &mut emulator, &said)?;
        qmp.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            kernel: kernel.clone(),
            emulator,
            requests,
            qmp: Qmp::new(qmp)?,
            folder: folder.to_owned(),
            next_disk: 1,
            _sockets: sockets,
        })
    }

    pub(crate) fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Sets the time for which a script may be silent before the guest counts as dead.
    ///
    /// # Errors
    /// If the socket does not accept it.
    pub fn set_patience(&mut self, patience: Duration) -> Result<()> {
        Ok(self.requests.set_read_timeout(Some(patience))?)
    }

    /// Returns the guest's console output so far.
    pub fn console(&self) -> String {
        let bytes = fs::read(self.folder.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Returns the data written to the guest's `/dev/progress` so far.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn progress(&self) -> Result<Vec<u8>> {
        Ok(fs::read(self.folder.join("progress"))?)
    }

    /// Attaches the file `image` to the guest as a disk.
    ///
    /// # Errors
    /// If the emulator refuses it, or the guest does not find it.
    pub fn attach(&mut self, image: &Path) -> Result<Disk> {
        let lun = self.next_disk;
        self.next_disk += 1;
        let id = format!("disk{lun}");
        let file =
            json!({ "driver": "file", "filename": image, "discard": "unmap", "locking": "off" });
        self.qmp.execute(
            "blockdev-add",
            json!({ "driver": "raw", "node-name": id, "discard": "unmap", "file": file }),
        )?;
        self.qmp.execute(
            "device_add",
            json!({ "driver": "scsi-hd", "id": id, "drive": id, "scsi-id": 0, "lun": lun,
                    "discard_granularity": 4096, "max_unmap_size": 1 << 30 }),
        )?;
        let found = self.script(&format!(
            "cd /sys/bus/scsi/devices
             while ! name=$(ls 0:0:0:{lun}/block 2> /dev/null) || ! [ -b /dev/$name ]; do
                 usleep 5000
             done
             echo $name"
        ))?;
        Ok(Disk { node: format!("/dev/{}", found.trim()), id })
    }

    /// Detaches a disk, which must not be in use.
    ///
    /// # Errors
    /// If the guest does not release it.
    pub fn detach(&mut self, disk: &Disk) -> Result<()> {
        self.qmp.execute("device_del", json!({ "id": disk.id }))?;
        self.qmp.wait_for("DEVICE_DELETED", &disk.id)?;
        self.qmp.execute("blockdev-del", json!({ "node-name": disk.id }))?;
        Ok(())
    }

    /// Runs a shell script in the guest, and waits for its end.
    ///
    /// # Errors
    /// [`Death`] if the guest does not answer any more.
    pub fn run(&mut self, script: &str) -> Result<Output> {
        self.request(script).with_context(|| format!("while it ran: {script}"))
    }

    fn request(&mut self, script: &str) -> Result<Output> {
        let request = format!("{}\n{script}", script.len());
        if let Err(error) = self.requests.write_all(request.as_bytes()) {
            return Err(self.death(&error).into());
        }
        let answer = self.line()?;
        let (code, len) = answer.split_once(' ').context("the guest's answer")?;
        let mut text = vec![0; len.parse()?];
        if let Err(error) = self.requests.read_exact(&mut text) {
            return Err(self.death(&error).into());
        }
        Ok(Output { code: code.parse()?, text: String::from_utf8_lossy(&text).into_owned() })
    }

    /// Runs a script that must succeed, and returns its output.
    ///
    /// # Errors
    /// The output if it fails; [`Death`].
    pub fn script(&mut self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        if output.code != 0 {
            bail!(
                "in the guest, `{script}` ended with {}: {}",
                output.code,
                output.text.trim_end()
            );
        }
        Ok(output.text)
    }

    /// Starts a script without waiting for its end, for a guest that is to be killed while it runs.
    ///
    /// # Errors
    /// If the guest does not accept it.
    pub fn start_script(&mut self, script: &str) -> Result<()> {
        Ok(self.requests.write_all(format!("{}\n{script}", script.len()).as_bytes())?)
    }

    /// Copies a file into the guest.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn put(&mut self, from: &Path, to: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| from.display().to_string())?;
        // Sent only when the script asks for it, because the reader of requests may read ahead.
        let dd = format!("dd bs={} count=1 iflag=fullblock of='{to}' 2> /dev/null", bytes.len());
        self.start_script(&format!("rm -f '{to}'; echo go >&3; {dd} <&3"))?;
        ensure!(self.line()? == "go", "the guest does not take {}", from.display());
        self.requests.write_all(&bytes)?;
        let answer = self.line()?;
        ensure!(answer.starts_with("0 "), "the guest did not take {}: {answer}", from.display());
        Ok(())
    }

    /// Copies a program with its libraries into the guest's path.
    ///
    /// # Errors
    /// As for [`Vm::put`].
    pub fn put_program(&mut self, program: &Path) -> Result<()> {
        for library in self.kernel.clone().libraries_of(program)? {
            let name = library.file_name().and_then(|name| name.to_str()).context("its name")?;
            if self.run(&format!("[ -e /lib/{name} ]"))?.code != 0 {
                self.put(&library, &format!("/lib/{name}"))?;
            }
        }
        let name = program.file_name().and_then(|name| name.to_str()).context("its name")?;
        self.put(program, &format!("/bin/{name}"))?;
        self.script(&format!("chmod +x /bin/{name}"))?;
        Ok(())
    }

    /// Ends the guest like a power cut: data that it has not sent to its disks is lost.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub fn kill(mut self) -> Result<()> {
        self.emulator.kill()?;
        self.emulator.wait()?;
        Ok(())
    }

    /// [Kills](Vm::kill) the guest, and returns the data written to its `/dev/progress` until then.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub fn kill_at_work(self) -> Result<Vec<u8>> {
        let progress = self.folder.join("progress");
        self.kill()?;
        Ok(fs::read(progress)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            match self.requests.read(&mut byte) {
                Ok(0) => return Err(self.death(&ErrorKind::UnexpectedEof.into()).into()),
                Ok(_) if byte == *b"\n" => return Ok(String::from_utf8(line)?),
                Ok(_) => line.extend(byte),
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                Err(error) => return Err(self.death(&error).into()),
            }
        }
    }

    fn death(&self, error: &std::io::Error) -> Death {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Death::Silent(self.console()),
            _ => Death::Died(self.console()),
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// Connects to a socket that the emulator is about to create.
fn connect(path: &str, emulator: &mut Child, said: &Path) -> Result<UnixStream> {
    let begin = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(path) {
            return Ok(stream);
        }
        if let Some(status) = emulator.try_wait()? {
            let said = fs::read_to_string(said).unwrap_or_default();
            bail!("the emulator ended with {status}: {said}");
        }
        ensure!(begin.elapsed() < PATIENCE, "the emulator does not make {path}");
        thread::sleep(Duration::from_millis(2));
    }
}
