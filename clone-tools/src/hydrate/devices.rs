//! The three devices of a clone, and what can be wrong with them.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clone_core::content::ReadData;
use clone_core::driver::{Access, Devices, FileDestination, FileSource};
use clone_core::engine::Trace;
use clone_core::engine::trace::RANGES_MAX;
use clone_core::metadata::Metadata;
use clone_core::size::human;
use persistent_data::device::{FileDevice, OpenError};

use super::args::HydrateArgs;
use super::meter::size;
use crate::figures::Counted;
use crate::input::are_same;

/// Refuses one device in the place of two.
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

/// Opens source and destination for the clone that the metadata tells of.
pub(super) fn open(
    args: &HydrateArgs,
    metadata: Metadata<FileDevice>,
) -> Result<Devices<FileDevice>> {
    let access = if args.direct { Access::Direct } else { Access::Buffered };
    let target_size = metadata.header().geometry.target_size();
    let needed = target_size.to_bytes().context("the clone has more bytes than can be counted")?;

    let source = FileSource::open(&args.source, access)?;
    if source.size_bytes() < needed {
        bail!(
            "the source {} has {}, and the clone {}: it is another one, or has been cut off",
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
                    "{error}, and no new one will do: {hydrated} of the clone are on the \
                     destination and will not be copied again. Give the one that it was begun with"
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
    Ok(Devices { metadata, source, destination })
}

fn bytes(bytes: u64) -> String {
    format!("{bytes} bytes ({})", size(bytes))
}

/// Refuses a limit that lets nothing be copied.
pub(super) fn check_limit(args: &HydrateArgs, metadata: &Metadata<FileDevice>) -> Result<()> {
    let region = metadata.header().geometry.region_size().sectors();
    match args.limit {
        Some(limit) if limit < region => bail!(
            "--limit {} is less than a region of this clone, and regions are copied whole: give \
             {} at least",
            human(limit),
            human(region)
        ),
        _ => Ok(()),
    }
}

/// The most bytes that a trace of as many lines as are taken can have.
const TRACE_MAX: u64 = RANGES_MAX as u64 * 48;

/// Reads the ranges that are to be copied first.
///
/// # Errors
/// That it cannot be read, or is no trace.
pub fn read_trace(path: &Path) -> Result<Trace> {
    let name = path.display();
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(TRACE_MAX + 1).read_to_end(&mut text))
        .with_context(|| format!("cannot read {name}"))?;
    if text.len() as u64 > TRACE_MAX {
        bail!("{name} is no trace: it has more than {TRACE_MAX} bytes");
    }
    let text = String::from_utf8(text).map_err(|_| anyhow!("{name} is no trace: it is no text"))?;
    Trace::parse(&text).with_context(|| format!("{name} is no trace"))
}
