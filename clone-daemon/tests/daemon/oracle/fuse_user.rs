//! Users of the clone as a file, with one request at a time each.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use clone_daemon::nbd_protocol::{command, errno};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::{FallocateFlags, SeekFrom};

use super::model::{Force, Mismatch};
use super::run::{Mark, NAME, Run};
use super::user::{name, range};
use crate::oracle::content::Value;

const PUNCH: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
const ZERO: FallocateFlags = FallocateFlags::ZERO_RANGE;

/// Uses the file until users must stop.
pub(super) fn use_file(run: &Run, number: u32, round: u64) {
    let mut random = StdRng::seed_from_u64(run.plan.seed << 20 ^ round << 8 ^ u64::from(number));
    let path = run.folder.join("fuse").join(NAME);
    while let Some(inside) = run.gate.enter(run) {
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(_) if run.gate.is_disturbed(inside.mark) || run.is_over() => continue,
            Err(error) => return run.find(format!("user {number} cannot open the file: {error}")),
        };
        let user = FuseUser { run, file, number, mark: inside.mark };
        while !run.is_ending() && !run.gate.is_disturbed(inside.mark) {
            user.act(&mut random);
        }
    }
}

struct FuseUser<'a> {
    run: &'a Run,
    file: File,
    number: u32,
    mark: Mark,
}

impl FuseUser<'_> {
    fn act(&self, random: &mut StdRng) {
        let range = range(&self.run.plan, random);
        let mix = self.run.plan.mix;
        let changes = if mix.zeroes + mix.trim > 0 { 10 } else { 8 };
        let (asked, punches) = match random.random_range(0..changes) {
            0..4 => (command::READ, false),
            4..7 => (command::WRITE, false),
            7 if mix.flush > 0 => (command::FLUSH, false),
            7 => (command::BLOCK_STATUS, false),
            _ => (command::WRITE_ZEROES, random.random()),
        };
        let what = format!("user {} (FUSE): {} {range:?}", self.number, name(asked));
        let (began, waiting) = (Instant::now(), self.run.waits.begin(what.clone()));
        let done = match asked {
            command::READ => self.read(range.start, range.end),
            command::WRITE => self.write(range.start, range.end),
            command::FLUSH => self.flush(),
            command::BLOCK_STATUS => self.seek(range.start),
            _ => self.zero(range.start, range.end, punches),
        };
        drop(waiting);
        self.run.tally.add(&format!("FUSE {}", name(asked)), 1);
        match done {
            Ok(Ok(())) => {}
            Ok(Err(Mismatch(told))) => {
                self.run.find(format!("{what} after {:?}: {told}", began.elapsed()));
            }
            Err(error) => self.fail(asked, &error, &what),
        }
    }

    fn fail(&self, asked: u16, error: &io::Error, what: &str) {
        let number = error.raw_os_error().map_or(errno::EIO, i32::cast_unsigned);
        self.run.tally.add(&format!("FUSE {} failed with error {number}", name(asked)), 1);
        let is_disturbed = self.run.gate.is_disturbed(self.mark) || self.run.is_over();
        if !is_disturbed && !self.run.excuses(asked, number, self.mark) {
            self.run.find(format!("{what} failed without a reason: {error}"));
        }
    }

    fn read(&self, start: u64, end: u64) -> io::Result<Result<(), Mismatch>> {
        let mut bytes = vec![0; (end - start) as usize];
        let submitted = self.run.known().model.begin_read();
        let read = self.file.read_exact_at(&mut bytes, start);
        let model = &mut self.run.known().model;
        let fits = read.as_ref().map_or(Ok(()), |()| model.read(start, &bytes, submitted));
        model.end_read(submitted);
        self.run.tally.add("bytes compared", end - start);
        read.map(|()| fits)
    }

    /// Writes in one call: the rest of a short write is not retried.
    fn write(&self, start: u64, end: u64) -> io::Result<Result<(), Mismatch>> {
        let mut model = self.run.known();
        let value = model.model.tag();
        let write = model.model.begin(start..end, value, Force::Full, self.number);
        drop(model);
        let mut bytes = vec![0; (end - start) as usize];
        self.run.content.fill(value, start, &mut bytes);
        let written = self.file.write_at(&bytes, start);
        let is_whole = matches!(written, Ok(some) if some == bytes.len());
        let force = if is_whole { Force::Full } else { Force::Partial };
        self.run.known().model.end(write, force, false);
        written.map(|_| Ok(()))
    }

    fn flush(&self) -> io::Result<Result<(), Mismatch>> {
        let submitted = self.run.known().model.advance();
        self.file.sync_data()?;
        self.run.known().model.flush(submitted);
        Ok(Ok(()))
    }

    fn zero(&self, start: u64, end: u64, punches: bool) -> io::Result<Result<(), Mismatch>> {
        let how = if punches { PUNCH } else { ZERO };
        let mut known = self.run.known();
        let write = known.model.begin(start..end, Value::Zeroes, Force::Full, self.number);
        drop(known);
        let done = rustix::fs::fallocate(&self.file, how, start, end - start);
        let force = if done.is_ok() { Force::Full } else { Force::Partial };
        self.run.known().model.end(write, force, false);
        Ok(done.map(Ok)?)
    }

    /// Checks that a hole reads as zeroes.
    fn seek(&self, start: u64) -> io::Result<Result<(), Mismatch>> {
        let submitted = self.run.known().model.begin_read();
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(start)) {
            Ok(data) => Ok(data),
            Err(rustix::io::Errno::NXIO) => Ok(self.run.plan.size),
            Err(error) => Err(error),
        };
        let model = &mut self.run.known().model;
        let fits = match data {
            Ok(data) if data > start => model.zeroes(&(start..data), submitted),
            _ => Ok(()),
        };
        model.end_read(submitted);
        data?;
        Ok(fits)
    }
}
