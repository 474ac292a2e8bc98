//! Kills the daemon at arbitrary moments while clients write and flush. Flushed data is there
//! afterwards, other data is old or new, and the metadata is sound.
//!
//! A sector holds its number and that of its write, so that any sector reveals what it should be.
//! The kernel keeps what a killed process has written. So this shows that no region is marked
//! hydrated too early and that the daemon loses nothing; the simulation and `tests/kernel` cover
//! power cuts.

use std::env;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clone_core::metadata::check::read;
use clone_tests::nbd::NbdClient;
use persistent_data::device::FileDevice;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::LONG;
use crate::support::cloned::Cloned;

const SECTOR: u64 = 512;
/// Regions of 8 sectors.
const REGIONS: u64 = 8192;
const SECTORS: u64 = REGIONS * 8 + 5;
/// Each writer owns a part of the sectors.
const WRITERS: u64 = 3;

/// Number of kills. They take a minute in all; `KILLS` overrides the number.
const KILLS: u64 = 200;

/// Fills a sector with the content of the write of this number; 0 is the source.
fn fill(sector: u64, write: u64, into: &mut [u8]) {
    // Not even the first sector of the source is all zeroes.
    let tag = [(!sector).to_le_bytes(), write.to_le_bytes()].concat();
    for chunk in into.chunks_mut(tag.len()) {
        chunk.copy_from_slice(&tag[..chunk.len()]);
    }
}

/// Returns the number of the write that a sector is from.
///
/// # Panics
/// If the sector is not from a single write.
fn author(sector: u64, bytes: &[u8]) -> u64 {
    if bytes.iter().all(|&byte| byte == 0) {
        return ZEROES;
    }
    let write = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    let mut expected = vec![0; bytes.len()];
    fill(sector, write, &mut expected);
    assert!(bytes == expected, "sector {sector} is torn, or another one's: {:x?}", &bytes[..32]);
    write
}

/// The number that stands for zeroes instead of a write.
const ZEROES: u64 = u64::MAX;

/// The possible contents of a sector: that of the last flush, and all later ones.
#[derive(Clone, Debug)]
struct Sector {
    may_be: Vec<u64>,
    /// Number of contents that a flush that begins now makes durable: the acknowledged ones.
    answered: usize,
}

/// The known state of one writer's sectors.
struct Part {
    sectors: Range<u64>,
    known: Vec<Sector>,
    next_write: u64,
    random: StdRng,
    flushes: u64,
}

/// Number of requests of all writers acknowledged since the daemon started.
static ANSWERED: AtomicU64 = AtomicU64::new(0);

impl Part {
    fn new(writer: u64) -> Self {
        let share = SECTORS / WRITERS;
        let end = if writer + 1 == WRITERS { SECTORS } else { (writer + 1) * share };
        let sectors = writer * share..end;
        let known = vec![Sector { may_be: vec![0], answered: 1 }; (end - writer * share) as usize];
        let random = StdRng::seed_from_u64(writer);
        Self { sectors, known, next_write: writer + 1, random, flushes: 0 }
    }

    fn known(&mut self, sectors: &Range<u64>) -> &mut [Sector] {
        let first = self.sectors.start;
        &mut self.known[(sectors.start - first) as usize..(sectors.end - first) as usize]
    }

