//! Opens the devices of a clone and makes it ready to start.
//!
//! [`Plan::make`] opens and checks everything and changes nothing; [`Plan::carry_out`] then makes,
//! formats and pins. [`host`](crate::host) calls both; a dry run of [`daemon`](crate::daemon) calls
//! only the first.

use std::fmt;
use std::fs;
use std::io;
use std::iter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clone_core::block_io::{Access, FileDestination};
use clone_core::dm_target::{Arguments, DeviceLimits, DevicePaths, TableLine};
use clone_core::driver::Devices;
use clone_core::engine::Settings;
use clone_core::engine::Trace;
use clone_core::geometry::{Geometry, MAX_REGIONS, RegionRange, RegionSize, SECTOR_SIZE, Sectors};
use clone_core::metadata::Metadata;
use clone_core::metadata::ir::Header;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_core::size::human;
use clone_tools::common::metadata_input::{open_clone, open_metadata_to_change};
use clone_tools::common::metadata_output::MetadataPlace;
use clone_tools::common::paths::check_devices_distinct;
use clone_tools::common::paths::folder_of;
use clone_tools::common::room;
use clone_tools::common::trace_input::read_trace;
use clone_tools::common::units::sectors_of_blocks;
use clone_tools::common::units::{Counted, Share, in_units};
use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::{FileDevice, OpenError, ReadDevice};

use self::made::make_destination;
use crate::config::clone_spec::CloneSpec;
use crate::source::{Opened, Pin, RemoteHandle, SourceOptions, pin};

mod made;
mod record;

/// A checked start of a clone: everything that it needs is opened and claimed, and fits together.
/// Nothing is changed yet.
pub struct Plan {
    spec: CloneSpec,
    line: TableLine,
    settings: Settings,
    source: Opened,
    /// The new pin of the source and its file.
    pin: Option<(PathBuf, Pin)>,
    metadata: MetadataPlan,
    destination: DestinationPlan,
    prefetch: Option<Trace>,
}

enum MetadataPlan {
    /// The path does not exist: create the file.
    Make,
    /// The superblock is all zeroes: format the device or file.
    Format(FileDevice),
    /// Metadata of this clone exists.
    Go(Box<Metadata<FileDevice>>),
}

enum DestinationPlan {
    /// The path does not exist: create the file.
    Make,
    /// The destination exists.
    Use(Arc<FileDestination>),
}

impl MetadataPlan {
    /// Creates or formats the metadata as planned. All blocks of a file are allocated, so that a
    /// commit does not fail for lack of space when the destination fills the file system.
    fn carry_out(self, spec: &CloneSpec, geometry: Geometry) -> Result<Metadata<FileDevice>> {
        let path = &spec.metadata;
        let header = Header { uuid: [0; 16], geometry };
        let (metadata, warning) = match self {
            Self::Go(metadata) => {
                // Existing metadata may not need more space, so a failure is only a warning.
                let room = room::allocate(metadata.device(), path);
                let warning = match room {
                    Ok(room) => room.warning(path),
                    Err(error) => Some(format!("{error:#}; until then a commit may fail")),
                };
                (*metadata, warning)
            }
            Self::Format(device) => {
                let warning = room::allocate(&device, path)?.warning(path);
                let metadata = Metadata::format(device, header)
                    .with_context(|| format!("cannot format {}", path.display()))?;
                (metadata, warning)
            }
            Self::Make => {
                let output = MetadataPlace::find(path, geometry, None)?.open()?;
                let warning = output.warning().map(str::to_owned);
                output.write(header, iter::empty::<io::Result<RegionRange>>(), &())?;
                (open_clone(output.keep_open()?, path)?, warning)
            }
        };
        if let Some(warning) = warning {
            tracing::warn!(clone = spec.name, "{warning}");
        }
        Ok(metadata)
    }
}

