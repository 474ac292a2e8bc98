//! Reports of damage and lost regions to people.
//!
//! All tools that read metadata list damage through a [`Reporter`], so that its words are the same
//! everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use clone_core::metadata::damage::{Damage, Severity};
use clone_core::metadata::region_map::RegionMap;

use crate::common::exit::Tool;
use crate::common::units::Counted;

/// The number of problems of one kind, or of lost ranges, that are listed; the rest are only
/// counted.
pub(crate) const LISTED: usize = 50;

/// The amount of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Only the reason why the exit code is not 0.
    Quiet,
    /// The important messages.
    Usual,
    /// All messages.
    Verbose,
}

impl Verbosity {
    /// Returns the level for `--quiet` and `--verbose`.
    pub fn of(quiet: bool, verbose: bool) -> Self {
        match (quiet, verbose) {
            (_, true) => Self::Verbose,
            (true, false) => Self::Quiet,
            (false, false) => Self::Usual,
        }
    }
}

/// Reports on one input to people, on stderr.
#[derive(Clone, Copy, Debug)]
pub struct Reporter<'a> {
    /// The tool, whose name precedes each message.
    pub tool: &'a Tool,
    /// The metadata that the messages are about.
    pub input: &'a Path,
    /// The amount of messages.
    pub verbosity: Verbosity,
    /// True to suppress all messages, because a JSON document is printed instead.
    pub silent: bool,
}

impl Reporter<'_> {
    /// True with `--quiet`.
    pub fn is_quiet(&self) -> bool {
        self.verbosity == Verbosity::Quiet
    }

    /// Returns the number of items to list: all with `--verbose`, or else `usual`.
    pub(crate) fn nr_listed(&self, usual: usize) -> usize {
        if self.verbosity == Verbosity::Verbose { usize::MAX } else { usual }
    }

    /// Writes a message about the input.
    pub fn say(&self, message: impl fmt::Display) {
        if !self.silent {
            self.tool.say(format_args!("{}: {message}", self.input.display()));
        }
    }

    /// Lists damage, one line per problem.
    pub fn list_damage(&self, damage: &[Damage]) {
        let listed = self.nr_listed(LISTED);
        let mut of_kind = BTreeMap::<&str, usize>::new();
        for problem in damage {
            let code = problem.code();
            let count = of_kind.entry(code).or_default();
            *count += 1;
            if *count <= listed {
                self.say(format_args!("{}: {code}: {problem}", problem.severity().name()));
            }
        }
        for (code, count) in of_kind {
            if count > listed {
                let more = count - listed;
                self.say(format_args!("and {more} more {code} (--verbose lists all)"));
            }
        }
    }

    /// Reports the damage of metadata that is read to make `what` from it. Damage that does not
    /// affect `what` is counted, and listed only with `--verbose`.
    pub fn report_damage(&self, damage: &[Damage], what: &str) {
        if self.verbosity == Verbosity::Verbose || count(damage, Severity::Fatal) > 0 {
            self.list_damage(damage);
        } else if !self.is_quiet() && !damage.is_empty() {
            let harmless = Counted(damage.len() as u64, "problem");
            self.say(format_args!("{harmless} that do not affect the {what}; see clone_check"));
        }
    }

    /// Lists the regions whose state is unknown, one line per range.
    pub fn list_lost(&self, regions: &RegionMap) {
        let listed = self.nr_listed(LISTED);
        for range in regions.lost().take(listed) {
            self.say(format_args!("lost: regions {}..{}", range.start, range.end));
        }
        let more = regions.lost().skip(listed).count();
        if more > 0 {
            self.say(format_args!("and {more} more lost ranges (--verbose lists all)"));
        }
    }
}

/// Returns the number of problems of one severity.
pub fn count(damage: &[Damage], severity: Severity) -> usize {
    damage.iter().filter(|problem| problem.severity() == severity).count()
}
