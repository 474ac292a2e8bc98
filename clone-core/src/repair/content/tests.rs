//! Decisions, and the reads that they require.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;

use self::model::{EIO, counts, geometry, map_with, model};
use super::parallel_map::{JOBS_MAX, WORKERS};
use super::{
    ContentError, Decided, PIECE_BYTES, ReadData, Side, UNREADABLE_RUNS_MAX, Unreadable, decide,
};
use crate::geometry::{Geometry, RegionRange, RegionSize};
use crate::metadata::region_map::RegionMap;

mod chance;
mod model;

/// Sectors of the smallest and of the largest region.
const SMALL: u64 = RegionSize::MIN.0;
const LARGE: u64 = RegionSize::MAX.0;

/// A device that must not be read.
struct Untouchable(u64);

impl ReadData for Untouchable {
    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        panic!("the device is read")
    }
}

fn unreadable(decided: &Decided) -> Vec<(RegionRange, Side, Option<i32>)> {
    let tell = |run: &Unreadable| (run.regions.clone(), run.side, run.error.raw_os_error());
    decided.unreadable.iter().map(tell).collect()
}

/// Decides without progress reports. Returns the lost regions, too.
fn decided(
    map: &mut RegionMap,
    geometry: Geometry,
    source: &impl ReadData,
    destination: &impl ReadData,
) -> (Decided, Vec<RegionRange>) {
    let decided = decide(map, geometry, source, destination, &()).unwrap();
    (decided, map.lost().collect())
}

#[test]
fn the_table_of_decisions_holds_for_whole_regions_and_the_short_last_one() {
    // One row per region: its sectors on the source, those on the destination, and the expected
    // counts.
    type Row = (fn(u64) -> u8, fn(u64) -> u8, [u64; 5]);
    let rows: [Row; 10] = [
        (|_| 0, |_| 0, [1, 0, 0, 0, 0]),
        (|_| 7, |_| 7, [1, 0, 0, 0, 0]),
        (|_| 7, |_| 8, [0, 1, 0, 0, 0]),
        (|_| 0, |_| 8, [0, 1, 0, 0, 0]),
        (|_| 7, |at| 7 + u8::from(at == 2), [0, 1, 0, 0, 0]),
        (|_| 7, |at| 9 * u8::from(at == 2), [0, 1, 0, 0, 0]),
        // Half copied, as far as can be seen: from the start, from the end, all but one sector.
        (|_| 7, |at| 7 * u8::from(at == 0), [0, 0, 1, 1, 0]),
        (|_| 7, |at| 7 * u8::from(at == 2), [0, 0, 1, 1, 0]),
        (|_| 7, |at| 7 * u8::from(at != 1), [0, 0, 1, 1, 0]),
        (|_| 7, |_| 0, [0, 0, 1, 0, 0]),
    ];
    for last_sectors in [SMALL, 3] {
        for (row, (on_source, on_destination, expected)) in rows.into_iter().enumerate() {
            // After a region with a known state, which must not be read.
            let geometry = geometry(SMALL, SMALL + last_sectors);
            let map = &mut map_with(geometry, &[1..2]);
            let end = SMALL + last_sectors;
            // Data past the end of the clone must not matter.
            let source = model(end + 5, |at| if at < end { on_source(at - SMALL) } else { 1 });
            let destination =
                model(end + 5, |at| if at < end { on_destination(at - SMALL) } else { 2 });
            let (decided, lost) = decided(map, geometry, &source, &destination);
            assert_eq!(counts(&decided), expected, "row {row}");
            let is_hydrated = expected[0] + expected[1] == 1;
            assert_eq!(map.hydrated(), u64::from(is_hydrated), "row {row}");
            assert_eq!(lost.is_empty(), is_hydrated, "row {row}");
            assert_eq!(source.reads(), [SMALL..end]);
            assert_eq!(destination.reads(), [SMALL..end]);
        }
    }
}

