use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{NbdAddress, NbdEndpoint, SourceSpec, SpecError, decode};

fn nbd(text: &str) -> NbdAddress {
    match text.parse().unwrap() {
        SourceSpec::Nbd(address) => address,
        other => panic!("{text} is {other:?}"),
    }
}

fn tcp(host: &str, port: u16) -> NbdEndpoint {
    NbdEndpoint::Tcp { host: host.into(), port }
}

#[test]
fn what_does_not_begin_with_a_scheme_is_a_path_whatever_is_in_it() {
    for path in ["/dev/vdb", "a b", "./http://x", "nbd:unix:x", "1a://x", "://", "ü://x", "/s3://"]
    {
        assert_eq!(path.parse(), Ok(SourceSpec::Path(path.into())));
    }
    assert_eq!("file:///a%20b".parse(), Ok(SourceSpec::Path("/a b".into())));
    assert_eq!("file://localhost/a".parse(), Ok(SourceSpec::Path("/a".into())));
}

#[test]
fn the_examples_of_the_nbd_uri_document_are_understood() {
    for (text, endpoint, export, tls) in [
        ("nbd://example.com", tcp("example.com", 10_809), "", false),
        ("nbd://example.com/", tcp("example.com", 10_809), "", false),
        ("NBD://example.com:123/export%201", tcp("example.com", 123), "export 1", false),
        ("nbds://[::1]:5/a/b", tcp("::1", 5), "a/b", true),
        ("nbd://[::1]/%2f", tcp("::1", 10_809), "/", false),
    ] {
        let address = nbd(text);
        assert_eq!(address, NbdAddress { endpoint, export: export.into(), tls });
        assert_eq!(nbd(&address.to_string()), address);
    }
    let address = nbd("nbds+unix:///disk?socket=/run/a%20b%FF");
    let socket = OsStr::from_bytes(b"/run/a b\xff");
    assert_eq!(address.endpoint, NbdEndpoint::Unix(socket.into()));
    assert_eq!((address.export.as_str(), address.tls), ("disk", true));
    assert_eq!(nbd(&address.to_string()), address);
    assert_eq!(nbd("nbd+unix://?socket=s").endpoint, NbdEndpoint::Unix("s".into()));
}

#[test]
fn what_is_wrong_with_a_uri_is_said() {
    let told = |text: &str| text.parse::<SourceSpec>().unwrap_err().to_string();
    assert!(told("ftp://host/x").starts_with("ftp:// is not supported; use nbd,"));
    assert!(told("nbd+vsock://1").starts_with("nbd+vsock:// is not supported; use"));
    for (text, wanted) in [
        ("nbd:///x", "a host after it"),
        ("nbd://host:0/x", "between 1 and 65535"),
        ("nbd://host:70000", "between 1 and 65535"),
        ("nbd://[::1", "a ]"),
        ("nbd://[::1]5", "a colon"),
        ("nbd://me@host/x", "no user"),
        ("nbd://host/x?socket=y", "nbd+unix://"),
        ("nbd://host/%f", "%XX"),
        ("nbd://host/%ff", "UTF-8"),
        ("nbd://host/%00", "%XX"),
        ("nbd+unix://host/x?socket=y", "three slashes"),
        ("nbd+unix:///x", "?socket=PATH"),
        ("nbd+unix:///x?socket=", "a path after"),
        ("nbd+unix:///x?socket=a&b=c", "nothing else"),
        ("http://", "a host"),
        ("https:///x", "a host"),
        ("s3://bucket", "BUCKET/KEY"),
        ("s3://bucket/", "BUCKET/KEY"),
        ("gs:///key", "BUCKET/KEY"),
        ("az://key:secret@container/key", "credentials in the environment"),
        ("file://host/x", "file:///PATH"),
    ] {
        let scheme = text.split(':').next().unwrap();
        let told = told(text);
        assert!(told.starts_with(scheme) && told.contains(wanted), "{text}: {told}");
    }
    assert!(told(&format!("nbd://host/{}", "x".repeat(4097))).contains("4096 bytes"));
    assert_eq!("".parse::<SourceSpec>(), Err(SpecError::Empty));
}

#[test]
fn secrets_in_urls_are_not_shown() {
    let text = "https://me:pass@word@host:8443/a%20b?X-Amz-Signature=secret#secret";
    let spec: SourceSpec = text.parse().unwrap();
    assert_eq!(spec.to_string(), "https://host:8443/a%20b");
    assert_eq!(format!("{spec:?}"), "Http(Url(https://host:8443/a%20b))");
    let SourceSpec::Http(url) = spec else { panic!("{text} is not a URL") };
    assert_eq!(url.full(), text);
    let bare: SourceSpec = "HTTP://host?secret".parse().unwrap();
    assert_eq!(bare.to_string(), "http://host");
    let object: SourceSpec = "s3://bucket/a/b c".parse().unwrap();
    assert_eq!(object.to_string(), "s3://bucket/a/b c");
}

#[test]
fn percent_signs_stand_before_two_digits() {
    assert_eq!(decode("a%2Fb%2f%25"), Some(b"a/b/%".to_vec()));
    for broken in ["%", "%1", "%g0", "%0g", "%%41"] {
        assert_eq!(decode(broken), None);
    }
}
