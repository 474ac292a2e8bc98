//! Whole images whose reachable blocks have valid checksums: the laws of every check hold, and the
//! metadata read can be dumped.

#![no_main]

use std::convert::Infallible;

use clone_core::geometry::RegionRange;
use clone_core::metadata::check::read;
use clone_core::metadata::dump::dump;
use clone_core::metadata::ir::{Header, Visitor};
use clone_core::metadata::region_map::RegionMap;
use clone_fuzz::unfold;
use clone_tests::laws;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|folded: &[u8]| {
    let image = unfold(folded);
    laws::judge(&image, false);

    let mut report = read(&image, &());
    let (Some(header), Some(regions)) = (report.header(), report.regions.take()) else {
        return;
    };
    check_dump(&header, &regions);
    for hydrated in [false, true] {
        let mut settled = regions.clone();
        settled.settle_lost(hydrated);
        assert!(settled.is_whole());
        check_dump(&header, &settled);
    }
});

fn check_dump(header: &Header, regions: &RegionMap) {
    let nr_regions = header.geometry.nr_regions();
    let Ok(()) = dump(header, regions, &mut Runs { end: None, left: 0, nr_regions });
}

/// Checks that runs ascend, do not touch, end within the clone, and add up to the number of
/// hydrated regions.
struct Runs {
    end: Option<u64>,
    left: u64,
    nr_regions: u64,
}

impl Visitor for Runs {
    type Error = Infallible;

    fn begin(&mut self, _: &Header, hydrated: u64) -> Result<(), Infallible> {
        self.left = hydrated;
        Ok(())
    }

    fn run(&mut self, regions: RegionRange) -> Result<(), Infallible> {
        assert!(self.end.is_none_or(|end| end < regions.start));
        assert!(regions.start < regions.end && regions.end <= self.nr_regions);
        self.left -= regions.end - regions.start;
        self.end = Some(regions.end);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Infallible> {
        assert_eq!(self.left, 0);
        Ok(())
    }
}
