//! Lost regions that are decided by the content of source and destination.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{arguments, assert_holds, repair};
use crate::image::{BLOCK, Image};
use crate::support::{Ran, Scratch, run};

const NR_REGIONS: usize = 200;

/// The devices of a clone of 200 regions of 4 KiB, whose metadata has lost all of them.
struct Clone {
    scratch: Scratch,
    input: PathBuf,
    source: PathBuf,
    destination: PathBuf,
}

impl Clone {
    /// Creates it. On the destination, 50 regions are equal to the source, 50 differ, `half_copied`
    /// are partly copied, and the others are all zero.
    fn new(half_copied: usize) -> Self {
        let scratch = Scratch::new();
        let input = scratch.path("input");
        let sizes = ["--region-size", "4k", "--target-size", "800k", "--hydrated", "none", "-o"];
        let args = sizes.into_iter().chain(input.to_str());
        run("clone_restore", args).exits(0);
        let mut image = Image(fs::read(&input).unwrap());
        let block = image.first_array_block();
        image.block(block)[100] ^= 1;
        fs::write(&input, &image.0).unwrap();

        let source: Vec<u8> =
            (0..NR_REGIONS * BLOCK).map(|at| (at / 512 % 255) as u8 + 1).collect();
        let mut destination = vec![0; source.len()];
        destination[..50 * BLOCK].copy_from_slice(&source[..50 * BLOCK]);
        destination[50 * BLOCK..100 * BLOCK].fill(0xee);
        for region in 100..100 + half_copied {
            let part = region * BLOCK..region * BLOCK + 512;
            destination[part.clone()].copy_from_slice(&source[part]);
        }
        let source = scratch.file("source", source);
        let destination = scratch.file("destination", destination);
        Self { scratch, input, source, destination }
    }

    fn repair(&self, options: &[&str], output: &Path) -> Ran {
        let [source, destination] = [&self.source, &self.destination].map(|p| p.to_str().unwrap());
        let devices = ["--source", source, "--destination", destination];
        repair(&[options, &devices].concat(), &self.input, output)
    }
}

#[test]
fn content_decides_what_it_can_and_the_user_the_rest() {
    let clone = Clone::new(0);
    let output = clone.scratch.path("output");
    let ran = clone.repair(&[], &output).exits(1).leaves_stdout_empty();
    let ran = ran.says("50 regions: the same on source and destination, counted as hydrated");
    let ran = ran.says("50 regions: written to on the destination, counted as hydrated");
    let ran = ran.says("100 regions: all zero on the destination only, not decided");
    ran.says("lost: regions 100..200").says("the state of 100 regions is unknown, so nothing");
    assert!(!output.exists());

    for (choice, end) in [("unhydrated", 100), ("hydrated", 200)] {
        clone.repair(&["--lost", choice], &output).exits(0).says("the state of 100 regions was");
        assert_holds(&output, &json!([[0, end]]));
    }
    let said = clone.repair(&["--json", "--lost", "unhydrated"], &output).exits(0).json();
    let expected = json!({
        "equal": 50, "written": 50, "undecided": 100, "half_copied": 0, "unreadable": 0,
        "lost_as": "unhydrated", "by_choice": 100,
    });
    assert_eq!(said["decided"], expected);
    assert_eq!(said["lost"], json!([[100, 200]]));
    assert_eq!(said["hydrated"], 100);
}

#[test]
fn what_is_half_copied_by_all_that_can_be_told_is_for_the_user_to_decide() {
    let mut clone = Clone::new(60);
    let output = clone.scratch.path("output");
    for options in [&[][..], &["-q"]] {
        let ran = clone.repair(options, &output).exits(1).leaves_stdout_empty();
        let ran = ran.says("40 regions: all zero on the destination only, not decided");
        let ran = ran.says("60 regions: apparently half copied, not decided");
        let ran = ran.says("half copied: on the destination each sector is zero or equal to the");
        ran.says("lost: regions 100..200").says("the state of 100 regions is unknown");
        assert!(!output.exists());
    }
    for (choice, end) in [("unhydrated", 100), ("hydrated", 200)] {
        for quiet in [&[][..], &["-q"]] {
            let options = [&["--lost", choice], quiet].concat();
            let ran = clone.repair(&options, &output).exits(0);
            ran.says("60 regions: apparently half copied")
                .says("the state of 100 regions was lost, and");
            assert_holds(&output, &json!([[0, end]]));
        }
    }
    let said = clone.repair(&["--json"], &output).exits(1).json();
    let expected = json!({
        "equal": 50, "written": 50, "undecided": 100, "half_copied": 60, "unreadable": 0,
        "lost_as": null, "by_choice": 0,
    });
    assert_eq!(said["decided"], expected);
    assert_eq!(said["lost"], json!([[100, 200]]));

    clone.destination = clone.scratch.file("copy", fs::read(&clone.source).unwrap());
    clone.repair(&["-q"], &output).exits(0).stays_silent();
    assert_holds(&output, &json!([[0, 200]]));
}

