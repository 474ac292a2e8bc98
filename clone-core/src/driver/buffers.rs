//! The memory in which requests and copies are done.
//!
//! *Invariant:* a request is answered exactly once, when nobody works for it any more. Whoever
//! works for it holds its [`Pending`], and it answers when it is dropped, whatever has become of
//! the thread that held it. So it is never dropped with a lock held.

use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use crate::block_io::AlignedBuf;
use crate::engine::{ByteRange, Operation, RequestError};
use crate::sync::lock;

/// What is called with the outcome of a request and its buffer.
pub(super) type Callback = Box<dyn FnOnce(Result<(), RequestError>, Vec<u8>) + Send>;

/// A request under way.
pub(super) struct Pending {
    range: ByteRange,
    buffer: RequestBuffer,
    result: OnceLock<Result<(), RequestError>>,
    /// Locked by nobody: it is for who drops this.
    callback: Mutex<Option<Callback>>,
}

enum RequestBuffer {
    /// Of a read. Its parts are read by several threads at once.
    ToFill(Mutex<Vec<u8>>),
    /// Of a write, which nobody changes.
    Given(Vec<u8>),
}

impl Pending {
    pub(super) fn new(
        operation: Operation,
        range: ByteRange,
        buffer: Vec<u8>,
        callback: Callback,
    ) -> Self {
        let buffer = match operation {
            Operation::Read => RequestBuffer::ToFill(Mutex::new(buffer)),
            _ => RequestBuffer::Given(buffer),
        };
        Self { range, buffer, result: OnceLock::new(), callback: Mutex::new(Some(callback)) }
    }

    /// Says what the answer will be; only the first word counts.
    pub(super) fn decide(&self, result: Result<(), RequestError>) {
        let _ = self.result.set(result);
    }

    /// Has `read` fill a part of a read. No lock is held meanwhile, so that other parts can be read
    /// too: the whole is filled in its place, a part on the side.
    pub(super) fn fill(
        &self,
        range: &ByteRange,
        read: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if *range == self.range {
            let mut whole = mem::take(&mut *self.to_fill());
            let result = read(&mut whole);
            *self.to_fill() = whole;
            return result;
        }
        let mut part = vec![0; length(range)];
        read(&mut part)?;
        self.put(range, |into| into.copy_from_slice(&part));
        Ok(())
    }

    /// Has `put` put something at a part of a read, at once.
    fn put(&self, range: &ByteRange, put: impl FnOnce(&mut [u8])) {
        put(&mut self.to_fill()[within(range, &self.range)]);
    }

    fn to_fill(&self) -> MutexGuard<'_, Vec<u8>> {
        match &self.buffer {
            RequestBuffer::ToFill(bytes) => lock(bytes),
            RequestBuffer::Given(_) => panic!("the engine reads into what is no read"),
        }
    }

    /// A part of what is to be written.
    pub(super) fn given(&self, range: &ByteRange) -> &[u8] {
        match &self.buffer {
            RequestBuffer::Given(bytes) => &bytes[within(range, &self.range)],
            RequestBuffer::ToFill(_) => panic!("the engine writes from what is no write"),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(callback) = lock(&self.callback).take() else { return };
        let result = self.result.get().copied().unwrap_or(Err(RequestError::Failed));
        let buffer = match &mut self.buffer {
            RequestBuffer::ToFill(bytes) => mem::take(&mut *lock(bytes)),
            RequestBuffer::Given(bytes) => mem::take(bytes),
        };
        let answer = AssertUnwindSafe(|| callback(result, buffer));
        if thread::panicking() {
            // A second panic would end the process, and the first one is told already.
            let _ = catch_unwind(answer);
        } else {
            answer();
        }
    }
}

/// Where a part lies in a buffer that holds `whole`.
fn within(part: &ByteRange, whole: &ByteRange) -> std::ops::Range<usize> {
    assert!(whole.start <= part.start && part.end <= whole.end, "{part:?} not in {whole:?}");
    (part.start - whole.start) as usize..(part.end - whole.start) as usize
}