impl Plan {
    /// Opens and checks everything that a clone needs. All devices stay claimed while the plan
    /// exists.
    ///
    /// # Errors
    /// A device is missing, in use, damaged, of the wrong size or given twice; the record or trace
    /// file cannot be used. The message says what to do.
    pub fn make(spec: CloneSpec, options: &SourceOptions) -> Result<Self> {
        check_devices_distinct(&spec.metadata, &spec.destination, spec.source.path())?;
        if let Some(record) = &spec.record {
            record::check(record, &spec)?;
        }
        let prefetch = spec.prefetch.as_deref().map(read_trace).transpose()?;
        let metadata = look_at_metadata(&spec.metadata)?;
        let (source, pin) = look_at_source(&spec, &metadata, options)?;
        let geometry = match &metadata {
            Found::Metadata(metadata) => geometry_of(&spec, metadata, source.limits)?,
            Found::Nothing | Found::Zeroes(_) => new_geometry(&spec, &source)?,
        };
        let settings = spec.tuning.settings(geometry, source.is_remote());
        let line = table_line(&spec, geometry, &settings)?;
        let metadata = match metadata {
            Found::Metadata(metadata) => MetadataPlan::Go(metadata),
            Found::Zeroes(device) => {
                check_room(&spec.metadata, &device, geometry)?;
                MetadataPlan::Format(device)
            }
            Found::Nothing => {
                drop(MetadataPlace::find(&spec.metadata, geometry, None)?);
                MetadataPlan::Make
            }
        };
        let destination = look_at_destination(&spec, geometry, &metadata)?;
        let limits = match &destination {
            DestinationPlan::Use(destination) => destination.limits(),
            DestinationPlan::Make => {
                DeviceLimits { size: geometry.target_size(), logical_block_size: 512 }
            }
        };
        line.check_devices(limits, source.limits)?;
        Ok(Self { spec, line, settings, source, pin, metadata, destination, prefetch })
    }

    /// Returns the description of the clone.
    pub fn spec(&self) -> &CloneSpec {
        &self.spec
    }

    /// Returns the geometry of the clone.
    pub fn geometry(&self) -> Geometry {
        self.line.geometry()
    }

    /// Returns whether new metadata would be made for a destination that already holds data. That
    /// data will be overwritten.
    pub fn overwrites(&self) -> bool {
        let is_new = !matches!(self.metadata, MetadataPlan::Go(_));
        let is_there = matches!(self.destination, DestinationPlan::Use(_));
        is_new && is_there && holds_something(&self.spec.destination)
    }

    /// Creates what is missing and opens all devices.
    ///
    /// # Errors
    /// A device cannot be created, allocated, formatted or opened, or the pin cannot be written. A
    /// file created by then is removed again, or is as good as new.
    pub fn carry_out(self) -> Result<Ready> {
        let Self { spec, line, settings, source, pin, metadata, destination, prefetch } = self;
        let geometry = line.geometry();
        // The destination must be durable before any metadata describes its content.
        let (destination, made) = match destination {
            DestinationPlan::Use(destination) => (destination, None),
            DestinationPlan::Make => {
                let made = make_destination(&spec.destination, geometry.target_size())?;
                (open_destination(&spec)?, Some(made))
            }
        };
        let metadata = metadata.carry_out(&spec, geometry)?;
        if let Some(made) = made {
            made.keep();
        }
        if let Some((path, pin)) = pin {
            pin.store(&path)?;
        }
        let devices = Devices { metadata, source: source.source, destination };
        Ok(Ready { spec, line, settings, devices, remote: source.remote, prefetch })
    }
}

/// A clone that is ready to start.
pub struct Ready {
    /// The description of the clone.
    pub spec: CloneSpec,
    /// The kernel's table line for it.
    pub line: TableLine,
    /// The devices.
    pub devices: Devices<FileDevice>,
    /// The engine settings.
    pub settings: Settings,
    /// The handle of the source, if it is remote.
    pub remote: Option<RemoteHandle>,
    /// The ranges to hydrate first.
    pub prefetch: Option<Trace>,
}