    /// Writes and flushes until the daemon is gone.
    fn write(&mut self, client: &mut NbdClient) {
        loop {
            let done = match self.random.random_range(0..20) {
                0 => self.flush(client),
                1..4 => self.change(client, true),
                _ => self.change(client, false),
            };
            if done.is_err() {
                return;
            }
            ANSWERED.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&mut self, client: &mut NbdClient) -> std::io::Result<()> {
        client.flush()?;
        self.flushes += 1;
        for sector in &mut self.known {
            sector.may_be.drain(..sector.answered - 1);
            sector.answered = 1;
        }
        Ok(())
    }

    fn change(&mut self, client: &mut NbdClient, zeroes: bool) -> std::io::Result<()> {
        let most = if self.random.random_bool(0.1) { 400 } else { 20 };
        let start = self.random.random_range(self.sectors.clone());
        let end = (start + self.random.random_range(1..=most)).min(self.sectors.end);
        let write = if zeroes { ZEROES } else { self.next_write };
        let durable = self.random.random_bool(0.05);
        self.next_write += WRITERS;
        for sector in self.known(&(start..end)) {
            sector.may_be.push(write);
        }
        if zeroes {
            client.write_zeroes(start * SECTOR..end * SECTOR, self.next_write.is_multiple_of(2))?;
        } else {
            let mut data = vec![0; ((end - start) * SECTOR) as usize];
            for (sector, bytes) in (start..end).zip(data.chunks_mut(SECTOR as usize)) {
                fill(sector, write, bytes);
            }
            client.write(start * SECTOR, &data, durable)?;
        }
        for sector in self.known(&(start..end)) {
            sector.answered = sector.may_be.len();
            if durable && !zeroes {
                sector.may_be.drain(..sector.answered - 1);
                sector.answered = 1;
            }
        }
        Ok(())
    }

    /// Checks the content after a restart. It is the known content from now on.
    fn check(&mut self, content: &[u8]) {
        for (sector, known) in self.sectors.clone().zip(&mut self.known) {
            let at = (sector * SECTOR) as usize;
            let found = author(sector, &content[at..at + SECTOR as usize]);
            assert!(
                known.may_be.contains(&found),
                "sector {sector} is from write {found}, and may be from {:?}",
                known.may_be
            );
            *known = Sector { may_be: vec![found], answered: 1 };
        }
    }
}

fn start(folder: &Path, random: &mut StdRng) -> Cloned {
    let hydration = random.random_bool(0.5);
    let mut arguments = vec![
        "run",
        "-m",
        "metadata",
        "-d",
        "destination",
        "-s",
        "source",
        "--nbd",
        "unix:socket",
        "--control",
        "none",
    ];
    // Slow enough that hydration lasts for several runs of the daemon.
    arguments.extend(["--hydration-rate", if hydration { "2M" } else { "64k" }]);
    Cloned::start(folder, &arguments)
}

#[test]
fn whatever_was_flushed_survives_kill_9_and_the_rest_is_old_or_new() {
    let kills = env::var("KILLS").ok().map_or(KILLS, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut source = vec![0; (SECTORS * SECTOR) as usize];
    for (sector, bytes) in (0..).zip(source.chunks_mut(SECTOR as usize)) {
        fill(sector, 0, bytes);
    }
    fs::write(path.join("source"), source).unwrap();
    let mut random = StdRng::seed_from_u64(9);
    let parts: Vec<Mutex<Part>> = (0..WRITERS).map(|writer| Part::new(writer).into()).collect();
    let mut complete = 0;
    for kill in 0..kills {
        let daemon = start(path, &mut random);
        let connect = || {
            // The only export also has the empty name.
            NbdClient::connect(&path.join("socket"), "").unwrap()
        };
        let mut content = vec![0; (SECTORS * SECTOR) as usize];
        let mut client = connect();
        for (offset, bytes) in (0..).step_by(1 << 20).zip(content.chunks_mut(1 << 20)) {
            client.read(offset, bytes).unwrap();
        }
        for part in &parts {
            part.lock().unwrap().check(&content);
        }
        // At every other kill much has been done, even on a slow machine.
        let answers = if kill % 2 == 0 { 0 } else { random.random_range(0..200) };
        let rest = Duration::from_micros(random.random_range(0..20_000));
        ANSWERED.store(0, Ordering::Relaxed);
        thread::scope(|scope| {
            for part in &parts {
                let mut client = connect();
                scope.spawn(move || part.lock().unwrap().write(&mut client));
            }
            let until = Instant::now() + LONG;
            while ANSWERED.load(Ordering::Relaxed) < answers && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(rest);
            daemon.kill();
        });
        let device = FileDevice::open_read(path.join("metadata")).unwrap();
        let report = read(&device, &());
        assert!(report.damage.is_empty(), "after kill {kill}: {:?}", report.damage);
        drop(device);
        if report.regions.unwrap().hydrated() == REGIONS + 1 {
            // A complete clone has been tested by now. Start a new one.
            complete += 1;
            begin_again(path, &parts);
        }
    }
    let flushes: u64 = parts.iter().map(|part| part.lock().unwrap().flushes).sum();
    eprintln!("{kills} kills, {flushes} flushes, {complete} clones complete");
    assert!(flushes >= kills && complete <= kills / 2, "that proves too little");
}

/// Creates a new clone of the same source.
fn begin_again(path: &Path, parts: &[Mutex<Part>]) {
    for name in ["metadata", "metadata.source.json", "destination"] {
        fs::remove_file(path.join(name)).unwrap();
    }
    for part in parts {
        for sector in &mut part.lock().unwrap().known {
            *sector = Sector { may_be: vec![0], answered: 1 };
        }
    }
}