#[test]
fn a_single_byte_makes_a_difference_wherever_it_lies() {
    struct Bytes(Vec<u8>);
    impl ReadData for Bytes {
        fn size_bytes(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            into.copy_from_slice(&self.0[offset as usize..][..into.len()]);
            Ok(())
        }
    }
    let geometry = geometry(SMALL, SMALL);
    let with = |at: usize, byte| {
        let mut bytes = vec![0; 4096];
        bytes[at] = byte;
        Bytes(bytes)
    };
    for at in [0, 1, 511, 512, 2047, 4095] {
        for (source, destination, expected) in [
            (with(at, 0), with(at, 1), [0, 1, 0, 0, 0]),
            (with(at, 1), with(at, 0), [0, 0, 1, 0, 0]),
            (with(at, 1), with(at, 1), [1, 0, 0, 0, 0]),
        ] {
            let map = &mut RegionMap::lost_whole(1);
            assert_eq!(counts(&decided(map, geometry, &source, &destination).0), expected);
        }
    }
}

#[test]
fn regions_of_4_kib_are_read_many_at_once_and_only_those_that_are_lost() {
    // Eleven array blocks; the regions at the end of each piece are undecided.
    let nr_regions = 11 * 32576 - 5;
    let per_piece = PIECE_BYTES as u64 / 4096;
    let geometry = geometry(SMALL, SMALL * nr_regions - 3);
    let lost = [0..1, 2..3, 1000..100_000, nr_regions - 600..nr_regions];
    let map = &mut map_with(geometry, &lost);
    let source = model(SMALL * nr_regions, |_| 1);
    let destination =
        model(SMALL * nr_regions, |sector| u8::from(!(sector / SMALL).is_multiple_of(per_piece)));
    let (decided, still_lost) = decided(map, geometry, &source, &destination);

    let undecided: Vec<u64> =
        lost.iter().cloned().flatten().filter(|region| region.is_multiple_of(per_piece)).collect();
    assert!(still_lost.into_iter().flatten().eq(undecided.iter().copied()));
    let nr_lost: u64 = lost.iter().map(|run| run.end - run.start).sum();
    let equal = nr_lost - undecided.len() as u64;
    assert_eq!(counts(&decided), [equal, 0, undecided.len() as u64, 0, 0]);
    assert_eq!(map.hydrated(), equal);

    for (reads, largest) in
        [(source.reads(), source.largest_read()), (destination.reads(), destination.largest_read())]
    {
        assert_eq!(largest, PIECE_BYTES as u64);
        // A run is also split at borders of array blocks.
        let most = nr_lost / per_piece + lost.len() as u64 + 11;
        assert!(reads.len() as u64 <= most, "{} reads", reads.len());
        let mut sectors: Vec<RegionRange> = reads;
        sectors.sort_by_key(|read| read.start);
        let wanted = lost.iter().map(|run| geometry.sectors_of(run.clone()));
        let wanted = wanted.flat_map(|sectors| sectors.start.0..sectors.end.0);
        assert!(sectors.into_iter().flatten().eq(wanted), "each lost sector once, no other");
    }
}

#[test]
fn regions_of_1_gib_are_read_in_pieces_as_far_as_needed() {
    const UNDECIDED: u64 = 1;
    const WRITTEN: u64 = 2;
    const EQUAL: u64 = 4;
    // The fourth region is known, the last one is short.
    let geometry = geometry(LARGE, 4 * LARGE + 12_345);
    let map = &mut map_with(geometry, &[UNDECIDED..WRITTEN + 1, EQUAL..EQUAL + 1]);
    let source = model(5 * LARGE, |_| 5);
    let destination = model(5 * LARGE, |sector| match sector / LARGE {
        UNDECIDED => 0,
        WRITTEN if sector % LARGE < 10 => 5,
        WRITTEN => 6,
        EQUAL => 5,
        _ => 9,
    });
    let (decided, lost) = decided(map, geometry, &source, &destination);
    assert_eq!(counts(&decided), [1, 1, 1, 0, 0]);
    assert_eq!(lost, [UNDECIDED..UNDECIDED + 1]);
    assert!(map.runs().eq([WRITTEN..WRITTEN + 1, EQUAL..EQUAL + 1]));

    let reads_of = |region| {
        destination.reads().into_iter().filter(|read| read.start / LARGE == region).count()
    };
    assert_eq!(reads_of(UNDECIDED), (1 << 30) / PIECE_BYTES);
    assert!(reads_of(WRITTEN) <= JOBS_MAX, "{}", reads_of(WRITTEN));
    assert_eq!(reads_of(3), 0);
    assert_eq!(reads_of(EQUAL), (12_345 * 512_usize).div_ceil(PIECE_BYTES));
    assert_eq!(source.largest_read(), PIECE_BYTES as u64);
    assert_eq!(destination.largest_read(), PIECE_BYTES as u64);
}

