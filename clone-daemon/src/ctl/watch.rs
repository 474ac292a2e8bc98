//! `clonectl watch`: shows the hydration of a clone, on a full screen or line by line.

use std::io::IsTerminal;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clone_tools::common::output;
use clone_tools::common::terminal::is_utf8;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use self::rates::{Meter, Rates};
use self::screen::{Look, Shown};
use super::connection::Connection;
use super::show::{plain, state};
use crate::control::protocol::{CELLS_MAX, Item, Snapshot, Verb};

pub mod rates;
pub mod screen;

/// The interval at which the keyboard is polled.
const KEY_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Shows the clone `name` and refreshes every `interval` seconds.
///
/// # Errors
/// The daemon refuses or is gone, the terminal cannot be used, or the clone fails while lines are
/// printed.
pub(super) fn run(daemon: &Connection, name: &str, interval: f64) -> Result<()> {
    let interval = Duration::from_secs_f64(interval);
    // A missing clone is reported before the screen is cleared.
    let first = snapshot(daemon, name, 1)?;
    if !std::io::stdout().is_terminal() {
        return print(daemon, first, interval);
    }
    let mut terminal = ratatui::try_init().context("cannot draw on the terminal")?;
    let watched = watch(&mut terminal, daemon, first, interval);
    ratatui::restore();
    watched
}

fn snapshot(daemon: &Connection, name: &str, cells: u32) -> Result<Snapshot> {
    daemon.ask_one(Verb::Snapshot { name: name.to_owned(), cells }, |item| match item {
        Item::Snapshot(snapshot) => Some(*snapshot),
        _ => None,
    })
}

fn watch(
    terminal: &mut DefaultTerminal,
    daemon: &Connection,
    first: Snapshot,
    interval: Duration,
) -> Result<()> {
    let name = first.clone.name.clone();
    let variable = |name| std::env::var(name).unwrap_or_default();
    let look = Look {
        color: variable("NO_COLOR").is_empty(),
        unicode: is_utf8(["LC_ALL", "LC_CTYPE", "LANG"].map(variable)),
    };
    let mut meter = Meter::default();
    loop {
        let size = terminal.size().context("cannot get the size of the terminal")?;
        let cells = screen::cells(size.into()).min(CELLS_MAX);
        let snapshot = snapshot(daemon, &name, cells)?;
        let rates = meter.note(&snapshot);
        let shown = Shown { snapshot: &snapshot, rates: &rates, look };
        terminal
            .draw(|frame| shown.draw(frame.area(), frame.buffer_mut()))
            .context("cannot draw on the terminal")?;
        if wait(interval).context("cannot read the terminal")? == NextStep::Quit {
            return Ok(());
        }
    }
}

#[derive(PartialEq, Eq)]
enum NextStep {
    Quit,
    Refresh,
}

/// Waits for a key that quits, for the end of `interval`, or for a resize of the terminal.
fn wait(interval: Duration) -> std::io::Result<NextStep> {
    let until = Instant::now() + interval;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if !event::poll(left.min(KEY_POLL_INTERVAL))? {
            if left.is_zero() {
                return Ok(NextStep::Refresh);
            }
            continue;
        }
        match event::read()? {
            Event::Resize(..) => return Ok(NextStep::Refresh),
            Event::Key(key) if key.kind == KeyEventKind::Press => {
                let control_c =
                    key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
                if control_c || matches!(key.code, KeyCode::Char('q' | 'Q') | KeyCode::Esc) {
                    return Ok(NextStep::Quit);
                }
            }
            _ => {}
        }
    }
}

/// Prints a line per interval, until the clone is complete.
fn print(daemon: &Connection, first: Snapshot, interval: Duration) -> Result<()> {
    let mut meter = Meter::default();
    let mut snapshot = first;
    loop {
        let rates = meter.note(&snapshot);
        output::write_to(None, |to| writeln!(to, "{}", line(&snapshot, &rates)))?;
        if snapshot.clone.state != "running" {
            bail!("the clone has failed; see clonectl events {}", snapshot.clone.name);
        }
        if snapshot.clone.complete {
            return Ok(());
        }
        thread::sleep(interval);
        snapshot = self::snapshot(daemon, &snapshot.clone.name, 1)?;
    }
}

fn line(snapshot: &Snapshot, rates: &Rates) -> String {
    let clone = &snapshot.clone;
    let mut parts = vec![
        format!("{} {} hydrated", plain(&clone.name), screen::share(clone)),
        format!("{} of {} regions", clone.hydrated_regions, clone.regions),
        state(clone).to_owned(),
    ];
    parts.extend(rates.speed());
    parts.join(", ")
}

#[cfg(test)]
mod tests;
