//! Man pages have the options of the programs.

use std::collections::BTreeSet;
use std::path::Path;

use crate::workspace::{Text, between, expect_none, files};

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
