use std::io::{self, Write};

use clone_core::geometry::RegionRange;
use clone_core::metadata::ir::{Header, METADATA_VERSION, Visitor};

use crate::common::units::format_uuid;

/// Writes metadata as one JSON document, with one line per run.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    separator: &'static str,
}

impl<W: Write> Writer<W> {
    /// Creates a writer to `to`, which should be buffered.
    pub fn new(to: W) -> Self {
        Self { to, separator: "\n" }
    }
}

impl<W: Write> Visitor for Writer<W> {
    type Error = io::Error;

    fn begin(&mut self, header: &Header, hydrated: u64) -> io::Result<()> {
        let geometry = &header.geometry;
        write!(
            self.to,
            "{{\"uuid\":\"{}\",\"version\":{METADATA_VERSION},\"region_size\":{},\
             \"target_size\":{},\"nr_regions\":{},\"hydrated\":{hydrated},\"runs\":[",
            format_uuid(&header.uuid),
            geometry.region_size().sectors(),
            geometry.target_size(),
            geometry.nr_regions(),
        )
    }

    fn run(&mut self, regions: RegionRange) -> io::Result<()> {
        let (mut begin, mut end) = (itoa::Buffer::new(), itoa::Buffer::new());
        self.to.write_all(self.separator.as_bytes())?;
        self.separator = ",\n";
        self.to.write_all(b"[")?;
        self.to.write_all(begin.format(regions.start).as_bytes())?;
        self.to.write_all(b",")?;
        self.to.write_all(end.format(regions.end).as_bytes())?;
        self.to.write_all(b"]")
    }

    fn end(&mut self) -> io::Result<()> {
        self.to.write_all(b"]}\n")
    }
}
