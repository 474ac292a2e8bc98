use std::io::{self, Write};

use clone_core::geometry::RegionRange;
use clone_core::metadata::ir::{Header, METADATA_VERSION, Visitor};

use crate::common::units::format_uuid;

/// Writes metadata as XML.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// Creates a writer to `to`, which should be buffered.
    pub fn new(to: W) -> Self {
        Self { to }
    }
}

impl<W: Write> Visitor for Writer<W> {
    type Error = io::Error;

    fn begin(&mut self, header: &Header, _hydrated: u64) -> io::Result<()> {
        let geometry = &header.geometry;
        writeln!(
            self.to,
            "<superblock uuid=\"{}\" version=\"{METADATA_VERSION}\" region_size=\"{}\" \
             target_size=\"{}\" nr_regions=\"{}\">",
            format_uuid(&header.uuid),
            geometry.region_size().sectors(),
            geometry.target_size(),
            geometry.nr_regions(),
        )
    }

    fn run(&mut self, regions: RegionRange) -> io::Result<()> {
        // Formatting with write! takes several times as long, and a dump can have a billion runs.
        let (mut begin, mut length) = (itoa::Buffer::new(), itoa::Buffer::new());
        let mut line = [0; 80];
        let mut free = line.as_mut_slice();
        free.write_all(b"  <hydrated begin=\"")?;
        free.write_all(begin.format(regions.start).as_bytes())?;
        free.write_all(b"\" length=\"")?;
        free.write_all(length.format(regions.end - regions.start).as_bytes())?;
        free.write_all(b"\"/>\n")?;
        let unused = free.len();
        let used = line.len() - unused;
        self.to.write_all(&line[..used])
    }

    fn end(&mut self) -> io::Result<()> {
        self.to.write_all(b"</superblock>\n")
    }
}
