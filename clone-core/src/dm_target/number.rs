//! Numbers as the kernel parses them, and detection of numbers that it would misread.

use nom::character::complete::{char, digit1};
use nom::combinator::{all_consuming, opt};
use nom::sequence::{preceded, terminated};
use nom::{IResult, Parser};

/// Reason why a word is not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberError {
    /// The word is not a number.
    NotANumber,
    /// The number does not fit. `lowest` is its lowest 32 bits, which the kernel uses as the number
    /// when it parses a count or a region size.
    TooLarge { lowest: u32 },
}

/// Parses a region size or a count: only digits.
pub(super) fn count(word: &str) -> Result<u32, NumberError> {
    within(all_consuming(digit1::<&str, ()>).parse(word).map(|(_, digits)| digits))
}

/// Parses the value of a core argument or of a message: an optional plus, digits, an optional line
/// feed.
pub(super) fn value(word: &str) -> Result<u32, NumberError> {
    fn digits(word: &str) -> IResult<&str, &str, ()> {
        preceded(opt(char('+')), terminated(digit1, opt(char('\n')))).parse(word)
    }
    within(all_consuming(digits).parse(word).map(|(_, digits)| digits))
}

/// Parses a start or a length like dmsetup does: an optional plus, and digits.
pub(super) fn sectors(word: &str) -> Result<u64, NumberError> {
    fn digits(word: &str) -> IResult<&str, &str, ()> {
        preceded(opt(char('+')), digit1).parse(word)
    }
    within(all_consuming(digits).parse(word).map(|(_, digits)| digits))
}

fn within<T: std::str::FromStr>(digits: Result<&str, nom::Err<()>>) -> Result<T, NumberError> {
    let digits = digits.map_err(|_| NumberError::NotANumber)?;
    digits.parse().map_err(|_| NumberError::TooLarge { lowest: lowest(digits) })
}

/// Returns the lowest 32 bits of the number. Leading digits drop out by wrapping.
fn lowest(digits: &str) -> u32 {
    let values = digits.bytes().map(|digit| u32::from(digit - b'0'));
    values.fold(0, |number, digit| number.wrapping_mul(10).wrapping_add(digit))
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::NumberError::{NotANumber, TooLarge};
    use super::{count, sectors, value};

    #[test]
    fn a_count_is_digits_and_nothing_else() {
        assert_eq!(count("008"), Ok(8));
        assert_eq!(count("4294967295"), Ok(u32::MAX));
        for word in ["", "+8", "-8", "0x8", "8.", "8k", " 8", "8\n", "\u{ff18}"] {
            assert_eq!(count(word), Err(NotANumber), "{word:?}");
        }
    }

    #[test]
    fn a_value_may_have_a_plus_and_a_line_feed() {
        for word in ["8", "+8", "08", "8\n", "+8\n"] {
            assert_eq!(value(word), Ok(8), "{word:?}");
        }
        for word in ["", "+", "++8", "-0", "+-8", "8\n\n", "\n8", "8 "] {
            assert_eq!(value(word), Err(NotANumber), "{word:?}");
        }
        assert!(matches!(value("4294967296"), Err(TooLarge { .. })));
    }

    /// The kernel took each of these numbers for a region size of 8.
    #[test]
    fn what_the_kernel_would_make_of_a_number_too_large_is_told() {
        for word in ["4294967304", "8589934600", "18446744073709551624", "36893488147419103240"] {
            assert_eq!(count(word), Err(TooLarge { lowest: 8 }), "{word}");
        }
    }

    quickcheck! {
        fn every_number_is_read(number: u32, length: u64) -> bool {
            count(&number.to_string()) == Ok(number)
                && value(&format!("+{number}")) == Ok(number)
                && sectors(&length.to_string()) == Ok(length)
        }

        fn the_lowest_bits_are_those_of_the_number(number: u64) -> bool {
            let lowest = number as u32;
            count(&number.to_string()) == u32::try_from(number).map_err(|_| TooLarge { lowest })
        }

        fn no_text_makes_it_panic(text: String) -> bool {
            let _ = (count(&text), value(&text), sectors(&text));
            true
        }
    }
}
