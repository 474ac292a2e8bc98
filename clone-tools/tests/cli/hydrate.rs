//! `clone_hydrate`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::support::{Ran, Scratch, run, run_with_stdin};

mod errors;
mod killed;
mod pinned;
mod signals;

/// The three devices of a clone.
pub(crate) struct Trio {
    pub(crate) scratch: Scratch,
    pub(crate) metadata: PathBuf,
    pub(crate) source: PathBuf,
    pub(crate) destination: PathBuf,
    nr_regions: u64,
}

impl Trio {
    /// Creates a clone of `sectors`, in regions of `region_size` sectors, with the regions in
    /// `hydrated` hydrated. The source has data where `has_data` is true, and holes elsewhere. The
    /// destination is filled with 0xdd.
    fn new(
        region_size: u64,
        sectors: u64,
        hydrated: &[(u64, u64)],
        has_data: impl Fn(u64) -> bool,
    ) -> Self {
        let scratch = Scratch::new();
        let nr_regions = sectors.div_ceil(region_size);
        let mut xml = format!(
            "<superblock uuid=\"\" version=\"1\" region_size=\"{region_size}\" \
             target_size=\"{sectors}\" nr_regions=\"{nr_regions}\">"
        );
        for (begin, end) in hydrated {
            xml += &format!("<hydrated begin=\"{begin}\" length=\"{}\"/>", end - begin);
        }
        xml += "</superblock>";
        let metadata = scratch.path("metadata");
        let args = ["-i".as_ref(), "-".as_ref(), "-o".as_ref(), metadata.as_os_str()];
        run_with_stdin("clone_restore", args, xml).exits(0);

        let bytes = sectors * 512;
        let source = scratch.file("source", "");
        let file = File::options().write(true).open(&source).unwrap();
        file.set_len(bytes).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        for at in (0..bytes).step_by(4096).filter(|&at| has_data(at)) {
            let mut block = vec![0; 4096.min(bytes - at) as usize];
            rng.fill(&mut block[..]);
            file.write_all_at(&block, at).unwrap();
        }
        let destination = scratch.file("destination", vec![0xdd; bytes as usize]);
        Self { scratch, metadata, source, destination, nr_regions }
    }

    /// Creates a fresh clone of `sectors`, without holes, in regions of 4 KiB.
    pub(crate) fn full(sectors: u64) -> Self {
        Self::new(8, sectors, &[], |_| true)
    }

    pub(crate) fn args(&self, more: &[&str]) -> Vec<String> {
        let devices = [
            ("--metadata", &self.metadata),
            ("--destination", &self.destination),
            ("--source", &self.source),
        ];
        let devices = devices.map(|(name, path)| [name.to_owned(), path.display().to_string()]);
        let more = more.iter().map(|&more| more.to_owned());
        devices.into_iter().flatten().chain(more).collect()
    }

    pub(crate) fn run(&self, more: &[&str]) -> Ran {
        run("clone_hydrate", self.args(more))
    }

    /// Returns the number of hydrated regions, and checks that the metadata is sound.
    #[track_caller]
    pub(crate) fn hydrated(&self) -> u64 {
        hydrated(&self.metadata)
    }

    /// Checks that source and destination are equal in all hydrated regions except `but`, and
    /// returns the number of hydrated regions.
    #[track_caller]
    pub(crate) fn check(&self, but: &[(u64, u64)]) -> u64 {
        let ran = run("clone_dump", ["--format=json".as_ref(), self.metadata.as_os_str()]);
        let dump = ran.exits(0).json();
        let region = dump["region_size"].as_u64().unwrap() as usize * 512;
        let (from, to) = (fs::read(&self.source).unwrap(), fs::read(&self.destination).unwrap());
        for run in dump["runs"].as_array().unwrap() {
            for at in run[0].as_u64().unwrap()..run[1].as_u64().unwrap() {
                let bytes = at as usize * region..((at as usize + 1) * region).min(from.len());
                let is_exempt = but.iter().any(|&(begin, end)| (begin..end).contains(&at));
                assert!(is_exempt || from[bytes.clone()] == to[bytes], "region {at} is not copied");
            }
        }
        self.hydrated()
    }
}

