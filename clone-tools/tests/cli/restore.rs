//! `clone_restore`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::image::{FIXTURES, Image};
use crate::support::{Ran, Scratch, binary, run, run_after, run_with_stdin, seed};

fn superblock(nr_regions: u64) -> String {
    format!(
        "<superblock uuid=\"\" version=\"1\" region_size=\"8\" target_size=\"{}\" \
         nr_regions=\"{nr_regions}\">\n",
        nr_regions * 8
    )
}

/// Returns a document in the format of `clone_dump`.
fn xml(nr_regions: u64, runs: &[(u64, u64)]) -> String {
    let mut xml = superblock(nr_regions);
    for (begin, end) in runs {
        writeln!(xml, "  <hydrated begin=\"{begin}\" length=\"{}\"/>", end - begin).unwrap();
    }
    xml + "</superblock>\n"
}

/// Returns ascending maximal runs, with lengths and distances of every magnitude.
fn arbitrary_runs(rng: &mut StdRng, nr_regions: u64) -> Vec<(u64, u64)> {
    let largest = 1 << rng.random_range(0..18u32);
    let mut runs = Vec::new();
    let mut at = rng.random_range(0..=largest);
    while at < nr_regions && runs.len() < 5000 {
        let end = nr_regions.min(at + rng.random_range(1..=largest));
        runs.push((at, end));
        at = end + rng.random_range(1..=largest);
    }
    runs
}

fn restore(input: &Path, output: &Path) -> Ran {
    run("clone_restore", ["-i".as_ref(), input.as_os_str(), "-o".as_ref(), output.as_os_str()])
}

fn dump(path: &Path) -> String {
    run("clone_dump", [path]).exits(0).stays_silent_on_stderr().text()
}

#[test]
fn dump_and_restore_are_the_identity_for_what_the_kernel_wrote() {
    for name in FIXTURES {
        let scratch = Scratch::new();
        let metadata = scratch.file("metadata", Image::fixture(name).0);
        let document = scratch.file("xml", dump(&metadata));
        let restored = scratch.path("restored");
        restore(&document, &restored).exits(0).stays_silent();
        run("clone_check", [&restored]).exits(0).stays_silent_on_stderr();
        assert!(dump(&restored) == dump(&metadata), "{name}");
    }
}

#[test]
fn dump_and_restore_are_the_identity_for_arbitrary_runs() {
    let mut rng = StdRng::seed_from_u64(seed("arbitrary_runs"));
    // Near the ends of words and array blocks, where other implementations return longer runs.
    let edges = [1, 63, 64, 65, 127, 128, 32575, 32576, 32577, 65152];
    for round in 0..30 {
        let nr_regions = edges.get(round).copied().unwrap_or_else(|| rng.random_range(1..300_000));
        let document = xml(nr_regions, &arbitrary_runs(&mut rng, nr_regions));
        let scratch = Scratch::new();
        let input = scratch.file("xml", &document);
        let (restored, again) = (scratch.path("restored"), scratch.path("again"));
        restore(&input, &restored).exits(0).stays_silent();
        run("clone_check", ["-q".as_ref(), restored.as_os_str()]).exits(0).stays_silent();
        assert!(dump(&restored) == document, "{nr_regions} regions: {document}");

        // Neither the time nor old content of memory or of the file affects the output.
        let size = usize::try_from(fs::metadata(&restored).unwrap().len()).unwrap();
        fs::write(&again, vec![0xa5; size]).unwrap();
        restore(&input, &again).exits(0);
        let (first, second) =
            (Image(fs::read(&restored).unwrap()), Image(fs::read(&again).unwrap()));
        assert_equal_where_written(first, second);
    }
}

/// Checks that blocks outside the metadata are unchanged: zeroes here, 0xa5 there.
fn assert_equal_where_written(mut made: Image, mut overwritten: Image) {
    for block in 0..made.nr_blocks() {
        let untouched = made.block(block).iter().all(|&byte| byte == 0)
            && overwritten.block(block).iter().all(|&byte| byte == 0xa5);
        assert!(untouched || made.block(block) == overwritten.block(block), "block {block}");
    }
}

