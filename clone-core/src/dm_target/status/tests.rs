//! Statuses of real clones, and texts that are not a status.

use quickcheck::quickcheck;

use super::{Field, METADATA_BLOCK, Mode, Status, StatusCounts, StatusError, StatusLine};
use crate::dm_target::options::Options;
use crate::geometry::{MAX_REGIONS, RegionSize, Sectors};

/// Statuses as kernel 6.1 prints them; the last two are constructed.
const REAL: [&str; 5] = [
    "0 262144 clone 8 7/2048 8 4530/32768 0 1 no_hydration 4 hydration_threshold 1 \
     hydration_batch_size 1 rw",
    "0 2097152 clone 8 10/2048 16 131072/131072 0 1 no_discard_passdown 4 \
     hydration_threshold 4096 hydration_batch_size 512 rw",
    "0 4097 clone 8 6/2048 8 513/513 0 2 no_hydration no_discard_passdown 4 \
     hydration_threshold 4294967295 hydration_batch_size 0 rw",
    "0 4104 clone 8 6/2048 8 0/513 1 0 4 hydration_threshold 1 hydration_batch_size 1 ro",
    "0 8 clone Fail",
];

#[test]
fn what_a_kernel_prints_is_printed_again() {
    for real in REAL {
        let line = StatusLine::parse(real).unwrap_or_else(|error| panic!("{real}: {error}"));
        assert_eq!(line.to_string(), real);
        let short = real.splitn(4, ' ').nth(3).unwrap();
        let status = Status::parse(short).unwrap();
        assert_eq!(status.to_string(), short);
        assert_eq!(StatusLine::parse(short), Ok(StatusLine { place: None, status }));
    }
    assert_eq!(Status::parse("Error"), Ok(Status::Error));
}

#[test]
fn the_figures_are_those_of_the_line() {
    let region_size = RegionSize::new(Sectors(8)).unwrap();
    let expected = StatusCounts {
        metadata_used: 7,
        metadata_total: 2048,
        region_size,
        hydrated: 4530,
        regions: 32768,
        hydrating: 0,
        options: Options { hydration: false, ..Options::default() },
        mode: Mode::ReadWrite,
    };
    let place = Some((Sectors(0), Sectors(262_144)));
    let status = Status::Running(expected);
    assert_eq!(StatusLine::parse(REAL[0]), Ok(StatusLine { place, status }));
}

/// Returns the error for the first real status with `from` replaced by `to`.
fn refused(from: &str, to: &str) -> StatusError {
    let line = REAL[0].replacen(from, to, 1);
    assert_ne!(line, REAL[0]);
    StatusLine::parse(&line).expect_err(&line)
}

#[test]
fn a_part_is_not_more_than_all() {
    let more = |position, part, all| StatusError::MoreThanAll { position, part, all };
    assert_eq!(refused("4530/", "32769/"), more(7, 32769, 32768));
    assert_eq!(refused("32768 0", "32768 32770"), more(8, 32770, 32769));
    let line = REAL[0].replacen("32768 0", "32768 32769", 1);
    assert!(StatusLine::parse(&line).is_ok(), "one is counted while there is nothing to copy");
}

#[test]
fn a_kernel_passes_on_what_damaged_metadata_claims() {
    let line = REAL[0].replacen(" 7/2048", " 18446744073709551615/0", 1);
    let status = StatusLine::parse(&line).expect("a status that was seen");
    assert_eq!(status.to_string(), line);
}

#[test]
fn the_regions_are_those_of_the_length() {
    let other = |told, nr_regions| StatusError::OtherGeometry { told, nr_regions };
    assert_eq!(refused("262144", "262145"), other(32768, 32769));
    assert_eq!(refused("/32768", "/32767"), other(32767, 32768));
    assert!(matches!(refused("262144", "18446744073709551615"), StatusError::OtherGeometry { .. }));
}

