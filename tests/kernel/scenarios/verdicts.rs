//! Gives every damage of the shared tables to a kernel, and compares the kernel's behaviour with
//! the report of `clone_check`. The result is the table in `docs/repair.md`.

pub(super) mod document;
mod selection;
mod trial;
mod unreadable;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clone_core::metadata::check::{Report, read};
use clone_core::metadata::damage::Severity;
use clone_core::geometry::RegionRange;
use clone_tests::damage::{Case, ImageEditor, TABLES};
use clone_tests::laws;
use clone_tests::runs::minus;
use persistent_data::BLOCK_SIZE;
use persistent_data::device::{FileDevice, ReadDevice as _};
use tempfile::TempDir;

use self::selection::SELECTION;
use self::trial::{Outcome, Trial};
use crate::context::Context;
use crate::guest::CloneLine;
use crate::script::Regions;
use crate::tools::{Check, Problem};
use crate::vm::{Death, Vm};

pub(super) const SHOWS: &str =
    "what a kernel refuses, misreads, spoils or dies of, clone_check has called fatal";

/// Time limit of a guest for a trial. It takes a fraction of a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A kernel prints the same message ten times in five seconds, and then suppresses it.
const SAME_MESSAGES: usize = 8;

/// A guest with the devices for trials.
struct Judge<'a> {
    context: &'a Context<'a>,
    vm: Option<Vm>,
    /// The nodes of metadata disks, by their sizes in blocks.
    disks: BTreeMap<u64, String>,
    /// The lengths for which a source and a destination exist.
    lengths: BTreeSet<u64>,
    /// Number of messages by origin.
    messages: BTreeMap<String, usize>,
    /// Folder of the images.
    folder: TempDir,
}

impl<'a> Judge<'a> {
    fn new(context: &'a Context<'a>) -> Result<Self> {
        let (disks, lengths, messages) = Default::default();
        // In memory, if there is such a file system, because otherwise each flush waits for a disk.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Ok(Self { context, vm: None, disks, lengths, messages, folder: folder? })
    }

    fn image(&self, nr_blocks: u64) -> PathBuf {
        self.folder.path().join(format!("metadata-{nr_blocks}.img"))
    }

    /// Copies the images of a failed case to the scenario's folder.
    fn keep_images(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let image = entry?;
            self.context.copy(&image.path(), &image.file_name().to_string_lossy())?;
        }
        Ok(())
    }

    fn vm(&mut self) -> Result<&mut Vm> {
        let renew = self.messages.values().any(|&times| times >= SAME_MESSAGES);
        if renew || self.vm.is_none() {
            self.disks.clear();
            self.lengths.clear();
            self.messages.clear();
            let mut vm = self.context.vm()?;
            vm.set_patience(PATIENCE)?;
            // Messages of the boot are not about any damage.
            vm.script("dmesg -c > /dev/null")?;
            self.vm = Some(vm);
        }
        self.vm.as_mut().context("a guest")
    }

    /// Returns the node of the disk whose file is [`Judge::image`].
    fn disk(&mut self, nr_blocks: u64) -> Result<String> {
        let image = self.image(nr_blocks);
        self.vm()?;
        if let Some(node) = self.disks.get(&nr_blocks) {
            return Ok(node.clone());
        }
        let node = self.vm()?.attach(&image)?.node;
        self.disks.insert(nr_blocks, node.clone());
        Ok(node)
    }

    fn run(&mut self, trial: &Trial, regions: Regions, metadata: String) -> Result<Outcome> {
        let vm = self.vm.as_mut().context("a guest")?;
        let length = regions.target;
        if self.lengths.insert(length) {
            vm.script(&format!(
                "dmsetup create good{length} --table '0 {length} zero'
                 dmsetup create bad{length} --table '0 {length} error'"
            ))?;
        }
        let clone = CloneLine {
            name: "clone".to_owned(),
            length,
            metadata,
            destination: format!("/dev/mapper/good{length}"),
            source: format!("/dev/mapper/bad{length}"),
            region_size: regions.size,
            options: "2 no_hydration no_discard_passdown".to_owned(),
        };
        let answer = match vm.run(&trial.script(&clone.table())) {
            Ok(output) => Ok(output),
            Err(error) => Err(error.downcast::<Death>()?),
        };
        let outcome = trial.outcome(answer)?;
        for line in &outcome.said {
            let origin = line.split(':').next().unwrap_or_default().to_owned();
            // These messages are never suppressed.
            if ["table", "ioctl"].contains(&&*origin) {
                continue;
            }
            *self.messages.entry(origin).or_default() += 1;
        }
        if outcome.is_dead {
            self.vm = None;
        }
        Ok(outcome)
    }
}

