//! Where things are in a picture of pixels, and their colours.

use super::grid::{Cell, Grid, Shade};
use super::picture::Picture;

/// Cells in a row at most.
pub const COLUMNS_MAX: usize = 128;

/// Rows at most.
pub const ROWS_MAX: usize = 64;

/// Pixels of the longest row, about.
const WIDTH: usize = 1024;

/// Pixels that a cell is high and wide, at least and at most.
const CELL: std::ops::RangeInclusive<usize> = 8..=32;

/// Pixels around it all.
const MARGIN: usize = 24;

/// Pixels for what a row begins at, to the left of the cells.
const GUTTER: usize = 120;

/// Pixels from one line of text to the next.
pub const LINE: usize = 26;

/// Pixels that a sample in the legend is high and wide.
pub const SAMPLE: usize = 18;

/// Pixels for a sample and its name.
const LEGEND_ENTRY: usize = 100;

/// A colour: red, green, blue.
pub type Rgb = [u8; 3];

/// What there is nothing on.
pub const PAPER: Rgb = [255, 255, 255];

/// Text.
pub const INK: Rgb = [38, 50, 56];

/// The mark across what is lost.
pub const MARK: Rgb = [255, 255, 255];

/// The lines between cells, and how much of what is below them they cover, of 255.
pub const LINES: (Rgb, u8) = ([255, 255, 255], 70);

/// The colour of a shade. They are told apart by those who do not see red and green as well:
/// what is partly hydrated is yellow to orange, between a light grey and a dark blue-green.
pub fn color(shade: Shade) -> Rgb {
    match shade {
        Shade::Empty => [221, 226, 230],
        Shade::Few => [255, 213, 79],
        Shade::Half => [255, 167, 38],
        Shade::Most => [230, 104, 0],
        Shade::Full => [0, 105, 98],
        Shade::Lost => [200, 0, 55],
    }
}

/// A line of text, with its left end and its baseline.
#[derive(Clone, Debug)]
pub struct Label {
    /// From the left: where it begins, or where it ends if it is a row's.
    pub x: usize,
    /// From the top, where its letters stand.
    pub y: usize,
    /// What it says.
    pub text: String,
}

/// Where everything is, in pixels from the upper left corner.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Of the whole.
    pub width: usize,
    /// Of the whole.
    pub height: usize,
    /// How high and wide a cell is.
    pub cell: usize,
    /// Where the first cell is.
    pub origin: (usize, usize),
    /// What stands above the cells.
    pub head: Vec<Label>,
    /// What the rows begin at. These end where they are.
    pub rows: Vec<Label>,
    /// The samples of the shades.
    pub legend: Vec<(Shade, Label)>,
    /// What stands below the cells.
    pub foot: Label,
}

impl Layout {
    /// Where everything is in `picture`.
    pub fn of(picture: &Picture<'_>) -> Self {
        let grid = &picture.grid;
        let cell = (WIDTH / grid.columns()).clamp(*CELL.start(), *CELL.end());
        let head: Vec<Label> = head(picture)
            .into_iter()
            .enumerate()
            .map(|(line, text)| Label { x: MARGIN, y: MARGIN + LINE * line + LINE / 2, text })
            .collect();
        let origin = (MARGIN + GUTTER, MARGIN + LINE * head.len() + LINE / 2);
        let bottom = origin.1 + cell * grid.nr_rows();
        let legend_y = bottom + LINE + LINE / 2;
        let legend = (Shade::ALL.into_iter().enumerate())
            .map(|(index, shade)| {
                let x = origin.0 + LEGEND_ENTRY * index;
                (shade, Label { x, y: legend_y, text: shade.name().to_owned() })
            })
            .collect();
        let foot = Label { x: origin.0, y: legend_y + LINE + 4, text: picture.scale() };
        let rows = row_labels(picture, origin, cell);
        let text_width = LEGEND_ENTRY * Shade::ALL.len();
        let width = origin.0 + (cell * grid.columns()).max(text_width) + MARGIN;
        Self { width, height: foot.y + MARGIN, cell, origin, head, rows, legend, foot }
    }

    /// The runs of cells that look the same: where they are, and the cells.
    pub fn runs<'a>(&self, grid: &'a Grid) -> Vec<(usize, usize, &'a [Cell])> {
        let mut runs = Vec::new();
        for (row, cells) in grid.rows().enumerate() {
            let mut column = 0;
            for run in cells.chunk_by(|a, b| a.shade() == b.shade()) {
                let (x, y) = self.origin;
                runs.push((x + self.cell * column, y + self.cell * row, run));
                column += run.len();
            }
        }
        runs
    }
}

fn head(picture: &Picture<'_>) -> Vec<String> {
    let geometry = picture.header.geometry;
    let (target, region) = (geometry.target_size(), geometry.region_size().sectors());
    let size = clone_core::size::human;
    let mut head = vec![
        format!("dm-clone hydration: {}", picture.name),
        format!("{} in regions of {}", size(target), size(region)),
        format!("hydrated: {}", picture.share(picture.total.hydrated)),
    ];
    head.extend(picture.lost().map(|lost| format!("lost: {lost}")));
    head
}

/// Labels of rows that leave each other room.
fn row_labels(picture: &Picture<'_>, origin: (usize, usize), cell: usize) -> Vec<Label> {
    let step = (LINE + 6).div_ceil(cell).next_power_of_two();
    (picture.grid.rows().enumerate().step_by(step))
        .map(|(row, cells)| Label {
            x: origin.0 - 12,
            y: origin.1 + cell * row + cell.min(LINE) / 2 + 6,
            text: picture.offset(cells),
        })
        .collect()
}
