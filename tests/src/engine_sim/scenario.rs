//! Scenarios in which users could wait too long, with parameters drawn from a seed. The bounds
//! follow from the parameters.

use clone_core::dm_target::{Message, Options};
use clone_core::engine::{Command, Operation, Settings};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::line::Discipline;
use super::timed::{Delay, MS, SECOND, Setup, Timed, Turn};

/// 24 Mbit/s, in bytes per second.
const SLOW_LINE: u64 = 3_000_000;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The least that the engine copies in one operation, in bytes.
const PIECE_MIN: u64 = 64 * KIB;
/// The longest pause of hydration while users are active, in nanoseconds.
const REST: u64 = 105 * MS;

fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

/// A clone with a near, fast source, set up as `cloned` does it.
fn near(region: u64, regions: u64) -> Setup {
    let settings = Settings { copy_bytes: MIB, copies: 4, ..Settings::default() };
    let mut setup = Setup {
        region,
        regions,
        settings,
        discipline: Discipline::Shared,
        line: 1_000_000_000,
        latency: MS,
        destination: MS / 5,
        destination_rate: 1_000_000_000,
        flush: 5 * MS,
        commit: 2 * MS,
    };
    set_batch(&mut setup);
    setup
}

/// Sets the batch size and threshold that `cloned` would choose.
fn set_batch(setup: &mut Setup) {
    let Settings { copy_bytes, copies, .. } = setup.settings;
    let batch = (copy_bytes / setup.region).max(1) as u32;
    setup.settings.options = Options {
        hydration_batch_size: batch,
        hydration_threshold: batch * copies,
        ..Options::default()
    };
}

/// A clone whose source is behind a slow line, set up as `cloned` does it.
fn far(rng: &mut StdRng) -> Setup {
    let region = pick(rng, &[4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB]);
    let mut setup = near(region, 64 * MIB / region);
    setup.settings.copy_bytes = 2 * MIB;
    setup.settings.copies = 16;
    setup.settings.hydrate_on_read = rng.random_bool(0.5);
    setup.discipline = pick(rng, &[Discipline::InOrder, Discipline::Shared]);
    setup.line = SLOW_LINE;
    setup.latency = pick(rng, &[MS, 10 * MS, 30 * MS, 50 * MS]);
    set_batch(&mut setup);
    setup
}

/// Results for users on a slow line beside hydration, and for hydration without users.
#[derive(Clone, Debug)]
pub struct SlowLine {
    /// Median duration of the reads, in nanoseconds.
    pub median: u64,
    /// Upper bound for the median in nanoseconds: 0.15 s, plus the transfer time of a whole region
    /// if a read fetches one.
    pub median_max: u64,
    /// Duration of the longest read, in nanoseconds.
    pub longest: u64,
    /// Number of reads.
    pub reads: usize,
    /// Parameters of this run, as text.
    pub setup: String,
    /// Share of the line's rate that hydration used without users, from its beginning to its end.
    pub used_alone: f64,
}

/// A user reads regions that are not hydrated over a line of 24 Mbit/s that hydration uses too;
/// then the same clone is hydrated without users.
pub fn run_on_slow_line(seed: u64, delay: Option<Delay>) -> SlowLine {
    let mut rng = StdRng::seed_from_u64(seed);
    let setup = far(&mut rng);
    let hydrates = setup.settings.hydrate_on_read;
    let think = pick(&mut rng, &[0, 20 * MS, 200 * MS, 2 * SECOND]);
    let size = setup.region * setup.regions;
    let mut beside = Timed::new(setup, delay);
    let mut waits = false;
    beside.run(12 * SECOND, 1, true, &mut |timed, _| {
        waits = !waits;
        if waits {
            return Turn::Wait(rng.random_range(0..=think));
        }
        for _ in 0..1000 {
            let at = rng.random_range(0..size / (4 * KIB)) * 4 * KIB;
            if !timed.is_hydrated(&(at..at + 4 * KIB)) {
                return Turn::Ask(Operation::Read, at..at + 4 * KIB);
            }
        }
        Turn::Leave
    });
    let mut took = beside.took;
    took.sort_unstable();
    let mut alone = Timed::new(setup, delay);
    alone.run(600 * SECOND, 0, true, &mut |_, _| Turn::Leave);
    let end = alone.hydrated_at.unwrap_or(u64::MAX);
    SlowLine {
        median: took.get(took.len() / 2).copied().unwrap_or(0),
        median_max: 150 * MS + if hydrates { alone.line.cost(setup.region) } else { 0 },
        longest: took.last().copied().unwrap_or(0),
        reads: took.len(),
        setup: format!(
            "regions of {} KiB, a line that serves {:?}, answers after {} ms, hydrate_on_read {}, \
             up to {} ms between reads",
            setup.region / KIB,
            setup.discipline,
            setup.latency / MS,
            hydrates,
            think / MS
        ),
        used_alone: alone.line.cost(size) as f64 / end as f64,
    }
}

/// A duration and its upper bound.
#[derive(Clone, Copy, Debug)]
pub struct Bounded {
    /// Duration in nanoseconds; `None` if it did not end.
    pub took: Option<u64>,
    /// Upper bound in nanoseconds.
    pub most: u64,
}

impl Bounded {
    /// Returns whether the bound holds.
    pub fn is_kept(&self) -> bool {
        self.took.is_some_and(|took| took <= self.most)
    }
}

