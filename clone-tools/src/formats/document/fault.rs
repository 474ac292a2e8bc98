use std::{env, io};

use clone_core::geometry::{GeometryError, RegionRange};
use clone_core::metadata::ir::METADATA_VERSION;
use thiserror::Error;

use super::TextForm;
use crate::formats::text_reader::{Position, TokenTooLong};

/// A fault in a dump, with its position.
#[derive(Debug, Error)]
#[error("{place}: {fault}")]
pub struct DocumentError {
    /// The position of the reader.
    pub place: Position,
    /// The fault that was found.
    pub fault: Fault,
}

/// The ways in which a dump can be faulty.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The input cannot be read.
    #[error("cannot read on: {0}")]
    Read(io::Error),
    /// The temporary file for the runs cannot be written.
    #[error("cannot keep the runs in a temporary file in {}: {source}", env::temp_dir().display())]
    Spool {
        /// The I/O error.
        #[from]
        source: io::Error,
    },
    /// The input has no bytes.
    #[error("the input is empty")]
    Empty,
    /// The input is metadata or other binary data.
    #[error("this looks like binary metadata, not {0}; clone_dump makes {0} of it")]
    Binary(TextForm),
    /// The input looks like a dump in another format.
    #[error("this is {is}, not {read}; --format {} reads it if clone_dump wrote it", .is.option())]
    OtherForm {
        /// The format that it looks like.
        is: TextForm,
        /// The format that was expected.
        read: TextForm,
    },
    /// A comment, a string, white space or another token is too long.
    #[error(transparent)]
    TokenTooLong(#[from] TokenTooLong),
    /// The input breaks the syntax of XML or JSON.
    #[error("{0}")]
    Syntax(String),
    /// The input ends too early.
    #[error("the document ends inside <{0}>: it has been cut off")]
    Truncated(&'static str),
    /// The document contains an element, text or another item that does not belong there.
    #[error("unexpected {what} {place}")]
    Unexpected {
        /// A description of the item.
        what: String,
        /// The part of the document.
        place: &'static str,
    },
    /// The document has an unknown attribute or key.
    #[error("{element} has no {name:?}; it has {known}")]
    UnknownName {
        /// The element.
        element: &'static str,
        /// The name as read.
        name: String,
        /// The known names.
        known: String,
    },
    /// A required attribute or key is missing.
    #[error("{element} lacks {name:?}")]
    Missing {
        /// The element.
        element: &'static str,
        /// The name that is missing.
        name: &'static str,
    },
    /// An attribute or key is given twice.
    #[error("{name:?} is given twice")]
    Duplicate {
        /// The name.
        name: &'static str,
    },
    /// A value is not a number in decimal digits.
    #[error("{name} is {text:?}, which is not a whole number")]
    NotANumber {
        /// The name of the attribute or key.
        name: &'static str,
        /// The value as read.
        text: String,
    },
    /// A number does not fit into 64 bits.
    #[error("{name} is {text}, which is more than can be counted")]
    TooLarge {
        /// The name of the attribute or key.
        name: &'static str,
        /// The value as read.
        text: String,
    },
    /// The uuid is neither empty nor 32 hex digits.
    #[error("uuid is {0:?}; it has to be 32 hex digits, or empty")]
    Uuid(String),
    /// The version of the metadata format is unknown.
    #[error("version {0}; only version {METADATA_VERSION} is known")]
    Version(u64),
    /// No clone can have these sizes.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The number of regions contradicts the sizes.
    #[error("nr_regions is {claimed}, but the region and target sizes make {actual}")]
    NrRegions {
        /// The number that the document gives.
        claimed: u64,
        /// The number that follows from its sizes.
        actual: u64,
    },
    /// The number of hydrated regions contradicts the runs.
    #[error("hydrated is {claimed}, but the runs have {actual} regions")]
    Hydrated {
        /// The number that the document gives.
        claimed: u64,
        /// The number of regions in its runs.
        actual: u64,
    },
    /// A run is empty or has a negative length.
    #[error("a run that begins at region {begin} and has no regions")]
    EmptyRun {
        /// The first region of the run.
        begin: u64,
    },
    /// A run overlaps the run before it.
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
    /// A run comes after a run of higher regions.
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
    /// A run contains regions that the clone does not have.
    #[error("regions {begin}..{end} reach past the last of {nr_regions} regions")]
    PastTheEnd {
        /// Its first region.
        begin: u64,
        /// One past its last region.
        end: u128,
        /// The number of regions of the clone.
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
