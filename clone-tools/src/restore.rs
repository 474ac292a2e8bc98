//! `clone_restore`: makes metadata from a dump, or fresh metadata from sizes alone.
//!
//! It reads and validates the whole [`Document`], applies the sizes of the command line, and writes
//! the metadata through [`metadata_output`](crate::common::metadata_output).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use clone_core::geometry::{Geometry, Sectors};
use clone_core::metadata::ir::Header;

use self::args::{Hydrated, RestoreArgs, RestoreFormat};
use crate::common::exit::{Exit, Tool, usage_error};
use crate::common::metadata_output::MetadataPlace;
use crate::common::paths::{check_distinct, document_name};
use crate::common::pin;
use crate::common::units::{Counted, Share, in_units};
use crate::formats::document::Document;
use crate::formats::document_input::open_document;
use crate::formats::run_spool::RunSpool;
use crate::formats::{json, xml};
use crate::progress_bar::{Bar, with_bar};

pub mod args;

/// Runs `clone_restore`.
///
/// # Errors
/// The document is faulty, the sizes do not fit it, or OUTPUT is unsuitable or cannot be written.
pub fn run(tool: &Tool, args: &RestoreArgs) -> Result<Exit> {
    let document = match &args.input {
        Some(input) => read(args, input)?,
        None => fresh(args)?,
    };
    let Document { header, runs } = document;
    let hydrated = runs.hydrated();
    let runs = runs.into_runs().context("cannot read the runs back from a temporary file")?;

    let place = MetadataPlace::find(&args.output, header.geometry, args.metadata_size)?;
    // From here on OUTPUT changes.
    let output = place.open()?;
    if let Some(warning) = output.warning().filter(|_| !args.quiet) {
        tool.say(warning);
    }
    with_bar("writing", args.quiet, |bar| output.write(header, runs, bar))?;
    let size = output.size();
    output.keep()?;
    settle_pin(tool, args)?;

    if args.verbose {
        let nr_regions = header.geometry.nr_regions();
        tool.say(format_args!(
            "{}: {hydrated} of {nr_regions} regions hydrated ({}), in metadata of {}",
            args.output.display(),
            Share { part: hydrated, whole: nr_regions },
            in_units(size)
        ));
    }
    Ok(Exit::Success)
}

/// Removes the pin of an earlier clone from beside fresh metadata, which has no source yet. Beside
/// metadata from a dump the pin stays: it may belong to the same clone.
fn settle_pin(tool: &Tool, args: &RestoreArgs) -> Result<()> {
    let Some(path) = pin::place(&args.output) else { return Ok(()) };
    if fs::symlink_metadata(&path).is_err() {
        return Ok(());
    }
    let name = path.display();
    if args.hydrated == Some(Hydrated::None) {
        return fs::remove_file(&path)
            .with_context(|| format!("cannot remove {name}, which belongs to an earlier clone"));
    }
    if !args.quiet {
        tool.say(format_args!(
            "{name} stays: it records the source of the clone. If this is another clone, remove it"
        ));
    }
    Ok(())
}

/// Reads the document at `input` and applies the sizes of the command line.
fn read(args: &RestoreArgs, input: &Path) -> Result<Document> {
    check_distinct(input, &args.output)?;
    let bar = Bar::new("reading", args.quiet);
    let from = open_document(input, &bar)?;
    let name = document_name(input);
    let document = match args.format {
        RestoreFormat::Xml => xml::read(from),
        RestoreFormat::Json => json::read(from),
    };
    bar.finish();
    let mut document = document.map_err(|error| anyhow!("{name}:{error}"))?;

    let said = document.header.geometry;
    let region_size = args.region_size.unwrap_or(said.region_size());
    let target_size = args.target_size.unwrap_or(said.target_size());
    let geometry = Geometry::new(region_size, target_size)
        .with_context(|| format!("the given sizes do not fit {name}"))?;
    resize(&mut document, geometry)
        .with_context(|| format!("cannot resize the clone of {name}"))?;
    Ok(document)
}

/// Changes the sizes of the clone. It refuses changes that would mark data as hydrated that was not
/// hydrated before, or that would drop hydrated data: the clone may have been written there.
fn resize(document: &mut Document, geometry: Geometry) -> Result<()> {
    let said = document.header.geometry;
    let runs = &document.runs;
    document.header.geometry = geometry;
    let (old_size, new_size) = (said.target_size(), geometry.target_size());
    if runs.hydrated() == 0 {
        return Ok(());
    }
    if geometry.region_size() != said.region_size() {
        if runs.hydrated() == said.nr_regions() && new_size <= old_size {
            document.runs = RunSpool::of(0..geometry.nr_regions())?;
            return Ok(());
        }
        bail!(
            "it has hydrated regions of {}: regions of {} would cover sectors of unknown state, or \
             lose writes. The region size can change only if no region is hydrated, or if all are \
             and the clone does not grow",
            in_units(said.region_size().sectors()),
            in_units(geometry.region_size().sectors())
        );
    }
    if runs.end() > geometry.nr_regions() {
        bail!(
            "it has a run that reaches to region {}, but the given sizes make only {}",
            runs.end(),
            Counted(geometry.nr_regions(), "region")
        );
    }
    let last = said.nr_regions() - 1;
    let begin = Sectors(last * said.region_size().sectors().0);
    let has = old_size.0 - begin.0;
    if new_size > old_size && has < said.region_size().sectors().0 && runs.end() > last {
        let end = new_size.0.min(begin.0 + said.region_size().sectors().0);
        bail!(
            "region {last}, its last one, is hydrated and has only {}: in a clone of {} it would \
             count sectors {}..{end} as hydrated, which never were",
            Counted(has, "sector"),
            in_units(new_size),
            old_size
        );
    }
    Ok(())
}

/// Makes the document for `--hydrated`, from the command line alone.
fn fresh(args: &RestoreArgs) -> Result<Document> {
    let (Some(hydrated), Some(region_size), Some(target_size)) =
        (args.hydrated, args.region_size, args.target_size)
    else {
        return Err(usage_error::<RestoreArgs>("--hydrated takes both sizes"));
    };
    let geometry = Geometry::new(region_size, target_size).map_err(usage_error::<RestoreArgs>)?;
    let runs = match hydrated {
        Hydrated::All => RunSpool::of(0..geometry.nr_regions())?,
        Hydrated::None => RunSpool::new(),
    };
    Ok(Document { header: Header { uuid: [0; 16], geometry }, runs })
}
