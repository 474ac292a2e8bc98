//! Sizes as text.
//!
//! A plain number counts sectors, as in the kernel's table lines. A number with a unit must be a
//! whole number of sectors: sizes are never rounded.

use std::fmt;

use nom::branch::alt;
use nom::bytes::complete::{tag, tag_no_case};
use nom::character::complete::{digit1, one_of, space0};
use nom::combinator::{all_consuming, map, opt, success, value};
use nom::sequence::{pair, preceded};
use nom::{IResult, Parser};
use thiserror::Error;

use crate::geometry::{SECTOR_SIZE, Sectors};

/// Reason why a text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SizeError {
    /// The text is empty.
    #[error("an empty size")]
    Empty,
    /// The text does not begin with a digit.
    #[error("{0:?} is not a size: write a number of sectors, or a number and a unit as in 64KiB")]
    NotANumber(String),
    /// The number has a decimal point or comma.
    #[error("{0:?} has a fraction: write it as a whole number of a smaller unit")]
    Fraction(String),
    /// The text after the number is not a unit.
    #[error(
        "{0:?} is not a unit: s counts sectors, B bytes, k M G T P powers of 1024 bytes \
         (KiB and so on mean the same), kB MB GB TB PB powers of 1000"
    )]
    Unit(String),
    /// The size is not a multiple of a sector.
    #[error("{bytes} bytes are not a whole number of sectors of {SECTOR_SIZE} bytes")]
    NotWholeSectors {
        /// The size in bytes.
        bytes: u128,
    },
    /// The number of sectors exceeds 64 bits.
    #[error("{0:?} is more than can be counted")]
    TooLarge(String),
}

/// Parses a size: a whole number, followed by a unit unless it counts sectors.
///
/// `s` counts sectors and `B` bytes. `k`, `M`, `G`, `T`, `P` and `KiB`, `MiB` etc. are powers of
/// 1024 bytes; `kB`, `MB` etc. are powers of 1000.
///
/// # Errors
/// Any [`SizeError`].
pub fn parse_sectors(text: &str) -> Result<Sectors, SizeError> {
    if text.is_empty() {
        return Err(SizeError::Empty);
    }
    let Ok((rest, digits)) = digits(text) else {
        return Err(SizeError::NotANumber(text.to_owned()));
    };
    if rest.starts_with(['.', ',']) {
        return Err(SizeError::Fraction(text.to_owned()));
    }
    let Ok((_, unit)) = unit(rest) else {
        return Err(SizeError::Unit(rest.trim_start().to_owned()));
    };
    let too_large = || SizeError::TooLarge(text.to_owned());
    let count: u64 = digits.parse().map_err(|_| too_large())?;
    let bytes = u128::from(count) * u128::from(unit);
    if bytes % u128::from(SECTOR_SIZE) != 0 {
        return Err(SizeError::NotWholeSectors { bytes });
    }
    let sectors = bytes / u128::from(SECTOR_SIZE);
    u64::try_from(sectors).map(Sectors).map_err(|_| too_large())
}

/// Parses a number of bytes: a plain number counts bytes, and a number with a unit is parsed like
/// [`parse_sectors`] does.
///
/// # Errors
/// Any [`SizeError`]; [`SizeError::NotWholeSectors`] only with a unit.
pub fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    if let Ok(bytes) = text.parse() {
        return Ok(bytes);
    }
    let too_large = || SizeError::TooLarge(text.to_owned());
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(too_large());
    }
    parse_sectors(text)?.to_bytes().ok_or_else(too_large)
}

fn digits(text: &str) -> IResult<&str, &str> {
    digit1(text)
}

/// Returns the bytes in the unit `text`. Empty text is the unit of a plain number.
fn unit(text: &str) -> IResult<&str, u64> {
    let exponent = alt((
        value(1, one_of("kK")),
        value(2, one_of("mM")),
        value(3, one_of("gG")),
        value(4, one_of("tT")),
        value(5, one_of("pP")),
    ));
    let base = alt((value(1024, tag_no_case("ib")), value(1000, tag("B")), success(1024)));
    let scaled = map(pair(exponent, base), |(exponent, base): (u32, u64)| base.pow(exponent));
    let sectors = value(SECTOR_SIZE, opt(tag("s")));
    alt((
        all_consuming(preceded(space0, scaled)),
        all_consuming(preceded(space0, value(1, tag("B")))),
        all_consuming(sectors),
    ))
    .parse(text)
}

/// Formats a size as in `64 KiB` or `488.3 MiB`. It is exact if it has no decimal point.
pub fn human(size: Sectors) -> Human {
    Human(size)
}

/// Displays a size: see [`human`].
#[derive(Clone, Copy, Debug)]
pub struct Human(Sectors);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let bytes = u128::from(self.0.0) * u128::from(SECTOR_SIZE);
        let mut power = 0;
        // A number that would be rounded up to 1024.0 is better shown in the next unit.
        while power + 1 < UNITS.len() && tenths(bytes, power) >= 10240 {
            power += 1;
        }
        let tenths = tenths(bytes, power);
        if bytes % (1 << (10 * power)) == 0 {
            write!(f, "{} {}", tenths / 10, UNITS[power])
        } else {
            write!(f, "{}.{} {}", tenths / 10, tenths % 10, UNITS[power])
        }
    }
}

