//! What a clone is to be made of, as people say it.

use std::path::{Path, PathBuf};

use clone_core::dm_target::{Arguments, TableError, TableLine};
use clone_core::engine::{Discards, Settings};
use clone_core::geometry::{Geometry, RegionSize, SECTOR_SIZE, Sectors};
use thiserror::Error;

use crate::source::{SourceSpec, SpecError};

/// What a clone is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneSpec {
    /// What it is called.
    pub name: String,
    /// Where it is kept which regions are hydrated: a block device or a file.
    pub metadata: PathBuf,
    /// What is copied to: a block device or a file.
    pub destination: PathBuf,
    /// What is copied.
    pub source: SourceSpec,
    /// How long it is; as long as the source if nothing is said.
    pub length: Option<Sectors>,
    /// The region size; that of the metadata if nothing is said.
    pub region_size: Option<RegionSize>,
    /// How it is to go about it.
    pub tuning: Tuning,
    /// Where it is noted, at the end, what was read and in which order.
    pub record: Option<PathBuf>,
    /// What was noted so, and is to be copied first.
    pub prefetch: Option<PathBuf>,
    /// Whether the source is taken for the one that the clone was begun with, whatever was noted
    /// then.
    pub repin: bool,
}

/// What can be set on a clone. What is `None` is left to [`Tuning::settings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Whether regions are copied in the background.
    pub hydration: bool,
    /// Whether discards go on to the destination.
    pub discard_passdown: bool,
    /// The most regions that are copied at a time.
    pub hydration_threshold: Option<u32>,
    /// The most regions that are copied in one go.
    pub hydration_batch_size: Option<u32>,
    /// The most bytes a second that are copied in the background.
    pub hydration_rate: Option<u64>,
    /// Whether reads hydrate what they read; by default if the source is far away.
    pub hydrate_on_read: Option<bool>,
    /// After so many failed copies in a row hydration stops; 0 for never.
    pub max_failures: Option<u32>,
    /// Whether a discard of what is not hydrated reads as zeroes, rather than as whatever the
    /// destination holds.
    pub discard_zeroes: bool,
    /// Whether source and destination are read and written past the page cache.
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

/// The most that is copied in one go, in bytes, and how many of these at a time. What comes from
/// near should still be in the processor's cache when it is written; what comes from afar takes its
/// time, whatever its size, so that there must be more of it under way.
const NEAR: (u64, u32) = (1 << 20, 4);
const FAR: (u64, u32) = (2 << 20, 16);

impl Tuning {
    /// The settings of the engine for a clone of these sizes.
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

/// Why something does not say what a clone is made of.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpecificationError {
    /// It is no table line.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The source is no source.
    #[error(transparent)]
    Source(#[from] SpecError),
    /// A part of it is missing.
    #[error("a clone takes --metadata, --destination and --source, or --table")]
    Incomplete,
    /// A name that no clone can have.
    #[error(
        "{0:?} cannot be the name of a clone: a name has 1 to {NAME_MAX} letters, digits and \
         #+-.:=@_ and begins with none of -."
    )]
    Name(String),
    /// There is no name, and none can be made up.
    #[error("{0:?} has no name that the clone could have; give it one with --name")]
    NoName(PathBuf),
}

/// The most bytes of a name: what device-mapper takes (`DM_NAME_LEN`, less the end).
pub const NAME_MAX: usize = 127;

/// Checks that a clone may be called `name`. A name is the name of an export, of a file, and in
/// messages; so there is little that it may hold, which is what device-mapper takes unquoted.
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

/// The name of a clone that nobody has named: that of its destination, with `_` for what a name
/// cannot hold.
///
/// # Errors
/// [`SpecificationError::NoName`].
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
    /// The clone of a table line: the kernel's, word for word; `0 <length>` before the word `clone`
    /// may be left out, and then the clone is as long as its source.
    ///
    /// # Errors
    /// [`SpecificationError`].
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

/// A source as it is written: what is no URI may be a device like the others.
pub(crate) fn source(text: &str) -> Result<SourceSpec, SpecificationError> {
    Ok(match text.parse()? {
        SourceSpec::Path(_) => SourceSpec::Path(device_path(text)),
        far => far,
    })
}

/// The path of a device: as it is, by `major:minor`, which the kernel takes too, or by one of the
/// names that `fstab` knows.
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
