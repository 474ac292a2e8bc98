//! Kills a repair with `kill -9` at many points.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::{arguments, json, repair};
use crate::image::{BLOCK, Image};
use crate::support::{Scratch, binary, run, run_with_stdin};

/// The number of regions: 16 MiB of array blocks.
const NR_REGIONS: usize = 1 << 27;

/// The number of regions in an array block.
const PER_BLOCK: usize = 509 * 64;

/// The number of repairs that are killed while they write.
const KILLS: usize = 12;

/// Large damaged metadata without lost regions, and the result of its repair.
struct Damaged {
    scratch: Scratch,
    input: PathBuf,
    whole: Vec<u8>,
    runs: Value,
}

/// Returns the block at `at`, if it exists.
fn block_of(file: &File, at: usize) -> Option<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    file.read_exact_at(&mut block, (at * BLOCK) as u64).ok().map(|()| block)
}

impl Damaged {
    fn new() -> Self {
        let scratch = Scratch::new();
        let (input, output) = (scratch.path("input"), scratch.path("output"));
        let mut xml = format!(
            "<superblock uuid=\"\" version=\"1\" region_size=\"8\" target_size=\"{}\" \
             nr_regions=\"{NR_REGIONS}\">",
            8 * NR_REGIONS
        );
        // Each array block has a run.
        for (number, begin) in (0..NR_REGIONS).step_by(PER_BLOCK).enumerate() {
            let length = 1 + number % 100;
            write!(xml, "<hydrated begin=\"{begin}\" length=\"{length}\"/>").unwrap();
        }
        xml += "</superblock>";
        let args = ["-i".as_ref(), "-".as_ref(), "-o".as_ref(), input.as_os_str()];
        run_with_stdin("clone_restore", args, xml).exits(0);
        let runs = json(&input)["runs"].take();
        let mut image = Image(fs::read(&input).unwrap());
        let block = image.ref_count_root();
        image.block(block)[100] ^= 1;
        fs::write(&input, &image.0).unwrap();

        repair(&["-q"], &input, &output).exits(0);
        assert!(json(&output)["runs"] == runs);
        let whole = fs::read(&output).unwrap();
        fs::remove_file(&output).unwrap();
        Self { scratch, input, whole, runs }
    }

    /// Returns the blocks, except the superblock, that a repair over `old` changes, in ascending
    /// order.
    fn changes(&self, old: &[u8]) -> Vec<usize> {
        let nr_blocks = self.whole.len() / BLOCK;
        let block =
            |bytes: &[u8], at: usize| bytes.get(at * BLOCK..(at + 1) * BLOCK).map(Vec::from);
        let is_written = |&at: &usize| {
            let whole = block(&self.whole, at);
            whole != block(old, at) && whole != Some(vec![0; BLOCK])
        };
        (1..nr_blocks).filter(is_written).collect()
    }

    fn spawn(&self, output: &Path) -> Child {
        let mut process = Command::new(binary("clone_repair"));
        process.args(arguments(&["-q"], &self.input, output));
        process.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Kills a repair once `has_come` is true.
    fn kill_when(&self, output: &Path, has_come: impl Fn(&File) -> bool) {
        let mut child = self.spawn(output);
        while child.try_wait().unwrap().is_none() {
            if File::open(output).is_ok_and(|file| has_come(&file)) {
                break;
            }
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Kills a repair once the block at `at` has its final content.
    fn kill_at(&self, output: &Path, at: usize) {
        let block = &self.whole[at * BLOCK..][..BLOCK];
        self.kill_when(output, |file| block_of(file, at).is_some_and(|found| found == block));
    }

    /// Returns whether `output` is whole. If it is not, checks that clone_check and clone_dump
    /// refuse
    /// it.
    fn is_whole(&self, output: &Path) -> bool {
        let checked = run("clone_check", [output]);
        if checked.code == Some(0) {
            assert!(json(output)["runs"] == self.runs, "it holds something else");
            return true;
        }
        checked.exits(1).leaves_stdout_empty().says("unfinished");
        run("clone_dump", [output]).exits(1).leaves_stdout_empty();
        false
    }

    /// Kills repairs that write to `output`, at ever later points. Before each, `prepare` puts
    /// `old` there. Returns the number of repairs that were not finished.
    fn kill(&self, output: &Path, old: &[u8], prepare: impl Fn()) -> usize {
        let changes = self.changes(old);
        assert!(changes.len() > NR_REGIONS / PER_BLOCK, "{}", changes.len());
        prepare();
        // The old superblock is wiped before anything else.
        self.kill_when(output, |file| {
            block_of(file, 0).is_some_and(|found| old.get(..BLOCK) != Some(&found))
        });
        let mut unfinished = usize::from(!self.is_whole(output));
        for kill in 0..KILLS {
            prepare();
            self.kill_at(output, changes[(changes.len() - 1) * kill / (KILLS - 1)]);
            unfinished += usize::from(!self.is_whole(output));
        }
        // The new superblock is written last.
        prepare();
        self.kill_at(output, 0);
        assert!(self.is_whole(output), "the superblock was there");
        println!("{unfinished} of {} were not done", KILLS + 1);
        // The remains of a killed repair do not hinder the next one.
        prepare();
        self.kill_at(output, changes[changes.len() / 2]);
        repair(&["-q"], &self.input, output).exits(0);
        assert!(self.is_whole(output));
        unfinished
    }
}

#[test]
fn a_repair_that_is_killed_leaves_nothing_that_could_pass_for_metadata_or_all_of_it() {
    let damaged = Damaged::new();
    let before = fs::read(&damaged.input).unwrap();
    let output = damaged.scratch.path("output");
    let unfinished = damaged.kill(&output, &[], || {
        // The file of a killed repair still exists.
        let _ = fs::remove_file(&output);
    });
    assert!(unfinished > 0, "each was done before it was killed");

    // Metadata of another size, so that its superblock is different.
    let old = damaged.scratch.path("old");
    let all = ["--region-size", "8", "--target-size", "1073741000", "--hydrated", "all", "-o"];
    run("clone_restore", all.into_iter().chain(old.to_str())).exits(0);
    let old = fs::read(old).unwrap();
    let unfinished = damaged.kill(&output, &old, || fs::write(&output, &old).unwrap());
    assert!(unfinished > 0, "each was done before it was killed");
    assert!(fs::read(&damaged.input).unwrap() == before, "the input was changed");
}
