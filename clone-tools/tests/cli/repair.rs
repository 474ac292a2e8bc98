//! `clone_repair`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::image::{FIXTURES, Image, description};
use crate::support::{Ran, Scratch, binary, run, run_after};

mod content;
mod fresh;
mod killed;

fn arguments<'a>(options: &'a [&'a str], input: &'a Path, output: &'a Path) -> Vec<&'a OsStr> {
    let files = ["-i".as_ref(), input.as_os_str(), "-o".as_ref(), output.as_os_str()];
    options.iter().map(OsStr::new).chain(files).collect()
}

fn repair(options: &[&str], input: &Path, output: &Path) -> Ran {
    run("clone_repair", arguments(options, input, output))
}

fn json(path: &Path) -> Value {
    run("clone_dump", ["-f".as_ref(), "json".as_ref(), path.as_os_str()]).exits(0).json()
}

/// Checks that `path` holds whole metadata with exactly these runs hydrated.
#[track_caller]
fn assert_holds(path: &Path, runs: &Value) {
    run("clone_check", [path]).exits(0).stays_silent_on_stderr();
    assert_eq!(json(path)["runs"], *runs);
}

#[test]
fn a_damaged_space_map_costs_nothing() {
    let codes =
        ["space-map-index-checksum", "space-map-bitmap-checksum", "ref-count-tree-checksum"];
    let blocks = [Image::index, Image::bitmap, Image::ref_count_root];
    for name in FIXTURES {
        for (code, block) in codes.into_iter().zip(blocks) {
            let scratch = Scratch::new();
            let mut image = Image::fixture(name);
            let block = block(&mut image);
            image.block(block)[100] ^= 1;
            let (input, output) = (scratch.file("input", &image.0), scratch.path("output"));
            let ran = repair(&[], &input, &output).exits(0).leaves_stdout_empty();
            ran.says(&format!("fatal: {code}: block {block}, ")).says("; nothing was lost");
            assert_holds(&output, &description(name)["runs"]);
            assert!(fs::read(&input).unwrap() == image.0, "{name}: the input was changed");

            fs::remove_file(&output).unwrap();
            repair(&["-q"], &input, &output).exits(0).stays_silent();
            assert_holds(&output, &description(name)["runs"]);
        }
    }
}

#[test]
fn sound_metadata_is_copied() {
    for name in FIXTURES {
        let scratch = Scratch::new();
        let image = Image::fixture(name);
        let input = scratch.file("input", &image.0);
        let output = scratch.path("output");
        let ran = repair(&[], &input, &output).exits(0).leaves_stdout_empty();
        ran.says("it has no damage").says("nothing was lost");
        assert_holds(&output, &description(name)["runs"]);
        assert!(fs::read(&input).unwrap() == image.0, "{name}: the input was changed");
        repair(&["-q"], &input, &output).exits(0).stays_silent();

        let dumped = json(&input);
        let [region_size, target_size] =
            ["region_size", "target_size"].map(|size| dumped[size].to_string());
        let sizes = ["--region-size", &region_size, "--target-size", &target_size];
        repair(&sizes, &input, &output).exits(0);
        assert!(json(&output) == dumped);
    }
}

#[test]
fn metadata_that_is_full_is_dumped_as_it_is_and_made_whole_on_a_larger_device() {
    for free in 0..4 {
        let scratch = Scratch::new();
        let input = scratch.file("input", Image::full(free).0);
        let checked = run("clone_check", ["--json".as_ref(), input.as_os_str()]).exits(1).json();
        let problems = checked["problems"].as_array().unwrap();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0]["kind"], "space-map-full");
        let args = ["-f".as_ref(), "json".as_ref(), input.as_os_str()];
        let dumped = run("clone_dump", args).exits(0).says("fatal: space-map-full: ").json();
        assert_eq!(dumped["runs"], description("tail")["runs"]);

        let same = scratch.file("same", vec![0; fs::metadata(&input).unwrap().len() as usize]);
        repair(&[], &input, &same).exits(1).says("too small");
        let larger = scratch.path("larger");
        repair(&[], &input, &larger).exits(0).says("space-map-full").says("nothing was lost");
        assert_holds(&larger, &dumped["runs"]);
    }
    let roomy = Scratch::new();
    run("clone_check", [roomy.file("input", Image::full(4).0)]).exits(0).stays_silent_on_stderr();
}

#[test]
fn leaks_are_told_and_stay_behind() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    image.leak(1000..1003);
    let (input, output) = (scratch.file("input", &image.0), scratch.path("output"));
    repair(&[], &input, &output).exits(0).says("leak: leaked-blocks: ").says("nothing was lost");
    assert_holds(&output, &description("tail")["runs"]);
}

