//! Status lines of a clone.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use nom::character::complete::{char, digit1};
use nom::combinator::all_consuming;
use nom::sequence::separated_pair;
use nom::{IResult, Parser};
use persistent_data::number::BLOCK_SIZE;
use thiserror::Error;

use crate::dm_target::options::{Key, Options};
use crate::dm_target::words;
use crate::geometry::{Geometry, MAX_REGIONS, RegionSize, SECTOR_SIZE, Sectors};

/// Sectors in a metadata block. The size is fixed.
const METADATA_BLOCK: u64 = BLOCK_SIZE as u64 / SECTOR_SIZE;

/// Mode of the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The metadata can change.
    ReadWrite,
    /// The metadata can no longer change, after a failed commit.
    ReadOnly,
}

/// The state of a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// `Fail`: the metadata can no longer be read, and all I/O fails.
    Fail,
    /// `Error`: the target could not determine the use of the metadata device.
    Error,
    /// The clone is running.
    Running(StatusCounts),
}

/// The status of a running clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCounts {
    /// Number of used blocks of 4096 bytes on the metadata device.
    pub metadata_used: u64,
    /// Number of all blocks on the metadata device, at most 4161600.
    pub metadata_total: u64,
    /// The size of a region.
    pub region_size: RegionSize,
    /// Number of hydrated regions.
    pub hydrated: u64,
    /// Number of regions, `1..=MAX_REGIONS`.
    pub regions: u64,
    /// Number of regions that are being copied. The kernel adds one while it looks for work.
    pub hydrating: u64,
    /// The present options. Messages may have changed them since the table was loaded.
    pub options: Options,
    /// Mode of the metadata.
    pub mode: Mode,
}

/// The output of `dmsetup status`: a status, usually after `<start> <length> clone`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusLine {
    /// Start and length, if given.
    pub place: Option<(Sectors, Sectors)>,
    /// The status after them.
    pub status: Status,
}

/// A word of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// The first sector of the clone.
    Start,
    /// The length of the clone.
    Length,
    /// Sectors in a block of metadata.
    MetadataBlockSize,
    /// Numbers of used and of all metadata blocks.
    MetadataBlocks,
    /// The size of a region.
    RegionSize,
    /// Numbers of hydrated and of all regions.
    Regions,
    /// Number of regions that are being copied.
    Hydrating,
    /// Number of features that follow.
    FeatureCount,
    /// A feature.
    Feature,
    /// Number of core argument words that follow.
    CoreCount,
    /// The name of a core argument.
    CoreName,
    /// The value of a core argument.
    CoreValue,
    /// Mode of the metadata.
    Mode,
}

impl Field {
    /// Describes the words that are allowed for this field.
    pub fn allowed(self) -> &'static str {
        match self {
            Self::Start => "the start, a number of sectors",
            Self::Length => "the length, a number of sectors from 1",
            Self::MetadataBlockSize => "the metadata block size, 8 sectors, or Fail, or Error",
            Self::MetadataBlocks => "metadata blocks as <used>/<total>",
            Self::RegionSize => "the region size, a power of two from 8 to 2097152 sectors",
            Self::Regions => "regions as <hydrated>/<total>, 2147483648 at most and 1 at least",
            Self::Hydrating => "the number of regions being copied",
            Self::FeatureCount => "the number of features, 0 to 2",
            Self::Feature => {
                "a feature that was not there yet, \
                no_hydration or no_discard_passdown"
            }
            Self::CoreCount => "the number of core arguments, 4",
            Self::CoreName => {
                "a core argument that was not there yet, hydration_threshold or \
                hydration_batch_size"
            }
            Self::CoreValue => "a number of regions from 0 to 4294967295",
            Self::Mode => "the mode, rw or ro",
        }
    }
}

