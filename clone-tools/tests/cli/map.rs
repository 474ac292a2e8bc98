//! `clone_map`.

use std::fs;
use std::path::PathBuf;

use crate::image::{FIXTURES, Image, description};
use crate::support::{Ran, Scratch, command, run};

/// Runs `clone_map` in a locale.
fn map<'a>(locale: &str, args: impl IntoIterator<Item = &'a str>) -> Ran {
    let args: Vec<&str> = args.into_iter().collect();
    let output = command("clone_map", &args).env("LC_ALL", locale).output().unwrap();
    Ran::new(format!("LC_ALL={locale} clone_map {args:?}"), output)
}

/// Returns metadata whose second array block is damaged.
fn damaged() -> Image {
    let mut image = Image::fixture("complete");
    let array_block = image.array_block(1);
    image.block(array_block)[100] ^= 1;
    image
}

/// `UPDATE_GOLDEN=1` updates the expected output.
#[track_caller]
fn is_as_agreed(name: &str, printed: &str) {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli/map").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, printed).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(printed, golden, "{name}; UPDATE_GOLDEN=1 accepts it");
}

#[test]
fn maps_are_drawn_as_agreed() {
    for name in FIXTURES {
        let scratch = Scratch::new();
        let path = scratch.file(name, Image::fixture(name).0);
        for width in ["40", "80", "200"] {
            let args = ["--width", width, path.to_str().unwrap()];
            let ran = map("C.UTF-8", args).exits(0).stays_silent_on_stderr();
            is_as_agreed(&format!("{name}-{width}"), &ran.text());
        }
        let ran = map("C", ["--width", "80", path.to_str().unwrap()]).exits(0);
        assert!(ran.text().is_ascii(), "{ran}");
        is_as_agreed(&format!("{name}-ascii"), &ran.text());
    }
}

#[test]
fn without_a_terminal_the_map_is_80_wide_and_has_no_colour() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("twolevel").0);
    let path = path.to_str().unwrap();
    let usual = map("C.UTF-8", [path]).exits(0).text();
    assert_eq!(usual, map("C.UTF-8", ["--width", "80", "--color", "never", path]).text());
    assert!(!usual.contains('\x1b'));
    let colored = map("C.UTF-8", ["--color", "always", path]).exits(0).text();
    assert!(colored.contains("\x1b[32m█"), "{colored}");
}

#[test]
fn figures_are_those_of_the_kernel() {
    for name in FIXTURES {
        let scratch = Scratch::new();
        let path = scratch.file(name, Image::fixture(name).0);
        let said = description(name);
        let hydrated =
            format!("hydrated:     {} of {} regions (", said["hydrated"], said["nr_regions"]);
        let ran = run("clone_map", [&path]).exits(0);
        assert!(ran.text().contains(&hydrated), "{hydrated:?} is not in\n{ran}");
    }
}

#[test]
fn damaged_metadata_is_drawn_as_far_as_it_can_be_read() {
    let scratch = Scratch::new();
    let path = scratch.file("image", damaged().0);
    let path = path.to_str().unwrap();
    let (svg, png) = (scratch.path("map.svg"), scratch.path("map.png"));
    let files = ["--svg", svg.to_str().unwrap(), "--png", png.to_str().unwrap()];
    let ran = map("C.UTF-8", files.into_iter().chain([path])).exits(1);
    is_as_agreed("damaged", &ran.text());
    ran.says("fatal: ").says("lost: regions 32576..65152").says("clone_repair -i ");
    assert!(fs::read_to_string(&svg).unwrap().contains("32576 of 131072 regions"));
    assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn without_a_superblock_nothing_is_drawn() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    image.block(0)[40] ^= 1;
    let path = scratch.file("image", &image.0);
    let svg = scratch.path("map.svg");
    let args = ["--svg", svg.to_str().unwrap(), path.to_str().unwrap()];
    run("clone_map", args).exits(1).leaves_stdout_empty().says("no readable superblock");
    assert!(!svg.exists());
}

#[test]
fn harmless_damage_is_mentioned_and_does_not_fail() {
    let scratch = Scratch::new();
    let mut image = Image::fixture("tail");
    image.leak(1000..1003);
    let path = scratch.file("image", &image.0);
    let path = path.to_str().unwrap();
    run("clone_map", [path]).exits(0).says("do not affect the map");
    run("clone_map", ["-v", path]).exits(0).says("leak: ");
    run("clone_map", ["-q", path]).exits(0).stays_silent_on_stderr();
}

#[test]
fn pictures_go_to_files_and_to_stdout() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("tail").0);
    let path = path.to_str().unwrap();
    let (svg, png) = (scratch.path("map.svg"), scratch.path("map.png"));
    let (svg_name, png_name) = (svg.to_str().unwrap(), png.to_str().unwrap());
    let ran = run("clone_map", ["--svg", svg_name, "--png", png_name, path]).exits(0);
    assert!(ran.text().contains("a cell: "), "{ran}");
    run("clone_map", ["-q", "--svg", svg_name, path]).exits(0).stays_silent();
    let drawn = [fs::read(&svg).unwrap(), fs::read(&png).unwrap()];
    assert_eq!(run("clone_map", ["--svg", "-", path]).exits(0).stdout, drawn[0]);
    assert_eq!(run("clone_map", ["--png", "-", path]).exits(0).stdout, drawn[1]);
    assert!(drawn[0].starts_with(b"<svg ") && drawn[0].ends_with(b"</svg>\n"));

    run("clone_map", ["--svg", "-", "--png", "-", path]).exits(2).says("only one picture");
    run("clone_map", ["--svg", path, path]).exits(1).says("are the same");
    let nowhere = scratch.path("no/such/folder");
    let ran = run("clone_map", ["--svg", nowhere.to_str().unwrap(), path]);
    ran.exits(1).leaves_stdout_empty().says("cannot write to");
    assert_eq!(scratch.names(), ["image", "map.png", "map.svg"]);
}

#[test]
fn a_width_that_no_map_fits_is_a_wrong_command_line() {
    for width in ["0", "19", "1001", "wide"] {
        run("clone_map", ["--width", width, "x"]).exits(2).leaves_stdout_empty().says("--width");
    }
}

#[test]
fn a_running_clone_is_drawn_live() {
    let scratch = Scratch::new();
    let path = scratch.file("image", Image::fixture("tail").0);
    let path = path.to_str().unwrap();
    let live = run("clone_map", ["--live", path]).exits(0).stays_silent_on_stderr().text();
    assert_eq!(live, run("clone_map", [path]).exits(0).text());
}
