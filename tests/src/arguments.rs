//! Valid and invalid table lines and messages, for tests of the parser and of a real kernel.
//!
//! In a line, [`META`], [`DEST`] and [`SRC`] stand for devices. A test with a kernel replaces them
//! by the paths of three devices of [`DEVICE_SECTORS`], each with logical blocks of 512 bytes. The
//! metadata is zeroed before each line. A line goes through `dmsetup create --table`, a message
//! through `dmsetup message NAME 0`, as one argument each.

mod generate;
mod given;

use clone_core::dm_target::{
    Arguments, DeviceLimits, DevicePaths, Message, MessageError, TableError, TableLine,
};
use clone_core::geometry::Sectors;

pub use generate::{messages, table_arguments, table_lines};

/// Placeholder for the metadata device.
pub const META: &str = "META";

/// Placeholder for the destination device.
pub const DEST: &str = "DEST";

/// Placeholder for the source device.
pub const SRC: &str = "SRC";

/// Length of a clone with [`table_arguments`]. It starts at sector 0.
pub const LENGTH: Sectors = Sectors(4096);

/// The size of each of the three devices.
pub const DEVICE_SECTORS: Sectors = Sectors(16384);

/// A text that dmsetup and a kernel accept and the parser rejects. `docs/differences.md` gives the
/// reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Difference {
    /// A number that the kernel truncates to its lowest 32 bits.
    NumberWraps,
    /// The same device in two places.
    SameDevice,
    /// Comments or empty lines after the line.
    SeveralLines,
    /// An empty table.
    NoLine,
    /// A negative number, which dmsetup converts to a number below 2^64.
    NegativeNumber,
    /// Numbers and words without a space between them.
    GluedWords,
    /// A message to device-mapper itself.
    CoreMessage,
}

impl Difference {
    /// All differences.
    pub const ALL: [Self; 7] = [
        Self::NumberWraps,
        Self::SameDevice,
        Self::SeveralLines,
        Self::NoLine,
        Self::NegativeNumber,
        Self::GluedWords,
        Self::CoreMessage,
    ];

    /// Returns the name in `docs/differences.md`, which never changes.
    pub fn name(self) -> &'static str {
        match self {
            Self::NumberWraps => "number-wraps",
            Self::SameDevice => "same-device",
            Self::SeveralLines => "several-lines",
            Self::NoLine => "no-line",
            Self::NegativeNumber => "negative-number",
            Self::GluedWords => "glued-words",
            Self::CoreMessage => "core-message",
        }
    }
}

/// The expected results for a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected<T> {
    /// The parser's result, or its error message.
    pub ours: Result<T, String>,
    /// True if a kernel accepts the text.
    pub taken: bool,
    /// The meaning of the text to a kernel that accepts it, if it is a clone or a message to one.
    /// It differs from `ours` only if there is a difference; then devices are not compared.
    pub reading: Option<T>,
    /// The reason for the difference, if a kernel accepts a text that the parser rejects.
    pub difference: Option<Difference>,
}

impl<T: Clone> Expected<T> {
    fn new(ours: Result<T, String>, reading: Option<(T, Difference)>) -> Self {
        let (reading, difference) = match (&ours, reading) {
            (Ok(ours), _) => (Some(ours.clone()), None),
            (Err(_), reading) => reading.unzip(),
        };
        Self { ours, taken: reading.is_some(), reading, difference }
    }

    /// The result for a text that a kernel accepts without making a clone of it.
    fn taken_for_nothing(ours: Result<T, String>, difference: Difference) -> Self {
        Self { ours, taken: true, reading: None, difference: Some(difference) }
    }
}

/// Returns the expected results for arguments in a line of [`LENGTH`].
pub fn expected_arguments(text: &str) -> Expected<Arguments> {
    let parsed = Arguments::parse(text);
    let ours = (parsed.as_ref().map_err(ToString::to_string)).and_then(|arguments| {
        let line = TableLine::new(LENGTH, arguments.clone()).map_err(|error| error.to_string())?;
        usable(&line).map(|()| arguments.clone())
    });
    let reading = parsed.err().and_then(|error| rewritten(text, &error)).and_then(|rewritten| {
        let expected = expected_arguments(&rewritten.0);
        expected.reading.map(|reading| (reading, rewritten.1))
    });
    Expected::new(ours, reading)
}