#[test]
fn nothing_is_written_until_the_user_has_chosen() {
    let scratch = Scratch::new();
    let image = Image::torn();
    let input = scratch.file("input", &image.0);
    let kept = scratch.file("kept", vec![7; 1 << 20]);
    for options in [&[][..], &["-q"], &["--lost", "fail"], &["--metadata-size", "1M"]] {
        for output in [&kept, &scratch.path("missing")] {
            let ran = repair(options, &input, output).exits(1).leaves_stdout_empty();
            let ran = ran.says("fatal: bitset-block-checksum: ").says("lost: regions 0..32576");
            ran.says("nothing was written; --lost unhydrated or --lost hydrated decides it");
        }
    }
    assert!(fs::read(&kept).unwrap() == vec![7; 1 << 20]);
    assert_eq!(scratch.names(), ["input", "kept"]);
    assert!(fs::read(&input).unwrap() == image.0);
}

#[test]
fn lost_regions_become_what_the_user_chose() {
    let scratch = Scratch::new();
    let image = Image::torn();
    let (input, output) = (scratch.file("input", &image.0), scratch.path("output"));
    for (choice, made, runs, count) in [
        ("unhydrated", "not hydrated", json!([[32576, 131_072]]), "98496 of 131072 regions"),
        ("hydrated", "hydrated", json!([[0, 131_072]]), "131072 of 131072 regions"),
    ] {
        for quiet in [&[][..], &["-q"]] {
            let options = [&["--lost", choice], quiet].concat();
            let ran = repair(&options, &input, &output).exits(0).leaves_stdout_empty();
            let ran = ran.says("fatal: bitset-block-checksum: ").says("lost: regions 0..32576");
            let ran = ran.says(&format!("32576 regions of unknown state written as {made}: "));
            ran.says(count).says(&format!("was lost, and --lost made it {made}"));
            assert_holds(&output, &runs);
        }
    }
    assert!(fs::read(&input).unwrap() == image.0);
    repair(&["--lost", "maybe"], &input, &output).exits(2).says("--lost");
}

#[test]
fn the_input_is_no_output() {
    let scratch = Scratch::new();
    let image = Image::fixture("tail");
    let input = scratch.file("input", &image.0);
    let (soft, hard) = (scratch.path("soft"), scratch.path("hard"));
    symlink(&input, &soft).unwrap();
    fs::hard_link(&input, &hard).unwrap();
    for output in [&input, &soft, &hard] {
        repair(&[], &input, output).exits(1).leaves_stdout_empty().says("are the same");
        repair(&[], output, &input).exits(1).leaves_stdout_empty().says("are the same");
        assert!(fs::read(&input).unwrap() == image.0);
    }
    assert_eq!(scratch.names(), ["hard", "input", "soft"]);
}

#[test]
fn an_output_that_will_not_do_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    let input = scratch.file("input", Image::fixture("twolevel").0);
    let small = scratch.file("small", [7; 16 * 4096]);
    let ran = repair(&[], &input, &small).exits(1).says("128 sectors (64 KiB)").says("too small");
    ran.says("at least").says("advises");
    assert!(fs::read(&small).unwrap() == [7; 16 * 4096]);
    let missing = scratch.path("missing");
    repair(&["--metadata-size", "64k"], &input, &missing).exits(1).says("too small");
    repair(&["--metadata-size", "8M"], &input, &small).exits(1).says("too small");
    for output in ["/nonexistent/x", "/tmp", "/dev/full", "/dev/null"] {
        repair(&[], &input, Path::new(output)).exits(1).leaves_stdout_empty().says(output);
    }
    let link = scratch.path("link");
    symlink("nowhere", &link).unwrap();
    repair(&[], &input, &link).exits(1).says("is a symbolic link to nowhere");
    assert_eq!(scratch.names(), ["input", "link", "small"]);
}

#[test]
fn the_output_is_as_large_as_it_was_asked_to_be() {
    let scratch = Scratch::new();
    let input = scratch.file("input", Image::fixture("tail").0);
    let made = scratch.path("made");
    let ran = repair(&["--metadata-size", "8M"], &input, &made).exits(0);
    ran.says("12 of 15626 regions hydrated (0.07 %), in metadata of 16384 sectors (8 MiB)");
    assert_eq!(fs::metadata(&made).unwrap().len(), 8 << 20);
    let ran = repair(&["--metadata-size", "4M"], &input, &made).exits(1);
    ran.says("16384 sectors (8 MiB)");
    assert_holds(&made, &description("tail")["runs"]);
}

#[test]
fn a_repair_that_cannot_write_leaves_nothing_that_could_pass_for_metadata() {
    let scratch = Scratch::new();
    let input = scratch.file("input", Image::torn().0);
    let (made, there) = (scratch.path("made"), scratch.file("there", Image::fixture("tail").0));
    let lost = &["--lost", "hydrated"];
    let args = arguments(lost, &input, &made);
    run_after("ulimit -f 40", "clone_repair", args).exits(1).says("File too large");
    assert!(!made.exists());
    // Enough space for the superblock, but not for the rest.
    let args = arguments(lost, &input, &there);
    run_after("ulimit -f 8", "clone_repair", args).exits(1).says("do not use what it holds now");
    run("clone_check", [&there]).exits(1).says("unfinished").leaves_stdout_empty();
    let options = &["--json", "--lost", "hydrated"];
    let args = arguments(options, &input, &there);
    let ran = run_after("ulimit -f 8", "clone_repair", args)
        .exits(1)
        .says("do not use what it holds now");
    let said = ran.json();
    assert_eq!((&said["ok"], &said["written"]), (&json!(false), &json!(false)));
    assert_eq!(said["hydrated"], 131_072);
    repair(lost, &input, &there).exits(0);
    assert_holds(&there, &json!([[0, 131_072]]));
}

