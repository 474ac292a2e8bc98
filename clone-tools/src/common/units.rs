//! Counts, percentages and sizes as text for people.

use std::fmt;

use clone_core::geometry::{SECTOR_SIZE, Sectors};
use clone_core::size::human;
use persistent_data::BLOCK_SIZE;

/// A count with its noun: `1 problem`, `2 problems`.
#[derive(Clone, Copy, Debug)]
pub struct Counted(pub u64, pub &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = self;
        write!(f, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}

/// A percentage, rounded down: `100 %` means all and `0 %` means none.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The number of items counted.
    pub part: u64,
    /// The number of all items.
    pub whole: u64,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, whole) = (u128::from(self.part), u128::from(self.whole.max(1)));
        match part * 10_000 / whole {
            0 if part > 0 => f.write_str("less than 0.01 %"),
            share if share % 100 == 0 => write!(f, "{} %", share / 100),
            share => write!(f, "{}.{:02} %", share / 100, share % 100),
        }
    }
}

/// Formats a size in sectors and in a unit for people: `8 sectors (4 KiB)`.
pub fn in_units(sectors: Sectors) -> String {
    format!("{} ({})", Counted(sectors.0, "sector"), human(sectors))
}

/// Formats a number of bytes for people: `300 B`, `4 KiB`. From a sector on, it is rounded down to
/// whole sectors.
pub fn human_bytes(bytes: u64) -> String {
    if bytes < SECTOR_SIZE {
        format!("{bytes} B")
    } else {
        human(Sectors(bytes / SECTOR_SIZE)).to_string()
    }
}

/// Formats a rate for people: `4 MiB/s`.
pub fn human_rate(bytes_per_second: u64) -> String {
    format!("{}/s", human_bytes(bytes_per_second))
}

/// Converts a number of metadata blocks into sectors, saturating.
pub fn sectors_of_blocks(blocks: u64) -> Sectors {
    // No device is large enough for the product to saturate.
    Sectors(blocks.saturating_mul(BLOCK_SIZE as u64 / SECTOR_SIZE))
}

/// Formats a uuid as 32 hex digits, or as the empty string if it is all zero.
pub fn format_uuid(uuid: &[u8; 16]) -> String {
    if uuid.iter().all(|&byte| byte == 0) {
        return String::new();
    }
    uuid.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use clone_core::geometry::Sectors;

    use super::{Counted, Share, human_bytes, human_rate, in_units};

    #[test]
    fn only_all_is_100_percent_and_only_none_is_0() {
        let text = |part, whole| Share { part, whole }.to_string();
        assert_eq!(text(0, 10), "0 %");
        assert_eq!(text(1, 1 << 31), "less than 0.01 %");
        assert_eq!(text((1 << 31) - 1, 1 << 31), "99.99 %");
        assert_eq!(text(7, 7), "100 %");
        assert_eq!(text(1, 2), "50 %");
        assert_eq!(text(1, 3), "33.33 %");
        assert_eq!(text(0, 0), "0 %");
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(Counted(1, "leak").to_string(), "1 leak");
        assert_eq!(Counted(0, "leak").to_string(), "0 leaks");
        assert_eq!(in_units(Sectors(1)), "1 sector (512 B)");
        assert_eq!(in_units(Sectors(8)), "8 sectors (4 KiB)");
    }

    #[test]
    fn less_than_a_sector_is_shown_in_bytes() {
        let texts = [0, 300, 512, 1000, 4096, 3 << 20].map(human_bytes);
        assert_eq!(texts, ["0 B", "300 B", "512 B", "512 B", "4 KiB", "3 MiB"]);
        assert_eq!(human_rate(3 << 20), "3 MiB/s");
    }
}
