//! Draws the map of a clone, one digit per cell.

use clone_core::engine::ByteRange;

/// The maximum number of extents that are examined per cell, for cells that alternate between
/// hydrated and not. The rest of the cell counts in proportion to the examined part.
const LOOKS_MAX: u64 = 64;

/// Returns the number of regions per cell: the smallest power of two that makes no more than
/// `cells_max` cells.
pub fn regions_per_cell(regions: u64, cells_max: u32) -> u64 {
    regions.div_ceil(cells_max.max(1).into()).next_power_of_two()
}

/// Draws a clone of `size_bytes` in cells of `cell_bytes`, the last of which may be shorter, as the
/// digits of [`Snapshot::cells`](super::protocol::Snapshot::cells). `run` receives a range that is
/// not empty, and returns whether its first extent is hydrated, and the end of that extent, which
/// lies past the start of the range.
pub fn draw(
    size_bytes: u64,
    cell_bytes: u64,
    run: impl Fn(&ByteRange) -> Option<(bool, u64)>,
) -> String {
    let cell_bytes = cell_bytes.max(1);
    let mut cells = String::new();
    let mut start = 0;
    while start < size_bytes {
        let end = start.saturating_add(cell_bytes).min(size_bytes);
        cells.push(digit(start..end, &run));
        start = end;
    }
    cells
}

fn digit(cell: ByteRange, run: impl Fn(&ByteRange) -> Option<(bool, u64)>) -> char {
    let (mut at, mut hydrated) = (cell.start, 0u64);
    for _ in 0..LOOKS_MAX {
        if at >= cell.end {
            break;
        }
        let Some((is, end)) = run(&(at..cell.end)) else { break };
        let end = end.clamp(at + 1, cell.end);
        hydrated += if is { end - at } else { 0 };
        at = end;
    }
    let seen = at - cell.start;
    match (hydrated, seen) {
        (0, _) => '0',
        (hydrated, seen) if hydrated == seen => '9',
        (hydrated, seen) => {
            let eighths = u128::from(hydrated) * 8 / u128::from(seen);
            char::from(b'1' + u8::try_from(eighths).unwrap_or(7).min(7))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{LOOKS_MAX, draw, regions_per_cell};

    #[test]
    fn a_cell_tells_how_much_of_it_is_hydrated_and_only_all_is_9() {
        // Hydrated: 0..100, 200..201, 399..400.
        let run = |range: &std::ops::Range<u64>| {
            let bounds = [100, 200, 201, 399, 400];
            let next = bounds.iter().position(|&end| range.start < end)?;
            Some((next % 2 == 0, bounds[next].min(range.end)))
        };
        assert_eq!(draw(400, 100, run), "9011");
        assert_eq!(draw(400, 110, run), "8101");
        assert_eq!(draw(399, 399, run), "3");
        assert_eq!(draw(50, 4096, run), "9");
    }

    #[test]
    fn few_looks_are_taken_however_finely_it_is_divided() {
        let looks = Cell::new(0);
        let run = |range: &std::ops::Range<u64>| {
            looks.set(looks.get() + 1);
            Some((range.start.is_multiple_of(2), range.start + 1))
        };
        assert_eq!(draw(1 << 40, 1 << 38, run), "5555");
        assert_eq!(looks.get(), 4 * LOOKS_MAX);
    }

    #[test]
    fn cells_are_powers_of_two_and_not_too_many() {
        assert_eq!(regions_per_cell(1 << 31, 1000), 1 << 22);
        assert_eq!(regions_per_cell(7, 1000), 1);
        assert_eq!(regions_per_cell(7, 0), 8);
    }
}