/// Returns `bytes` in tenths of `1024^power`, rounded.
fn tenths(bytes: u128, power: usize) -> u128 {
    let unit: u128 = 1 << (10 * power);
    (bytes * 10 + unit / 2) / unit
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::{SizeError, human, parse_bytes, parse_sectors};
    use crate::geometry::Sectors;

    fn sectors(text: &str) -> u64 {
        parse_sectors(text).unwrap_or_else(|error| panic!("{text:?}: {error}")).0
    }

    #[test]
    fn a_plain_number_counts_sectors() {
        assert_eq!(sectors("0"), 0);
        assert_eq!(sectors("8"), 8);
        assert_eq!(sectors("16s"), 16);
        assert_eq!(sectors("18446744073709551615"), u64::MAX);
    }

    #[test]
    fn units_are_powers_of_1024_unless_they_say_otherwise() {
        for text in ["4k", "4K", "4KiB", "4kib", "4 KiB", "4096B", "8s"] {
            assert_eq!(sectors(text), 8, "{text}");
        }
        assert_eq!(sectors("1M"), 2048);
        assert_eq!(sectors("1G"), 2_097_152);
        assert_eq!(sectors("8T"), 8 << 31);
        assert_eq!(sectors("1PiB"), 1 << 41);
        assert_eq!(sectors("512kB"), 1000);
        assert_eq!(sectors("2GB"), 3_906_250);
    }

    #[test]
    fn a_size_is_a_whole_number_of_sectors() {
        assert_eq!(parse_sectors("513B"), Err(SizeError::NotWholeSectors { bytes: 513 }));
        assert_eq!(parse_sectors("1MB"), Err(SizeError::NotWholeSectors { bytes: 1_000_000 }));
        assert_eq!(parse_sectors("1.5G"), Err(SizeError::Fraction("1.5G".into())));
        assert_eq!(parse_sectors("1,5G"), Err(SizeError::Fraction("1,5G".into())));
    }

    #[test]
    fn what_is_no_size_is_named() {
        assert_eq!(parse_sectors(""), Err(SizeError::Empty));
        for text in ["-8", "+8", " 8", "x", "k", "0x10k\u{0}"] {
            assert!(parse_sectors(text).is_err(), "{text:?}");
        }
        assert_eq!(parse_sectors("8q"), Err(SizeError::Unit("q".into())));
        assert_eq!(parse_sectors("8 "), Err(SizeError::Unit(String::new())));
        // `b` can mean bytes, half a KiB or bits.
        assert_eq!(parse_sectors("8b"), Err(SizeError::Unit("b".into())));
        assert_eq!(parse_sectors("8ks"), Err(SizeError::Unit("ks".into())));
        assert_eq!(parse_sectors("8kk"), Err(SizeError::Unit("kk".into())));
        assert_eq!(parse_sectors("8KiBx"), Err(SizeError::Unit("KiBx".into())));
        assert_eq!(parse_sectors("1E"), Err(SizeError::Unit("E".into())));
    }

    #[test]
    fn a_size_past_64_bits_is_refused() {
        assert!(matches!(parse_sectors("18446744073709551616"), Err(SizeError::TooLarge(_))));
        assert!(matches!(parse_sectors("99999999999999P"), Err(SizeError::TooLarge(_))));
        assert_eq!(sectors("18446744073709551104B"), u64::MAX / 512);
    }

    #[test]
    fn a_number_of_bytes_has_no_unit() {
        assert_eq!(parse_bytes("513"), Ok(513));
        assert_eq!(parse_bytes("4k"), Ok(4096));
        assert_eq!(parse_bytes("8s"), Ok(4096));
        for text in ["18446744073709551616", "18446744073709551615s"] {
            assert_eq!(parse_bytes(text), Err(SizeError::TooLarge(text.into())));
        }
        assert_eq!(parse_bytes(""), Err(SizeError::Empty));
    }

    #[test]
    fn people_read_the_largest_unit() {
        let text = |sectors| human(Sectors(sectors)).to_string();
        assert_eq!(text(0), "0 B");
        assert_eq!(text(1), "512 B");
        assert_eq!(text(3), "1.5 KiB");
        assert_eq!(text(8), "4 KiB");
        assert_eq!(text(1_000_003), "488.3 MiB");
        assert_eq!(text(2_097_152), "1 GiB");
        assert_eq!(text(2_097_151), "1.0 GiB");
        assert_eq!(text(8 << 31), "8 TiB");
        assert_eq!(text(u64::MAX), "8192.0 EiB");
    }

    quickcheck! {
        fn no_text_makes_it_panic(text: String) -> bool {
            parse_sectors(&text).map_or_else(|error| !error.to_string().is_empty(), |_| true)
        }

        fn every_number_of_sectors_is_read_back(sectors: u64) -> bool {
            parse_sectors(&sectors.to_string()) == Ok(Sectors(sectors))
                && parse_sectors(&format!("{sectors}s")) == Ok(Sectors(sectors))
        }

        fn what_people_read_is_read_back_when_it_is_exact(sectors: u32, shift: u8) -> bool {
            let sectors = Sectors(u64::from(sectors) << (shift % 16));
            let text = human(sectors).to_string();
            text.contains('.') || parse_sectors(&text) == Ok(sectors)
        }
    }
}
