//! Sources with TLS, and sources on nginx.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use clone_core::block_io::SourceChanged;
use clone_core::engine::EventKind;
use clone_core::geometry::Sectors;
use clone_daemon::source::{self, SourceError, SourceOptions, Version};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;

use crate::support::web::Web;
use crate::support::{LONG, Rig, free_address, program};
use crate::web_source::content;

fn open(url: &str, options: &SourceOptions) -> Result<source::Opened, SourceError> {
    source::open(&url.parse().unwrap(), None, options)
}

/// Creates a certificate for `name`: the configuration of a server, and a file for clients that
/// trust it.
fn certificate(name: &str, folder: &Path) -> (ServerConfig, PathBuf) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let path = folder.join(format!("{name}.pem"));
    fs::write(&path, made.cert.pem()).unwrap();
    (config, path)
}

#[test]
fn a_server_under_tls_must_be_the_one_it_says_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(64 << 10);
    let (config, ca_file) = certificate("localhost", folder.path());
    let web = Web::start_tls(&bytes, config);
    let trusting = SourceOptions { ca_file: Some(ca_file.clone()), ..SourceOptions::default() };
    let opened = open(&web.url(), &trusting).unwrap();
    let mut into = vec![0; 10_000];
    for _ in 0..2 {
        opened.source.read_at(100, &mut into).unwrap();
        assert_eq!(into, bytes[100..10_100]);
    }
    assert!(web.asked().iter().all(|ask| ask.connection == 0));

    // No authority known to the system has signed it: a retry cannot change that.
    let told = |options: &SourceOptions| match open(&web.url(), options) {
        Ok(_) => panic!("it was trusted"),
        Err(error) => error.to_string(),
    };
    let distrust = told(&SourceOptions::default());
    assert!(distrust.contains("invalid peer certificate: UnknownIssuer"), "{distrust}");
    let (_, other) = certificate("elsewhere", folder.path());
    let distrust = told(&SourceOptions { ca_file: Some(other), ..SourceOptions::default() });
    assert!(distrust.contains("invalid peer certificate"), "{distrust}");
    let (config, ca_file) = certificate("elsewhere", folder.path());
    let elsewhere = Web::start_tls(&bytes, config);
    let trusting = SourceOptions { ca_file: Some(ca_file), ..SourceOptions::default() };
    let Err(error) = open(&elsewhere.url(), &trusting) else { panic!("it was trusted") };
    assert!(error.to_string().contains("certificate not valid for name \"localhost\""), "{error}");

    for (name, text, wanted) in
        [("none", "", "no certificate in it"), ("missing", "", "No such file")]
    {
        let path = folder.path().join(name);
        if name != "missing" {
            fs::write(&path, text).unwrap();
        }
        let told = told(&SourceOptions { ca_file: Some(path), ..SourceOptions::default() });
        assert!(told.contains(wanted), "{told}");
    }
}

/// nginx with a directory of files. Dropping it stops it.
struct Nginx {
    child: Child,
    folder: TempDir,
    address: SocketAddr,
}

impl Nginx {
    /// Starts nginx with these lines in its server block. Returns `None` if it is not installed.
    fn start(server: &str) -> Option<Self> {
        let nginx = program("nginx")?;
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let path = folder.path().join("nginx.conf");
        fs::write(&path, configuration(folder.path(), address, server)).unwrap();
        let mut child = Command::new(&nginx)
            .args(["-e", "stderr", "-p"])
            .arg(folder.path())
            .arg("-c")
            .arg(&path)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(address).is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "nginx does not start");
            thread::sleep(Duration::from_millis(10));
        }
        Some(Self { child, folder, address })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a configuration with one process that needs nothing outside of `folder`.
fn configuration(folder: &Path, address: SocketAddr, server: &str) -> String {
    let folder = folder.display();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary: String =
        kinds.iter().map(|kind| format!("  {kind}_temp_path {folder}/{kind};\n")).collect();
    format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nevents {{ }}\nhttp {{\n{temporary}\
         \x20 access_log off;\n  gzip on;\n  gzip_types *;\n  server {{\n\
         \x20   listen {address};\n    root {folder};\n{server}\n  }}\n}}\n"
    )
}

#[test]
fn a_clone_of_what_nginx_has_is_right_and_ends_when_the_file_is_replaced() {
    let Some(nginx) = Nginx::start("") else { return };
    let bytes = content(8 << 20);
    let path = nginx.folder.path().join("disk.img");
    fs::write(&path, &bytes).unwrap();
    let rig = Rig::new(Sectors(128), &bytes);
    let opened = open(&nginx.url("disk.img"), &SourceOptions::default()).unwrap();
    assert!(matches!(opened.identity.version, Version::Etag { .. }), "{:?}", opened.identity);
    let clone = rig.start_from(opened.source.clone(), true);
    let events = clone.wait_for(0, LONG);
    assert_eq!(events[0].kind, EventKind::Finished);
    clone.stop();
    assert_eq!(rig.destination(), bytes);

    let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    fs::write(nginx.folder.path().join("new"), other).unwrap();
    let new = File::options().write(true).open(nginx.folder.path().join("new")).unwrap();
    // nginx derives ETags from the size and the second of the last change.
    new.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
    fs::rename(nginx.folder.path().join("new"), &path).unwrap();
    let mut into = vec![0; 512];
    let error = opened.source.read_at(0, &mut into).unwrap_err();
    assert!(SourceChanged::of(&error).is_some(), "{error}");
    assert_eq!(into, [0; 512]);
}

#[test]
fn nginx_is_told_user_and_password_and_without_etags_the_time_is_what_counts() {
    let server = "location / { auth_basic x; auth_basic_user_file users; etag off; }";
    let Some(nginx) = Nginx::start(server) else { return };
    let folder = nginx.folder.path();
    fs::write(folder.join("users"), "me:{PLAIN}p@ss word\n").unwrap();
    let bytes = content(64 << 10);
    fs::write(folder.join("disk.img"), &bytes).unwrap();
    let Err(error) = open(&nginx.url("disk.img"), &SourceOptions::default()) else {
        panic!("nobody asked for a password");
    };
    assert!(error.to_string().contains("401 Unauthorized"), "{error}");

    let url = nginx.url("disk.img").replace("//", "//me:p%40ss%20word@");
    let opened = open(&url, &SourceOptions::default()).unwrap();
    assert!(matches!(opened.identity.version, Version::LastModified { .. }));
    assert!(opened.identity.warning().unwrap().contains("no ETag"));
    let mut into = vec![0; 512];
    opened.source.read_at(4096, &mut into).unwrap();
    assert_eq!(into, bytes[4096..4608]);
    let file = File::options().write(true).open(folder.join("disk.img")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
    let error = opened.source.read_at(4096, &mut into).unwrap_err();
    assert!(SourceChanged::of(&error).is_some(), "{error}");
}
