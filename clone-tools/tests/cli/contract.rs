//! Properties that all tools share.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::image::Image;
use crate::support::{Scratch, binary, run};

/// A tool, with the properties that the contract covers.
struct Program {
    name: &'static str,
    options: &'static [&'static str],
    reads: Reads,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    /// Metadata, as the only argument.
    Metadata,
    /// Metadata, as the only argument, to write whole metadata from it.
    Repairable,
    /// Metadata, with -i, to be changed.
    MetadataToChange,
    /// Metadata, however damaged.
    Image,
    Pack,
    Document,
    /// Metadata, with --metadata, besides two devices with data.
    Clone,
    Nothing,
    /// Nothing; the tool makes metadata of the given sizes.
    Sizes,
}

impl Reads {
    fn is_metadata(self) -> bool {
        !matches!(self, Self::Pack | Self::Document | Self::Nothing | Self::Sizes)
    }
}

const PROGRAMS: [Program; 11] = [
    Program {
        name: "clone_check",
        options: &[
            "--super-block-only",
            "--skip-space-map",
            "--ignore-non-fatal-errors",
            "--auto-repair",
            "--live",
            "--json",
        ],
        reads: Reads::Metadata,
    },
    Program {
        name: "clone_dump",
        options: &[
            "--format",
            "--repair",
            "--lost",
            "--region-size",
            "--target-size",
            "--live",
            "-o, --output",
        ],
        reads: Reads::Metadata,
    },
    Program {
        name: "clone_restore",
        options: &[
            "-i, --input",
            "-o, --output",
            "--format",
            "--metadata-size",
            "--region-size",
            "--target-size",
            "--hydrated",
        ],
        reads: Reads::Document,
    },
    Program {
        name: "clone_repair",
        options: &[
            "-i, --input",
            "-o, --output",
            "--metadata-size",
            "--region-size",
            "--target-size",
            "--lost",
            "--source",
            "--destination",
            "--repin",
            "--json",
        ],
        reads: Reads::Repairable,
    },
    Program {
        name: "clone_hydrate",
        options: &[
            "--metadata",
            "--destination",
            "--source",
            "--rate",
            "--limit",
            "--prefetch",
            "--batch",
            "-j, --jobs",
            "--direct",
            "--max-failures",
            "--repin",
            "--json",
        ],
        reads: Reads::Clone,
    },
    Program {
        name: "clone_metadata_size",
        options: &["--region-size", "--target-size"],
        reads: Reads::Nothing,
    },
    Program {
        name: "clone_map",
        options: &["--live", "--svg", "--png", "--width", "--color"],
        reads: Reads::Metadata,
    },
    Program {
        name: "clone_metadata_pack",
        options: &["-i, --input", "-o, --output"],
        reads: Reads::Image,
    },
    Program {
        name: "clone_metadata_unpack",
        options: &["-i, --input", "-o, --output"],
        reads: Reads::Pack,
    },
    Program {
        name: "clone_generate_metadata",
        options: &[
            "--region-size",
            "--target-size",
            "--pattern",
            "--hydrated",
            "--commits",
            "--reopens",
            "--seed",
            "--metadata-size",
            "-o, --output",
            "--truth",
        ],
        reads: Reads::Sizes,
    },
    Program {
        name: "clone_generate_damage",
        options: &["-i, --input", "--block", "--damage", "--seed"],
        reads: Reads::MetadataToChange,
    },
];

const COMMON_OPTIONS: [&str; 4] = ["-h, --help", "-V, --version", "-q, --quiet", "-v, --verbose"];

impl Program {
    /// Returns a command line with which the tool reads `input`.
    fn reading(&self, input: &Path, scratch: &Scratch) -> Vec<OsString> {
        match self.reads {
            Reads::Metadata => vec![input.into()],
            Reads::Document | Reads::Image | Reads::Pack | Reads::Repairable => {
                vec!["-i".into(), input.into(), "-o".into(), scratch.path("output").into()]
            }
            Reads::MetadataToChange => {
                let args = ["--block", "array-block", "--damage", "bit"].map(OsString::from);
                [vec!["-i".into(), input.into()], args.into()].concat()
            }
            Reads::Clone => {
                let mut args = vec!["--metadata".into(), input.into()];
                for device in ["source", "destination"] {
                    let data = scratch.file(device, "");
                    fs::File::options().write(true).open(&data).unwrap().set_len(1 << 30).unwrap();
                    args.extend([format!("--{device}").into(), data.into()]);
                }
                args
            }
            Reads::Nothing | Reads::Sizes => panic!("{} reads nothing", self.name),
        }
    }

