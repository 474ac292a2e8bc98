//! The bitmap format: one bit per region, lowest bit first, set if the region is hydrated.

use std::io::{self, Write};

use clone_core::geometry::RegionRange;
use clone_core::metadata::ir::{Header, Visitor};

/// Writes metadata as a raw bitmap of `ceil(nr_regions / 8)` bytes. The unused bits of the last
/// byte are zero.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    nr_regions: u64,
    /// Bits that do not fill a byte yet.
    byte: u8,
    /// The number of regions written so far.
    at: u64,
}

impl<W: Write> Writer<W> {
    /// Creates a writer to `to`, which should be buffered.
    pub fn new(to: W) -> Self {
        Self { to, nr_regions: 0, byte: 0, at: 0 }
    }

    /// Writes `hydrated` for all regions from the current one up to `end` (exclusive).
    fn fill(&mut self, end: u64, hydrated: bool) -> io::Result<()> {
        let pattern = if hydrated { u8::MAX } else { 0 };
        while self.at < end {
            let bit = self.at % 8;
            let whole_bytes = (end - self.at) / 8;
            if bit == 0 && whole_bytes > 0 {
                io::copy(&mut io::Read::take(io::repeat(pattern), whole_bytes), &mut self.to)?;
                self.at += whole_bytes * 8;
                continue;
            }
            self.byte |= pattern & (1 << bit);
            self.at += 1;
            if bit == 7 {
                self.to.write_all(&[self.byte])?;
                self.byte = 0;
            }
        }
        Ok(())
    }
}

impl<W: Write> Visitor for Writer<W> {
    type Error = io::Error;

    fn begin(&mut self, header: &Header, _hydrated: u64) -> io::Result<()> {
        self.nr_regions = header.geometry.nr_regions();
        Ok(())
    }

    fn run(&mut self, regions: RegionRange) -> io::Result<()> {
        self.fill(regions.start, false)?;
        self.fill(regions.end, true)
    }

    fn end(&mut self) -> io::Result<()> {
        self.fill(self.nr_regions.next_multiple_of(8), false)
    }
}
