//! Reads all blocks of an array that may be damaged, in large requests.

use crate::block::{self, RawBlock};
use crate::device::ReadDevice;
use crate::error::{Error, Result};
use crate::format::{ArrayBlock, ArrayBlockDisk};
use crate::number::BlockNr;
use crate::store::bad_block;

/// Array blocks in one buffer: the buffer stays in the cache of a core.
const PIECE: usize = 64;

/// Reads array blocks, given as `(index, block number)` in any order. Calls `visit` for each in the
/// order given, with the checked block or the error.
///
/// Adjacent blocks are read in one request. Only checksum and block number are checked, not the
/// content.
pub fn read_array_blocks<D: ReadDevice + ?Sized>(
    device: &D,
    blocks: &[(u64, BlockNr)],
    mut visit: impl FnMut(u64, BlockNr, Result<&ArrayBlockDisk>),
) {
    let mut buffer = vec![RawBlock::ZERO; PIECE.min(blocks.len())];
    let mut order: Vec<usize> = Vec::with_capacity(PIECE);
    let mut results: Vec<Result<usize>> = Vec::with_capacity(PIECE);
    for piece in blocks.chunks(PIECE) {
        // Position `i` of the buffer gets the block with the i-th lowest block number.
        order.clear();
        order.extend(0..piece.len());
        order.sort_unstable_by_key(|&i| piece[i].1);
        results.clear();
        results.resize_with(piece.len(), || Ok(0));
        let mut filled = 0;
        for run in order.chunk_by(|&a, &b| piece[a].1.plus(1) == piece[b].1) {
            let target = &mut buffer[filled..filled + run.len()];
            read_run(device, piece[run[0]].1, target, |offset, result| {
                results[run[offset]] = result.map(|()| filled + offset);
            });
            filled += run.len();
        }
        for (&(index, at), result) in piece.iter().zip(results.drain(..)) {
            let checked = result.and_then(|position| {
                block::check::<ArrayBlock>(&buffer[position], at)
                    .map_err(bad_block::<ArrayBlock>(at))
            });
            visit(index, at, checked);
        }
    }
}

/// Reads adjacent blocks in one request. If that fails, reads them one by one to find those that
/// cannot be read.
fn read_run<D: ReadDevice + ?Sized>(
    device: &D,
    first: BlockNr,
    into: &mut [RawBlock],
    mut outcome: impl FnMut(usize, Result<()>),
) {
    let nr_blocks = device.nr_blocks();
    let end = first.0.checked_add(into.len() as u64);
    if end.is_some_and(|end| end <= nr_blocks) && device.read(first, into).is_ok() {
        (0..into.len()).for_each(|offset| outcome(offset, Ok(())));
        return;
    }
    for (offset, block) in into.iter_mut().enumerate() {
        let at = first.plus(offset as u64);
        let result = if at.0 >= nr_blocks {
            Err(Error::OutOfRange { at, nr_blocks })
        } else {
            let read = device.read(at, std::slice::from_mut(block));
            read.map_err(|source| Error::Read { at, source })
        };
        outcome(offset, result);
    }
}
