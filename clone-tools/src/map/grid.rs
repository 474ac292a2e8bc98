//! Groups regions into the cells of a map.

use clone_core::geometry::RegionRange;
use clone_core::metadata::region_map::{RegionMap, Tally};

/// The appearance of a cell.
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
    /// All shades, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Empty, Self::Few, Self::Half, Self::Most, Self::Full, Self::Lost];

    /// Returns the name for the legend.
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

/// A range of neighbouring regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The regions.
    pub regions: RegionRange,
    /// The number of regions in each state.
    pub tally: Tally,
}

impl Cell {
    /// Returns the number of regions.
    pub fn len(&self) -> u64 {
        self.regions.end - self.regions.start
    }

    /// True if the cell has no regions.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Returns the appearance of the cell.
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

/// All regions of a clone, in rows of cells with the same number of regions each.
#[derive(Clone, Debug)]
pub struct Grid {
    per_cell: u64,
    columns: usize,
    cells: Vec<Cell>,
}

impl Grid {
    /// Creates a grid with rows as long as allowed.
    ///
    /// # Panics
    /// If `columns_max` or `rows_max` is 0.
    pub fn in_rows(regions: &RegionMap, columns_max: usize, rows_max: usize) -> Self {
        let per_cell = regions_per_cell(regions.nr_regions(), columns_max * rows_max);
        let nr_cells = regions.nr_regions().div_ceil(per_cell);
        let columns = usize::try_from(nr_cells).map_or(columns_max, |cells| cells.min(columns_max));
        Self::new(regions, per_cell, columns)
    }

    /// Creates a grid that is about twice as wide as high.
    ///
    /// # Panics
    /// If `columns_max` or `rows_max` is 0.
    pub fn wide(regions: &RegionMap, columns_max: usize, rows_max: usize) -> Self {
        let per_cell = regions_per_cell(regions.nr_regions(), columns_max * rows_max);
        let nr_cells = regions.nr_regions().div_ceil(per_cell);
        let square = (2 * nr_cells).isqrt().next_power_of_two();
        // A few regions fit into one row, where they are easier to see.
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

    /// Returns the number of regions in each cell but the last.
    pub fn per_cell(&self) -> u64 {
        self.per_cell
    }

    /// Returns the number of cells in a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the number of rows. The last one may be short.
    pub fn nr_rows(&self) -> usize {
        self.cells.len().div_ceil(self.columns)
    }

    /// Returns the rows.
    pub fn rows(&self) -> impl Iterator<Item = &[Cell]> {
        self.cells.chunks(self.columns)
    }

    /// Returns the number of regions in each state, over all cells.
    pub fn total(&self) -> Tally {
        let add = |sum: Tally, cell: &Cell| Tally {
            hydrated: sum.hydrated + cell.tally.hydrated,
            lost: sum.lost + cell.tally.lost,
        };
        self.cells.iter().fold(Tally::default(), add)
    }
}

/// Returns the smallest power of two that makes no more than `cells_max` cells. With other numbers,
/// cells and rows would begin at sizes that are hard to read.
fn regions_per_cell(nr_regions: u64, cells_max: usize) -> u64 {
    nr_regions.div_ceil(cells_max as u64).next_power_of_two()
}
