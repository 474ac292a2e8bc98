//! The log of the dm-log-writes target: every write, flush and FUA that a kernel sent to a device.

/// Bytes per sector, the unit of the log.
pub const UNIT: usize = 512;

const MAGIC: u64 = 0x6a_7366_7773_6872;

/// An entry of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Position on the device, in sectors.
    pub sector: u64,
    /// Flags of the entry: bit 0 is a flush, bit 1 is FUA.
    pub flags: u64,
    /// The written data; zeroes for a discard.
    pub data: Vec<u8>,
    /// The text given to `dmsetup message LOG 0 mark`. An entry with a mark does nothing else.
    pub mark: Option<String>,
}

impl Entry {
    /// Returns whether everything before was flushed to the medium.
    pub fn is_flush(&self) -> bool {
        self.flags & 1 != 0
    }

    /// Returns whether the entry's own data is on the medium.
    pub fn is_fua(&self) -> bool {
        self.flags & 2 != 0
    }
}

fn le64(log: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(log[at..at + 8].try_into().expect("eight bytes"))
}

/// Parses the entries of a log.
///
/// # Panics
/// If `log` does not begin with the log's magic number.
pub fn parse(log: &[u8]) -> Vec<Entry> {
    assert_eq!(le64(log, 0), MAGIC, "not a log of writes");
    let nr_entries = le64(log, 16);
    let mut entries = Vec::new();
    let mut at = UNIT;
    for _ in 0..nr_entries {
        let (sector, nr_sectors) = (le64(log, at), le64(log, at + 8));
        let flags = le64(log, at + 16);
        let (discard, is_mark) = (flags & 4 != 0, flags & 8 != 0);
        let len = nr_sectors as usize * UNIT;
        let mark = is_mark.then(|| {
            let text = &log[at + 32..][..le64(log, at + 24) as usize];
            String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
        });
        at += UNIT;
        let data = if discard { vec![0; len] } else { log[at..at + len].to_vec() };
        if !discard {
            at += len;
        }
        entries.push(Entry { sector, flags, data, mark });
    }
    entries
}
