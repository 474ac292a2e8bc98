//! In-memory devices that can be slow, fail, panic, and delay operations.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use persistent_data::block::RawBlock;
use persistent_data::device::{Device, MemoryDevice, ReadDevice};
use persistent_data::number::BlockNr;

use crate::block_io::ReadData;
use crate::block_io::{Destination, Extent, Source};
use crate::sync::lock;

/// A request to a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Read(Range<u64>),
    Write(Range<u64>),
    Zero(Range<u64>),
    Discard(Range<u64>),
    Flush,
}

impl Asked {
    fn touches(&self, range: &Range<u64>) -> bool {
        match self {
            Self::Read(at) | Self::Write(at) | Self::Zero(at) | Self::Discard(at) => {
                at.start < range.end && range.start < at.end
            }
            Self::Flush => true,
        }
    }
}

/// A function that a device calls for each request.
type Rule = Box<dyn Fn(&Asked) -> io::Result<()> + Send + Sync>;

#[derive(Default)]
struct State {
    log: Vec<Asked>,
    /// Operations on these bytes wait.
    held: Option<Range<u64>>,
    /// Number of waiting operations.
    waiting: usize,
    rule: Option<Arc<Rule>>,
}

/// A device with data.
pub(super) struct Disk {
    bytes: Mutex<Vec<u8>>,
    /// Ranges known to be zeroes without reading them.
    holes: Vec<Range<u64>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Maximum number of times that a thread yields per operation; 0 for none.
    sloth: u64,
    asked: AtomicU64,
}

pub(super) fn eio() -> io::Error {
    io::Error::other("a bad sector")
}

impl Disk {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Mutex::new(bytes),
            holes: Vec::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
            sloth: 0,
            asked: AtomicU64::new(0),
        }
    }

    pub(super) fn with_holes(mut self, holes: Vec<Range<u64>>) -> Self {
        for hole in &holes {
            lock(&self.bytes)[hole.start as usize..hole.end as usize].fill(0);
        }
        self.holes = holes;
        self
    }

    pub(super) fn slow(mut self, sloth: u64) -> Self {
        self.sloth = sloth;
        self
    }

    /// Makes each operation call `rule` first.
    pub(super) fn rule(&self, rule: impl Fn(&Asked) -> io::Result<()> + Send + Sync + 'static) {
        self.state().rule = Some(Arc::new(Box::new(rule)));
    }

    /// Delays operations on `range`.
    pub(super) fn hold(&self, range: Range<u64>) {
        self.state().held = Some(range);
    }

    pub(super) fn let_go(&self) {
        self.state().held = None;
        self.changed.notify_all();
    }

    /// Returns when `count` operations wait.
    pub(super) fn wait_until_held(&self, count: usize) {
        let waits = |state: &mut State| state.waiting < count;
        drop(self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns the requests since the last call.
    pub(super) fn take_log(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().log)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        lock(&self.bytes).clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn ask(&self, asked: Asked) -> io::Result<()> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if self.sloth > 0 {
            let turns = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            (0..turns % self.sloth).for_each(|_| thread::yield_now());
        }
        let mut state = self.state();
        state.log.push(asked.clone());
        let is_held = |state: &State| state.held.as_ref().is_some_and(|held| asked.touches(held));
        if is_held(&state) {
            state.waiting += 1;
            self.changed.notify_all();
            let waits = |state: &mut State| is_held(state);
            let waited = self.changed.wait_while(state, waits);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        let rule = state.rule.clone();
        drop(state);
        rule.map_or(Ok(()), |rule| rule(&asked))
    }

    fn fill(&self, range: Range<u64>, byte: u8) {
        lock(&self.bytes)[range.start as usize..range.end as usize].fill(byte);
    }
}

impl ReadData for Disk {
    fn size_bytes(&self) -> u64 {
        lock(&self.bytes).len() as u64
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.ask(Asked::Read(offset..offset + into.len() as u64))?;
        into.copy_from_slice(&lock(&self.bytes)[offset as usize..][..into.len()]);
        Ok(())
    }
}

impl Source for Disk {
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        let hole = self.holes.iter().find(|hole| hole.contains(&offset));
        let next = self.holes.iter().map(|hole| hole.start).filter(|&start| start > offset).min();
        Ok(match hole {
            Some(hole) => Extent { zeroes: true, end: hole.end },
            None => Extent { zeroes: false, end: next.unwrap_or(self.size_bytes()) },
        })
    }
}

impl Destination for Disk {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ask(Asked::Write(offset..offset + data.len() as u64))?;
        lock(&self.bytes)[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero(&self, range: Range<u64>, _: bool) -> io::Result<()> {
        self.ask(Asked::Zero(range.clone()))?;
        self.fill(range, 0);
        Ok(())
    }

    /// Discarded ranges have arbitrary content.
    fn discard(&self, range: Range<u64>) -> io::Result<()> {
        self.ask(Asked::Discard(range.clone()))?;
        self.fill(range, 0xdd);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.ask(Asked::Flush)
    }
}

/// A metadata device that can fail.
pub(super) struct Brittle {
    blocks: MemoryDevice,
    pub(super) fails_writes: AtomicBool,
    pub(super) fails_reads: AtomicBool,
}

impl Brittle {
    pub(super) fn new(nr_blocks: usize) -> Self {
        let (fails_writes, fails_reads) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { blocks: MemoryDevice::new(nr_blocks), fails_writes, fails_reads }
    }
}

fn check(fails: &AtomicBool) -> io::Result<()> {
    if fails.load(Ordering::SeqCst) { Err(eio()) } else { Ok(()) }
}

impl ReadDevice for Brittle {
    fn nr_blocks(&self) -> u64 {
        self.blocks.nr_blocks()
    }

    fn read(&self, first: BlockNr, into: &mut [RawBlock]) -> io::Result<()> {
        check(&self.fails_reads)?;
        self.blocks.read(first, into)
    }
}

impl Device for Brittle {
    fn write(&self, first: BlockNr, from: &[RawBlock]) -> io::Result<()> {
        check(&self.fails_writes)?;
        self.blocks.write(first, from)
    }

    fn flush(&self) -> io::Result<()> {
        check(&self.fails_writes)?;
        self.blocks.flush()
    }
}
