//! Devices that are truncated, empty, or hold something else.

use clone_core::metadata::check::{Report, read};
use clone_core::metadata::superblock::Superblock;
use clone_tests::damage::ImageEditor;
use clone_tests::{fixtures, laws};
use persistent_data::device::MemoryDevice;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn check_bytes(bytes: &[u8]) -> Report {
    read(&MemoryDevice::from_bytes(bytes), &())
}

/// Returns the code and the message of the only problem.
fn only(report: &Report) -> (&'static str, String) {
    let [damage] = &report.damage[..] else { panic!("{:?}", report.damage) };
    assert!(report.is_fatal());
    (damage.code(), damage.to_string())
}

#[test]
fn an_image_cut_off_anywhere_is_fatally_damaged() {
    for (name, step) in [("tail", 1), ("huge-region", 1), ("twolevel", 83)] {
        let bytes = fixtures::load(name).0.to_bytes();
        let nr_blocks = bytes.len() / 4096;
        let ends = (0..80).chain((80..nr_blocks).step_by(step * 13)).chain([nr_blocks - 1]);
        for end in ends {
            for extra in [0, 1, 2048, 4095] {
                let report = check_bytes(&bytes[..end * 4096 + extra]);
                assert!(report.is_fatal(), "{name}, cut off after {end} blocks and {extra} bytes");
                if end == 0 {
                    assert_eq!(only(&report).0, "device-too-small");
                } else {
                    let size = report.damage.iter().find(|d| d.code() == "space-map-size");
                    let told = size.expect("the map covers what is not there").to_string();
                    assert!(
                        told.contains(&format!("covers {nr_blocks} blocks, but there are {end}"))
                    );
                }
            }
        }
        assert!(check_bytes(&[&bytes[..], b"rest"].concat()).damage.is_empty(), "{name}");
    }
}

#[test]
fn an_image_cut_off_keeps_what_lies_before_the_cut_and_tells_no_leak() {
    for end in 1..14 {
        let report = laws::judge(&ImageEditor::of("fresh").truncated(end), true);
        let lost = report.regions.unwrap().lost().next().unwrap();
        let first_lost = end.saturating_sub(5) * 32_576;
        assert_eq!(lost, if end < 5 { 0..262_144 } else { first_lost..262_144 });
    }
}

/// A kernel formats such a device without a warning: all writes so far are lost. The message has to
/// say so loudly.
#[test]
fn an_all_zero_superblock_is_called_unformatted_and_the_message_shouts() {
    let mut editor = ImageEditor::of("tail");
    editor.bytes(persistent_data::BlockNr(0), |bytes| bytes.fill(0));
    for (code, message) in [
        only(&read(&editor, &())),
        only(&check_bytes(&[0; 4096])),
        only(&check_bytes(&[0; 100 * 4096])),
    ] {
        assert_eq!(code, "superblock-unformatted");
        for part in ["not formatted", "do NOT give it to the kernel", "would revert"] {
            assert!(message.contains(part), "no {part:?} in {message:?}");
        }
    }
}

#[test]
fn a_superblock_of_another_target_is_told_by_its_magic_number() {
    for (target, magic) in [("thin", 27_022_010), ("cache", 6_142_003), ("era", 2_126_579_579)] {
        let mut editor = ImageEditor::of("tail");
        editor.superblock(|disk| disk.magic.set(magic));
        editor.reseal(persistent_data::BlockNr(0), 160_774);
        let (code, message) = only(&read(&editor, &()));
        assert_eq!(code, "superblock-magic", "{target}");
        assert!(message.contains("no dm-clone metadata here"), "{target}: {message}");
        assert!(message.contains(&format!("{magic:#x}")), "{target}: {message}");
    }
}

#[test]
fn a_newer_version_is_refused_by_its_number() {
    for version in [0, 2, 3, u32::MAX] {
        let mut editor = ImageEditor::of("tail");
        editor.superblock(|disk| disk.version.set(version));
        let (code, message) = only(&read(&editor, &()));
        assert_eq!(code, "superblock-version");
        assert!(message.contains(&format!("version {version}: only version 1")), "{message}");
        assert!(Superblock::read(&editor).is_err());
    }
}

#[test]
fn random_bytes_and_text_are_no_metadata() {
    let mut rng = StdRng::seed_from_u64(1);
    for len in [1, 100, 4095, 4096, 4097, 8192, 100_000] {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes[..]);
        let expected = if len < 4096 { "device-too-small" } else { "superblock-magic" };
        assert_eq!(only(&check_bytes(&bytes)).0, expected, "{len} bytes");
    }
    let xml = "<superblock uuid=\"\" version=\"1\" region_size=\"8\"/>\n".repeat(200);
    assert_eq!(only(&check_bytes(xml.as_bytes())).0, "superblock-magic");
}

#[test]
fn a_good_superblock_over_random_bytes_is_fatally_damaged() {
    let mut rng = StdRng::seed_from_u64(1);
    for name in ["tail", "fresh"] {
        let mut editor = ImageEditor::of(name);
        for (at, _) in editor.layout().used().into_iter().skip(1) {
            editor.bytes(at, |bytes| rng.fill(&mut bytes[..]));
        }
        laws::judge(&editor, true);
        for (at, role) in editor.layout().used().into_iter().skip(1) {
            editor.reseal(at, role.salt());
        }
        let report = laws::judge(&editor, true);
        let nr_regions = editor.layout().nr_regions;
        assert_eq!(report.regions.unwrap().lost().collect::<Vec<_>>(), [0..nr_regions]);
    }
}
