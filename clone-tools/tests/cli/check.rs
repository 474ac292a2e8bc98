//! `clone_check`.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::image::{FIXTURES, Image, description};
use crate::support::{Scratch, binary, run, run_after};

#[test]
fn what_the_kernel_wrote_is_sound() {
    for name in FIXTURES {
        let scratch = Scratch::new();
        let image = Image::fixture(name);
        let path = scratch.file(name, &image.0);
        let said = description(name);
        let ran = run("clone_check", [&path]).exits(0).stays_silent_on_stderr();
        for line in [
            format!("region size:  {} sectors (", said["region_size"]),
            format!("target size:  {} sectors (", said["target_size"]),
            format!("hydrated:     {} of {} regions (", said["hydrated"], said["nr_regions"]),
            format!(
                "metadata:     {} of {} blocks of 4 KiB used (",
                said["metadata_blocks"]["used"], said["metadata_blocks"]["total"]
            ),
        ] {
            assert!(ran.text().contains(&line), "{line:?} is not in\n{ran}");
        }
        assert!(fs::read(&path).unwrap() == image.0, "{name} was changed");
    }
}

#[test]
fn json_holds_what_the_kernel_said() {
    for name in FIXTURES {
        let scratch = Scratch::new();
        let path = scratch.file(name, Image::fixture(name).0);
        let said = description(name);
        let ran = run("clone_check", ["--json".as_ref(), path.as_os_str()]);
        let ran = ran.exits(0).stays_silent_on_stderr();
        let expected = json!({
            "ok": true,
            "superblock": {
                "uuid": "", "version": 1, "region_size": said["region_size"],
                "target_size": said["target_size"], "nr_regions": said["nr_regions"],
            },
            "hydrated": said["hydrated"],
            "metadata_blocks": {
                "total": said["metadata_blocks"]["total"],
                "used": said["metadata_blocks"]["used"],
                "leaked": 0,
            },
            "problems": [],
        });
        assert_eq!(ran.json(), expected, "{name}");
    }
}

#[test]
fn a_narrower_scope_says_less() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("fresh");
    let array_block = image.first_array_block();
    image.block(array_block)[100] ^= 1;
    let path = scratch.file("image", &image.0);
    let path = path.to_str().unwrap();
    run("clone_check", [path]).exits(1);
    run("clone_check", ["--skip-space-map", path]).exits(1);
    let ran = run("clone_check", ["--super-block-only", path]).exits(0).stays_silent_on_stderr();
    assert!(ran.text().contains("262144"), "{ran}");
    let json = run("clone_check", ["--super-block-only", "--json", path]).exits(0).json();
    assert_eq!(json["hydrated"], Value::Null);

    let mut image = Image::fixture("fresh");
    image.leak(1000..1001);
    let path = scratch.file("image", &image.0);
    run("clone_check", ["--skip-space-map".as_ref(), path.as_os_str()]).exits(0);
}

#[test]
fn damage_is_told_with_its_place_its_cost_and_a_way_out() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("fresh");
    let array_block = image.first_array_block();
    image.block(array_block)[100] ^= 1;
    let path = scratch.file("image", &image.0);
    let ran = run("clone_check", [&path]).exits(1).leaves_stdout_empty();
    let ran = ran.says(&format!("clone_check: {}: fatal: ", path.display()));
    let ran = ran.says(&format!("block {array_block}")).says("0..32576");
    let way_out = format!("clone_repair -i {} -o NEW ", path.display());
    ran.says(&way_out).says("1 fatal problem;");
    // With -q, only success is silent.
    run("clone_check", ["-q".as_ref(), path.as_os_str()]).exits(1).says("fatal: ");

    let ran = run("clone_check", ["--json".as_ref(), path.as_os_str()]).exits(1);
    let ran = ran.stays_silent_on_stderr();
    let json = ran.json();
    assert_eq!(json["ok"], false);
    let problem = &json["problems"][0];
    assert_eq!(problem["severity"], "fatal");
    assert_eq!(problem["block"], array_block);
    assert_eq!(problem["regions"], json!([0, 32576]));
    assert!(problem["kind"].is_string() && problem["message"].is_string(), "{ran}");
}

#[test]
fn an_unreadable_superblock_is_null() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    image.block(0)[40] ^= 1;
    let path = scratch.file("image", &image.0);
    let json = run("clone_check", ["--json".as_ref(), path.as_os_str()]).exits(1).json();
    assert_eq!(json["superblock"], Value::Null);
    assert_eq!(json["ok"], false);
}

#[test]
fn a_superblock_that_lies_under_a_good_checksum_is_found() {
    let fields: [(&str, usize, &[u8]); 6] = [
        ("block number", 8, &[1]),
        ("magic", 32, &[0]),
        ("version", 40, &[2]),
        ("region size", 172, &[0]),
        ("target size", 180, &[255, 255, 255, 255, 255]),
        ("bitset root", 188, &[255, 255]),
    ];
    for (name, offset, value) in fields {
        let scratch = Scratch::new();
        let mut image = Image::fixture("fresh");
        image.change_superblock(offset, value);
        let path = scratch.file("image", &image.0);
        let ran = run("clone_check", [&path]);
        assert_eq!(ran.code, Some(1), "{name}: {ran}");
    }
}

#[test]
fn an_all_zero_superblock_is_told_for_what_it_costs() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("complete");
    image.block(0).fill(0);
    let path = scratch.file("image", &image.0);
    run("clone_check", [&path]).exits(1).leaves_stdout_empty().says("format");
}

