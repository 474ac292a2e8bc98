//! Reads the client's content back from a device, by a walk of all blocks that its superblock
//! reaches.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use persistent_data::BlockNr;
use persistent_data::array::{Array, ArrayBlockRef, array_values};
use persistent_data::bitset::Bitset;
use persistent_data::block::Block;
use persistent_data::btree::{Btree, NodeDamage, NodeView, Value, WalkVisitor, walk};
use persistent_data::device::ReadDevice;
use persistent_data::format::{
    ArrayBlock, Bitmap, ENTRIES_PER_BITMAP, IndexEntry, RefCountBits, SpaceMapRoot,
};
use persistent_data::space_map::CoreSpaceMap;
use persistent_data::space_map::walk::SpaceMapReading;
use persistent_data::store::{DeviceReader, Reader};
use persistent_data::transaction::SUPERBLOCK;
use zerocopy::little_endian as le;

use super::layout::{Catalog, CatalogDisk, Payload, Pointer};
use super::{Model, is_unformatted};

/// A commit of the client, as found on a device.
#[derive(Debug)]
pub struct OnDevice {
    /// Content of the commit.
    pub model: Model,
    /// All blocks of the commit.
    pub reachable: BTreeSet<BlockNr>,
    /// The blocks among them that belong to the space map of the metadata device.
    pub space_map: BTreeSet<BlockNr>,
}

type Outcome<T> = Result<T, String>;

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// Walks the commit on `device`. Returns `None` if the device is not formatted.
///
/// # Errors
/// A description of all damage and of all disagreement with the counts of the space map.
pub fn inspect<D: ReadDevice>(device: &D) -> Outcome<Option<OnDevice>> {
    if is_unformatted(device).map_err(text)? {
        return Ok(None);
    }
    let reader = DeviceReader(device);
    let catalog: Block<Catalog> = reader.read(SUPERBLOCK).map_err(text)?;
    let nr_blocks = device.nr_blocks();
    let mut inspection =
        Inspection { reader: &reader, references: CoreSpaceMap::new(nr_blocks), damage: vec![] };
    inspection.refer(SUPERBLOCK);
    inspection.structures(&catalog);
    let data = inspection.data(catalog.data_root);
    let space_map = inspection.space_map(&catalog, nr_blocks);
    if !inspection.damage.is_empty() {
        return Err(inspection.damage.join("; "));
    }
    let mut model = contents(&reader, &catalog).map_err(text)?;
    (model.data, model.nr_data) = (data?, catalog.data_root.nr_blocks.get());
    let reachable = inspection.references.iter().map(|(at, _)| at).collect();
    Ok(Some(OnDevice { model, reachable, space_map }))
}

/// Returns the content of all structures except the space map of the data.
fn contents<R: Reader>(reader: &R, catalog: &CatalogDisk) -> persistent_data::Result<Model> {
    let entries = |root: le::U64| -> persistent_data::Result<BTreeMap<u64, u64>> {
        let tree = Btree::<le::U64>::open(BlockNr(root.get()));
        tree.range(reader, ..).map(|entry| entry.map(|(key, value)| (key, value.get()))).collect()
    };
    let mut model = Model { tree: entries(catalog.tree)?, ..Model::default() };
    if catalog.snapshot.get() != 0 {
        model.snapshot = Some(entries(catalog.snapshot)?);
    }
    let array = Array::<le::U32>::open(BlockNr(catalog.array.get()), catalog.array_len.get());
    array.for_each_block(reader, |_, values| {
        model.array.extend(values.iter().map(|value| value.get()));
        Ok(())
    })?;
    let root = BlockNr(catalog.pointers.get());
    Array::<Pointer>::open(root, catalog.pointers_len.get()).for_each_block(
        reader,
        |_, values| {
            for pointer in values {
                model.pointers.push(reader.read::<Payload>(pointer.at())?.content.get());
            }
            Ok(())
        },
    )?;
    let bitset = Bitset::open(BlockNr(catalog.bitset.get()), catalog.bitset_len.get());
    bitset.for_each_word(reader, |_, word| {
        model.bits.extend((0..64).map(|bit| word >> bit & 1 == 1));
    })?;
    let past_end = model.bits.split_off(bitset.len() as usize);
    assert!(!past_end.contains(&true), "bits past the end are zero");
    Ok(model)
}

struct Inspection<'a, R> {
    reader: &'a R,
    references: CoreSpaceMap,
    damage: Vec<String>,
}

