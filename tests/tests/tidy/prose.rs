//! The language of comments and documents.

use crate::workspace::{MEMBERS, Text, documents, expect_none, files, rust_files, scripts};

/// Words that no description begins with: a noun or a verb says the same sooner.
const BEGINNINGS: [&str; 7] = ["What", "Who", "Whoever", "Whatever", "Whether", "How", "Why"];

/// The share of descriptions that may begin with one of these words all the same, in percent.
const SHARE_MAX: usize = 5;

/// Returns the first line of each run of lines of documentation, unless it is empty.
fn first_lines(source: &Text) -> Vec<(String, &str)> {
    let (mut first, mut is_inside) = (Vec::new(), false);
    for (place, line) in source.lines() {
        let line = line.trim_start();
        let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        let text = text.filter(|_| !line.starts_with("////"));
        if let Some(text) = text.map(|text| text.strip_prefix(' ').unwrap_or(text))
            && !is_inside
            && !text.trim().is_empty()
        {
            first.push((place, text));
        }
        is_inside = text.is_some();
    }
    first
}

/// Returns the folder of the member that a file belongs to.
fn member(path: &str) -> Option<&str> {
    let folders = MEMBERS.iter().map(|(_, folder)| *folder);
    let above = folders.filter(|folder| path.starts_with(&format!("{folder}/")));
    above.max_by_key(|folder| folder.len())
}

#[test]
fn descriptions_begin_with_a_noun_or_a_verb() {
    let sources = rust_files();
    let mut found = Vec::new();
    for (_, folder) in MEMBERS {
        let own = sources.iter().filter(|source| member(&source.path) == Some(folder));
        let lines: Vec<(String, &str)> = own.flat_map(first_lines).collect();
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let begins = |text: &str| BEGINNINGS.contains(&text.split(|c| !is_part(c)).next().unwrap());
        let wrong: Vec<_> = lines.iter().filter(|(_, text)| begins(text)).collect();
        assert!(!lines.is_empty(), "{folder} is not documented");
        if wrong.len() * 100 >= lines.len() * SHARE_MAX {
            found.push(format!("{folder}: {} of {} begin so", wrong.len(), lines.len()));
            found.extend(wrong.iter().map(|(place, text)| format!("  {place}: {text}")));
        }
    }
    let words = BEGINNINGS.join(", ");
    expect_none(&found, &format!("Less than {SHARE_MAX} % may begin with {words}:"));
}

/// Phrases of another time, in small letters.
fn old_phrases() -> [&'static str; 2] {
    // Assembled here, so that this file does not contain them.
    [concat!("who", "ever"), concat!("whatever the ", "system says")]
}

/// Returns the places of the old phrases in lines, also where a phrase goes on in the next line.
fn phrases<'a>(lines: impl Iterator<Item = (String, &'a str)>) -> Vec<String> {
    let (mut text, mut starts) = (String::new(), Vec::new());
    for (place, line) in lines {
        starts.push((text.len(), place));
        text.extend([line.trim(), " "]);
    }
    // Letters of other languages keep their length, so that offsets stay right.
    text.make_ascii_lowercase();
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut found = Vec::new();
    for phrase in old_phrases() {
        for (at, _) in text.match_indices(phrase) {
            let (before, after) = (&text[..at], &text[at + phrase.len()..]);
            // The name of a test is no prose.
            if !is_part(before.chars().next_back()) && !is_part(after.chars().next()) {
                let line = starts.partition_point(|(start, _)| *start <= at) - 1;
                found.push(format!("{}: {phrase}", starts[line].1));
            }
        }
    }
    found
}

/// Returns the lines of comments, without the mark that they begin with.
fn comments<'a>(source: &'a Text, mark: &'a str) -> impl Iterator<Item = (String, &'a str)> {
    source.lines().filter_map(move |(place, line)| {
        let (_, comment) = line.split_once(mark)?;
        Some((place, comment.trim_start_matches(['/', '!', '#'])))
    })
}

#[test]
fn comments_and_documents_are_in_plain_words() {
    let sources = rust_files();
    let mut found: Vec<String> =
        sources.iter().flat_map(|source| phrases(comments(source, "//"))).collect();
    let mut scripts = scripts();
    scripts.extend(files("", &[".sh"]));
    found.extend(scripts.iter().flat_map(|script| phrases(comments(script, "#"))));
    let mut documents = documents();
    // Decisions are records of their time.
    documents.retain(|document| !document.path.starts_with("docs/decisions/"));
    found.extend(documents.iter().flat_map(|document| phrases(document.lines())));
    found.sort();
    found.dedup();
    expect_none(&found, "Say who it is, or name the errors:");
}

#[test]
fn an_old_phrase_is_found_across_lines_and_not_in_names() {
    let [old, phrase] = old_phrases();
    let (first, second) = phrase.split_once(" system").unwrap();
    let lines = [
        format!("a line {first}"),
        format!("system{second}."),
        format!("`{old}_waits` and {}:", old.to_uppercase()),
    ];
    let lines = (1..).zip(&lines).map(|(line, text): (u32, _)| (line.to_string(), &**text));
    assert_eq!(phrases(lines), [format!("3: {old}"), format!("1: {phrase}")]);
}
