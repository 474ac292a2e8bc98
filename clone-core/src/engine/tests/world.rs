//! In-memory devices, on which the test carries out the actions of an engine one by one.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::dm_target::{Status, StatusCounts};
use crate::engine::{
    Action, BufferId, ByteRange, Command, Device, Done, Engine, EventKind, Failure, Input, Io,
    OpId, Opened, Operation, OverlayBytes, RegionSet, Request, RequestError, RequestId, Settings,
};
use crate::geometry::{Geometry, RegionRange, RegionSize, Sectors};

/// Bytes per region.
pub(super) const REGION: u64 = 4096;

/// A clone whose operations end when the test ends them.
pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) now: Duration,
    pub(super) source: Vec<u8>,
    pub(super) destination: Vec<u8>,
    /// Operations in flight, in the order in which they began.
    pub(super) started: VecDeque<(OpId, Io)>,
    /// The log line of each operation that began.
    pub(super) log: Vec<String>,
    pub(super) answers: BTreeMap<u64, Result<(), RequestError>>,
    pub(super) told: Vec<EventKind>,
    pub(super) is_retired: bool,
    pub(super) committed: RegionSet,
    /// Ranges of the source that cannot be read.
    pub(super) bad: Vec<ByteRange>,
    /// Ranges that the source knows to be zeroes.
    pub(super) holes: Vec<ByteRange>,
    /// Operations that fail from now on: the first word of their log lines.
    pub(super) fails: Option<&'static str>,
    buffers: BTreeMap<u64, (u64, Vec<u8>)>,
    copies: BTreeMap<BufferId, (u64, Vec<u8>)>,
    next: u64,
}

impl World {
    /// A clone of `sectors` sectors in regions of 4 KiB. Each byte of its source is the number of
    /// its region, from 1; each byte of its destination is 0xdd.
    pub(super) fn new(sectors: u64, hydrated: RegionRange, settings: Settings) -> Self {
        let region_size = RegionSize::new(Sectors(8)).unwrap();
        Self::with(Geometry::new(region_size, Sectors(sectors)).unwrap(), hydrated, settings)
    }

    /// A clone of `nr_regions` regions of `region_size` sectors.
    pub(super) fn large_regions(region_size: u64, nr_regions: u64, settings: Settings) -> Self {
        let size = RegionSize::new(Sectors(region_size)).unwrap();
        let geometry = Geometry::new(size, Sectors(region_size * nr_regions)).unwrap();
        Self::with(geometry, 0..0, settings)
    }

    fn with(geometry: Geometry, hydrated: RegionRange, settings: Settings) -> Self {
        let bytes = geometry.target_size().0 * 512;
        let source: Vec<u8> = (0..bytes).map(|at| ((at / REGION) as u8).wrapping_add(1)).collect();
        let mut destination = vec![0xdd; bytes as usize];
        let mut words = vec![0u64; geometry.nr_regions().div_ceil(64) as usize];
        for region in hydrated {
            words[(region / 64) as usize] |= 1 << (region % 64);
            let range = geometry.sectors_of(region..region + 1);
            let bytes = (range.start.0 * 512) as usize..(range.end.0 * 512) as usize;
            destination[bytes.clone()].copy_from_slice(&source[bytes]);
        }
        let opened = Opened { geometry, metadata_used: 7, metadata_total: 100 };
        Self {
            engine: Engine::new(opened, words, settings),
            now: Duration::ZERO,
            source,
            destination,
            started: VecDeque::new(),
            log: Vec::new(),
            answers: BTreeMap::new(),
            told: Vec::new(),
            is_retired: false,
            committed: RegionSet::default(),
            bad: Vec::new(),
            holes: Vec::new(),
            fails: None,
            buffers: BTreeMap::new(),
            copies: BTreeMap::new(),
            next: 0,
        }
    }

    /// Settings of a clone without background copies.
    pub(super) fn quiet() -> Settings {
        let mut settings = Settings::default();
        settings.options.hydration = false;
        settings
    }

