//! The server under TLS, with certificates.

use std::fs;
use std::path::Path;

use super::raw::Raw;
use super::served::{Served, noise, output, run};
use crate::support::Rig;
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::{ServerOptions, TlsError, TlsOptions};
use clone_daemon::nbd_protocol::{option, option_reply as answer};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// Creates a folder with the file names that libnbd and QEMU expect: `ca-cert.pem`,
/// `server-cert.pem`, `server-key.pem`, `client-cert.pem` and `client-key.pem`.
pub(super) fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| fs::write(folder.path().join(name), text).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    write("ca-cert.pem", authority.pem());
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".into(), "127.0.0.1".into()];
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        write(&format!("{name}-cert.pem"), certificate.pem());
        write(&format!("{name}-key.pem"), key.serialize_pem());
    }
    folder
}

pub(super) fn options(folder: &Path, clients: bool) -> ServerOptions {
    let [certificates, key, authority] =
        ["server-cert.pem", "server-key.pem", "ca-cert.pem"].map(|name| folder.join(name));
    let tls = TlsOptions::load(&certificates, &key, clients.then_some(&*authority)).unwrap();
    ServerOptions { tls: Some(tls), ..ServerOptions::default() }
}

fn served(folder: &Path, clients: bool, content: &[u8]) -> Served {
    Served::with(Rig::new(Sectors(8), content), options(folder, clients))
}

#[test]
fn without_tls_nothing_is_told_where_it_is_required() {
    let folder = certificates();
    let served = served(folder.path(), false, &noise(40, 64 << 10));
    let mut raw = Raw::greeted(served.connect());
    for option in [option::LIST, option::INFO, option::GO, option::STRUCTURED_REPLY, 99] {
        let told = raw.option(option, b"\0\0\0\x04disk\0\0");
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].0, answer::ERR_TLS_REQD);
    }
    assert_eq!(raw.option(99, &[0; 100_000])[0].0, answer::ERR_TLS_REQD);
    assert_eq!(raw.option(option::STARTTLS, b"x")[0].0, answer::ERR_INVALID);
    assert_eq!(raw.option(option::ABORT, b"")[0].0, answer::ACK);
    assert!(raw.hung_up().is_empty());
    let mut raw = Raw::greeted(served.connect());
    raw.send(&Raw::option_bytes(option::EXPORT_NAME, b"disk"));
    assert!(raw.hung_up().is_empty());
    // Input before TLS does not count as sent under TLS.
    let mut raw = Raw::greeted(served.connect());
    let both = [Raw::option_bytes(option::STARTTLS, b""), Raw::option_bytes(option::LIST, b"")];
    raw.send(&both.concat());
    assert_eq!(raw.option_replies(option::STARTTLS)[0].0, answer::ACK);
    assert!(raw.hung_up().is_empty());
    // Neither does input that is not TLS.
    let mut raw = Raw::greeted(served.connect());
    assert_eq!(raw.option(option::STARTTLS, b"")[0].0, answer::ACK);
    raw.send(&[0x55; 5000]);
    raw.hung_up();
}

/// Returns a URI for clients of `served` with the certificates of `folder`.
fn uri(served: &Served, folder: &Path) -> String {
    let (socket, folder) = (served.socket(), folder.display());
    let socket = socket.display();
    format!("nbds+unix://localhost/disk?socket={socket}&tls-certificates={folder}")
}

#[test]
fn libnbd_copies_both_ways_under_tls() {
    let folder = certificates();
    let content = noise(41, 4 << 20);
    for clients in [false, true] {
        let served = served(folder.path(), clients, &content);
        let (out, uri) = (served.rig.path("out"), uri(&served, folder.path()));
        let out = out.to_str().unwrap();
        if run("nbdcopy", &[&uri, out]).is_none() {
            return;
        }
        assert!(fs::read(out).unwrap() == content);
        let changed = noise(42, 4 << 20);
        fs::write(out, &changed).unwrap();
        run("nbdcopy", &["--flush", out, &uri]);
        assert!(served.rig.destination() == changed);
        run("nbdcopy", &[&uri, out]);
        assert!(fs::read(out).unwrap() == changed);
    }
}

#[test]
fn a_client_without_a_certificate_that_is_trusted_is_not_let_in() {
    let (folder, others) = (certificates(), certificates());
    let served = served(folder.path(), true, &noise(43, 64 << 10));
    // This client trusts the server, and presents a certificate of another authority.
    fs::copy(folder.path().join("ca-cert.pem"), others.path().join("ca-cert.pem")).unwrap();
    let Some(told) = output("nbdinfo", &["--size", &uri(&served, others.path())]) else { return };
    assert!(!told.status.success());
    let told = output("nbdinfo", &["--size", &uri(&served, folder.path())]).unwrap();
    assert_eq!(String::from_utf8_lossy(&told.stdout), "65536\n");
}

#[test]
fn qemu_converts_under_tls() {
    let folder = certificates();
    let content = noise(44, 1 << 20);
    let served = served(folder.path(), true, &content);
    let path = folder.path().display();
    let credentials = format!("tls-creds-x509,id=tls0,endpoint=client,dir={path}");
    let socket = served.socket();
    let image = format!(
        "driver=nbd,server.type=unix,server.path={},export=disk,tls-creds=tls0,\
         tls-hostname=localhost",
        socket.display()
    );
    let out = served.rig.path("out");
    let arguments = ["convert", "--object", &credentials, "--image-opts", &image, "-O", "raw"];
    if run("qemu-img", &[&arguments[..], &[out.to_str().unwrap()]].concat()).is_some() {
        assert!(fs::read(out).unwrap() == content);
    }
}

#[test]
fn certificates_that_cannot_be_used_are_told_before_anybody_connects() {
    let folder = certificates();
    let [certificate, key, other, none] =
        ["server-cert.pem", "server-key.pem", "client-key.pem", "none"]
            .map(|name| folder.path().join(name));
    let load = |certificate: &Path, key: &Path, authority: Option<&Path>| {
        TlsOptions::load(certificate, key, authority).unwrap_err()
    };
    let told = load(&none, &key, None).to_string();
    assert!(told.contains("certificates") && told.contains("none"), "{told}");
    assert!(matches!(load(&key, &key, None), TlsError::File { .. }));
    assert!(matches!(load(&certificate, &certificate, None), TlsError::File { .. }));
    assert!(matches!(load(&certificate, &other, None), TlsError::Unusable(_)));
    assert!(matches!(load(&certificate, &key, Some(&key)), TlsError::File { .. }));
}