/// Bytes of a range that lies in a buffer.
pub(super) fn length(range: &ByteRange) -> usize {
    (range.end - range.start) as usize
}

/// What was fetched from the source, until it is released.
pub(super) struct CopyBuffer {
    range: ByteRange,
    /// `None` for zeroes.
    bytes: RwLock<Option<PoolBuffer>>,
}

impl CopyBuffer {
    /// For bytes `range` of the clone, which takes no memory yet.
    pub(super) fn new(range: ByteRange) -> Self {
        Self { range, bytes: RwLock::new(None) }
    }

    pub(super) fn range(&self) -> &ByteRange {
        &self.range
    }

    /// Puts in what was fetched.
    pub(super) fn set(&self, bytes: PoolBuffer) {
        *self.bytes.write().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    /// What was fetched; `None` for zeroes.
    pub(super) fn get(&self) -> RwLockReadGuard<'_, Option<PoolBuffer>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `change` lay something over it. Zeroes take memory from now on.
    pub(super) fn change(&self, pool: &Arc<Pool>, change: impl FnOnce(&mut [u8])) {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes.get_or_insert_with(|| {
            let mut zeroes = Pool::take(pool, length(&self.range));
            zeroes.bytes_mut().fill(0);
            zeroes
        });
        change(bytes.bytes_mut());
    }

    /// Moves a part into a read.
    pub(super) fn give(&self, range: &ByteRange, read: &Pending) {
        let part = within(range, &self.range);
        match &*self.get() {
            Some(bytes) => read.put(range, |into| into.copy_from_slice(&bytes.bytes()[part])),
            None => read.put(range, |into| into.fill(0)),
        }
    }

    /// Where a part lies in the buffer.
    pub(super) fn place(&self, part: &ByteRange) -> std::ops::Range<usize> {
        within(part, &self.range)
    }
}

/// Buffers of copies, to be used again.
pub(super) struct Pool {
    /// The most bytes of buffers in use and not: those not in use are given up beyond it.
    bytes_max: usize,
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    /// Those not in use, the one that has lain there longest first.
    kept: Vec<AlignedBuf>,
    kept_bytes: usize,
    used_bytes: usize,
}

/// A buffer of a pool, which goes back there.
pub(super) struct PoolBuffer {
    /// As long as its class.
    bytes: AlignedBuf,
    len: usize,
    pool: Arc<Pool>,
}

/// The least that a buffer holds.
const BUFFER_MIN: usize = 4096;

impl Pool {
    pub(super) fn new(bytes_max: u64) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self { bytes_max, stock: Mutex::default() }
    }

    /// Bytes of all buffers in use.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        lock(&self.stock).used_bytes
    }

    /// A buffer of `len` bytes that holds anything.
    pub(super) fn take(pool: &Arc<Self>, len: usize) -> PoolBuffer {
        let class = len.next_power_of_two().max(BUFFER_MIN);
        let (kept, given_up) = {
            let mut stock = lock(&pool.stock);
            stock.used_bytes += class;
            let kept = stock.kept.iter().rposition(|buffer| buffer.len() == class);
            let kept = kept.map(|index| stock.kept.remove(index));
            stock.kept_bytes -= kept.as_ref().map_or(0, |buffer| buffer.len());
            (kept, stock.shrink(pool.bytes_max))
        };
        drop(given_up);
        let bytes = kept.unwrap_or_else(|| AlignedBuf::new(class));
        PoolBuffer { bytes, len, pool: pool.clone() }
    }

    fn put(&self, bytes: AlignedBuf) {
        let given_up = {
            let mut stock = lock(&self.stock);
            stock.used_bytes -= bytes.len();
            stock.kept_bytes += bytes.len();
            stock.kept.push(bytes);
            stock.shrink(self.bytes_max)
        };
        // Giving up memory takes its time: not with the lock held.
        drop(given_up);
    }
}