/// Returns the expected results for a line that is the whole table.
pub fn expected_line(text: &str) -> Expected<TableLine> {
    let parsed = TableLine::parse(text);
    let ours = (parsed.as_ref().map_err(ToString::to_string)).and_then(|line| {
        line.expect_alone().map_err(|error| error.to_string())?;
        usable(line).map(|()| line.clone())
    });
    let Err(error) = parsed else {
        return Expected::new(ours, None);
    };
    if error == TableError::NoLine {
        return Expected::taken_for_nothing(ours, Difference::NoLine);
    }
    let rewritten = rewritten(text.trim(), &error).or_else(|| as_dmsetup_reads(text));
    let reading = rewritten.and_then(|(text, difference)| {
        expected_line(&text).reading.map(|reading| (reading, difference))
    });
    Expected::new(ours, reading)
}

/// Returns the expected results for a message.
pub fn expected_message(text: &str) -> Expected<Message> {
    match Message::parse(text) {
        // This is the only one of these messages that every device accepts.
        Err(error @ MessageError::ForDeviceMapper(_))
            if text.trim().eq_ignore_ascii_case("@cancel_deferred_remove") =>
        {
            Expected::taken_for_nothing(Err(error.to_string()), Difference::CoreMessage)
        }
        message => Expected::new(message.map_err(|error| error.to_string()), None),
    }
}

/// Checks that the devices exist and are large enough.
fn usable(line: &TableLine) -> Result<(), String> {
    let DevicePaths { metadata, destination, source } = line.arguments().devices();
    for path in [metadata, destination, source] {
        if ![META, DEST, SRC].contains(&path.as_str()) {
            return Err(format!("there is no device {path:?}"));
        }
    }
    let limits = DeviceLimits { size: DEVICE_SECTORS, logical_block_size: 512 };
    line.check_devices(limits, limits).map_err(|error| error.to_string())
}

/// Rewrites a text that was rejected with `error`, so that it means to the parser what the original
/// may mean to a kernel.
fn rewritten(text: &str, error: &TableError) -> Option<(String, Difference)> {
    match error {
        TableError::TooLarge { word, lowest } => {
            let text = text.replacen(&word.text, &lowest.to_string(), 1);
            Some((text, Difference::NumberWraps))
        }
        TableError::SameDevice { path, .. } => {
            let used = |device: &&str| text.split_whitespace().any(|word| word == *device);
            let unused = [META, DEST, SRC].into_iter().find(|device| !used(device))?;
            let known = [META, DEST, SRC].contains(&path.as_str());
            let text = text.replacen(path.as_str(), unused, 1);
            known.then_some((text, Difference::SameDevice))
        }
        TableError::SeveralLines => {
            let mut lines = text.trim_end().lines().map(str::trim);
            let first = lines.next()?.to_owned();
            let nothing = lines.all(|line| line.is_empty() || line.starts_with('#'));
            nothing.then_some((first, Difference::SeveralLines))
        }
        _ => None,
    }
}

/// Rewrites a line as dmsetup reads it, with `sscanf("%llu %llu %15s")`: with spaces where dmsetup
/// needs none, and with the converted negative numbers.
fn as_dmsetup_reads(line: &str) -> Option<(String, Difference)> {
    let (start, behind) = as_scanf_reads(line)?;
    let (length, behind) = as_scanf_reads(behind)?;
    let text = format!("{start} {length} {}", behind.trim_start());
    let negative = line.contains('-');
    let difference = if negative { Difference::NegativeNumber } else { Difference::GluedWords };
    let same = text.split_whitespace().eq(line.split_whitespace());
    (!same).then_some((text, difference))
}

