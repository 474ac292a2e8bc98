//! `clone_map`: draws a map of the hydrated regions.
//!
//! A [`Grid`] of cells is computed from the bitset. The [`terminal`], [`svg`] and [`png`] modules
//! each draw a [`Picture`] of it and know nothing of metadata.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Result, bail};

use self::args::{Color, MapArgs};
use self::grid::Grid;
use self::picture::Picture;
use self::terminal::Style;
use crate::common::exit::{Exit, Tool, usage_error};
use crate::common::metadata_input::read_metadata;
use crate::common::output::{self, is_stdout, refuse_terminal};
use crate::common::paths::check_distinct;
use crate::common::reporter::{Reporter, Verbosity};
use crate::common::terminal::is_utf8;

pub mod args;
pub mod canvas;
pub mod grid;
pub mod layout;
pub mod picture;
pub mod png;
pub mod svg;
pub mod terminal;

/// The columns and lines that are assumed if stdout is not a terminal.
const TERMINAL: (usize, usize) = (80, 42);

/// The lines of a terminal above and below the map, including the prompt.
const LINES_BESIDE_MAP: usize = 10;

/// Runs `clone_map`.
///
/// # Errors
/// The metadata cannot be opened, its sizes are unknown, or a picture cannot be written. Other
/// damage is not an error: the map shows what can be read, and the exit code is 1.
pub fn run(tool: &Tool, args: &MapArgs) -> Result<Exit> {
    let files = [&args.svg, &args.png].map(Option::as_deref);
    let nr_to_stdout = files.iter().flatten().filter(|file| is_stdout(file)).count();
    if nr_to_stdout > 1 {
        return Err(usage_error::<MapArgs>("only one picture can go to stdout"));
    }
    for file in files.into_iter().flatten().filter(|file| !is_stdout(file)) {
        check_distinct(&args.input, file)?;
    }
    args.png.as_deref().map_or(Ok(()), refuse_terminal)?;

    let verbosity = Verbosity::of(args.quiet, args.verbose);
    let reporter = Reporter { tool, input: &args.input, verbosity, silent: false };
    let report = reporter.with_bar("reading", |bar| read_metadata(&args.input, args.live, bar))?;
    reporter.report_damage(&report.damage, "map");
    let fatal = report.is_fatal();
    let input = args.input.display().to_string();
    let (Some(header), Some(regions)) = (report.header(), report.regions) else {
        bail!(
            "{input} has no readable superblock, so its sizes and its bitset cannot be found: \
             there is nothing to draw"
        );
    };
    reporter.list_lost(&regions);

    if files.iter().any(Option::is_some) {
        let grid = Grid::wide(&regions, layout::COLUMNS_MAX, layout::ROWS_MAX);
        let picture = Picture::new(&input, header, grid);
        write_file(args.svg.as_deref(), || Ok(svg::draw(&picture).into_bytes()))?;
        write_file(args.png.as_deref(), || png::draw(&picture))?;
    }
    let seen = nr_to_stdout == 0 && (!reporter.is_quiet() || files.iter().all(Option::is_none));
    if seen {
        let (style, rows) = style(args);
        let grid = Grid::in_rows(&regions, style.columns(), rows);
        let picture = Picture::new(&input, header, grid);
        output::say(|to| terminal::draw(to, &picture, &style))?;
    }
    if fatal {
        reporter.say(format_args!(
            "damaged: the map shows what can be read. clone_repair -i {input} -o NEW writes whole \
             metadata with everything that can be recovered"
        ));
    }
    Ok(if fatal { Exit::Failure } else { Exit::Success })
}

fn write_file(path: Option<&Path>, draw: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let bytes = draw()?;
    output::write_to(Some(path), |to| to.write_all(&bytes))
}

/// Returns the style of the map on stdout, and its number of rows.
fn style(args: &MapArgs) -> (Style, usize) {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| terminal_size::terminal_size_of(&stdout)).flatten();
    let (width, height) = match size {
        Some((width, height)) => (usize::from(width.0), usize::from(height.0)),
        None => TERMINAL,
    };
    let variable = |name| std::env::var(name).unwrap_or_default();
    let color = match args.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            stdout.is_terminal() && variable("NO_COLOR").is_empty() && variable("TERM") != "dumb"
        }
    };
    let style = Style {
        width: args.width.map_or(width, usize::from),
        color,
        unicode: is_utf8(["LC_ALL", "LC_CTYPE", "LANG"].map(variable)),
    };
    (style, height.saturating_sub(LINES_BESIDE_MAP).clamp(8, 64))
}

#[cfg(test)]
mod tests;
