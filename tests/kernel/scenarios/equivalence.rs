//! The project's engine beside the kernel's target: the same script on the same devices must give
//! the same results.
//!
//! Requests are sent one after the other, and only their own effects are compared: results of
//! reads, the content of the destination, the hydrated regions, and the status line, word for word.
//! The engine is set to discard like the kernel, which is not its default.

use std::fs;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use clone_core::engine::Discards;

use crate::content::{Run, SOURCE, ZEROES, authors_of};
use crate::context::Context;
use crate::data::{DataClone, expect_authors};
use crate::guest::Status;
use crate::images::Images;
use crate::life::{Life, Step, Told};
use crate::ours::{self, Ways};
use crate::requests::Requests;
use crate::script::{Op, Regions};
use crate::vm::Vm;

pub(super) const SHOWS: &str =
    "the engine gives, writes, hydrates and tells what the kernel does, request by request";

/// The time of background copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Never.
    Rest,
    /// All of them, between two requests.
    Between,
    /// While requests are in flight. There are no discards then: in the kernel, a copy in flight
    /// may land after them.
    Beside,
}

/// Kinds of clones, each with random sizes and a random script.
const CASES: &[(Pace, bool)] = &[
    (Pace::Rest, true),
    (Pace::Between, true),
    (Pace::Beside, true),
    (Pace::Rest, false),
    (Pace::Between, false),
    (Pace::Rest, true),
    (Pace::Between, true),
    (Pace::Beside, false),
    (Pace::Rest, false),
    (Pace::Between, true),
];

/// One more kind: regions whose bits take two blocks, and that only requests hydrate.
const LARGE: Regions = Regions { size: 8, target: 33_000 * 8 + 3 };

/// Sector from which on both devices of a large clone hold zeroes, so that the files have holes.
const FILLED: usize = 10_000;

/// Counts of operations and outcomes.
#[derive(Default)]
struct Seen {
    operations: usize,
    reads: usize,
    discards: usize,
    hydrated: u64,
    complete: u64,
}

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut vm = context.vm()?;
    let mut seen = Seen::default();
    let small = CASES.iter().zip(0..).map(|(kind, nr)| Case::new(context, nr, kind));
    for case in small.chain([Case::large(context)]) {
        case.judge(context, &mut vm, &mut seen).with_context(|| {
            let script = context.path(&format!("script{}", case.nr));
            let written = fs::write(&script, case.life.to_string());
            format!("{:?}, {script:?} ({written:?})", case.images.regions())
        })?;
    }
    let Seen { operations, reads, discards, hydrated, complete } = seen;
    context.say(format!(
        "{} clones, {complete} of them hydrated to the end: {operations} operations, {reads} of \
         them reads and {discards} discards; {hydrated} regions",
        CASES.len() + 1
    ));
    ensure!(operations > 300 && reads > 50 && discards > 20 && complete > 3, "that is too little");
    Ok(())
}

/// A clone and its script.
struct Case {
    nr: u64,
    images: Images,
    metadata: u64,
    life: Life,
    ways: Ways,
}

impl Case {
    fn new(context: &Context<'_>, nr: u64, &(pace, passdown): &(Pace, bool)) -> Self {
        let mut rng = Requests::new(LARGE, context.rng(nr));
        let size = 8 << rng.number(0..6);
        let short = rng.number(0..size);
        let target = size * rng.number(3..(8192 / size).min(200)) + short;
        let mut source = vec![SOURCE; target as usize];
        for _ in 0..rng.number(0..5) {
            let begin = rng.number(0..target);
            let end = target.min(begin + rng.number(1..10 * size));
            source[begin as usize..end as usize].fill(ZEROES);
        }
        let images = Images::new(Regions { size, target }, source, passdown);
        Self::of(context, nr, images, pace, &mut rng)
    }

    fn large(context: &Context<'_>) -> Self {
        let nr = CASES.len() as u64;
        let mut source = vec![ZEROES; LARGE.target as usize];
        source[..FILLED].fill(SOURCE);
        let mut images = Images::new(LARGE, source, true);
        images.destination[FILLED..].fill(ZEROES);
        let mut rng = Requests::new(LARGE, context.rng(nr));
        Self::of(context, nr, images, Pace::Rest, &mut rng)
    }

