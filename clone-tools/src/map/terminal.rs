//! Draws the picture in characters.

use std::io::{self, Write};

use super::grid::Shade;
use super::picture::Picture;
use crate::formats::text::write_sizes;

/// The width of a row label in characters: `1023.9 MiB`.
const LABEL: usize = 10;

/// Rows have a multiple of this number of cells, if there is room.
const STEP: usize = 8;

/// The capabilities of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// The width in characters.
    pub width: usize,
    /// True if the terminal shows colours.
    pub color: bool,
    /// True if the terminal shows Unicode characters.
    pub unicode: bool,
}

impl Style {
    /// Returns the maximum number of cells in a row.
    pub fn columns(&self) -> usize {
        let room = self.width.saturating_sub(LABEL + 1).max(1);
        if room < STEP { room } else { room / STEP * STEP }
    }

    fn character(&self, shade: Shade) -> char {
        let [empty, few, half, most, full, lost] = if self.unicode {
            ['·', '░', '▒', '▓', '█', 'X']
        } else {
            ['.', '-', '=', '+', '#', '!']
        };
        match shade {
            Shade::Empty => empty,
            Shade::Few => few,
            Shade::Half => half,
            Shade::Most => most,
            Shade::Full => full,
            Shade::Lost => lost,
        }
    }

    /// Returns cells of one shade as text.
    fn cells(&self, shade: Shade, count: usize) -> String {
        let cells = self.character(shade).to_string().repeat(count);
        if self.color { format!("\x1b[{}m{cells}\x1b[0m", color(shade)) } else { cells }
    }
}

/// Returns the ANSI code of a shade's colour. Partly hydrated cells differ clearly from both
/// hydrated and unhydrated ones.
fn color(shade: Shade) -> &'static str {
    match shade {
        Shade::Empty => "90",
        Shade::Few | Shade::Half | Shade::Most => "33",
        Shade::Full => "32",
        Shade::Lost => "1;97;41",
    }
}

/// Draws `picture`. Its rows must fit the terminal.
///
/// # Errors
/// The errors of `to`.
pub fn draw(to: &mut dyn Write, picture: &Picture<'_>, style: &Style) -> io::Result<()> {
    write_sizes(to, &picture.header)?;
    writeln!(to, "hydrated:     {}", picture.share(picture.total.hydrated))?;
    if let Some(lost) = picture.lost() {
        writeln!(to, "lost:         {lost}")?;
    }
    writeln!(to)?;
    for row in picture.grid.rows() {
        write!(to, "{:>LABEL$} ", picture.offset(row))?;
        for run in row.chunk_by(|a, b| a.shade() == b.shade()) {
            write!(to, "{}", style.cells(run[0].shade(), run.len()))?;
        }
        writeln!(to)?;
    }
    writeln!(to)?;
    write_legend(to, style)?;
    writeln!(to, "{}", picture.scale())
}

/// Writes all shades with their names, in as many lines as they need.
fn write_legend(to: &mut dyn Write, style: &Style) -> io::Result<()> {
    let mut at = 0;
    for shade in Shade::ALL {
        let len = 2 + shade.name().len();
        let gap = if at == 0 { 0 } else { 2 };
        if at + gap + len > style.width {
            writeln!(to)?;
            at = 0;
        }
        let gap = if at == 0 { 0 } else { gap };
        write!(to, "{:gap$}{} {}", "", style.cells(shade, 1), shade.name())?;
        at += gap + len;
    }
    writeln!(to)
}
