//! What all pictures show beside their cells.

use clone_core::geometry::Sectors;
use clone_core::metadata::ir::Header;
use clone_core::metadata::region_map::Tally;
use clone_core::size::human;

use super::grid::{Cell, Grid};
use crate::common::units::{Counted, Share};

/// A grid and what it is of.
#[derive(Clone, Debug)]
pub struct Picture<'a> {
    /// How the user calls the metadata.
    pub name: &'a str,
    /// The sizes of the clone.
    pub header: Header,
    /// The cells.
    pub grid: Grid,
    /// The sum of all cells.
    pub total: Tally,
}

impl<'a> Picture<'a> {
    /// A picture of metadata that is called `name`.
    pub fn new(name: &'a str, header: Header, grid: Grid) -> Self {
        let total = grid.total();
        Self { name, header, grid, total }
    }

    /// `12 of 15626 regions (0.07 %)`.
    pub fn share(&self, part: u64) -> String {
        let whole = self.header.geometry.nr_regions();
        format!("{part} of {whole} regions ({})", Share { part, whole })
    }

    /// What is lost, if anything is.
    pub fn lost(&self) -> Option<String> {
        (self.total.lost > 0).then(|| self.share(self.total.lost))
    }

    /// What a cell stands for.
    pub fn scale(&self) -> String {
        let per_cell = self.grid.per_cell();
        let size = self.header.geometry.region_size().sectors().0 * per_cell;
        format!("a cell: {} ({})", Counted(per_cell, "region"), human(Sectors(size)))
    }

    /// Where a row begins, on the clone.
    pub fn offset(&self, row: &[Cell]) -> String {
        let first = row.first().map_or(0, |cell| cell.regions.start);
        human(self.header.geometry.sectors_of(first..first).start).to_string()
    }
}