/// A judged damage.
struct Judged {
    about: &'static str,
    name: &'static str,
    /// Codes reported by `clone_check`.
    codes: Vec<String>,
    severity: String,
    exit_code: i32,
    /// Verdict of the kernel.
    words: Vec<&'static str>,
    said: Vec<String>,
}

impl Judged {
    fn new(about: &'static str, name: &'static str, check: &Check, outcome: Outcome) -> Self {
        let worst = ["fatal", "leak", "warning"].into_iter().find(|severity| {
            check.problems.iter().any(|problem| problem.severity == *severity)
        });
        Self {
            about,
            name,
            codes: check.kinds().into_iter().map(str::to_owned).collect(),
            severity: worst.unwrap_or("sound").to_owned(),
            exit_code: check.code,
            words: outcome.words,
            said: outcome.said,
        }
    }

    fn verdict(&self) -> String {
        if self.words.is_empty() { "harmless".to_owned() } else { self.words.join(", ") }
    }

    /// Returns whether the rule holds that every harmful damage is fatal.
    fn obeys_the_rule(&self) -> bool {
        self.words.is_empty() || (self.severity == "fatal" && self.exit_code == 1)
    }
}

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let all = std::env::var_os("ALL_DAMAGES").is_some();
    let mut judge = Judge::new(context)?;
    let mut judged = unreadable::run(&mut judge)?;
    let mut selected = 0;
    for table in TABLES {
        let selection = SELECTION.iter().find(|(about, _)| *about == table.about);
        let names = selection.map_or(&[][..], |(_, names)| names);
        for case in table.cases {
            let is_selected = names.contains(&case.name);
            selected += usize::from(is_selected);
            if is_selected || all {
                let place = || format!("{}, {}, {}", table.about, case.image, case.name);
                let (check, outcome) = match try_case(&mut judge, case) {
                    Ok(judged) => judged,
                    Err(error) => {
                        judge.keep_images()?;
                        return Err(error.context(place()));
                    }
                };
                let one = Judged::new(table.about, case.name, &check, outcome);
                let mut expected = case.codes.to_vec();
                expected.sort_unstable();
                ensure!(one.codes == expected, "{}: clone_check says {:?}", place(), one.codes);
                judged.push(one);
            }
        }
    }
    let in_all: usize = SELECTION.iter().map(|(_, names)| names.len()).sum();
    ensure!(selected == in_all, "the selection names what no table has, or has twice");
    let broken: Vec<String> = judged
        .iter()
        .filter(|one| !one.obeys_the_rule())
        .map(|one| format!("{}: {}: {}, and it was called {}", one.about, one.name,
            one.verdict(), one.severity))
        .collect();
    ensure!(broken.is_empty(), "harm that clone_check did not tell:\n{}", broken.join("\n"));
    if all {
        context.say(format!("{} damages; the document was not looked at", judged.len()));
        return Ok(());
    }
    every_code_is_judged(&judged)?;
    let harmless = judged.iter().filter(|one| one.words.is_empty()).count();
    context.say(format!("{} damages, {harmless} harmless", judged.len()));
    document::compare(context, &judged)
}

/// Checks that each code in the tables of `docs/damage.md` was judged.
fn every_code_is_judged(judged: &[Judged]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/damage.md");
    let text = fs::read_to_string(path)?;
    let tables = text.split("## Reserved").next().unwrap_or_default();
    let cells = tables.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let codes = cells.flat_map(|cell| cell.split(['`', ' ']).filter(|code| !code.is_empty()));
    let is_judged = |code: &str| judged.iter().any(|one| one.codes.iter().any(|c| c == code));
    let missing: Vec<&str> = codes.filter(|code| !is_judged(code)).collect();
    ensure!(missing.is_empty(), "no kernel was asked about {missing:?}: add cases");
    Ok(())
}

