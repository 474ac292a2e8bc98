//! The daemon runs in the guest, on a destination that begins to fail. Data acknowledged as durable
//! is there afterwards, flushes fail from then on, and no more regions become hydrated.

use anyhow::{Result, ensure};

use crate::content::SOURCE;
use crate::context::Context;
use crate::script::Op;

pub(super) const SHOWS: &str =
    "cloned on a destination that fails is read-only, fails flushes, loses nothing it told safe";

const SECTORS: u64 = 2048;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let source = context.filled("source", SOURCE, SECTORS)?;
    let (metadata, destination) =
        (context.empty("metadata", 2048)?, context.empty("destination", SECTORS)?);
    let mut vm = context.vm()?;
    for program in ["cloned", "clonectl"] {
        vm.put_program(&context.tools.program(program))?;
    }
    vm.put_program(&context.kernel.packaged("sbin/nbd-client"))?;
    let disks = [vm.attach(&metadata)?, vm.attach(&destination)?, vm.attach(&source)?];
    let [metadata_node, destination_node, source_node] = disks.map(|disk| disk.node);
    let table = |errors: &str| format!("0 {SECTORS} flakey {destination_node} 0 {errors}");
    let (sound, failing) = (table("3600 0"), table("0 3600 1 error_writes"));
    vm.script(&format!("dmsetup create dest --table '{sound}'"))?;
    let start = format!(
        "cloned run --name clone --nbd unix:/tmp/nbd --control /tmp/control --table \
         '0 {SECTORS} clone {metadata_node} /dev/mapper/dest {source_node} 8 1 no_hydration' \
         > /tmp/log 2>&1 &
         for i in $(seq 3000); do grep -q 'serving 1' /tmp/log && break; sleep 0.1; done
         nbd-client -unix /tmp/nbd /dev/nbd0 -N clone || {{ cat /tmp/log; exit 1; }}"
    );
    vm.script(&start)?;

    // A part of these writes is durable.
    vm.block_io("/dev/nbd0", &[Op::Write(0..24, 1), Op::DurableWrite(40..43, 2), Op::Flush])?;
    vm.block_io("/dev/nbd0", &[Op::Write(0..8, 3), Op::Flush])?;
    let swap = |table: &str| {
        let load = format!("dmsetup load dest --table '{table}'");
        format!("dmsetup suspend dest && {load} && dmsetup resume dest")
    };
    vm.script(&swap(&failing))?;
    let refused = vm.run("block_io /dev/nbd0 << END\nwrite 8 16 4\nwrite 80 88 5\nflush\nEND")?;
    ensure!(refused.code != 0, "a flush of what is lost succeeds: {}", refused.text);
    let status = vm.script("clonectl --socket /tmp/control status clone")?;
    ensure!(status.trim_end().ends_with("ro"), "the status is {status}");
    let events = vm.script("clonectl --socket /tmp/control events clone")?;
    ensure!(events.contains("read-only"), "the events are {events}");

    // A working disk does not bring lost data back.
    vm.script(&swap(&sound))?;
    let refused = vm.run("block_io /dev/nbd0 << END\nflush\nEND")?;
    ensure!(refused.code != 0, "a later flush succeeds");
    let refused = vm.run("block_io /dev/nbd0 << END\nwrite 160 168 6\nEND")?;
    ensure!(refused.code != 0, "a read-only clone is written to");
    vm.script("nbd-client -d /dev/nbd0")?;
    let stop = "kill -TERM $(pidof cloned); while pidof cloned; do sleep 0.1; done; true";
    vm.script(stop)?;

    // The next daemon finds all data that was acknowledged as durable.
    vm.script(&start)?;
    let found = vm.authors("/dev/nbd0")?;
    let author = |sector: u64| {
        let run = found.iter().find(|(sectors, _)| sectors.contains(&sector));
        run.and_then(|(_, author)| *author)
    };
    let source = [(43..80, SOURCE), (88..SECTORS, SOURCE)];
    for (sectors, seed) in [(0..8, 3), (16..24, 1), (40..43, 2)].into_iter().chain(source) {
        for sector in sectors {
            ensure!(author(sector) == Some(seed), "sector {sector} is from {:?}", author(sector));
        }
    }
    // Other data is old or new.
    for (sectors, old, new) in [(8..16, 1, 4), (80..88, SOURCE, 5)] {
        for sector in sectors {
            let found = author(sector);
            ensure!(found == Some(old) || found == Some(new), "sector {sector} is from {found:?}");
        }
    }
    vm.script("nbd-client -d /dev/nbd0")?;
    vm.script(stop)?;
    drop(vm);
    context.tools.sound(&metadata)?;
    Ok(())
}
