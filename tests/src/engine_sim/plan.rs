//! The plan of a run, drawn from its seed. Each run leaves out some operations and faults, so that
//! they cannot hide the effects of others.

use clone_core::dm_target::Options;
use clone_core::engine::{Discards, Settings};
use clone_core::geometry::{Geometry, RegionSize, Sectors};
use rand::RngExt;
use rand::rngs::StdRng;

use super::unit::{CELL, SECTOR};

/// The kind of a client's next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Read,
    Write,
    Zero,
    Discard,
    Hydrate,
    Flush,
    Commit,
}

/// Latency of operations, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    /// Upper bound for most operations.
    pub(super) usual: u64,
    /// Upper bound for the few that stall.
    pub(super) stall: u64,
    /// One operation in this many stalls.
    pub(super) stalls_one_in: u32,
    /// Factor by which operations on the source take longer.
    pub(super) source: u64,
    /// Share of operations that land in pieces.
    pub(super) pieces: f64,
}

/// Rates of injected faults.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// Number of spots of the source that cannot be read.
    pub(super) source_spots: u32,
    /// True if some of them never become readable.
    pub(super) source_for_ever: bool,
    /// One in so many reads of the destination fails; 0 for none.
    pub(super) destination_reads: u32,
    /// One in so many writes to the destination fails; 0 for none.
    pub(super) destination_writes: u32,
    /// One in so many flushes of the destination fails; 0 for none.
    pub(super) destination_flushes: u32,
    /// One in so many commits meets a failing operation of the metadata device; 0 for none.
    pub(super) commits: u32,
    /// One in so many aborts fails; 0 for none.
    pub(super) aborts: u32,
}

/// The way in which a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Every request is answered.
    Rest,
    /// The power is cut after this many actions have begun.
    PowerCut(u32),
    /// The power is cut during a commit, after this many commits.
    PowerCutInCommit(u32),
    /// The process that runs the clone is killed after this many actions have begun; its devices
    /// survive.
    Kill(u32),
}

/// The plan of one round, from opening a clone to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundPlan {
    pub(super) requests: u32,
    /// True if hydration completes the clone after all requests are answered.
    pub(super) finishes: bool,
    pub(super) ending: Ending,
    pub(super) faults: Faults,
}

/// The plan of a run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) geometry: Geometry,
    /// Cells per region.
    pub(super) region: usize,
    /// Cells of the clone.
    pub(super) clone: usize,
    /// Cells behind the end of the clone, which must not change.
    pub(super) guard: usize,
    pub(super) settings: Settings,
    /// Maximum number of requests in flight.
    pub(super) slots: usize,
    /// True if the number of a request is reused as soon as it is answered.
    pub(super) reuses_numbers: bool,
    /// Number of lanes, and the share of requests that try the fast path.
    pub(super) lanes: usize,
    pub(super) lane_chance: f64,
    pub(super) wishes: Vec<(Wish, u32)>,
    /// Share of requests that go to a few hot regions.
    pub(super) hot: f64,
    pub(super) durable: f64,
    /// Maximum wait of a client between two requests, in nanoseconds.
    pub(super) think: u64,
    /// Share of requests past the end of the clone, and share of empty ones.
    pub(super) past_end: f64,
    pub(super) empty: f64,
    pub(super) latency: Latency,
    pub(super) holes: f64,
    pub(super) slow_source: bool,
    /// Maximum time between two commands, in nanoseconds; 0 for no commands.
    pub(super) commands: u64,
    pub(super) suspends: bool,
    /// Maximum delay of a tick, in nanoseconds.
    pub(super) late: u64,
    pub(super) rounds: Vec<RoundPlan>,
}

const MS: u64 = 1_000_000;

fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

/// Draws the cells per region, and the number of regions.
fn sizes(rng: &mut StdRng) -> (usize, usize) {
    match rng.random_range(0..20) {
        0 => (64, 1),
        1..=8 => (64, rng.random_range(1..=12)),
        9..=13 => (64, rng.random_range(1..=70)),
        14 => (64, rng.random_range(1..=600)),
        15 | 16 => (pick(rng, &[128, 256, 512]), rng.random_range(1..=24)),
        17 | 18 => (pick(rng, &[1024, 2048]), rng.random_range(1..=6)),
        _ => (pick(rng, &[2048, 4096]), rng.random_range(1..=4)),
    }
}

impl Plan {
    pub(super) fn new(rng: &mut StdRng) -> Self {
        let (region, regions) = sizes(rng);
        let short = if rng.random_bool(0.6) { rng.random_range(1..=region / SECTOR) } else { 0 };
        let clone = region * regions - (short % (region / SECTOR)) * SECTOR;
        let sectors = |cells: usize| Sectors((cells / SECTOR) as u64);
        let region_size = RegionSize::new(sectors(region)).expect("a region size");
        let geometry = Geometry::new(region_size, sectors(clone)).expect("a geometry");
        let settings = settings(rng, region as u64 * CELL);
        let latency = latency(rng);
        let slots = pick(rng, &[1, 2, 4, 8, 16, 32, 48]);
        Self {
            geometry,
            region,
            clone,
            guard: region + rng.random_range(0..=2 * region),
            settings,
            slots,
            reuses_numbers: rng.random_bool(0.3),
            lanes: rng.random_range(0..=3),
            lane_chance: pick(rng, &[0.2, 0.9, 1.0]),
            wishes: wishes(rng),
            hot: pick(rng, &[0.0, 0.5, 0.9]),
            durable: pick(rng, &[0.0, 0.05, 0.3]),
            think: pick(rng, &[0, 0, MS / 10, 20 * MS, 2000 * MS]),
            past_end: pick(rng, &[0.0, 0.0, 0.01]),
            empty: pick(rng, &[0.0, 0.0, 0.01]),
            latency,
            holes: pick(rng, &[0.0, 0.0, 0.2, 0.6]),
            slow_source: rng.random_bool(0.2),
            commands: pick(rng, &[0, 0, 20, 100, 1000]) * latency.usual,
            suspends: rng.random_bool(0.4),
            late: pick(rng, &[0, 0, MS / 10, 100 * MS]),
            rounds: rounds(rng, clone > 6000),
        }
    }

