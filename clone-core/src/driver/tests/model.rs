//! Many concurrent threads, each with bytes of its own, interleaved with those of the others.

use std::sync::Arc;
use std::thread;

use persistent_data::sim::seeds;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::disk::Disk;
use super::{Bench, REGION, source_byte, wait_until_complete};
use crate::driver::Client;

/// Consecutive bytes of one thread, followed by those of the next: threads share regions.
const STRIPE: u64 = 700;
const THREADS: u64 = 5;
/// Number of regions at the end that belong to one thread alone, for each thread.
const OWN_REGIONS: u64 = 6;
const SHARED: u64 = 40 * REGION;
const SIZE: u64 = SHARED + THREADS * OWN_REGIONS * REGION + 512;

/// A thread's model of the clone.
struct Part {
    thread: u64,
    /// `None` for unknown bytes: those of other threads, and discarded ones.
    bytes: Vec<Option<u8>>,
}

impl Part {
    fn new(thread: u64) -> Self {
        let byte = |offset| Self::owner(offset).filter(|&owner| owner == thread);
        let known = |offset| byte(offset).map(|_| source_byte(offset));
        Self { thread, bytes: (0..SIZE).map(known).collect() }
    }

    fn owner(offset: u64) -> Option<u64> {
        if offset < SHARED {
            Some(offset / STRIPE % THREADS)
        } else {
            Some((offset - SHARED) / REGION / OWN_REGIONS).filter(|&owner| owner < THREADS)
        }
    }

    /// Returns a random range of bytes of its own.
    fn pick(&self, rng: &mut StdRng) -> std::ops::Range<u64> {
        let (start, len) = if rng.random_bool(0.7) {
            let stripe = rng.random_range(0..SHARED / STRIPE / THREADS) * THREADS + self.thread;
            (stripe * STRIPE, STRIPE.min(SHARED - stripe * STRIPE))
        } else {
            let first = SHARED + self.thread * OWN_REGIONS * REGION;
            (first, OWN_REGIONS * REGION)
        };
        let from = rng.random_range(0..len);
        start + from..start + rng.random_range(from + 1..=len)
    }

    fn set(&mut self, range: std::ops::Range<u64>, byte: impl Fn(u64) -> Option<u8>) {
        range.for_each(|offset| self.bytes[offset as usize] = byte(offset));
    }

    fn check(&self, client: &Client, range: std::ops::Range<u64>) {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        client.read(range.start, &mut bytes).unwrap();
        self.compare(range.start, &bytes);
    }

    fn compare(&self, first: u64, bytes: &[u8]) {
        for (offset, &byte) in (first..).zip(bytes) {
            if let Some(known) = self.bytes[offset as usize] {
                assert_eq!(byte, known, "byte {offset}, in region {}", offset / REGION);
            }
        }
    }

    fn step(&mut self, client: &Client, rng: &mut StdRng) {
        let range = self.pick(rng);
        let durable = rng.random_bool(0.1);
        match rng.random_range(0..100) {
            0..40 => {
                // Also bytes of other threads, whose values are unknown.
                let end = (range.end + rng.random_range(0..3 * REGION)).min(SIZE);
                self.check(client, range.start..end);
            }
            40..75 => {
                let data: Vec<u8> = range.clone().map(|_| rng.random_range(101..200)).collect();
                client.write(range.start, &data, durable).unwrap();
                self.set(range.clone(), |at| Some(data[(at - range.start) as usize]));
            }
            75..87 => {
                client.write_zeroes(range.clone(), rng.random(), durable).unwrap();
                self.set(range, |_| Some(0));
            }
            87..93 => {
                // Only regions of its own are covered completely.
                client.discard(range.clone(), durable).unwrap();
                self.set(range, |_| None);
            }
            93..96 => client.flush().unwrap(),
            _ => client.hydrate(range).unwrap(),
        }
    }
}

fn work(bench: &mut Bench, parts: &mut [Part], rng: &mut StdRng, steps: u64) {
    let clone = bench.start();
    thread::scope(|scope| {
        for part in &mut *parts {
            let (client, mut rng) = (clone.client(), StdRng::seed_from_u64(rng.random()));
            scope.spawn(move || (0..steps).for_each(|_| part.step(&client, &mut rng)));
        }
        for _ in 0..rng.random_range(0..3) {
            clone.status();
            clone.suspend().unwrap();
            clone.resume().unwrap();
        }
    });
    bench.stop(clone);
}

/// The data of hydrated regions is on the destination.
fn check_stopped(bench: &Bench, parts: &[Part]) {
    let bytes = bench.destination.bytes();
    for region in (0..SIZE.div_ceil(REGION)).filter(|&region| bench.is_hydrated(region)) {
        let range = region * REGION..SIZE.min((region + 1) * REGION);
        for part in parts {
            part.compare(range.start, &bytes[range.start as usize..range.end as usize]);
        }
    }
}

fn bench(rng: &mut StdRng) -> Bench {
    let mut bench = if rng.random_bool(0.8) { Bench::hydrating(SIZE) } else { Bench::new(SIZE) };
    bench.workers = rng.random_range(1..8);
    bench.settings.hydrate_on_read = rng.random();
    bench.settings.options.discard_passdown = rng.random();
    bench.settings.copies = rng.random_range(1..4);
    let (source, destination) = (bench.source.bytes(), bench.destination.bytes());
    bench.source = Arc::new(Disk::new(source).slow(rng.random_range(1..30)));
    bench.destination = Arc::new(Disk::new(destination).slow(rng.random_range(1..10)));
    bench
}

#[test]
fn every_thread_reads_what_it_wrote_whatever_the_others_do_and_however_often_the_clone_stops() {
    for seed in seeds(
        "every_thread_reads_what_it_wrote_whatever_the_others_do_and_however_often_the_clone_stops",
        12,
    ) {
        let mut rng = seed.rng();
        let mut bench = bench(&mut rng);
        let mut parts: Vec<Part> = (0..THREADS).map(Part::new).collect();
        for _ in 0..4 {
            let steps = rng.random_range(1..80);
            work(&mut bench, &mut parts, &mut rng, steps);
            check_stopped(&bench, &parts);
        }
        bench.settings.options.hydration = true;
        let clone = bench.start();
        wait_until_complete(&clone);
        let client = clone.client();
        parts.iter().for_each(|part| part.check(&client, 0..SIZE));
        bench.stop(clone);
        check_stopped(&bench, &parts);
        assert!((0..SIZE.div_ceil(REGION)).all(|region| bench.is_hydrated(region)));
    }
}