/// Describes to users what a start would do.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CloneSpec { name, metadata, destination, source, .. } = &self.spec;
        let geometry = self.line.geometry();
        let (regions, region) = (geometry.nr_regions(), geometry.region_size().sectors());
        writeln!(
            f,
            "{name}: {}, {} of {}",
            in_units(geometry.target_size()),
            Counted(regions, "region"),
            in_units(region)
        )?;
        writeln!(f, "table: {}", self.line)?;
        write!(f, "metadata: {}, ", metadata.display())?;
        match &self.metadata {
            MetadataPlan::Make => writeln!(f, "to be created")?,
            MetadataPlan::Format(_) => writeln!(f, "all zero, to be formatted")?,
            MetadataPlan::Go(metadata) => {
                let part = metadata.nr_hydrated();
                let share = Share { part, whole: regions };
                writeln!(f, "sound; {part} of {regions} regions hydrated ({share})")?;
            }
        }
        write!(f, "destination: {}, ", destination.display())?;
        match &self.destination {
            DestinationPlan::Make => writeln!(f, "to be created")?,
            DestinationPlan::Use(_) if self.overwrites() => {
                writeln!(f, "not empty, and will be overwritten")?;
            }
            DestinationPlan::Use(there) => writeln!(f, "has {}", in_units(there.limits().size))?,
        }
        writeln!(f, "source: {source}, has {}", in_units(self.source.limits.size))
    }
}

/// The content of the metadata path.
enum Found {
    Nothing,
    Zeroes(FileDevice),
    Metadata(Box<Metadata<FileDevice>>),
}

fn look_at_metadata(path: &Path) -> Result<Found> {
    if is_missing(path) {
        return Ok(Found::Nothing);
    }
    let device = open_metadata_to_change(path)?;
    let mut superblock = [RawBlock::ZERO];
    device
        .read(BlockNr(0), &mut superblock)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if superblock[0].bytes().iter().all(|&byte| byte == 0) {
        // As in the kernel, an all-zero superblock marks a new device.
        return Ok(Found::Zeroes(device));
    }
    Ok(Found::Metadata(Box::new(open_clone(device, path)?)))
}

/// Fails if the device is too small for the metadata of this geometry.
fn check_room(path: &Path, device: &FileDevice, geometry: Geometry) -> Result<()> {
    let (has, needs) = (device.nr_blocks(), MetadataSize::of(geometry));
    if has < needs.least_blocks() {
        bail!(
            "{} has {}, which is too small: the metadata takes at least {}, and \
             clone_metadata_size advises {}",
            path.display(),
            in_units(sectors_of_blocks(has)),
            in_units(sectors_of_blocks(needs.least_blocks())),
            in_units(sectors_of_blocks(needs.total_blocks()))
        );
    }
    Ok(())
}

/// Opens the source and checks it against the pin of an existing clone. Also returns the new pin
/// and its file, if the source is not pinned yet.
fn look_at_source(
    spec: &CloneSpec,
    metadata: &Found,
    options: &SourceOptions,
) -> Result<(Opened, Option<(PathBuf, Pin)>)> {
    let place = pin::place(&spec.metadata);
    // For a new clone, a pin left by another clone is ignored.
    let goes_on = matches!(metadata, Found::Metadata(_)) && !spec.repin;
    let access = if spec.tuning.direct { Access::Direct } else { Access::Buffered };
    let options = SourceOptions { access, ..options.clone() };
    let opened = pin::open(&spec.source, place.as_deref().filter(|_| goes_on), &options);
    let (opened, new_pin) = match (opened, metadata) {
        (Ok(opened), _) => opened,
        (Err(error), Found::Metadata(metadata)) if is_complete(metadata) => {
            tracing::warn!(
                clone = spec.name,
                "the clone is complete, and served without its source: {error}"
            );
            return Ok((Opened::absent(metadata.header().geometry.target_size()), None));
        }
        (Err(error), _) => {
            return Err(error).with_context(|| format!("cannot use the source {}", spec.source));
        }
    };
    if place.is_none() {
        tracing::warn!(clone = spec.name, "{}", pin::no_place(&spec.metadata));
    }
    let new_pin = place.zip(new_pin);
    if let (Some((path, _)), Found::Metadata(metadata), false) = (&new_pin, metadata, spec.repin)
        && metadata.nr_hydrated() > 0
    {
        let told = pin::not_noted(path, metadata.nr_hydrated(), &spec.source);
        tracing::warn!(clone = spec.name, "{told}");
    }
    if let Some(warning) = opened.identity.warning() {
        tracing::warn!(clone = spec.name, "the source {}: {warning}", spec.source);
    }
    Ok((opened, new_pin))
}

fn is_complete(metadata: &Metadata<FileDevice>) -> bool {
    metadata.nr_hydrated() == metadata.nr_regions()
}

fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Returns the geometry in the metadata, after checking that it matches the description.
fn geometry_of(
    spec: &CloneSpec,
    metadata: &Metadata<FileDevice>,
    source: DeviceLimits,
) -> Result<Geometry> {
    let found = metadata.header().geometry;
    let path = spec.metadata.display();
    if let Some(region_size) = spec.region_size
        && region_size != found.region_size()
    {
        bail!(
            "{path} is the metadata of a clone with regions of {}, and not of {}: regions are not \
             converted",
            in_units(found.region_size().sectors()),
            in_units(region_size.sectors())
        );
    }
    let wanted = spec.length.unwrap_or(found.target_size());
    if wanted != found.target_size() {
        bail!(
            "{path} is the metadata of a clone of {}, and not of {}: it belongs to another clone",
            in_units(found.target_size()),
            in_units(wanted)
        );
    }
    if source.size < wanted {
        bail!(
            "the source {} has {}, and the clone {}: it is another one, or has been truncated",
            spec.source,
            in_units(source.size),
            in_units(wanted)
        );
    }
    Ok(found)
}

/// The region size of a new clone if none is given.
const USUAL_REGION: Sectors = Sectors(8);

/// Computes the geometry of a new clone.
fn new_geometry(spec: &CloneSpec, source: &Opened) -> Result<Geometry> {
    let bytes = source.source.size_bytes();
    let source = source.limits;
    if spec.length.is_none() && !bytes.is_multiple_of(SECTOR_SIZE) {
        bail!(
            "the source {} has {bytes} bytes, not a multiple of {SECTOR_SIZE}. Pad it, or use a \
             length of {} sectors to ignore the end",
            spec.source,
            source.size
        );
    }
    let length = spec.length.unwrap_or(source.size);
    let region_size = match spec.region_size {
        Some(region_size) => region_size,
        None => {
            let block = Sectors(source.logical_block_size / SECTOR_SIZE);
            let least = length.0.div_ceil(MAX_REGIONS).next_power_of_two();
            RegionSize::new(Sectors(USUAL_REGION.0.max(block.0).max(least)))?
        }
    };
    Ok(Geometry::new(region_size, length)?)
}

/// Returns the kernel's table line for the clone.
fn table_line(spec: &CloneSpec, geometry: Geometry, settings: &Settings) -> Result<TableLine> {
    let devices = DevicePaths {
        metadata: spec.metadata.display().to_string(),
        destination: spec.destination.display().to_string(),
        source: spec.source.to_string(),
    };
    let arguments = Arguments::new(devices, geometry.region_size(), settings.options)?;
    Ok(TableLine::new(geometry.target_size(), arguments)?)
}

fn look_at_destination(
    spec: &CloneSpec,
    geometry: Geometry,
    metadata: &MetadataPlan,
) -> Result<DestinationPlan> {
    let path = &spec.destination;
    let hydrated = match metadata {
        MetadataPlan::Go(metadata) => metadata.nr_hydrated(),
        MetadataPlan::Make | MetadataPlan::Format(_) => 0,
    };
    if is_missing(path) {
        if hydrated > 0 {
            bail!(
                "{} does not exist, and a new one cannot replace it: {} of the clone are on the \
                 original destination and will not be copied again. Give that one",
                path.display(),
                Counted(hydrated, "region")
            );
        }
        let folder = folder_of(path);
        if !folder.is_dir() {
            bail!("cannot make {}: there is no directory {}", path.display(), folder.display());
        }
        return Ok(DestinationPlan::Make);
    }
    let destination = open_destination(spec)?;
    let (has, needed) = (destination.limits().size, geometry.target_size());
    if has < needed {
        bail!(
            "the destination {} has {}, and the clone {}: it is another one, or was never made \
             large enough",
            path.display(),
            human(has),
            human(needed)
        );
    }
    Ok(DestinationPlan::Use(destination))
}

fn open_destination(spec: &CloneSpec) -> Result<Arc<FileDestination>, OpenError> {
    let access = if spec.tuning.direct { Access::Direct } else { Access::Buffered };
    FileDestination::open(&spec.destination, access).map(Arc::new)
}

/// Returns whether a regular file has data blocks. For a block device this is unknown, and the
/// result is false.
fn holds_something(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.blocks() > 0)
}