    /// Sends an event to the engine.
    pub(super) fn event(&mut self, event: Input) {
        let mut actions = Vec::new();
        self.engine.handle(self.now, event, &mut actions);
        for action in actions {
            match action {
                Action::Start { op, io } => {
                    self.log.push(line(&io));
                    self.started.push_back((op, io));
                }
                Action::Promote { op } => {
                    let found = self.started.iter().find(|(started, _)| *started == op);
                    let (_, io) = found.expect("only what is under way is promoted");
                    self.log.push(format!("promote {}", line(io)));
                }
                Action::Give { copy, request, range } => {
                    let bytes = part(&self.copies[&copy], &range).to_vec();
                    self.fill(request, &range, &bytes);
                }
                Action::Release { copy } => {
                    self.copies.remove(&copy);
                }
                Action::Answer { request, result } => {
                    let before = self.answers.insert(request.0, result);
                    assert_eq!(before, None, "request {} was answered twice", request.0);
                }
                Action::Emit(event) => {
                    self.told.push(event.kind);
                    assert_eq!(event.number, self.told.len() as u64);
                }
                Action::Retire => self.is_retired = true,
            }
        }
    }

    pub(super) fn tick(&mut self, now: Duration) {
        self.now = now;
        self.event(Input::Tick);
    }

    pub(super) fn command(&mut self, command: Command) {
        self.event(Input::Command(command));
    }

    /// Submits a request whose data is `fill` in each byte, and returns its id.
    pub(super) fn submit(&mut self, operation: Operation, range: ByteRange, fill: u8) -> u64 {
        self.submit_as(operation, range, fill, false)
    }

    pub(super) fn submit_as(
        &mut self,
        operation: Operation,
        range: ByteRange,
        fill: u8,
        durable: bool,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        let len = range.end - range.start;
        self.buffers.insert(id, (range.start, vec![fill; len as usize]));
        let request = Request { id: RequestId(id), operation, range, durable };
        self.event(Input::Submit(request));
        id
    }

    pub(super) fn write(&mut self, range: ByteRange, fill: u8) -> u64 {
        self.submit(Operation::Write, range, fill)
    }

    pub(super) fn flush(&mut self) -> u64 {
        self.submit(Operation::Flush, 0..0, 0)
    }

    /// Reads `range`, runs all operations, and returns the data.
    pub(super) fn read(&mut self, range: ByteRange) -> Result<Vec<u8>, RequestError> {
        let id = self.submit(Operation::Read, range, 0xee);
        self.run();
        self.answers[&id]?;
        Ok(self.buffers[&id].1.clone())
    }

    /// Ends all operations, and those that follow from them, in order.
    pub(super) fn run(&mut self) {
        while !self.started.is_empty() {
            self.end(0);
        }
    }

    /// Ends all operations, also those that start later, until the clock reaches `until`.
    pub(super) fn run_until(&mut self, until: Duration) {
        self.event(Input::Tick);
        loop {
            self.run();
            match self.engine.next_tick() {
                Some(at) if at <= until => self.tick(at),
                _ => break,
            }
        }
        self.now = until;
    }

    /// Ends the first operation whose log line starts with `begins`.
    pub(super) fn end_first(&mut self, begins: &str) {
        let found = self.started.iter().position(|(_, io)| line(io).starts_with(begins));
        self.end(found.unwrap_or_else(|| panic!("no {begins} in {:?}", self.started)));
    }

    /// Ends the operation at `index` among those in flight.
    pub(super) fn end(&mut self, index: usize) {
        let (op, io) = self.started.remove(index).unwrap();
        let result = self.perform(io);
        self.event(Input::Done { op, result });
    }

