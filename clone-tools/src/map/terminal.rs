//! The picture in characters.

use std::io::{self, Write};

use super::grid::Shade;
use super::picture::Picture;
use crate::formats::text::write_sizes;

/// Characters for what a row begins at: `1023.9 MiB`.
const LABEL: usize = 10;

/// Rows are a multiple of so many cells long, where there is room.
const STEP: usize = 8;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// In characters.
    pub width: usize,
    /// Whether it has colours.
    pub color: bool,
    /// Whether it has more than ASCII.
    pub unicode: bool,
}

impl Style {
    /// Cells that a row may have.
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

    /// Cells of one shade.
    fn cells(&self, shade: Shade, count: usize) -> String {
        let cells = self.character(shade).to_string().repeat(count);
        if self.color { format!("\x1b[{}m{cells}\x1b[0m", color(shade)) } else { cells }
    }
}

/// The colour of a shade, as terminals number them. What is partly hydrated stands out both from
/// what is and from what is not.
fn color(shade: Shade) -> &'static str {
    match shade {
        Shade::Empty => "90",
        Shade::Few | Shade::Half | Shade::Most => "33",
        Shade::Full => "32",
        Shade::Lost => "1;97;41",
    }
}

/// Draws `picture`, whose rows have to fit.
///
/// # Errors
/// Whatever `to` says.
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

/// All shades, in as many lines as it takes.
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
