//! Clones of all geometries, formatted and written by the kernel, read by the tools.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::guest::CloneLine;
use crate::script::{Regions, set};
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "what a kernel formats, writes, discards and hydrates reads as its status line says";

/// A clone, its metadata device, and its operations.
struct Case {
    regions: Regions,
    /// Sectors of the metadata device.
    metadata: u64,
    /// Number of random operations.
    operations: usize,
    /// True if the clone is hydrated completely at the end.
    complete: bool,
}

const fn case(size: u64, target: u64, metadata: u64, operations: usize, complete: bool) -> Case {
    Case { regions: Regions { size, target }, metadata, operations, complete }
}

const MIB: u64 = 2048;
const GIB: u64 = 1024 * MIB;

const CASES: &[Case] = &[
    // A single, short region on the smallest device that allows a commit.
    case(8, 5, 128, 4, true),
    case(8, 8, 128, 4, true),
    // Around a word of 64 bits.
    case(8, 63 * 8, 128, 20, true),
    case(8, 64 * 8, 128, 20, true),
    case(8, 65 * 8, 128, 20, true),
    // Around an array block of 32576 bits.
    case(8, 32575 * 8, MIB, 60, true),
    case(8, 32576 * 8, MIB, 60, true),
    case(8, 32577 * 8, MIB, 60, true),
    case(8, 2 * 32576 * 8 + 8, MIB, 60, false),
    // A short last region.
    case(64, 1_000_003, 8 * MIB, 60, true),
    case(2048, 2048 * 65 - 1, 8 * MIB, 60, false),
    // The largest regions.
    case(GIB, 10 * GIB, MIB, 3, false),
    // A bitset whose btree has two levels.
    case(8, 1 << 27, 16 * MIB, 100, false),
    // A metadata device with several bitmaps, and one as large as a space map can cover.
    case(8, 2 * GIB, GIB, 60, false),
    case(8, 2 * GIB, 16 * GIB, 60, false),
    case(8, 2 * GIB, 20 * GIB, 20, false),
];

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut vm = context.vm()?;
    for (nr, case) in (0u64..).zip(CASES) {
        let Case { regions, metadata, .. } = case;
        let name = format!("clone{nr}");
        let image = context.empty(&name, *metadata)?;
        judge(context, &mut vm, &name, &image, case).with_context(|| {
            format!("{name}: {regions:?}, a metadata device of {metadata} sectors")
        })?;
        std::fs::remove_file(&image)?;
    }
    context.say(format!("{} geometries", CASES.len()));
    Ok(())
}

fn judge(context: &Context<'_>, vm: &mut Vm, name: &str, image: &Path, case: &Case) -> Result<()> {
    let &Case { regions, operations, .. } = case;
    let sizes = (regions.size, regions.target);
    let mut clone = vm.clone_of_zeroes(name, image, sizes, "1 no_hydration")?;
    agree(context, vm, &clone, image, &vec![false; regions.count() as usize])
        .context("after the format")?;

    let script = regions.random_script(&mut context.rng(regions.target), operations, 1);
    vm.create(&clone)?;
    vm.block_io(&clone.node(), &script)?;
    vm.remove(&[name])?;
    let mut hydrated = vec![false; regions.count() as usize];
    for op in &script {
        set(&mut hydrated, &regions.hydrated_by(op));
    }
    agree(context, vm, &clone, image, &hydrated).context("after random operations")?;

    if case.complete {
        clone.options = "0 4 hydration_threshold 1024 hydration_batch_size 256".to_owned();
        vm.create(&clone)?;
        vm.wait_hydrated(name)?;
        vm.remove(&[name])?;
        hydrated.fill(true);
        agree(context, vm, &clone, image, &hydrated).context("after hydration")?;
    }
    vm.remove(&[&format!("{name}-source"), &format!("{name}-destination")])
}

/// Opens the clone, reads the kernel's figures, and compares them with those of the tools.
fn agree(
    context: &Context<'_>,
    vm: &mut Vm,
    clone: &CloneLine,
    image: &Path,
    hydrated: &[bool],
) -> Result<()> {
    vm.create(clone)?;
    let status = vm.status(&clone.name)?;
    vm.remove(&[&clone.name])?;
    context.tools.expect_status(image, &status)?;
    context.tools.expect_hydrated(image, hydrated)
}
