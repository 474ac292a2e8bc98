use std::{env, io};

use clone_core::geometry::{GeometryError, RegionRange};
use clone_core::metadata::ir::METADATA_VERSION;
use thiserror::Error;

use super::TextForm;
use crate::formats::text_reader::{Place, TokenTooLong};

/// What is wrong with a dump, and where.
#[derive(Debug, Error)]
#[error("{place}: {fault}")]
pub struct DocumentError {
    /// Where the reader was.
    pub place: Place,
    /// What it found there.
    pub fault: Fault,
}

/// What is wrong with a dump.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The input cannot be read.
    #[error("cannot read on: {0}")]
    Read(io::Error),
    /// The temporary file for the runs cannot be written.
    #[error("cannot keep the runs in a temporary file in {}: {source}", env::temp_dir().display())]
    Spool {
        /// What the system said.
        #[from]
        source: io::Error,
    },
    /// There is nothing.
    #[error("the input is empty")]
    Empty,
    /// Metadata, or something else that is no text.
    #[error("this looks like binary metadata, not {0}; clone_dump makes {0} of it")]
    Binary(TextForm),
    /// A dump, perhaps, but not of the form that it was said to have.
    #[error("this is {is}, not {read}; --format {} reads it if clone_dump wrote it", .is.option())]
    OtherForm {
        /// What it looks like.
        is: TextForm,
        /// What it was read as.
        read: TextForm,
    },
    /// A comment, a string, blanks or whatever else goes on and on.
    #[error(transparent)]
    TokenTooLong(#[from] TokenTooLong),
    /// It breaks the rules of XML or JSON.
    #[error("{0}")]
    Syntax(String),
    /// It ends too early.
    #[error("the document ends inside <{0}>: it has been cut off")]
    Truncated(&'static str),
    /// An element, text, or whatever else should not be there.
    #[error("unexpected {what} {place}")]
    Unexpected {
        /// In words.
        what: String,
        /// Where in the document.
        place: &'static str,
    },
    /// An attribute or key that does not exist.
    #[error("{element} has no {name:?}; it has {known}")]
    UnknownName {
        /// Of which element.
        element: &'static str,
        /// As it was read.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// An attribute or key that has to be there.
    #[error("{element} lacks {name:?}")]
    Missing {
        /// Of which element.
        element: &'static str,
        /// What is missing.
        name: &'static str,
    },
    /// An attribute or key that is there twice.
    #[error("{name:?} is given twice")]
    Duplicate {
        /// Which one.
        name: &'static str,
    },
    /// Not a number in decimal digits.
    #[error("{name} is {text:?}, which is not a whole number")]
    NotANumber {
        /// Of what.
        name: &'static str,
        /// As it was read.
        text: String,
    },
    /// A number that does not fit 64 bits.
    #[error("{name} is {text}, which is more than can be counted")]
    TooLarge {
        /// Of what.
        name: &'static str,
        /// As it was read.
        text: String,
    },
    /// Neither empty nor 32 hex digits.
    #[error("uuid is {0:?}; it has to be 32 hex digits, or empty")]
    Uuid(String),
    /// Another format.
    #[error("version {0}; only version {METADATA_VERSION} is known")]
    Version(u64),
    /// Sizes that no clone can have.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The number of regions contradicts the sizes.
    #[error("nr_regions is {claimed}, but the region and target sizes make {actual}")]
    NrRegions {
        /// What the document says.
        claimed: u64,
        /// What its sizes say.
        actual: u64,
    },
    /// The sum contradicts the runs.
    #[error("hydrated is {claimed}, but the runs have {actual} regions")]
    Hydrated {
        /// What the document says.
        claimed: u64,
        /// What its runs say.
        actual: u64,
    },
    /// A run of no regions, or of fewer.
    #[error("a run that begins at region {begin} and has no regions")]
    EmptyRun {
        /// Where it would begin.
        begin: u64,
    },
    /// A region that is in two runs.
    #[error(
        "regions {}..{} overlap {}..{}, which came before", .run.start, .run.end, .last.start,
        .last.end
    )]
    Overlap {
        /// The run.
        run: RegionRange,
        /// The one before it.
        last: RegionRange,
    },
    /// A run that should have come earlier.
    #[error(
        "regions {}..{} are out of order: {}..{} came before", .run.start, .run.end, .last.start,
        .last.end
    )]
    OutOfOrder {
        /// The run.
        run: RegionRange,
        /// The one before it.
        last: RegionRange,
    },
    /// A run of regions that the clone does not have.
    #[error("regions {begin}..{end} reach past the last of {nr_regions} regions")]
    PastTheEnd {
        /// Its first region.
        begin: u64,
        /// One past its last region.
        end: u128,
        /// Regions of the clone.
        nr_regions: u64,
    },
}

impl Fault {
    /// What a [`Source`](crate::formats::text_reader::Source) said to a parser.
    pub fn reading(error: io::Error) -> Self {
        match error.downcast() {
            Ok(too_long) => Self::TokenTooLong(too_long),
            Err(error) => Self::Read(error),
        }
    }
}