#[test]
fn the_end_of_a_large_region_counts_as_much_as_its_beginning() {
    let target = LARGE / 64;
    let geometry = geometry(LARGE, target);
    let cases: [(u8, u8, [u64; 5]); 3] =
        [(1, 2, [0, 1, 0, 0, 0]), (0, 3, [0, 1, 0, 0, 0]), (3, 0, [0, 0, 1, 0, 0])];
    for (on_source, on_destination, expected) in cases {
        let last = |byte| move |sector| if sector == target - 1 { byte } else { 0 };
        let (source, destination) =
            (model(target, last(on_source)), model(target, last(on_destination)));
        let map = &mut RegionMap::lost_whole(1);
        assert_eq!(counts(&decided(map, geometry, &source, &destination).0), expected);
    }
    // The first pieces differ and are zero, and the last one is equal and not zero: an interrupted
    // copy. Then the same with one sector in the last piece that was not copied.
    let source = model(target, |_| 1);
    let last_piece = target - PIECE_BYTES as u64 / 512;
    for (last, expected) in [(1, [0, 0, 1, 1, 0]), (2, [0, 1, 0, 0, 0])] {
        let destination = model(target, |sector| match sector {
            sector if sector < last_piece => 0,
            sector if sector == target - 1 => last,
            _ => 1,
        });
        let map = &mut RegionMap::lost_whole(1);
        assert_eq!(counts(&decided(map, geometry, &source, &destination).0), expected);
        assert_eq!(map.hydrated(), expected[1]);
    }
}

#[test]
fn a_bad_sector_costs_the_region_that_it_is_in() {
    let nr_regions = 3000;
    let geometry = geometry(SMALL, SMALL * nr_regions);
    let (on_source, on_destination) = (700, 710);
    for side in [Side::Source, Side::Destination] {
        let map = &mut RegionMap::lost_whole(nr_regions);
        let source = model(SMALL * nr_regions, |_| 1);
        let destination = model(SMALL * nr_regions, |_| 1);
        let (source, destination, bad) = match side {
            Side::Source => (source.with_bad([SMALL * on_source + 3]), destination, on_source),
            Side::Destination => {
                (source, destination.with_bad([SMALL * on_destination]), on_destination)
            }
        };
        let (decided, lost) = decided(map, geometry, &source, &destination);
        assert_eq!(counts(&decided), [nr_regions - 1, 0, 0, 0, 1]);
        assert_eq!(unreadable(&decided), [(bad..bad + 1, side, Some(EIO))]);
        assert_eq!(lost, [bad..bad + 1]);
        assert_eq!(map.hydrated(), nr_regions - 1);
        // One piece is read again, region by region.
        let most = nr_regions * 4096 / PIECE_BYTES as u64 + 1 + PIECE_BYTES as u64 / 4096;
        assert!(source.reads().len() as u64 <= most, "{} reads", source.reads().len());
    }
}

#[test]
fn a_bad_sector_of_a_large_region_costs_that_region_and_no_more_reads() {
    let geometry = geometry(LARGE, 2 * LARGE + 1);
    let map = &mut map_with(geometry, &[0..1, 2..3]);
    let source = model(2 * LARGE + 1, |_| 1).with_bad([9]);
    let destination = model(2 * LARGE + 1, |_| 1).with_bad([9]);
    let (decided, lost) = decided(map, geometry, &source, &destination);
    assert_eq!(counts(&decided), [1, 0, 0, 0, 1]);
    assert_eq!(unreadable(&decided), [(0..1, Side::Source, Some(EIO))]);
    assert_eq!(lost, [0..1]);
    assert!(source.reads().len() <= JOBS_MAX + 1);
}

