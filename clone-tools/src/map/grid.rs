//! Regions summed up in cells.

use clone_core::geometry::RegionRange;
use clone_core::metadata::region_map::{RegionMap, Tally};

/// What a cell looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shade {
    /// No region is hydrated.
    Empty,
    /// At least one, and less than a third of them.
    Few,
    /// A third to two thirds.
    Half,
    /// More than two thirds, and not all.
    Most,
    /// All of them.
    Full,
    /// The state of at least one cannot be read.
    Lost,
}

impl Shade {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Empty, Self::Few, Self::Half, Self::Most, Self::Full, Self::Lost];

    /// What the legend calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "none",
            Self::Few => "some",
            Self::Half => "half",
            Self::Most => "most",
            Self::Full => "all",
            Self::Lost => "lost",
        }
    }
}

/// Some neighbouring regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Which ones.
    pub regions: RegionRange,
    /// How many of them are in which state.
    pub tally: Tally,
}

impl Cell {
    /// How many regions it has.
    pub fn len(&self) -> u64 {
        self.regions.end - self.regions.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// How it looks.
    pub fn shade(&self) -> Shade {
        let (len, hydrated) = (self.len(), self.tally.hydrated);
        if self.tally.lost > 0 {
            Shade::Lost
        } else if hydrated == 0 {
            Shade::Empty
        } else if hydrated == len {
            Shade::Full
        } else if hydrated * 3 < len {
            Shade::Few
        } else if hydrated * 3 <= len * 2 {
            Shade::Half
        } else {
            Shade::Most
        }
    }
}

/// All regions of a clone, in rows of cells of the same number of regions.
#[derive(Clone, Debug)]
pub struct Grid {
    per_cell: u64,
    columns: usize,
    cells: Vec<Cell>,
}

impl Grid {
    /// Rows that are as long as they may be.
    ///
    /// # Panics
    /// If there may not be a single cell.
    pub fn in_rows(regions: &RegionMap, columns_max: usize, rows_max: usize) -> Self {
        let per_cell = regions_per_cell(regions.nr_regions(), columns_max * rows_max);
        let nr_cells = regions.nr_regions().div_ceil(per_cell);
        let columns = usize::try_from(nr_cells).map_or(columns_max, |cells| cells.min(columns_max));
        Self::new(regions, per_cell, columns)
    }

    /// Rows so long that it is about twice as wide as high.
    ///
    /// # Panics
    /// If there may not be a single cell.
    pub fn wide(regions: &RegionMap, columns_max: usize, rows_max: usize) -> Self {
        let per_cell = regions_per_cell(regions.nr_regions(), columns_max * rows_max);
        let nr_cells = regions.nr_regions().div_ceil(per_cell);
        let square = (2 * nr_cells).isqrt().next_power_of_two();
        // The fewest rows, for few regions are better seen side by side.
        let columns = if nr_cells <= 32 { nr_cells } else { square };
        let columns = usize::try_from(columns).map_or(columns_max, |wide| wide.min(columns_max));
        Self::new(regions, per_cell, columns)
    }

    fn new(regions: &RegionMap, per_cell: u64, columns: usize) -> Self {
        let nr_regions = regions.nr_regions();
        let cell = |first: u64| {
            let regions_of_cell = first..(first + per_cell).min(nr_regions);
            Cell { tally: regions.tally(regions_of_cell.clone()), regions: regions_of_cell }
        };
        let cells =
            (0..nr_regions.div_ceil(per_cell)).map(|index| cell(index * per_cell)).collect();
        Self { per_cell, columns, cells }
    }

    /// Regions in each cell but the last.
    pub fn per_cell(&self) -> u64 {
        self.per_cell
    }

    /// Cells in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows, the last of which may be short.
    pub fn nr_rows(&self) -> usize {
        self.cells.len().div_ceil(self.columns)
    }

    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = &[Cell]> {
        self.cells.chunks(self.columns)
    }

    /// How many regions are in which state in all cells.
    pub fn total(&self) -> Tally {
        let add = |sum: Tally, cell: &Cell| Tally {
            hydrated: sum.hydrated + cell.tally.hydrated,
            lost: sum.lost + cell.tally.lost,
        };
        self.cells.iter().fold(Tally::default(), add)
    }
}

/// The least power of two with which there are no more than `cells_max` cells. With another number
/// cells and rows would begin at sizes that nobody can read.
fn regions_per_cell(nr_regions: u64, cells_max: usize) -> u64 {
    nr_regions.div_ceil(cells_max as u64).next_power_of_two()
}
