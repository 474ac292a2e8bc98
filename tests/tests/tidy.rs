//! Rules that the compiler does not enforce. Each failure says what to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clone_core::metadata::damage::Damage;

/// Maximum number of lines of a Rust file.
const LINES_MAX: usize = 500;

/// Maximum number of characters of a line of Rust.
const WIDTH_MAX: usize = 100;

/// A text file of the workspace.
struct Text {
    /// Path from the workspace's root, with slashes.
    path: String,
    text: String,
}

impl Text {
    fn load(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path));
        let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text }
    }

    fn lines(&self) -> impl Iterator<Item = (String, &str)> {
        (1..).zip(self.text.lines()).map(|(line, text)| (format!("{}:{line}", self.path), text))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of a workspace")
}

/// Returns whether a path ends in `ending`: part of the name, or, with a slash, of the path.
fn is_named(path: &Path, ending: &str) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(ending))
}

/// Returns the files under `folder` that are [named](is_named) with one of `endings`, in order.
fn files(folder: &str, endings: &[&str]) -> Vec<Text> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()) {
            let (kind, path) = (entry.file_type().unwrap(), entry.path());
            let name = entry.file_name().into_string().unwrap_or_default();
            if kind.is_dir() && !["target", ".git", "corpus", "artifacts"].contains(&&*name) {
                folders.push(path);
            } else if kind.is_file() && endings.iter().any(|ending| is_named(&path, ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    let from_root = |path: &PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    found.iter().map(|path| Text::load(&from_root(path))).collect()
}

fn rust_files() -> Vec<Text> {
    files("", &[".rs"])
}

/// Returns the documents: those in `docs`, and those of the top level that exist.
fn documents() -> Vec<Text> {
    let mut documents = files("docs", &[".md"]);
    let top = ["README.md", "CONTRIBUTING.md"];
    let present = top.into_iter().filter(|name| root().join(name).exists());
    documents.extend(present.map(Text::load));
    documents
}

/// Returns the words of a program, separated by characters that no identifier contains.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Returns the parts of a line between backticks.
fn in_backticks(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Fails with everything found, and with the way to fix it.
#[track_caller]
fn expect_none(found: &[String], fix: &str) {
    assert!(found.is_empty(), "{fix}\n  {}", found.join("\n  "));
}

#[test]
fn crates_depend_downwards_only() {
    let above = [
        ("persistent-data", &["clone-core", "clone-tools", "clone-daemon", "clone-tests"][..]),
        ("clone-core", &["clone-tools", "clone-daemon", "clone-tests"]),
        ("clone-tools", &["clone-daemon", "clone-tests"]),
        // The daemon may use the output code of the tools.
        ("clone-daemon", &["clone-tests"]),
    ];
    let mut found = Vec::new();
    for (member, above) in above {
        let manifest = Text::load(&format!("{member}/Cargo.toml"));
        // Dependencies of tests are not shipped with the crate.
        let shipped = |(_, line): &(_, &str)| *line != "[dev-dependencies]";
        for (place, line) in manifest.lines().take_while(shipped) {
            if above.iter().any(|name| line.starts_with(name)) {
                found.push(format!("{place}: {line}"));
            }
        }
        for source in files(&format!("{member}/src"), &[".rs"]) {
            for (place, line) in source.lines() {
                if words(line).any(|word| above.contains(&&*word.replace('_', "-"))) {
                    found.push(format!("{place}: {line}"));
                }
            }
        }
    }
    expect_none(&found, "Move what is needed down, to the crate that both may use:");
}

#[test]
fn the_library_below_knows_nothing_of_clones() {
    let mut found = Vec::new();
    for source in files("persistent-data/src", &[".rs"]) {
        for (place, line) in source.lines() {
            let line = line.to_lowercase();
            if ["region", "hydrat", "xml"].iter().any(|word| line.contains(word)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Say it in clone-core, or in words that fit every target's metadata:");
}

#[test]
fn only_binaries_have_a_command_line_and_errors_without_a_type() {
    let mut found = Vec::new();
    for member in ["persistent-data", "clone-core", "tests"] {
        for (place, line) in Text::load(&format!("{member}/Cargo.toml")).lines() {
            if ["anyhow", "clap"].iter().any(|name| line.starts_with(name)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "A library has an error enum of its own, and takes values, not arguments:");
}

#[test]
fn no_binary_is_built_with_simulated_disks() {
    let mut found = Vec::new();
    for member in ["clone-core", "clone-tools", "clone-daemon"] {
        let manifest = Text::load(&format!("{member}/Cargo.toml"));
        let mut section = "";
        for (place, line) in manifest.lines() {
            section = if line.starts_with('[') { line } else { section };
            if section != "[dev-dependencies]" && line.contains("\"sim\"") {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Ask for the feature `sim` in [dev-dependencies] only:");
}

#[test]
fn what_walks_and_checks_has_no_type_that_can_write() {
    let readers = [
        "persistent-data/src/array/walk.rs",
        "persistent-data/src/btree/walk.rs",
        "persistent-data/src/btree/range.rs",
        "persistent-data/src/space_map/walk.rs",
        "clone-core/src/metadata/check.rs",
        "clone-core/src/repair/content.rs",
        "clone-core/src/repair/content/evidence.rs",
        "clone-core/src/metadata/dump.rs",
        "clone-core/src/metadata/live.rs",
        "clone-core/src/metadata/region_map.rs",
        "clone-core/src/metadata/superblock.rs",
    ];
    let mut found = Vec::new();
    for source in readers.map(Text::load) {
        for (place, line) in source.lines() {
            let can_write = ["Writer", "Device", "Transaction", "ReadWrite", "MemoryDevice"];
            if words(line).any(|word| can_write.contains(&word)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Take a `Reader` or a `ReadDevice`, and change things elsewhere:");
}

#[test]
fn the_libraries_reach_the_outside_through_devices_only() {
    let mut sources = files("clone-core/src", &[".rs"]);
    sources.extend(files("persistent-data/src", &[".rs"]));
    let outside =
        ["persistent-data/src/device/", "persistent-data/src/sim/", "clone-core/src/driver/"];
    sources.retain(|source| {
        !outside.iter().any(|folder| source.path.starts_with(folder))
            && !source.path.contains("/tests")
    });
    // The only place that waits for devices that may be remote.
    let threads = "clone-core/src/repair/content/parallel_map.rs";
    let mut found = Vec::new();
    for source in sources {
        for (place, line) in source.lines() {
            // A duration is a number and allowed; the current time is not.
            let line = line.replace("std::time::Duration", "");
            let reach = ["std::fs", "std::env", "std::time", "println!"];
            let starts_threads = line.contains("std::thread") && source.path != threads;
            if starts_threads || reach.iter().any(|reach| line.contains(reach)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Take it as an argument: files, clocks and streams are the binaries':");
}

#[test]
fn nothing_is_left_undone_in_the_sources() {
    // Assembled here, so that this file does not contain them.
    let marks = [concat!("to", "do!"), concat!("db", "g!("), concat!("FIX", "ME")];
    let marks = [&marks[..], &[concat!("XX", "X"), concat!("#[ig", "nore")]].concat();
    let mut found = Vec::new();
    for source in rust_files() {
        for (place, line) in source.lines() {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Finish it, or take it out; what a test cannot do yet, it asserts:");
}

#[test]
fn nothing_is_imported_by_glob() {
    let mut found = Vec::new();
    for source in rust_files() {
        for (place, line) in source.lines() {
            let import = line.trim_start().trim_start_matches("pub ").starts_with("use ");
            if import && line.contains(concat!("::", "*")) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Name what is used, so that it can be found:");
}

/// Returns whether the macro call at the start of `text` is a statement with an unused result.
fn is_statement(text: &str) -> bool {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return text[at + 1..].trim_start().starts_with(';'),
            ')' => depth -= 1,
            _ => {}
        }
    }
    false
}

#[test]
fn no_comparison_is_made_and_forgotten() {
    let call = concat!("matches", "!(");
    let mut found = Vec::new();
    for source in rust_files() {
        for (at, _) in source.text.match_indices(call) {
            let before = source.text[..at].trim_end();
            let begins = before.is_empty() || before.ends_with([';', '{', '}']);
            if begins && is_statement(&source.text[at..]) {
                let line = source.text[..at].lines().count().max(1);
                found.push(format!("{}:{line}", source.path));
            }
        }
    }
    expect_none(&found, "This asserts nothing. Write assert!(matches!(…)):");
}

#[test]
fn sources_can_be_read_at_a_sitting() {
    let mut found = Vec::new();
    for source in rust_files() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{} has {lines} lines", source.path));
        }
        for (place, line) in source.lines() {
            let width = line.chars().count();
            if width > WIDTH_MAX {
                found.push(format!("{place} has {width} characters"));
            }
        }
    }
    expect_none(&found, &format!("Split it: {LINES_MAX} lines, {WIDTH_MAX} characters at most:"));
}

/// Returns the relative targets of the links in a document, without fragments.
fn links(document: &Text) -> impl Iterator<Item = (String, &str)> {
    document.lines().flat_map(|(place, line)| {
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let paths = targets.map(|target| target.split('#').next().unwrap_or_default());
        let relative = paths.filter(|path| !path.is_empty() && !path.contains("://"));
        relative.map(move |path| (place.clone(), path)).collect::<Vec<_>>()
    })
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let mut found = Vec::new();
    for document in documents() {
        let folder = root().join(&document.path).parent().unwrap().to_owned();
        for (place, path) in links(&document) {
            if !folder.join(path).exists() {
                found.push(format!("{place}: {path}"));
            }
        }
    }
    expect_none(&found, "Correct the link, or write what it leads to:");
}

#[test]
fn every_document_is_in_the_index() {
    let index = Text::load("docs/README.md");
    let listed: BTreeSet<String> = links(&index).map(|(_, path)| format!("docs/{path}")).collect();
    let documents = files("docs", &[".md"]).into_iter().map(|document| document.path);
    let missing: Vec<String> =
        documents.filter(|path| *path != index.path && !listed.contains(path)).collect();
    expect_none(&missing, "Link it from docs/README.md:");
}

/// Test names in documents are in backticks, so long names in backticks must exist.
#[test]
fn every_test_that_the_documents_name_exists() {
    let code: BTreeSet<String> = (rust_files().iter())
        .flat_map(|source| words(&source.text).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let mut found = Vec::new();
    for document in documents() {
        for (place, line) in document.lines() {
            for name in in_backticks(line) {
                let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                let is_name = name.matches('_').count() >= 3 && name.chars().all(snake);
                if is_name && !code.contains(name) {
                    found.push(format!("{place}: {name}"));
                }
            }
        }
    }
    expect_none(&found, "Name what the code has now:");
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text.find(from).unwrap_or_else(|| panic!("there is no {from:?} any more"));
    let end = text[start..].find(to).unwrap_or_else(|| panic!("there is no {to:?} any more"));
    &text[start..start + end]
}

#[test]
fn every_damage_code_is_told_in_the_table_and_no_other() {
    let document = Text::load("docs/damage.md");
    let mut told = BTreeSet::new();
    let mut reserved = false;
    for line in document.text.lines() {
        reserved = if line.starts_with('#') { line.contains("Reserved") } else { reserved };
        let cell = line.strip_prefix("| ").and_then(|row| row.split(" | ").next());
        let codes = if reserved { Some(line) } else { cell };
        told.extend(codes.into_iter().flat_map(in_backticks).map(str::to_owned));
    }
    let codes: BTreeSet<String> = Damage::codes().map(str::to_owned).collect();
    let missing: Vec<String> = codes.difference(&told).cloned().collect();
    expect_none(&missing, "Tell in docs/damage.md what it means and what to do:");
    let gone: Vec<String> = told.difference(&codes).cloned().collect();
    expect_none(&gone, "No code gives this any more, but codes are for ever. Bring it back:");
}

/// Returns the long options in a text.
fn long_options(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let options = text.split(|c: char| !is_part(c)).filter(|word| word.len() > 3);
    options.filter(|word| word.starts_with("--") && !word.ends_with('-')).collect()
}

#[test]
fn every_tool_has_a_man_page_with_the_options_of_its_help() {
    let mut found = Vec::new();
    for binary in files("clone-tools/src/bin", &[".rs"]) {
        let tool = Path::new(&binary.path).file_stem().unwrap().to_str().unwrap();
        let help = Text::load(&format!("clone-tools/tests/cli/help/{tool}.txt"));
        let page = Text::load(&format!("docs/man/{tool}.8.md"));
        let in_help = long_options(between(&help.text, "Options:", "Exit codes:"));
        let options = between(&page.text, "## OPTIONS", "## EXIT STATUS");
        let in_page = long_options(options);
        let path = &page.path;
        found.extend(in_help.difference(&in_page).map(|name| format!("{path} lacks {name}")));
        found.extend(in_page.difference(&in_help).map(|name| format!("{path} makes up {name}")));
    }
    expect_none(&found, "Say the same in docs/man and in the help:");
}

/// The help of clonectl is the help of all its commands.
#[test]
fn clonectl_has_a_man_page_with_the_options_of_its_verbs() {
    let help = Text::load("clone-daemon/tests/daemon/help/clonectl.txt");
    let lines = help.text.lines().filter(|line| line.trim_start().starts_with('-'));
    let in_help: BTreeSet<&str> = lines.flat_map(long_options).collect();
    let page = Text::load("docs/man/clonectl.8.md");
    let in_page = long_options(between(&page.text, "## OPTIONS", "## EXIT STATUS"));
    let differ: Vec<_> = in_help.symmetric_difference(&in_page).map(ToString::to_string).collect();
    expect_none(&differ, "Say the same in docs/man/clonectl.8.md and in the help:");
}

#[test]
fn nothing_depends_on_the_machine_that_it_was_written_on() {
    let places = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/")];
    let places = [&places[..], &[concat!("../sh", "ared")]].concat();
    let mut found = Vec::new();
    for text in files("", &[".rs", ".md", ".toml", ".yml", ".sh", "/all", "/setup", "/run"]) {
        for (place, line) in text.lines() {
            if places.iter().any(|path| line.contains(path)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Use a path from the workspace's root, or a temporary folder:");
}