    fn of(
        context: &Context<'_>,
        nr: u64,
        images: Images,
        pace: Pace,
        rng: &mut Requests,
    ) -> Self {
        let features = match (pace == Pace::Beside, images.passes_down()) {
            (true, true) => "0",
            (true, false) => "1 no_discard_passdown",
            (false, true) => "1 no_hydration",
            (false, false) => "2 no_hydration no_discard_passdown",
        };
        let (threshold, batch) = (1 + rng.number(0..40), rng.number(0..20));
        let options =
            format!("{features} 4 hydration_threshold {threshold} hydration_batch_size {batch}");
        let requests = &mut Requests::new(images.regions(), context.rng(nr << 32));
        let mut steps = steps(requests, pace);
        // Reads all of it, or the nonzero part of a large one.
        steps.push(Step::Io(vec![Op::Read(0..images.regions().target.min(FILLED as u64))]));
        Self {
            nr,
            images,
            metadata: [256, 2048, 10_000][rng.number(0..3) as usize],
            life: Life { options, steps },
            ways: Ways {
                copy_bytes: [64 << 10, 256 << 10, 4 << 20][rng.number(0..3) as usize],
                discards: Discards::AsKernel,
            },
        }
    }

    fn judge(&self, context: &Context<'_>, vm: &mut Vm, seen: &mut Seen) -> Result<()> {
        let Self { nr, images, metadata, life, ways } = self;
        let files = |who| DataClone::of(context, &format!("{who}{nr}"), images, *metadata);
        let (theirs, ours) = (files("theirs")?, files("ours")?);
        let (by_kernel, by_engine) = thread::scope(|scope| {
            let engine = scope.spawn(|| ours::live(&ours, life, *ways));
            let kernel = vm.live(&theirs, &format!("clone{nr}"), life);
            (kernel, engine.join().expect("the engine does not panic"))
        });
        let (by_kernel, by_engine) =
            (by_kernel.context("the kernel")?, by_engine.context("the engine")?);
        let mut after = images.clone();
        let reads = life.foretell(&mut after);
        for (who, told, files) in
            [("the kernel", &by_kernel, &theirs), ("the engine", &by_engine, &ours)]
        {
            expect(context, life, told, &reads, &after, files).context(who)?;
        }
        ensure!(
            by_kernel == by_engine,
            "the kernel says {:?}, the engine {:?}",
            by_kernel.status,
            by_engine.status
        );
        theirs.remove()?;
        ours.remove()?;
        let hydrated = after.hydrated.iter().filter(|hydrated| **hydrated).count();
        seen.operations += life.ops().count();
        seen.reads += reads.len();
        seen.discards += life.ops().filter(|op| matches!(op, Op::Discard(_))).count();
        seen.hydrated += hydrated as u64;
        seen.complete += u64::from(hydrated == after.hydrated.len());
        Ok(())
    }
}

/// Returns requests, with messages between them.
fn steps(requests: &mut Requests, pace: Pace) -> Vec<Step> {
    let mut steps = Vec::new();
    let message = |text: String| Step::Message(text);
    let finish = requests.number(1..6);
    for nr in 0..6 {
        if nr == finish && pace != Pace::Rest {
            steps.push(message("enable_hydration".into()));
            let threshold = 1 + requests.number(0..20);
            steps.push(message(format!("hydration_threshold {threshold}")));
            steps.push(Step::Finish);
        }
        let count = requests.number(5..12);
        steps.push(Step::Io(requests.ops(count, pace != Pace::Beside)));
        steps.extend(match requests.number(0..5) {
            0 => vec![message(format!("hydration_batch_size {}", requests.number(0..40)))],
            1 => vec![message(format!("HYDRATION_THRESHOLD {}", requests.number(0..40)))],
            2 if pace != Pace::Beside => vec![message("disable_hydration".into())],
            // Hydration is enabled, but copies nothing.
            3 if pace == Pace::Rest => {
                let idle = requests.ops(4, true);
                let threshold = |regions| message(format!("hydration_threshold {regions}"));
                let (on, off) = ("enable_hydration".into(), "disable_hydration".into());
                let (on, off) = (message(on), message(off));
                vec![threshold(0), on, Step::Io(idle), off, threshold(requests.number(1..30))]
            }
            _ => Vec::new(),
        });
    }
    steps
}

/// Checks the results of a life against the expected ones.
fn expect(
    context: &Context<'_>,
    life: &Life,
    told: &Told,
    reads: &[Vec<Run>],
    after: &Images,
    files: &DataClone,
) -> Result<()> {
    life.expect(told, reads)?;
    context.tools.expect_status(&files.metadata, &Status::parse(&told.status)?)?;
    context.tools.expect_hydrated(&files.metadata, &after.hydrated)?;
    let destination = authors_of(&files.destination)?;
    expect_authors(&destination, &after.destination, after.regions()).context("the destination")?;
    let source = authors_of(&files.source)?;
    expect_authors(&source, &after.source, after.regions()).context("the source")
}
