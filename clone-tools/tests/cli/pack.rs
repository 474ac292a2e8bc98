//! `clone_metadata_pack` and `clone_metadata_unpack`.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::image::{BLOCK, FIXTURES, Image, crash_states};
use crate::support::{Scratch, run, run_after, run_with_stdin, seed};

fn packed(scratch: &Scratch, image: &[u8]) -> Vec<u8> {
    let (input, pack) = (scratch.file("image", image), scratch.path("pack"));
    let args = ["-i", input.to_str().unwrap(), "-o", pack.to_str().unwrap()];
    run("clone_metadata_pack", args).exits(0).stays_silent();
    assert!(fs::read(&input).unwrap() == image, "the input was changed");
    fs::read(&pack).unwrap()
}

fn unpacked(scratch: &Scratch, pack: &[u8]) -> Vec<u8> {
    let (pack, output) = (scratch.file("pack", pack), scratch.path("unpacked"));
    let args = ["-i", pack.to_str().unwrap(), "-o", output.to_str().unwrap()];
    run("clone_metadata_unpack", args).exits(0).stays_silent();
    fs::read(&output).unwrap()
}

fn there_and_back(image: &[u8]) -> Vec<u8> {
    let scratch = Scratch::new();
    unpacked(&scratch, &packed(&scratch, image))
}

#[test]
fn what_the_kernel_wrote_comes_back_bit_for_bit() {
    for name in FIXTURES {
        let image = Image::fixture(name).0;
        assert!(there_and_back(&image) == image, "{name}");
    }
}

#[test]
fn packs_are_small() {
    let scratch = Scratch::new();
    let len = |name: &str| packed(&scratch, &Image::fixture(name).0).len();
    assert!(len("twolevel") < 160_000, "{}", len("twolevel"));
    assert!(len("tail") < 1000 && len("fresh") < 1000, "{}, {}", len("tail"), len("fresh"));
}

#[test]
fn every_state_of_the_crash_log_comes_back_bit_for_bit() {
    for (state, image) in crash_states(97).into_iter().enumerate() {
        assert!(there_and_back(&image) == image, "state {state}");
    }
}

#[test]
fn damaged_blocks_in_use_come_back_bit_for_bit() {
    let whole = Image::fixture("tail");
    for block in 0..whole.nr_blocks() {
        let mut image = whole.clone();
        if image.block(block).iter().all(|&byte| byte == 0) {
            continue;
        }
        image.block(block)[2000] ^= 0x10;
        let scratch = Scratch::new();
        let path = scratch.file("damaged", &image.0);
        let json = run("clone_check", ["--json".as_ref(), path.as_os_str()]).json();
        let back = Image(there_and_back(&image.0));
        // Damage to a block that is no longer in use shows only in its checksum.
        if json["ok"] == false || block == 0 {
            assert!(back == image, "block {block} is damaged and in use");
        }
    }
}

#[test]
fn blocks_that_are_counted_and_belong_to_nobody_come_back_bit_for_bit() {
    let mut image = Image::fixture("fresh");
    image.leak(1000..1003);
    image.block(1001).fill(0xee);
    assert!(there_and_back(&image.0) == image.0);
}

#[test]
fn noise_becomes_zeroes_but_for_the_superblocks_place_and_the_tail() {
    let random = &mut StdRng::seed_from_u64(seed("noise_becomes"));
    for len in [BLOCK, 7 * BLOCK + 1, 300 * BLOCK + 4095] {
        let mut noise = vec![0; len];
        random.fill_bytes(&mut noise);
        let back = there_and_back(&noise);
        let end = len / BLOCK * BLOCK;
        assert_eq!(back.len(), len);
        assert!(back[..BLOCK] == noise[..BLOCK] && back[end..] == noise[end..], "{len}");
        assert!(back[BLOCK..end].iter().all(|&byte| byte == 0), "{len}");
    }
}

#[test]
fn a_device_of_zeroes_comes_back() {
    let zeroes = vec![0; 5 * BLOCK + 7];
    assert!(there_and_back(&zeroes) == zeroes);
}

#[test]
fn verbose_tells_what_was_dropped() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("fresh");
    image.block(1500).fill(0xee);
    image.block(1501).fill(0xdd);
    let (input, pack) = (scratch.file("image", &image.0), scratch.path("pack"));
    let args = ["-v", "-i", input.to_str().unwrap(), "-o", pack.to_str().unwrap()];
    run("clone_metadata_pack", args).exits(0).says("14 of 2048 blocks kept; 2 dropped");
    let args = ["-v", "-i", pack.to_str().unwrap(), "-o", input.to_str().unwrap()];
    run("clone_metadata_unpack", args).exits(0).says("8388608 bytes with 14 blocks; 2 blocks");
}