    /// Returns a command line that the tool accepts.
    fn good(&self, scratch: &Scratch) -> Vec<OsString> {
        let sizes = ["--region-size", "8", "--target-size", "8192"].map(OsString::from);
        match self.reads {
            Reads::Nothing => sizes.into(),
            Reads::Sizes => [&sizes[..], &["-o".into(), scratch.path("output").into()]].concat(),
            Reads::Metadata
            | Reads::MetadataToChange
            | Reads::Image
            | Reads::Repairable
            | Reads::Clone => {
                let input = scratch.file("good", Image::fixture("tail").0);
                self.reading(&input, scratch)
            }
            Reads::Pack => self.reading(&pack_of(&Image::fixture("tail").0, scratch), scratch),
            Reads::Document => {
                let mut args = vec!["--hydrated".into(), "none".into()];
                args.extend(sizes);
                args.extend(["-o".into(), scratch.path("output").into()]);
                args
            }
        }
    }
}

/// Packs an image with `clone_metadata_pack`.
fn pack_of(image: &[u8], scratch: &Scratch) -> PathBuf {
    let (input, pack) = (scratch.file("to_pack", image), scratch.path("pack"));
    let args = ["-i".as_ref(), input.as_os_str(), "-o".as_ref(), pack.as_os_str()];
    run("clone_metadata_pack", args).exits(0).stays_silent();
    pack
}

fn readers() -> impl Iterator<Item = Program> {
    let reads_nothing = |reads| matches!(reads, Reads::Nothing | Reads::Sizes);
    PROGRAMS.into_iter().filter(move |program| !reads_nothing(program.reads))
}

#[test]
fn help_exits_0_and_names_every_option() {
    for program in PROGRAMS {
        for help in ["--help", "-h"] {
            let ran = run(program.name, [help]).exits(0).stays_silent_on_stderr();
            for option in program.options.iter().chain(&COMMON_OPTIONS) {
                assert!(ran.text().contains(option), "{option} is not in\n{ran}");
            }
            for words in ["Exit codes:", "Example", program.name] {
                assert!(ran.text().contains(words), "{words} is not in\n{ran}");
            }
        }
    }
}

/// `UPDATE_GOLDEN=1` updates the expected help.
#[test]
fn help_is_word_for_word_what_was_agreed() {
    for program in PROGRAMS {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/cli/help")
            .join(format!("{}.txt", program.name));
        let help = run(program.name, ["--help"]).exits(0).text();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &help).unwrap();
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(help, golden, "{} --help; UPDATE_GOLDEN=1 accepts it", program.name);
    }
}

#[test]
fn version_is_name_and_number() {
    for program in PROGRAMS {
        for version in ["--version", "-V"] {
            let ran = run(program.name, [version]).exits(0).stays_silent_on_stderr();
            let expected = format!("{} {}\n", program.name, env!("CARGO_PKG_VERSION"));
            assert_eq!(ran.text(), expected);
        }
    }
}

#[test]
fn a_wrong_command_line_exits_2_and_is_told_on_stderr() {
    let scratch = Scratch::new();
    for program in PROGRAMS {
        run(program.name, ["--frobnicate"]).exits(2).leaves_stdout_empty().says("--frobnicate");
        run(program.name, [""; 0]).exits(2).leaves_stdout_empty().says("required");
        let mut both = program.good(&scratch);
        both.extend(["-q".into(), "-v".into()]);
        run(program.name, both).exits(2).leaves_stdout_empty().says("--quiet");
    }
}

#[test]
fn a_good_run_is_silent_with_quiet() {
    for program in PROGRAMS {
        let scratch = Scratch::new();
        let mut args = program.good(&scratch);
        args.push("-q".into());
        let ran = run(program.name, args).exits(0).stays_silent_on_stderr();
        // A requested dump or number is not a message.
        if !["clone_dump", "clone_metadata_size", "clone_map"].contains(&program.name) {
            ran.leaves_stdout_empty();
        }
    }
}

#[test]
fn a_full_disk_behind_stdout_exits_1() {
    for program in PROGRAMS {
        let scratch = Scratch::new();
        let mut lines = vec![vec![OsString::from("--help")]];
        match program.reads {
            Reads::Metadata | Reads::MetadataToChange | Reads::Clone | Reads::Nothing => {
                lines.push(program.good(&scratch));
            }
            Reads::Image | Reads::Pack | Reads::Sizes => {
                let mut args = program.good(&scratch);
                *args.last_mut().unwrap() = "-".into();
                lines.push(args);
            }
            Reads::Repairable => {
                let mut args = program.good(&scratch);
                args.push("--json".into());
                lines.push(args);
            }
            Reads::Document => {}
        }
        for args in lines {
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let mut process = Command::new(binary(program.name));
            let output = process.args(&args).stdout(full).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{} {args:?}: {stderr}", program.name);
            assert!(stderr.contains("stdout: No space left"), "{stderr}");
        }
    }
}

