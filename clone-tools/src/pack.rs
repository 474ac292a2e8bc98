//! `clone_metadata_pack`: packs metadata of any size into a small file.

use std::io::{self, Write};

use anyhow::Result;
use clone_core::metadata::survey::{Survey, survey};
use clone_core::progress::Progress;
use persistent_data::block::RawBlock;
use persistent_data::device::{FileDevice, ReadDevice, ReadOnly};

use self::args::PackArgs;
use crate::common::exit::{Exit, Tool};
use crate::common::metadata_input::claim_metadata;
use crate::common::output;
use crate::common::paths::check_distinct;
use crate::common::units::Counted;
use crate::pack::file::{Contents, Writer};
use crate::progress_bar::{Bar, with_bar};

pub mod args;
pub mod file;
pub mod image_output;
pub mod unpack;

/// The number of unreadable blocks that are listed; the rest are only counted.
const LISTED: usize = 50;

/// Runs `clone_metadata_pack`.
///
/// # Errors
/// INPUT cannot be opened, or OUTPUT cannot be written. Damage in the metadata is not an error.
pub fn run(tool: &Tool, args: &PackArgs) -> Result<Exit> {
    check_distinct(&args.input, &args.output)?;
    output::refuse_terminal(&args.output)?;
    let device = claim_metadata(&args.input)?;
    let found = with_bar("reading", args.quiet, |bar| survey(&device, bar));
    report_unreadable(tool, args, &found);

    with_bar("packing", args.quiet, |bar| {
        output::write_to(Some(&args.output), |to| write_pack(&device, &found, to, bar))
    })?;
    if args.verbose {
        tool.say(format_args!(
            "{}: {} of {} kept; {} dropped that is unrelated to metadata",
            args.input.display(),
            found.nr_relevant(),
            Counted(device.nr_blocks(), "block"),
            found.nr_other()
        ));
    }
    Ok(if found.unreadable().is_empty() { Exit::Success } else { Exit::Failure })
}

fn report_unreadable(tool: &Tool, args: &PackArgs, found: &Survey) {
    let input = args.input.display();
    for (at, error) in found.unreadable().iter().take(LISTED) {
        tool.say(format_args!("{input}: block {at} cannot be read, and is left out: {error}"));
    }
    let more = found.unreadable().len().saturating_sub(LISTED);
    if more > 0 {
        tool.say(format_args!(
            "{input}: and {} that cannot be read",
            Counted(more as u64, "more block")
        ));
    }
}

fn write_pack(
    device: &FileDevice<ReadOnly>,
    found: &Survey,
    to: &mut dyn Write,
    bar: &Bar,
) -> io::Result<()> {
    let contents = Contents {
        size_bytes: device.size_bytes(),
        nr_records: found.nr_relevant(),
        nr_dropped: found.nr_other(),
    };
    bar.set_total(contents.nr_records);
    let mut writer = Writer::new(to, contents)?;
    let mut block = RawBlock::ZERO;
    for at in found.relevant() {
        device.read(at, std::slice::from_mut(&mut block))?;
        writer.push(at, &block)?;
        bar.advance(1);
    }
    writer.finish(&device.tail()?)?;
    Ok(())
}