#[test]
fn unreadable_regions_are_told_as_runs_of_one_device_and_one_error() {
    let geometry = geometry(SMALL, SMALL * 40);
    let map = &mut map_with(geometry, &[0..20, 21..40]);
    let mut source = model(SMALL * 40, |_| 0).with_bad((10..25).map(|region| region * SMALL));
    source.bad.extend([(25 * SMALL, EIO + 1)]);
    let destination = model(SMALL * 40, |_| 0).with_bad((24..30).map(|region| region * SMALL));
    let (decided, lost) = decided(map, geometry, &source, &destination);
    let expected = [
        (10..20, Side::Source, Some(EIO)),
        (21..25, Side::Source, Some(EIO)),
        (25..26, Side::Source, Some(EIO + 1)),
        (26..30, Side::Destination, Some(EIO)),
    ];
    assert_eq!(unreadable(&decided), expected);
    assert_eq!(counts(&decided), [20, 0, 0, 0, 19]);
    assert_eq!(lost, [10..20, 21..30]);
}

#[test]
fn the_list_of_unreadable_regions_is_bounded_and_their_number_is_told() {
    let nr_regions = 2 * UNREADABLE_RUNS_MAX as u64 + 100;
    let geometry = geometry(SMALL, SMALL * nr_regions);
    let odd_ones = (1..nr_regions).step_by(2);
    let map = &mut RegionMap::lost_whole(nr_regions);
    let source = model(SMALL * nr_regions, |_| 0).with_bad(odd_ones.map(|region| region * SMALL));
    let (decided, lost) = decided(map, geometry, &source, &model(SMALL * nr_regions, |_| 0));
    assert_eq!(decided.nr_unreadable, nr_regions / 2);
    assert_eq!(lost.len() as u64, nr_regions / 2);
    assert_eq!(decided.unreadable.len(), UNREADABLE_RUNS_MAX);
    assert_eq!(decided.unreadable[UNREADABLE_RUNS_MAX - 1].regions, 1999..2000);
}

#[test]
fn several_reads_are_in_flight_at_once() {
    let pieces = 3 * WORKERS as u64;
    let sectors = pieces * PIECE_BYTES as u64 / 512;
    for region in [SMALL, LARGE] {
        let geometry = geometry(region, sectors);
        let map = &mut RegionMap::lost_whole(geometry.nr_regions());
        let mut source = model(sectors, |_| 1);
        // No read of the source ends before this many have begun.
        source.meet = Some(Barrier::new(WORKERS.max(2)));
        let (_, lost) = decided(map, geometry, &source, &model(sectors, |_| 1));
        assert!(lost.is_empty());
        assert_eq!(source.reads().len() as u64, pieces);
    }
}

#[test]
fn devices_that_are_too_small_are_refused_before_anything_is_read() {
    let geometry = geometry(SMALL, 8 * SMALL + 3);
    let needed = geometry.target_size().to_bytes().unwrap();
    for (source, destination, wrong) in [
        (needed - 1, needed, Side::Source),
        (needed, needed - 1, Side::Destination),
        (0, 0, Side::Source),
    ] {
        let map = &mut RegionMap::lost_whole(geometry.nr_regions());
        let (source, destination) = (Untouchable(source), Untouchable(destination));
        let error = decide(map, geometry, &source, &destination, &()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, ContentError::TooSmall { side, needed: told, .. }
                if side == wrong && told == needed));
        assert!(message.starts_with(&format!("the {wrong} has ")), "{message}");
        assert_eq!(*map, RegionMap::lost_whole(geometry.nr_regions()));
    }
}

#[test]
fn where_nothing_is_lost_nothing_is_read() {
    let geometry = geometry(SMALL, 100 * SMALL);
    let map = &mut map_with(geometry, &[]);
    let device = Untouchable(100 * SMALL * 512);
    let (decided, _) = decided(map, geometry, &device, &device);
    assert_eq!(counts(&decided), [0; 5]);
    assert_eq!(map.hydrated(), 0);
}

#[test]
fn a_device_that_panics_is_not_passed_over_in_silence() {
    let geometry = geometry(SMALL, 100 * SMALL);
    let map = &mut RegionMap::lost_whole(100);
    let device = Untouchable(100 * SMALL * 512);
    let panic = catch_unwind(AssertUnwindSafe(|| decide(map, geometry, &device, &device, &())));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"the device is read"));
    assert_eq!(*map, RegionMap::lost_whole(100));
}
