//! The positions and colours in a picture of pixels, shared by SVG and PNG.

use super::grid::{Cell, Grid, Shade};
use super::picture::Picture;

/// The maximum number of cells in a row.
pub const COLUMNS_MAX: usize = 128;

/// The maximum number of rows.
pub const ROWS_MAX: usize = 64;

/// The approximate width of the longest row in pixels.
const WIDTH: usize = 1024;

/// The minimum and maximum size of a cell in pixels.
const CELL: std::ops::RangeInclusive<usize> = 8..=32;

/// The margin of the picture in pixels.
const MARGIN: usize = 24;

/// The width of the row labels, to the left of the cells, in pixels.
const GUTTER: usize = 120;

/// The distance between two lines of text in pixels.
pub const LINE: usize = 26;

/// The size of a sample in the legend in pixels.
pub const SAMPLE: usize = 18;

/// The width of a sample with its name in pixels.
const LEGEND_ENTRY: usize = 100;

/// A colour: red, green, blue.
pub type Rgb = [u8; 3];

/// The background.
pub const PAPER: Rgb = [255, 255, 255];

/// The colour of text.
pub const INK: Rgb = [38, 50, 56];

/// The colour of the mark across lost cells.
pub const MARK: Rgb = [255, 255, 255];

/// The colour of the lines between cells, and their opacity of 255.
pub const LINES: (Rgb, u8) = ([255, 255, 255], 70);

/// Returns the colour of a shade. The colours can be distinguished without seeing red and green:
/// partly hydrated cells are yellow to orange, between light grey and dark blue-green.
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

/// A line of text with its position.
#[derive(Clone, Debug)]
pub struct Label {
    /// The left end, or for row labels the right end, in pixels from the left.
    pub x: usize,
    /// The baseline, in pixels from the top.
    pub y: usize,
    /// The text.
    pub text: String,
}

/// The positions of all parts, in pixels from the upper left corner.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The width of the picture.
    pub width: usize,
    /// The height of the picture.
    pub height: usize,
    /// The height and width of a cell.
    pub cell: usize,
    /// The position of the first cell.
    pub origin: (usize, usize),
    /// The lines above the cells.
    pub head: Vec<Label>,
    /// The row labels: the offsets at which the rows begin. They are right-aligned.
    pub rows: Vec<Label>,
    /// The samples of the shades, with their names.
    pub legend: Vec<(Shade, Label)>,
    /// The line below the cells.
    pub foot: Label,
}

impl Layout {
    /// Computes the layout of `picture`.
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

    /// Returns the runs of cells with the same shade: position and cells.
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

/// Returns labels for as many rows as have room for them.
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