#[test]
fn both_go_through_pipes() {
    let scratch = Scratch::new();
    let image = Image::fixture("complete").0;
    let pack = packed(&scratch, &image);
    let input = scratch.path("image");
    let args = ["-i", input.to_str().unwrap(), "-o", "-"];
    let ran = run("clone_metadata_pack", args).exits(0).stays_silent_on_stderr();
    assert!(ran.stdout == pack);
    let ran = run_with_stdin("clone_metadata_unpack", ["-i", "-", "-o", "-"], pack.clone());
    assert!(ran.exits(0).stays_silent_on_stderr().stdout == image);

    let output = scratch.path("unpacked");
    let args = ["-i", "-", "-o", output.to_str().unwrap()];
    run_with_stdin("clone_metadata_unpack", args, pack).exits(0).stays_silent();
    assert!(fs::read(&output).unwrap() == image);
}

#[test]
fn a_damaged_pack_leaves_the_output_as_it_was() {
    let scratch = Scratch::new();
    let whole = packed(&scratch, &Image::fixture("complete").0);
    let random = &mut StdRng::seed_from_u64(seed("a_damaged_pack"));
    for _ in 0..30 {
        let mut pack = whole.clone();
        if random.random() {
            pack[random.random_range(8..whole.len())] ^= 1 << random.random_range(0..8);
        } else {
            pack.truncate(random.random_range(8..whole.len()));
        }
        let (pack, kept) = (scratch.file("pack", pack), scratch.file("kept", "as it was"));
        let (kept, made) = (kept.to_str().unwrap(), scratch.path("made"));
        for output in ["-", kept, made.to_str().unwrap()] {
            let args = ["-i", pack.to_str().unwrap(), "-o", output];
            let ran = run("clone_metadata_unpack", args).exits(1).leaves_stdout_empty();
            ran.says(&pack.display().to_string()).says("at byte ");
        }
        assert_eq!(fs::read(kept).unwrap(), b"as it was");
    }
    assert_eq!(scratch.names(), ["image", "kept", "pack"]);
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let scratch = Scratch::new();
    packed(&scratch, &Image::fixture("complete").0);
    let (pack, output) = (scratch.path("pack"), scratch.path("output"));
    let args = ["-i", pack.to_str().unwrap(), "-o", output.to_str().unwrap()];
    run_after("ulimit -f 1", "clone_metadata_unpack", args).exits(1).says("cannot write to");
    let image = scratch.path("image");
    let args = ["-i", image.to_str().unwrap(), "-o", output.to_str().unwrap()];
    run_after("ulimit -f 0", "clone_metadata_pack", args).exits(1).says("cannot write to");
    assert_eq!(scratch.names(), ["image", "pack"]);
}

#[test]
fn what_is_read_is_not_overwritten() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("tail").0);
    for tool in ["clone_metadata_pack", "clone_metadata_unpack"] {
        let args = ["-i", path.to_str().unwrap(), "-o", path.to_str().unwrap()];
        run(tool, args).exits(1).says("are the same");
    }
}

/// Makes a large file that is almost entirely a hole.
fn large(path: &Path, image: &[u8], size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(image, 0).unwrap();
}

#[test]
fn a_large_device_that_is_hardly_used_stays_sparse() {
    let scratch = Scratch::new();
    let image = Image::fixture("tail").0;
    let (input, pack, output) = (scratch.path("image"), scratch.path("pack"), scratch.path("out"));
    let size = (1 << 30) + 512;
    large(&input, &image, size);
    let args = ["-i", input.to_str().unwrap(), "-o", pack.to_str().unwrap()];
    run("clone_metadata_pack", args).exits(0);
    assert!(fs::metadata(&pack).unwrap().len() < 1000);
    let args = ["-i", pack.to_str().unwrap(), "-o", output.to_str().unwrap()];
    run("clone_metadata_unpack", args).exits(0);
    let metadata = fs::metadata(&output).unwrap();
    assert_eq!(metadata.len(), size);
    assert!(metadata.blocks() * 512 < 1 << 20, "{} sectors", metadata.blocks());
    let mut start = vec![0; image.len()];
    File::open(&output).unwrap().read_exact_at(&mut start, 0).unwrap();
    assert!(start == image);
}
