//! Arrays of values of all sizes on real transactions, checked against vectors.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::ops::Range;

use clone_tests::audited::Audited;
use clone_tests::client::layout::{Catalog, CatalogDisk};
use persistent_data::array::{Array, ArrayBlockRef, ArrayBuilder, entries_per_block};
use persistent_data::block::Block;
use persistent_data::btree::{NodeDamage, NodeView, Value, WalkVisitor, walk};
use persistent_data::device::ReadDevice;
use persistent_data::format::SpaceMapRoot;
use persistent_data::sim::{SimDisk, seeds};
use persistent_data::space_map::CoreSpaceMap;
use persistent_data::space_map::walk::SpaceMapReading;
use persistent_data::store::{DeviceReader, Reader};
use persistent_data::transaction::{SUPERBLOCK, Transaction};
use persistent_data::{BlockNr, Error};
use rand::RngExt;
use rand::rngs::StdRng;
use zerocopy::{FromZeros, IntoBytes, little_endian as le};

const STEPS: u32 = 30;

/// Maximum number of array blocks of an array.
const BLOCKS_MAX: u64 = 40;

/// Counts the blocks of an array whose values hold no references.
struct Count(CoreSpaceMap);

impl<V: Value> WalkVisitor<ArrayBlockRef<V>> for Count {
    fn node(&mut self, at: BlockNr, _: &Range<u64>) -> bool {
        self.0.inc(at).unwrap() == 1
    }

    fn leaf(&mut self, _: BlockNr, _: &Range<u64>, leaf: &NodeView<'_, ArrayBlockRef<V>>) {
        for (_, block) in leaf.entries() {
            self.0.inc(block.at()).unwrap();
        }
    }

    fn damage(&mut self, damage: NodeDamage) {
        panic!("{damage:?}");
    }
}

/// Checks the last commit against `model`, and its counts against a walk. Returns all its blocks.
fn inspect<V: Value>(disk: &SimDisk, model: &[V]) -> BTreeSet<BlockNr> {
    let image = disk.live_image();
    let reader = DeviceReader(&image);
    let catalog: Block<Catalog> = reader.read(SUPERBLOCK).unwrap();
    let root = BlockNr(catalog.array.get());
    let mut count = Count(CoreSpaceMap::new(image.nr_blocks()));
    count.0.inc(SUPERBLOCK).unwrap();
    walk::<ArrayBlockRef<V>, _>(&reader, root, &mut count);
    let space_map = SpaceMapRoot::from_area(&catalog.space_map_root);
    let refer = |at| count.0.inc(at).unwrap() == 1;
    let none = |damage| panic!("{damage:?}");
    let reading = SpaceMapReading::read(&reader, space_map, image.nr_blocks(), refer, none);
    reading.unwrap().compare(&count.0, true, |damage| panic!("{damage:?}"));

    let array = Array::<V>::open(root, catalog.array_len.get());
    let mut values = Vec::new();
    array
        .for_each_block(&reader, |first, block| {
            assert_eq!(first, values.len() as u64);
            values.extend_from_slice(block);
            Ok(())
        })
        .unwrap();
    assert!(values.as_bytes() == model.as_bytes(), "{} values, {}", values.len(), model.len());
    count.0.iter().map(|(at, _)| at).collect()
}

/// An array, its expected content, and the content of the last commit.
struct World<'d, V> {
    disk: &'d SimDisk,
    writer: Audited<&'d SimDisk>,
    array: Array<V>,
    model: Vec<V>,
    committed: (BlockNr, Vec<V>),
}

impl<V: Value> World<'_, V> {
    fn value(rng: &mut StdRng) -> V {
        let mut value = V::new_zeroed();
        rng.fill(value.as_mut_bytes());
        value
    }

    fn len(rng: &mut StdRng) -> u64 {
        let per_block = entries_per_block::<V>() as u64;
        let most = [2, BLOCKS_MAX][rng.random_range(0..2)];
        let blocks = rng.random_range(0..=most);
        (blocks * per_block + rng.random_range(0..3)).saturating_sub(rng.random_range(0..3))
    }

    fn step(&mut self, rng: &mut StdRng) {
        let Self { writer, array, model, .. } = self;
        match rng.random_range(0..10) {
            0..=3 => {
                let (len, fill) = (Self::len(rng), Self::value(rng));
                array.resize(writer, len, fill).unwrap();
                model.resize(len as usize, fill);
            }
            4 => {
                *model = (0..Self::len(rng)).map(|_| Self::value(rng)).collect();
                let mut builder = ArrayBuilder::new();
                for piece in model.chunks(rng.random_range(1..=2 * entries_per_block::<V>())) {
                    builder.extend(writer, piece).unwrap();
                }
                let built = builder.finish(writer).unwrap();
                std::mem::replace(array, built).delete(writer).unwrap();
            }
            5 => {
                writer.abort();
                let (root, before) = self.committed.clone();
                *array = Array::open(root, before.len() as u64);
                *model = before;
            }
            6..=7 => self.commit(),
            _ => {
                for _ in 0..10 {
                    let (index, value) = (rng.random_range(0..=array.len()), Self::value(rng));
                    match model.get_mut(index as usize) {
                        Some(old) => {
                            let found = array.get(writer, index).unwrap();
                            assert!(found.as_bytes() == old.as_bytes(), "value {index}");
                            array.set(writer, index, value).unwrap();
                            *old = value;
                        }
                        None => {
                            let past_end = array.set(writer, index, value);
                            assert!(matches!(past_end, Err(Error::Index { .. })));
                            assert!(array.get(writer, index).is_err());
                        }
                    }
                }
            }
        }
        assert_eq!((self.array.len(), self.array.is_empty()), {
            (self.model.len() as u64, self.model.is_empty())
        });
    }

    fn commit(&mut self) {
        let mut catalog = CatalogDisk::new_zeroed();
        catalog.array.set(self.array.root().0);
        catalog.array_len.set(self.array.len());
        let prepared = self.writer.transaction.prepare().unwrap();
        catalog.space_map_root = *prepared.space_map_root();
        prepared.commit::<Catalog>(&catalog).unwrap();
        self.writer.committed(inspect(self.disk, &self.model));
        self.committed = (self.array.root(), self.model.clone());
    }
}

fn run<V: Value>(rng: &mut StdRng) {
    let disk = SimDisk::new(512);
    let transaction = Transaction::create(&disk).unwrap();
    let mut writer = Audited::new(transaction, BTreeSet::from([SUPERBLOCK]));
    let array = Array::<V>::create(&mut writer).unwrap();
    let committed = (array.root(), Vec::new());
    let mut world = World { disk: &disk, writer, array, model: Vec::new(), committed };
    world.commit();
    for _ in 0..STEPS {
        world.step(rng);
    }
    world.commit();
}

#[test]
fn arrays_of_values_of_every_size_equal_vectors() {
    let runs: [fn(&mut StdRng); 7] = [
        run::<[u8; 1]>,
        run::<[u8; 3]>,
        run::<le::U32>,
        run::<le::U64>,
        run::<[u8; 100]>,
        run::<[u8; 2036]>,
        run::<[u8; 4072]>,
    ];
    for seed in seeds("arrays_of_values_of_every_size_equal_vectors", 700) {
        runs[seed.value() as usize % runs.len()](&mut seed.rng());
    }
}
