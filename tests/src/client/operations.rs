//! Random operations on the client's structures and on the model.

use std::collections::BTreeMap;

use persistent_data::array::{Array, ArrayBuilder};
use persistent_data::bitset::Bitset;
use persistent_data::device::Device;
use persistent_data::store::{Reader, Writer};
use persistent_data::{BlockNr, Error, Result};
use rand::RngExt;
use rand::rngs::StdRng;
use zerocopy::little_endian as le;

use super::layout::{Payload, Pointer};
use super::{Client, Model};

/// A structure of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The btree and its snapshot.
    Tree,
    /// The array of numbers.
    Array,
    /// The array of references to blocks.
    Pointers,
    /// The bitset.
    Bitset,
    /// The space map of the data.
    Data,
}

/// All structures.
pub const ALL: [Family; 5] =
    [Family::Tree, Family::Array, Family::Pointers, Family::Bitset, Family::Data];

impl<D: Device> Client<D> {
    /// Performs a random operation on one structure, which gets no more than about `most` entries.
    ///
    /// # Errors
    /// Any error of persistent-data. After it, the caller has to abort.
    pub fn operate(
        &mut self,
        model: &mut Model,
        committed: &Model,
        family: Family,
        most: u64,
        rng: &mut StdRng,
    ) -> Result<()> {
        match family {
            Family::Tree => self.operate_tree(model, most, rng),
            Family::Array => self.operate_array(model, most, rng),
            Family::Pointers => self.operate_pointers(model, most.div_ceil(20), rng),
            Family::Bitset => self.operate_bitset(model, most * 20, rng),
            Family::Data => self.operate_data(model, committed, most * 5, rng),
        }
    }

    fn operate_tree(&mut self, model: &mut Model, most: u64, rng: &mut StdRng) -> Result<()> {
        let (first, step) = (rng.random_range(0..most), [1, 1, 7][rng.random_range(0..3)]);
        let keys = (first..most).step_by(step).take(rng.random_range(1..=150));
        match rng.random_range(0..8) {
            0..=2 => {
                for key in keys {
                    let value = rng.random();
                    let is_new = self.tree.insert(&mut self.writer, key, le::U64::new(value))?;
                    assert_eq!(is_new, model.tree.insert(key, value).is_none());
                }
            }
            3..=4 => {
                for key in keys {
                    let removed = self.tree.remove(&mut self.writer, key)?;
                    assert_eq!(removed, model.tree.remove(&key).is_some());
                }
            }
            5 => {
                let add = |_: &mut _, value: le::U64| Ok((value.get() ^ 1).into());
                let found = self.tree.update(&mut self.writer, first, add)?;
                let entry = model.tree.get_mut(&first);
                assert_eq!(found, entry.is_some());
                entry.into_iter().for_each(|value| *value ^= 1);
            }
            _ => self.toggle_snapshot(model, rng)?,
        }
        Ok(())
    }

    fn toggle_snapshot(&mut self, model: &mut Model, rng: &mut StdRng) -> Result<()> {
        match self.snapshot.take() {
            None => {
                self.snapshot = Some(self.tree.snapshot(&mut self.writer)?);
                model.snapshot = Some(model.tree.clone());
            }
            Some(snapshot) if rng.random() => {
                snapshot.delete(&mut self.writer)?;
                model.snapshot = None;
            }
            Some(snapshot) => {
                std::mem::replace(&mut self.tree, snapshot).delete(&mut self.writer)?;
                model.tree = model.snapshot.take().expect("the client has a snapshot");
            }
        }
        Ok(())
    }

