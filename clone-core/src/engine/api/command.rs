//! Messages to a clone: those of the kernel target, and additional ones.

use std::fmt;

use thiserror::Error;

use crate::dm_target::{Message, MessageError};
use crate::engine::api::request::ByteRange;
use crate::size::{SizeError, parse_bytes};

/// A message to a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// One of the four messages of the kernel target.
    Kernel(Message),
    /// `hydration_rate <bytes per second>`; `0` is `None`, no limit.
    HydrationRate(Option<u64>),
    /// `hydrate_on_read on|off`.
    HydrateOnRead(bool),
    /// `hydrate <offset> <length>`: copy this range next. Both are in bytes.
    Hydrate(ByteRange),
    /// `max_failures <n>`.
    MaxFailures(u32),
    /// Maximum number of bytes that hydration reads from now on, in whole regions, before it stops;
    /// `None` for no limit. Ranges that the source knows to be zeroes do not count. This is not a
    /// message: it has no text form.
    HydrationLimit(Option<u64>),
    /// Begin to note what is read, or end it: no message, see [`crate::engine::trace`].
    Record(bool),
}

/// A text that is not a message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The message is unknown or malformed for the kernel target, and not an additional one.
    #[error("{0}; there are also {OURS}")]
    Kernel(#[from] MessageError),
    /// Wrong number of arguments.
    #[error("{name} takes {wanted}, and has {found} words behind it")]
    Words {
        /// The message.
        name: &'static str,
        /// The expected arguments.
        wanted: &'static str,
        /// Number of arguments given.
        found: usize,
    },
    /// An argument with an invalid value.
    #[error("{name} is {word:?}: it must be {wanted}")]
    Word {
        /// The message.
        name: &'static str,
        /// The argument.
        word: String,
        /// The expected value.
        wanted: &'static str,
    },
    /// An argument that is not a valid size.
    #[error("{name}: {error}")]
    Size {
        /// The message.
        name: &'static str,
        /// The parse error.
        error: SizeError,
    },
}

const OURS: &str = "hydration_rate BYTES, hydrate_on_read on|off, hydrate OFFSET LENGTH and \
                    max_failures N";

impl Command {
    /// Parses a message. Case does not matter.
    ///
    /// Rates, offsets and lengths are in bytes, or have a unit, as in `100M`: see [`parse_bytes`].
    ///
    /// # Errors
    /// [`CommandError::Kernel`] if the first word names no additional message and the kernel target
    /// refuses the text, [`CommandError::Words`] for a wrong number of arguments,
    /// [`CommandError::Size`] if a rate, offset or length is not a size, and [`CommandError::Word`]
    /// for any other invalid argument, or if a range ends beyond `u64::MAX`.
    pub fn parse(text: &str) -> Result<Self, CommandError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let Some((name, values)) = words.split_first() else {
            return Ok(Self::Kernel(Message::parse(text)?));
        };
        match name.to_ascii_lowercase().as_str() {
            "hydration_rate" => {
                let name = "hydration_rate";
                let [rate] = exactly(name, "bytes a second, 0 for no limit", values)?;
                let rate = bytes(name, rate)?;
                Ok(Self::HydrationRate((rate > 0).then_some(rate)))
            }
            "hydrate_on_read" => {
                let (name, wanted) = ("hydrate_on_read", "on or off");
                match exactly(name, wanted, values)? {
                    [word] if word.eq_ignore_ascii_case("on") => Ok(Self::HydrateOnRead(true)),
                    [word] if word.eq_ignore_ascii_case("off") => Ok(Self::HydrateOnRead(false)),
                    [word] => Err(CommandError::Word { name, word: word.into(), wanted }),
                }
            }
            "hydrate" => {
                let (name, wanted) = ("hydrate", "an offset and a length in bytes");
                let [offset, length] = exactly(name, wanted, values)?;
                let start = bytes(name, offset)?;
                let end = start.checked_add(bytes(name, length)?);
                let word = || CommandError::Word { name, word: length.into(), wanted };
                Ok(Self::Hydrate(start..end.ok_or_else(word)?))
            }
            "max_failures" => {
                let (name, wanted) = ("max_failures", "a number of copies, 0 for no limit");
                let [word] = exactly(name, wanted, values)?;
                let wrong = |_| CommandError::Word { name, word: word.into(), wanted };
                Ok(Self::MaxFailures(word.parse().map_err(wrong)?))
            }
            _ => Ok(Self::Kernel(Message::parse(text)?)),
        }
    }
}

