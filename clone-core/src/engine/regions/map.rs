//! The map of hydrated regions, which all threads may read.

use std::sync::atomic::{AtomicU64, Ordering};

use persistent_data::bitset::{BITS_PER_WORD, low_bits, masks, nr_words};

use crate::geometry::RegionRange;

/// One bit per region, set when the data of the region is on the destination.
///
/// *Invariant:* a thread that sees a set bit may read the region from the destination: bits are set
/// with [`Ordering::Release`] after the data was written, and read with [`Ordering::Acquire`].
#[derive(Debug)]
pub(in crate::engine) struct Map {
    words: Box<[AtomicU64]>,
}

impl Map {
    /// Creates a map of `nr_regions` regions with the bits of `words`; missing words are zero.
    pub(in crate::engine) fn new(nr_regions: u64, words: impl IntoIterator<Item = u64>) -> Self {
        let nr_words = nr_words(nr_regions) as usize;
        let mut all = Vec::with_capacity(nr_words);
        all.extend(words.into_iter().take(nr_words).map(AtomicU64::new));
        all.resize_with(nr_words, AtomicU64::default);
        let mut map = Self { words: all.into() };
        if let Some(last) = map.words.last_mut() {
            *last.get_mut() &= low_bits((nr_regions - 1) % BITS_PER_WORD + 1);
        }
        map
    }

    /// Returns the number of hydrated regions.
    pub(in crate::engine) fn count(&self) -> u64 {
        let count = |word: &AtomicU64| u64::from(word.load(Ordering::Relaxed).count_ones());
        self.words.iter().map(count).sum()
    }

    /// Returns true if all of `regions` are hydrated.
    pub(in crate::engine) fn all(&self, regions: RegionRange) -> bool {
        masks(regions).all(|(index, mask)| self.word(index) & mask == mask)
    }

    /// Sets the bits of `regions`, and returns how many were clear before.
    pub(in crate::engine) fn set(&self, regions: RegionRange) -> u64 {
        let set = |(index, mask): (u64, u64)| {
            let before = self.words[index as usize].fetch_or(mask, Ordering::Release);
            u64::from((mask & !before).count_ones())
        };
        masks(regions).map(set).sum()
    }

    /// Clears the bits of `regions`, and returns how many were set before.
    pub(in crate::engine) fn clear(&self, regions: RegionRange) -> u64 {
        let clear = |(index, mask): (u64, u64)| {
            let before = self.words[index as usize].fetch_and(!mask, Ordering::Release);
            u64::from((mask & before).count_ones())
        };
        masks(regions).map(clear).sum()
    }

    /// Returns the end of the run of regions with the same state as `regions.start`, and true if
    /// they are hydrated. `regions` must not be empty.
    pub(in crate::engine) fn run(&self, regions: RegionRange) -> (u64, bool) {
        let hydrated = self.all(regions.start..regions.start + 1);
        let end = masks(regions.clone()).find_map(|(index, mask)| {
            let word = self.word(index);
            let other = if hydrated { !word } else { word } & mask;
            (other != 0).then(|| index * BITS_PER_WORD + u64::from(other.trailing_zeros()))
        });
        (end.unwrap_or(regions.end), hydrated)
    }

    fn word(&self, index: u64) -> u64 {
        self.words[index as usize].load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::Map;

    quickcheck! {
        fn it_is_like_a_list_of_bits(
            nr: u16,
            words: Vec<u64>,
            changes: Vec<(u16, u16, bool)>
        ) -> bool {
            let nr = u64::from(nr % 700) + 1;
            let map = Map::new(nr, words.clone());
            let word = |at: u64| words.get(at as usize / 64).copied().unwrap_or(0);
            let mut model: Vec<bool> = (0..nr).map(|at| word(at) >> (at % 64) & 1 == 1).collect();
            for (start, len, set) in changes {
                let start = u64::from(start) % nr;
                let end = nr.min(start + u64::from(len) % 200);
                let part = &mut model[start as usize..end as usize];
                let changed = part.iter().filter(|&&bit| bit != set).count() as u64;
                part.fill(set);
                let told = if set { map.set(start..end) } else { map.clear(start..end) };
                if told != changed {
                    return false;
                }
            }
            let count = model.iter().filter(|&&bit| bit).count() as u64;
            let run = |start: u64| {
                let like = model[start as usize];
                let other = model[start as usize..].iter().position(|&bit| bit != like);
                (other.map_or(nr, |len| start + len as u64), like)
            };
            count == map.count() && (0..nr).all(|at| map.run(at..nr) == run(at))
        }
    }
}
