//! The clone as a state machine: [events](Input) in, [actions](Action) out.
//!
//! The driver (in the daemon, in a tool or in a simulator) calls [`Engine::handle`] with each event
//! and carries out the actions that it returns. The engine itself starts no thread, reads no clock
//! and touches no device, so it behaves the same under all drivers. Each event carries its time, as
//! a duration since a fixed origin.
//!
//! # Data safety
//!
//! - A region that is not hydrated belongs to the source. The destination of such a region is
//!   changed only under a *claim*, and a region has at most one claim at a time:
//!   `regions/claim.rs`.
//! - The bit of a region is set in memory at the end of its claim, when all of its bytes are on the
//!   destination. From then on the region belongs to the destination.
//! - The bit is committed in a *commit round*: the round flushes the destination and then commits
//!   the bits that were set before the flush began: `work/commit.rs`. The end of a round answers
//!   the flushes and durable writes that arrived before the round began.
//! - After a failed flush or commit no more bits are set, and the uncommitted bits are cleared, as
//!   after a crash.
//!
//! # Performance
//!
//! Requests to hydrated regions bypass the engine: they use the fast path, a [`Lane`].

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

pub use self::api::action::{Action, BufferId, Io, OpId, Overlay, OverlayBytes};
pub use self::api::command::{Command, CommandError};
pub use self::api::event::{Event, EventKind};
pub use self::api::input::{Done, Failure, Input};
pub use self::api::request::{ByteRange, Device, Operation, Request, RequestError, RequestId};
pub use self::api::settings::{Discards, Settings};
use self::regions::claim::{ClaimId, Claims};
pub use self::regions::failed_regions::FailedRegion;
pub use self::regions::fast_path::{FastPath, Lane, Pass};
use self::regions::map::Map;
pub use self::regions::region_set::RegionSet;
use self::trace::Recorder;
pub use self::trace::{Trace, TraceError};
use self::work::buffer_budget::BufferBudget;
use self::work::commit::Commits;
use self::work::hydration::Hydration;
use self::work::prefetch::Prefetch;
use self::work::readahead::Streams;
use self::work::requests::{RequestProgress, Sizes};
use self::work::window::Window;
use crate::dm_target::{Message, Mode as StatusMode, Status, StatusCounts};
use crate::geometry::{Geometry, SECTOR_SIZE};

mod api;
mod regions;
pub mod trace;
mod work;

/// The smallest chunk size, in bytes; smaller settings are raised to it.
const CHUNK_MIN: u64 = 64 << 10;

/// The initial state of a clone, read from its metadata.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Sizes of the clone and its regions.
    pub geometry: Geometry,
    /// Metadata blocks in use.
    pub metadata_used: u64,
    /// Total blocks of the metadata device.
    pub metadata_total: u64,
}

/// The state of the clone, as in the kernel target: regions become hydrated only in `ReadWrite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    ReadWrite,
    ReadOnly,
    Failed,
}

/// The run state: new requests start only in `Running`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunState {
    Running,
    Suspending,
    Suspended,
}

/// The purpose of an operation in flight.
#[derive(Clone, Debug)]
enum Op {
    /// A part of a request that sets no bit. `changes` holds the bytes that it changes, if any.
    Part {
        request: RequestId,
        changes: Option<ByteRange>,
    },
    /// A part of a request that makes regions hydrated.
    Overwrite {
        request: RequestId,
        claim: ClaimId,
    },
    /// Reads a chunk of a copy from the source.
    Fetch {
        claim: ClaimId,
        copy: BufferId,
    },
    /// Writes a chunk of a copy to the destination.
    Store {
        claim: ClaimId,
        copy: BufferId,
    },
    Flush,
    Commit,
    Abort,
}

