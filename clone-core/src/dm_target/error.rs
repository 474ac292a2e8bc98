//! The errors of table lines, with the position of the wrong word.

use std::fmt;

use thiserror::Error;

use crate::dm_target::table::MAX_SECTORS;
use crate::geometry::{GeometryError, Sectors};

/// Role of a word of a table line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The first sector of the clone on the device.
    Start,
    /// The length of the clone.
    Length,
    /// The name of the target: `clone`.
    Target,
    /// The metadata device.
    Metadata,
    /// The destination device.
    Destination,
    /// The source device.
    Source,
    /// The region size.
    RegionSize,
    /// The number of features that follow.
    FeatureCount,
    /// A feature.
    Feature,
    /// The number of core argument words that follow: names and values.
    CoreCount,
    /// The name of a core argument.
    CoreName,
    /// The value of a core argument.
    CoreValue,
}

impl Role {
    /// Describes the words that are allowed in this role.
    pub fn allowed(self) -> &'static str {
        match self {
            Self::Start => "a whole number of sectors, 0 for the only line of a table",
            Self::Length => "a whole number of sectors, 1 or more",
            Self::Target => "the word clone, in small letters",
            Self::Metadata | Self::Destination | Self::Source => "the path of a device",
            Self::RegionSize => "a whole number of sectors, a power of two from 8 to 2097152",
            Self::FeatureCount => "how many features follow, 0 to 2",
            Self::Feature => "no_hydration or no_discard_passdown",
            Self::CoreCount => "how many words of core arguments follow: 0, 2 or 4",
            Self::CoreName => "hydration_threshold or hydration_batch_size",
            Self::CoreValue => "a whole number of regions from 0 to 4294967295",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "the start",
            Self::Length => "the length",
            Self::Target => "the name of the target",
            Self::Metadata => "the metadata device",
            Self::Destination => "the destination device",
            Self::Source => "the source device",
            Self::RegionSize => "the region size",
            Self::FeatureCount => "the number of features",
            Self::Feature => "a feature",
            Self::CoreCount => "the number of core arguments",
            Self::CoreName => "the name of a core argument",
            Self::CoreValue => "the value of a core argument",
        })
    }
}

/// A word that is not allowed in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word.
    pub text: String,
    /// Position of the word in the text, from 1.
    pub position: usize,
    /// Role of the word.
    pub role: Role,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "word {}, {}, is {:?}", self.position, self.role, self.text)
    }
}

/// Reason why a text is not a table line of a clone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TableError {
    /// The text is empty or a comment.
    #[error("there is no table line: the text is empty or a comment")]
    NoLine,
    /// The text has a line feed inside.
    #[error("this is more than one line: a clone is one line of a table")]
    SeveralLines,
    /// The text ends too early.
    #[error("word {position}, {role}, is missing: it must be {}{}", role.allowed(),
        if *comment { " (what follows a # is a comment)" } else { "" })]
    Missing {
        /// Position of the missing word, from 1.
        position: usize,
        /// Role of the missing word.
        role: Role,
        /// True if a `#` ended the line.
        comment: bool,
    },
    /// The word is not allowed there, is not a number, or is out of range.
    #[error("{0}: it must be {allowed}", allowed = .0.role.allowed())]
    Word(Word),
    /// The number does not fit in 32 bits.
    #[error("{word}: it must be {} (a kernel may keep its lowest 32 bits and take it for {lowest})",
        word.role.allowed())]
    TooLarge {
        /// The number.
        word: Word,
        /// Its lowest 32 bits.
        lowest: u32,
    },
    /// A count is larger than the number of words behind it.
    #[error("{word}, but only {left} words follow")]
    CountPastEnd {
        /// The count.
        word: Word,
        /// Number of words behind it.
        left: usize,
    },
    /// Two roles have the same device.
    #[error("{path:?} is {first} and {second}: a clone that ran would destroy what is on it")]
    SameDevice {
        /// The device.
        path: String,
        /// Its first role.
        first: Role,
        /// Its second role.
        second: Role,
    },
    /// The length and the region size do not fit together.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The end is past the largest device.
    #[error(
        "{length} sectors from sector {start} end past the {MAX_SECTORS} of the largest device"
    )]
    PastEnd {
        /// The first sector of the clone.
        start: Sectors,
        /// The length in sectors.
        length: Sectors,
    },
    /// The clone does not start at sector 0.
    #[error("the clone starts at sector {0}: the only line of a table starts at sector 0")]
    NotAtStart(Sectors),
}