    /// Reduces the plan to one round of constant reads, with several in flight and nothing that
    /// blocks hydration.
    pub(super) fn make_busy(&mut self) {
        let options = Options { hydration_threshold: 4, ..Options::default() };
        self.settings =
            Settings { options, hydrate_on_read: false, hydration_rate: None, ..self.settings };
        self.latency = Latency { usual: MS, stall: MS, source: 1, ..self.latency };
        self.wishes = vec![(Wish::Read, 1)];
        self.slots = self.slots.clamp(4, 8);
        (self.think, self.late, self.commands) = (0, 0, 0);
        (self.past_end, self.empty) = (0.0, 0.0);
        (self.lane_chance, self.holes, self.slow_source) = (1.0, 0.0, false);
        let faults = Faults::default();
        let requests = if self.clone > 6000 { 300 } else { 1000 } * self.slots as u32;
        self.rounds = vec![RoundPlan { requests, finishes: false, ending: Ending::Rest, faults }];
    }
}

fn settings(rng: &mut StdRng, region_bytes: u64) -> Settings {
    let options = Options {
        hydration: rng.random_bool(0.7),
        discard_passdown: rng.random_bool(0.7),
        hydration_threshold: pick(rng, &[0, 1, 1, 2, 5, 16, 1000]),
        hydration_batch_size: pick(rng, &[0, 1, 1, 2, 7, 64, 1000]),
    };
    let rates = [None, None, None, Some(region_bytes / 2), Some(4 << 20)];
    Settings {
        options,
        hydration_rate: pick(rng, &rates),
        hydrate_on_read: rng.random_bool(0.4),
        max_failures: pick(rng, &[0, 1, 3, 16]),
        discards: pick(rng, &[Discards::Zero, Discards::Zero, Discards::AsKernel]),
        copy_bytes: pick(rng, &[64 << 10, 64 << 10, 100 << 10, 256 << 10, 4 << 20]),
        copies: pick(rng, &[1, 2, 4, 16]),
    }
}

fn latency(rng: &mut StdRng) -> Latency {
    Latency {
        usual: pick(rng, &[1000, MS / 10, MS, 10 * MS]),
        stall: pick(rng, &[10 * MS, 200 * MS, 5000 * MS]),
        stalls_one_in: pick(rng, &[20, 200, 2000]),
        source: pick(rng, &[1, 3, 30]),
        pieces: pick(rng, &[0.0, 0.2, 0.6]),
    }
}

/// Draws the kinds of requests and their weights.
fn wishes(rng: &mut StdRng) -> Vec<(Wish, u32)> {
    let all = [
        (Wish::Read, 40),
        (Wish::Write, 40),
        (Wish::Zero, 6),
        (Wish::Discard, 6),
        (Wish::Hydrate, 3),
        (Wish::Flush, 6),
        (Wish::Commit, 2),
    ];
    let left_out = rng.random_range(0..3);
    let mut wishes: Vec<_> =
        all.into_iter().map(|(wish, weight)| (wish, weight * pick(rng, &[1, 1, 2, 4]))).collect();
    for _ in 0..left_out {
        let at = rng.random_range(0..wishes.len());
        wishes.remove(at);
    }
    wishes
}

fn faults(rng: &mut StdRng) -> Faults {
    let mut faults = Faults::default();
    if rng.random_bool(0.3) {
        faults.source_spots = rng.random_range(1..=4);
        faults.source_for_ever = rng.random_bool(0.5);
    }
    match rng.random_range(0..12) {
        0 => faults.destination_reads = 50,
        1 => faults.destination_writes = pick(rng, &[100, 1000]),
        2 => faults.destination_flushes = pick(rng, &[3, 20]),
        3 | 4 => {
            faults.commits = pick(rng, &[2, 10]);
            faults.aborts = pick(rng, &[0, 2]);
        }
        _ => {}
    }
    faults
}

/// Draws the rounds. Large regions get fewer requests, because each request takes longer.
fn rounds(rng: &mut StdRng, is_large: bool) -> Vec<RoundPlan> {
    let nr_rounds = rng.random_range(1..=4);
    let plan = |rng: &mut StdRng, last: bool| {
        let requests = pick(rng, if is_large { &[20, 50, 50, 100] } else { &[20, 100, 100, 400] });
        let actions = rng.random_range(1..=3 * requests);
        let ending = match rng.random_range(0..10) {
            _ if last => Ending::Rest,
            0 => Ending::Rest,
            1..=5 => Ending::PowerCut(actions),
            6 | 7 => Ending::PowerCutInCommit(rng.random_range(0..4)),
            _ => Ending::Kill(actions),
        };
        let finishes = rng.random_bool(if last { 0.8 } else { 0.2 });
        RoundPlan { requests, finishes, ending, faults: faults(rng) }
    };
    (1..=nr_rounds).map(|round| plan(rng, round == nr_rounds)).collect()
}