fn exactly<'a, const N: usize>(
    name: &'static str,
    wanted: &'static str,
    values: &[&'a str],
) -> Result<[&'a str; N], CommandError> {
    let wrong = |_| CommandError::Words { name, wanted, found: values.len() };
    values.try_into().map_err(wrong)
}

fn bytes(name: &'static str, word: &str) -> Result<u64, CommandError> {
    parse_bytes(word).map_err(|error| CommandError::Size { name, error })
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on| if on { "on" } else { "off" };
        match self {
            Self::Kernel(message) => message.fmt(f),
            Self::HydrationRate(rate) => write!(f, "hydration_rate {}", rate.unwrap_or(0)),
            Self::HydrateOnRead(read) => write!(f, "hydrate_on_read {}", on(*read)),
            Self::Hydrate(range) => {
                write!(f, "hydrate {} {}", range.start, range.end - range.start)
            }
            Self::MaxFailures(failures) => write!(f, "max_failures {failures}"),
            Self::HydrationLimit(bytes) => write!(f, "hydration_limit {bytes:?}"),
            Self::Record(record) => write!(f, "record {}", on(*record)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, CommandError};
    use crate::dm_target::Message;

    #[test]
    fn messages_of_both_kinds_are_read_and_written() {
        for (text, command) in [
            ("hydration_rate 1000", Command::HydrationRate(Some(1000))),
            ("hydration_rate 0", Command::HydrationRate(None)),
            ("hydrate_on_read on", Command::HydrateOnRead(true)),
            ("hydrate_on_read off", Command::HydrateOnRead(false)),
            ("hydrate 4096 512", Command::Hydrate(4096..4608)),
            ("max_failures 3", Command::MaxFailures(3)),
            ("hydration_threshold 5", Command::Kernel(Message::HydrationThreshold(5))),
            ("enable_hydration", Command::Kernel(Message::EnableHydration)),
        ] {
            assert_eq!(Command::parse(text), Ok(command.clone()));
            assert_eq!(Command::parse(&text.to_uppercase()), Ok(command.clone()));
            assert_eq!(command.to_string(), text);
        }
        assert_eq!(Command::parse("hydration_rate 4k"), Ok(Command::HydrationRate(Some(4096))));
        assert_eq!(
            Command::parse("hydrate 1M 8s"),
            Ok(Command::Hydrate(1 << 20..(1 << 20) + 4096))
        );
    }

    #[test]
    fn what_is_no_message_is_refused_with_a_reason() {
        let told = |text: &str| Command::parse(text).unwrap_err().to_string();
        assert_eq!(
            told("hydrate 5"),
            "hydrate takes an offset and a length in bytes, and has 1 words behind it"
        );
        assert_eq!(told("hydrate_on_read yes"), "hydrate_on_read is \"yes\": it must be on or off");
        assert!(told("hydration_rate fast").starts_with("hydration_rate: \"fast\" is not a size"));
        assert!(told("max_failures -1").contains("a number of copies"));
        let huge = format!("hydrate {} {}", u64::MAX, 1);
        assert!(matches!(Command::parse(&huge), Err(CommandError::Word { .. })));
        let digits = "9".repeat(30);
        let huge = format!("hydration_rate {digits}");
        assert!(matches!(Command::parse(&huge), Err(CommandError::Size { .. })));
        for unknown in ["", "record on", "status"] {
            assert!(matches!(Command::parse(unknown), Err(CommandError::Kernel(_))), "{unknown}");
        }
        assert!(told("stop").contains("also hydration_rate BYTES"));
    }
}
