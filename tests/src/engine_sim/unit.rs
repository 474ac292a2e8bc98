//! Units of the simulation.
//!
//! A cell is as informative as a byte: each cell holds the name of its last writer, and all
//! requests are for whole cells. Eight cells are a sector.

use std::ops::Range;

use clone_core::engine::ByteRange;

/// Bytes per cell.
pub(super) const CELL: u64 = 64;

/// Cells per sector, the unit that survives a crash whole or not at all.
pub(super) const SECTOR: usize = 8;

/// A half-open range of cells of a device.
pub(super) type Cells = Range<usize>;

/// The name of a cell's last writer.
pub(super) type Tag = u32;

/// The content of a zero cell.
pub(super) const ZERO: Tag = 0;

/// The content of a buffer before any read. No device holds it.
pub(super) const POISON: Tag = u32::MAX;

/// Returns the source's content in a nonzero cell. It is different for each cell.
pub(super) fn of_source(cell: usize) -> Tag {
    1 << 31 | cell as Tag
}

/// Returns the destination's initial content in a cell.
pub(super) fn garbage(cell: usize) -> Tag {
    1 << 30 | cell as Tag
}

/// Returns the content that write `number` stores.
pub(super) fn of_write(number: u32) -> Tag {
    number + 1
}

/// Describes the content of a cell.
pub(super) fn named(tag: Tag) -> String {
    match tag {
        ZERO => "zeroes".to_owned(),
        POISON => "nothing that was read".to_owned(),
        _ if tag >> 31 == 1 => format!("the source's cell {}", tag & !(1 << 31)),
        _ if tag >> 30 == 1 => format!("what the destination held in cell {}", tag & !(1 << 30)),
        _ => format!("write {}", tag - 1),
    }
}

/// Converts bytes to cells. Returns `None` if they are not whole cells.
pub(super) fn cells(bytes: &ByteRange) -> Option<Cells> {
    let is_whole = bytes.start.is_multiple_of(CELL) && bytes.end.is_multiple_of(CELL);
    is_whole.then_some((bytes.start / CELL) as usize..(bytes.end / CELL) as usize)
}

/// Converts cells to bytes.
pub(super) fn bytes(cells: &Cells) -> ByteRange {
    cells.start as u64 * CELL..cells.end as u64 * CELL
}

/// Returns whether two ranges overlap.
pub(super) fn overlap(a: &Cells, b: &Cells) -> bool {
    a.start < b.end && b.start < a.end
}