/// Reason why a text is not a status.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StatusError {
    /// The text ends too early.
    #[error("word {position} is missing: it must be {}", field.allowed())]
    Missing {
        /// Position of the missing word, from 1.
        position: usize,
        /// Field of the missing word.
        field: Field,
    },
    /// The word is not allowed for its field, or is a number that no clone has.
    #[error("word {position} is {word:?}: it must be {}", field.allowed())]
    Word {
        /// Position of the word, from 1.
        position: usize,
        /// The word.
        word: String,
        /// Field of the word.
        field: Field,
    },
    /// A part is larger than its total.
    #[error("word {position}: {part} cannot be more than {all}")]
    MoreThanAll {
        /// Position of the word, from 1.
        position: usize,
        /// The part.
        part: u64,
        /// The maximum of the part.
        all: u64,
    },
    /// The number of regions does not follow from the length and the region size.
    #[error("{told} regions, where the length and the region size make {nr_regions}")]
    OtherGeometry {
        /// Number of regions in the status.
        told: u64,
        /// Number that follows from length and region size.
        nr_regions: u64,
    },
    /// There are words after the end of the status.
    #[error("word {position} is {word:?}, behind the end of the status")]
    Extra {
        /// Position of the first of them, from 1.
        position: usize,
        /// The word.
        word: String,
    },
}

/// Iterates over the words of a status.
struct Words<'a> {
    words: Vec<&'a str>,
    next: usize,
}

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        Self { words: words::plain(text), next: 0 }
    }

    /// Takes the next word and parses it with `read`.
    fn take<T>(
        &mut self,
        field: Field,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, StatusError> {
        let position = self.next + 1;
        let word = *self.words.get(self.next).ok_or(StatusError::Missing { position, field })?;
        self.next += 1;
        let wrong = || StatusError::Word { position, word: word.to_owned(), field };
        read(word).ok_or_else(wrong)
    }

    fn number<T: FromStr + PartialOrd>(
        &mut self,
        field: Field,
        range: RangeInclusive<T>,
    ) -> Result<T, StatusError> {
        self.take(field, |word| number(word).filter(|number| range.contains(number)))
    }

    /// Takes the next word if it equals `word`. Returns whether it does.
    fn is(&mut self, word: &str) -> bool {
        let is = self.words.get(self.next) == Some(&word);
        self.next += usize::from(is);
        is
    }

    /// Takes a part and, after a slash, its total, which must be in `range`.
    fn part_of(
        &mut self,
        field: Field,
        range: RangeInclusive<u64>,
    ) -> Result<(u64, u64), StatusError> {
        let (part, all) =
            self.take(field, |word| pair(word).filter(|(_, all)| range.contains(all)))?;
        self.bounded(part, all)?;
        Ok((part, all))
    }

    /// Checks that the part in the word just taken does not exceed its maximum.
    fn bounded(&self, part: u64, all: u64) -> Result<(), StatusError> {
        let position = self.next;
        if part > all { Err(StatusError::MoreThanAll { position, part, all }) } else { Ok(()) }
    }

    fn end(&self) -> Result<(), StatusError> {
        self.words.get(self.next).map_or(Ok(()), |word| {
            Err(StatusError::Extra { position: self.next + 1, word: (*word).to_owned() })
        })
    }
}

/// Parses a word of digits only.
fn number<T: FromStr>(word: &str) -> Option<T> {
    let digits: IResult<&str, &str> = all_consuming(digit1).parse(word);
    digits.ok()?.1.parse().ok()
}

fn pair(word: &str) -> Option<(u64, u64)> {
    let pair: IResult<&str, (&str, &str)> =
        all_consuming(separated_pair(digit1, char('/'), digit1)).parse(word);
    let (_, (part, all)) = pair.ok()?;
    Some((part.parse().ok()?, all.parse().ok()?))
}

/// Returns the choice with the name `word`. The kernel writes the names in lower case.
fn exactly<T: Copy>(word: &str, choices: &[(&str, T)]) -> Option<T> {
    choices.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice)
}