/// The state machine of one clone.
#[derive(Debug)]
pub struct Engine {
    fast_path: Arc<FastPath>,
    geometry: Geometry,
    sizes: Sizes,
    settings: Settings,
    /// Maximum size of one buffer, in bytes.
    chunk_bytes: u64,
    /// Maximum total size of the buffers in each of the two shares, in bytes.
    share_bytes: u64,
    mode: Mode,
    run_state: RunState,
    /// True if the clone resumes as soon as it is suspended.
    resume_then: bool,
    /// `None` when all regions are hydrated and committed.
    map: Option<Arc<Map>>,
    hydrated: u64,
    metadata_used: u64,
    metadata_total: u64,
    requests: HashMap<RequestId, RequestProgress>,
    /// Number of entries in `requests` that read or change data.
    users: u64,
    /// Requests that arrived while the clone was not running.
    held: VecDeque<Request>,
    ops: HashMap<OpId, Op>,
    next_op: u64,
    next_copy: u64,
    claims: Claims,
    buffers: BufferBudget,
    window: Window,
    commits: Commits,
    hydration: Hydration,
    prefetch: Prefetch,
    streams: Streams,
    is_recording: bool,
    recorder: Option<Recorder>,
    nr_events: u64,
    now: Duration,
    /// Actions decided while the current event is handled.
    actions: Vec<Action>,
}

impl Engine {
    /// Creates a running clone whose hydrated regions are the set bits of `hydrated`: words of 64
    /// bits, with region 0 in the lowest bit of the first word. Work begins with the first event.
    pub fn new(
        opened: Opened,
        hydrated: impl IntoIterator<Item = u64>,
        settings: Settings,
    ) -> Self {
        let Opened { geometry, metadata_used, metadata_total } = opened;
        let map = Arc::new(Map::new(geometry.nr_regions(), hydrated));
        let region_bytes = geometry.region_size().sectors().0 * SECTOR_SIZE;
        let sizes = Sizes {
            size_bytes: geometry.target_size().0 * SECTOR_SIZE,
            region_shift: region_bytes.trailing_zeros(),
            nr_regions: geometry.nr_regions(),
        };
        let chunk_bytes = 1 << settings.copy_bytes.max(CHUNK_MIN).ilog2();
        let copies = settings.copies.max(1);
        let share_bytes = u64::saturating_mul(chunk_bytes, copies.into());
        let mut hydration = Hydration::default();
        hydration.rate.set(settings.hydration_rate);
        Self {
            fast_path: Arc::new(FastPath::new(geometry, Some(map.clone()))),
            geometry,
            sizes,
            settings,
            chunk_bytes,
            share_bytes,
            mode: Mode::ReadWrite,
            run_state: RunState::Running,
            resume_then: false,
            hydrated: map.count(),
            map: Some(map),
            metadata_used,
            metadata_total,
            requests: HashMap::new(),
            users: 0,
            held: VecDeque::new(),
            ops: HashMap::new(),
            next_op: 0,
            next_copy: 0,
            claims: Claims::default(),
            buffers: BufferBudget::default(),
            window: Window::new(share_bytes, copies),
            commits: Commits::default(),
            hydration,
            prefetch: Prefetch::default(),
            streams: Streams::default(),
            is_recording: false,
            recorder: None,
            nr_events: 0,
            now: Duration::ZERO,
            actions: Vec::new(),
        }
    }

    /// Returns the fast path, which bypasses the engine.
    pub fn fast_path(&self) -> &Arc<FastPath> {
        &self.fast_path
    }

    /// Handles an event that happened at `now`, and appends the resulting actions to `actions`.
    ///
    /// A `now` before that of an earlier event counts as the time of that event.
    ///
    /// # Panics
    /// If `event` ends an operation that is not in flight, or submits a request whose id is in use.
    pub fn handle(&mut self, now: Duration, event: Input, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.actions = mem::take(actions);
        match event {
            Input::Submit(request) => self.submit(request),
            Input::Done { op, result } => self.done(op, result),
            Input::Tick => {}
            Input::Command(command) => self.command(command),
            Input::SourceChanged { reason } => self.source_changed(reason),
            Input::Suspend => self.suspend(),
            Input::Resume => self.resume(),
        }
        self.go_on();
        if self.rest_if_idle() {
            self.go_on();
        }
        *actions = mem::take(&mut self.actions);
    }

    /// Returns the time at which [`Input::Tick`] is due if no other event comes first.
    pub fn next_tick(&self) -> Option<Duration> {
        let round = self.commits.due().filter(|_| self.mode == Mode::ReadWrite);
        [round, self.hydration_due(), self.rest_due()].into_iter().flatten().min()
    }

