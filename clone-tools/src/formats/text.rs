//! The text format of a dump, for people.

use std::io::{self, Write};

use clone_core::geometry::{Geometry, RegionRange, Sectors};
use clone_core::metadata::ir::{Header, Visitor};
use clone_core::size::human;

use crate::common::units::Share;
use crate::common::units::format_uuid;

/// Writes metadata as lines of text.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    geometry: Option<Geometry>,
}

impl<W: Write> Writer<W> {
    /// Creates a writer to `to`, which should be buffered.
    pub fn new(to: W) -> Self {
        Self { to, geometry: None }
    }
}

impl<W: Write> Visitor for Writer<W> {
    type Error = io::Error;

    fn begin(&mut self, header: &Header, hydrated: u64) -> io::Result<()> {
        let geometry = header.geometry;
        self.geometry = Some(geometry);
        let nr_regions = geometry.nr_regions();
        write_sizes(&mut self.to, header)?;
        writeln!(
            self.to,
            "hydrated:     {hydrated} of {nr_regions} regions ({})",
            Share { part: hydrated, whole: nr_regions }
        )
    }

    fn run(&mut self, regions: RegionRange) -> io::Result<()> {
        write!(self.to, "  regions {}..{}", regions.start, regions.end)?;
        if let Some(geometry) = &self.geometry {
            let sectors = geometry.sectors_of(regions);
            let length = Sectors(sectors.end.0 - sectors.start.0);
            write!(self.to, ": sectors {}..{} ({})", sectors.start, sectors.end, human(length))?;
        }
        writeln!(self.to)
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the size lines that the text format and `clone_check` share.
pub fn write_sizes(to: &mut (impl Write + ?Sized), header: &Header) -> io::Result<()> {
    let geometry = &header.geometry;
    let (region_size, target_size) = (geometry.region_size().sectors(), geometry.target_size());
    if header.uuid != [0; 16] {
        writeln!(to, "uuid:         {}", format_uuid(&header.uuid))?;
    }
    writeln!(to, "region size:  {region_size} sectors ({})", human(region_size))?;
    writeln!(to, "target size:  {target_size} sectors ({})", human(target_size))
}
