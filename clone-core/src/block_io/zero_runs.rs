//! Finds zeroes in data, which need not be written.

use std::iter;
use std::ops::Range;

const ZEROES: [u8; 4096] = [0; 4096];

/// Returns the runs of zero blocks of `granularity` bytes in `data`, as byte ranges, ascending and
/// maximal. A partial block at the end of `data` counts as a block.
///
/// # Panics
/// If `granularity` is 0.
pub fn zero_runs(data: &[u8], granularity: usize) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    iter::from_fn(move || {
        let start = at + granularity * data[at..].chunks(granularity).position(is_zero)?;
        let run = data[start..].chunks(granularity).take_while(|block| is_zero(block));
        at = start + run.map(<[u8]>::len).sum::<usize>();
        Some(start..at)
    })
}

/// Slices are compared by the C library's `memcmp`, which runs at memory speed.
fn is_zero(block: &[u8]) -> bool {
    block.chunks(ZEROES.len()).all(|part| part == &ZEROES[..part.len()])
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::zero_runs;

    fn runs(data: &[u8], granularity: usize) -> Vec<Range<usize>> {
        zero_runs(data, granularity).collect()
    }

    /// By definition: all zero blocks, with adjacent ones merged.
    fn model(data: &[u8], granularity: usize) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for start in (0..data.len()).step_by(granularity) {
            let end = (start + granularity).min(data.len());
            match runs.last_mut() {
                _ if data[start..end].iter().any(|&byte| byte != 0) => {}
                Some(last) if last.end == start => last.end = end,
                _ => runs.push(start..end),
            }
        }
        runs
    }

    #[test]
    fn all_patterns_of_eight_blocks_have_the_runs_of_the_definition() {
        for granularity in [1, 3, 4096, 8192, 10_000] {
            // The last block is complete, or partial.
            for len in [8 * granularity, 8 * granularity - granularity / 2] {
                for pattern in 0..=u8::MAX {
                    let mut data = vec![0; len];
                    for block in (0..8).filter(|block| pattern & (1 << block) != 0) {
                        // Somewhere in the block: at its start, at its end or between.
                        let (start, end) = (block * granularity, (block + 1) * granularity);
                        let at = [start, end - 1, (start + end) / 2][block % 3];
                        data[at.min(len - 1)] = 1;
                    }
                    assert_eq!(runs(&data, granularity), model(&data, granularity));
                }
            }
        }
    }

    #[test]
    fn nothing_has_no_runs() {
        assert!(runs(&[], 4096).is_empty());
    }
}