#[track_caller]
pub(crate) fn hydrated(metadata: &Path) -> u64 {
    let checked = run("clone_check", ["--json".as_ref(), metadata.as_os_str()]).exits(0);
    checked.json()["hydrated"].as_u64().unwrap()
}

#[test]
fn a_clone_becomes_its_source_whatever_its_sizes() {
    for (region_size, sectors) in
        [(8, 8), (8, 20_003), (64, 20_003), (2048, 20_003), (32768, 20_003)]
    {
        for direct in [false, true] {
            // Direct I/O on a file needs whole blocks.
            let sectors = if direct { sectors / 8 * 8 } else { sectors };
            let clone = Trio::new(region_size, sectors, &[], |at| at >> 18 & 1 == 0);
            let more: &[&str] = if direct { &["--direct", "--batch=64k"] } else { &[] };
            let ran = clone.run(more).exits(0).stays_silent_on_stderr();
            assert!(ran.text().contains("(100 %): complete"), "{ran}");
            assert_eq!(clone.check(&[]), clone.nr_regions);
            assert!(fs::read(&clone.source).unwrap() == fs::read(&clone.destination).unwrap());
        }
    }
}

#[test]
fn what_is_hydrated_is_left_alone() {
    let hydrated = [(0, 3), (7, 8), (100, 1000), (2499, 2501)];
    let clone = Trio::new(8, 20_003, &hydrated, |at| at % 65536 != 0);
    clone.run(&["-q"]).exits(0).stays_silent();
    assert_eq!(clone.check(&hydrated), clone.nr_regions);
    let destination = fs::read(&clone.destination).unwrap();
    for (begin, end) in hydrated {
        let bytes = begin as usize * 4096..(end as usize * 4096).min(destination.len());
        assert!(destination[bytes].iter().all(|&byte| byte == 0xdd), "{begin}..{end}");
    }
}

#[test]
fn a_complete_clone_needs_no_source_and_is_told_to_be_complete() {
    let clone = Trio::full(80);
    clone.run(&[]).exits(0);
    fs::remove_file(&clone.source).unwrap();
    let before = fs::read(&clone.metadata).unwrap();
    let ran = clone.run(&[]).exits(0).stays_silent_on_stderr();
    assert_eq!(ran.text(), "already complete: all of 10 regions hydrated\n");
    let told = clone.run(&["--json"]).exits(0).json();
    assert_eq!((&told["ended"], &told["complete"]), (&json!("already_complete"), &json!(true)));
    clone.run(&["-q"]).exits(0).stays_silent();
    assert!(fs::read(&clone.metadata).unwrap() == before);
}