#[test]
fn a_leak_is_not_fatal() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("fresh");
    image.leak(1000..1003);
    let path = scratch.file("image", &image.0);
    let path = path.to_str().unwrap();
    let ran = run("clone_check", [path]).exits(3).says("leak: ").says("--auto-repair");
    assert!(ran.text().contains("3 leaked"), "{ran}");
    run("clone_check", ["--ignore-non-fatal-errors", path]).exits(0);
    run("clone_check", ["--ignore-non-fatal-errors", "-q", path]).exits(0).stays_silent();

    let ran = run("clone_check", ["--json", path]).exits(3).stays_silent_on_stderr();
    let json = ran.json();
    assert_eq!(json["ok"], false);
    assert_eq!(json["metadata_blocks"]["leaked"], 3);
    let problems = json["problems"].as_array().unwrap();
    assert!(!problems.is_empty(), "{ran}");
    assert!(problems.iter().all(|problem| problem["severity"] == "leak"), "{ran}");
    let json = run("clone_check", ["--json", "--ignore-non-fatal-errors", path]).exits(0).json();
    assert_eq!(json["ok"], true);
    assert!(fs::read(path).unwrap() == image.0, "a check changed it");
}

#[test]
fn auto_repair_frees_leaked_blocks_and_nothing_else() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    image.leak(1000..1003);
    let path = scratch.file("image", &image.0);
    let path = path.to_str().unwrap();
    let dump = run("clone_dump", [path]).exits(0).stdout;
    let ran = run("clone_check", ["--auto-repair", path]).exits(0);
    assert!(ran.text().contains("3 leaked blocks freed"), "{ran}");
    let ran = run("clone_check", [path]).exits(0).stays_silent_on_stderr();
    assert!(ran.text().contains("6 of 2048"), "{ran}");
    assert_eq!(run("clone_dump", [path]).exits(0).stdout, dump);

    let repaired = fs::read(path).unwrap();
    run("clone_check", ["--auto-repair", "-q", path]).exits(0).stays_silent();
    assert!(fs::read(path).unwrap() == repaired, "there was nothing to repair");
}

#[test]
fn auto_repair_leaves_damaged_metadata_alone() {
    // Blocks that a broken walk does not reach look leaked; other implementations free them.
    let scratch = Scratch::new();
    let mut image = Image::fixture("fresh");
    image.leak(1000..1003);
    let array_block = image.first_array_block();
    image.block(array_block)[100] ^= 1;
    let path = scratch.file("image", &image.0);
    run("clone_check", ["--auto-repair".as_ref(), path.as_os_str()]).exits(1).says("fatal");
    assert!(fs::read(&path).unwrap() == image.0, "changed");
}

#[test]
fn auto_repair_that_cannot_write_exits_1() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    image.leak(1000..1003);
    let path = scratch.file("image", &image.0);
    let args = ["--auto-repair".as_ref(), path.as_os_str()];
    let ran = run_after("ulimit -f 0", "clone_check", args).exits(1).leaves_stdout_empty();
    // The findings are reported too.
    let ran = ran.says("leak: ").says("cannot repair");
    assert!(!ran.stderr.contains("frees leaked blocks"), "{ran}");
    let args = ["--json".as_ref(), "--auto-repair".as_ref(), path.as_os_str()];
    let ran = run_after("ulimit -f 0", "clone_check", args).exits(1).says("cannot repair");
    let json = ran.json();
    assert_eq!(json["ok"], false);
    assert_eq!(json["metadata_blocks"]["leaked"], 3);
    assert_eq!(json["repaired"], Value::Null);
    assert!(fs::read(&path).unwrap() == image.0, "changed");
    run("clone_check", [&path]).exits(3);
}

#[test]
fn auto_repair_goes_with_a_whole_check_only() {
    for option in ["--live", "--super-block-only", "--skip-space-map"] {
        run("clone_check", ["--auto-repair", option, "x"]).exits(2).says(option);
    }
}

#[test]
fn hundreds_of_leaks_do_not_make_hundreds_of_lines() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("fresh");
    // Every other block, so that no two form a range.
    image.leak((100..2000).filter(|block| block % 2 == 1));
    let path = scratch.file("image", &image.0);
    let path = path.to_str().unwrap();
    let few = run("clone_check", [path]).exits(3);
    assert!(few.stderr.lines().count() < 100, "{few}");
    let all = run("clone_check", ["-v", path]).exits(3);
    assert_eq!(all.stderr.lines().count(), 950 + 1, "{all}");
    let json = run("clone_check", ["--json", path]).exits(3).json();
    assert_eq!(json["metadata_blocks"]["leaked"], 950);
}

#[test]
fn every_block_in_use_matters() {
    let whole = Image::fixture("tail");
    for block in 0..whole.nr_blocks() {
        let mut image = whole.clone();
        if image.block(block).iter().all(|&byte| byte == 0) {
            continue;
        }
        let scratch = Scratch::new();
        image.block(block)[2000] ^= 0x10;
        let path = scratch.file("image", &image.0);
        let json = run("clone_check", ["--json".as_ref(), path.as_os_str()]).json();
        // The content of a block from before it was shadowed has no effect.
        if json["ok"] == false {
            let problems = json["problems"].as_array().unwrap();
            assert!(problems.iter().any(|problem| problem["block"] == block), "{block}: {json}");
        }
    }
}

#[test]
fn a_file_is_checked_live_too() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("tail").0);
    run("clone_check", ["--live".as_ref(), path.as_os_str()]).exits(0).stays_silent_on_stderr();
}

#[test]
fn whoever_reads_no_further_still_gets_the_verdict() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("fresh");
    image.leak(1000..1001);
    let path = scratch.file("image", &image.0);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut process = Command::new(binary("clone_check"));
    let status = process.arg(&path).stdout(writer).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(3));
}
