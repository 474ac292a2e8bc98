//! Random interleavings: several connections with many requests in flight each, while the clone is
//! suspended and resumed, and with little memory for buffers. Every byte of every reply is checked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use clone_core::driver::RunningClone;
use clone_core::engine::Command;
use clone_core::geometry::Sectors;
use clone_daemon::export::nbd::ServerOptions;
use clone_daemon::export::nbd::reply::ReplyFormat;
use clone_daemon::nbd_protocol::{chunk, command, errno, flag, option, option_reply};
use persistent_data::device::FileDevice;
use persistent_data::sim::{Seed, seeds};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;

use self::client::{Client, Figures};
use self::pump::Pump;
use self::world::{KIB, REGION, SHARED, SOUND, Spotted, content};
use super::raw::{Raw, be64};
use super::served::Served;
use super::tls;
use crate::support::Rig;

mod client;
mod pump;
mod requests;
mod world;

/// Number of connections of a run.
const CLIENTS: u64 = 3;

/// Number of times that each connection has requests in flight, and their maximum number.
const ROUNDS: u64 = 10;
const REQUESTS: u64 = 40;

/// The parameters of a run.
#[derive(Debug)]
struct Plan {
    /// The format of replies of the first connection; the others have other formats.
    style: u64,
    tls: bool,
    records: bool,
    hydrates: bool,
    suspends: bool,
    shared_bytes: u64,
}

impl Plan {
    /// Chooses parameters by the seed. Six seeds cover all formats, each with and without TLS.
    fn new(seed: &Seed, rng: &mut StdRng) -> Self {
        let shared = [0, 0, 64 * KIB, 256 << 20];
        Self {
            style: seed.value(),
            tls: seed.value() / 3 % 2 == 1,
            records: rng.next_u64().is_multiple_of(2),
            hydrates: rng.next_u64().is_multiple_of(2),
            suspends: !rng.next_u64().is_multiple_of(4),
            shared_bytes: shared[rng.next_u64() as usize % shared.len()],
        }
    }

    fn style_of(&self, client: u64) -> ReplyFormat {
        [ReplyFormat::Structured, ReplyFormat::Simple, ReplyFormat::Extended]
            [(self.style + client) as usize % 3]
    }
}

/// Certificates, and a client configuration that trusts them.
struct Trust {
    folder: TempDir,
    config: Arc<ClientConfig>,
}

impl Trust {
    fn new() -> Self {
        let folder = tls::certificates();
        let authority = folder.path().join("ca-cert.pem");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        Self { folder, config: Arc::new(config) }
    }
}

/// Connects with a format of replies, and with both metadata contexts if it has chunks.
fn connect(served: &Served, style: ReplyFormat, trust: Option<&Trust>) -> Raw<Pump> {
    let mut plain = Raw::greeted(served.connect());
    let tls = trust.map(|trust| {
        let told = plain.option(option::STARTTLS, &[]);
        assert_eq!(told, [(option_reply::ACK, vec![])]);
        ClientConnection::new(trust.config.clone(), "localhost".try_into().unwrap()).unwrap()
    });
    let mut raw = Raw::over(Pump::new(plain.stream, tls));
    let headers = match style {
        ReplyFormat::Simple => None,
        ReplyFormat::Structured => Some(option::STRUCTURED_REPLY),
        ReplyFormat::Extended => Some(option::EXTENDED_HEADERS),
    };
    if let Some(headers) = headers {
        assert_eq!(raw.option(headers, &[]), [(option_reply::ACK, vec![])]);
        let contexts = b"\0\0\0\x04disk\0\0\0\x02\0\0\0\x0fbase:allocation\0\0\0\x0eclone:hydrated";
        assert_eq!(raw.option(option::SET_META_CONTEXT, contexts).len(), 3);
    }
    if style == ReplyFormat::Extended {
        raw.speak_extended();
    }
    raw.go();
    raw
}

