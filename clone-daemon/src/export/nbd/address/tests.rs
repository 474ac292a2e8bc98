use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::{fs, net};

use super::{Address, BindError, BindOptions, Listener};

fn parsed(text: &str) -> Option<Address> {
    text.parse().ok()
}

fn tcp(host: &str, port: u16) -> Option<Address> {
    Some(Address::Tcp { host: host.into(), port })
}

#[test]
fn addresses_are_read_and_written() {
    for (text, address) in [
        ("unix:/run/x.sock", Some(Address::Unix("/run/x.sock".into()))),
        ("unix:x:y", Some(Address::Unix("x:y".into()))),
        ("tcp:127.0.0.1:10809", tcp("127.0.0.1", 10809)),
        ("tcp:[::1]:0", tcp("::1", 0)),
        ("tcp:disk.example:10809", tcp("disk.example", 10809)),
        ("systemd", Some(Address::Systemd)),
    ] {
        assert_eq!(parsed(text), address, "{text}");
        assert_eq!(address.map(|address| address.to_string()), Some(text.into()));
    }
    for wrong in [
        "",
        "unix:",
        "tcp:",
        "tcp:host",
        "tcp:host:",
        "tcp:host:99999",
        "tcp:::1:5",
        "tcp::5",
        "tcp:[::1:5",
        "tcp:[host]:5",
        "systemd:",
        "udp:host:5",
        "/run/x.sock",
    ] {
        assert_eq!(parsed(wrong), None, "{wrong}");
    }
}

#[test]
fn without_tls_nobody_listens_where_strangers_are_but_on_demand() {
    let any: Address = "tcp:0.0.0.0:0".parse().unwrap();
    let refused = Listener::bind(&any, &BindOptions::default()).unwrap_err();
    assert!(refused.to_string().contains("--insecure"), "{refused}");
    let mapped: Address = "tcp:[::ffff:10.1.2.3]:0".parse().unwrap();
    let refused = Listener::bind(&mapped, &BindOptions::default());
    assert!(matches!(refused, Err(BindError::Insecure(_))));
    for options in [
        BindOptions { insecure: true, has_tls: false },
        BindOptions { insecure: false, has_tls: true },
    ] {
        assert_eq!(Listener::bind(&any, &options).unwrap().len(), 1);
    }
    let loopback: Address = "tcp:127.0.0.1:0".parse().unwrap();
    let listeners = Listener::bind(&loopback, &BindOptions::default()).unwrap();
    let address = listeners[0].tcp_address().unwrap();
    net::TcpStream::connect(address).unwrap();
}

#[test]
fn a_socket_is_for_its_owner_only_and_is_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let address = Address::Unix(path.clone());
    let listeners = Listener::bind(&address, &BindOptions::default()).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    UnixStream::connect(&path).unwrap();
    drop(listeners);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let address = Address::Unix(path.clone());
    let bind = || Listener::bind(&address, &BindOptions::default());
    let stale = UnixListener::bind(&path).unwrap();
    assert!(matches!(bind(), Err(BindError::InUse(_))));
    UnixStream::connect(&path).unwrap();
    drop(stale);
    let listeners = bind().unwrap();
    assert!(matches!(bind(), Err(BindError::InUse(_))));
    // The listener does not remove a socket that another process has put in its place.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(listeners);
    UnixStream::connect(&path).unwrap();
    drop(other);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "kept").unwrap();
    assert!(matches!(bind(), Err(BindError::NoSocket(_))));
    assert_eq!(fs::read(&path).unwrap(), b"kept");
}

#[test]
fn where_no_sockets_were_passed_on_there_are_none() {
    let none = Listener::bind(&Address::Systemd, &BindOptions::default());
    assert!(matches!(none, Err(BindError::NonePassed)));
}
