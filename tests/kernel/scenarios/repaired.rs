//! Metadata that the kernel wrote, damaged, and repaired by `clone_repair`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::context::Context;
use crate::guest::CloneLine;
use crate::script::{Op, Regions, set};
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "what clone_repair makes of damage has the right regions, and a kernel goes on with it";

/// The relation of the recovered regions to those before the damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Same,
    Fewer,
    More,
}

/// Damage to one of the two clones.
struct Case {
    clone: usize,
    /// Arguments of `clone_generate_damage`, one call after the other.
    damage: &'static [[&'static str; 2]],
    relation: Relation,
    /// Arguments of `clone_repair`. `SIZES` stands for the sizes of the clone.
    told: &'static [&'static str],
}

const fn case(
    clone: usize,
    damage: &'static [[&'static str; 2]],
    relation: Relation,
    told: &'static [&'static str],
) -> Case {
    Case { clone, damage, relation, told }
}

/// The clones: one whose bitset has a single node, and one with leaves below the root.
const CLONES: [(Regions, u64); 2] = [
    (Regions { size: 8, target: 1 << 21 }, 2048 * 8),
    (Regions { size: 8, target: 1 << 27 }, 4096 * 8),
];

const UNHYDRATED: &[&str] = &["--lost", "unhydrated"];
const HYDRATED: &[&str] = &["--lost", "hydrated"];

const CASES: &[Case] = &[
    case(0, &[["superblock", "zero"]], Relation::Same, &["SIZES"]),
    case(0, &[["superblock", "random"]], Relation::Same, &["SIZES"]),
    case(0, &[["index", "zero"]], Relation::Same, &[]),
    case(0, &[["bitmap:0", "random"]], Relation::Same, &[]),
    case(0, &[["ref-counts", "zero"]], Relation::Same, &[]),
    case(0, &[["index", "zero"], ["superblock", "zero"]], Relation::Same, &["SIZES"]),
    case(0, &[["array-block:2", "zero"]], Relation::Fewer, UNHYDRATED),
    case(0, &[["array-block:2", "zero"]], Relation::More, HYDRATED),
    // The older copies of a small bitset's only node and array blocks hold everything.
    case(0, &[["bitset-leaf:0", "zero"]], Relation::Same, UNHYDRATED),
    case(1, &[["superblock", "zero"]], Relation::Same, &["SIZES"]),
    case(1, &[["bitset-leaf:1", "zero"]], Relation::Fewer, UNHYDRATED),
    case(1, &[["bitset-leaf:1", "zero"]], Relation::More, HYDRATED),
    case(
        1,
        &[["array-block:300", "random"], ["bitmap:0", "zero"]],
        Relation::Fewer,
        UNHYDRATED,
    ),
];

/// Metadata that the kernel wrote.
struct Made {
    image: PathBuf,
    hydrated: Vec<bool>,
}

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut vm = context.vm()?;
    let mut made = Vec::new();
    for (nr, (regions, metadata)) in CLONES.iter().enumerate() {
        made.push(make(context, &mut vm, &format!("made{nr}"), *regions, *metadata)?);
    }
    for (nr, case) in CASES.iter().enumerate() {
        let told = format!("{:?} {:?}, repaired with {:?}", case.clone, case.damage, case.told);
        judge(context, &mut vm, nr, case, &made[case.clone])
            .with_context(|| format!("repaired{nr}: clone {told}"))?;
    }
    context.say(format!("{} damages repaired", CASES.len()));
    Ok(())
}

/// Returns writes to regions all over the clone, each with its own commit. `round` selects the
/// regions.
fn writes(regions: Regions, round: u64) -> Vec<Op> {
    let region = |i: u64| i * regions.count() / 12 + 5000 * round + i % 5;
    let write = |i: u64| Op::Write(region(i) * regions.size..(region(i) + 1) * regions.size, 1);
    (0..12).flat_map(|i| [write(i), Op::Flush]).collect()
}

fn put(vm: &mut Vm, clone: &CloneLine, regions: Regions, round: u64) -> Result<()> {
    vm.block_io(&clone.node(), &writes(regions, round)).map(drop)
}

fn set_written(hydrated: &mut [bool], regions: Regions, round: u64) {
    for op in writes(regions, round) {
        set(hydrated, &regions.hydrated_by(&op));
    }
}

