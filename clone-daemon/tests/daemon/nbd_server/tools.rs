//! The server with common client programs.

use std::fs;

use super::served::{Served, noise, run};
use clone_core::engine::Command;
use clone_daemon::export::nbd::ServerOptions;
use serde_json::Value;

const MIB: usize = 1 << 20;

#[test]
fn nbdinfo_is_told_all_there_is_to_know_of_an_export() {
    let served = Served::new(&noise(1, MIB));
    let Some(told) = run("nbdinfo", &["--json", &served.uri()]) else { return };
    let told: Value = serde_json::from_str(&told).unwrap();
    let export = &told["exports"][0];
    assert_eq!(told["protocol"], "newstyle-fixed");
    assert_eq!(told["structured"], true);
    assert_eq!(export["export-name"], "disk");
    assert_eq!(export["export-size"], MIB);
    let contexts = export["contexts"].as_array().unwrap();
    assert_eq!(contexts, &["base:allocation", "clone:hydrated"]);
    for able in ["cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"] {
        assert_eq!(export[format!("can_{able}")], true, "{able}");
    }
    assert_eq!(export["is_read_only"], false);
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_preferred"], 4096);
    assert_eq!(export["block_size_maximum"], 32 << 20);
    let list = format!("nbd+unix:///?socket={}", served.socket().display());
    let told = run("nbdinfo", &["--json", "--list", &list]).unwrap();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["exports"][0]["export-name"], "disk");
    assert_eq!(told["exports"][0]["description"], "a clone in regions of 4 KiB");
}

#[test]
fn nbdcopy_reads_and_writes_what_is_hydrated_and_what_is_not() {
    let content = noise(2, 8 * MIB);
    let served = Served::new(&content);
    let (out, changed) = (served.rig.path("out"), served.rig.path("changed"));
    let out = out.to_str().unwrap();
    if run("nbdcopy", &[&served.uri(), out]).is_none() {
        return;
    }
    assert!(fs::read(out).unwrap() == content);
    served.hydrate();
    run("nbdcopy", &[&served.uri(), out]);
    assert!(fs::read(out).unwrap() == content);
    let content = noise(3, 8 * MIB);
    fs::write(&changed, &content).unwrap();
    run("nbdcopy", &["--flush", changed.to_str().unwrap(), &served.uri()]);
    assert!(served.rig.destination() == content);
}

#[test]
fn nbdinfo_maps_both_contexts() {
    let mut content = noise(4, MIB);
    content[..MIB / 2].fill(0);
    let rig = crate::support::Rig::new(clone_core::geometry::Sectors(8), &content);
    let sparse = fs::File::create(rig.path("source")).unwrap();
    sparse.set_len(MIB as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &content[MIB / 2..], MIB as u64 / 2).unwrap();
    let served = Served::with(rig, ServerOptions::default());
    served.clone.client().hydrate(3 << 18..MIB as u64).unwrap();
    let map = |context: &str| -> Option<Vec<(u64, u64, u64)>> {
        let map = format!("--map={context}");
        let told = run("nbdinfo", &["--json", &map, &served.uri()])?;
        let told: Vec<Value> = serde_json::from_str(&told).unwrap();
        let number = |extent: &Value, name: &str| extent[name].as_u64().unwrap();
        let extent = |extent: &Value| {
            let [offset, length] = ["offset", "length"].map(|name| number(extent, name) >> 10);
            (offset, length, number(extent, "type"))
        };
        Some(told.iter().map(extent).collect())
    };
    let Some(allocation) = map("base:allocation") else { return };
    assert_eq!(allocation, [(0, 512, 3), (512, 512, 0)]);
    assert_eq!(map("clone:hydrated").unwrap(), [(0, 768, 0), (768, 256, 1)]);
}

#[test]
fn qemu_img_reads_maps_compares_and_converts() {
    let content = noise(5, 4 * MIB);
    let served = Served::new(&content);
    let (uri, out) = (served.uri(), served.rig.path("out"));
    let (source, out) = (served.rig.path("source"), out.to_str().unwrap().to_owned());
    let source = source.to_str().unwrap();
    let Some(told) = run("qemu-img", &["info", "--output=json", &uri]) else { return };
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["virtual-size"], 4 * MIB);
    let compare = ["compare", "-f", "raw", "-F", "raw", source, &uri];
    run("qemu-img", &compare);
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &out]);
    run("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", &out, &uri]);
    served.clone.client().write_zeroes(MIB as u64..2 * MIB as u64, true, false).unwrap();
    let told = run("qemu-img", &["map", "-f", "raw", "--output=json", &uri]).unwrap();
    let told: Vec<Value> = serde_json::from_str(&told).unwrap();
    let zero: Vec<(u64, bool)> = told
        .iter()
        .map(|extent| (extent["length"].as_u64().unwrap(), extent["zero"].as_bool().unwrap()))
        .collect();
    assert_eq!(zero, [(MIB as u64, false), (MIB as u64, true), (2 * MIB as u64, false)]);
    // The program overwrites the contents, with zeroes too.
    let image = fs::File::create(served.rig.path("sparse")).unwrap();
    image.set_len(4 * MIB as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&image, &content[..MIB], 3 * MIB as u64).unwrap();
    let sparse = served.rig.path("sparse");
    let sparse = sparse.to_str().unwrap();
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", sparse, &uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", sparse, &uri]);
    assert!(served.rig.destination() == fs::read(sparse).unwrap());
}

#[test]
fn qemu_io_finds_the_patterns_that_it_wrote() {
    let served = Served::new(&noise(6, 4 * MIB));
    let commands = [
        "write -P 0x11 0 64k",
        "write -P 0x22 -f 70001 5003",
        "write -z -u 128k 64k",
        "write -z 200001 3333",
        "aio_write -P 0x33 1M 1M",
        "aio_flush",
        "discard 3M 512k",
        "flush",
        "read -P 0x11 0 64k",
        "read -P 0x22 70001 5003",
        "read -P 0 128k 64k",
        "read -P 0 200001 3333",
        "read -P 0x33 1M 1M",
        "read -P 0 3M 512k",
    ];
    let uri = served.uri();
    let mut arguments = vec!["-f", "raw", "-t", "none"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&uri);
    let Some(told) = run("qemu-io", &arguments) else { return };
    assert!(!told.contains("failed") && !told.contains("rror"), "{told}");
}

#[test]
fn fio_verifies_what_it_wrote_while_the_clone_hydrates() {
    let served = Served::new(&noise(7, 8 * MIB));
    served.clone.command(Command::parse("enable_hydration").unwrap());
    let uri = format!("--uri={}", served.uri());
    let common = ["--name=job", "--ioengine=nbd", &uri, "--size=8m", "--verify=crc32c"];
    let job = ["--rw=randwrite", "--bsrange=1k-96k", "--iodepth=32", "--verify_fatal=1"];
    let more = [
        "--bs_unaligned=1",
        "--verify_state_save=0",
        "--fsync=40",
        "--do_verify=1",
        "--randseed=7",
    ];
    let Some(told) = run("fio", &[&common[..], &job, &more].concat()) else { return };
    assert!(told.contains("err= 0"), "{told}");
}
