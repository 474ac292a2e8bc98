//! The files of the workspace, and helpers to search their text.

use std::fs;
use std::path::{Path, PathBuf};

/// The members of the workspace: the name of the package, and its folder.
pub(crate) const MEMBERS: [(&str, &str); 6] = [
    ("persistent-data", "persistent-data"),
    ("clone-core", "clone-core"),
    ("clone-tools", "clone-tools"),
    ("clone-daemon", "clone-daemon"),
    ("clone-tests", "tests"),
    ("kernel-judge", "tests/kernel"),
];

/// A text file of the workspace.
pub(crate) struct Text {
    /// Path from the workspace's root, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Text {
    pub(crate) fn load(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path));
        let text = text.unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text }
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (String, &str)> {
        (1..).zip(self.text.lines()).map(|(line, text)| (format!("{}:{line}", self.path), text))
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of a workspace")
}

/// Returns whether a path ends in `ending`: part of the name, or, with a slash, of the path.
fn is_named(path: &Path, ending: &str) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(ending))
}

/// Returns whether a folder holds no sources: cargo's output, git's data, or a fuzzer's findings.
fn is_skipped(folder: &Path) -> bool {
    let is_named = |path: &Path, name: &str| path.file_name().is_some_and(|found| found == name);
    let is_in_fuzz = folder.parent().is_some_and(|parent| is_named(parent, "fuzz"));
    let is_found = is_named(folder, "corpus") || is_named(folder, "artifacts");
    // Cargo writes one of these into each of its target folders.
    let is_output = ["CACHEDIR.TAG", ".rustc_info.json"].map(|mark| folder.join(mark).exists());
    is_named(folder, ".git") || is_output.contains(&true) || (is_in_fuzz && is_found)
}

/// Returns the files under `folder` that are [named](is_named) with one of `endings`, in order.
fn walk(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()) {
            let (kind, path) = (entry.file_type().unwrap(), entry.path());
            if kind.is_dir() && !is_skipped(&path) {
                folders.push(path);
            } else if kind.is_file() && endings.iter().any(|ending| is_named(&path, ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Returns the files under a folder of the workspace, without those that are not sources.
pub(crate) fn files(folder: &str, endings: &[&str]) -> Vec<Text> {
    let from_root = |path: &PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    walk(&root().join(folder), endings).iter().map(|path| Text::load(&from_root(path))).collect()
}

pub(crate) fn rust_files() -> Vec<Text> {
    files("", &[".rs"])
}

/// Returns the scripts: shell files that end in `.sh`, and those without an ending.
pub(crate) fn scripts() -> Vec<Text> {
    let mut scripts = files("tests", &[".sh", "/all", "/load", "/setup", "/programs", "/steps"]);
    scripts.extend(files("tests/kernel", &["/run"]));
    scripts
}

/// Returns the documents: those in `docs`, and those of the top level that exist.
pub(crate) fn documents() -> Vec<Text> {
    let mut documents = files("docs", &[".md"]);
    let top = ["README.md", "CONTRIBUTING.md"];
    let present = top.into_iter().filter(|name| root().join(name).exists());
    documents.extend(present.map(Text::load));
    documents
}

/// Returns the words of a program, separated by characters that no identifier contains.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Returns the parts of a line between backticks.
pub(crate) fn in_backticks(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Returns the text from the first `from` to the next `to`.
pub(crate) fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text.find(from).unwrap_or_else(|| panic!("there is no {from:?} any more"));
    let end = text[start..].find(to).unwrap_or_else(|| panic!("there is no {to:?} any more"));
    &text[start..start + end]
}

/// Fails with everything found, and with the way to fix it.
#[track_caller]
pub(crate) fn expect_none(found: &[String], fix: &str) {
    assert!(found.is_empty(), "{fix}\n  {}", found.join("\n  "));
}

/// Cargo's output is recognized by what is in it: a folder of sources may be called `target`.
#[test]
fn a_folder_of_sources_is_seen_even_if_it_is_called_target() {
    let tree = tempfile::tempdir().unwrap();
    let sources = ["src/target/seen.rs", "src/corpus/seen.rs", "src/artifacts/mod.rs"];
    let skipped = [".git/a.rs", "target/debug/b.rs", "build/c.rs", "fuzz/corpus/d.rs"];
    let skipped = [&skipped[..], &["fuzz/artifacts/crash/e.rs"]].concat();
    let marks = ["target/.rustc_info.json", "build/CACHEDIR.TAG"];
    for file in [&sources[..], &skipped, &marks].concat() {
        let path = tree.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let mut expected = sources.map(|file| tree.path().join(file));
    expected.sort();
    assert_eq!(walk(tree.path(), &[".rs"]), expected);
}