/// Creates a clone and writes to it twice, so that the device also holds older copies of the blocks
/// of the second time.
fn make(
    context: &Context<'_>,
    vm: &mut Vm,
    name: &str,
    regions: Regions,
    metadata: u64,
) -> Result<Made> {
    let image = context.empty(name, metadata)?;
    let sizes = (regions.size, regions.target);
    let clone = vm.clone_of_zeroes(name, &image, sizes, "1 no_hydration")?;
    let mut hydrated = vec![false; regions.count() as usize];
    vm.create(&clone)?;
    for round in 0..2 {
        put(vm, &clone, regions, round)?;
        set_written(&mut hydrated, regions, round);
    }
    vm.remove(&[name])?;
    context.tools.sound(&image)?;
    context.tools.expect_hydrated(&image, &hydrated).context("as the kernel made it")?;
    Ok(Made { image, hydrated })
}

fn judge(
    context: &Context<'_>,
    vm: &mut Vm,
    nr: usize,
    case: &Case,
    made: &Made,
) -> Result<()> {
    let regions = CLONES[case.clone].0;
    let (size, target) = (regions.size.to_string(), regions.target.to_string());
    let sizes = ["--region-size", &size, "--target-size", &target];
    let damaged = context.copy(&made.image, &format!("damaged{nr}"))?;
    let damaged_name = damaged.to_str().context("a path")?;
    for [block, damage] in case.damage {
        let options = ["-q", "-i", damaged_name, "--block", block, "--damage", damage];
        context.tools.run("clone_generate_damage", &options)?;
    }
    ensure!(context.tools.check(&damaged)?.is_fatal(), "clone_check takes the damage");

    let name = format!("repaired{nr}");
    let sectors = context.tools.run("clone_metadata_size", &sizes)?.trim().parse()?;
    let repaired = context.empty(&name, sectors)?;
    let told: Vec<&str> = match case.told {
        ["SIZES"] => sizes.to_vec(),
        told => told.to_vec(),
    };
    let files = ["-q", "-i", damaged_name, "-o", repaired.to_str().context("a path")?];
    context.tools.run("clone_repair", &[&files[..], &told].concat())?;
    let mut hydrated = recovered(context, &repaired, case.relation, made)?;

    let sizes = (regions.size, regions.target);
    let clone = vm.clone_of_zeroes(&name, &repaired, sizes, "1 no_hydration")?;
    vm.kernel_messages()?;
    vm.create(&clone)?;
    context.tools.expect_status(&repaired, &vm.status(&name)?)?;
    put(vm, &clone, regions, 2)?;
    let status = vm.status(&name)?;
    vm.remove(&[&name, &format!("{name}-source"), &format!("{name}-destination")])?;
    let complaints = vm.kernel_messages()?;
    let complaints: Vec<_> = complaints.iter().filter(|line| !line.contains("passdown")).collect();
    ensure!(complaints.is_empty(), "the kernel complains: {complaints:?}");

    set_written(&mut hydrated, regions, 2);
    context.tools.expect_status(&repaired, &status).context("after the writes")?;
    context.tools.expect_hydrated(&repaired, &hydrated).context("after the writes")?;
    fs::remove_file(damaged)?;
    Ok(fs::remove_file(repaired)?)
}

/// Returns the regions of the repaired metadata, and checks that `relation` holds.
fn recovered(
    context: &Context<'_>,
    repaired: &Path,
    relation: Relation,
    made: &Made,
) -> Result<Vec<bool>> {
    let mut hydrated = vec![false; made.hydrated.len()];
    for run in context.tools.dump(repaired)? {
        set(&mut hydrated, &run);
    }
    let count = |this: &[bool], that: &[bool]| {
        this.iter().zip(that).filter(|(this, that)| **this && !**that).count()
    };
    let (lost, more) = (count(&made.hydrated, &hydrated), count(&hydrated, &made.hydrated));
    match (relation, lost, more) {
        (Relation::Same, 0, 0) | (Relation::Fewer, 1.., 0) | (Relation::More, 0, 1..) => {
            Ok(hydrated)
        }
        _ => bail!("{lost} hydrated regions are not any more, {more} were not and are now"),
    }
}
