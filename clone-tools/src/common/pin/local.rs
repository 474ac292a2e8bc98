//! A local file or block device as a source with a fixed version.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, SystemTime};

use clone_core::block_io::ReadData;
use clone_core::block_io::{Access, Extent, FileSource, Source, SourceChanged};
use clone_core::dm_target::DeviceLimits;
use persistent_data::device::OpenError;

use super::identity::{Identity, Version};

/// A file or block device that fails all reads once it has changed.
///
/// A file is checked after each read: `fstat` costs less than the read, and the kernel updates the
/// modification time before the new bytes become readable. Some changes are not detected, or not at
/// once: later writes through a mapping that has already been written through, modification times
/// that are set back, and changes that another machine makes to a file on a network file system.
///
/// Changes to a block device are never detected: a write to it leaves no trace.
pub struct LocalSource {
    file: FileSource,
    identity: Identity,
    changed: OnceLock<SourceChanged>,
}

impl LocalSource {
    /// Opens the file or block device at `path` and records its current version.
    ///
    /// If a file changed just now, it waits until the next change gets a different time: up to 2
    /// seconds, and up to three times if the file keeps changing.
    ///
    /// # Errors
    /// Any [`OpenError`] except [`InUse`](OpenError::InUse).
    pub fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        let file = FileSource::open(path, access)?;
        let metadata = settled(&file).map_err(|error| OpenError::new(path, error))?;
        let identity = Identity { size_bytes: file.size_bytes(), version: version(&metadata) };
        let source = Self { file, identity, changed: OnceLock::new() };
        // The size may have changed since the file was opened.
        source.check().map_err(|error| OpenError::new(path, error))?;
        Ok(source)
    }

    /// Returns the version that was opened.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the device limits that a clone needs.
    pub fn limits(&self) -> DeviceLimits {
        self.file.limits()
    }

    /// Checks that the file is unchanged. After the first failure it always fails.
    ///
    /// # Errors
    /// [`SourceChanged`] inside the [`io::Error`] if the file has changed; an I/O error if it
    /// cannot be examined.
    pub fn check(&self) -> io::Result<()> {
        if let Some(changed) = self.changed.get() {
            return Err(changed.clone().into());
        }
        // Writes to a block device cannot be detected.
        if matches!(self.identity.version, Version::Device { .. }) {
            return Ok(());
        }
        let metadata = self.file.metadata()?;
        let now = Identity { size_bytes: metadata.len(), version: version(&metadata) };
        let Some(difference) = self.identity.difference(&now) else { return Ok(()) };
        Err(self.changed.get_or_init(|| SourceChanged(difference)).clone().into())
    }
}

/// Returns the metadata of a file once its modification time is older than a clock tick: a later
/// change within the same tick would get the same time.
fn settled(file: &FileSource) -> io::Result<Metadata> {
    let mut metadata = file.metadata()?;
    // If the file changes all the time, a later check detects that.
    for _ in 0..3 {
        let Some(wait) = time_to_settle(&metadata, SystemTime::now()) else { break };
        thread::sleep(wait);
        metadata = file.metadata()?;
    }
    Ok(metadata)
}

/// Returns the time until a change is sure to get a different modification time; `None` if it
/// already is.
fn time_to_settle(metadata: &Metadata, now: SystemTime) -> Option<Duration> {
    if !metadata.is_file() {
        return None;
    }
    // Kernel ticks take 10 ms at most. Some file systems store times in whole seconds, or in steps
    // of two.
    let tick = match metadata.mtime_nsec() {
        0 => Duration::from_secs(2),
        _ => Duration::from_millis(20),
    };
    let age = now.duration_since(metadata.modified().ok()?).ok()?;
    tick.checked_sub(age).filter(|wait| !wait.is_zero())
}

impl ReadData for LocalSource {
    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_at(offset, into);
        // A file that became shorter is reported as changed, not as a failed read.
        self.check().and(read)
    }
}

impl Source for LocalSource {
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let extent = self.file.extent(offset);
        self.check().and(extent)
    }
}

