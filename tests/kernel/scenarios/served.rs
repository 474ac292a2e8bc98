//! A clone that the daemon serves on this machine is a disk in the guest, through the kernel's NBD
//! driver. Its file system is mounted at once, trimmed, written to during hydration, and finally
//! used without the daemon.

use std::net::TcpListener;

use anyhow::{Result, ensure};

use crate::context::Context;
use crate::scenarios::file_system::{SECTORS, make_source};
use crate::served::Daemon;

pub(super) const SHOWS: &str =
    "an ext4 that cloned serves by NBD is used by a kernel while it hydrates, and by itself then";

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let source = make_source(context)?;
    let (metadata, destination) = (context.path("metadata"), context.path("destination"));
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("tcp:127.0.0.1:{port}");
    let table = format!(
        "0 {SECTORS} clone {} {} {} 8 1 no_hydration",
        metadata.display(),
        destination.display(),
        source.display()
    );
    let mut daemon = Daemon::run(context, "cloned", &["--table", &table, "--nbd", &address])?;
    daemon.wait_for(|daemon| daemon.said().contains("serving 1 clone").then_some(()))?;

    let mut vm = context.vm()?;
    for program in ["sbin/nbd-client", "sbin/e2fsck", "bin/fio", "sbin/fstrim"] {
        vm.put_program(&context.kernel.packaged(program))?;
    }
    // With two connections, a flush on one covers the writes of the other.
    vm.script(&format!("nbd-client 10.0.2.2 {port} /dev/nbd0 -N clone -C 2"))?;
    vm.script("mkdir -p /mnt/clone && mount -t ext4 /dev/nbd0 /mnt/clone")?;
    vm.script("cd /mnt/clone && sha256sum -c sums")?;
    vm.script("fstrim /mnt/clone && sync")?;
    let trimmed = daemon.figures()?.hydrated;
    ensure!(trimmed > SECTORS / 8 / 4, "the trim hydrated {trimmed} regions only");

    daemon.message("hydration_rate 16M")?;
    daemon.message("enable_hydration")?;
    vm.script(
        "cd /mnt/clone
         rm file1 && cp file2 copy && sha256sum copy | sed 's/copy/file2/' > new
         fio --name=verified --filename=/mnt/clone/fio --size=4M --rw=randwrite --bs=4k \
             --direct=1 --fsync=64 --verify=crc32c --output=/tmp/fio ||
             { cat /tmp/fio; exit 1; }
         sync",
    )?;
    daemon.wait_until(|figures| figures.hydrated == figures.regions)?;
    let check = "grep -v file1$ sums | sha256sum -c && sha256sum copy | sed 's/copy/file2/' | \
                 cmp - new";
    vm.script(&format!("cd /mnt/clone && {check}"))?;
    vm.script("cd / && umount /mnt/clone && e2fsck -f -n /dev/nbd0 && nbd-client -d /dev/nbd0")?;
    daemon.stop()?;

    let figures = context.tools.sound(&metadata)?.figures()?;
    ensure!(figures.1.0 == SECTORS / 8 && figures.1.0 == figures.1.1, "{figures:?}");
    let disk = vm.attach(&destination)?;
    vm.script(&format!(
        "e2fsck -f -n {0} && mount -t ext4 {0} /mnt/clone && cd /mnt/clone && {check}",
        disk.node
    ))?;
    let errors = vm.run("dmesg | grep -E 'I/O error|EXT4-fs error'")?.text;
    ensure!(errors.is_empty(), "the kernel says {errors}");
    context.say(format!("{trimmed} of {} regions needed no copy", SECTORS / 8));
    Ok(())
}
