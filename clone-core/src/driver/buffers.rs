//! Buffers of requests and copies.
//!
//! *Invariant:* a request is answered exactly once, when no work for it is left. All work for a
//! request holds a reference to its [`Pending`], whose drop sends the answer, even if the thread
//! that held it panicked. It must therefore never be dropped with a lock held.

use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::thread;

use crate::block_io::AlignedBuf;
use crate::engine::{ByteRange, Operation, RequestError};
use crate::sync::lock;

/// The callback that receives the result of a request and its buffer.
pub(super) type Callback = Box<dyn FnOnce(Result<(), RequestError>, Vec<u8>) + Send>;

/// A request in flight.
pub(super) struct Pending {
    range: ByteRange,
    buffer: RequestBuffer,
    result: OnceLock<Result<(), RequestError>>,
    /// Never contended: only the drop locks it.
    callback: Mutex<Option<Callback>>,
}

enum RequestBuffer {
    /// The buffer of a read; several threads fill its parts at once.
    ToFill(Mutex<Vec<u8>>),
    /// The data of a write, which does not change.
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

    /// Sets the result of the request; only the first call counts.
    pub(super) fn decide(&self, result: Result<(), RequestError>) {
        let _ = self.result.set(result);
    }

    /// Fills a part of a read by `read`. No lock is held meanwhile, so that other parts can be read
    /// at the same time. A whole buffer is filled in place, a part through a temporary buffer.
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

    /// Calls `put` with a part of the buffer of a read. `put` must not block.
    fn put(&self, range: &ByteRange, put: impl FnOnce(&mut [u8])) {
        put(&mut self.to_fill()[within(range, &self.range)]);
    }

    fn to_fill(&self) -> MutexGuard<'_, Vec<u8>> {
        match &self.buffer {
            RequestBuffer::ToFill(bytes) => lock(bytes),
            RequestBuffer::Given(_) => panic!("the engine reads into what is no read"),
        }
    }

    /// Returns a part of the data of a write.
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
            // A second panic would abort the process, and the first one is reported already.
            let _ = catch_unwind(answer);
        } else {
            answer();
        }
    }
}

/// Returns the position of `part` in a buffer that holds `whole`.
fn within(part: &ByteRange, whole: &ByteRange) -> std::ops::Range<usize> {
    assert!(whole.start <= part.start && part.end <= whole.end, "{part:?} not in {whole:?}");
    (part.start - whole.start) as usize..(part.end - whole.start) as usize
}

/// Returns the length of a range that fits in a buffer, in bytes.
pub(super) fn length(range: &ByteRange) -> usize {
    (range.end - range.start) as usize
}

/// Data fetched from the source, until it is released.
pub(super) struct CopyBuffer {
    range: ByteRange,
    /// `None` for zeroes.
    bytes: RwLock<Option<PoolBuffer>>,
}

impl CopyBuffer {
    /// Creates a buffer for the bytes `range` of the clone, without memory.
    pub(super) fn new(range: ByteRange) -> Self {
        Self { range, bytes: RwLock::new(None) }
    }

    pub(super) fn range(&self) -> &ByteRange {
        &self.range
    }

    /// Sets the fetched data.
    pub(super) fn set(&self, bytes: PoolBuffer) {
        *self.bytes.write().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    /// Returns the fetched data; `None` for zeroes.
    pub(super) fn get(&self) -> RwLockReadGuard<'_, Option<PoolBuffer>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the data by `change`. Allocates memory if it was zeroes.
    pub(super) fn change(&self, pool: &Arc<BufferPool>, change: impl FnOnce(&mut [u8])) {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes.get_or_insert_with(|| {
            let mut zeroes = BufferPool::take(pool, length(&self.range));
            zeroes.bytes_mut().fill(0);
            zeroes
        });
        change(bytes.bytes_mut());
    }

    /// Copies a part into the buffer of a read.
    pub(super) fn give(&self, range: &ByteRange, read: &Pending) {
        let part = within(range, &self.range);
        match &*self.get() {
            Some(bytes) => read.put(range, |into| into.copy_from_slice(&bytes.bytes()[part])),
            None => read.put(range, |into| into.fill(0)),
        }
    }

    /// Returns the position of a part in the buffer.
    pub(super) fn place(&self, part: &ByteRange) -> std::ops::Range<usize> {
        within(part, &self.range)
    }
}

/// A pool of buffers for copies.
pub(super) struct BufferPool {
    /// Maximum total bytes of used and free buffers: free buffers beyond it are deallocated.
    bytes_max: usize,
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    /// Free buffers, the one unused longest first.
    kept: Vec<AlignedBuf>,
    kept_bytes: usize,
    used_bytes: usize,
}

/// A buffer of a pool, which returns to the pool when dropped.
pub(super) struct PoolBuffer {
    /// As long as its size class.
    bytes: AlignedBuf,
    len: usize,
    pool: Arc<BufferPool>,
}

/// Minimum size of a buffer, in bytes.
const BUFFER_MIN: usize = 4096;

impl BufferPool {
    pub(super) fn new(bytes_max: u64) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self { bytes_max, stock: Mutex::default() }
    }

    /// Returns the total bytes of the buffers in use.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        lock(&self.stock).used_bytes
    }

    /// Returns a buffer of `len` bytes with arbitrary content.
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
        // Deallocation takes time: do it without the lock.
        drop(given_up);
    }
}

impl Stock {
    /// Removes the free buffers beyond the limit, and returns them.
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

    use super::{BufferPool, CopyBuffer, Pending, lock};
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
        let pool = Arc::new(BufferPool::new(1 << 20));
        // Old content must not show.
        BufferPool::take(&pool, 10).bytes_mut().fill(9);
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
        let pool = Arc::new(BufferPool::new(32 << 10));
        let place = |len| {
            let buffer = BufferPool::take(&pool, len);
            assert_eq!(buffer.bytes().len(), len);
            buffer.bytes().as_ptr()
        };
        let stock = || {
            let stock = lock(&pool.stock);
            (stock.kept.len(), stock.kept_bytes, stock.used_bytes)
        };
        let first = place(10_000);
        assert_eq!(place(16_384), first);
        let many: Vec<_> = (0..20).map(|_| BufferPool::take(&pool, 8192)).collect();
        assert_eq!(stock(), (0, 0, 20 * 8192));
        drop(many);
        assert_eq!(stock(), (4, 32 << 10, 0));
        let large = BufferPool::take(&pool, 1 << 20);
        assert_eq!(stock(), (0, 0, 1 << 20));
        drop(large);
        assert_eq!(stock(), (0, 0, 0));
    }
}
