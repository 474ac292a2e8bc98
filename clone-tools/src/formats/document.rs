//! The content of a dump, independent of its format, and its validation.
//!
//! The [`xml`](crate::formats::xml) and [`json`](crate::formats::json) readers pass the sizes
//! through [`Claims`] and the runs through [`RunChecker`]; `clone_restore` consumes the
//! [`Document`]. *Invariant:* a [`Document`] is complete and consistent, and its memory does not
//! grow with its length.

use clone_core::geometry::{Geometry, MAX_REGIONS, RegionRange, RegionSize, Sectors};
use clone_core::metadata::ir::{Header, METADATA_VERSION};

pub use self::fault::{DocumentError, Fault};
use crate::common::text_form::{TextForm, is_binary, text_form};
use crate::formats::run_spool::RunSpool;

mod fault;

/// A dump that has been read completely and is consistent.
#[derive(Debug)]
pub struct Document {
    /// The sizes of the clone.
    pub header: Header,
    /// Its hydrated regions.
    pub runs: RunSpool,
}

/// The header values of a document, not validated yet.
#[derive(Clone, Copy, Debug)]
pub struct Claims {
    /// The uuid; all zero if the document has none.
    pub uuid: [u8; 16],
    /// The version of the metadata format.
    pub version: u64,
    /// The region size in sectors.
    pub region_size: u64,
    /// The size of the clone in sectors.
    pub target_size: u64,
    /// The number of regions.
    pub nr_regions: u64,
}

impl Claims {
    /// Validates the values and returns the header.
    ///
    /// # Errors
    /// [`Fault::Version`], [`Fault::Geometry`] and [`Fault::NrRegions`].
    pub fn header(&self) -> Result<Header, Fault> {
        if self.version != u64::from(METADATA_VERSION) {
            return Err(Fault::Version(self.version));
        }
        let region_size = RegionSize::new(Sectors(self.region_size))?;
        let geometry = Geometry::new(region_size, Sectors(self.target_size))?;
        match geometry.nr_regions() {
            actual if actual == self.nr_regions => Ok(Header { uuid: self.uuid, geometry }),
            actual => Err(Fault::NrRegions { claimed: self.nr_regions, actual }),
        }
    }
}

/// Validates the runs of a document and stores them.
#[derive(Debug, Default)]
pub struct RunChecker {
    spool: RunSpool,
    last: RegionRange,
    nr_regions: Option<u64>,
}

impl RunChecker {
    /// Sets the number of regions, as soon as it is known.
    ///
    /// # Errors
    /// [`Fault::PastTheEnd`] if an earlier run does not fit.
    pub fn bound(&mut self, nr_regions: u64) -> Result<(), Fault> {
        self.nr_regions = Some(nr_regions);
        self.check_end(self.last.start, self.last.end.into())
    }

    /// Adds a run of `length` regions that starts at region `begin`.
    ///
    /// # Errors
    /// [`Fault::EmptyRun`], [`Fault::PastTheEnd`], [`Fault::OutOfOrder`] or [`Fault::Overlap`] for
    /// a bad run; [`Fault::Spool`] if it cannot be stored.
    pub fn push(&mut self, begin: u64, length: u64) -> Result<(), Fault> {
        if length == 0 {
            return Err(Fault::EmptyRun { begin });
        }
        self.check_end(begin, u128::from(begin) + u128::from(length))?;
        let run = begin..begin + length;
        let last = self.last.clone();
        if run.end <= last.start {
            return Err(Fault::OutOfOrder { run, last });
        }
        if run.start < last.end {
            return Err(Fault::Overlap { run, last });
        }
        self.spool.push(run.clone())?;
        self.last = run;
        Ok(())
    }

    /// Returns the number of regions in all runs so far.
    pub fn hydrated(&self) -> u64 {
        self.spool.hydrated()
    }

    /// Returns the runs, after the last one has been added.
    pub fn into_spool(self) -> RunSpool {
        self.spool
    }

    fn check_end(&self, begin: u64, end: u128) -> Result<(), Fault> {
        let nr_regions = self.nr_regions.unwrap_or(MAX_REGIONS);
        if end > nr_regions.into() {
            return Err(Fault::PastTheEnd { begin, end, nr_regions });
        }
        Ok(())
    }
}

/// Parses a uuid: 32 hex digits, or the empty string for all zero.
///
/// # Errors
/// [`Fault::Uuid`].
pub fn parse_uuid(text: &str) -> Result<[u8; 16], Fault> {
    let mut uuid = [0; 16];
    if text.is_empty() {
        return Ok(uuid);
    }
    let wrong = || Fault::Uuid(excerpt(text));
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    for (byte, digits) in uuid.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(uuid)
}

