//! Metadata made by `clone_restore`, given to the kernel together with the data that it describes.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::content::SOURCE;
use crate::context::Context;
use crate::data::DataClone;
use crate::script::{Model, Regions, set};
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "a kernel opens what clone_restore makes, reads the right data through it, and goes on";

/// Clones with data: sectors per region and of the clone, and the hydrated regions.
const WITH_DATA: &[(u64, u64, &[Range<u64>])] = &[
    (8, 5, &[]),
    (8, 8, &[0..1]),
    (8, 63 * 8, &[0..1, 62..63]),
    (8, 64 * 8, &[31..33, 63..64]),
    (8, 65 * 8, &[64..65]),
    (8, 8 * 4096 + 3, &[1..2, 64..128, 700..1000, 4096..4097]),
    (64, 50_003, &[1..2, 3..6, 700..782]),
    (2048, 65_536, &[0..3, 31..32]),
];

/// Clones whose data does not matter.
const LARGE: &[(u64, u64, &[Range<u64>])] = &[
    (8, 32575 * 8, &[32574..32575]),
    (8, 32576 * 8, &[0..1, 32575..32576]),
    (8, 32577 * 8, &[0..5, 32570..32577]),
    (1 << 21, 10 << 21, &[3..4, 7..8]),
    (8, 1 << 27, &[5..6, 10_000..9_000_000, 16_777_215..16_777_216]),
];

/// Region size in sectors above which copies take long.
const LARGE_REGION: u64 = 2048;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut vm = context.vm()?;
    for (nr, (size, target, hydrated)) in (0..).zip(WITH_DATA) {
        let regions = Regions { size: *size, target: *target };
        with_data(context, &mut vm, &format!("data{nr}"), regions, hydrated)
            .with_context(|| format!("data{nr}: {regions:?}, hydrated {hydrated:?}"))?;
    }
    for (nr, (size, target, hydrated)) in (0..).zip(LARGE) {
        let regions = Regions { size: *size, target: *target };
        metadata_only(context, &mut vm, &format!("large{nr}"), regions, hydrated)
            .with_context(|| format!("large{nr}: {regions:?}, hydrated {hydrated:?}"))?;
    }
    context.say(format!("{} clones with data, {} without", WITH_DATA.len(), LARGE.len()));
    Ok(())
}

/// Returns the options for a clone's sizes.
fn sizes_of(regions: Regions) -> [String; 4] {
    let (size, target) = (regions.size.to_string(), regions.target.to_string());
    ["--region-size".to_owned(), size, "--target-size".to_owned(), target]
}

/// Creates a metadata file of the size given by `clone_metadata_size`.
fn empty_metadata(context: &Context<'_>, name: &str, regions: Regions) -> Result<PathBuf> {
    let sectors = context.tools.run("clone_metadata_size", &sizes_of(regions))?;
    context.empty(name, sectors.trim().parse()?)
}

/// Restores metadata to the file `to`.
fn restore(
    context: &Context<'_>,
    to: &Path,
    regions: Regions,
    hydrated: &[Range<u64>],
) -> Result<()> {
    let to = to.to_str().context("a path")?.to_owned();
    if hydrated.is_empty() {
        let fresh = ["-q", "--hydrated", "none", "-o", &to].map(str::to_owned);
        return context
            .tools
            .run("clone_restore", &[&fresh[..], &sizes_of(regions)].concat())
            .map(drop);
    }
    let mut xml = format!(
        "<superblock uuid=\"\" version=\"1\" region_size=\"{}\" target_size=\"{}\" \
         nr_regions=\"{}\">\n",
        regions.size,
        regions.target,
        regions.count()
    );
    for run in hydrated {
        let (begin, length) = (run.start, run.end - run.start);
        writeln!(xml, "  <hydrated begin=\"{begin}\" length=\"{length}\"/>")?;
    }
    xml += "</superblock>\n";
    let dump = context.path("dump.xml");
    fs::write(&dump, xml)?;
    let dump = dump.to_str().context("a path")?;
    context.tools.run("clone_restore", &["-q", "-i", dump, "-o", &to]).map(drop)
}

