//! Opens and checks the three devices of a clone.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clone_core::block_io::ReadData;
use clone_core::block_io::{Access, FileDestination};
use clone_core::driver::Devices;
use clone_core::metadata::Metadata;
use clone_core::size::human;
use persistent_data::device::{FileDevice, OpenError};

use super::args::HydrateArgs;
use crate::common::paths::are_same;
use crate::common::pin::{self, LocalSource, Pin};
use crate::common::units::{Counted, human_bytes};

/// Refuses the same device in two roles.
pub(super) fn check_distinct(args: &HydrateArgs) -> Result<()> {
    let HydrateArgs { metadata, destination, source, .. } = args;
    let what = "the metadata, the destination and the source of a clone are three devices";
    for (a, b) in [(destination, source), (metadata, destination), (metadata, source)] {
        if are_same(a, b) {
            bail!("{} and {} are the same: {what}", a.display(), b.display());
        }
    }
    Ok(())
}

/// The open devices of a clone.
pub(super) struct OpenedClone {
    pub(super) devices: Devices<FileDevice>,
    /// The source, which is also in `devices`.
    pub(super) source: Arc<LocalSource>,
    /// The path and content of the pin to be stored, if the source is not pinned yet.
    pub(super) pin: Option<(PathBuf, Pin)>,
}

/// Opens source and destination for the clone of `metadata`. Both must be large enough, and the
/// source must be the pinned one.
pub(super) fn open(args: &HydrateArgs, metadata: Metadata<FileDevice>) -> Result<OpenedClone> {
    let access = if args.direct { Access::Direct } else { Access::Buffered };
    let target_size = metadata.header().geometry.target_size();
    let needed = target_size.to_bytes().context("the clone has more bytes than can be counted")?;

    let place = pin::place(&args.metadata);
    let required = place.as_deref().filter(|_| !args.repin);
    let (source, new_pin) = pin::open_local(&args.source, access, required)
        .with_context(|| format!("cannot use the source {}", args.source.display()))?;
    if source.size_bytes() < needed {
        bail!(
            "the source {} has {}, and the clone {}: it is another one, or has been truncated",
            args.source.display(),
            bytes(source.size_bytes()),
            bytes(needed)
        );
    }
    let destination = FileDestination::open(&args.destination, access).map_err(|error| {
        match (&error, metadata.nr_hydrated()) {
            (OpenError::NotFound { path }, 0) => {
                let path = path.display();
                anyhow!("{error}; truncate -s {needed} {path} makes one for this new clone")
            }
            (OpenError::NotFound { .. }, hydrated) => {
                let hydrated = Counted(hydrated, "region");
                anyhow!(
                    "{error}, and a new one cannot replace it: {hydrated} of the clone are on the \
                     original destination and will not be copied again. Give that one"
                )
            }
            _ => error.into(),
        }
    })?;
    if destination.size_bytes() < needed {
        let name = args.destination.display();
        bail!(
            "the destination {name} has {}, and the clone {}: it is another one, or was never made \
             large enough (truncate -s {needed} {name} enlarges a file)",
            bytes(destination.size_bytes()),
            bytes(needed)
        );
    }
    let (source, destination) = (Arc::new(source), Arc::new(destination));
    let devices = Devices { metadata, source: source.clone(), destination };
    Ok(OpenedClone { devices, source, pin: place.zip(new_pin) })
}

/// Returns warnings for the user about changes of the source that cannot be detected.
pub(super) fn warnings(args: &HydrateArgs, opened: &OpenedClone) -> Vec<String> {
    let place = args.source.display();
    let hydrated = opened.devices.metadata.nr_hydrated();
    let unseen = opened.source.identity().warning();
    let unseen = unseen.map(|what| format!("the source {place}: {what}"));
    let unpinned = match &opened.pin {
        _ if pin::place(&args.metadata).is_none() => Some(pin::no_place(&args.metadata)),
        Some((pin, _)) if hydrated > 0 && !args.repin => Some(pin::not_noted(pin, hydrated, place)),
        _ => None,
    };
    unpinned.into_iter().chain(unseen).collect()
}

fn bytes(bytes: u64) -> String {
    format!("{bytes} bytes ({})", human_bytes(bytes))
}

/// Refuses a limit that is smaller than a region.
pub(super) fn check_limit(args: &HydrateArgs, metadata: &Metadata<FileDevice>) -> Result<()> {
    let region = metadata.header().geometry.region_size().sectors();
    match args.limit {
        Some(limit) if limit < region => bail!(
            "--limit {} is less than a region of this clone, and regions are copied whole: give at \
             least {}",
            human(limit),
            human(region)
        ),
        _ => Ok(()),
    }
}