#[test]
fn runs_across_words_come_back_as_they_were() {
    // Another implementation writes 62..66 as 62..192.
    let scratch = Scratch::new();
    for run in [(62, 66), (63, 64), (64, 65), (0, 192), (127, 129), (32575, 32577)] {
        let document = xml(40000, &[run]);
        let restored = scratch.path("restored");
        restore(&scratch.file("xml", &document), &restored).exits(0);
        assert_eq!(dump(&restored), document);
    }
}

#[test]
fn runs_that_touch_become_one() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(40000, &[(1, 64), (64, 65), (65, 40000)]));
    let restored = scratch.path("restored");
    restore(&input, &restored).exits(0).stays_silent();
    assert_eq!(dump(&restored), xml(40000, &[(1, 40000)]));
}

#[test]
fn a_document_comes_from_stdin_too() {
    let scratch = Scratch::new();
    let output = scratch.path("output");
    let document = xml(1000, &[(1, 2), (998, 1000)]);
    let output_arg = output.to_str().unwrap();
    let declared = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{document}");
    let args = ["-i", "-", "-o", output_arg];
    run_with_stdin("clone_restore", args, declared).exits(0).stays_silent();
    assert_eq!(dump(&output), document);

    let piped = format!(
        "{0} {1} | {2} -i - -o {1}.copy",
        binary("clone_dump").display(),
        output_arg,
        binary("clone_restore").display()
    );
    assert!(Command::new("sh").args(["-c", &piped]).status().unwrap().success());
    assert_eq!(dump(&scratch.path("output.copy")), document);
    run_with_stdin("clone_restore", args, "").exits(1).says("stdin:1:1: the input is empty");
}

#[test]
fn json_is_restored_too() {
    let scratch = Scratch::new();
    let metadata = scratch.file("metadata", Image::fixture("twolevel").0);
    let json = run("clone_dump", ["-f".as_ref(), "json".as_ref(), metadata.as_os_str()]).stdout;
    let json = scratch.file("json", json);
    let restored = scratch.path("restored");
    let args = ["-f", "json", "-i", json.to_str().unwrap(), "-o", restored.to_str().unwrap()];
    run("clone_restore", args).exits(0).stays_silent();
    assert!(dump(&restored) == dump(&metadata));
    let ran = restore(&json, &scratch.path("x")).exits(1).says("1:1: this is JSON, not XML");
    ran.says("--format json reads it");
    let document = scratch.file("xml", format!("\n {}", xml(100, &[])));
    let args = ["-f", "json", "-i", document.to_str().unwrap(), "-o", "/nonexistent/x"];
    run("clone_restore", args).exits(1).says("1:1: this is XML, not JSON; --format xml reads it");
}

#[test]
fn a_bad_document_is_refused_before_the_output_is_touched() {
    let head = superblock(100);
    let bad = [
        (format!("{head}  <hydrated begin=\"1\" length=\"0\"/>\n</superblock>"), ":2:3: "),
        (
            format!("{head}<hydrated begin=\"5\" length=\"96\"/>\n</superblock>"),
            "5..101 reach past",
        ),
        (head.clone(), "cut off"),
        (xml(100, &[(1, 5), (4, 6)]), ":3:3: regions 4..6 overlap 1..5"),
        (xml(100, &[(10, 20), (1, 2)]), ":3:3: regions 1..2 are out of order"),
        (xml(100, &[]).replace("nr_regions=\"100\"", "nr_regions=\"101\""), "nr_regions is 101"),
        (xml(100, &[]).replace("\"8\"", "\"24\""), "power of two"),
        (xml(100, &[]).replace("\"800\"", "\"99999999999999\""), "use a larger region size"),
        (xml(100, &[]) + &xml(100, &[]), "after </superblock>"),
    ];
    for (document, words) in bad {
        let scratch = Scratch::new();
        let input = scratch.file("xml", &document);
        let (existing, missing) = (scratch.file("existing", [7; 65536]), scratch.path("missing"));
        for output in [&existing, &missing] {
            let ran = restore(&input, output).exits(1).leaves_stdout_empty().says(words);
            ran.says(&format!("{}:", input.display()));
        }
        assert!(fs::read(&existing).unwrap() == [7; 65536]);
        assert!(!missing.exists());
    }
}

