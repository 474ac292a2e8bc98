//! Metadata with harmless errors, fixed in place by `clone_check --auto-repair`.

use std::fs::{self, File};

use anyhow::{Context as _, Result, ensure};
use clone_tests::damage::ImageEditor;
use persistent_data::BlockNr;
use persistent_data::device::MemoryDevice;
use persistent_data::format::RefCountBits;

use crate::content::SOURCE;
use crate::context::Context;
use crate::data::DataClone;
use crate::script::{Model, Regions};

pub(super) const SHOWS: &str =
    "what clone_check --auto-repair puts right, a kernel opens, reads and goes on with";

const REGIONS: Regions = Regions { size: 8, target: 8 * 5000 + 3 };

/// Number of operations in a round, each with its own seed.
const OPERATIONS: usize = 30;

/// A harmless error, and its code.
type Mess = (&'static str, fn(&mut ImageEditor));

const MESSES: [Mess; 5] = [
    ("leaked-blocks", |image| image.set_count(BlockNr(500), RefCountBits::One)),
    ("space-map-used", |image| {
        image.space_map_root(|root| root.nr_allocated.set(root.nr_allocated.get() + 7));
    }),
    ("space-map-free-too-high", |image| {
        image.index(|index| {
            let entry = &mut index.entries[0];
            entry.nr_free.set(entry.nr_free.get() + 3);
        });
    }),
    ("ref-count-needless", |image| image.push_large_count(600, 5)),
    ("superblock-flags", |image| image.superblock(|superblock| superblock.flags.set(1 << 5))),
];

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut vm = context.vm()?;
    for (nr, (code, mess)) in (0..).zip(MESSES) {
        let name = format!("untidy{nr}");
        let mut model = Model::new(REGIONS, SOURCE);
        let clone = DataClone::new(context, &name, &mut model, 1024 * 8)?;
        let attached = clone.attach(&mut vm, &name, "1 no_hydration")?;
        let (mut rng, mut next_seed) = (context.rng(nr), 1);
        let mut round = |vm: &mut crate::vm::Vm, model: &mut Model| -> Result<()> {
            let script = REGIONS.random_script(&mut rng, OPERATIONS, next_seed);
            next_seed += OPERATIONS as u64;
            vm.block_io(&attached.line.node(), &script)?;
            script.iter().for_each(|op| model.apply(op));
            Ok(())
        };
        vm.create(&attached.line)?;
        round(&mut vm, &mut model)?;
        vm.remove(&[&name])?;
        let sound = context.tools.sound(&clone.metadata)?.figures()?;

        let bytes = fs::read(&clone.metadata)?;
        let mut image = ImageEditor::new(&MemoryDevice::from_bytes(&bytes).to_blocks());
        mess(&mut image);
        fs::write(&clone.metadata, image.to_bytes())?;
        File::options().write(true).open(&clone.metadata)?.set_len(bytes.len() as u64)?;
        let check = context.tools.check(&clone.metadata)?;
        ensure!(check.code == 3 && check.kinds() == [code], "{code}: {:?}", check.problems);
        let arguments = ["--auto-repair".as_ref(), clone.metadata.as_os_str()];
        context.tools.run("clone_check", &arguments)?;
        let repaired = context.tools.sound(&clone.metadata)?.figures()?;
        ensure!(repaired == sound, "{code}: {repaired:?} instead of {sound:?}");

        vm.create(&attached.line)?;
        context.tools.expect_status(&clone.metadata, &vm.status(&name)?).context(code)?;
        attached.expect_reads(&mut vm, &model).context(code)?;
        round(&mut vm, &mut model)?;
        attached.expect_reads(&mut vm, &model).context(code)?;
        vm.remove(&[&name])?;
        attached.detach(&mut vm)?;
        context.tools.sound(&clone.metadata)?;
        context.tools.expect_hydrated(&clone.metadata, &model.hydrated).context(code)?;
    }
    context.say(format!("{} kinds of untidy metadata", MESSES.len()));
    Ok(())
}
