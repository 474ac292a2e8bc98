//! What is wrong with a table line, and where.

use std::fmt;

use thiserror::Error;

use crate::dm_target::table::MAX_SECTORS;
use crate::geometry::{GeometryError, Sectors};

/// What a word of a table line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Where on the device the clone begins.
    Start,
    /// How long the clone is.
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
    /// How many features follow.
    FeatureCount,
    /// A feature.
    Feature,
    /// How many core arguments follow: names and values.
    CoreCount,
    /// The name of a core argument.
    CoreName,
    /// The value of a core argument.
    CoreValue,
}

impl Role {
    /// What may stand there.
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

/// A word that is not what should stand in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// As it was given.
    pub text: String,
    /// Which word of the text it is, from 1.
    pub position: usize,
    /// What it was taken for.
    pub role: Role,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "word {}, {}, is {:?}", self.position, self.role, self.text)
    }
}

/// Why a text is not a table line of a clone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TableError {
    /// Nothing, or a comment.
    #[error("there is no table line: the text is empty or a comment")]
    NoLine,
    /// A line feed in the midst of it.
    #[error("this is more than one line: a clone is one line of a table")]
    SeveralLines,
    /// It ends too early.
    #[error("word {position}, {role}, is missing: it must be {}{}", role.allowed(),
        if *comment { " (what follows a # is a comment)" } else { "" })]
    Missing {
        /// Which word it would be, from 1.
        position: usize,
        /// What it would be.
        role: Role,
        /// Whether a `#` cut the line.
        comment: bool,
    },
    /// Not one of the words that may stand there, or not a number, or not one in range.
    #[error("{0}: it must be {allowed}", allowed = .0.role.allowed())]
    Word(Word),
    /// A number that 32 bits do not hold.
    #[error("{word}: it must be {} (a kernel may keep its lowest 32 bits and take it for {lowest})",
        word.role.allowed())]
    TooLarge {
        /// The number.
        word: Word,
        /// Its lowest 32 bits.
        lowest: u32,
    },
    /// A count that is larger than the number of words behind it.
    #[error("{word}, but only {left} words follow")]
    CountPastEnd {
        /// The count.
        word: Word,
        /// How many words there are behind it.
        left: usize,
    },
    /// One device in two places.
    #[error("{path:?} is {first} and {second}: a clone that ran would destroy what is on it")]
    SameDevice {
        /// The device.
        path: String,
        /// One thing that it is.
        first: Role,
        /// The other.
        second: Role,
    },
    /// Lengths and regions do not go together.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Farther than a device reaches.
    #[error(
        "{length} sectors from sector {start} end past the {MAX_SECTORS} of the largest device"
    )]
    PastEnd {
        /// The first sector.
        start: Sectors,
        /// How many there are.
        length: Sectors,
    },
    /// Something has to lie before the clone.
    #[error("the clone starts at sector {0}: the only line of a table starts at sector 0")]
    NotAtStart(Sectors),
}
