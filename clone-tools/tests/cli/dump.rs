//! `clone_dump`.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::image::{FIXTURES, Image, description, runs};
use crate::support::{Scratch, binary, run, run_after};

/// Returns the XML for the description of a fixture.
fn expected_xml(said: &serde_json::Value) -> String {
    let mut xml = format!(
        "<superblock uuid=\"\" version=\"1\" region_size=\"{}\" target_size=\"{}\" \
         nr_regions=\"{}\">\n",
        said["region_size"], said["target_size"], said["nr_regions"]
    );
    for (begin, end) in runs(said) {
        writeln!(xml, "  <hydrated begin=\"{begin}\" length=\"{}\"/>", end - begin).unwrap();
    }
    xml + "</superblock>\n"
}

#[test]
fn xml_is_what_the_kernel_meant() {
    for name in FIXTURES {
        let scratch = Scratch::new();
        let image = Image::fixture(name);
        let path = scratch.file(name, &image.0);
        let ran = run("clone_dump", [&path]).exits(0).stays_silent_on_stderr();
        assert!(ran.text() == expected_xml(&description(name)), "{name}: {ran}");
        assert!(fs::read(&path).unwrap() == image.0, "{name} was changed");
    }
}

#[test]
fn json_and_bitmap_say_the_same() {
    for name in FIXTURES {
        let scratch = Scratch::new();
        let path = scratch.file(name, Image::fixture(name).0);
        let said = description(name);
        let path = path.to_str().unwrap();
        let json = run("clone_dump", ["--format", "json", path]).exits(0).json();
        let expected = json!({
            "uuid": "", "version": 1, "region_size": said["region_size"],
            "target_size": said["target_size"], "nr_regions": said["nr_regions"],
            "hydrated": said["hydrated"], "runs": said["runs"],
        });
        assert!(json == expected, "{name}");

        let bitmap = run("clone_dump", ["--format", "bitmap", path]).exits(0).stdout;
        let nr_regions = said["nr_regions"].as_u64().unwrap();
        let mut expected = vec![0u8; usize::try_from(nr_regions.div_ceil(8)).unwrap()];
        for region in runs(&said).into_iter().flat_map(|(begin, end)| begin..end) {
            expected[usize::try_from(region / 8).unwrap()] |= 1 << (region % 8);
        }
        assert!(bitmap == expected, "{name}");
    }
}

#[test]
fn text_has_units() {
    let scratch = Scratch::new();
    let path = scratch.file("tail", Image::fixture("tail").0);
    let ran = run("clone_dump", ["--format".as_ref(), "text".as_ref(), path.as_os_str()]).exits(0);
    for line in [
        "region size:  64 sectors (32 KiB)\n",
        "target size:  1000003 sectors (488.3 MiB)\n",
        "hydrated:     12 of 15626 regions (0.07 %)\n",
        "  regions 15624..15626: sectors 999936..1000003 (33.5 KiB)\n",
    ] {
        assert!(ran.text().contains(line), "{line:?} is not in\n{ran}");
    }
}

#[test]
fn damaged_metadata_is_not_dumped() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("complete");
    let array_block = image.first_array_block();
    image.block(array_block)[100] ^= 1;
    let path = scratch.file("image", &image.0);
    let path = path.to_str().unwrap();
    let kept = scratch.file("kept", "as it was");
    for format in ["xml", "json", "text", "bitmap"] {
        let ran = run("clone_dump", ["--format", format, path]).exits(1).leaves_stdout_empty();
        ran.says("fatal: ").says("0..32576").says("--repair").says("clone_repair -i ");
        let output = kept.to_str().unwrap();
        run("clone_dump", ["--format", format, "-o", output, path]).exits(1);
        assert_eq!(fs::read(&kept).unwrap(), b"as it was");
    }
    assert_eq!(scratch.names(), ["image", "kept"]);
}

#[test]
fn what_becomes_of_lost_regions_is_the_users_choice() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::torn().0);
    let path = path.to_str().unwrap();
    let ran = run("clone_dump", ["--repair", path]).exits(1).leaves_stdout_empty();
    ran.says("lost: regions 0..32576").says("--lost unhydrated").says("--lost hydrated");

    let lost = |choice| {
        let ran = run("clone_dump", ["--repair", "--lost", choice, path]).exits(0);
        ran.says("lost: regions 0..32576").text()
    };
    assert!(lost("unhydrated").contains("<hydrated begin=\"32576\" length=\"98496\"/>"));
    assert!(lost("hydrated").contains("<hydrated begin=\"0\" length=\"131072\"/>"));
    run("clone_dump", ["--lost", "hydrated", path]).exits(2).says("--repair");
}

