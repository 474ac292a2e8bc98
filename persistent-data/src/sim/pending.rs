//! Writes that are not flushed, and the choice of the sectors that survive a crash.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::image::{Image, SECTOR_SIZE, SECTORS_PER_BLOCK, Sector};
use crate::block::RawBlock;
use crate::number::BlockNr;

/// The sectors of one write.
#[derive(Clone, Debug)]
pub(super) struct PendingWrite {
    /// Sector numbers, counted from the start of the disk, and their content.
    sectors: Vec<(u64, Sector)>,
}

impl PendingWrite {
    pub(super) fn new(first: BlockNr, from: &[RawBlock]) -> Self {
        let sectors = from.iter().flat_map(|block| block.bytes().as_chunks::<SECTOR_SIZE>().0);
        Self { sectors: (first.0 * SECTORS_PER_BLOCK as u64..).zip(sectors.copied()).collect() }
    }

    /// Returns a subset of the sectors, as a failed write may leave them. `None` if it is empty.
    pub(super) fn torn(self, seed: u64) -> Option<Self> {
        let survives = draw(&[self.sectors.len()], &mut StdRng::seed_from_u64(seed));
        let kept = self.sectors.into_iter().zip(survives);
        let sectors: Vec<_> = kept.filter_map(|(sector, kept)| kept.then_some(sector)).collect();
        (!sectors.is_empty()).then_some(Self { sectors })
    }

    pub(super) fn apply(&self, image: &mut Image) {
        for (sector, content) in &self.sectors {
            image.write_sector(*sector, content);
        }
    }
}

/// Stores a subset of `pending`, drawn from `rng`, in `image`.
pub(super) fn apply_some(pending: &[PendingWrite], image: &mut Image, rng: &mut impl Rng) {
    let lens: Vec<usize> = pending.iter().map(|write| write.sectors.len()).collect();
    let sectors = pending.iter().flat_map(|write| &write.sectors);
    for ((sector, content), survives) in sectors.zip(draw(&lens, rng)) {
        if survives {
            image.write_sector(*sector, content);
        }
    }
}

/// Chooses for each sector of writes with `lens` sectors whether it survives.
///
/// A coin toss per sector can give every subset. But with many sectors it almost never gives the
/// extreme subsets that reveal bugs: all but one, or only the last write. So the method of drawing
/// is itself drawn.
fn draw(lens: &[usize], rng: &mut impl Rng) -> Vec<bool> {
    let nr_sectors: usize = lens.iter().sum();
    if nr_sectors == 0 {
        return Vec::new();
    }
    let sectors = |survives: &dyn Fn(usize) -> bool| (0..nr_sectors).map(survives).collect();
    let writes = |survives: &mut dyn FnMut(usize) -> bool| {
        let writes = lens.iter().enumerate();
        writes.flat_map(|(write, &len)| vec![survives(write); len]).collect()
    };
    let write = rng.random_range(0..lens.len());
    let sector = rng.random_range(0..nr_sectors);
    match rng.random_range(0..12) {
        0 => sectors(&|_| false),
        1 => sectors(&|_| true),
        2 => sectors(&|at| at == sector),
        3 => sectors(&|at| at != sector),
        4 => sectors(&|at| at <= sector),
        5 => writes(&mut |at| at == write),
        6 => writes(&mut |at| at != write),
        7 => writes(&mut |at| at <= write),
        8 => writes(&mut |at| at >= write),
        9 => writes(&mut |_| rng.random_bool(0.5)),
        10 => (0..nr_sectors).map(|_| rng.random_bool(0.5)).collect(),
        _ => {
            let chance: f64 = rng.random();
            (0..nr_sectors).map(|_| rng.random_bool(chance)).collect()
        }
    }
}
