//! Requests per second on one core: on the fast path, and through the engine.

use std::hint::black_box;
use std::time::Duration;

use clone_core::engine::{
    Action, Done, Engine, Input, Opened, Operation, Request, RequestId, Settings,
};
use clone_core::geometry::{Geometry, RegionSize, Sectors};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const REGION: u64 = 4096;
const NR_REGIONS: u64 = 1 << 24;

/// A clone of 64 GiB with regions of 4 KiB; all but the last one are hydrated.
fn engine() -> Engine {
    let region_size = RegionSize::new(Sectors(8)).expect("8 sectors are a region size");
    let target_size = Sectors(8 * NR_REGIONS);
    let geometry = Geometry::new(region_size, target_size).expect("a clone of this size");
    let opened = Opened { geometry, metadata_used: 10, metadata_total: 10_000 };
    let mut settings = Settings::default();
    settings.options.hydration = false;
    let words = (0..NR_REGIONS / 64)
        .map(|index| if index == NR_REGIONS / 64 - 1 { u64::MAX >> 1 } else { u64::MAX });
    Engine::new(opened, words, settings)
}

/// Regions far apart from each other; never the last one of the clone.
fn regions() -> impl Iterator<Item = u64> {
    (0u64..).map(|step| step.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (NR_REGIONS - 1))
}

fn short_way(criterion: &mut Criterion) {
    let engine = engine();
    let lane = engine.fast_path().lane();
    let mut group = criterion.benchmark_group("short way");
    group.throughput(Throughput::Elements(1));
    let mut regions = regions();
    group.bench_function("random 4 KiB", |bencher| {
        bencher.iter(|| {
            let at = regions.next().unwrap_or(0) * REGION;
            assert!(black_box(lane.pass(&(at..at + REGION))).is_some());
        });
    });
    group.bench_function("1 MiB, 256 regions", |bencher| {
        let mut at = 0;
        bencher.iter(|| {
            at = (at + (1 << 20)) % ((NR_REGIONS - 512) * REGION);
            assert!(black_box(lane.pass(&(at..at + (1 << 20)))).is_some());
        });
    });
    group.finish();
}

fn complete(criterion: &mut Criterion) {
    let mut engine = engine();
    let lane = engine.fast_path().lane();
    let mut actions = Vec::new();
    let last = (NR_REGIONS - 1) * REGION..NR_REGIONS * REGION;
    let write =
        Request { id: RequestId(0), operation: Operation::Write, range: last, durable: false };
    engine.handle(Duration::ZERO, Input::Submit(write), &mut actions);
    while let Some(action) = actions.pop() {
        if let Action::Start { op, .. } = action {
            let done = Input::Done { op, result: Ok(Done::Plain) };
            engine.handle(Duration::ZERO, done, &mut actions);
        }
    }
    assert!(engine.fast_path().is_complete());
    let mut regions = regions();
    let mut group = criterion.benchmark_group("short way of a complete clone");
    group.throughput(Throughput::Elements(1));
    group.bench_function("random 4 KiB", |bencher| {
        bencher.iter(|| {
            let at = regions.next().unwrap_or(0) * REGION;
            assert!(black_box(lane.pass(&(at..at + REGION))).is_some());
        });
    });
    group.finish();
}

fn through_the_engine(criterion: &mut Criterion) {
    let mut engine = engine();
    let mut group = criterion.benchmark_group("through the engine");
    group.throughput(Throughput::Elements(1));
    let (mut regions, mut actions, mut id) = (regions(), Vec::new(), 0);
    group.bench_function("read of 4 KiB and its end", |bencher| {
        bencher.iter(|| {
            let at = regions.next().unwrap_or(0) * REGION;
            id += 1;
            let range = at..at + REGION;
            let request =
                Request { id: RequestId(id), operation: Operation::Read, range, durable: false };
            engine.handle(Duration::ZERO, Input::Submit(request), &mut actions);
            let Some(Action::Start { op, .. }) = actions.pop() else { unreachable!("one read") };
            let done = Input::Done { op, result: Ok(Done::Plain) };
            engine.handle(Duration::ZERO, done, &mut actions);
            assert!(matches!(actions.pop(), Some(Action::Answer { result: Ok(()), .. })));
        });
    });
    group.finish();
}

/// A clone with no hydrated region: the cost of one copy must not grow with the size of the clone.
fn hydration(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hydration of a fresh clone");
    group.throughput(Throughput::Elements(1));
    for nr_regions in [1 << 26, 1 << 30] {
        let region_size = RegionSize::new(Sectors(8)).expect("8 sectors are a region size");
        let geometry = Geometry::new(region_size, Sectors(8 * nr_regions)).expect("such a clone");
        let opened = Opened { geometry, metadata_used: 10, metadata_total: 10_000 };
        let mut engine = Engine::new(opened, [], Settings::default());
        let mut actions = Vec::new();
        engine.handle(Duration::ZERO, Input::Tick, &mut actions);
        group.bench_function(format!("a copy of one of {nr_regions} regions"), |bencher| {
            bencher.iter(|| {
                // Fetch and store of one copy; the end of the store begins the next copy.
                for _ in 0..2 {
                    let started = actions.drain(..).find_map(|action| match action {
                        Action::Start { op, .. } => Some(op),
                        _ => None,
                    });
                    let op = started.expect("a copy is always under way");
                    let done = Input::Done { op, result: Ok(Done::Plain) };
                    engine.handle(Duration::ZERO, done, &mut actions);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, short_way, complete, through_the_engine, hydration);
criterion_main!(benches);