    fn operate_array(&mut self, model: &mut Model, most: u64, rng: &mut StdRng) -> Result<()> {
        match rng.random_range(0..6) {
            0 => {
                let (len, fill) = (rng.random_range(0..=most), rng.random());
                self.array.resize(&mut self.writer, len, le::U32::new(fill))?;
                model.array.resize(len as usize, fill);
            }
            1 => {
                model.array = (0..rng.random_range(0..=most)).map(|_| rng.random()).collect();
                let values: Vec<le::U32> = model.array.iter().map(|&value| value.into()).collect();
                let mut builder = ArrayBuilder::new();
                for piece in values.chunks(rng.random_range(1..1500)) {
                    builder.extend(&mut self.writer, piece)?;
                }
                let built = builder.finish(&mut self.writer)?;
                std::mem::replace(&mut self.array, built).delete(&mut self.writer)?;
            }
            _ => {
                for _ in 0..rng.random_range(1..20) {
                    let (index, value) = (rng.random_range(0..=self.array.len()), rng.random());
                    let set = self.array.set(&mut self.writer, index, le::U32::new(value));
                    match model.array.get_mut(index as usize) {
                        Some(old) => {
                            set?;
                            *old = value;
                        }
                        None => assert!(matches!(set, Err(Error::Index { .. })), "{set:?}"),
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns a pointer to a new payload, or to one that another pointer already refers to.
    fn pointer(&mut self, model: &Model, rng: &mut StdRng) -> Result<(Pointer, u64)> {
        if !self.pointers.is_empty() && rng.random() {
            let index = rng.random_range(0..self.pointers.len());
            let pointer = self.pointers.get(&self.writer, index)?;
            self.writer.inc(pointer.at())?;
            return Ok((pointer, model.pointers[index as usize]));
        }
        let (at, content) = (self.writer.new_block::<Payload>()?, rng.random());
        self.writer.edit::<Payload>(at)?.content.set(content);
        Ok((Pointer::new(at), content))
    }

    fn operate_pointers(&mut self, model: &mut Model, most: u64, rng: &mut StdRng) -> Result<()> {
        match rng.random_range(0..6) {
            0..=1 => {
                let len = rng.random_range(0..=most);
                let (fill, content) = self.pointer(model, rng)?;
                self.pointers.resize(&mut self.writer, len, fill)?;
                model.pointers.resize(len as usize, content);
                self.writer.dec(fill.at())?;
            }
            2 => {
                let mut builder = ArrayBuilder::new();
                let mut contents = Vec::new();
                for _ in 0..rng.random_range(0..=most) {
                    let (pointer, content) = self.pointer(model, rng)?;
                    builder.extend(&mut self.writer, &[pointer])?;
                    contents.push(content);
                }
                let built = builder.finish(&mut self.writer)?;
                std::mem::replace(&mut self.pointers, built).delete(&mut self.writer)?;
                model.pointers = contents;
            }
            _ if model.pointers.is_empty() => {}
            _ => {
                for _ in 0..rng.random_range(1..5) {
                    let (pointer, content) = self.pointer(model, rng)?;
                    let index = rng.random_range(0..self.pointers.len());
                    self.pointers.set(&mut self.writer, index, pointer)?;
                    model.pointers[index as usize] = content;
                }
            }
        }
        Ok(())
    }

    fn operate_bitset(&mut self, model: &mut Model, most: u64, rng: &mut StdRng) -> Result<()> {
        let len = model.bits.len() as u64;
        match rng.random_range(0..8) {
            0 => {
                let (len, value) = (rng.random_range(0..=most), rng.random());
                self.bitset.resize(&mut self.writer, len, value)?;
                model.bits.resize(len as usize, value);
            }
            1 => {
                let one_in = rng.random_range(1..50);
                model.bits = (0..rng.random_range(0..=most))
                    .map(|_| rng.random_range(0..one_in) == 0)
                    .collect();
                let bits = &model.bits;
                let fill = |first: u64, words: &mut [le::U64]| -> Result<()> {
                    for (bit, _) in (first..).zip(0..words.len() * 64) {
                        // The bitset has to ignore bits past its end.
                        let value = bits.get(bit as usize).copied().unwrap_or(true);
                        words[(bit - first) as usize / 64] |= u64::from(value) << (bit % 64);
                    }
                    Ok(())
                };
                let built = Bitset::build(&mut self.writer, bits.len() as u64, fill)?;
                std::mem::replace(&mut self.bitset, built).delete(&mut self.writer)?;
            }
            2 => {
                self.bitset.flush(&mut self.writer)?;
            }
            3..=4 => {
                let (a, b) = (rng.random_range(0..=len), rng.random_range(0..=len));
                let (bits, value) = (a.min(b)..a.max(b), rng.random());
                self.bitset.set_range(&mut self.writer, bits.clone(), value)?;
                model.bits[bits.start as usize..bits.end as usize].fill(value);
            }
            _ => {
                let near = rng.random_range(0..=len);
                for _ in 0..rng.random_range(1..30) {
                    let (bit, value) = (near + rng.random_range(0..200), rng.random());
                    let set = self.bitset.set(&mut self.writer, bit, value);
                    match model.bits.get_mut(bit as usize) {
                        Some(old) => {
                            set?;
                            *old = value;
                            assert_eq!(self.bitset.get(&self.writer, bit)?, value);
                        }
                        None => assert!(matches!(set, Err(Error::Index { .. })), "{set:?}"),
                    }
                }
            }
        }
        Ok(())
    }

    fn operate_data(
        &mut self,
        model: &mut Model,
        committed: &Model,
        most: u64,
        rng: &mut StdRng,
    ) -> Result<()> {
        match rng.random_range(0..7) {
            0..=1 => {
                for _ in 0..rng.random_range(1..100) {
                    self.allocate_data(model, committed)?;
                }
            }
            2 if model.nr_data < most => {
                let more = rng.random_range(0..=most - model.nr_data);
                self.data.extend(more)?;
                model.nr_data += more;
            }
            3 if model.nr_data > 0 => {
                // A free block may get its first reference without an allocation.
                let last = model.data.keys().next_back().copied().unwrap_or(0);
                let at = rng.random_range(0..model.nr_data.min(last + 20));
                self.data.inc(&self.writer, BlockNr(at))?;
                *model.data.entry(at).or_default() += 1;
                self.touched.insert(at);
            }
            _ => {
                // Mostly the same few blocks, so that counts become large.
                let last = model.data.keys().next_back().copied().unwrap_or(0);
                let last = [last, last.min(20)][rng.random_range(0..2)];
                let from = rng.random_range(0..=last);
                let some = rng.random_range(1..20);
                let used: Vec<u64> =
                    model.data.range(from..).map(|(&at, _)| at).take(some).collect();
                let (up, times) = (rng.random_bool(0.6), rng.random_range(1..4));
                for at in used {
                    self.touched.insert(at);
                    let count = model.data.entry(at).or_default();
                    if up {
                        for _ in 0..times {
                            self.data.inc(&self.writer, BlockNr(at))?;
                        }
                        *count += times;
                    } else {
                        self.data.dec(&self.writer, BlockNr(at))?;
                        *count -= 1;
                    }
                }
                model.data.retain(|_, count| *count > 0);
            }
        }
        Ok(())
    }

    fn allocate_data(&mut self, model: &mut Model, committed: &Model) -> Result<()> {
        let in_use = |at: &u64| committed.data.contains_key(at) || self.touched.contains(at);
        match self.data.alloc(&self.writer) {
            Ok(BlockNr(at)) => {
                assert!(at < model.nr_data, "data block {at} of {}", model.nr_data);
                assert!(!in_use(&at), "data block {at} is used by the last commit or before");
                assert_eq!(model.data.insert(at, 1), None);
                self.touched.insert(at);
            }
            Err(Error::NoSpace) => assert!((0..model.nr_data).all(|at| in_use(&at))),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Compares some entries with the model, including entries that exist only in memory.
    ///
    /// # Errors
    /// Any error of persistent-data.
    pub fn spot_check(&self, model: &Model, rng: &mut StdRng) -> Result<()> {
        let first = model.tree.keys().next_back().map_or(0, |&last| rng.random_range(0..=last));
        let range: Result<BTreeMap<u64, u64>> = (self.tree.range(&self.writer, first..))
            .map(|entry| entry.map(|(key, value)| (key, value.get())))
            .collect();
        assert!(range?.iter().eq(model.tree.range(first..)), "the tree from {first} on");
        let lens = (self.array.len(), self.pointers.len(), self.bitset.len());
        let expected = (model.array.len(), model.pointers.len(), model.bits.len());
        assert_eq!(lens, (expected.0 as u64, expected.1 as u64, expected.2 as u64));
        for _ in 0..3 {
            self.look_at_one_entry(model, rng)?;
        }
        assert_eq!(self.data.nr_blocks(), model.nr_data);
        let past_end = self.data.count(&self.writer, BlockNr(model.nr_data));
        assert!(matches!(past_end, Err(Error::OutOfRange { .. })), "{past_end:?}");
        Ok(())
    }

    fn look_at_one_entry(&self, model: &Model, rng: &mut StdRng) -> Result<()> {
        let reader = &self.writer;
        if !model.array.is_empty() {
            let at = rng.random_range(0..model.array.len());
            assert_eq!(self.array.get(reader, at as u64)?.get(), model.array[at], "entry {at}");
        }
        if !model.pointers.is_empty() {
            let at = rng.random_range(0..model.pointers.len());
            let pointer = Array::<Pointer>::get(&self.pointers, reader, at as u64)?;
            let content = reader.read::<Payload>(pointer.at())?.content.get();
            assert_eq!(content, model.pointers[at], "pointer {at}");
        }
        if !model.bits.is_empty() {
            let at = rng.random_range(0..model.bits.len());
            assert_eq!(self.bitset.get(reader, at as u64)?, model.bits[at], "bit {at}");
        }
        if model.nr_data > 0 {
            let from = rng.random_range(0..model.nr_data);
            let used = model.data.range(from..).next().map_or(from, |(&at, _)| at);
            for at in [from, used] {
                let expected = model.data.get(&at).copied().unwrap_or(0);
                let count = self.data.count(reader, BlockNr(at))?;
                assert_eq!(count, expected, "references to data block {at}");
            }
        }
        Ok(())
    }
}
