//! A clone as a block device of the guest, served by `cloned` through the kernel's ublk driver.

use anyhow::{Context as _, Result, ensure};

use super::file_system::{SECTORS, make_source};
use crate::context::Context;
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "cloned serves an ext4 as a ublk device, which is used, killed, hydrated and left behind";

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let source = make_source(context)?;
    let metadata = context.empty("metadata", 16 << 11)?;
    let destination = context.empty("destination", SECTORS)?;
    let mut vm = context.vm()?;
    for program in ["cloned", "clonectl"] {
        vm.put_program(&context.tools.program(program))?;
    }
    for program in ["sbin/e2fsck", "sbin/fstrim", "bin/fio"] {
        vm.put_program(&context.kernel.packaged(program))?;
    }
    let disks = [vm.attach(&metadata)?, vm.attach(&destination)?, vm.attach(&source)?];
    let [metadata_disk, destination_disk, source_disk] = &disks;
    vm.script(&format!(
        "mkdir -p /mnt/clone
         cat > /bin/serve << 'END'
cloned run --name disk --metadata {metadata_disk} --destination {destination_disk} \
    --source {source_disk} --region-size 4k --ublk \"$@\" > /tmp/log 2>&1 &
echo $! > /tmp/pid
for i in $(seq 6000); do
    device=$(grep -o '/dev/ublkb[0-9]*' /tmp/log)
    [ -b \"$device\" ] && ln -sf $device /dev/clone && exit 0
    kill -0 $(cat /tmp/pid) || break
    usleep 100000
done
cat /tmp/log; exit 1
END
         cat > /bin/end << 'END'
kill $(cat /tmp/pid)
for i in $(seq 6000); do kill -0 $(cat /tmp/pid) 2> /dev/null || break; usleep 100000; done
kill -0 $(cat /tmp/pid) 2> /dev/null && {{ echo 'it does not end'; cat /tmp/log; exit 1; }}
! [ -e /dev/clone ] || {{ echo 'the device is there still'; cat /tmp/log; exit 1; }}
END
         chmod +x /bin/serve /bin/end"
    ))?;
    let trimmed = use_and_trim(&mut vm)?;
    kill_and_hydrate(&mut vm)?;
    vm.script(&format!("e2fsck -f -n {destination_disk}"))?;
    vm.script(&format!(
        "mount -t ext4 {destination_disk} /mnt/clone && cd /mnt/clone &&
         sha256sum -c sums && sha256sum -c new && cd / && umount /mnt/clone"
    ))?;
    let figures = context.tools.sound(&metadata)?.figures()?;
    ensure!(figures.1 == (SECTORS / 8, SECTORS / 8), "{figures:?}");
    no_errors(&mut vm)?;
    context.say(format!("{trimmed} KiB of the destination were given up by the trim"));
    Ok(())
}

/// Without hydration: reads are right, and trims and writes persist.
fn use_and_trim(vm: &mut Vm) -> Result<u64> {
    vm.script("serve --no-hydration")?;
    let size = vm.script("blockdev --getsize64 /dev/clone")?;
    ensure!(size.trim().parse::<u64>()? == SECTORS * 512, "it has {size} bytes");
    for (limit, expected) in [
        ("discard_granularity", "4096"),
        ("write_cache", "write back"),
        ("fua", "1"),
        ("write_zeroes_max_bytes", "1073741824"),
    ] {
        let found = vm.script(&format!("cat /sys/block/ublkb0/queue/{limit}"))?;
        ensure!(found.trim() == expected, "{limit} is {found}");
    }
    vm.script("mount -t ext4 /dev/clone /mnt/clone && cd /mnt/clone && sha256sum -c sums")?;
    let trimmed = vm.script("fstrim -v /mnt/clone")?;
    let bytes = trimmed.split_once(" bytes").and_then(|(said, _)| said.rsplit([' ', '(']).next());
    let bytes: u64 = bytes.with_context(|| format!("fstrim says {trimmed}"))?.parse()?;
    ensure!(bytes > SECTORS * 512 / 4, "fstrim says {trimmed}");
    let refused = vm.run("clonectl remove disk")?;
    ensure!(refused.code != 0 && refused.text.contains("is in use"), "{refused:?}");
    vm.script(
        "cd /mnt/clone && cp file2 copy && cp file3 other && sha256sum copy other > new
         cd / && umount /mnt/clone && end",
    )?;
    no_errors(vm)?;
    Ok(bytes >> 10)
}

fn no_errors(vm: &mut Vm) -> Result<()> {
    let errors = vm.run("dmesg | grep -E 'error, dev|EXT4-fs.*error|Aborting'")?.text;
    ensure!(errors.is_empty(), "the kernel says {errors}");
    Ok(())
}

/// Kills the daemon during hydration and writes; another daemon continues from there.
fn kill_and_hydrate(vm: &mut Vm) -> Result<()> {
    vm.script("serve --hydration-rate 1M")?;
    vm.script(
        "mount -t ext4 /dev/clone /mnt/clone && cd /mnt/clone && sha256sum -c new
         cp file4 flushed && sha256sum flushed >> new && sync && cd /
         kill -9 $(cat /tmp/pid)
         for i in $(seq 6000); do [ -e /dev/clone ] || break; usleep 100000; done
         ! [ -e /dev/clone ] || { echo 'the device outlives the daemon'; exit 1; }
         umount /mnt/clone; dmesg -c > /dev/null",
    )?;
    vm.script("rm -f /tmp/log; serve")?;
    vm.script(
        "mount -t ext4 /dev/clone /mnt/clone && cd /mnt/clone && sha256sum -c new || exit 1
         fio --name=verified --filename=/mnt/clone/fio --size=4M --rw=randwrite --bs=4k \
             --direct=1 --fsync=64 --verify=crc32c --output=/tmp/fio ||
             { cat /tmp/fio; exit 1; }
         sha256sum -c sums && sync
         for i in $(seq 6000); do
             grep -q 'hydration finished' /tmp/log && break; usleep 100000
         done
         grep -q 'hydration finished' /tmp/log || { cat /tmp/log; exit 1; }
         cd / && umount /mnt/clone && end",
    )
    .map(drop)
}
