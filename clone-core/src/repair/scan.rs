//! One look at every block of a device: what each of them is, by its own word.

use persistent_data::array::array_values;
use persistent_data::block::{self, BlockKind, RawBlock};
use persistent_data::btree::{Parsed, parse};
use persistent_data::device::ReadDevice;
use persistent_data::format::{ArrayBlock, Bitmap, IndexBlock, Node};
use persistent_data::space_map::metadata::mapped_blocks;
use persistent_data::transaction::SUPERBLOCK;
use persistent_data::{BLOCK_SIZE, BlockNr};
use zerocopy::little_endian as le;

use super::block_set::BlockSet;
use crate::progress::Progress;

/// Blocks that are read at once.
const BATCH: usize = 256;

/// Blocks behind the last sound one in which damage may be that of a commit, at least.
const LEAST_REACH: usize = 64;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All zeroes: never written, or wiped.
    Blank,
    /// Not a block of any kind, or one that was meant for another place, or not readable.
    Damaged,
    /// A node of the bitset's btree with children.
    Internal,
    /// A node of the bitset's btree with array blocks.
    Leaf,
    /// A node of the tree of large counts.
    RefCounts,
    /// An index of a space map.
    Index,
    /// A bitmap of a space map.
    Bitmap,
    /// An array block of a bitset.
    Array,
}

/// A block as the scan saw it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    kind: Kind,
    /// Words of an array block.
    words: u16,
    /// Set bits of an array block.
    hydrated: u16,
}

const _: () = assert!(BLOCK_SIZE * 8 <= 1 << 15, "the set bits of a block fit");

/// What a whole device holds, in six bytes a block.
#[derive(Debug)]
pub(super) struct Scan {
    blocks: Vec<Seen>,
    /// Those that hold nothing that can be read where something was once written.
    damaged: BlockSet,
    top: Option<BlockNr>,
}

impl Scan {
    /// Reads all of `device` that a space map can cover.
    pub(super) fn of<D: ReadDevice + ?Sized>(device: &D, progress: &dyn Progress) -> Self {
        let nr_blocks = mapped_blocks(device.nr_blocks());
        let blank = Seen { kind: Kind::Blank, words: 0, hydrated: 0 };
        let mut blocks = vec![blank; nr_blocks as usize];
        progress.set_total(nr_blocks);
        let mut buffer = vec![RawBlock::ZERO; BATCH];
        let (mut next, mut told) = (device.skip_hole(BlockNr(0)).0, 0);
        while next < nr_blocks {
            let batch = &mut buffer[..BATCH.min((nr_blocks - next) as usize)];
            let end = next + batch.len() as u64;
            look_at(device, next, batch, &mut blocks[next as usize..end as usize]);
            progress.advance(end - told);
            told = end;
            next = device.skip_hole(BlockNr(end)).0;
        }
        let is_sound = |seen: &Seen| !matches!(seen.kind, Kind::Blank | Kind::Damaged);
        let top = blocks.iter().rposition(is_sound);
        let nr_sound = blocks.iter().filter(|seen| is_sound(seen)).count();
        // A commit writes no more than there is in use. What lies further up came from elsewhere,
        // like the second copy of a partition table.
        let end = top.map_or(0, |top| top.saturating_add(nr_sound.max(LEAST_REACH)));
        let in_reach = &blocks[..end.min(blocks.len())];
        let last_written = in_reach.iter().rposition(|seen| seen.kind != Kind::Blank);
        let damaged = BlockSet::none_of(nr_blocks);
        let mut scan = Self { blocks, damaged, top: top.map(|top| BlockNr(top as u64)) };
        scan.were_written_up_to(BlockNr(last_written.unwrap_or(0) as u64));
        scan
    }

    /// Every block up to `last`, if there is one, was written once: a kernel takes new blocks from
    /// the bottom up. Those of them that are blank were wiped.
    pub(super) fn were_written_up_to(&mut self, last: BlockNr) {
        let up_to = self.blocks.iter().take(usize::try_from(last.0).map_or(0, |last| last + 1));
        for (at, seen) in up_to.enumerate().skip(1) {
            if matches!(seen.kind, Kind::Blank | Kind::Damaged) {
                self.damaged.insert(BlockNr(at as u64));
            }
        }
    }

