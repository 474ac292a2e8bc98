//! Metadata in which no region is hydrated, and older metadata below it.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{assert_holds, repair};
use crate::image::Image;
use crate::support::{Scratch, run};

const SIZES: [&str; 4] = ["--region-size", "8", "--target-size", "2400000"];

const ADVICE: &str = "no region is hydrated in it";

/// Runs a tool with the sizes of the clone and the arguments `more` on the metadata at `output`.
fn make(tool: &str, more: &[&str], output: &Path) {
    let output = ["-o", output.to_str().unwrap()];
    run(tool, [&SIZES[..], more, &output].concat()).exits(0);
}

#[test]
fn what_a_format_has_not_overwritten_is_found_as_fresh_metadata_is_advised() {
    let scratch = Scratch::new();
    let (copy, output) = (scratch.path("copy"), scratch.path("output"));
    make("clone_generate_metadata", &["--commits", "200", "--metadata-size", "8M"], &copy);
    let before = run("clone_dump", ["-f".as_ref(), "json".as_ref(), copy.as_os_str()]).json();
    repair(&[], &copy, &output).exits(0).says("it has no damage");
    let said = repair(&["--json"], &copy, &output).exits(0).json();
    assert_eq!(said["fresh"], false);

    // The effect of a kernel on a zeroed superblock: the first blocks are overwritten, the rest
    // stays.
    make("clone_restore", &["--hydrated", "none"], &copy);
    let ran = repair(&[], &copy, &output).exits(0).leaves_stdout_empty();
    let ran = ran.says(ADVICE).says("dd if=/dev/zero of=COPY bs=4k count=1 conv=notrunc");
    let ran = ran.says("clone_repair --region-size 8 --target-size 2400000 -i COPY -o NEW");
    ran.says("others may have been");
    assert_holds(&output, &json!([]));
    repair(&["-q"], &copy, &output).exits(0).stays_silent();
    let said = repair(&["--json"], &copy, &output).exits(0).stays_silent_on_stderr().json();
    assert_eq!((&said["fresh"], &said["hydrated"]), (&json!(true), &json!(0)));

    let mut image = Image(fs::read(&copy).unwrap());
    image.block(0).fill(0);
    fs::write(&copy, &image.0).unwrap();
    let ran = repair(&SIZES, &copy, &output).exits(0).says("was found by a scan");
    assert!(!ran.stderr.contains(ADVICE), "{ran}");
    assert_holds(&output, &before["runs"]);
    let options = [&SIZES[..], &["--json"]].concat();
    assert_eq!(repair(&options, &copy, &output).exits(0).json()["fresh"], false);
}

#[test]
fn metadata_that_may_lack_hydrated_regions_is_not_called_fresh() {
    let scratch = Scratch::new();
    let (input, output) = (scratch.path("input"), scratch.path("output"));
    make("clone_restore", &["--hydrated", "none"], &input);
    let mut image = Image(fs::read(&input).unwrap());
    // Damage to the space map makes no difference.
    let bitmap = image.bitmap();
    image.block(bitmap)[100] ^= 1;
    fs::write(&input, &image.0).unwrap();
    repair(&[], &input, &output).exits(0).says("space-map-bitmap-checksum").says(ADVICE);

    let block = image.first_array_block();
    image.block(block)[100] ^= 1;
    fs::write(&input, &image.0).unwrap();
    for choice in ["unhydrated", "hydrated"] {
        let ran = repair(&["--lost", choice], &input, &output).exits(0);
        assert!(!ran.stderr.contains(ADVICE), "{ran}");
        let said = repair(&["--json", "--lost", choice], &input, &output).exits(0).json();
        assert_eq!(said["fresh"], false);
    }
}
