//! Sources in an object store: moto, which emulates S3.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use clone_core::block_io::SourceChanged;
use clone_core::engine::EventKind;
use clone_core::geometry::Sectors;
use clone_daemon::source::{self, Opened, SourceError, SourceOptions, SourceSpec, Version};

use crate::support::{LONG, Rig, free_address, open_pinned, program};
use crate::web_source::content;

/// Returns a response to send instead of that of moto; `None` to pass the request on.
type Script = Box<dyn Fn(usize, &str) -> Option<&'static str> + Send + Sync>;

/// moto behind a proxy. Dropping it stops both.
struct Moto {
    child: Child,
    address: SocketAddr,
    proxy: SocketAddr,
    script: Arc<Mutex<Arc<Script>>>,
    /// The requests that came through the proxy.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Moto {
    /// Starts moto with an empty bucket. Returns `None` if it is not installed.
    fn start() -> Option<Self> {
        let moto = program("moto_server")?;
        let address = free_address();
        let mut child = Command::new(&moto)
            .args(["-H", &address.ip().to_string(), "-p", &address.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(address).is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "moto does not start");
            thread::sleep(Duration::from_millis(20));
        }
        let nothing: Script = Box::new(|_, _| None);
        let script = Arc::new(Mutex::new(Arc::new(nothing)));
        let asked = Arc::default();
        let proxy = listen(address, Arc::clone(&script), Arc::clone(&asked));
        let moto = Self { child, address, proxy, script, asked };
        moto.put("", b"");
        Some(moto)
    }

    fn put(&self, path: &str, body: &[u8]) {
        let url = format!("http://{}/bucket{path}", self.address);
        // moto checks the user, but not the signature.
        let who = "AWS4-HMAC-SHA256 Credential=me/20261123/us-east-1/s3/aws4_request, \
                   SignedHeaders=host, Signature=0";
        let request = ureq::put(url).header("authorization", who);
        request.header("content-type", "application/octet-stream").send(body).unwrap();
    }

    fn script(&self, script: impl Fn(usize, &str) -> Option<&'static str> + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(Box::new(script));
    }

    fn options(&self) -> SourceOptions {
        let settings = [
            ("aws_endpoint", format!("http://{}", self.proxy)),
            ("aws_allow_http", "true".into()),
            ("aws_access_key_id", "me".into()),
            ("aws_secret_access_key", "secret".into()),
            ("aws_region", "us-east-1".into()),
        ];
        SourceOptions {
            timeout: LONG,
            give_up_after: LONG,
            object_settings: settings.map(|(name, value)| (name.into(), value)).into(),
            ..SourceOptions::default()
        }
    }

    fn open(&self, spec: &str) -> Result<Opened, SourceError> {
        source::open(&spec.parse().unwrap(), None, &self.options())
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a proxy in front of `server`. It supports requests without a body, one per connection.
fn listen(
    server: SocketAddr,
    script: Arc<Mutex<Arc<Script>>>,
    asked: Arc<Mutex<Vec<String>>>,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            let (script, asked) = (script.lock().unwrap().clone(), asked.clone());
            // An error on either side ends the connection.
            thread::spawn(move || drop(pass_on(client, server, &script, &asked)));
        }
    });
    proxy
}