#[test]
fn repair_changes_nothing_about_whole_metadata() {
    for name in FIXTURES {
        let scratch = Scratch::new();
        let path = scratch.file(name, Image::fixture(name).0);
        let plain = run("clone_dump", [&path]).exits(0).stdout;
        let args = ["--repair".as_ref(), "--lost".as_ref(), "hydrated".as_ref(), path.as_os_str()];
        assert!(
            run("clone_dump", args).exits(0).stays_silent_on_stderr().stdout == plain,
            "{name}"
        );
    }
}

#[test]
fn without_a_superblock_the_sizes_are_asked_for() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    image.block(0)[40] ^= 1;
    let path = scratch.file("image", &image.0);
    let path = path.to_str().unwrap();
    let ran = run("clone_dump", [path]).exits(1).leaves_stdout_empty();
    ran.says("fatal: superblock-checksum: ").says("clone_repair -i ");
    let ran = run("clone_dump", ["--repair", path]).exits(1).leaves_stdout_empty();
    ran.says("fatal: superblock-checksum: ").says("--region-size and --target-size");
    let ran = run("clone_dump", ["--repair", "--live", path]).exits(1).leaves_stdout_empty();
    ran.says("no readable superblock");
}

#[test]
fn sizes_go_with_a_repair_and_agree_with_a_sound_superblock() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("tail").0);
    let dump = |sizes: &[&str]| {
        let mut args: Vec<&OsStr> = sizes.iter().map(OsStr::new).collect();
        args.push(path.as_os_str());
        run("clone_dump", args)
    };
    let right = ["--region-size", "64", "--target-size", "1000003"];
    let repair = |sizes: [&'static str; 4]| [&["--repair"][..], &sizes].concat();
    dump(&right).exits(2).says("--repair");
    dump(&["--repair", "--region-size", "64"]).exits(2).says("--target-size");
    dump(&["--repair", "--target-size", "64"]).exits(2).says("--region-size");
    dump(&[&["--live"][..], &repair(right)].concat()).exits(2).says("--live");
    dump(&repair(["--region-size", "8", "--target-size", "8P"])).exits(2).says("larger region");
    let ran = dump(&repair(right)).exits(0).stays_silent_on_stderr();
    assert_eq!(ran.text(), expected_xml(&description("tail")));
    let ran = dump(&repair(["--region-size", "64", "--target-size", "1000004"])).exits(1);
    let ran = ran.leaves_stdout_empty().says("has regions of 64 sectors (32 KiB)");
    ran.says("a target of 1000003 sectors").says("1000004 sectors");
}

#[test]
fn quiet_says_nothing_of_damage_that_costs_nothing() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    let index = image.index();
    image.block(index)[100] ^= 1;
    let path = scratch.file("image", &image.0);
    let path = path.to_str().unwrap();
    let ran = run("clone_dump", ["--repair", path]).exits(0).says("fatal: space-map-index-");
    assert_eq!(ran.text(), expected_xml(&description("tail")));
    run("clone_dump", ["--repair", "-q", path]).exits(0).stays_silent_on_stderr();
}

#[test]
fn leaks_do_not_touch_the_dump() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    image.leak(1000..1003);
    let path = scratch.file("image", &image.0);
    let ran = run("clone_dump", [&path]).exits(0).says("clone_check");
    assert_eq!(ran.text(), expected_xml(&description("tail")));
    run("clone_dump", ["-q".as_ref(), path.as_os_str()]).exits(0).stays_silent_on_stderr();
}

