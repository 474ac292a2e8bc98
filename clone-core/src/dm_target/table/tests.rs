//! Valid and invalid table lines. The expected results were found with a real kernel.

use quickcheck::quickcheck;

use super::{Arguments, DevicePaths, TableLine};
use crate::dm_target::error::{Role, TableError, Word};
use crate::dm_target::options::Options;
use crate::geometry::{GeometryError, RegionSize, Sectors};

fn options(text: &str) -> Options {
    let arguments = Arguments::parse(&format!("m d s {text}"));
    arguments.unwrap_or_else(|error| panic!("{text}: {error}")).options()
}

fn refused(text: &str) -> TableError {
    Arguments::parse(&format!("m d s {text}")).expect_err(text)
}

#[test]
fn what_is_not_said_is_as_the_kernel_has_it() {
    let default = Options {
        hydration: true,
        discard_passdown: true,
        hydration_threshold: 1,
        hydration_batch_size: 1,
    };
    for text in ["8", "008", "8 0", "8 00 0", "8 0 0 0 0", "8 0 0 hydration_threshold 5"] {
        assert_eq!(options(text), default, "{text}");
    }
}

#[test]
fn features_and_core_arguments_come_in_any_case_and_the_last_value_holds() {
    let both = options(
        "8 2 No_Discard_Passdown NO_HYDRATION 4 HYDRATION_batch_size +3 \
         hydration_threshold 0",
    );
    let expected = Options {
        hydration: false,
        discard_passdown: false,
        hydration_threshold: 0,
        hydration_batch_size: 3,
    };
    assert_eq!(both, expected);
    let twice = "8 2 no_hydration no_hydration 4 hydration_threshold 5 hydration_threshold 6";
    let expected = Options { hydration: false, hydration_threshold: 6, ..Options::default() };
    assert_eq!(options(twice), expected);
}

#[test]
fn words_behind_the_last_group_mean_nothing() {
    let text = "m d s 8 0 2 hydration_threshold 5 hydration_batch_size 6";
    let arguments = Arguments::parse(text).unwrap();
    assert_eq!(arguments.ignored(), ["hydration_batch_size", "6"]);
    assert_eq!(arguments.options().hydration_batch_size, 1);
    assert_eq!(arguments.to_string(), text);
    assert!(Arguments::parse("m d s 8 0").unwrap().ignored().is_empty());
}

#[test]
fn a_wrong_word_is_named_with_its_place_and_what_may_stand_there() {
    for (text, position, role) in [
        ("9", 4, Role::RegionSize),
        ("4", 4, Role::RegionSize),
        ("4194304", 4, Role::RegionSize),
        ("+8", 4, Role::RegionSize),
        ("0x8", 4, Role::RegionSize),
        ("8 3 no_hydration no_hydration no_hydration", 5, Role::FeatureCount),
        ("8 no_hydration", 5, Role::FeatureCount),
        ("8 1 hydration", 6, Role::Feature),
        ("8 0 1 hydration_threshold", 6, Role::CoreCount),
        ("8 0 6 a 1 b 2 c 3", 6, Role::CoreCount),
        ("8 1 no_hydration extra", 7, Role::CoreCount),
        ("8 0 2 threshold 5", 7, Role::CoreName),
        ("8 0 2 hydration_threshold -5", 8, Role::CoreValue),
        ("8 0 2 hydration_threshold 4294967296", 8, Role::CoreValue),
    ] {
        match refused(text) {
            TableError::Word(word) => {
                assert_eq!((word.position, word.role), (position, role), "{text}");
            }
            error => panic!("{text}: {error}"),
        }
    }
    assert_eq!(
        refused("9").to_string(),
        "word 4, the region size, is \"9\": it must be a whole number of sectors, a power of two \
         from 8 to 2097152"
    );
}

#[test]
fn a_line_that_ends_too_early_says_what_is_missing() {
    for (text, position, role) in [
        ("", 1, Role::Metadata),
        ("m", 2, Role::Destination),
        ("m d", 3, Role::Source),
        ("m d s", 4, Role::RegionSize),
    ] {
        let missing = TableError::Missing { position, role, comment: false };
        assert_eq!(Arguments::parse(text), Err(missing), "{text}");
    }
    let word = Word { text: "2".into(), position: 5, role: Role::FeatureCount };
    assert_eq!(refused("8 2 no_hydration"), TableError::CountPastEnd { word, left: 1 });
    let word = Word { text: "4".into(), position: 6, role: Role::CoreCount };
    assert_eq!(refused("8 0 4 hydration_threshold 5"), TableError::CountPastEnd { word, left: 2 });
}

