//! The space maps of a device, those of commits long gone among them, and the bitsets that they
//! vouch for: a space map counts the blocks of its own commit, each once, and no others.

use std::collections::{HashMap, HashSet};

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;
use persistent_data::format::{Bitmap, BitmapDisk, ENTRIES_PER_BITMAP, IndexBlock, RefCountBits};
use persistent_data::store::{DeviceReader, Reader};
use persistent_data::transaction::SUPERBLOCK;

use super::scan::{Kind, Scan};
use super::tree::Digest;

/// Roots of the tree of large counts that are considered. It is written when metadata is made, and
/// seldom again.
const REF_COUNT_ROOTS: usize = 4;

/// Places that are considered for a block of a space map that is lost.
const LOST_PLACES: usize = 64;

/// A space map as its bitmaps have it.
#[derive(Debug)]
pub(super) struct SpaceMap {
    /// `None` if it is lost.
    pub(super) index: Option<BlockNr>,
    pub(super) bitmaps: Vec<BlockNr>,
    /// What it counts, but for the superblock, the bitmaps and the index; `None` if some of that
    /// cannot be read, or it counts what a clone never does.
    counted: Option<Digest>,
}

impl SpaceMap {
    /// Its bitmaps, and its index.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockNr> + '_ {
        self.bitmaps.iter().copied().chain(self.index)
    }
}

/// All space maps of a device of which enough is left.
#[derive(Debug)]
pub(super) struct SpaceMaps {
    maps: Vec<SpaceMap>,
    by_digest: HashMap<Digest, Vec<usize>>,
    /// Those of which only the bitmap is left.
    without_index: Vec<usize>,
    /// Where the tree of large counts may be.
    ref_counts: Vec<BlockNr>,
    /// Where an index may have been of which only the bitmap is left.
    lost: HashMap<Digest, BlockNr>,
    last_counted: Option<BlockNr>,
}

/// What the bitmaps count that have been read, by place and number: most commits share most of
/// their bitmaps with others.
type Known = HashMap<(BlockNr, usize), Option<Counted>>;

impl SpaceMaps {
    pub(super) fn of<D: ReadDevice + ?Sized>(device: &D, scan: &Scan) -> Self {
        let reader = DeviceReader(device);
        let mut found = Self {
            maps: Vec::new(),
            by_digest: HashMap::new(),
            without_index: Vec::new(),
            ref_counts: Vec::new(),
            lost: HashMap::new(),
            last_counted: None,
        };
        let mut known = Known::new();
        let mut referred = HashSet::new();
        for index in scan.all(Kind::Index) {
            let Ok(disk) = reader.read::<IndexBlock>(index) else { continue };
            let used = disk.entries.iter().take_while(|entry| !entry.is_unused());
            let bitmaps: Vec<_> = used.map(|entry| BlockNr(entry.blocknr.get())).collect();
            referred.extend(bitmaps.iter().copied());
            found.add(&reader, &mut known, Some(index), bitmaps);
        }
        // With more than one bitmap, nobody knows which of them belong together.
        for at in scan.all(Kind::Bitmap).filter(|at| !referred.contains(at)) {
            found.add(&reader, &mut known, None, vec![at]);
        }
        found
    }

    /// What blocks that are lost may have been, once it is known which are.
    pub(super) fn find_lost(&mut self, scan: &Scan) {
        self.ref_counts = ref_count_roots(scan);
        self.lost = lost_places(scan).map(|at| (Digest::of(at), at)).collect();
        for (number, map) in self.maps.iter().enumerate() {
            let Some(counted) = map.counted.filter(|_| map.index.is_some()) else { continue };
            for &root in &self.ref_counts {
                let tree = counted.without(Digest::of(root));
                self.by_digest.entry(tree).or_default().push(number);
            }
        }
    }