fn pass_on(
    mut client: TcpStream,
    server: SocketAddr,
    script: &Script,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let number = {
        let mut asked = asked.lock().unwrap();
        asked.push(head.clone());
        asked.len() - 1
    };
    if let Some(answer) = script(number, &head) {
        return client.write_all(answer.as_bytes());
    }
    let mut server = TcpStream::connect(server)?;
    server.write_all(head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").as_bytes())?;
    io::copy(&mut server, &mut client)?;
    Ok(())
}

const BUSY: &str = "HTTP/1.1 503 Slow Down\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

#[test]
fn a_clone_of_an_object_is_right_though_the_store_is_busy_now_and_then() {
    let Some(moto) = Moto::start() else { return };
    let bytes = content(4 << 20);
    moto.put("/images/disk%201.img", &bytes);
    moto.script(|number, _| (number % 3 == 1).then_some(BUSY));
    let opened = moto.open("s3://bucket/images/disk%201.img").unwrap();
    assert!(opened.is_remote());
    assert_eq!(opened.source.size_bytes(), 4 << 20);
    assert!(matches!(opened.identity.version, Version::Etag { .. }), "{:?}", opened.identity);
    let mut into = vec![0; 1000];
    opened.source.read_at(77, &mut into).unwrap();
    assert_eq!(into, bytes[77..1077]);
    let rig = Rig::new(Sectors(512), &bytes);
    let clone = rig.start_from(opened.source.clone(), true);
    let events = clone.wait_for(0, LONG);
    assert_eq!(events[0].kind, EventKind::Finished);
    clone.stop();
    assert_eq!(rig.destination(), bytes);
    let asked = moto.asked.lock().unwrap();
    assert!(asked[1..].iter().all(|head| head.contains("if-match: \"")), "{asked:?}");
    assert!(asked.iter().all(|head| head.contains("authorization: AWS4-HMAC-SHA256")));
}

#[test]
fn an_object_that_is_overwritten_under_way_is_not_read_any_more() {
    let Some(moto) = Moto::start() else { return };
    let bytes = content(1 << 20);
    moto.put("/disk", &bytes);
    let folder = tempfile::tempdir().unwrap();
    let pin = folder.path().join("pin");
    let spec: SourceSpec = "s3://bucket/disk".parse().unwrap();
    let open = || open_pinned(&spec, &pin, &moto.options());
    let opened = open().unwrap();
    let mut into = vec![0; 1000];
    opened.source.read_at(0, &mut into).unwrap();
    let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    moto.put("/disk", &other);
    let error = opened.source.read_at(0, &mut into).unwrap_err();
    let changed = SourceChanged::of(&error).unwrap_or_else(|| panic!("{error}"));
    assert!(changed.0.starts_with("the ETag"), "{changed}");
    assert!(changed.0.contains("is no longer the current version"), "{changed}");
    assert_eq!(into, bytes[..1000]);
    let Err(error) = open() else { panic!("another version was opened") };
    assert!(error.to_string().contains("it was identified by the ETag"), "{error}");
    fs::remove_file(&pin).unwrap();
    open().unwrap();
    assert!(!fs::read_to_string(&pin).unwrap().contains("secret"));

    // Shorter now, and the server ignores the condition.
    let opened = open().unwrap();
    moto.put("/disk", &bytes[..4096]);
    moto.script(|_, _| {
        Some(
            "HTTP/1.1 206 Partial Content\r\ncontent-length: 4\r\nlast-modified: Mon, 23 Nov 2026 \
             02:00:00 GMT\r\netag: \"other\"\r\ncontent-range: bytes 0-3/4096\r\n\r\nxxxx",
        )
    });
    let error = opened.source.read_at(0, &mut [0; 4]).unwrap_err();
    assert!(SourceChanged::of(&error).is_some(), "{error}");
}

#[test]
fn where_a_store_keeps_old_versions_a_clone_goes_on_with_the_one_it_was_begun_with() {
    let Some(moto) = Moto::start() else { return };
    moto.put(
        "?versioning",
        b"<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
          <Status>Enabled</Status></VersioningConfiguration>",
    );
    let bytes = content(64 << 10);
    moto.put("/disk", &bytes);
    let folder = tempfile::tempdir().unwrap();
    let pin = folder.path().join("pin");
    let spec: SourceSpec = "s3://bucket/disk".parse().unwrap();
    let open = || open_pinned(&spec, &pin, &moto.options());
    let before = open().unwrap();
    assert!(matches!(before.identity.version, Version::Generation { .. }), "{:?}", before.identity);
    let other: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    moto.put("/disk", &other[..4096]);
    for opened in [before, open().unwrap()] {
        let mut into = vec![0; 1000];
        opened.source.read_at(60_000, &mut into).unwrap();
        assert_eq!(into, bytes[60_000..61_000]);
    }

    // Credentials that permit reading objects but not versions: the ETag is used.
    moto.put("/disk", &bytes);
    moto.script(|_, head| {
        let forbidden = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        head.contains("versionId=").then_some(forbidden)
    });
    let opened = moto.open("s3://bucket/disk").unwrap();
    assert!(matches!(opened.identity.version, Version::Etag { .. }), "{:?}", opened.identity);
    opened.source.read_at(0, &mut [0; 512]).unwrap();
}

#[test]
fn what_a_store_refuses_is_said_and_what_is_asked_wrongly_is_not_asked() {
    let Some(moto) = Moto::start() else { return };
    let told = |spec: &str, options: &SourceOptions| {
        let options = SourceOptions { give_up_after: Duration::from_secs(20), ..options.clone() };
        match source::open(&spec.parse().unwrap(), None, &options) {
            Ok(_) => panic!("{spec} was opened"),
            Err(error) => error.to_string(),
        }
    };
    let options = moto.options();
    assert!(told("s3://bucket/none", &options).contains("404 Not Found"));
    assert!(told("s3://none/none", &options).contains("404 Not Found"));
    moto.put("/empty", b"");
    assert!(told("s3://bucket/empty", &options).contains("it is empty"));
    // The server asks for a longer delay than the time limit: opening fails at once.
    moto.script(|_, _| {
        Some(
            "HTTP/1.1 503 Slow Down\r\nconnection: close\r\nretry-after: 30\r\n\
             content-length: 0\r\n\r\n",
        )
    });
    assert!(told("s3://bucket/disk", &options).contains("503 Service Unavailable"));
    moto.script(|_, _| Some("HTTP/1.1 301 Moved\r\ncontent-length: 0\r\n\r\n"));
    assert!(told("s3://bucket/disk", &options).contains("301 Moved"));
    let asked = moto.asked.lock().unwrap().len();
    let mut safe = options.clone();
    safe.object_settings.retain(|(name, _)| name != "aws_allow_http");
    assert!(told("s3://bucket/disk", &safe).contains("AWS_ALLOW_HTTP"));
    let mut odd = options.clone();
    odd.object_settings.push(("aws_colour".into(), "red".into()));
    assert!(told("s3://bucket/disk", &odd).contains("no setting aws_colour"));
    assert!(told("s3://bucket/%ff", &options).contains("UTF-8"));
    assert!(told("s3://bucket/a//b", &options).contains("is not a URL"));
    assert_eq!(moto.asked.lock().unwrap().len(), asked);
}
