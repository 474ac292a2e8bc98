//! Random suspends, resumes, statuses, messages and ends of a clone, by many threads, with slow
//! devices.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use persistent_data::sim::seeds;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::disk::Disk;
use super::{Bench, Clone, REGION};
use crate::dm_target::Message;
use crate::driver::{Client, DriverError};
use crate::engine::{Command, Failure, RequestError};
use crate::metadata::Metadata;
use crate::sync::lock;

/// Far longer than any call takes once the devices respond.
const BOUND: Duration = Duration::from_secs(120);

const USERS: u64 = 3;
/// Regions per user.
const REGIONS: u64 = 16;
const CONTROLLERS: u64 = 4;
const ENDERS: u64 = 2;

/// The calls in progress: thread, kind and start time.
#[derive(Default)]
struct Watchdog(Mutex<BTreeMap<String, (&'static str, Instant)>>);

impl Watchdog {
    fn call<T>(&self, thread: &str, what: &'static str, call: impl FnOnce() -> T) -> T {
        lock(&self.0).insert(thread.to_owned(), (what, Instant::now()));
        let result = call();
        lock(&self.0).remove(thread);
        result
    }

    fn report(&self) -> String {
        let mut report = String::new();
        for (thread, (what, since)) in &*lock(&self.0) {
            writeln!(report, "{thread} waits for {what}, {:?}", since.elapsed()).unwrap();
        }
        report
    }
}

/// The state shared by the threads of one run.
struct Run {
    clone: Clone,
    source: Arc<Disk>,
    destination: Arc<Disk>,
    watchdog: Watchdog,
    /// Number of control calls so far.
    calls: AtomicU64,
    /// Number of control calls before the clone is ended.
    calls_before_end: u64,
    has_ended: AtomicBool,
    /// The data that each user expects in its regions: possible bytes, and true if the last write
    /// was answered with success.
    regions: Mutex<BTreeMap<u64, (Vec<u8>, bool)>>,
    failures: Mutex<Vec<Option<Failure>>>,
}

impl Run {
    /// Writes, reads and flushes regions of its own until the clone has ended.
    fn use_clone(&self, user: u64, client: &Client, rng: &mut StdRng) {
        let name = format!("user {user}");
        let mut refused = 0;
        while refused < 3 {
            let region = user * REGIONS + rng.random_range(0..REGIONS);
            let at = region * REGION;
            let result = match rng.random_range(0..10) {
                0..6 => {
                    let byte = rng.random_range(101..=255);
                    let data = vec![byte; REGION as usize];
                    let durable = rng.random_bool(0.2);
                    let write = || client.write(at, &data, durable);
                    let result = self.watchdog.call(&name, "a write", write);
                    let mut regions = lock(&self.regions);
                    let known = regions.entry(region).or_default();
                    match result {
                        Ok(()) => *known = (vec![byte], true),
                        Err(_) => known.0.push(byte),
                    }
                    result
                }
                6..9 => {
                    let mut bytes = [0; 16];
                    self.watchdog.call(&name, "a read", || client.read(at, &mut bytes))
                }
                _ => self.watchdog.call(&name, "a flush", || client.flush()),
            };
            match result {
                Ok(()) => {}
                Err(RequestError::Stopped) => refused += 1,
                Err(other) => panic!("{name}: {other:?}"),
            }
        }
    }

    /// Makes `calls` control calls. After that, only the end suspends the clone.
    fn control(&self, controller: u64, calls: u64, rng: &mut StdRng) {
        let name = format!("controller {controller}");
        let call = |what, call: &dyn Fn() -> Result<(), DriverError>| match self
            .watchdog
            .call(&name, what, call)
        {
            Ok(()) | Err(DriverError::Resumed | DriverError::Ending) => {}
            Err(other) => panic!("{name}: {what}: {other}"),
        };
        for _ in 0..calls {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let on = rng.random_bool(0.5);
            match rng.random_range(0..10) {
                0..3 => call("a suspend", &|| self.clone.suspend()),
                // More resumes than others, so that the last call is mostly a resume.
                3..7 => call("a resume", &|| self.clone.resume()),
                7 => drop(self.watchdog.call(&name, "a status", || self.clone.status())),
                8 => {
                    let message =
                        if on { Message::EnableHydration } else { Message::DisableHydration };
                    let command = || self.clone.try_command(Command::Kernel(message));
                    call("a message", &command);
                }
                _ => {
                    let look = || (self.clone.progress(), self.clone.failed_regions());
                    drop(self.watchdog.call(&name, "the progress", look));
                }
            }
            thread::yield_now();
        }
    }

    /// Delays operations of the devices at varying offsets.
    fn slow_down(&self, rng: &mut StdRng) {
        while !self.has_ended.load(Ordering::SeqCst) {
            let disk = if rng.random() { &self.source } else { &self.destination };
            let first = rng.random_range(0..USERS * REGIONS) * REGION;
            disk.hold(first..first + rng.random_range(1..8) * REGION);
            (0..rng.random_range(0..1000)).for_each(|_| thread::yield_now());
            disk.let_go();
            (0..rng.random_range(0..50)).for_each(|_| thread::yield_now());
        }
    }

    /// Ends the clone after enough control calls.
    fn end(&self, ender: u64) {
        while self.calls.load(Ordering::SeqCst) < self.calls_before_end {
            thread::yield_now();
        }
        let name = format!("ender {ender}");
        let failure = self.watchdog.call(&name, "the end", || self.clone.end());
        lock(&self.failures).push(failure);
        self.has_ended.store(true, Ordering::SeqCst);
    }
}

/// Starts a thread that sends on `done` when it has returned.
fn start(run: &Arc<Run>, done: &Sender<()>, work: impl FnOnce(&Run) + Send + 'static) {
    let (run, done) = (run.clone(), done.clone());
    thread::spawn(move || {
        work(&run);
        done.send(()).unwrap();
    });
}

#[test]
fn every_call_returns_whoever_suspends_resumes_and_ends_the_clone_meanwhile() {
    let test = "every_call_returns_whoever_suspends_resumes_and_ends_the_clone_meanwhile";
    for seed in seeds(test, 100) {
        let mut rng = seed.rng();
        let calls: Vec<u64> = (0..CONTROLLERS).map(|_| rng.random_range(1..20)).collect();
        let mut bench = Bench::hydrating((USERS * REGIONS + 16) * REGION);
        bench.workers = rng.random_range(3..7);
        let (source, destination) = (bench.source.bytes(), bench.destination.bytes());
        bench.source = Arc::new(Disk::new(source).slow(rng.random_range(1..30)));
        bench.destination = Arc::new(Disk::new(destination).slow(rng.random_range(1..10)));
        let run = Arc::new(Run {
            clone: bench.start(),
            source: bench.source.clone(),
            destination: bench.destination.clone(),
            watchdog: Watchdog::default(),
            calls: AtomicU64::new(0),
            calls_before_end: rng.random_range(0..=calls.iter().sum()),
            has_ended: AtomicBool::new(false),
            regions: Mutex::default(),
            failures: Mutex::default(),
        });
        let (done, ended) = mpsc::channel();
        let mut another = || StdRng::seed_from_u64(rng.random());
        for user in 0..USERS {
            let (client, mut rng) = (run.clone.client(), another());
            start(&run, &done, move |run| run.use_clone(user, &client, &mut rng));
        }
        for (controller, calls) in (0..).zip(calls) {
            let mut rng = another();
            start(&run, &done, move |run| run.control(controller, calls, &mut rng));
        }
        let mut rng = another();
        start(&run, &done, move |run| run.slow_down(&mut rng));
        for ender in 0..ENDERS {
            start(&run, &done, move |run| run.end(ender));
        }
        drop(done);
        for _ in 0..USERS + CONTROLLERS + 1 + ENDERS {
            // A thread that panics sends nothing, and the remaining ones may wait for it.
            if ended.recv_timeout(BOUND).is_err() {
                panic!("not all calls have returned:\n{}", run.watchdog.report());
            }
        }
        check_ended(&bench, &run);
    }
}

/// All answered writes are committed, or the end has reported that they are not.
fn check_ended(bench: &Bench, run: &Run) {
    assert_eq!(*lock(&run.failures), [None, None]);
    let metadata = Metadata::open(bench.metadata_device.clone()).unwrap();
    let bytes = bench.destination.bytes();
    for (&region, (may_hold, is_done)) in &*lock(&run.regions) {
        let found = &bytes[(region * REGION) as usize..((region + 1) * REGION) as usize];
        if *is_done {
            assert!(metadata.is_hydrated(region), "region {region} was written, and is lost");
            let holds = |byte: &u8| found.iter().all(|found| found == byte);
            assert!(may_hold.iter().any(holds), "region {region} holds {}", found[0]);
        }
    }
}