/// A user sends a request to a region of 32 MiB, or to the one beside it, while the first is being
/// copied in the background at a rate of 2 MiB/s. The request waits for operations in flight and
/// for the region, piece by piece at the speed of the devices, and not for the rate.
pub fn run_beside_large_region(seed: u64, delay: Option<Delay>) -> Bounded {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut setup = near(32 * MIB, 4);
    setup.settings.copy_bytes = pick(&mut rng, &[PIECE_MIN, MIB, 4 * MIB]);
    setup.settings.copies = pick(&mut rng, &[1, 4, 16]);
    setup.settings.hydration_rate = Some(2 * MIB);
    setup.settings.hydrate_on_read = rng.random_bool(0.5);
    set_batch(&mut setup);
    let region = rng.random_range(0..2) * setup.region;
    let at = region + rng.random_range(0..setup.region / (4 * KIB)) * 4 * KIB;
    let (part, whole) = (at..at + 4 * KIB, region..region + setup.region);
    let zeroes = Operation::WriteZeroes { deallocate: true };
    let wishes = [
        (Operation::Write, part.clone()),
        (zeroes, part.clone()),
        (Operation::Read, part.clone()),
        (Operation::Hydrate, part),
        (zeroes, whole.clone()),
        (Operation::Discard, whole),
    ];
    let (operation, range) = wishes[rng.random_range(0..wishes.len())].clone();
    let begins = rng.random_range(0..10 * SECOND);
    let is_switched_off = rng.random_bool(0.3);
    let mut timed = Timed::new(setup, delay);
    let mut turns = [0, 0];
    timed.run(60 * SECOND, 2, false, &mut |_, user| {
        turns[user] += 1;
        match (user, turns[user]) {
            (_, 1) => Turn::Wait(begins + MS * user as u64),
            (0, 2) => Turn::Ask(operation, range.clone()),
            (1, 2) if is_switched_off => Turn::Tell(Command::Kernel(Message::DisableHydration)),
            _ => Turn::Leave,
        }
    });
    Bounded {
        took: timed.took.first().copied(),
        most: 2 * setup.copy_time(setup.region, PIECE_MIN),
    }
}

/// Two clients write and flush in a loop while hydration ends. After the last region is hydrated,
/// only the commit round in flight and the round of the last regions remain.
pub fn run_flushes(seed: u64, delay: Option<Delay>) -> Bounded {
    let mut rng = StdRng::seed_from_u64(seed);
    let regions = rng.random_range(1..=64);
    let mut setup = near(64 * KIB, regions);
    setup.flush = rng.random_range(MS..=20 * MS);
    setup.commit = rng.random_range(MS / 10..=20 * MS);
    let users = rng.random_range(1..=4);
    let mut timed = Timed::new(setup, delay);
    let mut turns = vec![0; users];
    timed.run(30 * SECOND, users, true, &mut |_, user| {
        turns[user] += 1;
        let at = rng.random_range(0..regions * 16) * 4 * KIB;
        let think = rng.random_range(0..=MS);
        match turns[user] % 3 {
            0 => Turn::Wait(think),
            1 => Turn::Ask(Operation::Write, at..at + 4 * KIB),
            _ => Turn::Ask(Operation::Flush, 0..0),
        }
    });
    let (hydrated, finished) = (timed.hydrated_at, timed.finished_at);
    Bounded {
        took: hydrated.zip(finished).map(|(hydrated, finished)| finished - hydrated),
        most: 2 * (setup.flush + setup.commit),
    }
}

/// Progress of hydration beside active users.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    /// Number of background copies that were begun.
    pub copies: u64,
    /// Lower bound for `copies`.
    pub least: u64,
}

/// Users read regions that are not hydrated for two seconds, so that their copies never leave a
/// gap. Each background copy takes its time, and is followed by the longest allowed pause.
pub fn run_beside_readers(seed: u64, delay: Option<Delay>) -> Beside {
    let mut rng = StdRng::seed_from_u64(seed);
    let region = pick(&mut rng, &[4 * KIB, 64 * KIB, MIB]);
    let mut setup = near(region, 16 << 30 >> region.trailing_zeros());
    setup.settings.hydrate_on_read = true;
    setup.latency = pick(&mut rng, &[MS, 5 * MS, 20 * MS]);
    let users = rng.random_range(2..=12);
    let size = setup.region * setup.regions;
    let mut timed = Timed::new(setup, delay);
    // Background copies that begin before the users' reads do not count.
    let (mut before, mut begun_at, mut turns) = (0, 0, vec![0; users]);
    timed.run(2 * SECOND, users, true, &mut |timed, user| {
        turns[user] += 1;
        if turns[user] == 1 {
            return Turn::Wait(MS + rng.random_range(0..=setup.latency));
        }
        if turns[0] == 10 && before == 0 {
            (before, begun_at) = (timed.background, timed.now);
        }
        let at = rng.random_range(0..size / (4 * KIB)) * 4 * KIB;
        Turn::Ask(Operation::Read, at..at + 4 * KIB)
    });
    // The users' fetches share the line meanwhile.
    let piece = setup.settings.copy_bytes;
    let longest = setup.copy_time(piece, piece) + users as u64 * timed.line.cost(piece);
    let passed = 2 * SECOND - begun_at;
    Beside { copies: timed.background - before, least: (passed / (REST + longest)).max(1) - 1 }
}
