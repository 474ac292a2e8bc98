//! Writes metadata to a device or file whose content is discarded, or to a new file.
//!
//! `clone_restore`, `clone_repair` and `clone_hydrate` use it: [`MetadataPlace::find`] checks the
//! output without changing it, [`MetadataPlace::open`] opens it, and [`MetadataOutput`] writes and
//! verifies it.
//! *Invariant:* an incomplete output has a mark in place of the superblock that the kernel and all
//! tools refuse.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clone_core::geometry::{Geometry, RegionRange, Sectors};
use clone_core::metadata::check::read;
use clone_core::metadata::ir::Header;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_core::metadata::region_map::RegionMap;
use clone_core::metadata::restore::{restore, restore_map};
use clone_core::progress::Progress;
use persistent_data::device::{FileDevice, MemoryDevice, ReadDevice};
use persistent_data::transaction::wipe_superblock;

use crate::common::output::sync_folder;
use crate::common::paths::folder_of;
use crate::common::room::{self, Room};
use crate::common::units::sectors_of_blocks;
use crate::common::units::{Counted, in_units};

/// An output that is suitable for the metadata of a clone, and still unchanged.
pub struct MetadataPlace<'a> {
    path: &'a Path,
    has: Has,
}

/// The object that exists at a [`MetadataPlace`].
enum Has {
    /// A device or file, opened exclusively so that it cannot be taken in the meantime.
    Device(FileDevice),
    /// Nothing: a file of this size will be created.
    Nothing(Sectors),
}

impl<'a> MetadataPlace<'a> {
    /// Examines `path` without changing it. A file that does not exist will be created with `size`,
    /// or with the recommended size.
    ///
    /// # Errors
    /// The output cannot be opened, is too small, does not match `size`, is a dangling symbolic
    /// link, or its folder does not exist.
    pub fn find(path: &'a Path, geometry: Geometry, size: Option<Sectors>) -> Result<Self> {
        let needs = MetadataSize::of(geometry);
        let metadata = fs::metadata(path);
        if metadata.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Self::to_be_made(path, size, &needs);
        }
        let device = FileDevice::open_write(path)?;
        let has = sectors_of_blocks(device.nr_blocks());
        let in_words = match device.nr_blocks() {
            0 => Counted(device.size_bytes(), "byte").to_string(),
            _ => in_units(has),
        };
        check_size(path, has, &in_words, &needs)?;
        match size {
            Some(size) if device.size_bytes() != size.to_bytes().unwrap_or(0) => bail!(
                "{} exists and has {}: --metadata-size is only for a new file",
                path.display(),
                in_units(has)
            ),
            _ => Ok(Self { path, has: Has::Device(device) }),
        }
    }

    fn to_be_made(path: &'a Path, size: Option<Sectors>, needs: &MetadataSize) -> Result<Self> {
        let size = size.unwrap_or(sectors_of_blocks(needs.total_blocks()));
        check_size(path, size, &in_units(size), needs)?;
        refuse_link(path)?;
        let folder = folder_of(path);
        if !folder.is_dir() {
            let (path, folder) = (path.display(), folder.display());
            bail!("cannot make {path}: there is no directory {folder}");
        }
        Ok(Self { path, has: Has::Nothing(size) })
    }

    /// Opens the output for writing. A new file is created now; all blocks of an existing file are
    /// allocated.
    ///
    /// # Errors
    /// The file cannot be created, or the file system has too little space.
    pub fn open(self) -> Result<MetadataOutput<'a>> {
        let path = self.path;
        let (device, made, room) = match self.has {
            Has::Device(device) => {
                let room = room::allocate(&device, path)?;
                (device, None, room)
            }
            Has::Nothing(size) => {
                let (made, room) = MadeFile::new(path, size)?;
                (FileDevice::open_write(path)?, Some(made), room)
            }
        };
        Ok(MetadataOutput { device, path, made, warning: room.warning(path) })
    }
}

/// An open output for metadata. A new file is removed again unless it is kept.
pub struct MetadataOutput<'a> {
    device: FileDevice,
    path: &'a Path,
    made: Option<MadeFile>,
    warning: Option<String>,
}