    fn add<R: Reader>(
        &mut self,
        reader: &R,
        known: &mut Known,
        index: Option<BlockNr>,
        bitmaps: Vec<BlockNr>,
    ) {
        let mut counted = Some(Digest::default().without(Digest::of(SUPERBLOCK)));
        for (number, &at) in bitmaps.iter().enumerate() {
            let part = known.entry((at, number)).or_insert_with(|| {
                let bitmap = reader.read::<Bitmap>(at).ok()?;
                Some(Counted::by(&bitmap, number))
            });
            self.last_counted = self.last_counted.max(part.and_then(|part| part.last));
            let own = |(sum, part): (Digest, Digest)| sum.and(part).without(Digest::of(at));
            counted = counted.zip(part.and_then(|part| part.digest)).map(own);
        }
        let of_index = index.map_or(Digest::default(), Digest::of);
        let counted = counted.map(|counted| counted.without(of_index));
        if index.is_none() {
            self.without_index.push(self.maps.len());
        }
        self.maps.push(SpaceMap { index, bitmaps, counted });
    }

    /// The space maps that vouch for a bitset of exactly these blocks.
    pub(super) fn vouching_for(&self, tree: Digest) -> impl Iterator<Item = &SpaceMap> {
        let whole = self.by_digest.get(&tree).into_iter().flatten().map(|&map| &self.maps[map]);
        let without_index = self.without_index.iter().map(|&map| &self.maps[map]);
        whole.chain(without_index.filter(move |map| self.lost_index(map, tree).is_some()))
    }

    /// Whether a space map that can be read whole vouches for a bitset of exactly these blocks.
    pub(super) fn vouch_for(&self, tree: Digest) -> bool {
        self.by_digest.contains_key(&tree)
    }

    /// The last block that any of them counts.
    pub(super) fn last_counted(&self) -> BlockNr {
        self.last_counted.unwrap_or_default()
    }

    /// Where the index lay of which only the bitmap is left, if the map vouches for `tree`.
    pub(super) fn lost_index(&self, map: &SpaceMap, tree: Digest) -> Option<BlockNr> {
        let rest = map.counted.filter(|_| map.index.is_none())?.without(tree);
        let of = |root: &BlockNr| self.lost.get(&rest.without(Digest::of(*root))).copied();
        self.ref_counts.iter().find_map(of)
    }

    /// Every space map.
    pub(super) fn all(&self) -> &[SpaceMap] {
        &self.maps
    }
}

/// The blocks that `map` counts, whether once or more often; none of a bitmap that cannot be read.
pub(super) fn counted_blocks<D: ReadDevice + ?Sized>(device: &D, map: &SpaceMap) -> Vec<BlockNr> {
    let mut blocks = Vec::new();
    for (number, &at) in map.bitmaps.iter().enumerate() {
        let Ok(bitmap) = DeviceReader(device).read::<Bitmap>(at) else { continue };
        let first = number * ENTRIES_PER_BITMAP;
        blocks.extend(bitmap.used().map(|(entry, _)| BlockNr((first + entry) as u64)));
    }
    blocks
}

/// What a bitmap counts.
#[derive(Clone, Copy)]
struct Counted {
    /// `None` if it counts something more than once, which the bitmaps of a clone never do.
    digest: Option<Digest>,
    last: Option<BlockNr>,
}

impl Counted {
    /// What bitmap `number` counts.
    fn by(bitmap: &BitmapDisk, number: usize) -> Self {
        let mut counted = Self { digest: Some(Digest::default()), last: None };
        for (entry, bits) in bitmap.used() {
            let at = BlockNr((number * ENTRIES_PER_BITMAP + entry) as u64);
            let once = counted.digest.filter(|_| bits == RefCountBits::One);
            counted.digest = once.map(|sum| sum.and(Digest::of(at)));
            counted.last = Some(at);
        }
        counted
    }
}

/// Where the root of the tree of large counts may lie.
fn ref_count_roots(scan: &Scan) -> Vec<BlockNr> {
    let found: Vec<_> = scan.all(Kind::RefCounts).take(REF_COUNT_ROOTS).collect();
    if found.is_empty() { lost_places(scan).collect() } else { found }
}

/// Where a block may have been that is lost.
fn lost_places(scan: &Scan) -> impl Iterator<Item = BlockNr> + '_ {
    let above = scan.top().map_or(1, |top| top.0 + 1);
    let next = (above..scan.nr_blocks()).take(1).map(BlockNr);
    scan.damaged().iter().chain(next).take(LOST_PLACES)
}
