//! `clone_restore`: makes metadata.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clone_core::geometry::{Geometry, Sectors};
use clone_core::ir::Header;
use clone_core::restore::{MetadataSize, restore};
use persistent_data::device::{FileDevice, MemoryDevice, ReadDevice};
use persistent_data::transaction::wipe_superblock;

use crate::args::{Hydrated, RestoreArgs, RestoreFormat};
use crate::document::Document;
use crate::exit::{Exit, Tool, usage_error};
use crate::figures::{Counted, Share, in_units};
use crate::input::{check_distinct, document_name, open_document};
use crate::metadata_size::sectors_of_blocks;
use crate::output::{folder_of, sync_folder};
use crate::progress::Bar;
use crate::run_spool::RunSpool;
use crate::{json, xml};

/// Runs `clone_restore`.
///
/// # Errors
/// Why there is no metadata.
pub fn run(tool: &Tool, args: &RestoreArgs) -> Result<Exit> {
    let document = match &args.input {
        Some(input) => read(args, input)?,
        None => fresh(args)?,
    };
    let Document { header, runs } = document;
    let hydrated = runs.hydrated();
    let runs = runs.into_runs().context("cannot read the runs back from a temporary file")?;

    // From here on OUTPUT changes.
    let output = Output::open(&args.output, &header.geometry, args.metadata_size)?;
    let bar = Bar::new("writing", args.quiet);
    let restored = restore(&output.device, header, runs, &bar);
    bar.finish();
    restored.with_context(|| output.failure())?;
    let nr_blocks = output.device.nr_blocks();
    output.keep()?;

    if args.verbose {
        let nr_regions = header.geometry.nr_regions();
        tool.say(format_args!(
            "{}: {hydrated} of {nr_regions} regions hydrated ({}), in metadata of {}",
            args.output.display(),
            Share { part: hydrated, whole: nr_regions },
            in_units(sectors_of_blocks(nr_blocks))
        ));
    }
    Ok(Exit::Success)
}

/// The document at `input`, with the sizes of the command line.
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
        .with_context(|| format!("the sizes given do not go with {name}"))?;
    resize(&mut document, geometry).with_context(|| format!("cannot resize what {name} says"))?;
    Ok(document)
}

/// Gives the clone other sizes, if all that is hydrated then was hydrated before, and nothing that
/// was hydrated before is forgotten: it may have been written to.
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
            "it has hydrated regions of {}: regions of {} would claim sectors of which it says \
             nothing, or lose writes. Only a clone of which no region is hydrated, or every one \
             and that does not grow, takes another region size",
            in_units(said.region_size().sectors()),
            in_units(geometry.region_size().sectors())
        );
    }
    if runs.end() > geometry.nr_regions() {
        bail!(
            "it has a run that reaches to region {}, but the sizes given make only {}",
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
             claim that sectors {}..{end} are hydrated too, which never were",
            Counted(has, "sector"),
            in_units(new_size),
            old_size
        );
    }
    Ok(())
}

/// What the command line alone says.
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

/// Where metadata goes. A file that was made for it is removed again unless it is kept.
struct Output<'a> {
    device: FileDevice,
    path: &'a Path,
    made: Option<MadeFile>,
}

impl<'a> Output<'a> {
    fn open(path: &'a Path, geometry: &Geometry, size: Option<Sectors>) -> Result<Self> {
        let needs = MetadataSize::of(*geometry);
        let made = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let size = size.unwrap_or(sectors_of_blocks(needs.total_blocks()));
                check_size(path, size, &in_units(size), &needs)?;
                refuse_link(path)?;
                Some(MadeFile::new(path, size)?)
            }
            _ => None,
        };
        let device = FileDevice::open_write(path)?;
        let has = sectors_of_blocks(device.nr_blocks());
        let in_words = match device.nr_blocks() {
            0 => Counted(device.size_bytes(), "byte").to_string(),
            _ => in_units(has),
        };
        check_size(path, has, &in_words, &needs)?;
        match size {
            Some(size) if made.is_none() && device.size_bytes() != size.to_bytes().unwrap_or(0) => {
                bail!(
                    "{} exists and has {}: --metadata-size is for a file that is made",
                    path.display(),
                    in_units(has)
                );
            }
            _ => Ok(Self { device, path, made }),
        }
    }

    fn failure(&self) -> String {
        let path = self.path.display();
        match &self.made {
            Some(_) => format!("cannot write {path}, which was removed again"),
            None => format!("cannot write {path}, and what it holds now is not to be used"),
        }
    }

    fn keep(mut self) -> Result<()> {
        if let Some(made) = self.made.take() {
            made.keep().with_context(|| self.path.display().to_string())?;
        }
        Ok(())
    }
}

/// Refuses a symbolic link to nothing. Somebody meant it to lead to a device, which may be another
/// one when it comes back.
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

/// A file that did not exist before.
struct MadeFile {
    path: PathBuf,
    keep: bool,
}

impl MadeFile {
    /// Makes a file that is marked as unfinished. A kernel would take zeroes for a new device and
    /// format it without a word, so there is no moment at which it is long enough and all zero.
    fn new(path: &Path, size: Sectors) -> Result<Self> {
        let name = path.display();
        let bytes = size.to_bytes().filter(|&bytes| i64::try_from(bytes).is_ok());
        let Some(bytes) = bytes else {
            bail!("cannot make {name} of {}: that is larger than a file can be", in_units(size));
        };
        let mut file = File::create_new(path).with_context(|| format!("cannot make {name}"))?;
        let made = Self { path: path.to_owned(), keep: false };
        let sized = file
            .write_all(&unfinished()?)
            // Or after a power cut there might be the length without the mark.
            .and_then(|()| file.sync_data())
            .and_then(|()| file.set_len(bytes));
        sized.with_context(|| format!("cannot make {name} of {}", in_units(size)))?;
        Ok(made)
    }

    fn keep(mut self) -> io::Result<()> {
        // Whatever becomes of its name, the metadata is whole.
        self.keep = true;
        sync_folder(&folder_of(&self.path))
    }
}

impl Drop for MadeFile {
    fn drop(&mut self) {
        if !self.keep {
            // There is another error to be told, and this one would add nothing to it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The first block of metadata that has not been made to its end.
fn unfinished() -> Result<Vec<u8>> {
    let device = MemoryDevice::new(1);
    wipe_superblock(&device)?;
    Ok(device.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clone_core::geometry::Sectors;
    use persistent_data::device::MemoryDevice;
    use persistent_data::transaction::is_unfinished;

    use super::MadeFile;

    #[test]
    fn a_file_that_was_only_made_is_none_that_a_kernel_formats() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made");
        let made = MadeFile::new(&path, Sectors(24)).unwrap();
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
        let mut made = MadeFile::new(&path, Sectors(24)).unwrap();
        made.path = folder.path().join("no such folder").join("made");
        let error = made.keep().unwrap_err().to_string();
        assert!(error.contains("its name may not survive a crash"), "{error}");
        assert!(path.exists());
    }
}