/// Inputs that every tool must reject: the path and a part of the message.
fn bad_inputs(reads: Reads, scratch: &Scratch) -> Vec<(PathBuf, &'static str)> {
    let noise: Vec<u8> =
        (0..65536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let folder = scratch.path("folder");
    fs::create_dir_all(&folder).unwrap();
    let xml = "<superblock uuid=\"\" version=\"1\" region_size=\"8\" target_size=\"8\" \
               nr_regions=\"1\">\n";
    let image = Image::fixture("tail").0;
    let any = [(folder, "directory"), (scratch.path("missing"), "")];
    let some = match reads {
        Reads::Metadata | Reads::MetadataToChange | Reads::Repairable | Reads::Clone => vec![
            (scratch.file("empty", ""), "empty"),
            (scratch.file("short", [7; 100]), "100 bytes"),
            (scratch.file("noise", noise), "superblock"),
            (scratch.file("zeros", [0; 65536]), "format"),
            (scratch.file("xml", xml), "clone_restore"),
            (scratch.file("xml_with_declaration", format!("<?xml version='1.0'?>{xml}")), "XML"),
            (scratch.file("json", "{\"uuid\":\"\"}"), "JSON"),
            (scratch.file("cut_off", &image[..3 * 4096]), ""),
            (scratch.file("cut_off_in_superblock", &image[..2000]), "2000 bytes"),
            (PathBuf::from("/dev/null"), "neither a block device nor a regular file"),
        ],
        Reads::Image => vec![
            (scratch.file("empty", ""), "empty"),
            (scratch.file("short", [7; 100]), "100 bytes"),
            (scratch.file("xml", xml), "XML"),
            (scratch.file("json", "{\"uuid\":\"\"}"), "JSON"),
            (scratch.file("cut_off_in_superblock", &image[..2000]), "2000 bytes"),
            (PathBuf::from("/dev/null"), "neither a block device nor a regular file"),
        ],
        Reads::Pack => {
            let pack = fs::read(pack_of(&image, scratch)).unwrap();
            let no_pack = "not a pack of clone_metadata_pack";
            vec![
                (scratch.file("empty", ""), "empty"),
                (scratch.file("short", [7; 100]), no_pack),
                (scratch.file("noise", noise), no_pack),
                (scratch.file("metadata", &image), no_pack),
                (scratch.file("xml", xml), no_pack),
                (scratch.file("cut_off", &pack[..pack.len() - 1]), "cut off at byte"),
                (scratch.file("cut_off_in_header", &pack[..20]), "cut off at byte 20"),
                (PathBuf::from("/dev/null"), "empty"),
                (PathBuf::from("/dev/zero"), no_pack),
            ]
        }
        Reads::Document | Reads::Nothing | Reads::Sizes => vec![
            (scratch.file("empty", ""), "empty"),
            (scratch.file("short", "x".repeat(100)), "1:1"),
            (scratch.file("noise", noise), "1:1"),
            (scratch.file("metadata", &image), "binary metadata, not XML"),
            (scratch.file("zeros", [0; 65536]), "binary"),
            (scratch.file("cut_off", xml), "cut off"),
            (scratch.file("json", "{\"uuid\":\"\"}"), "1:1"),
            (PathBuf::from("/dev/null"), "empty"),
        ],
    };
    any.into_iter().chain(some).collect()
}

#[test]
fn a_bad_input_exits_1_and_is_named_and_left_alone() {
    for program in readers() {
        let scratch = Scratch::new();
        for (input, words) in bad_inputs(program.reads, &scratch) {
            let content = || input.is_file().then(|| fs::read(&input).unwrap());
            let before = content();
            let args = program.reading(&input, &scratch);
            let ran = run(program.name, args).exits(1);
            // A map shows lost regions, even if all are lost.
            let drawn = program.name == "clone_map" && input.ends_with("cut_off");
            let ran = if drawn { ran } else { ran.leaves_stdout_empty() };
            let ran = ran.says(&input.display().to_string()).says(words);
            assert!(!ran.stderr.contains("os error 16"), "{ran}");
            assert!(before == content(), "changed by {ran}");
            assert!(!scratch.path("output").exists(), "made by {ran}");
        }
    }
}

#[test]
fn a_fifo_is_refused_where_metadata_is_read() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for program in readers().filter(|program| program.reads.is_metadata()) {
        let args = program.reading(&fifo, &scratch);
        run(program.name, args).exits(1).leaves_stdout_empty().says("neither");
    }
}

#[test]
fn metadata_comes_from_no_pipe_and_goes_to_none() {
    let scratch = Scratch::new();
    for program in readers().filter(|program| program.reads.is_metadata()) {
        let args = program.reading(Path::new("-"), &scratch);
        let ran = run(program.name, args).exits(2).leaves_stdout_empty();
        ran.says("metadata cannot be read from a pipe; ./- names a file");
    }
    for tool in ["clone_restore", "clone_repair"] {
        let ran = run(tool, ["-i", "x", "-o", "-"]).exits(2).leaves_stdout_empty();
        ran.says("metadata cannot go to stdout; ./- names a file");
    }
}