#[test]
fn an_output_that_is_too_small_is_left_alone_and_told_what_it_lacks() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(1_000_000, &[]));
    let output = scratch.file("output", [7; 16 * 4096]);
    let ran = restore(&input, &output).exits(1).says("128 sectors (64 KiB)").says("too small");
    ran.says("at least").says("advises");
    assert!(fs::read(&output).unwrap() == [7; 16 * 4096]);

    let missing = scratch.path("missing");
    let args = ["--metadata-size", "64k", "-i", input.to_str().unwrap(), "-o"];
    let args = args.into_iter().chain([missing.to_str().unwrap()]);
    run("clone_restore", args).exits(1).says("too small");
    assert!(!missing.exists());

    for (size, words) in [(1, "has 1 byte,"), (100, "has 100 bytes,"), (4095, "has 4095 bytes,")] {
        let output = scratch.file("output", vec![7; size]);
        restore(&input, &output).exits(1).says(words).says("too small");
    }
}

#[test]
fn the_size_of_the_output_is_the_size_of_the_space_map() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(1000, &[]));
    let input = input.to_str().unwrap();
    let total = |path: &Path| {
        let json = run("clone_check", ["--json".as_ref(), path.as_os_str()]).exits(0).json();
        json["metadata_blocks"]["total"].as_u64().unwrap()
    };
    let made = scratch.path("made");
    let made_arg = made.to_str().unwrap();
    run("clone_restore", ["--metadata-size", "8M", "-i", input, "-o", made_arg]).exits(0);
    assert_eq!(fs::metadata(&made).unwrap().len(), 8 << 20);
    assert_eq!(total(&made), 2048);
    // An existing file is accepted, but only with the same size.
    run("clone_restore", ["--metadata-size", "8M", "-i", input, "-o", made_arg]).exits(0);
    let ran = run("clone_restore", ["--metadata-size", "4M", "-i", input, "-o", made_arg]);
    ran.exits(1).says("16384 sectors (8 MiB)");
    run("clone_check", [&made]).exits(0);

    let odd = scratch.file("odd", vec![0; 100 * 4096 + 1000]);
    restore(Path::new(input), &odd).exits(0);
    assert_eq!(total(&odd), 100);
}

#[test]
fn what_no_metadata_can_use_of_a_large_output_is_left_alone() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(1000, &[]));
    let (huge, size) = (scratch.path("huge"), 17 << 30);
    let system = rustix::fs::statvfs(scratch.path(".")).unwrap();
    // All blocks are allocated, which takes no time on a file system that supports it.
    if system.f_bavail.saturating_mul(system.f_frsize) < 2 * size {
        let test = "what_no_metadata_can_use_of_a_large_output_is_left_alone";
        eprintln!("SKIPPED: {test}: a file of 17 GiB needs more room than there is here");
        return;
    }
    File::create(&huge).unwrap().set_len(size).unwrap();
    restore(&input, &huge).exits(0);
    let json = run("clone_check", ["--json".as_ref(), huge.as_os_str()]).exits(0).json();
    assert_eq!(json["metadata_blocks"]["total"].as_u64(), Some(4_161_600));
}

#[test]
fn a_fresh_or_complete_clone_takes_no_document() {
    let scratch = Scratch::new();
    let output = scratch.path("output");
    let sizes = ["--region-size", "4k", "--target-size", "1G", "-o", output.to_str().unwrap()];
    for (which, hydrated) in [("none", 0), ("all", 262_144)] {
        run("clone_restore", ["--hydrated", which].into_iter().chain(sizes))
            .exits(0)
            .stays_silent();
        let json = run("clone_check", ["--json".as_ref(), output.as_os_str()]).exits(0).json();
        assert_eq!(json["hydrated"], hydrated);
        assert_eq!(json["superblock"]["region_size"], 8);
        assert_eq!(json["superblock"]["target_size"], 2_097_152);
    }
    run("clone_restore", sizes).exits(2).says("--input");
    run("clone_restore", ["--hydrated", "all", "-o", "x"]).exits(2).says("--region-size");
    let both = ["--hydrated", "all", "-i", "x"].into_iter().chain(sizes);
    run("clone_restore", both).exits(2).says("--input");
}

