//! The description of a clone, as users give it: on a command line, as a table line or in a
//! clonetab.
//!
//! [`clonetab`](crate::config::clonetab) and the arguments of `cloned` produce a [`CloneSpec`];
//! [`opening`](crate::host::setup) consumes it.

use std::path::{Path, PathBuf};

use clone_core::dm_target::{Arguments, TableError, TableLine};
use clone_core::engine::{Discards, Settings};
use clone_core::geometry::{Geometry, RegionSize, SECTOR_SIZE, Sectors};
use thiserror::Error;

use crate::source::{SourceSpec, SpecError};

/// The description of a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneSpec {
    /// Name of the clone.
    pub name: String,
    /// The metadata: a block device or a file.
    pub metadata: PathBuf,
    /// The destination: a block device or a file.
    pub destination: PathBuf,
    /// The source.
    pub source: SourceSpec,
    /// Length in sectors. `None` means the length of the metadata, or of the source for a new
    /// clone.
    pub length: Option<Sectors>,
    /// Region size. `None` means that of the metadata, or the default for a new clone.
    pub region_size: Option<RegionSize>,
    /// Tuning options.
    pub tuning: Tuning,
    /// File that receives a trace of the reads when the clone stops.
    pub record: Option<PathBuf>,
    /// Trace file whose ranges are hydrated first.
    pub prefetch: Option<PathBuf>,
    /// True if this source is accepted as the original one, whatever the pin says.
    pub repin: bool,
}

/// Tuning options of a clone. [`Tuning::settings`] chooses a value for each `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// True if regions are hydrated in the background.
    pub hydration: bool,
    /// True if discards are passed to the destination.
    pub discard_passdown: bool,
    /// Maximum number of regions that are copied at the same time.
    pub hydration_threshold: Option<u32>,
    /// Maximum number of regions in one copy.
    pub hydration_batch_size: Option<u32>,
    /// Maximum background copy rate in bytes per second. `None` means no limit.
    pub hydration_rate: Option<u64>,
    /// True if a read hydrates the regions that it reads. Default: true for remote sources.
    pub hydrate_on_read: Option<bool>,
    /// Number of consecutive failed copies after which hydration stops; 0 for never.
    pub max_failures: Option<u32>,
    /// True if a discarded region that is not hydrated reads as zeroes; false if it reads as the
    /// content of the destination.
    pub discard_zeroes: bool,
    /// True if the source and the destination are accessed with `O_DIRECT`.
    pub direct: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            hydration: true,
            discard_passdown: true,
            hydration_threshold: None,
            hydration_batch_size: None,
            hydration_rate: None,
            hydrate_on_read: None,
            max_failures: None,
            discard_zeroes: true,
            direct: false,
        }
    }
}

/// Maximum bytes of one copy, and the number of such copies at the same time. Data from a local
/// source should still be in the processor's cache when it is written. A remote source has a high
/// latency whatever the size of a request, so more copies must be in flight.
const NEAR: (u64, u32) = (1 << 20, 4);
const FAR: (u64, u32) = (2 << 20, 16);

impl Tuning {
    /// Returns the engine settings for a clone of this geometry.
    pub fn settings(&self, geometry: Geometry, is_remote: bool) -> Settings {
        let (copy_bytes, copies) = if is_remote { FAR } else { NEAR };
        let region_bytes = geometry.region_size().sectors().0.saturating_mul(SECTOR_SIZE);
        let batch = u32::try_from((copy_bytes / region_bytes).max(1)).unwrap_or(u32::MAX);
        let mut settings = Settings {
            hydration_rate: self.hydration_rate,
            hydrate_on_read: self.hydrate_on_read.unwrap_or(is_remote),
            discards: if self.discard_zeroes { Discards::Zero } else { Discards::AsKernel },
            copy_bytes,
            copies,
            ..Settings::default()
        };
        settings.max_failures = self.max_failures.unwrap_or(settings.max_failures);
        let options = &mut settings.options;
        options.hydration = self.hydration;
        options.discard_passdown = self.discard_passdown;
        options.hydration_batch_size = self.hydration_batch_size.unwrap_or(batch);
        options.hydration_threshold =
            self.hydration_threshold.unwrap_or(batch.saturating_mul(copies));
        settings
    }
}

