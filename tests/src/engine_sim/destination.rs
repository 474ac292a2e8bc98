//! A simulated destination, with a volatile cache.

use rand::RngExt;
use rand::rngs::StdRng;

use super::unit::{Cells, SECTOR, Tag, garbage, overlap};

/// Limit on writes in the cache. Beyond it the device stores the older half by itself.
const CACHE_MAX: usize = 512;

/// Identifies a write from its start on.
pub(super) type WriteNr = u32;

/// A moment, counted in ends of writes and starts of flushes.
pub(super) type FlushStart = u32;

const NEVER: u32 = u32::MAX;

/// Content of a write.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// The same tag in all cells.
    Same(Tag),
    /// One tag per cell.
    Each(Vec<Tag>),
}

impl Content {
    fn at(&self, index: usize) -> Tag {
        match self {
            Self::Same(tag) => *tag,
            Self::Each(tags) => tags[index],
        }
    }
}

/// A write, or a part of one, that has landed in the cache.
#[derive(Debug)]
struct Pending {
    /// Increases with the order of landing.
    version: u32,
    write: WriteNr,
    cells: Cells,
    content: Content,
}

/// The simulated destination device.
#[derive(Debug)]
pub(super) struct Destination {
    /// Content that reads return.
    live: Vec<Tag>,
    /// Content of the medium.
    durable: Vec<Tag>,
    /// Version of each cell on the medium.
    stored: Vec<u32>,
    /// Writes in the cache that are not on the medium, oldest first.
    pending: Vec<Pending>,
    version: u32,
    moment: FlushStart,
    /// The moment at which each write ended.
    ended: Vec<FlushStart>,
    /// Cells from this index on do not belong to the clone.
    clone: usize,
}

impl Destination {
    /// Creates a device of `len` cells. The first `clone` cells belong to the clone.
    pub(super) fn new(len: usize, clone: usize) -> Self {
        let live: Vec<Tag> = (0..len).map(garbage).collect();
        Self {
            durable: live.clone(),
            live,
            stored: vec![0; len],
            pending: Vec::new(),
            version: 0,
            moment: 0,
            ended: Vec::new(),
            clone,
        }
    }

    /// Returns the number of cells.
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Returns the content that reads see.
    pub(super) fn live(&self) -> &[Tag] {
        &self.live
    }

    /// Starts a write.
    pub(super) fn begin(&mut self) -> WriteNr {
        self.ended.push(NEVER);
        self.ended.len() as WriteNr - 1
    }

    /// Applies a write, or a part of it.
    pub(super) fn land(&mut self, write: WriteNr, cells: Cells, content: Content) {
        match &content {
            Content::Same(tag) => self.live[cells.clone()].fill(*tag),
            Content::Each(tags) => self.live[cells.clone()].copy_from_slice(tags),
        }
        self.version += 1;
        self.pending.push(Pending { version: self.version, write, cells, content });
        if self.pending.len() > CACHE_MAX {
            let rest = self.pending.split_off(CACHE_MAX / 2);
            for pending in std::mem::replace(&mut self.pending, rest) {
                self.store(&pending, |_| true);
            }
        }
    }

    /// Ends a write.
    pub(super) fn end(&mut self, write: WriteNr) {
        self.moment += 1;
        self.ended[write as usize] = self.moment;
    }

    /// Ends all writes, because the process that issued them is gone.
    pub(super) fn end_all(&mut self) {
        self.moment += 1;
        let ended = self.moment;
        self.ended.iter_mut().filter(|end| **end == NEVER).for_each(|end| *end = ended);
    }

    /// Starts a flush.
    pub(super) fn begin_flush(&mut self) -> FlushStart {
        self.moment += 1;
        self.moment
    }

    /// Completes a flush: writes that had ended before its start are now on the medium.
    pub(super) fn flush(&mut self, start: FlushStart) {
        let pending = std::mem::take(&mut self.pending);
        for pending in pending {
            if self.ended[pending.write as usize] < start {
                self.store(&pending, |_| true);
            } else {
                self.pending.push(pending);
            }
        }
    }

    /// Fails a flush: some sectors reach the medium, and the others are lost.
    pub(super) fn fail_flush(&mut self, rng: &mut StdRng) {
        self.store_some(rng);
    }

    /// Cuts the power.
    pub(super) fn crash(&mut self, rng: &mut StdRng) {
        self.store_some(rng);
        self.live.clone_from(&self.durable);
    }

    /// Stores a random part of the cache. As for the simulated metadata disk, an independent choice
    /// for each sector would hardly ever produce the extreme cases in which bugs show.
    fn store_some(&mut self, rng: &mut StdRng) {
        let pending = std::mem::take(&mut self.pending);
        let one = rng.random_range(0..pending.len().max(1));
        let way = rng.random_range(0..7);
        let chance: f64 = rng.random();
        for (index, pending) in pending.iter().enumerate() {
            let whole = match way {
                0 => Some(false),
                1 => Some(true),
                2 => Some(index == one),
                3 => Some(index != one),
                4 => Some(index >= one),
                5 => Some(rng.random_bool(0.5)),
                _ => None,
            };
            self.store(pending, |_| whole.unwrap_or_else(|| rng.random_bool(chance)));
        }
    }

    /// Puts the chosen sectors of a write on the medium, unless they hold newer content.
    fn store(&mut self, pending: &Pending, mut choose: impl FnMut(usize) -> bool) {
        let Cells { start, end } = pending.cells;
        let mut at = start;
        while at < end {
            let sector_end = end.min((at / SECTOR + 1) * SECTOR);
            if choose(at / SECTOR) {
                for cell in at..sector_end {
                    if self.stored[cell] < pending.version {
                        self.stored[cell] = pending.version;
                        self.durable[cell] = pending.content.at(cell - start);
                    }
                }
            }
            at = sector_end;
        }
    }

    /// Returns the first of `cells` in which a crash now could leave a tag that `survives` rejects,
    /// together with that tag.
    pub(super) fn lost(
        &self,
        cells: Cells,
        survives: impl Fn(usize, Tag) -> bool,
    ) -> Option<(usize, Tag)> {
        let durable = cells.clone().map(|cell| (cell, self.durable[cell]));
        let near = self.pending.iter().filter(|pending| overlap(&pending.cells, &cells));
        let pending = near.flat_map(|pending| {
            let Cells { start, end } = pending.cells;
            let common = start.max(cells.start)..end.min(cells.end);
            let newer = common.filter(|&cell| self.stored[cell] < pending.version);
            newer.map(move |cell| (cell, pending.content.at(cell - start)))
        });
        durable.chain(pending).find(|&(cell, tag)| !survives(cell, tag))
    }

    /// Returns the first cell outside the clone that differs from its initial content.
    pub(super) fn trespass(&self) -> Option<usize> {
        let changed =
            |&cell: &usize| self.live[cell] != garbage(cell) || self.durable[cell] != garbage(cell);
        (self.clone..self.len()).find(changed)
    }
}