#[test]
fn a_word_that_cannot_stand_there_is_named_with_what_can() {
    for (from, to, at, told) in [
        ("0 2", "-1 2", 1, Field::Start),
        ("262144", "0", 2, Field::Length),
        ("clone 8", "clone 16", 4, Field::MetadataBlockSize),
        ("7/2048", "7", 5, Field::MetadataBlocks),
        ("7/2048", "+7/2048", 5, Field::MetadataBlocks),
        ("2048 8", "2048 12", 6, Field::RegionSize),
        ("/32768", "/0", 7, Field::Regions),
        ("/32768", "/2147483649", 7, Field::Regions),
        ("/32768", "/18446744073709551616", 7, Field::Regions),
        ("32768 0", "32768 x", 8, Field::Hydrating),
        ("1 no_hydration", "3 no_hydration", 9, Field::FeatureCount),
        ("1 no_hydration", "2 no_hydration no_hydration", 11, Field::Feature),
        ("no_hydration", "no_Hydration", 10, Field::Feature),
        ("4 hydration", "2 hydration", 11, Field::CoreCount),
        ("hydration_threshold", "hydration_batch_size", 14, Field::CoreName),
        ("threshold 1", "threshold 4294967296", 13, Field::CoreValue),
        ("rw", "RW", 16, Field::Mode),
    ] {
        match refused(from, to) {
            StatusError::Word { position, field, .. } => {
                assert_eq!((position, field), (at, told), "{to}");
            }
            error => panic!("{to}: {error}"),
        }
    }
    let extra = StatusError::Extra { position: 17, word: "needs_check".into() };
    assert_eq!(refused("rw", "rw needs_check"), extra);
    assert!(matches!(StatusLine::parse("0 8 clone fail"), Err(StatusError::Word { .. })));
    assert!(matches!(StatusLine::parse("Fail Fail"), Err(StatusError::Extra { .. })));
}

#[test]
fn a_status_that_ends_early_lacks_the_next_word() {
    let words: Vec<&str> = REAL[0].split(' ').collect();
    for length in 3..words.len() {
        match StatusLine::parse(&words[..length].join(" ")) {
            Err(StatusError::Missing { position, .. }) => assert_eq!(position, length + 1),
            result => panic!("{length}: {result:?}"),
        }
    }
    let nothing = StatusError::Missing { position: 1, field: Field::MetadataBlockSize };
    assert_eq!(Status::parse(" "), Err(nothing));
}

quickcheck! {
    fn what_is_printed_is_read_back(
        numbers: (u64, u64, u64, u64, u64),
        shift: u8,
        values: (u32, u32),
        flags: (bool, bool, bool, bool)
    ) -> bool {
        let (length, hydrated, hydrating, used, total) = numbers;
        let region_size = RegionSize::new(Sectors(METADATA_BLOCK << (shift % 19))).unwrap();
        let length = length % (MAX_REGIONS * region_size.sectors().0) + 1;
        let regions = length.div_ceil(region_size.sectors().0);
        let metadata_total = total % 4_161_601;
        let status = Status::Running(StatusCounts {
            metadata_used: used % (metadata_total + 1),
            metadata_total,
            region_size,
            hydrated: hydrated % (regions + 1),
            regions,
            hydrating: hydrating % (regions + 2),
            options: Options {
                hydration: flags.0,
                discard_passdown: flags.1,
                hydration_threshold: values.0,
                hydration_batch_size: values.1,
            },
            mode: if flags.2 { Mode::ReadWrite } else { Mode::ReadOnly },
        });
        let place = flags.3.then_some((Sectors(used), Sectors(length)));
        let line = StatusLine { place, status };
        StatusLine::parse(&line.to_string()) == Ok(line)
    }

    fn no_text_makes_it_panic(text: String, at: usize, number: u64) -> bool {
        let mut words: Vec<&str> = REAL[at % REAL.len()].split(' ').collect();
        let (other, place) = (number.to_string(), at % words.len());
        words[place] = if number.is_multiple_of(2) { &text } else { &other };
        [text.clone(), words.join(" ")].iter().all(|text| {
            StatusLine::parse(text).map_or_else(|error| !error.to_string().is_empty(), |_| true)
        })
    }
}