/// Suspends and resumes the clone repeatedly, until `is_over` is true.
fn suspend_again_and_again(
    clone: &RunningClone<FileDevice>,
    mut rng: StdRng,
    is_over: &AtomicBool,
) -> u64 {
    let mut times = 0;
    while !is_over.load(Ordering::Relaxed) {
        clone.suspend().unwrap();
        thread::sleep(Duration::from_micros(rng.next_u64() % 3000));
        let _ = clone.resume();
        thread::sleep(Duration::from_micros(rng.next_u64() % 3000));
        times += 1;
    }
    times
}

fn run(seed: &Seed, trust: &Trust) -> (Figures, u64) {
    let mut rng = seed.rng();
    let plan = Plan::new(seed, &mut rng);
    let (content, bad) = content(seed.value(), CLIENTS);
    let rig = Rig::new(Sectors(REGION / 512), &content);
    let source = Spotted { content: content.clone(), bad: bad.clone() };
    let clone = rig.start_from(Arc::new(source), plan.hydrates);
    clone.command(Command::Record(plan.records));
    let defaults = match plan.tls {
        true => tls::options(trust.folder.path(), false),
        false => ServerOptions::default(),
    };
    let options = ServerOptions { shared_bytes: plan.shared_bytes, ..defaults };
    let served = Served::of(rig, clone, options);
    // A part of the range that all clients read is hydrated.
    served.clone.client().hydrate(0..SOUND.end).unwrap();
    let is_over = AtomicBool::new(!plan.suspends);
    thread::scope(|scope| {
        let (clone, is_over) = (&served.clone, &is_over);
        let rng_of = |number| StdRng::seed_from_u64(seed.value() << 8 | number);
        let rng = rng_of(255);
        let suspending = scope.spawn(move || suspend_again_and_again(clone, rng, is_over));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let style = plan.style_of(number);
                let raw = connect(&served, style, plan.tls.then_some(trust));
                let (rng, model, bad) = (rng_of(number), content.clone(), bad.clone());
                let figures = Figures::default();
                let mut client = Client { number, style, raw, rng, model, bad, figures };
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let requests = 1 + client.rng.next_u64() % REQUESTS;
                        client.round(requests);
                    }
                    client.read_all();
                    client.figures
                })
            })
            .collect();
        let ended: Vec<_> = clients.into_iter().map(ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        let times = suspending.join().unwrap();
        let mut sum = Figures::default();
        for figures in ended {
            let figures = figures.unwrap_or_else(|_| panic!("{plan:?}"));
            sum.requests += figures.requests;
            sum.errors += figures.errors;
            sum.bytes += figures.bytes;
        }
        (sum, times)
    })
}

#[test]
fn every_byte_of_every_reply_is_right_whatever_else_is_under_way() {
    let trust = Trust::new();
    let (began, mut sum, mut times) = (Instant::now(), Figures::default(), 0);
    for seed in seeds("every_byte_of_every_reply_is_right", 12) {
        let (figures, suspended) = run(&seed, &trust);
        sum.requests += figures.requests;
        sum.errors += figures.errors;
        sum.bytes += figures.bytes;
        times += suspended;
    }
    println!("{sum:?}, suspended {times} times, {:?}", began.elapsed());
}

/// Offset of a bad spot, in the second piece of a read that begins at 0.
const SPOT: u64 = 300 * KIB;

/// Length in bytes of a read of several pieces.
const LONG: u64 = 1024 * KIB;

/// Returns a clone with a bad spot, without memory for buffers, and its contents.
fn with_bad_spot() -> (Served, Vec<u8>) {
    let (mut content, _) = content(1, CLIENTS);
    content.iter_mut().for_each(|byte| *byte |= 1);
    let rig = Rig::new(Sectors(REGION / 512), &content);
    let bad = vec![SPOT..SPOT + REGION];
    let clone = rig.start_from(Arc::new(Spotted { content: content.clone(), bad }), false);
    let options = ServerOptions { shared_bytes: 0, ..ServerOptions::default() };
    (Served::of(rig, clone, options), content)
}

