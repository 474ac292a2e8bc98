//! Rules for all sources.

use crate::workspace::{expect_none, files, rust_files};

/// Maximum number of lines of a Rust file.
const LINES_MAX: usize = 500;

/// Maximum number of characters of a line of Rust.
const WIDTH_MAX: usize = 100;

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

#[test]
fn nothing_depends_on_the_machine_that_it_was_written_on() {
    let places = [concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/")];
    let places = [&places[..], &[concat!("../sh", "ared")]].concat();
    // A folder of that name within the workspace has a letter before its slash.
    let is_named = |line: &str, place: &str| {
        let before = line.match_indices(place).map(|(at, _)| line[..at].chars().next_back());
        before.into_iter().any(|before| !before.is_some_and(char::is_alphanumeric))
    };
    let mut found = Vec::new();
    for text in files("", &[".rs", ".md", ".toml", ".yml", ".sh", "/all", "/setup", "/run"]) {
        for (place, line) in text.lines() {
            if places.iter().any(|path| is_named(line, path)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Use a path from the workspace's root, or a temporary folder:");
}
