//! Iteration over entries in key order, from both ends.

use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};

use super::node::KeyRange;
use super::path::{FoundLeaf, find_leaf};
use super::{Btree, Value};
use crate::error::Result;
use crate::number::BlockNr;
use crate::store::Reader;

/// The entries of a range of keys, by ascending keys, or by descending keys from the back.
///
/// Each leaf is read when its first entry is needed. The iteration ends after an error.
pub struct Range<'r, R, V> {
    reader: &'r R,
    root: BlockNr,
    /// Keys whose entries have not been returned yet. `None` at the end.
    left: Option<KeyRange>,
    front: Option<FoundLeaf<V>>,
    back: Option<FoundLeaf<V>>,
}

impl<V: Value> Btree<V> {
    /// Returns the entries whose keys lie in `bounds`. Inverted bounds yield no entries.
    pub fn range<'r, R: Reader>(
        &self,
        reader: &'r R,
        bounds: impl RangeBounds<u64>,
    ) -> Range<'r, R, V> {
        let left = match (bounds.start_bound(), bounds.end_bound()) {
            (Bound::Included(&first), end) => ending(first, end),
            (Bound::Excluded(&before), end) => {
                before.checked_add(1).and_then(|first| ending(first, end))
            }
            (Bound::Unbounded, end) => ending(0, end),
        };
        Range { reader, root: self.root(), left, front: None, back: None }
    }
}

fn ending(first: u64, end: Bound<&u64>) -> Option<KeyRange> {
    let last = match end {
        Bound::Included(&last) => last,
        Bound::Excluded(&end) => end.checked_sub(1)?,
        Bound::Unbounded => u64::MAX,
    };
    (first <= last).then_some(KeyRange { first, last })
}

impl<R: Reader, V: Value> Range<'_, R, V> {
    fn advance(&mut self) -> Result<Option<(u64, V)>> {
        while let Some(left) = self.left {
            let leaf = leaf_of(&mut self.front, self.reader, self.root, left.first)?;
            let view = leaf.view();
            let index = view.search(left.first).unwrap_or_else(|index| index);
            if index == view.len() {
                self.left = left.above(leaf.answers.last);
                continue;
            }
            let entry = (view.key(index), view.value(index));
            self.left = left.above(entry.0);
            return Ok((entry.0 <= left.last).then_some(entry));
        }
        Ok(None)
    }

    fn advance_back(&mut self) -> Result<Option<(u64, V)>> {
        while let Some(left) = self.left {
            let leaf = leaf_of(&mut self.back, self.reader, self.root, left.last)?;
            let view = leaf.view();
            let end = view.search(left.last).map_or_else(|index| index, |index| index + 1);
            let Some(index) = end.checked_sub(1) else {
                self.left = left.below(leaf.answers.first);
                continue;
            };
            let entry = (view.key(index), view.value(index));
            self.left = left.below(entry.0);
            return Ok((entry.0 >= left.first).then_some(entry));
        }
        Ok(None)
    }
}

/// Returns the leaf for `key`: the cached one if it covers the key.
fn leaf_of<'l, R: Reader, V: Value>(
    at_hand: &'l mut Option<FoundLeaf<V>>,
    reader: &R,
    root: BlockNr,
    key: u64,
) -> Result<&'l FoundLeaf<V>> {
    match at_hand.take() {
        Some(leaf) if leaf.answers.contains(key) => Ok(at_hand.insert(leaf)),
        _ => Ok(at_hand.insert(find_leaf(reader, root, key)?)),
    }
}

impl<R: Reader, V: Value> Iterator for Range<'_, R, V> {
    type Item = Result<(u64, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.left = None;
        }
        next.transpose()
    }
}

impl<R: Reader, V: Value> DoubleEndedIterator for Range<'_, R, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let next = self.advance_back();
        if next.is_err() {
            self.left = None;
        }
        next.transpose()
    }
}

impl<R: Reader, V: Value> FusedIterator for Range<'_, R, V> {}
