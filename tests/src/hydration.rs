//! Random operations on clone metadata, checked against a set of hydrated regions.

use std::collections::BTreeSet;
use std::ops::Range;

use clone_core::geometry::{Geometry, RegionRange, RegionSize, Sectors};
use clone_core::metadata::check::read;
use clone_core::metadata::damage::Damage;
use clone_core::metadata::ir::Header;
use clone_core::metadata::superblock::{Superblock, SuperblockError};
use clone_core::metadata::{Metadata, MetadataError};
use persistent_data::array::ArrayBlockRef;
use persistent_data::btree::{NodeDamage, NodeView, WalkVisitor, walk};
use persistent_data::device::{Device, ReadDevice};
use persistent_data::format::SpaceMapRoot;
use persistent_data::sim::SimDisk;
use persistent_data::space_map::walk::SpaceMapReading;
use persistent_data::store::DeviceReader;
use persistent_data::transaction::SUPERBLOCK;
use persistent_data::{BlockNr, Error};
use rand::RngExt;
use rand::rngs::StdRng;
use zerocopy::little_endian as le;

use crate::watch::Watch;

/// Content of clone metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The sizes of the clone.
    pub geometry: Geometry,
    /// The hydrated regions, as maximal runs.
    pub runs: Vec<RegionRange>,
}

/// Reads and checks the metadata on a device. Returns `None` if the device is not formatted.
///
/// # Errors
/// A description of the damage.
pub fn inspect<D: ReadDevice>(device: &D) -> Result<Option<Held>, String> {
    let report = read(device, &());
    match report.damage[..] {
        [] => {}
        [Damage::Superblock(SuperblockError::Unformatted | SuperblockError::Unfinished)] => {
            return Ok(None);
        }
        _ => return Err(format!("{:?}", report.damage)),
    }
    let geometry = report.header().ok_or("no superblock")?.geometry;
    let runs = report.regions.ok_or("no regions")?.runs().collect();
    Ok(Some(Held { geometry, runs }))
}

/// [Inspects](inspect) a disk without leaving a trace in its log.
///
/// # Errors
/// A description of the damage.
pub fn recover(disk: &SimDisk) -> Result<Option<Held>, String> {
    inspect(&disk.live_image())
}

/// Returns all blocks of the metadata. Its counts may be wrong, but nothing else.
pub fn reachable<D: ReadDevice>(device: &D) -> BTreeSet<BlockNr> {
    let superblock = Superblock::read(device).expect("a superblock");
    let reader = DeviceReader(device);
    let mut reached = Reached(BTreeSet::from([SUPERBLOCK]));
    walk::<ArrayBlockRef<le::U64>, _>(&reader, superblock.bitset_root, &mut reached);
    let root = SpaceMapRoot::from_area(&superblock.space_map_root);
    let refer = |at| reached.0.insert(at);
    SpaceMapReading::read(&reader, root, device.nr_blocks(), refer, |_| {}).expect("a space map");
    reached.0
}

struct Reached(BTreeSet<BlockNr>);

impl WalkVisitor<ArrayBlockRef<le::U64>> for Reached {
    fn node(&mut self, at: BlockNr, _: &Range<u64>) -> bool {
        self.0.insert(at)
    }

    fn leaf(&mut self, _: BlockNr, _: &Range<u64>, leaf: &NodeView<'_, ArrayBlockRef<le::U64>>) {
        self.0.extend(leaf.entries().map(|(_, block)| block.at()));
    }

    fn damage(&mut self, damage: NodeDamage) {
        panic!("{damage:?}");
    }
}

/// Returns the header of a clone of `nr_regions` regions; the last one is short.
pub fn header(nr_regions: u64) -> Header {
    let region_size = RegionSize::new(Sectors(8)).expect("a region size");
    let geometry = Geometry::new(region_size, Sectors(8 * nr_regions - 3)).expect("a geometry");
    Header { uuid: [0; 16], geometry }
}

/// Returns the maximal runs of set bits in `bits`.
pub fn runs_of(bits: &[bool]) -> Vec<RegionRange> {
    let mut runs: Vec<RegionRange> = Vec::new();
    let mut first = 0;
    for piece in bits.chunk_by(|a, b| a == b) {
        let end = first + piece.len() as u64;
        if piece[0] {
            runs.push(first..end);
        }
        first = end;
    }
    runs
}

/// Open metadata, its expected content, and a watch on its device.
#[derive(Debug)]
pub struct Hydration<D, W> {
    device: D,
    metadata: Metadata<D>,
    geometry: Geometry,
    /// The expected hydrated regions.
    pub regions: Vec<bool>,
    /// The expected hydrated regions of the last commit.
    pub committed: Vec<bool>,
    /// The watch, which runs after each step.
    pub watch: W,
    may_run_out: bool,
    /// Number of operations that ran out of space.
    pub ran_out: u64,
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

impl<D: Device + Clone, W: Watch<Option<Held>>> Hydration<D, W> {
    /// Formats a device and opens its metadata. The old content is lost.
    ///
    /// # Errors
    /// The broken rule.
    pub fn format(device: D, header: Header, mut watch: W) -> Result<Self, String> {
        let before = inspect(&device)?;
        let formatted = Metadata::format(device.clone(), header);
        let empty = Some(Held { geometry: header.geometry, runs: vec![] });
        watch.look(&[&before, &None, &empty])?;
        formatted.map_err(text)?;
        watch.look(&[&empty])?;
        Self::resume(device, watch)
    }

