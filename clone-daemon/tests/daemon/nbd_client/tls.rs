//! The client under TLS.

use std::fs;
use std::path::Path;

use clone_daemon::source::nbd::{NbdError, NbdOptions, NbdRemote};
use clone_daemon::source::remote::{Remote, RemoteError};
use clone_daemon::source::uri::{NbdAddress, NbdEndpoint};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::servers::{Server, address, noise, soon, tcp, unix};

/// Creates a certificate authority and a server certificate for `names`, in the files that nbdkit
/// expects.
fn certificates(folder: &Path, names: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    fs::write(folder.join("ca-cert.pem"), authority.pem()).unwrap();
    fs::write(folder.join("server-cert.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("server-key.pem"), key.serialize_pem()).unwrap();
}

#[test]
fn an_export_under_tls_is_read_if_somebody_known_vouches_for_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let (good, other) = (folder.path().join("good"), folder.path().join("other"));
    let tcp = tcp();
    let NbdEndpoint::Tcp { host, .. } = &tcp else { panic!("it is TCP") };
    certificates(&good, &["localhost", host]);
    certificates(&other, &["elsewhere.example"]);
    let bytes = noise(4, 3 << 20);
    let file = folder.path().join("source");
    fs::write(&file, &bytes).unwrap();
    for endpoint in [unix(folder.path()), tcp.clone()] {
        let open = |tls: bool, ca: &Path| {
            let options = NbdOptions { ca: Some(ca.join("ca-cert.pem")), ..NbdOptions::default() };
            NbdRemote::open(NbdAddress { tls, ..address(&endpoint) }, options, soon())
        };
        let server = |certificates: &Path, tls: &str| {
            let certificates = format!("--tls-certificates={}", certificates.display());
            Server::nbdkit(&endpoint, &[tls, &certificates, "file", file.to_str().unwrap()])
        };
        let Some(strict) = server(&good, "--tls=require") else { return };
        let remote = open(true, &good).unwrap();
        std::thread::scope(|scope| {
            for at in (0..bytes.len()).step_by(1 << 20) {
                let (remote, bytes) = (&remote, &bytes);
                scope.spawn(move || {
                    let mut part = vec![0; 1 << 20];
                    for _ in 0..4 {
                        remote.read_at(at as u64, &mut part, soon()).unwrap();
                        assert!(part == bytes[at..at + (1 << 20)]);
                    }
                });
            }
        });
        let refused = open(true, &other).err().unwrap();
        assert!(matches!(refused, NbdError::Tls(_)), "{refused}");
        let refused = open(false, &good).err().unwrap();
        assert!(refused.to_string().contains("TLS is required"), "{refused}");
        assert!(matches!(RemoteError::from(refused), RemoteError::Final(_)));
        drop(strict);
        let odd = server(&other, "--tls=require").unwrap();
        let refused = open(true, &other).err().unwrap();
        assert!(matches!(refused, NbdError::Tls(_)), "it is another's: {refused}");
        drop(odd);
        let _plain = server(&good, "--tls=off").unwrap();
        let refused = open(true, &good).err().unwrap();
        assert!(refused.to_string().contains("refuses TLS"), "{refused}");
    }
    let options = NbdOptions { ca: Some(folder.path().join("nothing")), ..NbdOptions::default() };
    let address = NbdAddress { tls: true, ..address(&unix(folder.path())) };
    let error = NbdRemote::open(address, options, soon()).err().unwrap();
    assert!(error.to_string().contains("cannot use the certificates of"), "{error}");
}