    /// Blocks that were looked at.
    pub(super) fn nr_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// What the block at `at` is; damaged, if there is none.
    pub(super) fn kind(&self, at: BlockNr) -> Kind {
        self.seen(at).map_or(Kind::Damaged, |seen| seen.kind)
    }

    /// Words of the array block at `at`; none if it is no array block.
    pub(super) fn words(&self, at: BlockNr) -> usize {
        self.seen(at).map_or(0, |seen| usize::from(seen.words))
    }

    /// Set bits of the array block at `at`.
    pub(super) fn hydrated(&self, at: BlockNr) -> u64 {
        self.seen(at).map_or(0, |seen| u64::from(seen.hydrated))
    }

    /// Whether what the block at `at` once held is gone. It is, past the end.
    pub(super) fn is_damaged(&self, at: BlockNr) -> bool {
        at != SUPERBLOCK
            && (at.0 >= self.nr_blocks() || matches!(self.kind(at), Kind::Blank | Kind::Damaged))
    }

    /// The blocks of which something was lost, but for the superblock.
    pub(super) fn damaged(&self) -> &BlockSet {
        &self.damaged
    }

    /// The last block that is sound.
    pub(super) fn top(&self) -> Option<BlockNr> {
        self.top
    }

    /// The blocks of one kind, ascending.
    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = BlockNr> + '_ {
        let of_kind = move |(_, seen): &(usize, &Seen)| seen.kind == kind;
        self.blocks.iter().enumerate().filter(of_kind).map(|(at, _)| BlockNr(at as u64))
    }

    fn seen(&self, at: BlockNr) -> Option<&Seen> {
        usize::try_from(at.0).ok().and_then(|at| self.blocks.get(at))
    }
}

/// Looks at the blocks from `first` on; at each by itself if they cannot be read together.
fn look_at<D: ReadDevice + ?Sized>(
    device: &D,
    first: u64,
    batch: &mut [RawBlock],
    seen: &mut [Seen],
) {
    let together = device.read(BlockNr(first), batch).is_ok();
    for ((block, seen), at) in batch.iter_mut().zip(seen).zip(first..) {
        let read = together || device.read(BlockNr(at), std::slice::from_mut(block)).is_ok();
        if !read {
            seen.kind = Kind::Damaged;
        } else if *block != RawBlock::ZERO {
            *seen = identify(block, BlockNr(at));
        }
    }
}

fn identify(block: &RawBlock, at: BlockNr) -> Seen {
    let mut seen = Seen { kind: Kind::Damaged, words: 0, hydrated: 0 };
    // The salt of the kind that the checksum is right for, if it is right at all.
    match block::checksum(block, 0) ^ block::stored_checksum(block) {
        Node::CSUM_SALT if is_at::<Node>(block, at) => {
            let node = block::view::<Node>(block);
            seen.kind = match parse::<le::U64>(node) {
                Ok(Parsed::Internal(_)) => Kind::Internal,
                Ok(Parsed::Leaf(_)) => Kind::Leaf,
                Err(_) if parse::<le::U32>(node).is_ok() => Kind::RefCounts,
                Err(_) => Kind::Damaged,
            };
        }
        IndexBlock::CSUM_SALT if is_at::<IndexBlock>(block, at) => seen.kind = Kind::Index,
        Bitmap::CSUM_SALT if is_at::<Bitmap>(block, at) => seen.kind = Kind::Bitmap,
        ArrayBlock::CSUM_SALT if is_at::<ArrayBlock>(block, at) => {
            if let Ok(words) = array_values::<le::U64>(block::view::<ArrayBlock>(block)) {
                let ones: u32 = words.iter().map(|word| word.get().count_ones()).sum();
                seen.kind = Kind::Array;
                (seen.words, seen.hydrated) = (words.len() as u16, ones as u16);
            }
        }
        _ => {}
    }
    seen
}

/// Whether a block says that it lies where it lies.
fn is_at<K: BlockKind>(block: &RawBlock, at: BlockNr) -> bool {
    K::location(block::view::<K>(block)) == at
}
