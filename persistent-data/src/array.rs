//! Arrays: values by index, packed into blocks that a btree finds by their index.
//!
//! Every block but the last is full; block `i` begins with entry `i * entries_per_block`. The array
//! does not store its length: the owner must know it.

use std::marker::PhantomData;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian as le};

use crate::btree::{Btree, Value};
use crate::error::{ArrayError, Error, Result};
use crate::format::{ArrayBlock, ArrayBlockDisk, array_capacity};
use crate::number::BlockNr;
use crate::store::{Reader, Writer};

mod build;
mod walk;

pub use build::ArrayBuilder;
pub use walk::read_array_blocks;

/// The value type in the btree of an array of `V`: the block number of an array block.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct ArrayBlockRef<V> {
    at: le::U64,
    values: PhantomData<fn() -> V>,
}

impl<V> ArrayBlockRef<V> {
    pub(crate) fn new(at: BlockNr) -> Self {
        Self { at: at.0.into(), values: PhantomData }
    }

    /// Returns the block number of the array block.
    pub fn at(&self) -> BlockNr {
        BlockNr(self.at.get())
    }
}

impl<V> Clone for ArrayBlockRef<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for ArrayBlockRef<V> {}

impl<V: Value> Value for ArrayBlockRef<V> {
    fn inc<W: Writer>(&self, writer: &mut W) -> Result<()> {
        writer.inc(self.at())
    }

    fn dec<W: Writer>(&self, writer: &mut W) -> Result<()> {
        if writer.count(self.at())? == 1 {
            let block = writer.read::<ArrayBlock>(self.at())?;
            for value in array_values::<V>(&block).map_err(bad_array(self.at()))? {
                value.dec(writer)?;
            }
        }
        writer.dec(self.at())
    }
}

fn bad_array(at: BlockNr) -> impl Fn(ArrayError) -> Error {
    move |source| Error::Array { at, source }
}

/// Returns the number of entries in a full array block of `V`.
pub const fn entries_per_block<V>() -> usize {
    array_capacity(size_of::<V>())
}

/// Returns the number of entries in block `index` of an array of `len` entries.
pub fn entries_in_block<V>(index: u64, len: u64) -> usize {
    let per_block = entries_per_block::<V>() as u64;
    let before = index.saturating_mul(per_block);
    len.saturating_sub(before).min(per_block) as usize
}

/// Checks the header of an array block for values of type `V` and returns the values.
///
/// # Errors
/// [`ArrayError::ValueSize`], [`ArrayError::Capacity`], and [`ArrayError::Entries`] if the header
/// names more values than fit.
pub fn array_values<V: Value>(block: &ArrayBlockDisk) -> std::result::Result<&[V], ArrayError> {
    let header = &block.header;
    let (size, capacity) = (size_of::<V>() as u32, entries_per_block::<V>() as u32);
    if header.value_size.get() != size {
        return Err(ArrayError::ValueSize { found: header.value_size.get(), expected: size });
    }
    if header.max_entries.get() != capacity {
        return Err(ArrayError::Capacity { found: header.max_entries.get(), expected: capacity });
    }
    let nr_entries = header.nr_entries.get();
    if nr_entries > capacity {
        return Err(ArrayError::Entries { found: nr_entries, expected: capacity });
    }
    let bytes = &block.body[..nr_entries as usize * size_of::<V>()];
    Ok(<[V]>::ref_from_bytes(bytes).expect("whole values"))
}

/// Returns the values of an array block that must have `entries` values.
///
/// # Errors
/// Those of [`array_values`], and [`ArrayError::Entries`] for any other number of values.
pub fn exact_array_values<V: Value>(
    block: &ArrayBlockDisk,
    entries: usize,
) -> std::result::Result<&[V], ArrayError> {
    let values = array_values::<V>(block)?;
    if values.len() == entries {
        Ok(values)
    } else {
        Err(ArrayError::Entries { found: values.len() as u32, expected: entries as u32 })
    }
}

/// Formats an array block for `nr_entries` entries and returns the values, mutably.
fn values_mut<V: Value>(block: &mut ArrayBlockDisk, nr_entries: usize) -> &mut [V] {
    block.header.nr_entries.set(nr_entries as u32);
    block.header.max_entries.set(entries_per_block::<V>() as u32);
    block.header.value_size.set(size_of::<V>() as u32);
    let bytes = &mut block.body[..nr_entries * size_of::<V>()];
    <[V]>::mut_from_bytes(bytes).expect("whole values")
}

/// An array of `len` values of type `V`.
#[derive(Debug)]
pub struct Array<V> {
    tree: Btree<ArrayBlockRef<V>>,
    len: u64,
}

