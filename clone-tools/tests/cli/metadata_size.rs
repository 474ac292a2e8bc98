//! `clone_metadata_size`.

use crate::support::{Scratch, run};

fn sectors(region_size: &str, target_size: &str) -> u64 {
    let args = ["--region-size", region_size, "--target-size", target_size];
    let ran = run("clone_metadata_size", args).exits(0).stays_silent_on_stderr();
    let text = ran.text();
    let number = text.strip_suffix('\n').unwrap_or_else(|| panic!("{ran}"));
    number.parse().unwrap_or_else(|_| panic!("{ran}"))
}

#[test]
fn the_number_of_sectors_is_all_it_prints() {
    let largest = sectors("4k", "8T");
    // 65923 array blocks are 258 MiB; shadowing all of them takes the same space again.
    assert!(largest > 8 * 65923 && largest <= 8 * 4_161_600, "{largest}");
    assert_eq!(largest % 8, 0);
    assert_eq!(largest, sectors("8", "17179869184"));
    assert!(sectors("8", "1") >= 8 * 6);
    assert!(sectors("1GiB", "16PiB") > sectors("1GiB", "1PiB"));
}

#[test]
fn verbose_says_how_it_comes_about() {
    let args = ["-v", "--region-size", "4k", "--target-size", "8T"];
    let ran = run("clone_metadata_size", args).exits(0);
    assert_eq!(ran.text().trim().parse::<u64>().unwrap(), sectors("4k", "8T"));
    ran.says("65923 blocks of 4 KiB").says("257.5 MiB").says("2147483648 regions");
}

#[test]
fn sizes_that_make_no_clone_are_a_wrong_command_line() {
    let wrong = |region_size, target_size, words| {
        let args = ["--region-size", region_size, "--target-size", target_size];
        run("clone_metadata_size", args).exits(2).leaves_stdout_empty().says(words);
    };
    wrong("7", "8T", "power of two");
    wrong("4", "8T", "power of two");
    wrong("2G", "8T", "power of two");
    wrong("0", "8T", "power of two");
    wrong("4k", "0", "target size of 0");
    wrong("4k", "8796093022209k", "use a larger region size");
    wrong("4k", "99999999999999999999", "more than can be counted");
    wrong("4k", "many", "not a size");
    wrong("4k", "8X", "\"X\" is not a unit");
    wrong("4k", "1.5T", "fraction");
    wrong("4k", "513B", "not a whole number of sectors");
    wrong("4k", "", "empty size");
}

#[test]
fn what_it_says_is_enough() {
    for (region_size, target_size) in [("4k", "1"), ("4k", "1G"), ("1G", "10T"), ("64k", "1000003")]
    {
        let scratch = Scratch::new();
        let path = scratch.path("metadata");
        let size = sectors(region_size, target_size).to_string();
        let sizes = ["--region-size", region_size, "--target-size", target_size];
        let mut args = vec!["--hydrated", "all", "--metadata-size", &size, "-o"];
        args.push(path.to_str().unwrap());
        run("clone_restore", args.into_iter().chain(sizes)).exits(0).stays_silent();
        run("clone_check", [&path]).exits(0).stays_silent_on_stderr();
    }
}
