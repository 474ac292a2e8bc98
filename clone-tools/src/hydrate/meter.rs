//! Shows the progress of a hydration.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clone_core::driver::HydrationProgress;
use clone_core::geometry::{SECTOR_SIZE, Sectors};
use clone_core::size::{Human, human};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::common::exit::Tool;
use crate::common::throughput::Throughput;
use crate::common::units::Share;
use crate::progress_bar::PATIENCE;

/// The interval between lines if stderr is not a terminal.
const PERIOD: Duration = Duration::from_secs(10);

/// A progress bar on a terminal; otherwise a line on stderr at intervals.
pub(super) struct Meter<'a> {
    tool: &'a Tool,
    throughput: Throughput,
    /// The number of bytes to be read from the source in total.
    to_read: u64,
    form: Form,
}

enum Form {
    None,
    Bar(Option<ProgressBar>),
    Lines { next: Duration },
}

impl<'a> Meter<'a> {
    pub(super) fn new(tool: &'a Tool, quiet: bool, to_read: u64) -> Self {
        let form = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Form::None,
            (false, true) => Form::Bar(None),
            (false, false) => Form::Lines { next: PERIOD },
        };
        Self { tool, throughput: Throughput::default(), to_read, form }
    }

    /// Shows the progress at the time `now`, if it is due.
    pub(super) fn show(&mut self, now: Duration, progress: &HydrationProgress) {
        self.throughput.note(now, progress.fetched_bytes);
        let speed = self.speed();
        let (part, whole) = (progress.hydrated, progress.regions);
        match &mut self.form {
            Form::Bar(bar) if now >= PATIENCE => {
                let bar = bar.get_or_insert_with(|| new_bar(whole));
                bar.set_prefix(speed);
                bar.set_position(part);
            }
            Form::Lines { next } if now >= *next => {
                *next = now + PERIOD;
                let share = Share { part, whole };
                let comma = if speed.is_empty() { "" } else { ", " };
                self.tool.say(format_args!("{share} hydrated{comma}{speed}"));
            }
            _ => {}
        }
    }

    fn speed(&self) -> String {
        let rate = self.throughput.rate().map(|rate| format!("{}/s", size(rate)));
        let left = self.throughput.left(self.to_read).map(|left| left.to_string());
        let parts: Vec<String> = rate.into_iter().chain(left).collect();
        parts.join(", ")
    }

    /// Clears the bar.
    pub(super) fn finish(self) {
        if let Form::Bar(Some(bar)) = self.form {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(regions: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(regions), ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %  {prefix}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style).with_message("hydrating")
}

/// Formats bytes for people, rounded down to whole sectors.
pub(super) fn size(bytes: u64) -> Human {
    human(Sectors(bytes / SECTOR_SIZE))
}