    /// Opens the metadata that the device holds.
    ///
    /// # Errors
    /// The broken rule.
    pub fn resume(device: D, mut watch: W) -> Result<Self, String> {
        let held = inspect(&device)?.ok_or("the device is not formatted")?;
        watch.committed(&reachable(&device))?;
        let metadata = Metadata::open(device.clone()).map_err(text)?;
        if metadata.header().geometry != held.geometry {
            return Err(format!("{:?} was opened, not {:?}", metadata.header(), held.geometry));
        }
        let mut regions = vec![false; held.geometry.nr_regions() as usize];
        for run in held.runs {
            regions[run.start as usize..run.end as usize].fill(true);
        }
        let (geometry, committed) = (held.geometry, regions.clone());
        let (may_run_out, ran_out) = (false, 0);
        Ok(Self { device, metadata, geometry, regions, committed, watch, may_run_out, ran_out })
    }

    /// Allows the device to be too small.
    pub fn may_run_out(self) -> Self {
        Self { may_run_out: true, ..self }
    }

    fn held(&self, regions: &[bool]) -> Option<Held> {
        Some(Held { geometry: self.geometry, runs: runs_of(regions) })
    }

    /// Performs a random operation.
    ///
    /// # Errors
    /// The broken rule.
    pub fn step(&mut self, rng: &mut StdRng) -> Result<(), String> {
        match rng.random_range(0..100) {
            0..=19 => self.commit()?,
            20..=25 => {
                let dropped = self.metadata.prepare().map(|_| ());
                self.watch.look(&[&self.held(&self.committed)])?;
                self.survive(dropped)?;
            }
            26..=30 => self.abort()?,
            31..=35 => {
                self.regions.clone_from(&self.committed);
                self.metadata = Metadata::open(self.device.clone()).map_err(text)?;
            }
            _ => self.hydrate(rng)?,
        }
        let nr_hydrated = self.regions.iter().filter(|&&hydrated| hydrated).count() as u64;
        assert_eq!(self.metadata.nr_hydrated(), nr_hydrated);
        assert_eq!(self.metadata.has_changes(), self.regions != self.committed);
        for _ in 0..4 {
            let region = rng.random_range(0..self.regions.len());
            assert_eq!(self.metadata.is_hydrated(region as u64), self.regions[region], "{region}");
        }
        Ok(())
    }

    fn hydrate(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let nr_regions = self.regions.len() as u64;
        let start = rng.random_range(0..nr_regions);
        let most = [1, 4, 100, nr_regions][rng.random_range(0..4)];
        let run = start..start + rng.random_range(0..=most);
        let set = self.metadata.set_hydrated(run.clone());
        if run.end > nr_regions {
            assert!(matches!(set, Err(MetadataError::Regions { .. })), "{set:?}");
        } else {
            set.map_err(text)?;
            self.regions[run.start as usize..run.end as usize].fill(true);
        }
        self.watch.look(&[&self.held(&self.committed)])
    }

    fn survive(&mut self, result: Result<(), MetadataError>) -> Result<(), String> {
        match result {
            Err(MetadataError::Blocks(Error::NoSpace)) if self.may_run_out => {
                self.ran_out += 1;
                self.abort()
            }
            result => result.map_err(text),
        }
    }

    /// Commits, and checks the device before and after.
    ///
    /// # Errors
    /// The broken rule.
    pub fn commit(&mut self) -> Result<(), String> {
        let (before, after) = (self.held(&self.committed), self.held(&self.regions));
        let prepared = match self.metadata.prepare() {
            Ok(prepared) => prepared,
            Err(error) => return self.survive(Err(error)),
        };
        self.watch.look(&[&before])?;
        prepared.commit().map_err(text)?;
        self.watch.look(&[&before, &after])?;
        self.watch.look(&[&after])?;
        self.committed.clone_from(&self.regions);
        let found = inspect(&self.device)?;
        if found != after {
            return Err(format!("{found:?} instead of {after:?}"));
        }
        let reachable = reachable(&self.device);
        let (used, _) = self.metadata.block_use();
        assert_eq!(used, reachable.len() as u64);
        self.watch.committed(&reachable)
    }

    fn abort(&mut self) -> Result<(), String> {
        self.metadata.abort().map_err(text)?;
        self.regions.clone_from(&self.committed);
        let committed = self.held(&self.committed);
        self.watch.look(&[&committed])?;
        let found = inspect(&self.device)?;
        if found == committed { Ok(()) } else { Err(format!("{found:?} after an abort")) }
    }
}
