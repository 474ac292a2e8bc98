//! The data that all pictures show.

use clone_core::geometry::Sectors;
use clone_core::metadata::ir::Header;
use clone_core::metadata::region_map::Tally;
use clone_core::size::human;

use super::grid::{Cell, Grid};
use crate::common::units::{Counted, Share};

/// A grid with its description.
#[derive(Clone, Debug)]
pub struct Picture<'a> {
    /// The user's name for the metadata.
    pub name: &'a str,
    /// The sizes of the clone.
    pub header: Header,
    /// The cells.
    pub grid: Grid,
    /// The sum over all cells.
    pub total: Tally,
}

impl<'a> Picture<'a> {
    /// Creates a picture of the metadata with this name.
    pub fn new(name: &'a str, header: Header, grid: Grid) -> Self {
        let total = grid.total();
        Self { name, header, grid, total }
    }

    /// Formats a number of regions with its share: `12 of 15626 regions (0.07 %)`.
    pub fn share(&self, part: u64) -> String {
        let whole = self.header.geometry.nr_regions();
        format!("{part} of {whole} regions ({})", Share { part, whole })
    }

    /// Returns the number of lost regions as text, if there are any.
    pub fn lost(&self) -> Option<String> {
        (self.total.lost > 0).then(|| self.share(self.total.lost))
    }

    /// Describes the size of a cell.
    pub fn scale(&self) -> String {
        let per_cell = self.grid.per_cell();
        let size = self.header.geometry.region_size().sectors().0 * per_cell;
        format!("a cell: {} ({})", Counted(per_cell, "region"), human(Sectors(size)))
    }

    /// Returns the offset at which a row begins on the clone, as text.
    pub fn offset(&self, row: &[Cell]) -> String {
        let first = row.first().map_or(0, |cell| cell.regions.start);
        human(self.header.geometry.sectors_of(first..first).start).to_string()
    }
}
