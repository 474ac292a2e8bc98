//! The table of clones, `/etc/cloned/clonetab`, in the syntax of systemd's clonetab(5).
//!
//! A line is `name source destination metadata [options]`, separated by white space. A line that
//! begins with `#` is a comment. Options are comma-separated; `-` stands for none. A file written
//! for systemd works unchanged: options that only systemd uses are ignored.

use std::collections::HashMap;

use clone_core::geometry::{RegionSize, SECTOR_SIZE, Sectors};
use clone_core::size::{parse_bytes, parse_sectors};
use nom::bytes::complete::take_till1;
use nom::character::complete::{space0, space1};
use nom::combinator::all_consuming;
use nom::multi::separated_list1;
use nom::sequence::delimited;
use nom::{IResult, Parser};
use thiserror::Error;

use crate::config::clone_spec::{
    CloneSpec, SpecificationError, Tuning, check_name, device_path, source,
};

/// A table line that describes a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Line number in the file, from 1.
    pub line: usize,
    /// The fields of the line, joined by single spaces. A reload compares lines by this text.
    pub text: String,
    /// The clone that the line describes.
    pub spec: CloneSpec,
}

/// An error in a table, with its line.
#[derive(Debug, Error)]
#[error("line {line}: {what}")]
pub struct TabError {
    /// Line number in the file, from 1.
    pub line: usize,
    /// The error in that line.
    pub what: EntryError,
}

/// An error in a line.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The line has fewer than 4 or more than 5 fields.
    #[error("{found} fields, expected 4 or 5: name source destination metadata [options]")]
    Fields {
        /// Number of fields found.
        found: usize,
    },
    /// The name or the source is invalid.
    #[error(transparent)]
    Field(#[from] SpecificationError),
    /// An unknown option.
    #[error("unknown option {0:?}; the options are {OPTIONS}")]
    Unknown(String),
    /// An option without its value.
    #[error("{name} lacks its value: {wanted}")]
    NoValue {
        /// Name of the option.
        name: String,
        /// Description of the missing value.
        wanted: &'static str,
    },
    /// An invalid value.
    #[error("{name}={value}: it must be {wanted}")]
    Value {
        /// Name of the option.
        name: String,
        /// The value in the line.
        value: String,
        /// Description of a valid value.
        wanted: &'static str,
    },
    /// An option given twice, or two options that set the same thing.
    #[error("{option}: {name} is already given; keep one of them")]
    Repeated {
        /// The second occurrence, as written.
        option: String,
        /// Name of the setting.
        name: &'static str,
    },
    /// Two lines that use the same clone name.
    #[error("{name} is on line {first} already")]
    Twice {
        /// The clone name.
        name: String,
        /// Line number of the first occurrence.
        first: usize,
    },
}

const OPTIONS: &str = "region_size=SECTORS, region-size=BYTES, length=SECTORS, no_hydration, \
                       no_discard_passdown, hydration_threshold=N, hydration_batch_size=N, \
                       hydration_rate=BYTES, hydrate_on_read[=on|off], max_failures=N, \
                       discard_zeroes=on|off, direct, record=FILE and prefetch=FILE";

/// The settings that options control. Each may be given once per line.
const SETTINGS: [&str; 13] = [
    "region_size",
    "length",
    "no_hydration",
    "no_discard_passdown",
    "hydration_threshold",
    "hydration_batch_size",
    "hydration_rate",
    "hydrate_on_read",
    "max_failures",
    "discard_zeroes",
    "direct",
    "record",
    "prefetch",
];

/// Options that tell systemd when to set up a clone. They do not affect the clone itself.
const OF_SYSTEMD: [&str; 5] = ["_netdev", "noauto", "auto", "nofail", "defaults"];

