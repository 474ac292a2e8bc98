//! Blocks that are nearly alike: copy on write leaves many copies of a block that differ in a few
//! bits. Telling one as its difference from another makes a pack half as large.

use persistent_data::BLOCK_SIZE;
use persistent_data::block::RawBlock;

use super::WINDOW;

/// Bytes by which blocks are compared at first.
const PIECE: usize = 256;

/// Places in which the last record with a certain piece is remembered.
const SLOTS: usize = 1 << 16;

const _: () = assert!(SLOTS.is_power_of_two() && BLOCK_SIZE.is_multiple_of(PIECE));

/// The last records.
#[derive(Debug)]
pub(super) struct Window {
    blocks: Vec<RawBlock>,
    /// Records so far.
    nr_records: u64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { blocks: Vec::new(), nr_records: 0 }
    }

    /// The block `distance` records back, if there is one and it is still remembered.
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

/// Finds records that are like another.
#[derive(Debug)]
pub(super) struct Finder {
    window: Window,
    /// The number of the last record with a piece, plus one.
    last_with: Vec<u64>,
}

impl Finder {
    pub(super) fn new() -> Self {
        Self { window: Window::new(), last_with: vec![0; SLOTS] }
    }

    /// How far back the record lies that `block` is best told by, 0 if by none, and the
    /// difference. Remembers the block.
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

/// Where the pieces of `block` are remembered, but for those that any block may have.
fn slots(block: &RawBlock) -> impl Iterator<Item = usize> + '_ {
    let pieces = block.bytes().chunks_exact(PIECE).enumerate();
    let telling = pieces.filter(|(_, piece)| piece.iter().any(|byte| *byte != piece[0]));
    telling.map(|(place, piece)| {
        // The same bytes at another place are no likeness.
        crc32c::crc32c_append(place as u32, piece) as usize % SLOTS
    })
}

fn not_zero(block: &RawBlock) -> usize {
    block.bytes().iter().filter(|&&byte| byte != 0).count()
}

/// Makes `block` its difference from `base`, and back.
pub(super) fn xor(block: &mut RawBlock, base: &RawBlock) {
    for (byte, other) in block.bytes_mut().iter_mut().zip(base.bytes()) {
        *byte ^= other;
    }
}