/// Returns `text`, cut to a length that fits a message.
pub fn excerpt(text: &str) -> String {
    const ROOM: usize = 40;
    match text.char_indices().nth(ROOM) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Checks that a document that begins with `start` can have the format `read`. Invalid UTF-8
/// passes: the parser reports it with its position.
///
/// # Errors
/// [`Fault::Empty`], [`Fault::Binary`] or [`Fault::OtherForm`].
pub fn check_start(start: &[u8], read: TextForm) -> Result<(), Fault> {
    match text_form(start) {
        _ if start.is_empty() => Err(Fault::Empty),
        _ if is_binary(start) => Err(Fault::Binary(read)),
        Some(is) if is != read => Err(Fault::OtherForm { is, read }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::{Fault, RunChecker, TextForm, check_start, excerpt, parse_uuid, text_form};
    use crate::common::units::format_uuid;
    use crate::formats::{json, xml};

    #[test]
    fn a_uuid_survives_both_ways() {
        assert_eq!(parse_uuid("").unwrap(), [0; 16]);
        assert_eq!(format_uuid(&[0; 16]), "");
        let text = "000102030405060708090a0b0c0d0eff";
        assert_eq!(format_uuid(&parse_uuid(text).unwrap()), text);
        for wrong in ["0", "0001-0203040506070809-0a0b0c0d0e", "+00102030405060708090a0b0c0d0eff"] {
            assert!(matches!(parse_uuid(wrong), Err(Fault::Uuid(_))), "{wrong}");
        }
        assert!(parse_uuid(&"é".repeat(16)).is_err());
    }

    #[test]
    fn runs_ascend_and_stay_within_the_clone() {
        let mut runs = RunChecker::default();
        runs.push(10, 5).unwrap();
        assert!(matches!(runs.push(20, 0), Err(Fault::EmptyRun { begin: 20 })));
        assert!(matches!(runs.push(14, 1), Err(Fault::Overlap { .. })));
        assert!(matches!(runs.push(5, 100), Err(Fault::Overlap { .. })));
        assert!(matches!(runs.push(5, 5), Err(Fault::OutOfOrder { .. })));
        assert!(matches!(runs.push(u64::MAX, u64::MAX), Err(Fault::PastTheEnd { .. })));
        runs.push(15, 1).unwrap();
        runs.bound(20).unwrap();
        assert!(matches!(runs.push(19, 2), Err(Fault::PastTheEnd { .. })));
        runs.push(19, 1).unwrap();
        assert!(matches!(runs.bound(19), Err(Fault::PastTheEnd { .. })));
        assert_eq!(runs.into_spool().hydrated(), 7);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&"é".repeat(50)), format!("{}...", "é".repeat(40)));
    }

    #[test]
    fn noise_is_no_text_whatever_it_begins_with() {
        for (start, expected) in [
            (&b"{\"uuid\":\"\"}"[..], Some(TextForm::Json)),
            (b"\r\n\t <a>", Some(TextForm::Xml)),
            ("\u{feff}<!-- é -->".as_bytes(), Some(TextForm::Xml)),
            // Cut off inside a character.
            (b"<!-- \xc3", Some(TextForm::Xml)),
            (b"{ab\0", None),
            (b"{ab\x1b", None),
            (b"{ab\x7f", None),
            (b"{ab\xc3(", None),
            (b"<ab\xff\xff", None),
        ] {
            assert_eq!(text_form(start), expected, "{start:?}");
        }
        // Only the first 64 bytes are examined.
        let long = |end| [&[b'{'; 64][..], end].concat();
        assert_eq!(text_form(&long(b"\0\xff")), Some(TextForm::Json));
        let split = ["<".as_bytes(), "é".repeat(40).as_bytes()].concat();
        assert_eq!(text_form(&split), Some(TextForm::Xml));

        let read = TextForm::Xml;
        assert!(matches!(check_start(b"{ab\x01", read), Err(Fault::Binary(TextForm::Xml))));
        assert!(matches!(check_start(b"{ab", read), Err(Fault::OtherForm { .. })));
        assert!(check_start(b"<ab\xff", read).is_ok());
    }

    #[test]
    fn no_change_to_a_document_makes_a_reader_panic() {
        let xml = b"<?xml version=\"1.0\"?><superblock uuid=\"\" version=\"1\" region_size=\"8\" \
            target_size=\"795\" nr_regions=\"100\">\n <!-- --><hydrated begin=\"5\" length=\"2\"/>\
            <hydrated begin=\"64\" length=\"36\"></hydrated></superblock>";
        let json = b"{\"uuid\":\"\",\"version\":1,\"region_size\":8,\"target_size\":795,\
            \"nr_regions\":100,\"hydrated\":38,\"runs\":[[5,7],[64,100]]}";
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..20_000 {
            for (document, read) in [
                (xml.as_slice(), xml::read as fn(Cursor<Vec<u8>>) -> _),
                (json.as_slice(), json::read),
            ] {
                let mut document = document.to_vec();
                for _ in 0..rng.random_range(1..4) {
                    change(&mut document, &mut rng);
                }
                // Bad runs would make the spool panic.
                let _ = read(Cursor::new(document));
            }
        }
    }

    fn change(document: &mut Vec<u8>, rng: &mut StdRng) {
        const SPARE: &[u8] = b"<>/\"'=&;#0123456789-+.eE[]{}:, \n\0\xff!?";
        let at = rng.random_range(0..document.len());
        let byte = SPARE[rng.random_range(0..SPARE.len())];
        match rng.random_range(0..4) {
            0 => document[at] = byte,
            1 => document.insert(at, byte),
            2 => drop(document.remove(at)),
            _ => {
                let end = rng.random_range(at..document.len());
                let copy = document[at..=end].to_vec();
                document.splice(at..at, copy);
            }
        }
    }
}
