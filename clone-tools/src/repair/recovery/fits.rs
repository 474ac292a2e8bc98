//! Lists the sizes of clones that fit the bitsets that were found.

use std::iter;
use std::ops::{Range, RangeInclusive};

use clone_core::geometry::{MAX_REGIONS, RegionSize, Sectors};
use clone_core::repair::Fit;
use clone_core::size::human;

use crate::common::reporter::Reporter;
use crate::common::units::Counted;

/// The number of bitsets whose sizes are listed; the rest are only counted.
const LISTED: usize = 3;

/// Lists the sizes that fit, one table per number of regions, the best bitset first.
pub(super) fn list_fits(reporter: &Reporter<'_>, fits: &[Fit]) {
    let mut distinct: Vec<&Fit> = Vec::new();
    for fit in fits {
        if !distinct.iter().any(|other| other.nr_regions == fit.nr_regions) {
            distinct.push(fit);
        }
    }
    let listed = reporter.nr_listed(LISTED);
    for fit in distinct.iter().take(listed) {
        table(fit).for_each(|line| reporter.say(line));
    }
    let more = distinct.len().saturating_sub(listed);
    if more > 0 {
        let more = Counted(more as u64, "more bitset");
        reporter.say(format_args!("and {more} of other sizes (--verbose lists all)"));
    }
}

/// Returns all sizes that fit a bitset, one line per region size.
fn table(fit: &Fit) -> impl Iterator<Item = String> {
    let Range { start, end } = fit.nr_regions;
    let title = format!(
        "the bitset with its root in block {} is right for {start} to {} regions, that is for",
        fit.root,
        end.saturating_sub(1)
    );
    let lines = sizes_of(&fit.nr_regions).map(|(region_size, sizes)| {
        let (least, most) = (*sizes.start(), *sizes.end());
        format!(
            "  --region-size {:<7} --target-size {:>16} to {:>16}  ({}: {} to {})",
            region_size.sectors(),
            least,
            most,
            human(region_size.sectors()),
            human(least),
            human(most)
        )
    });
    iter::once(title).chain(lines)
}

/// Returns, for each region size, the target sizes that make a number of regions in `nr_regions`.
fn sizes_of(
    nr_regions: &Range<u64>,
) -> impl Iterator<Item = (RegionSize, RangeInclusive<Sectors>)> {
    let least = nr_regions.start.max(1);
    let most = nr_regions.end.saturating_sub(1).min(MAX_REGIONS);
    let region_sizes = (RegionSize::MIN.0.ilog2()..=RegionSize::MAX.0.ilog2())
        .filter_map(|bit| RegionSize::new(Sectors(1 << bit)).ok());
    region_sizes.filter(move |_| least <= most).map(move |region_size| {
        let sectors = region_size.sectors().0;
        (region_size, Sectors((least - 1) * sectors + 1)..=Sectors(most * sectors))
    })
}

#[cfg(test)]
mod tests {
    use clone_core::geometry::{Geometry, MAX_REGIONS, Sectors};

    use clone_core::repair::Fit;
    use persistent_data::BlockNr;

    use super::{sizes_of, table};

    #[test]
    fn the_sizes_listed_are_those_that_make_so_many_regions() {
        for nr_regions in [1..2, 1..65, 449..513, MAX_REGIONS - 63..MAX_REGIONS + 1] {
            let all: Vec<_> = sizes_of(&nr_regions).collect();
            assert_eq!(all.len(), 19);
            for (region_size, sizes) in all {
                let count = |sectors| {
                    Geometry::new(region_size, sectors).map_or(0, |geometry| geometry.nr_regions())
                };
                assert_eq!(count(*sizes.start()), nr_regions.start);
                assert_eq!(count(*sizes.end()), nr_regions.end - 1);
                assert_eq!(count(Sectors(sizes.start().0 - 1)), nr_regions.start - 1);
                assert!(!nr_regions.contains(&count(Sectors(sizes.end().0 + 1))));
            }
        }
    }

    #[test]
    fn sizes_are_written_as_the_command_line_takes_them() {
        let fit = Fit { root: BlockNr(5), nr_regions: 15617..15681 };
        let lines: Vec<String> = table(&fit).collect();
        let title = "the bitset with its root in block 5 is right for 15617 to 15680 regions,";
        assert!(lines[0].starts_with(title), "{}", lines[0]);
        assert_eq!(
            lines[4],
            "  --region-size 64      --target-size           999425 to          1003520  \
             (32 KiB: 488.0 MiB to 490 MiB)"
        );
        assert_eq!(lines.len(), 1 + 19);
    }

    #[test]
    fn nothing_fits_what_is_no_number_of_regions() {
        for nr_regions in [0..0, 0..1, 5..5, MAX_REGIONS + 1..MAX_REGIONS + 2] {
            assert_eq!(sizes_of(&nr_regions).count(), 0);
        }
    }
}