/// Returns a base image: a kernel's metadata, with content that could be misread.
fn base(name: &str) -> ImageEditor {
    let mut editor = ImageEditor::of(name);
    if name == "fresh" {
        for index in 0..editor.layout().array_blocks.len() {
            editor.array_block(index, |disk| {
                let words = disk.header.nr_entries.get() as usize;
                let some = [index, 100 + 3 * index, 300 + 5 * index, 508 - index];
                let bits = 0x0ff1_u32 << index;
                for word in some.into_iter().filter(|&word| word < words) {
                    disk.body[8 * word..][..4].copy_from_slice(&bits.to_le_bytes());
                }
            });
        }
    }
    editor
}

fn try_case(judge: &mut Judge<'_>, case: &Case) -> Result<(Check, Outcome)> {
    let original = base(case.image);
    let mut editor = original.clone();
    (case.change)(&mut editor);
    let nr_blocks = editor.nr_blocks();
    let image = judge.image(nr_blocks);
    write_image(&editor, &image)?;
    let check = if nr_blocks == 0 {
        too_small(judge.context, &image)?
    } else {
        judge.context.tools.check(&image)?
    };
    let (regions, truth) = what_is_true(case, &editor, &original, &check)?;
    let trial = Trial::new(regions, truth);
    let metadata = judge.disk(nr_blocks)?;
    let mut outcome = judge.run(&trial, regions, metadata)?;
    if outcome.words.is_empty() {
        let left = FileDevice::open_read(&image)?;
        let (before, left) = (read(&editor, &()), read(&left, &()));
        outcome.add(is_worse(&before, &left, &trial).then_some("harmed"));
    } else if check.problems.iter().any(|problem| problem.kind == "superblock-unformatted") {
        outcome.words = vec!["formatted"];
    }
    Ok((check, outcome))
}

/// Returns whether a kernel left more damage than before, or wrong hydrated regions.
fn is_worse(before: &Report, left: &Report, trial: &Trial) -> bool {
    let known = laws::codes(before);
    let is_new = |found: &(&str, Severity)| found.1 == Severity::Fatal && !known.contains(found);
    let is_wrong = match (&before.regions, &left.regions) {
        (Some(before), Some(left)) => {
            let lost: Vec<RegionRange> = left.lost().collect();
            let runs: Vec<RegionRange> = left.runs().collect();
            let was_lost: Vec<RegionRange> = before.lost().collect();
            !minus(&lost, &was_lost).is_empty()
                || minus(&runs, &lost) != minus(&trial.after(2), &lost)
        }
        (before, left) => before.is_some() && left.is_none(),
    };
    is_wrong || laws::codes(left).iter().any(is_new)
}

/// Returns the report of `clone_check` on a device without a single block. It ends before the
/// actual check.
fn too_small(context: &Context<'_>, image: &Path) -> Result<Check> {
    let ran = context.tools.try_run("clone_check", &[image])?;
    ensure!(ran.stderr.contains("metadata begins with a superblock"), "{ran:?}");
    let problems = vec![Problem {
        severity: "fatal".to_owned(),
        kind: "device-too-small".to_owned(),
        message: ran.stderr,
    }];
    let (superblock, hydrated, metadata_blocks) = Default::default();
    Ok(Check { code: ran.code, superblock, hydrated, metadata_blocks, problems })
}

fn write_image(editor: &ImageEditor, path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&editor.to_bytes())?;
    // A device cannot be empty.
    let bytes = (editor.nr_blocks() * BLOCK_SIZE as u64).max(BLOCK_SIZE as u64 / 2);
    Ok(file.set_len(bytes)?)
}

/// Returns the clone's sizes, from the superblock if it has some, and the hydrated regions.
fn what_is_true(
    case: &Case,
    editor: &ImageEditor,
    original: &ImageEditor,
    check: &Check,
) -> Result<(Regions, Vec<RegionRange>)> {
    let report = read(original, &());
    let geometry = report.header().context("a base image that is sound")?.geometry;
    let mut regions =
        Regions { size: geometry.region_size().sectors().0, target: geometry.target_size().0 };
    if let Some(superblock) = &check.superblock {
        regions = Regions { size: superblock.region_size, target: superblock.target_size };
    }
    // If only bits were changed, the new bits are the truth.
    let only_bits = case.codes.is_empty() || case.codes == ["bitset-trailing-bits"];
    let shown = if only_bits { editor } else { original };
    let count = regions.count();
    let cut = |run: RegionRange| run.start..run.end.min(count);
    let truth = shown.runs_by_hand().into_iter().map(cut).filter(|run| run.start < run.end);
    Ok((regions, truth.collect()))
}