#[test]
fn devices_that_are_not_those_of_the_clone_are_refused() {
    let mut clone = Clone::new(0);
    let output = clone.scratch.path("output");
    let (source, destination) = (clone.source.clone(), clone.destination.clone());
    File::options().write(true).open(&destination).unwrap().set_len(400 << 10).unwrap();
    let ran = clone.repair(&["--lost", "hydrated"], &output).exits(1);
    let ran = ran.says(&format!("cannot compare {} and ", source.display()));
    ran.says("the destination has 409600 bytes");

    let link = clone.scratch.path("link");
    symlink(&source, &link).unwrap();
    clone.destination = link;
    clone.repair(&[], &output).exits(1).says("are the same").leaves_stdout_empty();
    let before = fs::read(&source).unwrap();
    clone.destination = destination;
    clone.repair(&["--lost", "hydrated"], &source).exits(1).says("are the same");
    assert!(fs::read(&source).unwrap() == before);
    clone.destination = clone.input.clone();
    clone.repair(&[], &output).exits(1).says("is the metadata");
    clone.destination = clone.scratch.path("missing");
    clone.repair(&[], &output).exits(1).says("missing does not exist");
    assert!(!output.exists());

    let only = ["--source", source.to_str().unwrap()];
    let args = arguments(&only, &clone.input, &output);
    run("clone_repair", args).exits(2).says("--destination");
}

#[test]
fn only_the_source_that_the_clone_was_begun_with_decides_and_the_output_is_of_that() {
    let mut clone = Clone::new(0);
    let (output, input) = (clone.scratch.path("output"), clone.input.clone());
    let [pin, copy] = ["input.source.json", "output.source.json"].map(|it| clone.scratch.path(it));
    // No source is recorded yet: the given one is recorded.
    clone.repair(&["--lost", "hydrated", "-q"], &output).exits(0);
    assert!(fs::read_to_string(&copy).unwrap().contains(clone.source.to_str().unwrap()));
    assert!(!pin.exists());
    fs::rename(&copy, &pin).unwrap();
    // A repair without devices copies the pin file, even an invalid one.
    repair(&["--lost", "hydrated", "-q"], &input, &output).exits(0);
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&pin).unwrap());
    fs::remove_file(&output).unwrap();
    fs::remove_file(&copy).unwrap();

    // Compared with another source, all regions look written.
    let other: Vec<u8> = fs::read(&clone.source).unwrap().iter().map(|byte| !byte).collect();
    let right = std::mem::replace(&mut clone.source, clone.scratch.file("other", other));
    for options in [&[][..], &["--lost", "hydrated"], &["--json", "--lost", "hydrated"]] {
        let ran = clone.repair(options, &output).exits(1).leaves_stdout_empty();
        ran.says("cannot compare with the source ").says("is not the original source of the clone");
        assert!(!output.exists() && !copy.exists());
    }
    // The right source under another name is accepted.
    fs::rename(right, clone.scratch.path("moved")).unwrap();
    clone.source = clone.scratch.path("moved");
    // A repair that is refused leaves no files behind.
    clone.repair(&[], &output).exits(1).says("50 regions: the same on source and destination");
    assert!(!output.exists() && !copy.exists());
    clone.repair(&["--lost", "hydrated"], &output).exits(0);
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&pin).unwrap());
    // With --repin another source is accepted.
    clone.source = clone.scratch.file("same", fs::read(&clone.source).unwrap());
    let ran = clone.repair(&["--repin", "--lost", "hydrated"], &output).exits(0);
    ran.says("50 regions: the same on source and destination");
    assert!(fs::read_to_string(&copy).unwrap().contains("/same"));
}
