//! A file or a block device of this machine.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;

use clone_core::content::ReadData;
use clone_core::driver::{Access, Extent, FileSource, Source, SourceChanged};
use clone_core::target::DeviceLimits;
use persistent_data::device::OpenError;
use rustix::fs::{major, minor};

use super::identity::{Identity, Version};

/// A file or a block device, and whether it is still what it was.
///
/// A file is looked at after each read: `fstat` costs less than the read, and the kernel sets the
/// time of a change before it puts the new bytes where a read can find them. Not seen are changes
/// within the same tick of the file system's clock (milliseconds) as the change before, further
/// writes through a mapping that has been written through already, and times that somebody sets
/// back.
///
/// Of a block device nothing can be seen: whoever writes to it leaves no trace.
pub(super) struct Local {
    file: FileSource,
    identity: Identity,
    changed: OnceLock<SourceChanged>,
}

impl Local {
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        let file = FileSource::open(path, access)?;
        let metadata = file.metadata().map_err(|error| OpenError::new(path, error))?;
        let size_bytes = file.size_bytes();
        let identity = Identity { size_bytes, version: version(&metadata) };
        Ok(Self { file, identity, changed: OnceLock::new() })
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn limits(&self) -> DeviceLimits {
        self.file.limits()
    }

    /// Fails if it is not what it was; for ever after the first time.
    fn check(&self) -> io::Result<()> {
        if let Some(changed) = self.changed.get() {
            return Err(changed.clone().into());
        }
        // What is written to a block device does not show.
        if matches!(self.identity.version, Version::Device { .. }) {
            return Ok(());
        }
        let metadata = self.file.metadata()?;
        let now = Identity { size_bytes: metadata.len(), version: version(&metadata) };
        let Some(difference) = self.identity.difference(&now) else { return Ok(()) };
        Err(self.changed.get_or_init(|| SourceChanged(difference)).clone().into())
    }
}

impl ReadData for Local {
    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_at(offset, into);
        // One that has become shorter has changed first of all.
        self.check().and(read)
    }
}

impl Source for Local {
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

/// What the system calls a block device wherever it is plugged in: the UUID of a device-mapper
/// device, or what the hardware says; with the number of the partition, if it is one.
fn serial(device: u64) -> Option<String> {
    let folder = format!("/sys/dev/block/{}:{}", major(device), minor(device));
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

    use clone_core::content::ReadData;
    use clone_core::driver::{Access, Source, SourceChanged};

    use super::Local;
    use crate::source::identity::Version;

    #[test]
    fn a_file_that_changes_is_not_read_any_more_even_if_it_changes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source");
        fs::write(&path, [1; 8192]).unwrap();
        // Away from the tick in which it was written.
        let before = SystemTime::now() - Duration::from_secs(60);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(before).unwrap();
        let local = Local::open(&path, Access::Buffered).unwrap();
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
        let local = Local::open(&path, Access::Buffered).unwrap();
        let other = folder.path().join("other");
        fs::write(&other, [2; 8192]).unwrap();
        fs::rename(&path, folder.path().join("old")).unwrap();
        fs::rename(&other, &path).unwrap();
        let mut bytes = [0; 512];
        local.read_at(4096, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 512]);
        let new = Local::open(&path, Access::Buffered).unwrap();
        assert!(local.identity().difference(new.identity()).is_some());

        File::options().write(true).open(folder.path().join("old")).unwrap().set_len(512).unwrap();
        let told = local.read_at(4096, &mut bytes).unwrap_err();
        let told = SourceChanged::of(&told).unwrap();
        assert_eq!(told.0, "it had 8192 bytes, and has 512");
    }
}
