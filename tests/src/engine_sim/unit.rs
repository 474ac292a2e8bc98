//! What the simulation counts in.
//!
//! A byte would tell no more than a cell: each cell holds the name of whoever wrote it, and all
//! requests are for whole cells, eight of which are a sector.

use std::ops::Range;

use clone_core::engine::ByteRange;

/// Bytes of a cell.
pub(super) const CELL: u64 = 64;

/// Cells of a sector, the unit that survives a crash whole or not at all.
pub(super) const SECTOR: usize = 8;

/// Some cells of a device, half-open.
pub(super) type Cells = Range<usize>;

/// Who wrote a cell.
pub(super) type Tag = u32;

/// The content of a cell of zeroes.
pub(super) const ZERO: Tag = 0;

/// What a buffer holds that nothing was read into: no device holds it.
pub(super) const POISON: Tag = u32::MAX;

/// What the source holds in a cell that is not zero: every cell something else.
pub(super) fn of_source(cell: usize) -> Tag {
    1 << 31 | cell as Tag
}

/// What the destination holds in a cell at first.
pub(super) fn garbage(cell: usize) -> Tag {
    1 << 30 | cell as Tag
}

/// What write number `number` stores.
pub(super) fn of_write(number: u32) -> Tag {
    number + 1
}

/// What a cell holds, in words.
pub(super) fn named(tag: Tag) -> String {
    match tag {
        ZERO => "zeroes".to_owned(),
        POISON => "nothing that was read".to_owned(),
        _ if tag >> 31 == 1 => format!("the source's cell {}", tag & !(1 << 31)),
        _ if tag >> 30 == 1 => format!("what the destination held in cell {}", tag & !(1 << 30)),
        _ => format!("write {}", tag - 1),
    }
}

/// The cells that bytes are; `None` if they are not whole cells.
pub(super) fn cells(bytes: &ByteRange) -> Option<Cells> {
    let is_whole = bytes.start.is_multiple_of(CELL) && bytes.end.is_multiple_of(CELL);
    is_whole.then_some((bytes.start / CELL) as usize..(bytes.end / CELL) as usize)
}

/// The bytes that cells are.
pub(super) fn bytes(cells: &Cells) -> ByteRange {
    cells.start as u64 * CELL..cells.end as u64 * CELL
}

/// Whether two ranges have something in common.
pub(super) fn overlap(a: &Cells, b: &Cells) -> bool {
    a.start < b.end && b.start < a.end
}