impl<R: Reader> Inspection<'_, R> {
    fn refer(&mut self, at: BlockNr) -> bool {
        match self.references.inc(at) {
            Ok(count) => count == 1,
            Err(error) => {
                self.damage.push(text(error));
                false
            }
        }
    }

    /// Counts the references of a tree; `value` counts the references of its values.
    fn tree<V: Value>(&mut self, root: le::U64, value: impl FnMut(&mut Self, u64, V)) {
        let reader = self.reader;
        let mut visit = Visit { inspection: self, value };
        walk::<V, R>(reader, BlockNr(root.get()), &mut visit);
    }

    fn array<V: Value>(&mut self, root: le::U64, mut value: impl FnMut(&mut Self, V)) {
        self.tree(root, |inspection, _, block: ArrayBlockRef<V>| {
            if !inspection.refer(block.at()) {
                return;
            }
            match inspection.reader.read::<ArrayBlock>(block.at()) {
                Ok(disk) => match array_values::<V>(&disk) {
                    Ok(values) => values.iter().for_each(|&found| value(inspection, found)),
                    Err(error) => inspection.damage.push(text(error)),
                },
                Err(error) => inspection.damage.push(text(error)),
            }
        });
    }

    fn structures(&mut self, catalog: &CatalogDisk) {
        self.tree(catalog.tree, |_, _, _: le::U64| {});
        if catalog.snapshot.get() != 0 {
            self.tree(catalog.snapshot, |_, _, _: le::U64| {});
        }
        self.array(catalog.array, |_, _: le::U32| {});
        self.array(catalog.bitset, |_, _: le::U64| {});
        self.array(catalog.pointers, |inspection, pointer: Pointer| {
            inspection.refer(pointer.at());
        });
    }

    /// Returns the counts of the data, and checks its space map.
    fn data(&mut self, root: SpaceMapRoot) -> Outcome<BTreeMap<u64, u32>> {
        let mut entries = Vec::new();
        self.tree(root.bitmap_root, |inspection, bitmap, entry: IndexEntry| {
            inspection.refer(BlockNr(entry.blocknr.get()));
            entries.push((bitmap, entry));
        });
        let mut large = BTreeMap::new();
        self.tree(root.ref_count_root, |_, at, count: le::U32| {
            large.insert(at, count.get());
        });
        let nr_blocks = root.nr_blocks.get();
        let expected = 0..nr_blocks.div_ceil(ENTRIES_PER_BITMAP as u64);
        if !entries.iter().map(|(bitmap, _)| *bitmap).eq(expected) {
            return Err(format!("{} bitmaps of {nr_blocks} data blocks", entries.len()));
        }
        let mut counts = BTreeMap::new();
        for (bitmap, entry) in entries {
            let disk: Block<Bitmap> =
                self.reader.read(BlockNr(entry.blocknr.get())).map_err(text)?;
            let first_free = disk.first_free(0, ENTRIES_PER_BITMAP).unwrap_or(ENTRIES_PER_BITMAP);
            if entry.nr_free.get() != disk.nr_free()
                || entry.none_free_before.get() as usize > first_free
            {
                return Err(format!("the index says {entry:?} of data bitmap {bitmap}"));
            }
            for index in 0..ENTRIES_PER_BITMAP {
                let at = bitmap * ENTRIES_PER_BITMAP as u64 + index as u64;
                let count = match disk.get(index) {
                    RefCountBits::Overflow => {
                        large.remove(&at).filter(|count| *count > 2).ok_or("no large count")?
                    }
                    bits => bits.count().unwrap_or_default(),
                };
                if count > 0 {
                    counts.insert(at, count);
                }
            }
        }
        if !large.is_empty() || counts.len() as u64 != root.nr_allocated.get() {
            return Err(format!("{root:?} has {} used, {large:?} needless", counts.len()));
        }
        Ok(counts)
    }

    /// Checks the counts of the metadata device against all references. Returns the map's blocks.
    fn space_map(&mut self, catalog: &CatalogDisk, device_blocks: u64) -> BTreeSet<BlockNr> {
        let root = SpaceMapRoot::from_area(&catalog.space_map_root);
        let mut blocks = BTreeSet::new();
        let mut damage = Vec::new();
        let refer = |at| {
            blocks.insert(at);
            self.references.inc(at).is_ok_and(|count| count == 1)
        };
        let found = |found| damage.push(text(found));
        let reading = SpaceMapReading::read(self.reader, root, device_blocks, refer, found);
        if let Some(reading) = reading {
            reading.compare(&self.references, true, |found| damage.push(text(found)));
        }
        self.damage.append(&mut damage);
        blocks
    }
}

struct Visit<'v, 'a, R, F> {
    inspection: &'v mut Inspection<'a, R>,
    value: F,
}

impl<'a, R: Reader, V: Value, F> WalkVisitor<V> for Visit<'_, 'a, R, F>
where
    F: FnMut(&mut Inspection<'a, R>, u64, V),
{
    fn node(&mut self, at: BlockNr, _: &Range<u64>) -> bool {
        self.inspection.refer(at)
    }

    fn leaf(&mut self, _: BlockNr, _: &Range<u64>, leaf: &NodeView<'_, V>) {
        for (key, value) in leaf.entries() {
            (self.value)(self.inspection, key, value);
        }
    }

    fn damage(&mut self, damage: NodeDamage) {
        self.inspection.damage.push(text(damage));
    }
}