fn version(metadata: &Metadata) -> Version {
    if metadata.file_type().is_block_device() {
        return Version::Device { serial: serial(metadata.rdev()) };
    }
    Version::File {
        seconds: metadata.mtime(),
        nanoseconds: metadata.mtime_nsec(),
        inode: metadata.ino(),
    }
}

/// Returns a serial of a block device that survives detaching it: the UUID of a device-mapper
/// device or the ID of the hardware, and the number of the partition if it is one.
fn serial(device: u64) -> Option<String> {
    let folder = format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device));
    let read = |name: &str| {
        let text = fs::read_to_string(format!("{folder}/{name}")).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let of = |above: &str| {
        ["dm/uuid", "wwid", "device/wwid", "serial", "device/serial"]
            .iter()
            .find_map(|name| read(&format!("{above}{name}")))
    };
    match read("partition") {
        Some(partition) => of("../").map(|serial| format!("{serial}, partition {partition}")),
        None => of(""),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;
    use std::time::{Duration, SystemTime};

    use clone_core::block_io::ReadData;
    use clone_core::block_io::{Access, Source, SourceChanged};

    use super::{LocalSource, time_to_settle};
    use crate::common::pin::Version;

    #[test]
    fn a_file_that_changes_is_not_read_any_more_even_if_it_changes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source");
        fs::write(&path, [1; 8192]).unwrap();
        // Moves the time out of the tick in which the file was written.
        let before = SystemTime::now() - Duration::from_secs(60);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(before).unwrap();
        let local = LocalSource::open(&path, Access::Buffered).unwrap();
        assert!(matches!(local.identity().version, Version::File { .. }));
        let mut bytes = [0; 512];
        local.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 512]);

        file.write_all_at(&[2; 10], 8000).unwrap();
        let told = local.read_at(0, &mut bytes).unwrap_err();
        let told = SourceChanged::of(&told).unwrap().clone();
        assert!(told.0.contains("inode"), "{told}");
        file.set_modified(before).unwrap();
        let again = local.extent(0).unwrap_err();
        assert_eq!(SourceChanged::of(&again), Some(&told));
    }

    #[test]
    fn a_file_that_is_cut_off_has_changed_and_one_that_is_replaced_has_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source");
        fs::write(&path, [1; 8192]).unwrap();
        let local = LocalSource::open(&path, Access::Buffered).unwrap();
        let other = folder.path().join("other");
        fs::write(&other, [2; 8192]).unwrap();
        fs::rename(&path, folder.path().join("old")).unwrap();
        fs::rename(&other, &path).unwrap();
        let mut bytes = [0; 512];
        local.read_at(4096, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 512]);
        let new = LocalSource::open(&path, Access::Buffered).unwrap();
        assert!(local.identity().difference(new.identity()).is_some());

        File::options().write(true).open(folder.path().join("old")).unwrap().set_len(512).unwrap();
        let told = local.read_at(4096, &mut bytes).unwrap_err();
        let told = SourceChanged::of(&told).unwrap();
        assert_eq!(told.0, "it had 8192 bytes, and has 512");
    }

    #[test]
    fn a_second_change_within_a_tick_of_the_clock_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        for change in 2..30 {
            let source = LocalSource::open(&path, Access::Buffered).unwrap();
            file.write_all_at(&[change], 0).unwrap();
            let told = source.read_at(0, &mut [0]).unwrap_err();
            assert!(SourceChanged::of(&told).is_some(), "change {change}: {told}");
        }
        // File systems with whole seconds need a longer wait.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let wait = |age: Duration| {
            file.set_modified(now - age).unwrap();
            time_to_settle(&file.metadata().unwrap(), now)
        };
        assert_eq!(wait(Duration::from_secs(1)), Some(Duration::from_secs(1)));
        assert_eq!(wait(Duration::from_secs(2)), None);
        assert_eq!(wait(Duration::from_millis(15)), Some(Duration::from_millis(5)));
        assert_eq!(wait(Duration::from_millis(25)), None);
        file.set_modified(now + Duration::from_millis(5)).unwrap();
        assert_eq!(time_to_settle(&file.metadata().unwrap(), now), None);
    }
}
