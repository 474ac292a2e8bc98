//! What can be set on a clone beside its devices and its regions.

use std::fmt;

/// Features and core arguments, by default as the kernel has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether regions are copied in the background: without `no_hydration`.
    pub hydration: bool,
    /// Whether discards go on to the destination: without `no_discard_passdown`.
    pub discard_passdown: bool,
    /// The most regions that are copied at a time; 0 stops copying in the background.
    pub hydration_threshold: u32,
    /// The most regions that are copied in one go; 0 and 1 mean the same.
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

/// The names of core arguments, which are messages too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Threshold,
    BatchSize,
}

impl Key {
    /// The key that a word is, in letters of any case.
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
    /// Switches on the feature that a word names, in letters of any case; whether it names one.
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

/// As a status tells them: `<#features> <feature>* 4 <key> <value> <key> <value>`.
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