/// An error in the description of a clone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpecificationError {
    /// The table line is invalid.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The source is invalid.
    #[error(transparent)]
    Source(#[from] SpecError),
    /// A required argument is missing.
    #[error("a clone needs --metadata, --destination and --source, or --table")]
    Incomplete,
    /// An invalid clone name.
    #[error(
        "{0:?} cannot be the name of a clone: a name has 1 to {NAME_MAX} letters, digits and \
         #+-.:=@_ and begins with none of -."
    )]
    Name(String),
    /// No name was given, and the destination has no file name to derive one from.
    #[error("{0:?} has no file name to name the clone after; give a name with --name")]
    NoName(PathBuf),
}

/// Maximum length of a name in bytes: `DM_NAME_LEN` of device-mapper without the terminating NUL.
pub const NAME_MAX: usize = 127;

/// Checks that `name` is a valid clone name. A name becomes the name of an export and of a file,
/// and appears in messages; so only characters that device-mapper accepts unquoted are allowed.
///
/// # Errors
/// [`SpecificationError::Name`].
pub fn check_name(name: &str) -> Result<(), SpecificationError> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&byte);
    let begins = name.bytes().next().is_some_and(|first| !b"-.".contains(&first));
    if begins && name.len() <= NAME_MAX && name.bytes().all(is_fit) {
        Ok(())
    } else {
        Err(SpecificationError::Name(name.to_owned()))
    }
}

/// Derives the name of a clone from its destination: the file name, with `_` for characters that a
/// clone name cannot hold.
///
/// # Errors
/// [`SpecificationError::NoName`] if the path has no file name, or if nothing valid is left of it.
pub fn name_after(destination: &Path) -> Result<String, SpecificationError> {
    let none = || SpecificationError::NoName(destination.to_owned());
    let name = destination.file_name().ok_or_else(none)?.to_string_lossy();
    let fit = |letter: char| check_name(&format!("a{letter}")).is_ok();
    let name: String = name.chars().map(|c| if fit(c) { c } else { '_' }).collect();
    let name = name.trim_start_matches(['-', '.']);
    let name = &name[..name.len().min(NAME_MAX)];
    check_name(name).map(|()| name.to_owned()).map_err(|_| none())
}

impl CloneSpec {
    /// Parses a kernel table line. The leading `0 <length>` before the word `clone` may be omitted;
    /// then the clone is as long as its source. Without `name` the clone is named after its
    /// destination.
    ///
    /// # Errors
    /// [`SpecificationError::Table`] if the line is invalid, [`SpecificationError::Source`] if its
    /// source is, [`SpecificationError::Name`] for an invalid `name`,
    /// [`SpecificationError::NoName`] if none can be derived.
    pub fn from_table(line: &str, name: Option<&str>) -> Result<Self, SpecificationError> {
        let line = line.trim();
        let short = line.strip_prefix("clone").filter(|rest| rest.starts_with([' ', '\t']));
        let (length, arguments) = match short {
            Some(rest) => (None, Arguments::parse(rest)?),
            None => {
                let line = TableLine::parse(line)?;
                line.expect_alone()?;
                (Some(line.geometry().target_size()), line.arguments().clone())
            }
        };
        let devices = arguments.devices();
        let destination = device_path(&devices.destination);
        let name = match name {
            Some(name) => check_name(name).map(|()| name.to_owned())?,
            None => name_after(&destination)?,
        };
        let options = arguments.options();
        let tuning = Tuning {
            hydration: options.hydration,
            discard_passdown: options.discard_passdown,
            hydration_threshold: Some(options.hydration_threshold),
            hydration_batch_size: Some(options.hydration_batch_size),
            ..Tuning::default()
        };
        Ok(Self {
            name,
            metadata: device_path(&devices.metadata),
            destination,
            source: source(&devices.source)?,
            length,
            region_size: Some(arguments.region_size()),
            tuning,
            record: None,
            prefetch: None,
            repin: false,
        })
    }
}

/// Parses a source. Text that is not a URI may name a device as [`device_path`] describes.
pub(crate) fn source(text: &str) -> Result<SourceSpec, SpecificationError> {
    Ok(match text.parse()? {
        SourceSpec::Path(_) => SourceSpec::Path(device_path(text)),
        far => far,
    })
}

