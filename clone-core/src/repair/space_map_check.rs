//! The space maps on a device, including those of old commits, and their match with bitsets: a
//! space map counts exactly the blocks of its own commit, each once.

use std::collections::{HashMap, HashSet};

use persistent_data::BlockNr;
use persistent_data::device::ReadDevice;
use persistent_data::format::{Bitmap, BitmapDisk, ENTRIES_PER_BITMAP, IndexBlock, RefCountBits};
use persistent_data::store::{DeviceReader, Reader};
use persistent_data::transaction::SUPERBLOCK;

use super::scan::{Kind, Scan};
use super::tree::Digest;

/// Maximum number of roots of the tree of large counts to consider. The tree is written when
/// metadata is created, and rarely later.
const REF_COUNT_ROOTS: usize = 4;

/// Maximum number of block numbers to consider for a lost block of a space map.
const LOST_PLACES: usize = 64;

/// A space map, as described by its bitmaps.
#[derive(Debug)]
pub(super) struct SpaceMap {
    /// Block number of the index; `None` if it is lost.
    pub(super) index: Option<BlockNr>,
    pub(super) bitmaps: Vec<BlockNr>,
    /// Digest of the counted blocks without the superblock, the bitmaps and the index. `None` if a
    /// bitmap is unreadable, or has a count above one, which does not occur in a clone.
    counted: Option<Digest>,
}

impl SpaceMap {
    /// Returns its bitmaps and its index.
    pub(super) fn blocks(&self) -> impl Iterator<Item = BlockNr> + '_ {
        self.bitmaps.iter().copied().chain(self.index)
    }
}

/// All usable space maps on a device.
#[derive(Debug)]
pub(super) struct SpaceMaps {
    maps: Vec<SpaceMap>,
    by_digest: HashMap<Digest, Vec<usize>>,
    /// Space maps without an index, of which only the bitmap is left.
    without_index: Vec<usize>,
    /// Possible roots of the tree of large counts.
    ref_counts: Vec<BlockNr>,
    /// Possible block numbers of lost indexes.
    lost: HashMap<Digest, BlockNr>,
    last_counted: Option<BlockNr>,
}

/// Cached counts of bitmaps, by block number and position: most commits share most of their bitmaps
/// with others.
type Known = HashMap<(BlockNr, usize), Option<BitmapCounts>>;

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
        // If there are several bitmaps, it is unknown which of them belong together.
        for at in scan.all(Kind::Bitmap).filter(|at| !referred.contains(at)) {
            found.add(&reader, &mut known, None, vec![at]);
        }
        found
    }

    /// Computes the possible uses of lost blocks. Called when the damaged blocks are known.
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
                Some(BitmapCounts::by(&bitmap, number))
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

    /// Returns the space maps that match a bitset of exactly these blocks.
    pub(super) fn counting(&self, tree: Digest) -> impl Iterator<Item = &SpaceMap> {
        let whole = self.by_digest.get(&tree).into_iter().flatten().map(|&map| &self.maps[map]);
        let without_index = self.without_index.iter().map(|&map| &self.maps[map]);
        whole.chain(without_index.filter(move |map| self.lost_index(map, tree).is_some()))
    }

    /// Returns whether a fully readable space map matches a bitset of exactly these blocks.
    pub(super) fn is_counted(&self, tree: Digest) -> bool {
        self.by_digest.contains_key(&tree)
    }

    /// Returns the highest block number that any of them counts.
    pub(super) fn last_counted(&self) -> BlockNr {
        self.last_counted.unwrap_or_default()
    }

    /// Returns the block number of the lost index of `map` if the map matches `tree`.
    pub(super) fn lost_index(&self, map: &SpaceMap, tree: Digest) -> Option<BlockNr> {
        let rest = map.counted.filter(|_| map.index.is_none())?.without(tree);
        let of = |root: &BlockNr| self.lost.get(&rest.without(Digest::of(*root))).copied();
        self.ref_counts.iter().find_map(of)
    }

    /// Returns all space maps.
    pub(super) fn all(&self) -> &[SpaceMap] {
        &self.maps
    }
}

/// Returns the blocks that `map` counts, once or more often, as far as its bitmaps are readable.
pub(super) fn counted_blocks<D: ReadDevice + ?Sized>(device: &D, map: &SpaceMap) -> Vec<BlockNr> {
    let mut blocks = Vec::new();
    for (number, &at) in map.bitmaps.iter().enumerate() {
        let Ok(bitmap) = DeviceReader(device).read::<Bitmap>(at) else { continue };
        let first = number * ENTRIES_PER_BITMAP;
        blocks.extend(bitmap.used().map(|(entry, _)| BlockNr((first + entry) as u64)));
    }
    blocks
}

/// The counts of a bitmap.
#[derive(Clone, Copy)]
struct BitmapCounts {
    /// Digest of the counted blocks. `None` if a count is above one, which does not occur in a
    /// clone.
    digest: Option<Digest>,
    last: Option<BlockNr>,
}

impl BitmapCounts {
    /// Collects the counts of `bitmap`, which has position `number`.
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

/// Returns the possible roots of the tree of large counts.
fn ref_count_roots(scan: &Scan) -> Vec<BlockNr> {
    let found: Vec<_> = scan.all(Kind::RefCounts).take(REF_COUNT_ROOTS).collect();
    if found.is_empty() { lost_places(scan).collect() } else { found }
}

/// Returns the possible block numbers of a lost block.
fn lost_places(scan: &Scan) -> impl Iterator<Item = BlockNr> + '_ {
    let above = scan.top().map_or(1, |top| top.0 + 1);
    let next = (above..scan.nr_blocks()).take(1).map(BlockNr);
    scan.damaged().iter().chain(next).take(LOST_PLACES)
}