impl MetadataOutput<'_> {
    /// Returns a warning about the output for the user, if any.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Writes whole metadata in which exactly the regions of `runs` are hydrated. Until it is
    /// complete, a mark in place of the superblock makes the kernel and all tools refuse it.
    ///
    /// # Errors
    /// Reading `runs` or writing the output fails. The error describes the state of the output.
    pub fn write<E: std::error::Error + Send + Sync + 'static>(
        &self,
        header: Header,
        runs: impl IntoIterator<Item = Result<RegionRange, E>>,
        progress: &dyn Progress,
    ) -> Result<()> {
        restore(&self.device, header, runs, progress).with_context(|| self.failure())
    }

    /// [Writes](Self::write) whole metadata with the states of `regions`.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn write_map(
        &self,
        header: Header,
        regions: &RegionMap,
        progress: &dyn Progress,
    ) -> Result<()> {
        restore_map(&self.device, header, regions, progress).with_context(|| self.failure())
    }

    /// Reads the metadata back, past the page cache, and compares it. If it differs, the superblock
    /// is wiped, so that the kernel and all tools refuse the output.
    ///
    /// # Errors
    /// The output cannot be opened, or reads back damaged or different.
    pub fn verify(
        &self,
        header: &Header,
        regions: &RegionMap,
        progress: &dyn Progress,
    ) -> Result<()> {
        let verified = self.compare(header, regions, progress);
        if verified.is_err() {
            // Another error is already being reported, and the device has just failed.
            let _ = wipe_superblock(&self.device);
        }
        verified.with_context(|| self.failure())
    }

    fn compare(&self, header: &Header, regions: &RegionMap, progress: &dyn Progress) -> Result<()> {
        let device = FileDevice::open_live(self.path)?;
        let report = read(&device, progress);
        if let Some(damage) = report.damage.first() {
            bail!("the metadata was written, but reads back damaged: {damage}");
        }
        if report.header() != Some(*header) || report.regions.as_ref() != Some(regions) {
            bail!("the metadata was written, but reads back different");
        }
        Ok(())
    }

    /// Returns the size of the device or file.
    pub fn size(&self) -> Sectors {
        sectors_of_blocks(self.device.nr_blocks())
    }

    /// Returns the context of an error: the state of the output.
    fn failure(&self) -> String {
        let path = self.path.display();
        match &self.made {
            Some(_) => format!("cannot write {path}, which was removed again"),
            None => format!("cannot write {path}; do not use what it holds now"),
        }
    }

    /// Keeps a new file and syncs its name.
    ///
    /// # Errors
    /// The name of the file may not survive a crash.
    pub fn keep(self) -> Result<()> {
        self.keep_open().map(drop)
    }

    /// Keeps a new file like [`keep`](Self::keep), and returns the device, which stayed open
    /// exclusively.
    ///
    /// # Errors
    /// As for [`keep`](Self::keep).
    pub fn keep_open(mut self) -> Result<FileDevice> {
        if let Some(made) = self.made.take() {
            made.keep().with_context(|| self.path.display().to_string())?;
        }
        Ok(self.device)
    }
}

/// Refuses a dangling symbolic link. It was meant to lead to a device, which may have another name
/// when it comes back.
fn refuse_link(path: &Path) -> Result<()> {
    match fs::read_link(path) {
        Ok(target) => bail!(
            "{} is a symbolic link to {}, which does not exist",
            path.display(),
            target.display()
        ),
        Err(_) => Ok(()),
    }
}

fn check_size(path: &Path, has: Sectors, in_words: &str, needs: &MetadataSize) -> Result<()> {
    let least = sectors_of_blocks(needs.least_blocks());
    if has < least {
        bail!(
            "{} has {in_words}, which is too small: the metadata takes at least {}, and \
             clone_metadata_size advises {}",
            path.display(),
            in_units(least),
            in_units(sectors_of_blocks(needs.total_blocks()))
        );
    }
    Ok(())
}

/// A newly created file. Dropping it removes the file unless it is kept.
struct MadeFile {
    path: PathBuf,
    keep: bool,
}

