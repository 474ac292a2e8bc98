//! The directions in which crates and modules depend on each other.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::modules::{NAMED, Named};
use crate::workspace::{MEMBERS, Text, expect_none, files, root, words};

/// The members of the workspace that each member may depend on, outside its own tests.
const DEPENDENCIES: [(&str, &[&str]); 6] = [
    ("persistent-data", &[]),
    ("clone-core", &["persistent-data"]),
    ("clone-tools", &["clone-core", "persistent-data"]),
    ("clone-daemon", &["clone-core", "clone-tools", "persistent-data"]),
    ("clone-tests", &["clone-core", "clone-daemon", "persistent-data"]),
    ("kernel-judge", &["clone-core", "clone-tests", "persistent-data"]),
];

#[test]
fn crates_depend_downwards_only() {
    let above = [
        ("persistent-data", &["clone-core", "clone-tools", "clone-daemon", "clone-tests"][..]),
        ("clone-core", &["clone-tools", "clone-daemon", "clone-tests"]),
        ("clone-tools", &["clone-daemon", "clone-tests"]),
        // The daemon may use the output code of the tools.
        ("clone-daemon", &["clone-tests"]),
    ];
    let mut found = Vec::new();
    for (member, above) in above {
        let manifest = Text::load(&format!("{member}/Cargo.toml"));
        // Dependencies of tests are not shipped with the crate.
        let shipped = |(_, line): &(_, &str)| *line != "[dev-dependencies]";
        for (place, line) in manifest.lines().take_while(shipped) {
            if above.iter().any(|name| line.starts_with(name)) {
                found.push(format!("{place}: {line}"));
            }
        }
        for source in files(&format!("{member}/src"), &[".rs"]) {
            for (place, line) in source.lines() {
                if words(line).any(|word| above.contains(&&*word.replace('_', "-"))) {
                    found.push(format!("{place}: {line}"));
                }
            }
        }
    }
    expect_none(&found, "Move what is needed down, to the crate that both may use:");
}