#[test]
fn sizes_of_the_command_line_go_before_those_of_the_document() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(100, &[(10, 20)]));
    let output = scratch.path("output");
    let files = ["-i", input.to_str().unwrap(), "-o", output.to_str().unwrap()];
    let run_with = |options: &[&str]| run("clone_restore", options.iter().copied().chain(files));
    run_with(&["--target-size", "1M"]).exits(0).stays_silent();
    assert_eq!(dump(&output), xml(256, &[(10, 20)]));
    run_with(&["--target-size", "152"]).exits(1).says("only 19 regions");
    run_with(&["--region-size", "7"]).exits(2);
}

#[test]
fn regions_of_another_size_are_made_only_where_all_of_them_are_alike() {
    let scratch = Scratch::new();
    let restored = |document: &str, options: &[&str]| {
        let input = scratch.file("xml", document);
        let output = scratch.file("output", vec![7; 1 << 20]);
        let files = ["-i", input.to_str().unwrap(), "-o", output.to_str().unwrap()];
        let ran = run("clone_restore", options.iter().copied().chain(files));
        if ran.code == Some(0) {
            return Ok(dump(&output));
        }
        assert!(fs::read(&output).unwrap() == vec![7; 1 << 20], "changed by {ran}");
        Err(ran.exits(1).leaves_stdout_empty())
    };
    for some in [[(10, 20)], [(0, 99)], [(99, 100)]] {
        for size in ["16", "4M"] {
            let ran = restored(&xml(100, &some), &["--region-size", size]).unwrap_err();
            ran.says("regions of 8 sectors").says("of unknown state, or lose writes");
        }
    }
    let head = |region_size, target_size, nr_regions| {
        format!(
            "<superblock uuid=\"\" version=\"1\" region_size=\"{region_size}\" \
             target_size=\"{target_size}\" nr_regions=\"{nr_regions}\">\n"
        )
    };
    let none = head(16, 4000, 250) + "</superblock>\n";
    let sizes = ["--region-size", "16", "--target-size", "4000"];
    assert_eq!(restored(&xml(100, &[]), &sizes).unwrap(), none);

    let all = |head: String, nr_regions: u64| {
        format!("{head}  <hydrated begin=\"0\" length=\"{nr_regions}\"/>\n</superblock>\n")
    };
    let complete = xml(101, &[(0, 101)]);
    let made = restored(&complete, &["--region-size", "16"]).unwrap();
    assert_eq!(made, all(head(16, 808, 51), 51));
    let made = restored(&complete, &["--region-size", "16", "--target-size", "100"]).unwrap();
    assert_eq!(made, all(head(16, 100, 7), 7));
    let grown = ["--region-size", "16", "--target-size", "809"];
    restored(&complete, &grown).unwrap_err().says("does not grow");
    assert_eq!(restored(&complete, &["--region-size", "8"]).unwrap(), complete);
}

#[test]
fn a_hydrated_region_that_was_short_does_not_grow() {
    let scratch = Scratch::new();
    let output = scratch.path("output");
    let restored = |document: &str, target_size: &str| {
        let input = scratch.file("xml", document.replace("\"168\"", "\"163\""));
        let files = ["-i", input.to_str().unwrap(), "-o", output.to_str().unwrap()];
        run("clone_restore", ["--target-size", target_size].into_iter().chain(files))
    };
    for size in ["164", "168", "1M"] {
        let ran = restored(&xml(21, &[(3, 5), (20, 21)]), size).exits(1).says("region 20, ");
        let end = if size == "164" { 164 } else { 168 };
        ran.says("only 3 sectors").says(&format!("sectors 163..{end} ")).leaves_stdout_empty();
        assert!(!output.exists());
    }
    // Sectors that the last region does not have are never marked as hydrated.
    restored(&xml(21, &[(3, 20)]), "168").exits(0).stays_silent();
    assert_eq!(dump(&output), xml(21, &[(3, 20)]));
    restored(&xml(21, &[(20, 21)]), "163").exits(0);
    restored(&xml(21, &[(20, 21)]), "161").exits(0);
}

