//! Devices on which a block of the metadata cannot be read.

use std::fs::{self, File};

use anyhow::{Context as _, Result, ensure};
use clone_tests::damage::ImageEditor;
use persistent_data::device::ReadDevice as _;

use super::trial::Trial;
use super::{Judge, Judged, write_image};
use crate::content::SECTOR;
use crate::script::Regions;
use crate::tools::Check;

const ABOUT: &str = "a block that cannot be read";

/// Blocks of the image `tail`, and the code that `clone_check` reports if they cannot be read.
const BLOCKS: &[(&str, u64, &str)] = &[
    ("superblock", 0, "superblock-unreadable"),
    ("root", 8, "bitset-node-unreadable"),
    ("array block", 6, "bitset-block-unreadable"),
    ("index", 9, "space-map-index-unreadable"),
    ("bitmap", 7, "space-map-bitmap-unreadable"),
    ("ref count tree", 2, "ref-count-tree-unreadable"),
];

/// Sectors per block.
const SECTORS: u64 = 8;

/// Judges all of them.
pub(super) fn run(judge: &mut Judge<'_>) -> Result<Vec<Judged>> {
    let image = ImageEditor::of("tail");
    let regions = Regions { size: 64, target: 1_000_003 };
    // The guest gets the program as a disk, which must be whole sectors.
    let clone_check = judge.context.path("clone_check");
    fs::copy(judge.context.tools.program("clone_check"), &clone_check)?;
    let file = File::options().write(true).open(&clone_check)?;
    file.set_len(file.metadata()?.len().next_multiple_of(SECTOR))?;
    let mut judged = Vec::new();
    for &(name, block, code) in BLOCKS {
        write_image(&image, &judge.image(image.nr_blocks()))?;
        let disk = judge.disk(image.nr_blocks())?;
        let vm = judge.vm()?;
        if vm.run("[ -x /bin/clone_check ]")?.code != 0 {
            let program = vm.attach(&clone_check)?;
            vm.script(&format!(
                "cat {program} > /bin/clone_check && chmod +x /bin/clone_check"
            ))?;
        }
        let (begin, end, all) =
            (block * SECTORS, (block + 1) * SECTORS, image.nr_blocks() * SECTORS);
        let before = if block == 0 { String::new() } else { format!("0 {begin} linear {disk} 0") };
        vm.script(&format!(
            "dmsetup create bad-{block} << END\n{before}\n{begin} {SECTORS} error\n\
             {end} {} linear {disk} {end}\nEND",
            all - end
        ))?;
        let node = format!("/dev/mapper/bad-{block}");
        let ran = vm.run(&format!("clone_check --json {node} 2> /dev/null"))?;
        let check: Check = serde_json::from_str(&ran.text).context(ran.text)?;
        let check = Check { code: ran.code, ..check };
        ensure!(check.kinds() == [code], "{name}: clone_check says {:?}", check.problems);
        let trial = Trial::new(regions, image.runs_by_hand());
        let outcome = judge.run(&trial, regions, node)?;
        judged.push(Judged::new(ABOUT, name, &check, outcome));
    }
    Ok(judged)
}