/// Returns the number at the start of a text, and the rest.
fn as_scanf_reads(text: &str) -> Option<(u64, &str)> {
    let text = text.trim_start();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (digits, behind) = digits.split_at(end);
    let number = match digits.parse::<u64>() {
        Ok(number) if text.starts_with('-') => number.wrapping_neg(),
        Ok(number) => number,
        Err(_) if digits.is_empty() => return None,
        Err(_) => u64::MAX,
    };
    Some((number, behind))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clone_core::geometry::Sectors;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::{
        Difference, Expected, expected_arguments, expected_line, expected_message, messages,
        table_arguments, table_lines,
    };

    /// Counts the texts, the accepted ones, and the differences.
    fn summary<T: Clone>(
        texts: &[String],
        expected: fn(&str) -> Expected<T>,
    ) -> (usize, usize, BTreeSet<Difference>) {
        let expected: Vec<Expected<T>> = texts.iter().map(|text| expected(text)).collect();
        for (text, expected) in texts.iter().zip(&expected) {
            let differs = expected.ours.is_ok() != expected.taken;
            assert_eq!(differs, expected.difference.is_some(), "{text:?}");
        }
        let taken = expected.iter().filter(|expected| expected.ours.is_ok()).count();
        (texts.len(), taken, expected.iter().filter_map(|one| one.difference).collect())
    }

    #[test]
    fn there_are_many_of_each_kind_and_all_differences_for_any_seed() {
        for seed in 0..50 {
            let rng = &mut StdRng::seed_from_u64(seed);
            let (arguments, lines, messages) =
                (table_arguments(rng), table_lines(rng), messages(rng));
            let (count, taken, mut seen) = summary(&arguments, expected_arguments);
            assert!(count >= 300 && taken >= 60 && count - taken >= 60, "{taken} of {count}");
            let (count, taken, in_lines) = summary(&lines, expected_line);
            assert!(count >= 60 && taken >= 15 && count - taken >= 15, "{taken} of {count}");
            let (count, taken, in_messages) = summary(&messages, expected_message);
            assert!(count >= 150 && taken >= 40 && count - taken >= 40, "{taken} of {count}");
            seen.extend(in_lines.into_iter().chain(in_messages));
            assert!(seen.iter().eq(&Difference::ALL), "seed {seed}: {seen:?}");
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_texts() {
        let rng = || StdRng::seed_from_u64(7);
        assert_eq!(table_arguments(&mut rng()), table_arguments(&mut rng()));
        assert_eq!(table_lines(&mut rng()), table_lines(&mut rng()));
        assert_eq!(messages(&mut rng()), messages(&mut rng()));
    }

    #[test]
    fn the_document_lists_every_difference() {
        let document = include_str!("../../docs/differences.md");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
        let listed: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        // The two differences that no line with device placeholders can show.
        let others = ["byte-a0", "ignored-words"];
        let known = Difference::ALL.map(Difference::name).into_iter().chain(others);
        assert_eq!(listed, known.collect());
    }

    #[test]
    fn what_a_kernel_makes_of_what_we_refuse_is_known() {
        let length = |text: &str| {
            let reading = expected_line(text).reading.expect(text);
            reading.geometry().target_size()
        };
        assert_eq!(length("0 -18446744073709547520 clone META DEST SRC 8"), Sectors(4096));
        assert_eq!(length("0+4095clone META DEST SRC 8"), Sectors(4095));
        assert!(expected_line("").taken);
        let wraps =
            expected_arguments("META DEST SRC 4294967304 0 4294967298 hydration_threshold 7");
        assert_eq!(wraps.difference, Some(Difference::NumberWraps));
        assert_eq!(wraps.reading.unwrap().options().hydration_threshold, 7);
        // Nine is no valid region size, neither for a kernel nor for the parser.
        assert!(!expected_arguments("META DEST SRC 4294967305").taken);
        assert_eq!(
            expected_arguments("META META META 16").difference,
            Some(Difference::SameDevice)
        );
    }
}
