//! Table lines, which define clones.

use std::fmt;

use crate::dm_target::error::{Role, TableError, Word};
use crate::dm_target::number::{self, NumberError};
use crate::dm_target::options::{Key, Options};
use crate::dm_target::words;
use crate::geometry::{Geometry, RegionSize, Sectors};

/// Number of sectors of the largest device that device-mapper makes. 2^63 bytes, one sector more,
/// is refused ("too large device").
pub const MAX_SECTORS: Sectors = Sectors((1 << 54) - 1);

/// The devices of a clone, as given: paths, or `major:minor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePaths {
    /// The metadata device, which records the hydrated regions.
    pub metadata: String,
    /// The destination device, to which regions are copied.
    pub destination: String,
    /// The source device, which is only read.
    pub source: String,
}

/// The arguments after the word `clone` in a table line:
///
/// `<metadata> <destination> <source> <region size> [<#features> <feature>* [<#core arguments>
/// <name value>*]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    devices: DevicePaths,
    region_size: RegionSize,
    options: Options,
    /// The words after the devices.
    rest: Vec<String>,
    /// Number of words of `rest` that have a meaning.
    meant: usize,
}

impl Arguments {
    /// Makes arguments from values.
    ///
    /// # Errors
    /// [`TableError::SameDevice`] if two of the devices are equal.
    pub fn new(
        devices: DevicePaths,
        region_size: RegionSize,
        options: Options,
    ) -> Result<Self, TableError> {
        distinct(&devices)?;
        let mut rest = vec![region_size.sectors().to_string()];
        if options != Options::default() {
            rest.extend(words::plain(&options.to_string()).into_iter().map(str::to_owned));
        }
        let meant = rest.len();
        Ok(Self { devices, region_size, options, rest, meant })
    }

    /// Parses arguments. A `#` begins a comment, as in dmsetup.
    ///
    /// # Errors
    /// [`TableError`], which names the word and the words that are allowed in its place.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        one_line(text)?;
        arguments(text, 1)
    }

    /// Returns the devices.
    pub fn devices(&self) -> &DevicePaths {
        &self.devices
    }

    /// Returns the size of a region.
    pub fn region_size(&self) -> RegionSize {
        self.region_size
    }

    /// Returns the features and core arguments.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Returns the words after the last one with a meaning. The kernel silently ignores them, so
    /// they deserve a warning.
    pub fn ignored(&self) -> &[String] {
        &self.rest[self.meant..]
    }
}

/// Formats the output of `dmsetup table` after `clone`: the devices and all other words as given.
impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DevicePaths { metadata, destination, source } = &self.devices;
        write!(f, "{metadata} {destination} {source} {}", self.rest.join(" "))
    }
}

/// A table line that defines a clone: `<start> <length> clone` and its [`Arguments`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableLine {
    start: Sectors,
    geometry: Geometry,
    arguments: Arguments,
}

impl TableLine {
    /// Makes the line of a clone of `length` sectors that begins at sector 0.
    ///
    /// # Errors
    /// [`TableError::Geometry`] if the length does not fit the region size, and
    /// [`TableError::PastEnd`] if it exceeds [`MAX_SECTORS`].
    pub fn new(length: Sectors, arguments: Arguments) -> Result<Self, TableError> {
        Self::at(Sectors(0), length, arguments)
    }

    fn at(start: Sectors, length: Sectors, arguments: Arguments) -> Result<Self, TableError> {
        let geometry = Geometry::new(arguments.region_size, length)?;
        if start.0.checked_add(length.0).is_none_or(|end| end > MAX_SECTORS.0) {
            return Err(TableError::PastEnd { start, length });
        }
        Ok(Self { start, geometry, arguments })
    }

    /// Parses a single line, which may end with a comment.
    ///
    /// # Errors
    /// [`TableError`], which names the word and the words that are allowed in its place. Any start
    /// is allowed: see [`expect_alone`](Self::expect_alone).
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let text = text.trim_matches(words::is_space);
        one_line(text)?;
        if text.is_empty() || text.starts_with('#') {
            return Err(TableError::NoLine);
        }
        let (head, rest) = head(text);
        let mut words = Words { words: head, next: 0, first: 1, comment: false };
        let start = words.sectors(Role::Start)?;
        let length = words.sectors(Role::Length)?;
        let target = words.take(Role::Target)?;
        if target.text != "clone" {
            return Err(TableError::Word(target));
        }
        Self::at(start, length, arguments(rest, target.position + 1)?)
    }

    /// Checks that this line can be the only line of a table.
    ///
    /// # Errors
    /// [`TableError::NotAtStart`] unless it starts at sector 0.
    pub fn expect_alone(&self) -> Result<(), TableError> {
        if self.start == Sectors(0) { Ok(()) } else { Err(TableError::NotAtStart(self.start)) }
    }

    /// Returns the first sector of the clone on the device that the table defines.
    pub fn start(&self) -> Sectors {
        self.start
    }

    /// Returns the length of the clone and its regions.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Returns the arguments after the word `clone`.
    pub fn arguments(&self) -> &Arguments {
        &self.arguments
    }
}

