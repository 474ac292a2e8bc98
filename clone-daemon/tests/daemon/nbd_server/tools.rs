//! By programs that people use.

use std::fs;

use super::served::{Served, noise, run};
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
