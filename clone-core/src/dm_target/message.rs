//! Messages to a running clone.

use std::fmt;

use thiserror::Error;

use crate::dm_target::number::{self, NumberError};
use crate::dm_target::options::Key;
use crate::dm_target::words;

/// A message to a clone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Starts the background copy.
    EnableHydration,
    /// Stops the background copy.
    DisableHydration,
    /// Sets the maximum number of regions that are copied at a time.
    HydrationThreshold(u32),
    /// Sets the maximum number of regions in one copy.
    HydrationBatchSize(u32),
}

/// Reason why a text is not a message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The text has no word.
    #[error("an empty message")]
    Empty,
    /// The name is not one of the four.
    #[error(
        "{0:?} is no message: there are enable_hydration, disable_hydration, \
         hydration_threshold N and hydration_batch_size N"
    )]
    Unknown(String),
    /// Device-mapper handles such messages itself and does not pass them to the clone.
    #[error("{0:?} is for device-mapper itself, not for a clone")]
    ForDeviceMapper(String),
    /// The value is missing.
    #[error("{0} lacks its value, a whole number of regions from 0 to 4294967295")]
    MissingValue(&'static str),
    /// The value is not a 32-bit number.
    #[error("{name} is {value:?}: it must be a whole number of regions from 0 to 4294967295")]
    Value {
        /// Name of the setting.
        name: &'static str,
        /// The invalid value.
        value: String,
    },
    /// There are words behind the value.
    #[error("{word:?} stands behind the value of {name}, where nothing belongs")]
    ExtraWord {
        /// Name of the setting.
        name: &'static str,
        /// The first extra word.
        word: String,
    },
}

impl Message {
    /// Parses a message, ignoring case. Spaces separate words, unless a backslash precedes them.
    ///
    /// As in the kernel, words behind `enable_hydration` and `disable_hydration` are ignored.
    ///
    /// # Errors
    /// Any [`MessageError`].
    pub fn parse(text: &str) -> Result<Self, MessageError> {
        let words = words::escaped(text);
        let (name, values) = words.split_first().ok_or(MessageError::Empty)?;
        if name.starts_with('@') {
            return Err(MessageError::ForDeviceMapper(name.clone()));
        }
        if name.eq_ignore_ascii_case("enable_hydration") {
            return Ok(Self::EnableHydration);
        }
        if name.eq_ignore_ascii_case("disable_hydration") {
            return Ok(Self::DisableHydration);
        }
        match Key::named(name).ok_or_else(|| MessageError::Unknown(name.clone()))? {
            key @ Key::Threshold => value(key, values).map(Self::HydrationThreshold),
            key @ Key::BatchSize => value(key, values).map(Self::HydrationBatchSize),
        }
    }
}

fn value(key: Key, values: &[String]) -> Result<u32, MessageError> {
    let name = key.name();
    match values {
        [] => Err(MessageError::MissingValue(name)),
        [value] => number::value(value).map_err(|error| match error {
            NumberError::NotANumber | NumberError::TooLarge { .. } => {
                MessageError::Value { name, value: value.clone() }
            }
        }),
        [_, word, ..] => Err(MessageError::ExtraWord { name, word: word.clone() }),
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnableHydration => f.write_str("enable_hydration"),
            Self::DisableHydration => f.write_str("disable_hydration"),
            Self::HydrationThreshold(value) => write!(f, "{} {value}", Key::Threshold.name()),
            Self::HydrationBatchSize(value) => write!(f, "{} {value}", Key::BatchSize.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::{Message, MessageError};

    #[test]
    fn case_and_spaces_do_not_matter() {
        let five = Ok(Message::HydrationThreshold(5));
        for text in [
            "hydration_threshold 5",
            "HYDRATION_Threshold\t+5\n",
            "  hydration_threshold \u{b} 005",
            r"\hydration\_threshold \5",
            "hydration_threshold 5\\\n",
            "hydration_threshold  5",
        ] {
            assert_eq!(Message::parse(text), five, "{text:?}");
        }
    }

    #[test]
    fn words_behind_enable_and_disable_mean_nothing_and_behind_a_value_too_much() {
        assert_eq!(Message::parse("enable_hydration 0"), Ok(Message::EnableHydration));
        assert_eq!(Message::parse("Disable_Hydration a b"), Ok(Message::DisableHydration));
        let name = "hydration_batch_size";
        let extra = MessageError::ExtraWord { name, word: "6".into() };
        assert_eq!(Message::parse("hydration_batch_size 5 6"), Err(extra));
    }

    #[test]
    fn what_is_no_message_is_named() {
        assert_eq!(Message::parse(" \n"), Err(MessageError::Empty));
        assert_eq!(Message::parse("Stop now"), Err(MessageError::Unknown("Stop".into())));
        let name = "hydration_threshold";
        assert_eq!(Message::parse("HYDRATION_THRESHOLD"), Err(MessageError::MissingValue(name)));
        for value in ["-1", "4294967296", "18446744073709551616", "0x5", "5\\", " 5"] {
            let text = format!("hydration_threshold {}", value.replace(' ', "\\ "));
            let value = MessageError::Value { name, value: value.to_owned() };
            assert_eq!(Message::parse(&text), Err(value), "{text:?}");
        }
        let word = "@cancel_deferred_remove";
        assert_eq!(Message::parse(word), Err(MessageError::ForDeviceMapper(word.into())));
    }

    quickcheck! {
        fn what_is_printed_is_read_back(value: u32) -> bool {
            let messages = [
                Message::EnableHydration,
                Message::DisableHydration,
                Message::HydrationThreshold(value),
                Message::HydrationBatchSize(value),
            ];
            messages.iter().all(|message| Message::parse(&message.to_string()) == Ok(*message))
        }

        fn no_text_makes_it_panic(text: String, words: Vec<String>) -> bool {
            let told = |message: Result<Message, MessageError>| {
                message.map_or_else(|error| !error.to_string().is_empty(), |_| true)
            };
            told(Message::parse(&text))
                && told(Message::parse(&format!("hydration_threshold {text}")))
                && told(Message::parse(&words.join(" ")))
        }
    }
}