impl<V: Value> Array<V> {
    /// Creates an array without entries.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn create<W: Writer>(writer: &mut W) -> Result<Self> {
        const { assert!(entries_per_block::<V>() > 0, "a value fits in a block") };
        Ok(Self { tree: Btree::create(writer)?, len: 0 })
    }

    /// Opens the array of `len` entries whose btree has its root at `root`. Reads nothing.
    pub fn open(root: BlockNr, len: u64) -> Self {
        Self { tree: Btree::open(root), len }
    }

    /// Returns the block number of the btree's root.
    pub fn root(&self) -> BlockNr {
        self.tree.root()
    }

    /// Returns the number of entries.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns entry `index` of `0..len`.
    ///
    /// # Errors
    /// [`Error::Index`] if `index` is out of range, and those of the reader.
    pub fn get<R: Reader>(&self, reader: &R, index: u64) -> Result<V> {
        let (block, entry) = self.place(index)?;
        self.read_block(reader, block, |values| values[entry])
    }

    /// Gives `look` the values of block `block`, which must exist.
    pub(crate) fn read_block<R: Reader, T>(
        &self,
        reader: &R,
        block: u64,
        look: impl FnOnce(&[V]) -> T,
    ) -> Result<T> {
        let missing =
            || Error::Array { at: self.root(), source: ArrayError::Missing { index: block } };
        let at = self.tree.lookup(reader, block)?.ok_or_else(missing)?.at();
        let entries = entries_in_block::<V>(block, self.len);
        let disk = reader.read::<ArrayBlock>(at)?;
        let values = exact_array_values(&disk, entries).map_err(bad_array(at))?;
        Ok(look(values))
    }

    /// Sets entry `index` of `0..len` to `value`. Takes over the caller's references of `value` and
    /// drops those of the old value.
    ///
    /// # Errors
    /// [`Error::Index`] if `index` is out of range, and those of the writer.
    pub fn set<W: Writer>(&mut self, writer: &mut W, index: u64, value: V) -> Result<()> {
        let (block, entry) = self.place(index)?;
        let mut old = None;
        self.edit_block(writer, block, |values| {
            old = Some(std::mem::replace(&mut values[entry], value));
        })?;
        old.map_or(Ok(()), |old| old.dec(writer))
    }

    /// Lets `change` edit a shadow of block `block`. The references of the values are not adjusted.
    pub(crate) fn edit_block<W: Writer>(
        &mut self,
        writer: &mut W,
        block: u64,
        change: impl FnOnce(&mut [V]),
    ) -> Result<()> {
        let entries = entries_in_block::<V>(block, self.len);
        self.resize_block(writer, block, entries, change)
    }

    /// Lets `change` edit a shadow of block `block`, which is resized to `entries` entries.
    fn resize_block<W: Writer>(
        &mut self,
        writer: &mut W,
        block: u64,
        entries: usize,
        change: impl FnOnce(&mut [V]),
    ) -> Result<()> {
        let present = entries_in_block::<V>(block, self.len);
        let found = self.tree.update(writer, block, |writer, reference| {
            let shadow = writer.shadow::<ArrayBlock>(reference.at())?;
            let disk = writer.read::<ArrayBlock>(shadow.at)?;
            let values = exact_array_values::<V>(&disk, present).map_err(bad_array(shadow.at))?;
            if shadow.was_shared {
                for value in values {
                    value.inc(writer)?;
                }
            }
            drop(disk);
            change(values_mut(writer.edit::<ArrayBlock>(shadow.at)?, entries));
            Ok(ArrayBlockRef::new(shadow.at))
        })?;
        if found {
            Ok(())
        } else {
            Err(Error::Array { at: self.root(), source: ArrayError::Missing { index: block } })
        }
    }

    /// Changes the length to `len` entries: new entries are copies of `fill`, and the references of
    /// removed entries are dropped.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn resize<W: Writer>(&mut self, writer: &mut W, len: u64, fill: V) -> Result<()> {
        if len < self.len { self.shrink(writer, len) } else { self.grow(writer, len, fill) }
    }

    fn shrink<W: Writer>(&mut self, writer: &mut W, len: u64) -> Result<()> {
        let per_block = entries_per_block::<V>() as u64;
        for block in (len.div_ceil(per_block)..self.len.div_ceil(per_block)).rev() {
            self.tree.remove(writer, block)?;
            self.len = block * per_block;
        }
        let kept = (len % per_block) as usize;
        if self.len > len {
            let block = len / per_block;
            let dropped = self.read_block(writer, block, |values| values[kept..].to_vec())?;
            self.resize_block(writer, block, kept, |_| {})?;
            for value in dropped {
                value.dec(writer)?;
            }
            self.len = len;
        }
        Ok(())
    }

    fn grow<W: Writer>(&mut self, writer: &mut W, len: u64, fill: V) -> Result<()> {
        let per_block = entries_per_block::<V>() as u64;
        while self.len < len {
            let block = self.len / per_block;
            let present = (self.len % per_block) as usize;
            let entries = entries_in_block::<V>(block, len);
            for _ in present..entries {
                fill.inc(writer)?;
            }
            if present > 0 {
                let fill_rest = |values: &mut [V]| values[present..].fill(fill);
                self.resize_block(writer, block, entries, fill_rest)?;
            } else {
                let at = writer.new_block::<ArrayBlock>()?;
                values_mut(writer.edit::<ArrayBlock>(at)?, entries).fill(fill);
                self.tree.insert(writer, block, ArrayBlockRef::new(at))?;
            }
            self.len = block * per_block + entries as u64;
        }
        Ok(())
    }

    /// Gives `visit` the values of every block in turn, with the index of the block's first entry.
    ///
    /// # Errors
    /// Those of the reader and of `visit`. Earlier blocks have been visited.
    pub fn for_each_block<R: Reader>(
        &self,
        reader: &R,
        mut visit: impl FnMut(u64, &[V]) -> Result<()>,
    ) -> Result<()> {
        let per_block = entries_per_block::<V>() as u64;
        for block in 0..self.len.div_ceil(per_block) {
            self.read_block(reader, block, |values| visit(block * per_block, values))??;
        }
        Ok(())
    }

    /// Deletes the array: drops one reference to its root, and those of blocks that become free.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn delete<W: Writer>(self, writer: &mut W) -> Result<()> {
        self.tree.delete(writer)
    }

    fn place(&self, index: u64) -> Result<(u64, usize)> {
        if index >= self.len {
            return Err(Error::Index { index, len: self.len });
        }
        let per_block = entries_per_block::<V>() as u64;
        Ok((index / per_block, (index % per_block) as usize))
    }
}