impl Stock {
    /// Gives up what is too much.
    fn shrink(&mut self, bytes_max: usize) -> Vec<AlignedBuf> {
        let mut given_up = Vec::new();
        while self.used_bytes + self.kept_bytes > bytes_max && !self.kept.is_empty() {
            let oldest = self.kept.remove(0);
            self.kept_bytes -= oldest.len();
            given_up.push(oldest);
        }
        given_up
    }
}

impl PoolBuffer {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for PoolBuffer {
    fn drop(&mut self) {
        self.pool.put(mem::replace(&mut self.bytes, AlignedBuf::new(0)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::{CopyBuffer, Pending, Pool, lock};
    use crate::engine::{Operation, RequestError};

    type Answers = Arc<Mutex<Vec<(Result<(), RequestError>, Vec<u8>)>>>;

    fn pending(operation: Operation, buffer: Vec<u8>) -> (Arc<Pending>, Answers) {
        let answers = Answers::default();
        let told = answers.clone();
        let range = 100..100 + buffer.len() as u64;
        let callback = Box::new(move |result, buffer| lock(&told).push((result, buffer)));
        (Arc::new(Pending::new(operation, range, buffer, callback)), answers)
    }

    #[test]
    fn a_request_is_answered_once_when_the_last_one_lets_it_go() {
        let (request, answers) = pending(Operation::Write, vec![7; 3]);
        let other = request.clone();
        request.decide(Ok(()));
        request.decide(Err(RequestError::ReadOnly));
        drop(request);
        assert!(lock(&answers).is_empty());
        drop(other);
        assert_eq!(*lock(&answers), [(Ok(()), vec![7; 3])]);
    }

    #[test]
    fn a_request_that_nobody_decided_has_failed() {
        let (request, answers) = pending(Operation::Flush, Vec::new());
        drop(request);
        assert_eq!(*lock(&answers), [(Err(RequestError::Failed), Vec::new())]);
    }

    #[test]
    fn a_read_is_put_together_from_its_parts() {
        let (request, answers) = pending(Operation::Read, vec![9; 8]);
        let pool = Arc::new(Pool::new(1 << 20));
        // What it was used for before is not seen.
        Pool::take(&pool, 10).bytes_mut().fill(9);
        let copy = CopyBuffer::new(96..106);
        copy.give(&(100..102), &request);
        copy.change(&pool, |bytes| bytes[6..8].fill(1));
        copy.give(&(102..105), &request);
        let fill = |bytes: &mut [u8]| {
            bytes.fill(2);
            Ok(())
        };
        request.fill(&(105..107), fill).unwrap();
        request.decide(Ok(()));
        drop(request);
        assert_eq!(*lock(&answers), [(Ok(()), vec![0, 0, 1, 1, 0, 2, 2, 9])]);
    }

    #[test]
    fn buffers_are_used_again_and_no_more_are_kept_than_allowed() {
        let pool = Arc::new(Pool::new(32 << 10));
        let place = |len| {
            let buffer = Pool::take(&pool, len);
            assert_eq!(buffer.bytes().len(), len);
            buffer.bytes().as_ptr()
        };
        let stock = || {
            let stock = lock(&pool.stock);
            (stock.kept.len(), stock.kept_bytes, stock.used_bytes)
        };
        let first = place(10_000);
        assert_eq!(place(16_384), first);
        let many: Vec<_> = (0..20).map(|_| Pool::take(&pool, 8192)).collect();
        assert_eq!(stock(), (0, 0, 20 * 8192));
        drop(many);
        assert_eq!(stock(), (4, 32 << 10, 0));
        let large = Pool::take(&pool, 1 << 20);
        assert_eq!(stock(), (0, 0, 1 << 20));
        drop(large);
        assert_eq!(stock(), (0, 0, 0));
    }
}
