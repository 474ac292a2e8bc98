//! One word for one thing: words that were replaced do not come back.

use std::collections::BTreeMap;

use proc_macro2::{TokenStream, TokenTree};

use crate::workspace::{expect_none, rust_files};

/// Words that were replaced, and what replaced them. An old word is one word of a name, or several
/// with underscores between them. A change that replaces a word everywhere adds it here.
const OLD_WORDS: &[(&str, &str)] = &[
    ("bell", "wakeup"),
    ("chores", "completions"),
    ("copy_id", "buffer id"),
    ("crew", "worker pool, or parallel map"),
    ("desk", "request context"),
    ("doors", "listeners"),
    ("haggle", "negotiate"),
    ("haggling", "negotiation"),
    ("happening", "event kind"),
    ("hosted", "served clone"),
    ("notice", "event"),
    ("steady", "stable"),
    ("teller", "reporter"),
    ("vouch", "count"),
];

/// Returns the words of an identifier in small letters: split at underscores, and where a small
/// letter or a digit stands before a capital, or a capital before one that begins a word.
fn words(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let letters: Vec<char> = identifier.trim_start_matches("r#").chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| letters[before]);
        let is_after_small = before.is_some_and(|c| c.is_lowercase() || c.is_ascii_digit());
        let is_before_small = letters.get(at + 1).is_some_and(|c| c.is_lowercase());
        let is_border = is_after_small || (before.is_some() && is_before_small);
        if *letter == '_' || (letter.is_uppercase() && is_border) {
            words.push(String::new());
        }
        if *letter != '_' {
            words.last_mut().unwrap().extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns the old word in an identifier, with what replaced it.
fn old_word(identifier: &str) -> Option<(&'static str, &'static str)> {
    let words = words(identifier);
    let is_in = |old: &str| {
        let old: Vec<&str> = old.split('_').collect();
        words.windows(old.len()).any(|found| found == old)
    };
    OLD_WORDS.iter().copied().find(|(old, _)| is_in(old))
}

/// Adds the identifiers in code, each with its first line. Comments and texts have none.
fn identifiers(code: TokenStream, found: &mut BTreeMap<String, usize>) {
    for token in code {
        match token {
            TokenTree::Ident(name) => {
                found.entry(name.to_string()).or_insert_with(|| name.span().start().line);
            }
            TokenTree::Group(group) => identifiers(group.stream(), found),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

#[test]
fn no_name_has_a_word_that_was_replaced() {
    let mut found = Vec::new();
    for source in rust_files() {
        let path = &source.path;
        let stem = path.rsplit('/').next().unwrap().trim_end_matches(".rs");
        // A folder that is called like a module has the module's declaration.
        let mut names = BTreeMap::from([(stem.to_owned(), 1)]);
        let code: Result<TokenStream, _> = source.text.parse();
        identifiers(code.unwrap_or_else(|error| panic!("{path}: {error}")), &mut names);
        for (name, line) in names {
            if let Some((old, new)) = old_word(&name) {
                found.push(format!("{path}:{line}: {name} has {old}, which is {new} now"));
            }
        }
    }
    expect_none(&found, "Use the new word:");
}

#[test]
fn names_are_split_into_words() {
    assert_eq!(words("set_aside"), ["set", "aside"]);
    assert_eq!(words("SetAside"), ["set", "aside"]);
    assert_eq!(words("NBDServer"), ["nbd", "server"]);
    assert_eq!(words("STOP_TIMEOUT"), ["stop", "timeout"]);
    assert_eq!(words("r#move"), ["move"]);
    assert_eq!(words("_crew2Size"), ["crew2", "size"]);
}
