//! Finds similar blocks: copy on write leaves many copies of a block that differ in a few bits.
//! Storing a block as its difference from another one halves the size of a pack.

use persistent_data::BLOCK_SIZE;
use persistent_data::block::RawBlock;

use super::WINDOW;

/// The size in bytes of the pieces by which blocks are first compared.
const PIECE: usize = 256;

/// The number of hash slots that remember the last record with a piece.
const SLOTS: usize = 1 << 16;

const _: () = assert!(SLOTS.is_power_of_two() && BLOCK_SIZE.is_multiple_of(PIECE));

/// The last records, up to [`WINDOW`] of them.
#[derive(Debug)]
pub(super) struct Window {
    blocks: Vec<RawBlock>,
    /// The number of records so far.
    nr_records: u64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { blocks: Vec::new(), nr_records: 0 }
    }

    /// Returns the block `distance` records back, if it exists and is still in the window.
    pub(super) fn back(&self, distance: usize) -> Option<&RawBlock> {
        if distance == 0 || distance > WINDOW || distance as u64 > self.nr_records {
            return None;
        }
        self.blocks.get(((self.nr_records - distance as u64) % WINDOW as u64) as usize)
    }

    pub(super) fn push(&mut self, block: &RawBlock) {
        let slot = (self.nr_records % WINDOW as u64) as usize;
        match self.blocks.get_mut(slot) {
            Some(old) => old.clone_from(block),
            None => self.blocks.push(block.clone()),
        }
        self.nr_records += 1;
    }
}

/// Finds an earlier record that is similar to a block.
#[derive(Debug)]
pub(super) struct Finder {
    window: Window,
    /// For each slot, the number of the last record with such a piece, plus one.
    last_with: Vec<u64>,
}

impl Finder {
    pub(super) fn new() -> Self {
        Self { window: Window::new(), last_with: vec![0; SLOTS] }
    }

    /// Returns the distance in records to the most similar earlier record, or 0 for none, and the
    /// difference from it. Adds the block to the window.
    pub(super) fn difference(&mut self, block: &RawBlock) -> (usize, RawBlock) {
        let mut best = (0, block.clone());
        let mut least = not_zero(block);
        let now = self.window.nr_records;
        let mut tried = Vec::with_capacity(BLOCK_SIZE / PIECE);
        for slot in slots(block) {
            let record = std::mem::replace(&mut self.last_with[slot], now + 1);
            if record == 0 || tried.contains(&record) {
                continue;
            }
            tried.push(record);
            let distance = usize::try_from(now + 1 - record).unwrap_or(usize::MAX);
            let Some(base) = self.window.back(distance) else { continue };
            let mut difference = block.clone();
            xor(&mut difference, base);
            let differing = not_zero(&difference);
            if differing < least {
                least = differing;
                best = (distance, difference);
            }
        }
        self.window.push(block);
        best
    }
}

/// Returns the slots of the pieces of `block`. Pieces of one repeated byte are skipped: they say
/// nothing about similarity.
fn slots(block: &RawBlock) -> impl Iterator<Item = usize> + '_ {
    let pieces = block.bytes().chunks_exact(PIECE).enumerate();
    let telling = pieces.filter(|(_, piece)| piece.iter().any(|byte| *byte != piece[0]));
    telling.map(|(place, piece)| {
        // The offset is part of the hash: the same bytes at another offset do not make blocks
        // similar.
        crc32c::crc32c_append(place as u32, piece) as usize % SLOTS
    })
}

fn not_zero(block: &RawBlock) -> usize {
    block.bytes().iter().filter(|&&byte| byte != 0).count()
}

/// XORs `block` with `base`, which computes the difference and also reverts it.
pub(super) fn xor(block: &mut RawBlock, base: &RawBlock) {
    for (byte, other) in block.bytes_mut().iter_mut().zip(base.bytes()) {
        *byte ^= other;
    }
}