    fn perform(&mut self, io: Io) -> Result<Done, Failure> {
        if let Some(word) = self.fails
            && line(&io).starts_with(word)
        {
            let device = match io {
                Io::Commit { .. } | Io::Abort => Device::Metadata,
                _ => Device::Destination,
            };
            return Err(Failure { device, reason: "it was told to".into(), is_full: false });
        }
        match io {
            Io::ReadSource { request, range } => {
                self.read_source(&range)?;
                let bytes = self.source[usizes(&range)].to_vec();
                self.fill(request, &range, &bytes);
            }
            Io::ReadDestination { request, range } => {
                let bytes = self.destination[usizes(&range)].to_vec();
                self.fill(request, &range, &bytes);
            }
            Io::Write { request, range } => {
                let bytes = part(&self.buffers[&request.0], &range).to_vec();
                self.destination[usizes(&range)].copy_from_slice(&bytes);
            }
            Io::Zero { range, .. } => self.destination[usizes(&range)].fill(0),
            Io::Discard { range } => self.destination[usizes(&range)].fill(0xbb),
            Io::Fetch { copy, range, .. } => {
                self.read_source(&range)?;
                let hole = self
                    .holes
                    .iter()
                    .find(|hole| hole.start <= range.start && range.end <= hole.end);
                let bytes = self.source[usizes(&range)].to_vec();
                self.copies.insert(copy, (range.start, bytes));
                if let Some(hole) = hole {
                    return Ok(Done::Zeroes { until: hole.end });
                }
            }
            Io::Store { copy, range, overlays, .. } => {
                let mut bytes = part(&self.copies[&copy], &range).to_vec();
                for overlay in overlays {
                    let at = usizes(
                        &(overlay.range.start - range.start..overlay.range.end - range.start),
                    );
                    match overlay.bytes {
                        OverlayBytes::Zeroes => bytes[at].fill(0),
                        OverlayBytes::Request(request) => {
                            let data = part(&self.buffers[&request.0], &overlay.range);
                            bytes[at].copy_from_slice(data);
                        }
                    }
                }
                self.destination[usizes(&range)].copy_from_slice(&bytes);
            }
            Io::Flush => {}
            Io::Commit { regions } => {
                regions.runs().for_each(|run| self.committed.insert(run));
                return Ok(Done::Blocks { used: 9 });
            }
            Io::Abort => return Ok(Done::Blocks { used: 7 }),
        }
        Ok(Done::Plain)
    }

    fn read_source(&self, range: &ByteRange) -> Result<(), Failure> {
        let is_bad = |bad: &ByteRange| bad.start < range.end && range.start < bad.end;
        if self.bad.iter().any(is_bad) {
            return Err(Failure {
                device: Device::Source,
                reason: "a bad sector".into(),
                is_full: false,
            });
        }
        Ok(())
    }

    fn fill(&mut self, request: RequestId, range: &ByteRange, bytes: &[u8]) {
        let (start, buffer) = self.buffers.get_mut(&request.0).unwrap();
        let at = usizes(&(range.start - *start..range.end - *start));
        buffer[at].copy_from_slice(bytes);
    }

    pub(super) fn figures(&self) -> StatusCounts {
        match self.engine.status() {
            Status::Running(figures) => figures,
            other => panic!("{other:?}"),
        }
    }

    /// Returns the log lines since the last call.
    pub(super) fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

/// Describes an operation, with its range in regions of 4 KiB: `write 1..2.5`.
fn line(io: &Io) -> String {
    let (word, range) = match io {
        Io::ReadSource { range, .. } => ("source", range),
        Io::ReadDestination { range, .. } => ("destination", range),
        Io::Write { range, .. } => ("write", range),
        Io::Zero { range, .. } => ("zero", range),
        Io::Discard { range } => ("discard", range),
        Io::Fetch { range, .. } => ("fetch", range),
        Io::Store { range, .. } => ("store", range),
        Io::Flush => return "flush".into(),
        Io::Commit { regions } => {
            return format!("commit {:?}", regions.runs().collect::<Vec<_>>());
        }
        Io::Abort => return "abort".into(),
    };
    let regions = |at: u64| at as f64 / REGION as f64;
    format!("{word} {}..{}", regions(range.start), regions(range.end))
}

fn usizes(range: &ByteRange) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn part<'a>(buffer: &'a (u64, Vec<u8>), range: &ByteRange) -> &'a [u8] {
    &buffer.1[usizes(&(range.start - buffer.0..range.end - buffer.0))]
}