#[test]
fn the_summary_tells_what_was_done() {
    // 4 MiB of data, and the same size of holes.
    let clone = Trio::new(8, 16384, &[(0, 1)], |at| at < 4 << 20);
    let ran = clone
        .run(&[])
        .exits(0)
        .says("metadata.source.json does not exist, but the clone already has 1 hydrated region: ");
    let text = ran.text();
    for words in [
        "copied:       2047 regions: 4.0 MiB of data written, 4 MiB of holes and zeroes skipped\n",
        "hydrated:     2048 of 2048 regions (100 %): complete\n",
        ", 4.0 MiB read (",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn json_tells_the_same() {
    let clone = Trio::new(8, 16384, &[(0, 1)], |at| at < 4 << 20);
    let told = clone.run(&["--json", "-v"]).exits(0).json();
    let data = (4 << 20) - 4096;
    for (key, value) in [
        ("ok", json!(true)),
        ("complete", json!(true)),
        ("ended", json!("complete")),
        ("region_size", json!(8)),
        ("regions", json!(2048)),
        ("hydrated", json!(2048)),
        ("copied_regions", json!(2047)),
        ("copied_bytes", json!(data)),
        ("skipped_bytes", json!(4 << 20)),
        ("read_bytes", json!(data)),
        ("failed", json!([])),
        ("error", Value::Null),
    ] {
        assert_eq!(told[key], value, "{key} of {told}");
    }
    assert!(told["commits"].as_u64().unwrap() >= 1 && told["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_limit_advances_the_clone_by_so_much_and_no_more() {
    // Holes do not count towards the limit.
    let clone = Trio::new(8, 16384, &[], |at| at >= 2 << 20);
    let told = clone.run(&["--limit=1M", "--json"]).exits(0).json();
    assert_eq!((&told["ended"], &told["ok"]), (&json!("limit"), &json!(true)));
    assert_eq!((&told["read_bytes"], &told["complete"]), (&json!(1 << 20), &json!(false)));
    assert_eq!(clone.check(&[]), (3 << 20) / 4096);
    let ran = clone.run(&["--limit=3"]).exits(1).leaves_stdout_empty();
    ran.says("--limit 1.5 KiB is less than a region of this clone").says("give at least 4 KiB");
    let ran = clone.run(&["--limit=100001"]).exits(0).stays_silent_on_stderr();
    assert!(ran.text().contains("complete"), "{ran}");
    assert_eq!(clone.check(&[]), clone.nr_regions);
}

#[test]
fn what_a_trace_lists_is_copied_first() {
    let clone = Trio::full(16384);
    let trace = "clone-trace 1\n8192000 8192\n4096 1\n99999999 5\n";
    let trace = clone.scratch.file("trace", trace).display().to_string();
    clone.run(&["--prefetch", &trace, "--limit=12k", "-q"]).exits(0).stays_silent();
    let ran = run("clone_dump", ["--format=json".as_ref(), clone.metadata.as_os_str()]);
    assert_eq!(ran.json()["runs"], json!([[1, 2], [2000, 2002]]));
    for (text, words) in [
        ("clone-trace 1\n5\n", "line 2 is \"5\""),
        ("", "line 1 is not"),
        ("\u{fffd}\n", "line 1 is not"),
    ] {
        let bad = clone.scratch.file("bad", text).display().to_string();
        clone.run(&["--prefetch", &bad]).exits(1).leaves_stdout_empty().says(words).says(&bad);
    }
    let bad = clone.scratch.file("bad", [0xff; 100]).display().to_string();
    clone.run(&["--prefetch", &bad]).exits(1).says("it is not text in UTF-8");
    let fifo = clone.scratch.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (path, words) in [
        ("/dev/zero", "cannot read the trace /dev/zero: it is a character device"),
        ("/", "it is a directory"),
        ("/nowhere", "cannot read the trace /nowhere: No such file"),
        (fifo.to_str().unwrap(), "it is a FIFO or a pipe, not a regular file"),
    ] {
        clone.run(&["--prefetch", path]).exits(1).leaves_stdout_empty().says(words);
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let clone = Trio::full(80);
    for (option, words) in [
        ("--rate=0", "no limit"),
        ("--limit=0", "no limit"),
        ("--limit=16384P", "too many bytes"),
        ("--batch=32k", "64 KiB to 64 MiB"),
        ("--batch=65M", "64 KiB to 64 MiB"),
        ("--jobs=0", "1..=64"),
        ("--jobs=65", "1..=64"),
    ] {
        clone.run(&[option]).exits(2).leaves_stdout_empty().says(words);
    }
    for device in ["--source", "--destination"] {
        run("clone_hydrate", [device, "-"]).exits(2).says("cannot be in a pipe");
    }
    assert_eq!(clone.hydrated(), 0);
}

#[test]
fn what_is_going_to_be_done_is_said_to_whoever_wants_to_know() {
    let clone = Trio::new(8, 16384, &[(0, 1)], |at| at < 1 << 20);
    let ran = clone.run(&["-v", "--batch=100k", "--rate=100M"]).exits(0);
    ran.says("2048 regions of 8 sectors (4 KiB) each, 1 of them hydrated")
        .says("1020 KiB to be read from")
        .says("in batches of 64 KiB, 4 at a time");
}