#[test]
fn an_output_file_is_whole_or_as_it_was() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("twolevel").0);
    let path = path.to_str().unwrap();
    let output = scratch.path("output");
    let args = ["-o", output.to_str().unwrap(), path];
    run("clone_dump", args).exits(0).stays_silent();
    let xml = fs::read_to_string(&output).unwrap();
    assert!(xml == expected_xml(&description("twolevel")));

    fs::write(&output, "old").unwrap();
    fs::set_permissions(&output, fs::Permissions::from_mode(0o640)).unwrap();
    run_after("ulimit -f 100", "clone_dump", args).exits(1).says("File too large");
    assert_eq!(fs::read(&output).unwrap(), b"old");
    assert_eq!(scratch.names(), ["image", "output"]);
    run("clone_dump", args).exits(0).stays_silent();
    assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o640);
    // An existing file keeps its mode; the mode of a new one depends on the umask.
    let new = scratch.path("new");
    for (output, mode) in [(&output, 0o640), (&new, 0o600)] {
        let args = ["-o", output.to_str().unwrap(), path];
        run_after("umask 077", "clone_dump", args).exits(0).stays_silent();
        assert_eq!(fs::metadata(output).unwrap().permissions().mode() & 0o777, mode);
    }

    let link = scratch.path("link");
    symlink(&output, &link).unwrap();
    run("clone_dump", ["-f", "text", "-o", link.to_str().unwrap(), path]).exits(0);
    assert!(link.is_symlink());
    assert!(fs::read_to_string(&output).unwrap().starts_with("region size"));
}

#[test]
fn a_link_to_nothing_leads_to_the_dump_and_stays() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("tail").0);
    let (link, other) = (scratch.path("link"), scratch.path("other"));
    symlink("other", &link).unwrap();
    symlink(scratch.path("target"), &other).unwrap();
    let args = ["-o".as_ref(), link.as_os_str(), path.as_os_str()];
    run("clone_dump", args).exits(0).stays_silent();
    assert!(link.is_symlink() && other.is_symlink());
    let dumped = fs::read_to_string(scratch.path("target")).unwrap();
    assert_eq!(dumped, expected_xml(&description("tail")));
    assert_eq!(scratch.names(), ["image", "link", "other", "target"]);

    symlink("loop", scratch.path("loop")).unwrap();
    let args = ["-o".into(), scratch.path("loop").into_os_string(), path.into_os_string()];
    run("clone_dump", args).exits(1).leaves_stdout_empty().says("loop");
}

#[test]
fn an_output_that_cannot_be_made_exits_1() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("tail").0);
    let path = path.to_str().unwrap();
    for output in ["/dev/full", "/nonexistent/x", "/tmp"] {
        run("clone_dump", ["-o", output, path]).exits(1).leaves_stdout_empty().says(output);
    }
    let ran = run("clone_dump", ["-o", "/nonexistent/x", path]);
    assert!(!ran.says("directory /nonexistent does not").stderr.contains(".clone_tools"));
    let ran = run("clone_dump", ["-o", "/proc/x", path]).exits(1);
    assert!(!ran.says("cannot make a file in /proc: ").stderr.contains(".clone_tools"));
    for output in ["-", "/dev/stdout", "/dev/null"] {
        let ran = run("clone_dump", ["-o", output, path]).exits(0);
        assert_eq!(ran.stdout.is_empty(), output == "/dev/null");
    }
}

#[test]
fn the_input_is_no_output() {
    let scratch = Scratch::new();
    let image = Image::fixture("tail");
    let path = scratch.file("image", &image.0);
    let (soft, hard) = (scratch.path("soft"), scratch.path("hard"));
    symlink(&path, &soft).unwrap();
    fs::hard_link(&path, &hard).unwrap();
    for output in [&path, &soft, &hard] {
        let args = ["-o".as_ref(), output.as_os_str(), path.as_os_str()];
        run("clone_dump", args).exits(1).says("are the same");
        assert!(fs::read(&path).unwrap() == image.0);
    }
}

#[test]
fn a_broken_pipe_ends_quietly() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("twolevel").0);
    for format in ["xml", "json", "text", "bitmap"] {
        let mut process = Command::new(binary("clone_dump"));
        process.args(["--format", format]).arg(&path);
        let mut process = process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = Vec::new();
        let mut stdout = BufReader::with_capacity(64, process.stdout.take().unwrap());
        stdout.read_until(b'\n', &mut first).unwrap();
        drop(stdout);
        let output = process.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{format}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{format}");
    }
}

#[test]
fn a_reader_of_a_fifo_may_stop_early_too() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("twolevel").0);
    let fifo = scratch.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut process = Command::new(binary("clone_dump"));
    let process = process.arg("-o").arg(&fifo).arg(&path).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, File::open(&fifo).unwrap()).read_line(&mut first).unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_full_disk_under_a_long_dump_exits_1() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("twolevel").0);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(binary("clone_dump")).arg(&path).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_file_is_dumped_live_too() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("tail").0);
    let ran = run("clone_dump", ["--live".as_ref(), path.as_os_str()]).exits(0);
    assert_eq!(ran.stays_silent_on_stderr().text(), expected_xml(&description("tail")));
}