#[test]
fn json_tells_all_that_people_are_told() {
    let scratch = Scratch::new();
    let mut image = Image::torn();
    let block = image.first_array_block();
    let (input, output) = (scratch.file("input", &image.0), scratch.path("output"));
    let checked = run("clone_check", ["--json".as_ref(), input.as_os_str()]).exits(1).json();
    let mut expected = json!({
        "ok": false,
        "superblock": checked["superblock"],
        "problems": checked["problems"],
        "origin": { "from": "superblock", "root": null, "newest": null },
        "fresh": false,
        "candidates": [],
        "recovered": [],
        "decided": {
            "equal": 0, "written": 0, "undecided": 0, "half_copied": 0, "unreadable": 0,
            "lost_as": null, "by_choice": 0,
        },
        "lost": [[0, 32576]],
        "hydrated": 98496,
        "written": false,
        "fits": [],
    });
    assert_eq!(expected["problems"][0]["block"], block);
    let ran = repair(&["--json"], &input, &output).exits(1);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran}");
    assert_eq!(ran.json(), expected);
    assert!(!output.exists());

    for (choice, hydrated) in [("unhydrated", 98496), ("hydrated", 131_072)] {
        let ran = repair(&["--json", "--lost", choice], &input, &output).exits(0);
        expected["ok"] = true.into();
        expected["written"] = true.into();
        expected["hydrated"] = hydrated.into();
        expected["decided"]["lost_as"] = choice.into();
        expected["decided"]["by_choice"] = 32576.into();
        assert_eq!(ran.stays_silent_on_stderr().json(), expected);
    }
}

#[test]
fn json_tells_what_was_recovered_where_output_is_refused() {
    let scratch = Scratch::new();
    let (input, small) = (scratch.file("input", Image::torn().0), scratch.file("small", [0; 8192]));
    let said = repair(&["--json"], &input, &small).exits(1).says("small").json();
    assert_eq!((&said["hydrated"], &said["written"]), (&json!(98496), &json!(false)));
}

#[test]
fn json_is_printed_where_nothing_was_recovered_too() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    let path = scratch.file("sound", &image.0);
    let output = scratch.path("output");
    let sizes = ["--json", "--region-size", "8", "--target-size", "1000003"];
    let ran = repair(&sizes, &path, &output).exits(1).says("the superblock is sound, and has");
    let said = ran.json();
    assert_eq!(said["superblock"]["region_size"], 64);
    assert_eq!(said["problems"], json!([]));

    image.block(0)[40] ^= 1;
    let path = scratch.file("torn", &image.0);
    let ran = repair(&["--json"], &path, &output).exits(1);
    let said = ran.says("--region-size and --target-size").json();
    assert_eq!(said["problems"][0]["kind"], "superblock-checksum");
    for null in ["superblock", "origin", "lost", "hydrated"] {
        assert_eq!(said[null], Value::Null, "{null}");
    }
    assert_eq!((&said["ok"], &said["written"]), (&json!(false), &json!(false)));
    assert_eq!(scratch.names(), ["sound", "torn"]);
}

#[test]
fn no_json_is_printed_of_what_cannot_be_read() {
    let scratch = Scratch::new();
    let xml = scratch.file("xml", "<superblock/>");
    for input in [xml, scratch.path("missing"), "/tmp".into()] {
        let ran = repair(&["--json"], &input, &scratch.path("output"));
        ran.exits(1).leaves_stdout_empty().says(&input.display().to_string());
    }
}

#[test]
fn sizes_come_together_and_make_a_clone() {
    let scratch = Scratch::new();
    let input = scratch.file("input", Image::fixture("tail").0);
    let output = scratch.path("output");
    repair(&["--region-size", "64"], &input, &output).exits(2).says("--target-size");
    repair(&["--target-size", "64"], &input, &output).exits(2).says("--region-size");
    for (region_size, target_size) in [("7", "64"), ("8", "8P"), ("8", "0")] {
        let sizes = ["--region-size", region_size, "--target-size", target_size];
        repair(&sizes, &input, &output).exits(2).leaves_stdout_empty();
    }
    assert_eq!(scratch.names(), ["input"]);
}

#[test]
fn whoever_reads_no_further_gets_the_metadata_all_the_same() {
    let scratch = Scratch::new();
    let (input, output) = (scratch.file("input", Image::torn().0), scratch.path("output"));
    for (choice, code) in [("fail", 1), ("hydrated", 0)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut process = Command::new(binary("clone_repair"));
        process.args(arguments(&["--json", "--lost", choice], &input, &output));
        let status = process.stdout(writer).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(code));
    }
    assert_holds(&output, &json!([[0, 131_072]]));
}
