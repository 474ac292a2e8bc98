use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use clone_core::block_io::Access;

use super::{Identity, Pin, PinError, Version, open_local, place};

fn pin(source: &str, version: Version) -> Pin {
    Pin::new(source, Identity { size_bytes: 4096, version })
}

#[test]
fn a_pin_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = place(&folder.path().join("meta")).unwrap();
    assert_eq!(path, folder.path().join("meta.source.json"));
    assert!(Pin::load(&path).unwrap().is_none());
    for version in [
        Version::Etag { etag: "\"a\\\"".into() },
        Version::Generation { etag: "\"a\"".into(), generation: "1".into() },
        Version::WeakEtag { etag: "W/\"a\"".into(), last_modified: None },
        Version::LastModified { last_modified: "now".into() },
        Version::File { seconds: -1, nanoseconds: 5, inode: u64::MAX },
        Version::Device { serial: Some("x".into()) },
        Version::Export { read_only: true, rotational: false, description: None },
        Version::Unknown,
    ] {
        let pin = pin("/dev/vg/image", version);
        pin.store(&path).unwrap();
        assert_eq!(Pin::load(&path).unwrap(), Some(pin));
    }
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn what_is_no_pin_is_refused_and_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pin");
    let good = serde_json::to_string(&pin("/dev/null", Version::Unknown)).unwrap();
    for (text, told) in [
        (String::new(), "EOF"),
        (good[..good.len() - 1].to_owned(), "EOF"),
        (good.replace("\"version\":1", "\"version\":2"), "only 1 is known"),
        ("{\"version\":7,\"news\":1}".to_owned(), "its version is 7"),
        (good.replace("4096", "-1"), "invalid value"),
        (good.replace("unknown", "odd"), "unknown variant"),
        (good.replace("\"source\"", "\"sauce\""), "unknown field"),
        (" ".repeat(70_000), "longer than 65536"),
        // Duplicate keys are rejected; neither the first nor the last one wins.
        (good.replace("{\"version\"", "{\"version\":1,\"version\""), "duplicate field"),
        (good.replace("\"source\"", "\"source\":\"/a\",\"source\""), "duplicate field"),
        (good.replace("\"size_bytes\"", "\"size_bytes\":1,\"size_bytes\""), "duplicate field"),
        (good.replace("\"unknown\"", "{\"etag\":{\"etag\":\"a\",\"etag\":\"b\"}}"), "duplicate"),
        (good.replace("\"unknown\"", "{\"etag\":{\"etag\":\"a\"},\"unknown\":null}"), "expected"),
    ] {
        fs::write(&path, &text).unwrap();
        let error = Pin::load(&path).unwrap_err();
        assert!(matches!(error, PinError::Form { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
    let error = Pin::load(folder.path()).unwrap_err();
    assert!(matches!(error, PinError::Io { .. }), "{error}");
    let nowhere = folder.path().join("no/pin");
    let error = pin("/x", Version::Unknown).store(&nowhere).unwrap_err();
    assert!(error.to_string().starts_with("cannot write"), "{error}");
}

#[test]
fn a_pin_of_another_program_is_read_and_written_byte_by_byte_as_it_is() {
    let text = "{\n  \"version\": 1,\n  \"source\": \"image\",\n  \"identity\": {\n    \
                \"size_bytes\": 4096,\n    \"version\": {\n      \"file\": {\n        \
                \"seconds\": 1796072809,\n        \"nanoseconds\": 766298721,\n        \
                \"inode\": 10018974\n      }\n    }\n  },\n  \"pinned_at\": 1796072810\n}\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pin");
    fs::write(&path, text).unwrap();
    let pin = Pin::load(&path).unwrap().unwrap();
    pin.store(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_pin_that_cannot_be_read_is_not_taken_for_none_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    symlink("nowhere", path("to nowhere")).unwrap();
    for (name, told) in [
        ("fifo", "it is a FIFO or a pipe, not a regular file"),
        ("to nowhere", "it is a symbolic link to nowhere, which does not exist"),
        ("/dev/null", "it is a character device, not a regular file"),
        (".", "it is a directory, not a regular file"),
    ] {
        let error = Pin::load(&path(name)).unwrap_err();
        assert!(matches!(error, PinError::Io { doing: "read", .. }), "{error}");
        assert!(error.to_string().ends_with(told), "{error}");
    }
}

#[test]
fn where_nothing_but_the_size_is_known_the_name_must_stay() {
    let size_alone = pin("nbd://a/x", Version::Unknown);
    let told = size_alone.check_place("nbd://b/x", None).unwrap_err().to_string();
    assert!(told.contains("nbd://a/x") && told.contains("nbd://b/x"), "{told}");
    size_alone.check_place("nbd://a/x", None).unwrap();
    let known = pin("nbd://a/x", Version::Etag { etag: "\"x\"".into() });
    known.check_place("nbd://b/x", None).unwrap();
}

#[test]
fn a_device_may_have_several_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("device"), [0; 512]).unwrap();
    symlink("device", path("link")).unwrap();
    fs::write(path("other"), [0; 512]).unwrap();
    let pinned = pin(path("device").to_str().unwrap(), Version::Device { serial: None });
    let check = |name: &str| pinned.check_place(path(name).display(), Some(&path(name)));
    check("link").unwrap();
    check("../device").unwrap_err();
    assert!(matches!(check("other"), Err(PinError::OtherPlace { .. })));
}

#[test]
fn a_file_goes_on_under_another_name_and_another_file_under_the_same_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let at = path("meta.source.json");
    let open = |name: &str| open_local(&path(name), Access::Buffered, Some(&at));
    fs::write(path("source"), [1; 4096]).unwrap();
    let (_, new) = open("source").unwrap();
    new.unwrap().store(&at).unwrap();
    fs::rename(path("source"), path("moved")).unwrap();
    assert!(open("moved").unwrap().1.is_none());
    fs::write(path("source"), [2; 4096]).unwrap();
    let error = open("source").map(drop).unwrap_err();
    assert!(matches!(error, PinError::Differs { .. }), "{error}");
    let (_, new) = open_local(&path("source"), Access::Buffered, None).unwrap();
    assert!(new.is_some());
}

#[test]
fn one_pin_is_found_by_every_name_of_the_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("there")).unwrap();
    fs::write(path("there/meta"), "").unwrap();
    symlink("there/meta", path("link")).unwrap();
    let real = path("there").canonicalize().unwrap().join("meta.source.json");
    assert_eq!(place(&path("link")), Some(real.clone()));
    fs::write(path("link.source.json"), "").unwrap();
    assert_eq!(place(&path("link")), Some(path("link.source.json")));
    fs::write(&real, "").unwrap();
    assert_eq!(place(&path("link")), Some(real));
}

#[test]
fn beside_a_block_device_there_is_no_place() {
    // A path that does not exist will become a file.
    assert!(place(Path::new("nowhere")).is_some());
}
