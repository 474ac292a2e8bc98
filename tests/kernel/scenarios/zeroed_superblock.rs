//! The one damage that looks like success: a superblock of zeroes.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use persistent_data::BLOCK_SIZE;

use super::verdicts::document;
use crate::content::{Run, SOURCE};
use crate::context::Context;
use crate::guest::CloneLine;
use crate::script::{Op, Regions};
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "a kernel formats a zeroed superblock in silence; the tools shout, and get all writes back";

const REGIONS: Regions = Regions { size: 8, target: 8192 };
const METADATA: u64 = 4 * 2048;

/// Returns writes by two authors, all over the clone, in three commits.
fn writes() -> Vec<Op> {
    let mut ops = vec![Op::Write(3..13, 1), Op::Flush, Op::Write(4000..4100, 2), Op::Flush];
    ops.extend([Op::Write(8180..8192, 1), Op::Write(10..12, 2), Op::Flush]);
    ops
}

/// Returns the content of a clone after [`writes`].
fn as_written() -> Vec<Run> {
    let (source, one, two) = (Some(SOURCE), Some(1), Some(2));
    vec![
        (0..3, source),
        (3..10, one),
        (10..12, two),
        (12..13, one),
        (13..4000, source),
        (4000..4100, two),
        (4100..8180, source),
        (8180..8192, one),
    ]
}

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let image = context.empty("meta.img", METADATA)?;
    let destination = context.empty("destination.img", REGIONS.target)?;
    let source = context.filled("source.img", SOURCE, REGIONS.target)?;
    let mut vm = context.vm()?;
    let clone = CloneLine {
        name: "clone".to_owned(),
        length: REGIONS.target,
        metadata: vm.attach(&image)?.node,
        destination: vm.attach(&destination)?.node,
        source: vm.attach(&source)?.node,
        region_size: REGIONS.size,
        options: "1 no_hydration".to_owned(),
    };
    vm.create(&clone)?;
    vm.block_io(&clone.node(), &writes())?;
    let hydrated = vm.status("clone")?.regions.0;
    ensure!(vm.authors(&clone.node())? == as_written(), "the clone does not read as written");
    vm.remove(&["clone"])?;
    let runs = context.tools.dump(&image)?;

    std::os::unix::fs::FileExt::write_all_at(
        &std::fs::File::options().write(true).open(&image)?,
        &[0; BLOCK_SIZE],
        0,
    )?;
    let copy = context.copy(&image, "meta.copy")?;
    the_tools_shout(context, &copy)?;

    vm.kernel_messages()?;
    vm.create(&clone)?;
    let status = vm.status("clone")?;
    ensure!(status.regions.0 == 0 && status.mode == "rw", "not formatted: {}", status.line);
    let said = vm.kernel_messages()?;
    ensure!(said.is_empty(), "the kernel was not silent: {said:?}");
    let reverted = vm.authors(&clone.node())?;
    ensure!(reverted == [(0..REGIONS.target, Some(SOURCE))], "not reverted: {reverted:?}");
    vm.remove(&["clone"])?;
    let formatted = context.tools.sound(&image)?;
    ensure!(formatted.hydrated == Some(0), "formatted metadata says {formatted:?}");

    let repaired = repair(context, &copy)?;
    ensure!(context.tools.dump(&repaired)? == runs, "other regions than before");
    reads_as_written(&mut vm, &repaired, &clone, hydrated)?;
    the_runbook_shouts()
}

fn the_tools_shout(context: &Context<'_>, image: &Path) -> Result<()> {
    let check = context.tools.check(image)?;
    ensure!(check.is_fatal() && check.kinds() == ["superblock-unformatted"], "{check:?}");
    let text = image.to_str().context("a path")?;
    let output = context.path("output");
    let out = output.to_str().context("a path")?;
    let programs: [(&str, &[&str]); 3] = [
        ("clone_check", &[text]),
        ("clone_dump", &[text]),
        ("clone_repair", &["-i", text, "-o", out]),
    ];
    for (name, arguments) in programs {
        let ran = context.tools.try_run(name, arguments)?;
        ensure!(ran.code == 1 && ran.stdout.is_empty(), "{name}: {ran:?}");
        let warnings = ["do NOT give it to the kernel", "would format it", "revert to"];
        let is_loud = warnings.iter().all(|warning| ran.stderr.contains(warning));
        ensure!(is_loud, "{name} does not say how bad this is: {}", ran.stderr);
        let way_out = name == "clone_check" || ran.stderr.contains("clone_repair");
        ensure!(way_out, "{name} shows no way out: {}", ran.stderr);
        ensure!(!output.exists(), "{name} wrote something");
    }
    Ok(())
}

fn repair(context: &Context<'_>, copy: &Path) -> Result<std::path::PathBuf> {
    let output = context.empty("new-meta.img", METADATA)?;
    let (region_size, target_size) = (REGIONS.size.to_string(), REGIONS.target.to_string());
    let (input, out) = (copy.to_str().context("a path")?, output.to_str().context("a path")?);
    let sizes = ["--region-size", &region_size, "--target-size", &target_size];
    context.tools.run("clone_repair", &[&sizes[..], &["-i", input, "-o", out]].concat())?;
    Ok(output)
}

fn reads_as_written(vm: &mut Vm, repaired: &Path, clone: &CloneLine, hydrated: u64) -> Result<()> {
    let clone = CloneLine { metadata: vm.attach(repaired)?.node, ..clone.clone() };
    vm.create(&clone)?;
    let status = vm.status("clone")?;
    ensure!(status.regions.0 == hydrated, "{hydrated} were hydrated: {}", status.line);
    let authors = vm.authors(&clone.node())?;
    ensure!(authors == as_written(), "the repaired clone reads as {authors:?}");
    vm.remove(&["clone"])
}

/// Checks that the runbook has a section for the code, and warns of what must not be done.
fn the_runbook_shouts() -> Result<()> {
    let text = document::text()?;
    let told = [
        "| 1 | `superblock-unformatted` | [the superblock is all zeroes]",
        "do NOT give it to the kernel",
        "every write made so far reverts to the source",
    ];
    for words in told {
        ensure!(text.contains(words), "docs/repair.md does not say {words:?}");
    }
    Ok(())
}