    /// Returns the current status. The kernel target commits before it reports its status: see
    /// [`Operation::Commit`].
    pub fn status(&self) -> Status {
        let mode = match self.mode {
            Mode::ReadWrite => StatusMode::ReadWrite,
            Mode::ReadOnly => StatusMode::ReadOnly,
            Mode::Failed => return Status::Fail,
        };
        Status::Running(StatusCounts {
            metadata_used: self.metadata_used,
            metadata_total: self.metadata_total,
            region_size: self.geometry.region_size(),
            hydrated: self.hydrated,
            regions: self.sizes.nr_regions,
            hydrating: self.claims.nr_regions(),
            options: self.settings.options,
            mode,
        })
    }

    /// Returns the current settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns true if the clone is suspended and nothing is in flight.
    pub fn is_suspended(&self) -> bool {
        self.run_state == RunState::Suspended
    }

    /// Returns the reads recorded since [`Command::Record`] was last switched on.
    pub fn trace(&self) -> Option<&Trace> {
        self.recorder.as_ref().map(Recorder::trace)
    }

    /// Starts all work that can start now.
    fn go_on(&mut self) {
        self.hydrate();
        self.begin_round();
        self.retire_if_complete();
    }

    fn done(&mut self, op: OpId, result: Result<Done, Failure>) {
        let found = self.ops.remove(&op);
        let found = found.unwrap_or_else(|| panic!("operation {} is not under way", op.0));
        match found {
            Op::Part { request, changes } => {
                // The regions may have lost their bits meanwhile; the change is then invisible.
                let is_gone = self.mode != Mode::ReadWrite
                    && changes.is_some_and(|range| !self.is_hydrated(&range));
                let result = match result {
                    Err(failure) => Err(failure.error()),
                    Ok(_) if is_gone => Err(self.mode_error()),
                    Ok(_) => Ok(()),
                };
                self.end_part(request, result);
            }
            Op::Overwrite { request, claim } => self.overwritten(request, claim, result),
            Op::Fetch { claim, copy } => self.fetched(claim, copy, result),
            Op::Store { claim, copy } => self.stored(claim, copy, result),
            Op::Flush => self.flushed(result),
            Op::Commit => self.committed(result),
            Op::Abort => self.aborted(result),
        }
    }

    fn command(&mut self, command: Command) {
        let options = &mut self.settings.options;
        match command {
            Command::Kernel(Message::EnableHydration) => self.set_hydration(true),
            Command::Kernel(Message::DisableHydration) => self.set_hydration(false),
            Command::Kernel(Message::HydrationThreshold(regions)) => {
                options.hydration_threshold = regions;
            }
            Command::Kernel(Message::HydrationBatchSize(regions)) => {
                options.hydration_batch_size = regions;
            }
            Command::HydrationRate(rate) => {
                self.settings.hydration_rate = rate;
                self.hydration.rate.set(rate);
            }
            Command::HydrationLimit(bytes) => self.set_limit(bytes),
            Command::HydrateOnRead(on) => self.settings.hydrate_on_read = on,
            Command::Hydrate(range) => self.prefetch(&range),
            Command::MaxFailures(failures) => self.settings.max_failures = failures,
            Command::Record(on) => {
                if on {
                    self.recorder = Some(Recorder::default());
                }
                self.is_recording = on;
                self.set_gate();
            }
        }
    }

    fn trace_read(&mut self, range: &ByteRange) {
        if let Some(recorder) = self.recorder.as_mut().filter(|_| self.is_recording)
            && range.start < range.end
        {
            recorder.note(&self.sizes, range);
        }
    }

    fn start(&mut self, what: Op, io: Io) -> OpId {
        let op = OpId(self.next_op);
        self.next_op += 1;
        self.ops.insert(op, what);
        self.actions.push(Action::Start { op, io });
        op
    }

    fn emit(&mut self, kind: EventKind) {
        self.nr_events += 1;
        self.actions.push(Action::Emit(Event { number: self.nr_events, kind }));
    }
}

#[cfg(test)]
mod tests;