/// The kernel keeps 32 bits of these numbers and takes them for 8 and 1.
#[test]
fn a_number_that_the_kernel_would_cut_short_is_refused() {
    let word = Word { text: "4294967304".into(), position: 4, role: Role::RegionSize };
    assert_eq!(refused("4294967304"), TableError::TooLarge { word, lowest: 8 });
    let text = "18446744073709551617";
    let word = Word { text: text.into(), position: 5, role: Role::FeatureCount };
    let refused = refused(&format!("8 {text} no_hydration"));
    assert_eq!(refused, TableError::TooLarge { word, lowest: 1 });
}

/// The kernel accepts all of these.
#[test]
fn a_device_has_one_part_to_play() {
    for (text, first, second) in [
        ("a a b 8", Role::Metadata, Role::Destination),
        ("a b a 8", Role::Metadata, Role::Source),
        ("b a a 8", Role::Destination, Role::Source),
        ("a a a 8", Role::Metadata, Role::Destination),
    ] {
        let same = TableError::SameDevice { path: "a".into(), first, second };
        assert_eq!(Arguments::parse(text), Err(same), "{text}");
    }
}

#[test]
fn words_go_apart_as_they_do_for_dmsetup() {
    let plain = Arguments::parse("m d s 8").unwrap();
    for text in ["  m\td \u{b}s\u{c}8\r\n", "m d s 8 # 1 no_hydration", "m d s 8#"] {
        assert_eq!(Arguments::parse(text), Ok(plain.clone()), "{text:?}");
    }
    let backslash = Arguments::parse(r"m\ d\x s 8").unwrap();
    assert_eq!(
        (&*backslash.devices().metadata, &*backslash.devices().destination),
        (r"m\", r"d\x")
    );
    let letters = Arguments::parse("m \u{e0}\u{a0} s 8").unwrap();
    assert_eq!(letters.devices().destination, "\u{e0}\u{a0}");
    assert_eq!(Arguments::parse("m d\ns 8"), Err(TableError::SeveralLines));
    assert_eq!(Arguments::parse("m d s 8\n# x"), Err(TableError::SeveralLines));
    let missing = TableError::Missing { position: 3, role: Role::Source, comment: true };
    assert_eq!(Arguments::parse("m d#1 s 8"), Err(missing));
}

fn line(text: &str) -> TableLine {
    TableLine::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_line_has_a_start_a_length_and_the_word_clone() {
    let plain = line("0 4096 clone m d s 8");
    assert_eq!(plain.geometry().nr_regions(), 512);
    for text in ["+0 004096\tclone m d s 8", "\n 0 4096 clone m d s 8\n", "0 4096 clone m d s 8#"] {
        assert_eq!(TableLine::parse(text), Ok(plain.clone()), "{text:?}");
    }
    for (text, position, role) in [
        ("-0 4096 clone m d s 8", 1, Role::Start),
        ("0x0 4096 clone m d s 8", 1, Role::Start),
        ("0 -18446744073709547520 clone m d s 8", 2, Role::Length),
        ("0 18446744073709551616 clone m d s 8", 2, Role::Length),
        ("0 4096clone m d s 8", 2, Role::Length),
        ("0 4096 Clone m d s 8", 3, Role::Target),
        ("0 4096 clone m d s 9", 7, Role::RegionSize),
    ] {
        match TableLine::parse(text) {
            Err(TableError::Word(word)) => {
                assert_eq!((word.position, word.role), (position, role), "{text}");
            }
            result => panic!("{text}: {result:?}"),
        }
    }
    for text in ["", "\n ", "# 0 4096 clone m d s 8"] {
        assert_eq!(TableLine::parse(text), Err(TableError::NoLine), "{text:?}");
    }
    assert_eq!(TableLine::parse("0\n4096 clone m d s 8"), Err(TableError::SeveralLines));
    let missing = TableError::Missing { position: 3, role: Role::Target, comment: false };
    assert_eq!(TableLine::parse("0 4096"), Err(missing));
}

#[test]
fn the_length_is_that_of_a_clone() {
    for length in ["1", "7", "8", "9", "17179869184"] {
        line(&format!("0 {length} clone m d s 8"));
    }
    let refused = |text: &str| TableLine::parse(text).unwrap_err();
    let empty = TableError::Geometry(GeometryError::Empty);
    assert_eq!(refused("0 0 clone m d s 8"), empty);
    let regions = GeometryError::TooManyRegions { nr_regions: (1 << 31) + 1 };
    assert_eq!(refused("0 17179869185 clone m d s 8"), TableError::Geometry(regions));
    // Observed: a dm-zero device of 2^54 sectors fails with "too large device", one less works.
    let start = (1 << 54) - 9;
    assert_eq!(line(&format!("{start} 8 clone m d s 8")).start(), Sectors(start));
    for start in [start + 1, u64::MAX] {
        let past_end = TableError::PastEnd { start: Sectors(start), length: Sectors(8) };
        assert_eq!(refused(&format!("{start} 8 clone m d s 8")), past_end);
    }
}

#[test]
fn only_a_line_at_sector_0_can_be_alone() {
    assert_eq!(line("0 8 clone m d s 8").expect_alone(), Ok(()));
    let late = TableError::NotAtStart(Sectors(1));
    assert_eq!(line("1 8 clone m d s 8").expect_alone(), Err(late));
}

#[test]
fn words_are_printed_as_they_were_given() {
    let text = "0 4096 clone m d s 008 01 No_Hydration 2 hydration_threshold +8 x";
    assert_eq!(line(text).to_string(), text);
    let printed = line(text).arguments().to_string();
    assert_eq!(printed, "m d s 008 01 No_Hydration 2 hydration_threshold +8 x");
}

/// Returns a line that is almost valid.
fn nearly(words: &[u8]) -> String {
    const WORDS: [&str; 24] = [
        "0",
        "1",
        "2",
        "4",
        "8",
        "16",
        "4096",
        "clone",
        "m",
        "d",
        "s",
        "no_hydration",
        "no_discard_passdown",
        "hydration_threshold",
        "hydration_batch_size",
        "+5",
        "\\",
        "#",
        "NO_HYDRATION",
        "4294967304",
        "\n",
        "\u{a0}",
        "",
        "17179869185",
    ];
    let mut line = vec!["0", "4096", "clone", "m", "d", "s", "8"];
    line.extend(words.iter().map(|&word| WORDS[usize::from(word) % WORDS.len()]));
    if let [place, word, ..] = words {
        let place = usize::from(*place) % 14;
        if let Some(place) = line.get_mut(place) {
            *place = WORDS[usize::from(*word) % WORDS.len()];
        }
    }
    line.join(" ")
}

quickcheck! {
    fn what_is_printed_is_read_back(length: u32, shift: u8, values: (u32, u32), flags: u8) -> bool {
        let devices = ["/dev/m", "252:3", "source"].map(str::to_owned);
        let [metadata, destination, source] = devices;
        let options = Options {
            hydration: flags & 1 == 0,
            discard_passdown: flags & 2 == 0,
            hydration_threshold: values.0,
            hydration_batch_size: values.1,
        };
        let region_size = RegionSize::new(Sectors(8 << (shift % 19))).unwrap();
        let devices = DevicePaths { metadata, destination, source };
        let arguments = Arguments::new(devices, region_size, options).unwrap();
        let line = TableLine::new(Sectors(u64::from(length) + 1), arguments.clone()).unwrap();
        TableLine::parse(&line.to_string()) == Ok(line)
            && Arguments::parse(&arguments.to_string()) == Ok(arguments)
    }

    fn what_was_read_and_printed_is_read_as_the_same(words: Vec<u8>) -> bool {
        let line = TableLine::parse(&nearly(&words));
        line.is_err() || TableLine::parse(&line.clone().unwrap().to_string()) == line
    }

    fn no_text_makes_it_panic(text: String, words: Vec<u8>) -> bool {
        let told = |text: &str| {
            TableLine::parse(text).map_or_else(|error| !error.to_string().is_empty(), |_| true)
                && Arguments::parse(text).err().is_none_or(|error| !error.to_string().is_empty())
        };
        let line = nearly(&words);
        told(&text)
            && told(&line)
            && told(&format!("0 4096 clone {text}"))
            && told(&line.replacen("4096", &text, 1))
            && told(&line.replacen('d', &text, 1))
    }
}
