//! A simulated, read-only source.

use rand::RngExt;
use rand::rngs::StdRng;

use super::unit::{Cells, Tag, ZERO, of_source, overlap};

/// A range of cells that cannot be read.
#[derive(Clone, Debug)]
struct BadSpot {
    cells: Cells,
    /// Number of reads that still fail; `u32::MAX` for ever.
    times: u32,
}

/// The simulated source device.
#[derive(Debug)]
pub(super) struct Source {
    cells: Vec<Tag>,
    bad: Vec<BadSpot>,
    slow: Option<Cells>,
    /// True if the source reports its zero ranges.
    knows_zeroes: bool,
}

impl Source {
    /// Creates a source of `len` cells. `holes` is the chance that a stretch is zero.
    pub(super) fn new(len: usize, region: usize, holes: f64, rng: &mut StdRng) -> Self {
        let mut cells: Vec<Tag> = (0..len).map(of_source).collect();
        let mut at = 0;
        while at < len {
            let stretch = rng.random_range(1..=3 * region);
            let end = len.min(at + stretch);
            if rng.random_bool(holes) {
                let whole = rng.random_bool(0.7);
                let (at, end) = if whole {
                    (at / region * region, end.next_multiple_of(region))
                } else {
                    (at, end)
                };
                cells[at..len.min(end)].fill(ZERO);
            }
            at = end;
        }
        let knows_zeroes = holes > 0.0 && rng.random_bool(0.8);
        Self { cells, bad: Vec::new(), slow: None, knows_zeroes }
    }

    /// Returns all cells.
    pub(super) fn all(&self) -> &[Tag] {
        &self.cells
    }

    /// Makes the next `times` reads of some cells fail.
    pub(super) fn spoil(&mut self, cells: Cells, times: u32) {
        self.bad.push(BadSpot { cells, times });
    }

    /// Makes reads of some cells slow.
    pub(super) fn slow_down(&mut self, cells: Cells) {
        self.slow = Some(cells);
    }

    /// Makes all cells readable.
    pub(super) fn heal(&mut self) {
        self.bad.clear();
    }

    /// Returns whether reads of `cells` are slow.
    pub(super) fn is_slow(&self, cells: &Cells) -> bool {
        self.slow.as_ref().is_some_and(|slow| overlap(slow, cells))
    }

    /// Returns the bad spot that makes a read of `cells` fail now, if there is one.
    pub(super) fn failure(&mut self, cells: &Cells) -> Option<Cells> {
        let spot =
            self.bad.iter_mut().find(|spot| spot.times > 0 && overlap(&spot.cells, cells))?;
        spot.times = if spot.times == u32::MAX { u32::MAX } else { spot.times - 1 };
        Some(spot.cells.clone())
    }

    /// Returns the end of the zero range that covers all of `cells`, if the source reports one.
    pub(super) fn zeroes_from(&self, cells: &Cells) -> Option<usize> {
        if !self.knows_zeroes || self.cells[cells.start] != ZERO {
            return None;
        }
        let len = self.cells[cells.start..].iter().position(|&cell| cell != ZERO);
        let end = len.map_or(self.cells.len(), |len| cells.start + len);
        (end >= cells.end).then_some(end)
    }
}