impl MadeFile {
    /// Creates a file with all of its blocks and with the mark of unfinished metadata. A kernel
    /// would take zeroes for a new device and format it silently; so the file is never both long
    /// enough and all zero.
    fn new(path: &Path, size: Sectors) -> Result<(Self, Room)> {
        let name = path.display();
        let bytes = size.to_bytes().filter(|&bytes| i64::try_from(bytes).is_ok());
        let Some(bytes) = bytes else {
            bail!("cannot make {name} of {}: that is larger than a file can be", in_units(size));
        };
        let mut file = File::create_new(path).with_context(|| format!("cannot make {name}"))?;
        let made = Self { path: path.to_owned(), keep: false };
        let told = || format!("cannot make {name} of {}", in_units(size));
        let marked = file
            .write_all(&unfinished()?)
            // Without this sync a power cut could leave the length without the mark.
            .and_then(|()| file.sync_data());
        marked.with_context(told)?;
        let room = room::extend(&file, path, bytes).with_context(told)?;
        Ok((made, room))
    }

    fn keep(mut self) -> io::Result<()> {
        // The metadata is whole even if syncing its name fails.
        self.keep = true;
        sync_folder(&folder_of(&self.path))
    }
}

impl Drop for MadeFile {
    fn drop(&mut self) {
        if !self.keep {
            // Another error is already being reported, and this one would add nothing.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the first block of unfinished metadata.
fn unfinished() -> Result<Vec<u8>> {
    let device = MemoryDevice::new(1);
    wipe_superblock(&device)?;
    Ok(device.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clone_core::geometry::{Geometry, RegionSize, Sectors};
    use clone_core::metadata::check::read;
    use clone_core::metadata::ir::Header;
    use persistent_data::device::{FileDevice, MemoryDevice};
    use persistent_data::transaction::is_unfinished;

    use super::{MadeFile, MetadataPlace};

    #[test]
    fn a_file_that_was_only_made_is_none_that_a_kernel_formats() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made");
        let (made, _) = MadeFile::new(&path, Sectors(24)).unwrap();
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 24 * 512);
        assert!(is_unfinished(&MemoryDevice::from_bytes(&content).to_blocks()[0]));
        drop(made);
        assert!(!path.exists());

        for sectors in [1 << 54, u64::MAX] {
            let error = MadeFile::new(&path, Sectors(sectors)).err().unwrap().to_string();
            assert!(error.contains("larger than a file can be") && !path.exists(), "{error}");
        }
    }

    #[test]
    fn a_finished_file_stays_whatever_becomes_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made");
        let (mut made, _) = MadeFile::new(&path, Sectors(24)).unwrap();
        made.path = folder.path().join("no such folder").join("made");
        let error = made.keep().unwrap_err().to_string();
        assert!(error.contains("its name may not survive a crash"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn what_reads_back_otherwise_than_it_was_written_is_left_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device");
        let region_size = RegionSize::new(Sectors(8)).unwrap();
        let geometry = Geometry::new(region_size, Sectors(800)).unwrap();
        let header = Header { uuid: [0; 16], geometry };
        let write = |runs: [std::ops::Range<u64>; 1]| {
            fs::write(&path, vec![0xa5; 64 << 12]).unwrap();
            let output = MetadataPlace::find(&path, geometry, None).unwrap().open().unwrap();
            output.write(header, runs.map(Ok::<_, std::io::Error>), &()).unwrap();
            output
        };
        let regions = |output| {
            drop(output);
            read(&FileDevice::open_read(&path).unwrap(), &()).regions.unwrap()
        };
        let other = regions(write([0..3]));
        let written = regions(write([0..4]));

        let output = write([0..4]);
        output.verify(&header, &written, &()).unwrap();
        let error = format!("{:#}", output.verify(&header, &other, &()).unwrap_err());
        assert!(
            error.contains(
                "do not use what it holds now: the metadata was written, but reads \
                                back different"
            ),
            "{error}"
        );
        drop(output);
        assert!(is_unfinished(&MemoryDevice::from_bytes(&fs::read(&path).unwrap()).to_blocks()[0]));
    }
}