/// Formats the output of `dmsetup table`, with the devices as given.
impl fmt::Display for TableLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, geometry, arguments } = self;
        write!(f, "{start} {} clone {arguments}", geometry.target_size())
    }
}

fn one_line(text: &str) -> Result<(), TableError> {
    let several = text.trim_end_matches(words::is_space).contains('\n');
    if several { Err(TableError::SeveralLines) } else { Ok(()) }
}

/// Returns the first three words of a line, and the text after them.
fn head(text: &str) -> (Vec<&str>, &str) {
    let mut words = Vec::new();
    let mut rest = text;
    while words.len() < 3 && !rest.is_empty() {
        let (word, behind) = rest.split_once(words::is_space).unwrap_or((rest, ""));
        words.push(word);
        rest = behind.trim_start_matches(words::is_space);
    }
    (words, rest)
}

/// Iterates over the words of a line.
struct Words<'a> {
    words: Vec<&'a str>,
    next: usize,
    /// Position of the first word in the line, from 1.
    first: usize,
    comment: bool,
}

impl Words<'_> {
    fn left(&self) -> usize {
        self.words.len() - self.next
    }

    fn take(&mut self, role: Role) -> Result<Word, TableError> {
        let position = self.first + self.next;
        let missing = TableError::Missing { position, role, comment: self.comment };
        let text = (*self.words.get(self.next).ok_or(missing)?).to_owned();
        self.next += 1;
        Ok(Word { text, position, role })
    }

    fn sectors(&mut self, role: Role) -> Result<Sectors, TableError> {
        let word = self.take(role)?;
        number::sectors(&word.text).map(Sectors).map_err(|_| TableError::Word(word))
    }

    /// Takes a count, one of `allowed`, of words that follow; 0 if the line ends here.
    fn count(&mut self, role: Role, allowed: &[u32]) -> Result<u32, TableError> {
        if self.left() == 0 {
            return Ok(0);
        }
        let word = self.take(role)?;
        let count = number::count(&word.text).map_err(|error| wrong_number(word.clone(), error))?;
        let left = self.left();
        if !allowed.contains(&count) {
            Err(TableError::Word(word))
        } else if usize::try_from(count).is_ok_and(|count| count <= left) {
            Ok(count)
        } else {
            Err(TableError::CountPastEnd { word, left })
        }
    }
}

fn wrong_number(word: Word, error: NumberError) -> TableError {
    match error {
        NumberError::TooLarge { lowest } if word.role != Role::CoreValue => {
            TableError::TooLarge { word, lowest }
        }
        NumberError::TooLarge { .. } | NumberError::NotANumber => TableError::Word(word),
    }
}

/// Parses arguments whose first word is at `position` of the line.
fn arguments(text: &str, position: usize) -> Result<Arguments, TableError> {
    let (said, comment) = match text.split_once('#') {
        Some((said, _)) => (said, true),
        None => (text, false),
    };
    let mut words = Words { words: words::plain(said), next: 0, first: position, comment };
    let metadata = words.take(Role::Metadata)?.text;
    let destination = words.take(Role::Destination)?.text;
    let source = words.take(Role::Source)?.text;
    let devices = DevicePaths { metadata, destination, source };
    let rest_begins = words.next;
    let region_size = region_size(&mut words)?;
    let mut options = Options::default();
    for _ in 0..words.count(Role::FeatureCount, &[0, 1, 2])? {
        let feature = words.take(Role::Feature)?;
        if !options.add_feature(&feature.text) {
            return Err(TableError::Word(feature));
        }
    }
    core_arguments(&mut words, &mut options)?;
    distinct(&devices)?;
    let rest: Vec<String> =
        words.words[rest_begins..].iter().map(|&word| word.to_owned()).collect();
    let meant = words.next - rest_begins;
    Ok(Arguments { devices, region_size, options, rest, meant })
}

fn region_size(words: &mut Words) -> Result<RegionSize, TableError> {
    let word = words.take(Role::RegionSize)?;
    let sectors = number::count(&word.text).map_err(|error| wrong_number(word.clone(), error))?;
    RegionSize::new(Sectors(sectors.into())).map_err(|_| TableError::Word(word))
}

/// Parses the core arguments. If a name occurs twice, the last value wins.
fn core_arguments(words: &mut Words, options: &mut Options) -> Result<(), TableError> {
    let count = words.count(Role::CoreCount, &[0, 2, 4])?;
    for _ in 0..count / 2 {
        let name = words.take(Role::CoreName)?;
        let key = Key::named(&name.text).ok_or(TableError::Word(name))?;
        let word = words.take(Role::CoreValue)?;
        let value = number::value(&word.text).map_err(|error| wrong_number(word, error))?;
        options.set(key, value);
    }
    Ok(())
}

/// Checks that the device names differ. It does not detect two names of one device.
fn distinct(devices: &DevicePaths) -> Result<(), TableError> {
    let named = [
        (&devices.metadata, Role::Metadata),
        (&devices.destination, Role::Destination),
        (&devices.source, Role::Source),
    ];
    for (at, (path, second)) in named.iter().enumerate() {
        if let Some((_, first)) = named[..at].iter().find(|(earlier, _)| earlier == path) {
            let path = (*path).clone();
            return Err(TableError::SameDevice { path, first: *first, second: *second });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
