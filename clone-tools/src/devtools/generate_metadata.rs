//! `clone_generate_metadata`: generates metadata as if it had been in use.

use std::fs::File;
use std::io;

use anyhow::{Context, Result, bail};
use clone_core::generate::Regions;
use clone_core::generate::metadata::{Recipe, make};
use clone_core::geometry::Geometry;
use clone_core::metadata::ir::{Header, Visitor};
use clone_core::metadata::metadata_size::MetadataSize;
use persistent_data::BlockNr;
use persistent_data::block::RawBlock;
use persistent_data::device::{Device, FileDevice, ReadDevice};

use super::args::GenerateMetadataArgs;
use crate::common::exit::{Exit, Tool, usage_error};
use crate::common::output;
use crate::common::units::sectors_of_blocks;
use crate::common::units::{Counted, Share, in_units};
use crate::formats::xml;
use crate::pack::image_output::{ImageSink, write_image};

/// Runs `clone_generate_metadata`.
///
/// # Errors
/// The options do not make a valid clone, or an output cannot be written.
pub fn run(tool: &Tool, args: &GenerateMetadataArgs) -> Result<Exit> {
    let geometry = Geometry::new(args.region_size, args.target_size)
        .map_err(usage_error::<GenerateMetadataArgs>)?;
    if args.truth.as_ref() == Some(&args.output) {
        return Err(usage_error::<GenerateMetadataArgs>("OUTPUT and --truth are the same"));
    }
    output::refuse_terminal(&args.output)?;
    let header = Header { uuid: [0; 16], geometry };
    let recipe = Recipe {
        header,
        pattern: args.pattern.into(),
        percent: args.hydrated,
        commits: args.commits,
        reopens: args.reopens,
        seed: args.seed,
    };
    let advised = sectors_of_blocks(MetadataSize::of(geometry).total_blocks());
    let size = args.metadata_size.unwrap_or(advised);
    let Some(size_bytes) = size.to_bytes().filter(|&bytes| i64::try_from(bytes).is_ok()) else {
        bail!("metadata of {} is larger than a file can be", in_units(size));
    };
    let device = temporary(size_bytes)
        .with_context(|| format!("cannot make a temporary file of {}", in_units(size)))?;
    let truth = make(&device, &recipe)?;

    // From here on OUTPUT changes.
    write_image(&args.output, size_bytes, |to| copy(&device, to))?;
    if let Some(path) = &args.truth {
        output::write_to(Some(path), |to| tell(&header, &truth, &mut xml::Writer::new(to)))?;
    }
    if args.verbose {
        let (part, whole) = (truth.count(), truth.nr_regions());
        tool.say(format_args!(
            "{}: {part} of {whole} regions hydrated ({}) by {}, in metadata of {}",
            args.output.display(),
            Share { part, whole },
            Counted(part.min(args.commits.into()), "commit"),
            in_units(size)
        ));
    }
    Ok(Exit::Success)
}

/// Creates an unnamed temporary file, which vanishes however the tool ends.
fn temporary(size_bytes: u64) -> io::Result<Unflushed> {
    let file: File = tempfile::tempfile()?;
    file.set_len(size_bytes)?;
    FileDevice::from_file(file).map(Unflushed)
}

/// Writes the blocks of `device` that are not all zero to the image.
fn copy(device: &impl ReadDevice, to: &mut dyn ImageSink) -> io::Result<()> {
    let mut block = RawBlock::ZERO;
    let mut at = device.skip_hole(BlockNr(0));
    while at.0 < device.nr_blocks() {
        device.read(at, std::slice::from_mut(&mut block))?;
        if !block.is_zero() {
            to.put(at.0 * block.bytes().len() as u64, block.bytes())?;
        }
        at = device.skip_hole(at.plus(1));
    }
    Ok(())
}

fn tell<V: Visitor>(header: &Header, truth: &Regions, visitor: &mut V) -> Result<(), V::Error> {
    visitor.begin(header, truth.count())?;
    for run in truth.runs() {
        visitor.run(run)?;
    }
    visitor.end()
}

/// A device that is never flushed, because it need not survive a crash.
struct Unflushed(FileDevice);

impl ReadDevice for Unflushed {
    fn nr_blocks(&self) -> u64 {
        self.0.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        self.0.read(first, into)
    }

    fn skip_hole(&self, from: BlockNr) -> BlockNr {
        self.0.skip_hole(from)
    }
}

impl Device for Unflushed {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        self.0.write(first, from)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