impl StatusLine {
    /// Parses a status, with or without `<start> <length> clone` before it.
    ///
    /// # Errors
    /// Any [`StatusError`], also if the numbers contradict each other.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        let mut words = Words::of(text);
        if words.words.get(2) != Some(&"clone") {
            return Ok(Self { place: None, status: status(words)? });
        }
        let start = Sectors(words.number(Field::Start, 0..=u64::MAX)?);
        let length = Sectors(words.number(Field::Length, 1..=u64::MAX)?);
        words.next += 1;
        let status = status(words)?;
        if let Status::Running(StatusCounts { region_size, regions: told, .. }) = status {
            let nr_regions = length.0.div_ceil(region_size.sectors().0);
            let fits = Geometry::new(region_size, length).is_ok();
            if !fits || nr_regions != told {
                return Err(StatusError::OtherGeometry { told, nr_regions });
            }
        }
        Ok(Self { place: Some((start, length)), status })
    }
}

impl Status {
    /// Parses a status without start and length.
    ///
    /// # Errors
    /// Any [`StatusError`] but [`OtherGeometry`](StatusError::OtherGeometry).
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        status(Words::of(text))
    }
}

fn status(mut words: Words) -> Result<Status, StatusError> {
    let status = if words.is("Fail") {
        Status::Fail
    } else if words.is("Error") {
        Status::Error
    } else {
        Status::Running(figures(&mut words)?)
    };
    words.end()?;
    Ok(status)
}

fn figures(words: &mut Words) -> Result<StatusCounts, StatusError> {
    words.number(Field::MetadataBlockSize, METADATA_BLOCK..=METADATA_BLOCK)?;
    // The kernel prints any value that is in a damaged space map.
    let (metadata_used, metadata_total) = words.take(Field::MetadataBlocks, pair)?;
    let region_size = words.take(Field::RegionSize, |word| {
        number(word).and_then(|sectors| RegionSize::new(Sectors(sectors)).ok())
    })?;
    let (hydrated, regions) = words.part_of(Field::Regions, 1..=MAX_REGIONS)?;
    let hydrating = words.number(Field::Hydrating, 0..=u64::MAX)?;
    words.bounded(hydrating, regions + 1)?;
    let options = options(words)?;
    let modes = [("rw", Mode::ReadWrite), ("ro", Mode::ReadOnly)];
    let mode = words.take(Field::Mode, |word| exactly(word, &modes))?;
    Ok(StatusCounts {
        metadata_used,
        metadata_total,
        region_size,
        hydrated,
        regions,
        hydrating,
        options,
        mode,
    })
}

fn options(words: &mut Words) -> Result<Options, StatusError> {
    let mut options = Options::default();
    for _ in 0..words.number(Field::FeatureCount, 0..=2)? {
        words.take(Field::Feature, |word| {
            let before = options;
            let features = [("no_hydration", ()), ("no_discard_passdown", ())];
            exactly(word, &features)?;
            (options.add_feature(word) && options != before).then_some(())
        })?;
    }
    words.number(Field::CoreCount, 4..=4)?;
    let mut told: Option<Key> = None;
    for _ in 0..2 {
        let keys = [Key::Threshold, Key::BatchSize].map(|key| (key.name(), key));
        let key = words
            .take(Field::CoreName, |word| exactly(word, &keys).filter(|key| told != Some(*key)))?;
        options.set(key, words.number(Field::CoreValue, 0..=u32::MAX)?);
        told = Some(key);
    }
    Ok(options)
}

impl fmt::Display for StatusLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((start, length)) = self.place {
            write!(f, "{start} {length} clone ")?;
        }
        self.status.fmt(f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail => f.write_str("Fail"),
            Self::Error => f.write_str("Error"),
            Self::Running(figures) => figures.fmt(f),
        }
    }
}

impl fmt::Display for StatusCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { metadata_used, metadata_total, hydrated, regions, hydrating, .. } = self;
        write!(f, "{METADATA_BLOCK} {metadata_used}/{metadata_total} ")?;
        write!(f, "{} {hydrated}/{regions} {hydrating} ", self.region_size.sectors())?;
        let mode = match self.mode {
            Mode::ReadWrite => "rw",
            Mode::ReadOnly => "ro",
        };
        write!(f, "{} {mode}", self.options)
    }
}

#[cfg(test)]
mod tests;