/// Parses a table. The caller limits the length of `text`.
///
/// # Errors
/// [`TabError`] for the first line with an error. Its `what` is [`EntryError::Twice`] if two lines
/// use the same name; any other variant comes from [`parse_line`].
pub fn parse(text: &str) -> Result<Vec<Entry>, TabError> {
    let mut entries = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        let at = |what| TabError { line, what };
        let Some(entry) = parse_line(line, text).map_err(at)? else { continue };
        let name = entry.spec.name.clone();
        if let Some(first) = seen.insert(name.clone(), line) {
            return Err(at(EntryError::Twice { name, first }));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Parses one line. Returns `None` if it is empty or a comment. `line` is its number.
///
/// # Errors
/// Any [`EntryError`] except [`EntryError::Twice`].
pub fn parse_line(line: usize, text: &str) -> Result<Option<Entry>, EntryError> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let (_, fields) = fields(text).map_err(|_| EntryError::Fields { found: 0 })?;
    let (name, from, to, metadata, options) = match fields[..] {
        [name, from, to, metadata] => (name, from, to, metadata, "-"),
        [name, from, to, metadata, options] => (name, from, to, metadata, options),
        _ => return Err(EntryError::Fields { found: fields.len() }),
    };
    check_name(name)?;
    let mut spec = CloneSpec {
        name: name.to_owned(),
        metadata: device_path(metadata),
        destination: device_path(to),
        source: source(from)?,
        length: None,
        region_size: None,
        tuning: Tuning::default(),
        record: None,
        prefetch: None,
        repin: false,
    };
    let mut given = Vec::new();
    for option in options.split(',').filter(|option| !matches!(*option, "-" | "none" | "")) {
        if let Some(name) = apply(&mut spec, option)? {
            if given.contains(&name) {
                return Err(EntryError::Repeated { option: option.to_owned(), name });
            }
            given.push(name);
        }
    }
    Ok(Some(Entry { line, text: fields.join(" "), spec }))
}

/// Splits a line into fields.
fn fields(text: &str) -> IResult<&str, Vec<&str>> {
    let is_blank = |letter: char| letter == ' ' || letter == '\t';
    let words = separated_list1(space1, take_till1(is_blank));
    all_consuming(delimited(space0, words, space0)).parse(text)
}

/// Applies one option. Returns the name of its setting, or `None` if only systemd uses the option.
fn apply(spec: &mut CloneSpec, option: &str) -> Result<Option<&'static str>, EntryError> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let given = Given { name, value };
    let tuning = &mut spec.tuning;
    match name {
        "region_size" => spec.region_size = Some(given.region_size(1)?),
        "region-size" => spec.region_size = Some(given.region_size(SECTOR_SIZE)?),
        "length" => spec.length = Some(Sectors(given.number(SECTORS)?)),
        "no_hydration" => tuning.hydration = !given.flag()?,
        "no_discard_passdown" => tuning.discard_passdown = !given.flag()?,
        "hydration_threshold" => tuning.hydration_threshold = Some(given.small(REGIONS)?),
        "hydration_batch_size" => tuning.hydration_batch_size = Some(given.small(REGIONS)?),
        "hydration_rate" => {
            let rate = given.bytes()?;
            tuning.hydration_rate = (rate > 0).then_some(rate);
        }
        "hydrate_on_read" => tuning.hydrate_on_read = Some(given.flag()?),
        "max_failures" => tuning.max_failures = Some(given.small("a number of copies")?),
        "discard_zeroes" => tuning.discard_zeroes = given.flag()?,
        "direct" => tuning.direct = given.flag()?,
        "record" => spec.record = Some(given.value("a path")?.into()),
        "prefetch" => spec.prefetch = Some(given.value("a path")?.into()),
        _ if OF_SYSTEMD.contains(&name) || name.starts_with("x-") => {}
        _ => return Err(EntryError::Unknown(option.to_owned())),
    }
    // Both options set the region size.
    let name = if name == "region-size" { "region_size" } else { name };
    Ok(SETTINGS.iter().copied().find(|known| *known == name))
}

/// An option as written.
struct Given<'a> {
    name: &'a str,
    value: Option<&'a str>,
}

const REGION: &str = "a power of two from 8 sectors to 2097152 (4 KiB to 1 GiB)";
const REGIONS: &str = "a whole number of regions from 0 to 4294967295";
const SECTORS: &str = "a whole number of sectors";
const RATE: &str = "bytes per second, as a number or with a unit as in 100M; 0 for no limit";

