//! `clone_metadata_unpack`: restores a metadata device from a pack of `clone_metadata_pack`.
//!
//! The pack is verified completely before OUTPUT changes.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use anyhow::{Context, Result, anyhow};
use persistent_data::BLOCK_SIZE;
use tempfile::SpooledTempFile;

use self::args::UnpackArgs;
use crate::common::exit::{Exit, Tool};
use crate::common::output;
use crate::common::paths::{check_distinct, document_name};
use crate::common::units::Counted;
use crate::formats::document_input::open_document;
use crate::pack::file::{Contents, PackError, Reader};
use crate::pack::image_output::{ImageSink, write_image};
use crate::progress_bar::Bar;

pub mod args;

/// The maximum size of a pack that is kept in memory, in bytes. Larger ones go to a temporary file.
const IN_MEMORY: usize = 16 << 20;

/// Runs `clone_metadata_unpack`.
///
/// # Errors
/// The pack cannot be read or is faulty, or OUTPUT cannot be written.
pub fn run(tool: &Tool, args: &UnpackArgs) -> Result<Exit> {
    check_distinct(&args.input, &args.output)?;
    output::refuse_terminal(&args.output)?;
    let name = document_name(&args.input);
    let mut pack = read_pack(args)?;
    let contents = verify(&mut pack).with_context(|| format!("cannot unpack {name}"))?;

    // From here on OUTPUT changes.
    write_image(&args.output, contents.size_bytes, |to| unpack(&mut pack, to))?;
    if args.verbose {
        tool.say(format_args!(
            "{name}: a device of {} with {}; {} unrelated to metadata now zero",
            Counted(contents.size_bytes, "byte"),
            Counted(contents.nr_records, "block"),
            Counted(contents.nr_dropped, "block")
        ));
    }
    Ok(Exit::Success)
}

/// Reads the bytes of the pack and keeps them. They are read twice, and stdin can be read only
/// once.
fn read_pack(args: &UnpackArgs) -> Result<SpooledTempFile> {
    let bar = Bar::new("reading", args.quiet);
    let name = document_name(&args.input);
    let mut from = open_document(&args.input, &bar)?;
    let mut pack = SpooledTempFile::new(IN_MEMORY);
    // A file that is not a pack is refused after one block: its end may be far away.
    let mut beginning = from.by_ref().take(BLOCK_SIZE as u64);
    let copied = io::copy(&mut beginning, &mut pack)
        .and_then(|_| pack.seek(SeekFrom::Start(0)))
        .with_context(|| format!("cannot read {name}"));
    copied?;
    match Reader::new(&mut pack) {
        Ok(_) | Err(PackError::CutOff { .. }) => {}
        Err(error) => return Err(anyhow!(error).context(format!("cannot unpack {name}"))),
    }
    let rest = pack.seek(SeekFrom::End(0)).and_then(|_| io::copy(&mut from, &mut pack));
    rest.with_context(|| format!("cannot read {name}"))?;
    drop(from);
    bar.finish();
    Ok(pack)
}

fn rewind(pack: &mut SpooledTempFile) -> io::Result<BufReader<&mut SpooledTempFile>> {
    pack.seek(SeekFrom::Start(0))?;
    Ok(BufReader::with_capacity(1 << 20, pack))
}

/// Reads and checks the whole pack.
fn verify(pack: &mut SpooledTempFile) -> Result<Contents> {
    let mut reader = Reader::new(rewind(pack)?)?;
    while reader.next_block()?.is_some() {}
    Ok(reader.contents())
}

fn unpack(pack: &mut SpooledTempFile, to: &mut dyn ImageSink) -> io::Result<()> {
    let mut reader = Reader::new(rewind(pack)?).map_err(io::Error::other)?;
    while let Some((at, block)) = reader.next_block().map_err(io::Error::other)? {
        to.put(at.0 * BLOCK_SIZE as u64, block.bytes())?;
    }
    if let Some(tail) = reader.tail().filter(|tail| !tail.is_empty()) {
        to.put(reader.contents().size_bytes - tail.len() as u64, tail)?;
    }
    Ok(())
}
