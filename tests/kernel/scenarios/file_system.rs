//! The tutorial of the kernel's documentation, with a file system on a server: cloned, mounted at
//! once, trimmed, written to, hydrated, and used without the clone.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, RngExt as _};

use crate::context::Context;
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "an ext4 behind a network is cloned, used and detached, with metadata made here";

/// Size of the file system in sectors.
pub(super) const SECTORS: u64 = 48 << 11;

/// A server process on this machine, which is killed when this is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let source = make_source(context)?;
    let (_server, port) = serve(context, &source)?;

    let metadata = context.path("metadata");
    let metadata_name = metadata.to_str().context("a path")?;
    let target = SECTORS.to_string();
    let options = ["-q", "--hydrated", "none", "--region-size", "8", "--target-size", &target];
    context.tools.run("clone_restore", &[&options[..], &["-o", metadata_name]].concat())?;
    let destination = context.empty("destination", SECTORS)?;

    let mut vm = context.vm()?;
    for program in ["sbin/nbd-client", "sbin/e2fsck", "bin/fio", "sbin/fstrim"] {
        vm.put_program(&context.kernel.packaged(program))?;
    }
    vm.script(&format!("nbd-client 10.0.2.2 {port} /dev/nbd0 -N source -readonly"))?;
    let disks = [vm.attach(&metadata)?, vm.attach(&destination)?];
    let table = format!("0 {SECTORS} clone {} {} /dev/nbd0 8", disks[0], disks[1]);
    vm.script(&format!("dmsetup create clone --table '{table} 1 no_hydration'"))?;
    let trimmed = mount_and_trim(&mut vm)?;
    write_and_hydrate(&mut vm)?;
    let status = vm.status("clone")?;
    detach(&mut vm, &disks[1].node)?;

    let figures = context.tools.sound(&metadata)?.figures()?;
    ensure!(figures.1 == status.regions && figures.1.0 == figures.1.1, "{figures:?}");
    // The server refuses writes, so a write to the source would cause an error here.
    let errors = vm.run("dmesg | grep -E 'I/O error|EXT4-fs error'")?.text;
    ensure!(errors.is_empty(), "the kernel says {errors}");
    context.say(format!("{trimmed} of {} regions needed no copy", SECTORS / 8));
    Ok(())
}

/// Creates an ext4 file system with files of many sizes and their checksums.
pub(super) fn make_source(context: &Context<'_>) -> Result<std::path::PathBuf> {
    let folder = context.path("files");
    fs::create_dir(&folder)?;
    let mut rng = context.rng(0);
    let mut sums = String::new();
    for nr in 0..60 {
        let mut bytes = vec![0; rng.random_range(0..600_000) / (1 + nr % 7)];
        rng.fill_bytes(&mut bytes);
        fs::write(folder.join(format!("file{nr}")), &bytes)?;
    }
    let names = (0..60).map(|nr| format!("file{nr}"));
    let output = std::process::Command::new("sha256sum").args(names).current_dir(&folder).output()?;
    ensure!(output.status.success(), "sha256sum: {}", output.status);
    write!(sums, "{}", String::from_utf8(output.stdout)?)?;
    fs::write(folder.join("sums"), sums)?;

    let image = context.empty("source", SECTORS)?;
    let made = context
        .kernel
        .tool("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-d"])
        .args([&folder, &image])
        .stderr(Stdio::null())
        .status()?;
    ensure!(made.success(), "mke2fs: {made}");
    Ok(image)
}

/// Serves a file read-only on a port of this machine that the guest can reach.
fn serve(context: &Context<'_>, file: &Path) -> Result<(Server, u16)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut server = context
        .kernel
        .tool("qemu-nbd")
        .args(["--read-only", "--persistent", "--format=raw", "--export-name=source"])
        .args(["--bind=127.0.0.1", &format!("--port={port}")])
        .arg(file)
        .stderr(fs::File::create(context.path("qemu-nbd"))?)
        .spawn()
        .map(Server)?;
    let begin = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = server.0.try_wait()?;
        ensure!(ended.is_none(), "qemu-nbd ended with {ended:?}");
        ensure!(begin.elapsed() < Duration::from_secs(600), "qemu-nbd does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    Ok((server, port))
}

/// Mounts the clone, verifies all files, and trims it. Returns the number of regions that the trim
/// hydrated.
fn mount_and_trim(vm: &mut Vm) -> Result<u64> {
    vm.script("mkdir -p /mnt/clone && mount -t ext4 /dev/mapper/clone /mnt/clone")?;
    vm.script("cd /mnt/clone && sha256sum -c sums")?;
    let before = vm.status("clone")?.regions.0;
    vm.script("fstrim /mnt/clone")?;
    let trimmed = vm.status("clone")?.regions.0 - before;
    ensure!(trimmed > SECTORS / 8 / 4, "the trim hydrated {trimmed} regions only");
    Ok(trimmed)
}

/// Writes during hydration with a program that verifies its reads.
fn write_and_hydrate(vm: &mut Vm) -> Result<()> {
    vm.script(
        "cd /mnt/clone
         rm file1 && cp file2 copy && sha256sum copy | sed 's/copy/file2/' > new
         dmsetup message clone 0 hydration_batch_size 64
         dmsetup message clone 0 hydration_threshold 64
         dmsetup message clone 0 enable_hydration
         fio --name=verified --filename=/mnt/clone/fio --size=4M --rw=randwrite --bs=4k \
             --direct=1 --fsync=64 --verify=crc32c --output=/tmp/fio ||
             { cat /tmp/fio; exit 1; }
         sync",
    )?;
    vm.wait_hydrated("clone").map(drop)
}

/// Replaces the clone by its destination, and uses the destination alone.
fn detach(vm: &mut Vm, destination: &str) -> Result<()> {
    vm.script(&format!(
        "dmsetup suspend clone &&
         dmsetup load clone --table '0 {SECTORS} linear {destination} 0' &&
         dmsetup resume clone &&
         nbd-client -d /dev/nbd0 > /dev/null && cd / && umount /mnt/clone && dmsetup remove clone"
    ))?;
    vm.script(&format!("e2fsck -f -n {destination}"))?;
    vm.script(&format!(
        "mount -t ext4 {destination} /mnt/clone && cd /mnt/clone &&
         grep -v file1$ sums | sha256sum -c && sha256sum copy | sed 's/copy/file2/' | cmp - new"
    ))?;
    Ok(())
}
