//! Shows the progress of a hydration.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clone_core::driver::HydrationProgress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::common::exit::Tool;
use crate::common::throughput::Throughput;
use crate::common::units::{Share, human_rate};
use crate::progress_bar::PROGRESS_DELAY;

/// The interval between lines if stderr is not a terminal.
const PERIOD: Duration = Duration::from_secs(10);

/// A progress bar on a terminal; otherwise a line on stderr at intervals.
pub(super) struct Meter<'a> {
    tool: &'a Tool,
    throughput: Throughput,
    /// The number of bytes to be read from the source in total.
    to_read: u64,
    display: Display,
}

enum Display {
    None,
    Bar(Option<ProgressBar>),
    Lines { next: Duration },
}

impl<'a> Meter<'a> {
    pub(super) fn new(tool: &'a Tool, quiet: bool, to_read: u64) -> Self {
        let display = match (quiet, io::stderr().is_terminal()) {
            (true, _) => Display::None,
            (false, true) => Display::Bar(None),
            (false, false) => Display::Lines { next: PERIOD },
        };
        Self { tool, throughput: Throughput::default(), to_read, display }
    }

    /// Shows the progress at the time `now`, if it is due.
    pub(super) fn show(&mut self, now: Duration, progress: &HydrationProgress) {
        self.throughput.note(now, progress.fetched_bytes);
        let speed = self.speed();
        let (part, whole) = (progress.hydrated, progress.regions);
        match &mut self.display {
            Display::Bar(bar) if now >= PROGRESS_DELAY => {
                let bar = bar.get_or_insert_with(|| new_bar(whole));
                bar.set_prefix(speed);
                bar.set_position(part);
            }
            Display::Lines { next } if now >= *next => {
                *next = now + PERIOD;
                let share = Share { part, whole };
                let comma = if speed.is_empty() { "" } else { ", " };
                self.tool.say(format_args!("{share} hydrated{comma}{speed}"));
            }
            _ => {}
        }
    }

    fn speed(&self) -> String {
        let rate = self.throughput.rate().map(human_rate);
        let left = self.throughput.left(self.to_read).map(|left| left.to_string());
        let parts: Vec<String> = rate.into_iter().chain(left).collect();
        parts.join(", ")
    }

    /// Clears the bar.
    pub(super) fn finish(self) {
        if let Display::Bar(Some(bar)) = self.display {
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