impl Given<'_> {
    fn value(&self, wanted: &'static str) -> Result<&str, EntryError> {
        let missing = || EntryError::NoValue { name: self.name.to_owned(), wanted };
        self.value.filter(|value| !value.is_empty()).ok_or_else(missing)
    }

    fn wrong(&self, wanted: &'static str) -> EntryError {
        let value = self.value.unwrap_or_default().to_owned();
        EntryError::Value { name: self.name.to_owned(), value, wanted }
    }

    fn number(&self, wanted: &'static str) -> Result<u64, EntryError> {
        self.value(wanted)?.parse().map_err(|_| self.wrong(wanted))
    }

    fn small(&self, wanted: &'static str) -> Result<u32, EntryError> {
        self.value(wanted)?.parse().map_err(|_| self.wrong(wanted))
    }

    /// Parses a region size. `unit` is the number of units per sector: 1 if a plain number counts
    /// sectors, [`SECTOR_SIZE`] if it counts bytes.
    fn region_size(&self, unit: u64) -> Result<RegionSize, EntryError> {
        let value = self.value(REGION)?;
        let sectors = match value.parse::<u64>() {
            Ok(number) if number.is_multiple_of(unit) => Sectors(number / unit),
            Ok(_) => return Err(self.wrong(REGION)),
            // The value has its own unit.
            Err(_) => parse_sectors(value).map_err(|_| self.wrong(REGION))?,
        };
        RegionSize::new(sectors).map_err(|_| self.wrong(REGION))
    }

    fn bytes(&self) -> Result<u64, EntryError> {
        parse_bytes(self.value(RATE)?).map_err(|_| self.wrong(RATE))
    }

    fn flag(&self) -> Result<bool, EntryError> {
        match self.value {
            None | Some("on" | "yes" | "true" | "1") => Ok(true),
            Some("off" | "no" | "false" | "0") => Ok(false),
            Some(_) => Err(self.wrong("on or off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clone_core::geometry::{RegionSize, Sectors};
    use quickcheck::quickcheck;

    use super::{parse, parse_line};
    use crate::config::clone_spec::{CloneSpec, Tuning};
    use crate::source::SourceSpec;

    fn spec(text: &str) -> CloneSpec {
        parse_line(1, text).unwrap().unwrap().spec
    }

    #[test]
    fn a_file_for_systemd_is_read_as_it_is() {
        let text = "\
# name source destination metadata options

root   /dev/vda2\t/dev/vdb  PARTLABEL=meta  region_size=16,x-initrd.attach,_netdev
  home UUID=12-34 /dev/vdc /dev/vdd
swap /dev/vde /dev/vdf /dev/vdg noauto,x-a,noauto,x-a
var /dev/vdh /dev/vdi /dev/vdj region-size=65536
";
        let entries = parse(text).unwrap();
        let names: Vec<&str> = entries.iter().map(|entry| entry.spec.name.as_str()).collect();
        assert_eq!(names, ["root", "home", "swap", "var"]);
        let lines: Vec<usize> = entries.iter().map(|entry| entry.line).collect();
        assert_eq!(lines, [3, 4, 5, 6]);
        let root = &entries[0].spec;
        assert_eq!(root.source, SourceSpec::Path("/dev/vda2".into()));
        assert_eq!(root.destination, Path::new("/dev/vdb"));
        assert_eq!(root.metadata, Path::new("/dev/disk/by-partlabel/meta"));
        assert_eq!(root.tuning, Tuning::default());
        let sizes: Vec<Option<u64>> = entries
            .iter()
            .map(|entry| entry.spec.region_size.map(|size| size.sectors().0))
            .collect();
        assert_eq!(sizes, [Some(16), None, None, Some(128)]);
    }

    #[test]
    fn our_own_options_are_known_by_the_names_of_messages() {
        let told = spec(
            "a s d m no_hydration,no_discard_passdown,hydration_threshold=7,\
             hydration_batch_size=3,hydration_rate=10M,hydrate_on_read,max_failures=2,\
             discard_zeroes=off,direct,length=4096,region_size=1M",
        );
        assert_eq!(
            told.tuning,
            Tuning {
                hydration: false,
                discard_passdown: false,
                hydration_threshold: Some(7),
                hydration_batch_size: Some(3),
                hydration_rate: Some(10 << 20),
                hydrate_on_read: Some(true),
                max_failures: Some(2),
                discard_zeroes: false,
                direct: true,
            }
        );
        assert_eq!(told.length, Some(Sectors(4096)));
        assert_eq!(told.region_size, Some(RegionSize::new(Sectors(2048)).unwrap()));
        assert_eq!(spec("a s d m hydrate_on_read=off").tuning.hydrate_on_read, Some(false));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, told) in [
            ("a b c", "line 1: 3 fields, expected 4 or 5"),
            ("\na s d m - more", "line 2: 6 fields"),
            ("a/b s d m", "line 1: \"a/b\" cannot be the name of a clone"),
            (
                "a s d m hydration_treshold=1",
                "unknown option \"hydration_treshold=1\"; the options are",
            ),
            ("a s d m hydration_threshold", "hydration_threshold lacks its value: a whole number"),
            ("a s d m region_size=9", "region_size=9: it must be a power of two"),
            ("a s d m region-size=4097", "region-size=4097: it must be a power of two"),
            ("a s d m max_failures=-1", "max_failures=-1: it must be a number of copies"),
            ("a s d m hydration_rate=fast", "hydration_rate=fast: it must be bytes per second"),
            ("a s d m direct=perhaps", "direct=perhaps: it must be on or off"),
            ("a s d m direct,direct=off", "direct=off: direct is already given; keep one"),
            ("a s d m length=8,length=8", "length=8: length is already given"),
            (
                "a s d m region-size=4096,region_size=16",
                "region_size=16: region_size is already given",
            ),
            ("a s d m\nb s d m\na s d m", "line 3: a is on line 1 already"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    quickcheck! {
        fn no_text_is_too_much(text: String) -> bool {
            let _ = parse(&text);
            true
        }
    }
}