#[test]
fn a_simple_reply_whose_second_piece_fails_ends_with_the_connection() {
    let (served, content) = with_bad_spot();
    let mut raw = Raw::chosen(served.connect(), &[]);
    let read = Raw::request_bytes(false, (0, command::READ), 1, 0, LONG);
    let flush = Raw::request_bytes(false, (0, command::FLUSH), 2, 0, 0);
    raw.send(&[read, flush].concat());
    assert_eq!(
        (raw.reply().error(), raw.receive(256 << 10)),
        (None, content[..256 << 10].to_vec())
    );
    assert!(raw.hung_up().is_empty());
    // If the first piece fails, the reply has not begun, and the error is reported.
    let mut raw = Raw::chosen(served.connect(), &[]);
    raw.request((0, command::READ), 1, SPOT, LONG);
    assert_eq!(raw.reply().error(), Some(errno::EIO));
    raw.is_served();
}

#[test]
fn an_error_in_a_later_piece_is_a_chunk_of_its_own_and_never_data() {
    let (served, content) = with_bad_spot();
    for (style, flags) in [
        (option::STRUCTURED_REPLY, 0),
        (option::STRUCTURED_REPLY, flag::DF),
        (option::EXTENDED_HEADERS, 0),
        (option::EXTENDED_HEADERS, flag::DF),
    ] {
        let mut raw = Raw::chosen(served.connect(), &[style]);
        // Another thread answers the flushes, at any time except within a chunk.
        for cookie in 2..50 {
            raw.request((0, command::FLUSH), cookie, 0, 0);
        }
        raw.request((flags, command::READ), 1, 0, LONG);
        let (mut got, mut flushed) = (Vec::new(), 0);
        loop {
            let reply = raw.reply();
            match (reply.cookie, reply.kind) {
                (1, chunk::OFFSET_DATA) => {
                    assert_eq!(reply.data[..8], be64(got.len() as u64));
                    got.extend_from_slice(&reply.data[8..]);
                }
                (1, kind) => {
                    let told = (kind, reply.error(), reply.flags);
                    assert_eq!(told, (chunk::ERROR, Some(errno::EIO), chunk::DONE));
                    break;
                }
                _ => flushed += u64::from(reply.error().is_none()),
            }
        }
        let good = 256 << 10;
        assert!(got[..good] == content[..good]);
        // A single chunk announced its length before, so it is padded.
        let padding = if flags == flag::DF { LONG as usize - good } else { 0 };
        assert!(got[good..] == vec![0; padding]);
        for _ in flushed..48 {
            assert_eq!(raw.reply().error(), None);
        }
        raw.is_served();
    }
}

#[test]
fn what_others_answer_meanwhile_comes_before_or_after_a_long_reply() {
    let (served, content) = with_bad_spot();
    served.clone.suspend().unwrap();
    let mut raw = Raw::chosen(served.connect(), &[]);
    for cookie in 2..50 {
        raw.request((0, command::FLUSH), cookie, 0, 0);
    }
    let offset = SHARED.end;
    raw.request((0, command::READ), 1, offset, LONG);
    let (told, wait) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut cookies = Vec::new();
        for _ in 1..50 {
            let reply = raw.reply();
            assert_eq!(reply.error(), None);
            if reply.cookie == 1 {
                assert!(raw.receive(LONG as usize) == content[offset as usize..][..LONG as usize]);
            }
            cookies.push(reply.cookie);
        }
        told.send(cookies).unwrap();
    });
    let _ = served.clone.resume();
    let mut cookies = wait.recv_timeout(Duration::from_secs(120)).unwrap();
    reader.join().unwrap();
    cookies.sort_unstable();
    assert!(cookies.into_iter().eq(1..50));
}
