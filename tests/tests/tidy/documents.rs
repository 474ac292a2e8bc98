//! Documents agree with the code, and with each other.

use std::collections::BTreeSet;

use clone_core::metadata::damage::Damage;

use crate::workspace::{
    Text, documents, expect_none, files, in_backticks, root, rust_files, words,
};

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