#[test]
fn the_input_is_no_output() {
    let scratch = Scratch::new();
    let document = xml(100, &[]);
    let input = scratch.file("xml", &document);
    let link = scratch.path("link");
    symlink(&input, &link).unwrap();
    for output in [&input, &link] {
        restore(&input, output).exits(1).says("are the same");
        assert_eq!(fs::read_to_string(&input).unwrap(), document);
    }
}

#[test]
fn an_output_that_cannot_be_made_is_named() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(100, &[]));
    for output in ["/nonexistent/x", "/tmp", "/dev/full", "/dev/null"] {
        restore(&input, Path::new(output)).exits(1).leaves_stdout_empty().says(output);
    }
}

#[test]
fn a_link_to_nothing_is_refused() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(100, &[]));
    let link = scratch.path("link");
    symlink("nowhere", &link).unwrap();
    restore(&input, &link).exits(1).says("is a symbolic link to nowhere, which does not exist");
    assert_eq!(scratch.names(), ["link", "xml"]);
}

#[test]
fn a_file_that_cannot_be_written_whole_is_removed_again() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(1_000_000, &[(5, 500_000)]));
    let output = scratch.path("output");
    let args = ["-i".as_ref(), input.as_os_str(), "-o".as_ref(), output.as_os_str()];
    run_after("ulimit -f 40", "clone_restore", args).exits(1).says("File too large");
    assert!(!output.exists());
}

#[test]
fn a_restore_that_fails_leaves_nothing_that_could_pass_for_metadata() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(1_000_000, &[(5, 500_000)]));
    let output = scratch.file("output", Image::fixture("complete").0);
    run("clone_check", [&output]).exits(0);
    let args = ["-i".as_ref(), input.as_os_str(), "-o".as_ref(), output.as_os_str()];
    // Enough space for the superblock, but not for the rest.
    run_after("ulimit -f 8", "clone_restore", args).exits(1).says("do not use what it holds now");
    run("clone_check", [&output]).exits(1).leaves_stdout_empty();
    run("clone_dump", [&output]).exits(1).leaves_stdout_empty();
    restore(&input, &output).exits(0);
    run("clone_check", [&output]).exits(0);
}

#[test]
fn verbose_says_what_was_made() {
    let scratch = Scratch::new();
    let input = scratch.file("xml", xml(100, &[(0, 50)]));
    let args = ["-v", "-o", scratch.path("x").to_str().unwrap(), "-i", input.to_str().unwrap()]
        .map(str::to_owned);
    run("clone_restore", args).exits(0).leaves_stdout_empty().says("50 of 100 regions");
}

#[test]
fn memory_does_not_grow_with_the_document() {
    let scratch = Scratch::new();
    let mut process = Command::new(binary("clone_restore"))
        .args(["-i", "-", "-o", scratch.path("output").to_str().unwrap()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    // 1.5 million runs in 60 MB of XML: more than the spool keeps in memory.
    let nr_runs = 1_500_000;
    stdin.write_all(superblock(nr_runs * 2).as_bytes()).unwrap();
    let mut lines = String::new();
    for run in 0..nr_runs {
        writeln!(lines, "  <hydrated begin=\"{}\" length=\"1\"/>", run * 2).unwrap();
        if lines.len() > 1 << 16 {
            stdin.write_all(lines.as_bytes()).unwrap();
            lines.clear();
        }
    }
    stdin.write_all(lines.as_bytes()).unwrap();
    let peak = peak_memory_kib(process.id());
    stdin.write_all(b"</superblock>\n").unwrap();
    drop(stdin);
    assert_eq!(process.wait().unwrap().code(), Some(0));
    assert!(peak < 40 << 10, "{peak} KiB");
}

fn peak_memory_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
