//! Content that identifies its author.
//!
//! A sector written with a seed holds the seed, its own number, and noise derived from both. A
//! later read of any sector therefore shows which write it is from, and that it is complete and in
//! the right place.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Bytes per sector.
pub const SECTOR: u64 = 512;

/// The seed of sectors that are all zero.
pub const ZEROES: u64 = 0;

/// The seed of a source's initial content. The seeds of operations count from 1, and do not reach
/// it.
pub const SOURCE: u64 = 1 << 40;

/// Returns the content of sector `nr` written with `seed`.
fn sector(seed: u64, nr: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [0; SECTOR as usize];
    if seed == ZEROES {
        return bytes;
    }
    let mut state = seed.rotate_left(32) ^ nr;
    for (i, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match i {
            0 => seed,
            1 => nr,
            // The finalizer of SplitMix64.
            _ => {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z ^ (z >> 27)
            }
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Fills `buffer`, which begins at sector `at` of a device, with the content of `seed`.
///
/// # Panics
/// If it is not whole sectors.
pub fn fill(seed: u64, at: u64, buffer: &mut [u8]) {
    assert_eq!(buffer.len() as u64 % SECTOR, 0, "whole sectors");
    for (nr, bytes) in (at..).zip(buffer.chunks_exact_mut(SECTOR as usize)) {
        bytes.copy_from_slice(&sector(seed, nr));
    }
}

/// Returns the seed that sector `nr` with content `bytes` was written with; `None` if the sector is
/// incomplete or belongs elsewhere.
pub fn author(bytes: &[u8], nr: u64) -> Option<u64> {
    let seed = u64::from_le_bytes(bytes.first_chunk::<8>().copied()?);
    (sector(seed, nr) == bytes).then_some(seed)
}

/// A half-open range of sectors with the same author; `None` as in [`author`].
pub type Run = (Range<u64>, Option<u64>);

/// Returns the authors of the data from `reader`, in maximal runs.
///
/// # Errors
/// If a read fails.
pub fn authors(reader: &mut dyn Read) -> io::Result<Vec<Run>> {
    authors_from(0, reader)
}

/// Like [`authors`], but the first sector has the number `first`.
///
/// # Errors
/// If a read fails.
pub fn authors_from(first: u64, reader: &mut dyn Read) -> io::Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    let mut nr = first;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match reader.read(&mut buffer[filled..])? {
                0 => break,
                more => filled += more,
            }
        }
        for bytes in buffer[..filled].chunks_exact(SECTOR as usize) {
            add_sector(&mut runs, nr, author(bytes, nr));
            nr += 1;
        }
        if filled < buffer.len() {
            return Ok(runs);
        }
    }
}

/// Appends sector `nr` with its author to the runs.
fn add_sector(runs: &mut Vec<Run>, nr: u64, author: Option<u64>) {
    match runs.last_mut() {
        Some((range, last)) if *last == author => range.end += 1,
        _ => runs.push((nr..nr + 1, author)),
    }
}

/// Returns the maximal runs of sectors from `first` on.
pub fn runs_of(first: u64, authors: impl IntoIterator<Item = u64>) -> Vec<Run> {
    let mut runs = Vec::new();
    for (nr, author) in (first..).zip(authors) {
        add_sector(&mut runs, nr, Some(author));
    }
    runs
}

/// Formats runs as `<begin>-<end>:<seed or ?>`, separated by spaces.
pub fn text(runs: &[Run]) -> String {
    let run = |(range, author): &Run| {
        let author = author.map_or_else(|| "?".to_owned(), |seed| seed.to_string());
        format!("{}-{}:{author}", range.start, range.end)
    };
    runs.iter().map(run).collect::<Vec<_>>().join(" ")
}

/// Parses the output of [`text`].
///
/// # Errors
/// If the text is malformed.
pub fn parse_runs(text: &str) -> Result<Vec<Run>> {
    let run = |word: &str| {
        let (range, author) = word.split_once(':')?;
        let (begin, end) = range.split_once('-')?;
        let author = if author == "?" { None } else { Some(author.parse().ok()?) };
        Some((begin.parse().ok()?..end.parse().ok()?, author))
    };
    let runs = text.split_whitespace().map(|word| run(word).with_context(|| word.to_owned()));
    runs.collect()
}

/// Returns the author of each sector of `runs` in order.
pub fn spread(runs: &[Run]) -> Vec<Option<u64>> {
    let mut sectors = Vec::new();
    for (range, author) in runs {
        sectors.resize(range.end as usize, *author);
    }
    sectors
}

/// Returns the authors of the sectors of the file `path`.
///
/// # Errors
/// If a read fails.
pub fn authors_of(path: &Path) -> io::Result<Vec<Option<u64>>> {
    Ok(spread(&authors(&mut File::open(path)?)?))
}

/// Creates the file `path` with one sector for each of `authors`.
///
/// # Errors
/// If a write fails.
pub fn write_sectors(path: &Path, authors: &[u64]) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for (nr, seed) in (0..).zip(authors) {
        file.write_all(&sector(*seed, nr))?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::{
        SECTOR, SOURCE, ZEROES, author, authors, authors_from, fill, parse_runs, spread, text,
    };

    #[test]
    fn every_sector_tells_its_author_and_a_mixture_has_none() {
        let mut device = vec![0; 8 * SECTOR as usize];
        fill(SOURCE, 0, &mut device);
        fill(17, 2, &mut device[2 * 512..5 * 512]);
        fill(ZEROES, 6, &mut device[6 * 512..7 * 512]);
        device[7 * 512 + 300] ^= 1;
        let runs = authors(&mut &*device).expect("memory");
        let expected = [
            (0..2, Some(SOURCE)),
            (2..5, Some(17)),
            (5..6, Some(SOURCE)),
            (6..7, Some(ZEROES)),
            (7..8, None),
        ];
        assert_eq!(runs, expected);
        assert_eq!(spread(&runs)[4], Some(17));
        assert_eq!(parse_runs(&text(&runs)).expect("runs"), runs);
        let from_2 = authors_from(2, &mut &device[2 * 512..6 * 512]).expect("memory");
        assert_eq!(from_2, expected[1..3]);
        assert_eq!(author(&device[2 * 512..3 * 512], 3), None, "it belongs elsewhere");
    }
}
