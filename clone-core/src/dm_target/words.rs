//! Splits texts into words.
//!
//! The kernel treats a backslash as a quote for the next byte. In a table this has no effect,
//! because libdevmapper doubles every backslash (a device `a\ b` is looked up as `a\`). In a
//! message it does not, so the kernel's rule applies.

use nom::branch::alt;
use nom::character::complete::{anychar, char, satisfy};
use nom::combinator::all_consuming;
use nom::multi::{fold_many1, many0, separated_list0};
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

/// Returns whether `c` separates words. These are the six spaces of C. The kernel also treats the
/// byte 0xa0 as a space, but it often is the second half of a letter.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ')
}

/// Returns the words of a table or of a status.
pub(super) fn plain(text: &str) -> Vec<&str> {
    text.split(is_space).filter(|word| !word.is_empty()).collect()
}

/// Returns the words of a message, without their backslashes.
pub(super) fn escaped(text: &str) -> Vec<String> {
    // Every character is a space or part of a word, so this parser cannot fail.
    all_consuming(words).parse(text).map(|(_, words)| words).unwrap_or_default()
}

fn words(text: &str) -> IResult<&str, Vec<String>> {
    let space = || satisfy(is_space);
    // A backslash at the end of the text stands for itself.
    let letter = alt((preceded(char('\\'), anychar), satisfy(|c| !is_space(c))));
    let word = fold_many1(letter, String::new, |mut word, letter| {
        word.push(letter);
        word
    });
    let list = separated_list0(nom::multi::many1_count(space()), word);
    delimited(many0(space()), list, many0(space())).parse(text)
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::{escaped, is_space, plain};

    #[test]
    fn words_end_at_the_six_spaces_of_c() {
        assert_eq!(plain(" a\tb\nc\u{b}d\u{c}e\rf  "), ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(plain("a\u{a0}b \u{2003} \u{85}"), ["a\u{a0}b", "\u{2003}", "\u{85}"]);
        assert!(plain("  ").is_empty());
    }

    #[test]
    fn a_backslash_is_a_letter_in_a_table_and_quotes_in_a_message() {
        assert_eq!(plain(r"a\ b"), [r"a\", "b"]);
        assert_eq!(escaped(r"a\ b"), ["a b"]);
        assert_eq!(escaped(r" \a\\ \"), [r"a\", r"\"]);
        assert_eq!(escaped("a\\\n b"), ["a\n", "b"]);
        assert_eq!(escaped("a \\ "), ["a", " "]);
    }

    quickcheck! {
        fn without_backslashes_both_are_the_same(text: String) -> bool {
            let text = text.replace('\\', "");
            escaped(&text) == plain(&text)
        }

        fn no_letter_is_lost(text: String) -> bool {
            let letters = |text: &str| text.chars().filter(|&c| !is_space(c) && c != '\\').count();
            let found: usize = escaped(&text).iter().map(|word| letters(word)).sum();
            found == letters(&text)
        }
    }
}
