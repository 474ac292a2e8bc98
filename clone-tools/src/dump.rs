//! `clone_dump`: writes metadata as XML, JSON, text or a bitmap.
//!
//! It reads metadata that is intact (or live), or recovers damaged metadata with `--repair`, and
//! passes the region map to the writer of the chosen format.

use anyhow::{Result, bail};
use clone_core::metadata::dump::dump;
use clone_core::metadata::ir::Header;
use clone_core::metadata::region_map::RegionMap;
use clone_core::repair::Recovery;

use self::args::{DumpArgs, DumpFormat};
use crate::common::exit::{Exit, Tool};
use crate::common::metadata_input::{open_metadata, read_metadata};
use crate::common::output;
use crate::common::paths::{check_distinct, is_dash};
use crate::common::reporter::{Reporter, Verbosity};
use crate::common::units::Share;
use crate::formats::{bitmap, json, text, xml};
use crate::repair::recovery::{choose, known_sizes, recover_from, report_recovery};

pub mod args;

/// Runs `clone_dump`.
///
/// # Errors
/// The metadata cannot be opened or read, is damaged without `--repair`, or cannot be recovered;
/// regions are lost and `--lost` is `fail`; or the output cannot be written.
pub fn run(tool: &Tool, args: &DumpArgs) -> Result<Exit> {
    if let Some(output) = args.output.as_deref().filter(|output| !is_dash(output)) {
        check_distinct(&args.input, output)?;
    }
    let verbosity = Verbosity::of(args.quiet, args.verbose);
    let reporter = Reporter { tool, input: &args.input, verbosity, silent: false };
    let (header, regions) = match args.repair && !args.live {
        true => recovered(&reporter, args),
        false => read(&reporter, args),
    }?;

    output::write_to(args.output.as_deref(), |to| match args.format {
        DumpFormat::Xml => dump(&header, &regions, &mut xml::Writer::new(to)),
        DumpFormat::Json => dump(&header, &regions, &mut json::Writer::new(to)),
        DumpFormat::Text => dump(&header, &regions, &mut text::Writer::new(to)),
        DumpFormat::Bitmap => dump(&header, &regions, &mut bitmap::Writer::new(to)),
    })?;
    if args.verbose {
        let (part, whole) = (regions.hydrated(), regions.nr_regions());
        let share = Share { part, whole };
        reporter.say(format_args!("{part} of {whole} regions hydrated ({share})"));
    }
    Ok(Exit::Success)
}

/// Reads metadata without recovery.
fn read(reporter: &Reporter<'_>, args: &DumpArgs) -> Result<(Header, RegionMap)> {
    let report = reporter.with_bar("reading", |bar| read_metadata(&args.input, args.live, bar))?;
    reporter.report_damage(&report.damage, "dump");
    let input = args.input.display();
    // Damage that only affects free space for commits does not make the bits doubtful.
    if !report.is_repairable_in_place() && !args.repair {
        bail!(
            "{input} is damaged, so it was not dumped; clone_repair -i {input} -o NEW writes whole \
             metadata with everything that can be recovered, and --repair dumps it"
        );
    }
    let (Some(header), Some(mut regions)) = (report.header(), report.regions) else {
        bail!(
            "{input} has no readable superblock, so its sizes and its bitset cannot be found; \
             without --live, --repair searches for them"
        );
    };
    settle_lost(reporter, args, &mut regions)?;
    Ok((header, regions))
}

/// Recovers damaged metadata.
fn recovered(reporter: &Reporter<'_>, args: &DumpArgs) -> Result<(Header, RegionMap)> {
    let sizes = known_sizes::<DumpArgs>(args.region_size, args.target_size)?;
    let device = open_metadata(&args.input, false)?;
    let recovery = recover_from(reporter, &device, sizes).map_err(|failure| {
        failure.report(reporter);
        failure.error(&args.input)
    })?;
    if !reporter.is_quiet() || !recovery.regions.is_whole() {
        reporter.report_damage(&recovery.damage, "dump");
        report_recovery(reporter, &recovery);
    }
    let Recovery { header, mut regions, .. } = recovery;
    settle_lost(reporter, args, &mut regions)?;
    Ok((header, regions))
}

fn settle_lost(reporter: &Reporter<'_>, args: &DumpArgs, regions: &mut RegionMap) -> Result<()> {
    reporter.list_lost(regions);
    if let Some(hydrated) = choose(reporter, regions, args.lost, "dumped")? {
        regions.settle_lost(hydrated);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;

    use clone_core::geometry::{Geometry, RegionSize, Sectors};
    use clone_core::metadata::ir::{Header, Visitor};

    use crate::formats::{bitmap, json, text, xml};

    /// Passes a clone of 21 regions to `visitor`. The last region is short.
    fn show(visitor: &mut impl Visitor<Error = io::Error>) {
        let region_size = RegionSize::new(Sectors(8)).unwrap();
        let geometry = Geometry::new(region_size, Sectors(8 * 20 + 3)).unwrap();
        visitor.begin(&Header { uuid: [0; 16], geometry }, 8).unwrap();
        for run in [1..2, 7..13, 20..21] {
            visitor.run(run).unwrap();
        }
        visitor.end().unwrap();
    }

    #[test]
    fn the_xml_form_is_as_fixed() {
        let mut xml = Vec::new();
        show(&mut xml::Writer::new(&mut xml));
        let expected = r#"<superblock uuid="" version="1" region_size="8" target_size="163" NR>
  <hydrated begin="1" length="1"/>
  <hydrated begin="7" length="6"/>
  <hydrated begin="20" length="1"/>
</superblock>
"#
        .replace("NR", "nr_regions=\"21\"");
        assert_eq!(String::from_utf8(xml).unwrap(), expected);
    }

    #[test]
    fn the_json_form_is_as_fixed() {
        let mut json = Vec::new();
        show(&mut json::Writer::new(&mut json));
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let expected = serde_json::json!({
            "uuid": "", "version": 1, "region_size": 8, "target_size": 163, "nr_regions": 21,
            "hydrated": 8, "runs": [[1, 2], [7, 13], [20, 21]],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn the_bitmap_begins_with_the_lowest_bit_and_ends_with_zeros() {
        let mut bitmap = Vec::new();
        show(&mut bitmap::Writer::new(&mut bitmap));
        assert_eq!(bitmap, [0b1000_0010, 0b0001_1111, 0b0001_0000]);
    }

    #[test]
    fn the_text_form_has_units() {
        let mut text = Vec::new();
        show(&mut text::Writer::new(&mut text));
        let expected = "\
region size:  8 sectors (4 KiB)
target size:  163 sectors (81.5 KiB)
hydrated:     8 of 21 regions (38.09 %)
  regions 1..2: sectors 8..16 (4 KiB)
  regions 7..13: sectors 56..104 (24 KiB)
  regions 20..21: sectors 160..163 (1.5 KiB)
";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
