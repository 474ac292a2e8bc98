//! Texts generated from those written by hand.

use std::collections::HashSet;

use rand::Rng;
use rand::RngExt;
use rand::seq::IndexedRandom;

use super::given::{LINES, NUMBERS, ODD, ODD_MESSAGES, RIGHT, RIGHT_MESSAGES};

/// Number of texts that are made by changes to a valid one.
const MUTANTS: usize = 80;

/// Returns at least 300 distinct arguments: the part of a table line after the word `clone`.
pub fn table_arguments(rng: &mut impl Rng) -> Vec<String> {
    let mut texts: Vec<String> = [RIGHT, ODD].concat().into_iter().map(str::to_owned).collect();
    for number in NUMBERS {
        texts.push(format!("META DEST SRC {number}"));
        texts.push(format!("META DEST SRC 8 {number} no_hydration"));
        texts.push(format!("META DEST SRC 8 0 {number} hydration_threshold 5"));
        texts.push(format!("META DEST SRC 8 0 2 hydration_batch_size {number}"));
    }
    texts.extend(mutants(RIGHT, MUTANTS, rng));
    unique(texts)
}

/// Returns at least 60 distinct lines, each of them a whole table.
pub fn table_lines(rng: &mut impl Rng) -> Vec<String> {
    let mut texts: Vec<String> = LINES.iter().map(|&text| text.to_owned()).collect();
    texts.extend(mutants(&LINES[..15], MUTANTS / 4, rng));
    unique(texts)
}

/// Returns at least 150 distinct messages.
pub fn messages(rng: &mut impl Rng) -> Vec<String> {
    let mut texts: Vec<String> =
        [RIGHT_MESSAGES, ODD_MESSAGES].concat().into_iter().map(str::to_owned).collect();
    for number in NUMBERS {
        texts.push(format!("hydration_threshold {number}"));
        texts.push(format!("hydration_batch_size {number}"));
    }
    texts.extend(mutants(RIGHT_MESSAGES, MUTANTS / 4, rng));
    unique(texts)
}

fn unique(texts: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts.into_iter().filter(|text| seen.insert(text.clone())).collect()
}

/// Returns some of `texts` with one change or two.
fn mutants(texts: &[&str], count: usize, rng: &mut impl Rng) -> Vec<String> {
    let mut mutants = Vec::new();
    for _ in 0..count {
        let text = texts.choose(rng).copied().unwrap_or_default();
        let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        for _ in 0..rng.random_range(1..=2) {
            change(&mut words, rng);
        }
        mutants.push(words.join(" "));
    }
    mutants
}

/// Changes one word, or the order of words.
fn change(words: &mut Vec<String>, rng: &mut impl Rng) {
    if words.is_empty() {
        return;
    }
    let (at, other) = (rng.random_range(0..words.len()), rng.random_range(0..words.len()));
    match rng.random_range(0..7) {
        0 => drop(words.remove(at)),
        1 => words.insert(other, words[at].clone()),
        2 => words.swap(at, other),
        3 | 4 => number(&mut words[at], rng),
        5 => case(&mut words[at], rng),
        _ => {
            let spaces = [" ", "\t", "\u{b}", "\u{c}", "\r", "\n", "  \t"];
            let space = spaces.choose(rng).copied().unwrap_or_default();
            words[at].insert_str(0, space);
        }
    }
}

/// Changes a number by little or much. Replaces any other word by a number, one time in four.
fn number(word: &mut String, rng: &mut impl Rng) {
    let is_number = word.parse::<u64>().is_ok();
    if !is_number && rng.random_range(0..4) != 0 {
        return;
    }
    let near = word.parse::<u64>().unwrap_or(1);
    *word = match rng.random_range(0..5) {
        0 => (near + 1).to_string(),
        1 => near.saturating_sub(1).to_string(),
        2 => (u128::from(near) + (1 << 32) * u128::from(rng.random::<u8>())).to_string(),
        3 => format!("0{near}"),
        _ => NUMBERS.choose(rng).copied().unwrap_or_default().to_owned(),
    };
}

/// Swaps the case of letters, each with an even chance.
fn case(word: &mut String, rng: &mut impl Rng) {
    let change = |c: char| match (rng.random::<bool>(), c.is_ascii_lowercase()) {
        (false, _) => c,
        (true, true) => c.to_ascii_uppercase(),
        (true, false) => c.to_ascii_lowercase(),
    };
    *word = word.chars().map(change).collect();
}