fn with_data(
    context: &Context<'_>,
    vm: &mut Vm,
    name: &str,
    regions: Regions,
    hydrated: &[Range<u64>],
) -> Result<()> {
    let mut model = Model::new(regions, SOURCE);
    for run in hydrated {
        set(&mut model.hydrated, run);
    }
    let mut clone = DataClone::new(context, name, &mut model, 0)?;
    clone.metadata = empty_metadata(context, &format!("{name}.metadata"), regions)?;
    restore(context, &clone.metadata, regions, hydrated)?;
    let mut attached = clone.attach(vm, name, "1 no_hydration")?;
    vm.create(&attached.line)?;
    context.tools.expect_status(&clone.metadata, &vm.status(name)?)?;
    attached.expect_reads(vm, &model).context("before anything was written")?;

    let script = regions.random_script(&mut context.rng(regions.target), 40, 1);
    vm.block_io(&attached.line.node(), &script)?;
    script.iter().for_each(|op| model.apply(op));
    attached.expect_reads(vm, &model).context("after random operations")?;
    vm.remove(&[name])?;
    context.tools.sound(&clone.metadata)?;
    context.tools.expect_hydrated(&clone.metadata, &model.hydrated)?;

    attached.line.options = "0 4 hydration_threshold 256 hydration_batch_size 64".to_owned();
    vm.create(&attached.line)?;
    vm.wait_hydrated(name)?;
    attached.expect_reads(vm, &model).context("after hydration")?;
    vm.remove(&[name])?;
    attached.detach(vm)?;
    let (_, (hydrated, count)) = context.tools.sound(&clone.metadata)?.figures()?;
    ensure!((hydrated, count) == (regions.count(), regions.count()), "{hydrated} of {count}");
    clone.expect_destination(&model).context("the destination by itself")?;
    clone.expect_source_untouched().context("the source")
}

/// Compares restored metadata with metadata that the kernel formats on a device of the same size.
fn metadata_only(
    context: &Context<'_>,
    vm: &mut Vm,
    name: &str,
    regions: Regions,
    hydrated: &[Range<u64>],
) -> Result<()> {
    let ours = empty_metadata(context, name, regions)?;
    restore(context, &ours, regions, hydrated)?;
    go_on(context, vm, name, &ours, regions, hydrated)?;
    if regions.size > LARGE_REGION {
        return Ok(());
    }
    let theirs = format!("{name}-formatted");
    let image = empty_metadata(context, &theirs, regions)?;
    go_on(context, vm, &theirs, &image, regions, &[]).context("formatted by the kernel")
}

/// Lets the kernel open metadata and write to the clone.
fn go_on(
    context: &Context<'_>,
    vm: &mut Vm,
    name: &str,
    image: &Path,
    regions: Regions,
    hydrated: &[Range<u64>],
) -> Result<()> {
    let sizes = (regions.size, regions.target);
    let clone = vm.clone_of_zeroes(name, image, sizes, "1 no_hydration")?;
    let mut bits = vec![false; regions.count() as usize];
    for run in hydrated {
        set(&mut bits, run);
    }
    let operations = if regions.size > LARGE_REGION { 3 } else { 60 };
    let script = regions.random_script(&mut context.rng(regions.target), operations, 1);
    vm.create(&clone)?;
    context.tools.expect_status(image, &vm.status(name)?).context("as it was opened")?;
    vm.block_io(&clone.node(), &script)?;
    let status = vm.status(name)?;
    vm.remove(&[name, &format!("{name}-source"), &format!("{name}-destination")])?;
    for op in &script {
        set(&mut bits, &regions.hydrated_by(op));
    }
    context.tools.expect_status(image, &status)?;
    context.tools.expect_hydrated(image, &bits)
}
