//! A clone with data: source and destination are files with [content] that identifies its author.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::content::{self, SOURCE};
use crate::context::Context;
use crate::guest::CloneLine;
use crate::images::Images;
use crate::script::{Model, Regions};
use crate::vm::{Disk, Vm};

/// The seed of the destination's initial content. A read of the clone that returns it has read from
/// the wrong device.
pub const GARBAGE: u64 = SOURCE + 1;

/// The seed of data that was on the destination before the scenario began.
pub const WRITTEN: u64 = SOURCE + 2;

/// The three files of a clone.
#[derive(Clone, Debug)]
pub struct DataClone {
    /// Its regions.
    pub regions: Regions,
    /// The metadata.
    pub metadata: PathBuf,
    /// The destination.
    pub destination: PathBuf,
    /// The source.
    pub source: PathBuf,
}

impl DataClone {
    /// Creates the files of a clone with no hydrated region and the content of `images`, and empty
    /// metadata of `metadata` sectors. The source has holes where it is zero.
    ///
    /// # Errors
    /// If they cannot be created.
    pub fn of(context: &Context<'_>, name: &str, images: &Images, metadata: u64) -> Result<Self> {
        let file = |what: &str, sectors: &[u64]| -> Result<PathBuf> {
            let full = context.path(&format!("{name}.{what}-without-holes"));
            content::write_sectors(&full, sectors)?;
            let path = context.copy(&full, &format!("{name}.{what}"))?;
            fs::remove_file(full)?;
            Ok(path)
        };
        Ok(Self {
            regions: images.regions(),
            metadata: context.empty(&format!("{name}.metadata"), metadata)?,
            destination: file("destination", &images.destination)?,
            source: file("source", &images.source)?,
        })
    }

    /// Removes the files.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn remove(self) -> Result<()> {
        let files = [self.metadata, self.destination, self.source];
        Ok(files.iter().try_for_each(fs::remove_file)?)
    }
}

/// A clone's disks in a guest.
#[derive(Debug)]
pub struct Attached {
    /// The clone's table line.
    pub line: CloneLine,
    disks: [Disk; 3],
}

impl DataClone {
    /// Creates the files of a clone: a source, a destination of [`GARBAGE`] with [`WRITTEN`] in the
    /// hydrated regions of `model`, and empty metadata of `metadata` sectors. Sets `model` to the
    /// resulting content of the clone.
    ///
    /// # Errors
    /// If they cannot be created.
    pub fn new(
        context: &Context<'_>,
        name: &str,
        model: &mut Model,
        metadata: u64,
    ) -> Result<Self> {
        let regions = model.regions();
        let mut destination = vec![GARBAGE; regions.target as usize];
        for run in model.runs() {
            let (begin, end) = (run.start * regions.size, run.end * regions.size);
            let sectors = begin as usize..end.min(regions.target) as usize;
            destination[sectors.clone()].fill(WRITTEN);
            model.sectors[sectors].fill(WRITTEN);
        }
        let path = context.path(&format!("{name}.destination"));
        content::write_sectors(&path, &destination)?;
        Ok(Self {
            regions,
            metadata: context.empty(&format!("{name}.metadata"), metadata)?,
            destination: path,
            source: context.filled(&format!("{name}.source"), SOURCE, regions.target)?,
        })
    }

    /// Attaches the files to a guest as disks.
    ///
    /// # Errors
    /// If the guest does not accept them.
    pub fn attach(&self, vm: &mut Vm, name: &str, options: &str) -> Result<Attached> {
        let disks =
            [vm.attach(&self.metadata)?, vm.attach(&self.destination)?, vm.attach(&self.source)?];
        let [metadata, destination, source] = disks.each_ref().map(|disk| disk.node.clone());
        let line = CloneLine {
            name: name.to_owned(),
            length: self.regions.target,
            metadata,
            destination,
            source,
            region_size: self.regions.size,
            options: options.to_owned(),
        };
        Ok(Attached { line, disks })
    }

    /// Checks that the whole destination file matches the model.
    ///
    /// # Errors
    /// The first difference.
    pub fn expect_destination(&self, model: &Model) -> Result<()> {
        let found = content::authors_of(&self.destination)?;
        expect_authors(&found, &model.sectors, self.regions)
    }

    /// Checks that the source is unchanged.
    ///
    /// # Errors
    /// The first difference.
    pub fn expect_source_untouched(&self) -> Result<()> {
        let untouched = vec![SOURCE; self.regions.target as usize];
        expect_authors(&content::authors_of(&self.source)?, &untouched, self.regions)
    }
}

impl Attached {
    /// Detaches the disks from the guest.
    ///
    /// # Errors
    /// If they are in use.
    pub fn detach(self, vm: &mut Vm) -> Result<()> {
        self.disks.iter().try_for_each(|disk| vm.detach(disk))
    }

    /// Checks that reads of the whole clone match the model.
    ///
    /// # Errors
    /// The first difference.
    pub fn expect_reads(&self, vm: &mut Vm, model: &Model) -> Result<()> {
        let found = content::spread(&vm.authors(&self.line.node())?);
        expect_authors(&found, &model.sectors, model.regions())
    }
}

/// Checks the author of each sector of a clone or of one of its devices.
///
/// # Errors
/// The first wrong sector, or a wrong number of sectors.
pub fn expect_authors(found: &[Option<u64>], expected: &[u64], regions: Regions) -> Result<()> {
    ensure!(found.len() == expected.len(), "{} sectors", found.len());
    for (sector, (found, expected)) in found.iter().zip(expected).enumerate() {
        ensure!(
            *found == Some(*expected),
            "sector {sector} of region {} should be by {expected:#x}, and is by {found:x?}",
            sector as u64 / regions.size
        );
    }
    Ok(())
}
