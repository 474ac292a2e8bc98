//! The options of a clone: its features and core arguments.

use std::fmt;

/// Features and core arguments. The defaults are those of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// True if regions are copied in the background. Cleared by `no_hydration`.
    pub hydration: bool,
    /// True if discards are passed to the destination. Cleared by `no_discard_passdown`.
    pub discard_passdown: bool,
    /// Maximum number of regions that are copied at a time; 0 stops the background copy.
    pub hydration_threshold: u32,
    /// Maximum number of regions in one copy; 0 means the same as 1.
    pub hydration_batch_size: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hydration: true,
            discard_passdown: true,
            hydration_threshold: 1,
            hydration_batch_size: 1,
        }
    }
}

/// The names of core arguments, which are also names of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Threshold,
    BatchSize,
}

impl Key {
    /// Returns the key with the name `word`, ignoring case.
    pub(super) fn named(word: &str) -> Option<Self> {
        let keys = [Self::Threshold, Self::BatchSize];
        keys.into_iter().find(|key| word.eq_ignore_ascii_case(key.name()))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Threshold => "hydration_threshold",
            Self::BatchSize => "hydration_batch_size",
        }
    }
}

impl Options {
    /// Enables the feature with the name `word`, ignoring case. Returns whether there is one.
    pub(super) fn add_feature(&mut self, word: &str) -> bool {
        if word.eq_ignore_ascii_case("no_hydration") {
            self.hydration = false;
        } else if word.eq_ignore_ascii_case("no_discard_passdown") {
            self.discard_passdown = false;
        } else {
            return false;
        }
        true
    }

    pub(super) fn set(&mut self, key: Key, value: u32) {
        match key {
            Key::Threshold => self.hydration_threshold = value,
            Key::BatchSize => self.hydration_batch_size = value,
        }
    }
}

/// Formats the options like a status: `<#features> <feature>* 4 <key> <value> <key> <value>`.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u32::from(!self.hydration) + u32::from(!self.discard_passdown))?;
        if !self.hydration {
            f.write_str(" no_hydration")?;
        }
        if !self.discard_passdown {
            f.write_str(" no_discard_passdown")?;
        }
        let Self { hydration_threshold, hydration_batch_size, .. } = self;
        let (threshold, batch_size) = (Key::Threshold.name(), Key::BatchSize.name());
        write!(f, " 4 {threshold} {hydration_threshold}")?;
        write!(f, " {batch_size} {hydration_batch_size}")
    }
}
