//! A clone as a state machine: [events](Event) in, [actions](Action) out.
//!
//! It starts no thread, reads no clock and touches no device: whoever drives it does, and so it
//! runs the same in a daemon, in a tool and under a simulator. Times are given with each event,
//! as what has passed since some beginning.
//!
//! # How it keeps data safe
//!
//! - A region that is not hydrated belongs to the source. It is changed on the destination only
//!   under a *claim*, and there is one claim on it at a time: `claim.rs`.
//! - Its bit is set in memory at the end of the claim, when all of its bytes have landed. From then
//!   on it belongs to the destination.
//! - Its bit is committed in a *round*: the destination is flushed, and then the bits are committed
//!   that were set before the flush began: `round.rs`. Flushes and durable writes are answered by
//!   the end of a round that began after them.
//! - After a failed flush or commit nothing is marked any more, and what was not committed is taken
//!   back, as a crash would.
//!
//! # How fast it is
//!
//! Requests to hydrated regions do not come by here: they take a [`Lane`].

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

pub use self::api::action::{Action, CopyId, Io, OpId, Overlay, OverlayBytes};
pub use self::api::command::{Command, CommandError};
pub use self::api::event::{Done, Event, Failure};
pub use self::api::notice::{Happening, Notice};
pub use self::api::request::{ByteRange, Device, Operation, Request, RequestError, RequestId};
pub use self::api::settings::{Discards, Settings};
use self::regions::claim::{ClaimId, Claims};
pub use self::regions::failed_regions::SetAside;
pub use self::regions::fast_path::{Front, Lane, Pass};
use self::regions::map::Map;
pub use self::regions::region_set::RegionSet;
use self::trace::Recorder;
pub use self::trace::{Trace, TraceError};
use self::work::buffer_budget::Buffers;
use self::work::commit::Rounds;
use self::work::hydration::Hydration;
use self::work::prefetch::Wanted;
use self::work::readahead::Streams;
use self::work::requests::{Pending, Sizes};
use self::work::window::Window;
use crate::dm_target::{Figures, Message, Mode as ToldMode, Status};
use crate::geometry::{Geometry, SECTOR_SIZE};

mod api;
mod regions;
pub mod trace;
mod work;

/// The least that is copied in one go, whatever the settings say.
const CHUNK_MIN: u64 = 64 << 10;

/// What a clone begins with: its metadata as it was opened.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its sizes.
    pub geometry: Geometry,
    /// Blocks of the metadata device in use.
    pub metadata_used: u64,
    /// Blocks of the metadata device.
    pub metadata_total: u64,
}

/// Whether regions can become hydrated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    ReadWrite,
    ReadOnly,
    Failed,
}

/// Whether requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Running,
    Suspending,
    Suspended,
}

/// What an operation is for.
#[derive(Clone, Debug)]
enum Op {
    /// A part of a request that changes no bit; with the bytes that it changes, if it does.
    Part {
        request: RequestId,
        changes: Option<ByteRange>,
    },
    /// A part of a request that makes regions hydrated.
    Overwrite {
        request: RequestId,
        claim: ClaimId,
    },
    /// Reading a chunk of a copy.
    Fetch {
        claim: ClaimId,
        copy: CopyId,
    },
    /// Writing it.
    Store {
        claim: ClaimId,
        copy: CopyId,
    },
    Flush,
    Commit,
    Abort,
}

/// A clone.
#[derive(Debug)]
pub struct Engine {
    front: Arc<Front>,
    geometry: Geometry,
    sizes: Sizes,
    settings: Settings,
    /// The most bytes in one buffer.
    chunk_bytes: u64,
    /// The most bytes in buffers of either share.
    share_bytes: u64,
    mode: Mode,
    rest: Rest,
    /// Whether to go on as soon as the clone has come to rest.
    resume_then: bool,
    /// `None` when all is hydrated and committed.
    map: Option<Arc<Map>>,
    hydrated: u64,
    metadata_used: u64,
    metadata_total: u64,
    requests: HashMap<RequestId, Pending>,
    /// Requests of them that read or change data.
    users: u64,
    /// Requests that came while the clone was not running.
    held: VecDeque<Request>,
    ops: HashMap<OpId, Op>,
    next_op: u64,
    next_copy: u64,
    claims: Claims,
    buffers: Buffers,
    window: Window,
    rounds: Rounds,
    hydration: Hydration,
    wanted: Wanted,
    streams: Streams,
    is_recording: bool,
    recorder: Option<Recorder>,
    notices: u64,
    now: Duration,
    /// What was decided in the event at hand.
    actions: Vec<Action>,
}

impl Engine {
    /// A clone with these regions hydrated, as words of 64 bits, lowest region in the lowest bit
    /// of the first. It runs from the first event on.
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
            front: Arc::new(Front::new(geometry, Some(map.clone()))),
            geometry,
            sizes,
            settings,
            chunk_bytes,
            share_bytes,
            mode: Mode::ReadWrite,
            rest: Rest::Running,
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
            buffers: Buffers::default(),
            window: Window::new(share_bytes, copies),
            rounds: Rounds::default(),
            hydration,
            wanted: Wanted::default(),
            streams: Streams::default(),
            is_recording: false,
            recorder: None,
            notices: 0,
            now: Duration::ZERO,
            actions: Vec::new(),
        }
    }

    /// The short way past the engine.
    pub fn front(&self) -> &Arc<Front> {
        &self.front
    }

    /// Takes in what happened at `now`, and adds what is to be done to `actions`.
    ///
    /// Times never go back.
    ///
    /// # Panics
    /// If an operation ends that is not under way, or a request has the number of one that is.
    pub fn handle(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.actions = mem::take(actions);
        match event {
            Event::Submit(request) => self.submit(request),
            Event::Done { op, result } => self.done(op, result),
            Event::Tick => {}
            Event::Command(command) => self.command(command),
            Event::SourceChanged { reason } => self.source_changed(reason),
            Event::Suspend => self.suspend(),
            Event::Resume => self.resume(),
        }
        self.go_on();
        if self.rest_if_idle() {
            self.go_on();
        }
        *actions = mem::take(&mut self.actions);
    }

    /// When it wants [`Event::Tick`], if nothing else happens before.
    pub fn next_tick(&self) -> Option<Duration> {
        let round = self.rounds.due().filter(|_| self.mode == Mode::ReadWrite);
        [round, self.hydration_due(), self.rest_due()].into_iter().flatten().min()
    }

    /// What it tells of itself now. The kernel target commits before it does: see
    /// [`Operation::Commit`].
    pub fn status(&self) -> Status {
        let mode = match self.mode {
            Mode::ReadWrite => ToldMode::ReadWrite,
            Mode::ReadOnly => ToldMode::ReadOnly,
            Mode::Failed => return Status::Fail,
        };
        Status::Running(Figures {
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

    /// What is set now.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether it is at rest: suspended, with nothing under way.
    pub fn is_suspended(&self) -> bool {
        self.rest == Rest::Suspended
    }

    /// What was read since [`Command::Record`] was last switched on.
    pub fn trace(&self) -> Option<&Trace> {
        self.recorder.as_ref().map(Recorder::trace)
    }

    /// Begins what can be begun.
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
                // The regions may have been taken back meanwhile: then nobody will see the change.
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
            Command::Hydrate(range) => self.want(&range),
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

    fn tell(&mut self, what: Happening) {
        self.notices += 1;
        self.actions.push(Action::Tell(Notice { number: self.notices, what }));
    }
}

#[cfg(test)]
mod tests;