/// Returns the path of a device given as a path, as `major:minor` (which the kernel accepts too),
/// or as one of the tags that `fstab` knows.
pub(crate) fn device_path(text: &str) -> PathBuf {
    let tagged = [
        ("UUID=", "by-uuid"),
        ("LABEL=", "by-label"),
        ("PARTUUID=", "by-partuuid"),
        ("PARTLABEL=", "by-partlabel"),
    ];
    for (tag, folder) in tagged {
        if let Some(name) = text.strip_prefix(tag) {
            return Path::new("/dev/disk").join(folder).join(name.trim_matches('"'));
        }
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.split_once(':') {
        Some((major, minor)) if is_number(major) && is_number(minor) => {
            Path::new("/dev/block").join(text)
        }
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use clone_core::geometry::{Geometry, RegionSize, Sectors};

    use super::{CloneSpec, SpecificationError, Tuning, check_name, device_path, name_after};
    use crate::source::SourceSpec;

    #[test]
    fn a_table_line_is_the_kernels_with_or_without_its_length() {
        let line = "0 2097152 clone /dev/meta /srv/disk.img /srv/old.img 8 1 no_hydration";
        let spec = CloneSpec::from_table(line, None).unwrap();
        assert_eq!(spec.name, "disk.img");
        assert_eq!(spec.length, Some(Sectors(2_097_152)));
        assert_eq!(spec.region_size, Some(RegionSize::new(Sectors(8)).unwrap()));
        assert_eq!(spec.source, SourceSpec::Path("/srv/old.img".into()));
        assert!(!spec.tuning.hydration && spec.tuning.discard_passdown);
        assert_eq!(spec.tuning.hydration_threshold, Some(1));
        let short = "clone 8:16 PARTLABEL=home /srv/old.img 16 0 2 hydration_threshold 9";
        let spec = CloneSpec::from_table(short, Some("mine")).unwrap();
        assert_eq!((spec.length, spec.tuning.hydration_threshold), (None, Some(9)));
        assert_eq!(spec.metadata, Path::new("/dev/block/8:16"));
        assert_eq!(spec.destination, Path::new("/dev/disk/by-partlabel/home"));
        let wrong =
            ["", "clone a b", "clonea b c 8", "5 100 clone a b c 8", "0 100 linear a b c 8"];
        for line in wrong {
            let error = CloneSpec::from_table(line, None);
            assert!(matches!(error, Err(SpecificationError::Table(_))), "{line}: {error:?}");
        }
    }

    #[test]
    fn a_name_is_one_that_device_mapper_takes_too() {
        for name in ["a", "vm-1.img", "x:y=z@1", &"n".repeat(127)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "..", "a/b", "a b", "ä", "a\n", &"n".repeat(128)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert_eq!(name_after(Path::new("/a/my disk.img")).unwrap(), "my_disk.img");
        assert_eq!(name_after(Path::new("/a/.hidden")).unwrap(), "hidden");
        assert!(name_after(Path::new("/")).is_err());
        assert!(name_after(Path::new("/a/..")).is_err());
    }

    #[test]
    fn a_device_is_named_as_in_fstab_or_in_the_kernel() {
        let path = |text| device_path(text);
        assert_eq!(path("UUID=1-2"), PathBuf::from("/dev/disk/by-uuid/1-2"));
        assert_eq!(path("253:0"), PathBuf::from("/dev/block/253:0"));
        assert_eq!(path("a:b"), PathBuf::from("a:b"));
        assert_eq!(path("./253:0x"), PathBuf::from("./253:0x"));
    }

    #[test]
    fn what_is_far_away_is_copied_in_more_pieces_at_a_time_and_by_those_who_read_it() {
        let geometry =
            Geometry::new(RegionSize::new(Sectors(8)).unwrap(), Sectors(1 << 20)).unwrap();
        let near = Tuning::default().settings(geometry, false);
        let far = Tuning::default().settings(geometry, true);
        assert_eq!(near.options.hydration_batch_size, 256);
        assert_eq!(near.options.hydration_threshold, 1024);
        assert!(far.copies > near.copies && far.hydrate_on_read && !near.hydrate_on_read);
        let tuning = Tuning {
            hydration_threshold: Some(1),
            hydration_batch_size: Some(1),
            hydrate_on_read: Some(false),
            ..Tuning::default()
        };
        let told = tuning.settings(geometry, true);
        assert_eq!(told.options.hydration_threshold, 1);
        assert_eq!(told.options.hydration_batch_size, 1);
        assert!(!told.hydrate_on_read);
    }
}