#[test]
fn the_library_below_knows_nothing_of_clones() {
    let mut found = Vec::new();
    for source in files("persistent-data/src", &[".rs"]) {
        for (place, line) in source.lines() {
            let line = line.to_lowercase();
            if ["region", "hydrat", "xml"].iter().any(|word| line.contains(word)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Say it in clone-core, or in words that fit every target's metadata:");
}

#[test]
fn only_binaries_have_a_command_line_and_errors_without_a_type() {
    let mut found = Vec::new();
    for member in ["persistent-data", "clone-core", "tests"] {
        for (place, line) in Text::load(&format!("{member}/Cargo.toml")).lines() {
            if ["anyhow", "clap"].iter().any(|name| line.starts_with(name)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "A library has an error enum of its own, and takes values, not arguments:");
}

#[test]
fn no_binary_is_built_with_simulated_disks() {
    let mut found = Vec::new();
    for member in ["clone-core", "clone-tools", "clone-daemon"] {
        let manifest = Text::load(&format!("{member}/Cargo.toml"));
        let mut section = "";
        for (place, line) in manifest.lines() {
            section = if line.starts_with('[') { line } else { section };
            if section != "[dev-dependencies]" && line.contains("\"sim\"") {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Ask for the feature `sim` in [dev-dependencies] only:");
}

#[test]
fn what_walks_and_checks_has_no_type_that_can_write() {
    let readers = [
        "persistent-data/src/array/walk.rs",
        "persistent-data/src/btree/walk.rs",
        "persistent-data/src/btree/range.rs",
        "persistent-data/src/space_map/walk.rs",
        "clone-core/src/metadata/check.rs",
        "clone-core/src/repair/content.rs",
        "clone-core/src/repair/content/evidence.rs",
        "clone-core/src/metadata/dump.rs",
        "clone-core/src/metadata/live.rs",
        "clone-core/src/metadata/region_map.rs",
        "clone-core/src/metadata/superblock.rs",
    ];
    let mut found = Vec::new();
    for source in readers.map(Text::load) {
        for (place, line) in source.lines() {
            let can_write = ["Writer", "Device", "Transaction", "ReadWrite", "MemoryDevice"];
            if words(line).any(|word| can_write.contains(&word)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Take a `Reader` or a `ReadDevice`, and change things elsewhere:");
}

#[test]
fn the_libraries_reach_the_outside_through_devices_only() {
    let mut sources = files("clone-core/src", &[".rs"]);
    sources.extend(files("persistent-data/src", &[".rs"]));
    let outside = [
        "persistent-data/src/device/",
        "persistent-data/src/sim/",
        "clone-core/src/block_io/",
        "clone-core/src/driver/",
    ];
    sources.retain(|source| {
        !outside.iter().any(|folder| source.path.starts_with(folder))
            && !source.path.contains("/tests")
    });
    // The only place that waits for devices that may be remote.
    let threads = "clone-core/src/repair/content/parallel_map.rs";
    let mut found = Vec::new();
    for source in sources {
        for (place, line) in source.lines() {
            // A duration is a number and allowed; the current time is not.
            let line = line.replace("std::time::Duration", "");
            let reach = ["std::fs", "std::env", "std::time", "println!"];
            let starts_threads = line.contains("std::thread") && source.path != threads;
            if starts_threads || reach.iter().any(|reach| line.contains(reach)) {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Take it as an argument: files, clocks and streams are the binaries':");
}

/// Returns the members that each member depends on outside its own tests, by cargo's own account.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root());
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |package: &Value| package["name"].as_str().unwrap().to_owned();
    let members: BTreeSet<String> = packages.iter().map(name).collect();
    let of_package = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        let shipped = all.filter(|dependency| dependency["kind"] != "dev").map(name);
        shipped.filter(|name| members.contains(name)).collect()
    };
    packages.iter().map(|package| (name(package), of_package(package))).collect()
}

#[test]
fn the_members_depend_on_exactly_the_members_that_they_may() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let expected: BTreeMap<String, BTreeSet<String>> =
        DEPENDENCIES.iter().map(|(name, on)| ((*name).to_owned(), set(on))).collect();
    assert_eq!(dependencies(), expected, "change DEPENDENCIES only with a page in docs/decisions");
    let members: BTreeSet<&str> = MEMBERS.iter().map(|(name, _)| *name).collect();
    let listed: BTreeSet<&str> = DEPENDENCIES.iter().map(|(name, _)| *name).collect();
    assert_eq!(members, listed, "list a new member in MEMBERS");
}

/// Returns the paths that are named in a module or its children, and that are `wrong`.
fn named_in(module: &str, wrong: impl Fn(&Named) -> bool) -> Vec<String> {
    let wrong = NAMED.iter().filter(|named| named.is_in(module) && wrong(named));
    wrong.map(Named::to_line).collect()
}

#[test]
fn the_daemon_uses_only_the_common_part_of_the_tools() {
    let mut found = named_in("clone_daemon", |named| {
        named.is_under("clone_tools") && !named.is_defined_under("clone_tools::common")
    });
    for test in files("clone-daemon/tests", &[".rs"]) {
        for (place, line) in test.lines() {
            if line.contains("clone_tools") && !line.contains("clone_tools::common::") {
                found.push(format!("{place}: {line}"));
            }
        }
    }
    expect_none(&found, "Move it to clone_tools::common, without what only tools need:");
}

/// A transport knows the requests of users, and a [volume](clone_daemon::export::volume) to send
/// them to. It knows nothing of regions, metadata, other transports, or the daemon around it.
#[test]
fn a_transport_knows_requests_and_volumes_only() {
    let above = [
        "clone_core::engine::api::request",
        "clone_core::sync",
        "clone_daemon::export::exporter",
        "clone_daemon::export::volume",
        "clone_tools::common",
    ];
    let mut found = Vec::new();
    for transport in ["nbd", "fuse", "ublk"] {
        let own = format!("clone_daemon::export::{transport}");
        let also: &[&str] = match transport {
            // Its address has the syntax of an NBD source, its protocol is the source's, and its
            // socket is bound as the control socket is.
            "nbd" => &[
                "clone_daemon::nbd_protocol",
                "clone_daemon::source::uri",
                "clone_daemon::unix_socket",
            ],
            _ => &[],
        };
        let allowed = [&above[..], also, &[&*own]].concat();
        found.extend(named_in(&own, |named| {
            let members = ["persistent_data", "clone_core", "clone_tools", "clone_daemon"];
            let is_ours = members.iter().any(|member| named.is_under(member));
            is_ours && !allowed.iter().any(|allowed| named.is_defined_under(allowed))
        }));
    }
    expect_none(&found, "Send it through a volume, or move it to what all transports use:");
}

#[test]
fn the_engine_does_nothing_itself() {
    let forbidden = [
        "clone_core::block_io",
        "clone_core::driver",
        "std::fs",
        "std::io",
        "std::net",
        "std::process",
        "std::thread",
        "std::time::Instant",
        "std::time::SystemTime",
    ];
    let found =
        named_in("clone_core::engine", |named| forbidden.iter().any(|path| named.is_under(path)));
    expect_none(&found, "Emit an action for it, and let the driver carry it out:");
}
