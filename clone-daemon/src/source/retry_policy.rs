//! The retry policy of remote sources: when, how often and how long to retry.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clone_core::block_io::SourceChanged;
use clone_core::sync::lock;

use super::options::SourceOptions;
use super::remote::{Busy, RemoteError};
use super::stats::SourceStats;

/// The first delay before a retry; each following delay is twice as long.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// Maximum delay, unless the server asks for a longer one.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// Maximum delay that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// Number of failures in a row after which a warning is logged.
const WARN_AFTER: u32 = 3;
/// Maximum number of times that the time limit of a request is doubled.
const DOUBLINGS_MAX: u32 = 3;

/// The retry policy of one remote source, shared by all its readers.
///
/// *Invariant:* once it has [ended](Self::end), because the source has changed or was abandoned,
/// nothing succeeds.
pub(super) struct RetryPolicy {
    /// Name of the source in errors.
    place: String,
    timeout: Duration,
    give_up_after: Duration,
    requests_max: usize,
    state: Mutex<State>,
    /// Signals that a request has ended, or that the policy has.
    changed: Condvar,
    pub(super) stats: Arc<SourceStats>,
}

#[derive(Default)]
struct State {
    in_flight: usize,
    /// Time until which the server asked for no requests.
    blocked_until: Option<Instant>,
    /// True after a warning that the source does not answer, until it answers again.
    is_warned: bool,
    end: Option<EndReason>,
}

/// The reason why no more requests are made.
#[derive(Clone)]
pub(super) enum EndReason {
    /// The source has changed.
    Changed(SourceChanged),
    /// The source was abandoned.
    Abandoned,
}

impl EndReason {
    fn error(self) -> io::Error {
        match self {
            Self::Changed(changed) => changed.into(),
            Self::Abandoned => io::Error::other("the source is no longer read"),
        }
    }
}

/// The operation that is tried, for errors.
#[derive(Clone)]
pub(super) enum Operation {
    /// Open the source.
    Open,
    /// Read a half-open range of bytes.
    Read(Range<u64>),
    /// Get the extent at a byte offset.
    Extent(u64),
}

impl Operation {
    /// Returns whether it takes a permit and is reported when it fails. Extents are not: data must
    /// not wait for them.
    fn is_data(&self) -> bool {
        !matches!(self, Self::Extent(_))
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open => f.write_str("opening it"),
            Self::Read(Range { start, end }) => write!(f, "reading bytes {start}..{end}"),
            Self::Extent(offset) => write!(f, "asking for the extent at byte {offset}"),
        }
    }
}

/// The attempts of one operation so far.
struct Attempts<'a> {
    operation: &'a Operation,
    began: Instant,
    count: u32,
    /// The error of the last one.
    last: Option<io::Error>,
}

/// The next step after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// The deadline does not allow another attempt.
    GiveUp,
    /// The next attempt begins at this time.
    RetryAt(Instant),
}

impl Decision {
    /// Decides after `failed` attempts, the last one with `error`. A server that says when to retry
    /// is obeyed within limits.
    fn after(failed: u32, error: &io::Error, deadline: Instant) -> Self {
        let delay = match Busy::wait_of(error) {
            Some(wait) => wait.min(RETRY_AFTER_MAX).max(jittered(BACK_OFF_MIN)),
            None => jittered(back_off(failed)),
        };
        let time = later(Instant::now(), delay);
        if time >= deadline { Self::GiveUp } else { Self::RetryAt(time) }
    }
}

/// A permit for one request in flight.
struct Permit<'a>(&'a RetryPolicy);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.stats.end();
        self.0.lock().in_flight -= 1;
        // Waiters wait for different things, so all must wake.
        self.0.changed.notify_all();
    }
}

impl RetryPolicy {
    pub(super) fn new(place: String, options: &SourceOptions) -> Self {
        Self {
            place,
            timeout: options.timeout,
            give_up_after: options.give_up_after,
            requests_max: options.requests_max.max(1),
            state: Mutex::default(),
            changed: Condvar::new(),
            stats: Arc::default(),
        }
    }

    pub(super) fn requests_max(&self) -> usize {
        self.requests_max
    }

    /// Returns the deadline of an operation that begins now.
    pub(super) fn deadline(&self, operation: &Operation) -> Instant {
        let limit = match operation {
            // A read also reports zeroes, and has its own time limit.
            Operation::Extent(_) => self.timeout.min(self.give_up_after),
            Operation::Open | Operation::Read(_) => self.give_up_after,
        };
        later(Instant::now(), limit)
    }

    /// Ends the policy: nothing succeeds from now on. The first reason counts.
    pub(super) fn end(&self, reason: EndReason) {
        self.lock().end.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// Returns the error of all operations, if the policy has ended.
    pub(super) fn ended(&self) -> Option<io::Error> {
        self.lock().end.clone().map(EndReason::error)
    }

    /// Runs `act` until it succeeds, fails permanently, or `deadline` passes. `act` receives the
    /// deadline of the attempt.
    pub(super) fn run<T>(
        &self,
        operation: &Operation,
        deadline: Instant,
        mut act: impl FnMut(Instant) -> Result<T, RemoteError>,
    ) -> io::Result<T> {
        let mut attempts = Attempts { operation, began: Instant::now(), count: 0, last: None };
        loop {
            let Some(result) = self.attempt(&attempts, deadline, &mut act)? else {
                return Err(self.given_up(attempts));
            };
            attempts.count += 1;
            let error = match result {
                Ok(done) => {
                    self.log_success(operation);
                    return self.ended().map_or(Ok(done), Err);
                }
                Err(error) => self.only_passing(operation, error)?,
            };
            self.log_failure(&attempts, &error);
            let decision = Decision::after(attempts.count, &error, deadline);
            attempts.last = Some(error);
            match decision {
                Decision::GiveUp => return Err(self.given_up(attempts)),
                Decision::RetryAt(time) => self.sleep_until(time)?,
            }
            SourceStats::add(&self.stats.retries, 1);
        }
    }

    /// Makes one attempt. Returns `None` if `deadline` passes before there is a permit for it.
    fn attempt<T>(
        &self,
        attempts: &Attempts<'_>,
        deadline: Instant,
        act: &mut impl FnMut(Instant) -> Result<T, RemoteError>,
    ) -> io::Result<Option<Result<T, RemoteError>>> {
        let permit = if attempts.operation.is_data() {
            let Some(permit) = self.acquire(deadline)? else { return Ok(None) };
            Some(permit)
        } else {
            self.check_end(&self.lock())?;
            None
        };
        let result = act(later(Instant::now(), self.attempt_timeout(attempts.count)).min(deadline));
        if let Err(RemoteError::Passing(error)) = &result
            && let Some(wait) = Busy::wait_of(error)
        {
            // Before the permit is dropped, so that no other request enters first.
            self.block_requests(wait.min(RETRY_AFTER_MAX));
        }
        drop(permit);
        Ok(Some(result))
    }

    /// Returns the error if a retry may succeed. Any other error is final; that of a changed source
    /// also ends the policy.
    fn only_passing(&self, operation: &Operation, error: RemoteError) -> io::Result<io::Error> {
        match error {
            RemoteError::Passing(error) => Ok(error),
            RemoteError::Changed(changed) => {
                self.end(EndReason::Changed(changed.clone()));
                Err(self.failed(changed.into()))
            }
            RemoteError::Final(error) => {
                let text = format!("{}: {operation}: {error}", self.place);
                Err(self.failed(io::Error::new(error.kind(), text)))
            }
        }
    }

    /// Warns once that the source fails, until it succeeds again. A few failures of one request are
    /// not reported.
    fn log_failure(&self, attempts: &Attempts<'_>, error: &io::Error) {
        let Attempts { operation, count: tries, .. } = *attempts;
        tracing::debug!(source = %self.place, doing = %operation, tries, %error, "trying again");
        let is_news = operation.is_data() && tries == WARN_AFTER;
        if is_news && !mem::replace(&mut self.lock().is_warned, true) {
            tracing::warn!(source = %self.place, "{operation} failed, and is retried: {error}");
        }
    }

    fn log_success(&self, operation: &Operation) {
        if operation.is_data() && mem::take(&mut self.lock().is_warned) {
            tracing::info!(source = %self.place, "it answers again");
        }
    }

    /// Returns the time limit of an attempt after `failed` ones.
    fn attempt_timeout(&self, failed: u32) -> Duration {
        self.timeout.saturating_mul(1 << failed.min(DOUBLINGS_MAX))
    }

    /// Waits for a permit. Returns `None` at the deadline.
    fn acquire(&self, deadline: Instant) -> io::Result<Option<Permit<'_>>> {
        let mut state = self.lock();
        loop {
            self.check_end(&state)?;
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            let blocked = state.blocked_until.filter(|&until| until > now);
            if blocked.is_none() && state.in_flight < self.requests_max {
                state.in_flight += 1;
                self.stats.begin();
                return Ok(Some(Permit(self)));
            }
            state = self.wait(state, blocked.unwrap_or(deadline).min(deadline));
        }
    }

    /// Waits until the given time. Fails if the policy ends meanwhile.
    fn sleep_until(&self, time: Instant) -> io::Result<()> {
        let mut state = self.lock();
        loop {
            self.check_end(&state)?;
            if Instant::now() >= time {
                return Ok(());
            }
            state = self.wait(state, time);
        }
    }

    fn check_end(&self, state: &State) -> io::Result<()> {
        match state.end.clone() {
            Some(reason) => Err(self.failed(reason.error())),
            None => Ok(()),
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        let timeout = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(state, timeout);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Blocks new requests for the given time.
    fn block_requests(&self, time: Duration) {
        let until = later(Instant::now(), time);
        let mut state = self.lock();
        state.blocked_until = state.blocked_until.max(Some(until));
    }

    fn failed(&self, error: io::Error) -> io::Error {
        SourceStats::add(&self.stats.failures, 1);
        error
    }

    /// Returns the error of an operation that reached its deadline.
    fn given_up(&self, attempts: Attempts<'_>) -> io::Error {
        let Attempts { operation, began, count, last } = attempts;
        let (place, seconds) = (&self.place, began.elapsed().as_secs_f64());
        let text = match last {
            Some(last) => {
                let times = if count == 1 { "once" } else { &format!("{count} times") };
                format!("{place}: {operation} failed {times} in {seconds:.1} s; last error: {last}")
            }
            None => format!(
                "{place}: {operation} was not attempted in {seconds:.1} s, because other requests \
                 were in flight or the server asked to wait"
            ),
        };
        self.failed(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Returns the delay after the given number of failed attempts.
fn back_off(failed: u32) -> Duration {
    let doublings = failed.saturating_sub(1).min(16);
    BACK_OFF_MIN.saturating_mul(1 << doublings).min(BACK_OFF_MAX)
}

/// Returns a random time between half of `wait` and `wait`, so that requests that failed together
/// are not retried together.
fn jittered(wait: Duration) -> Duration {
    // The standard library has no other source of randomness: each `RandomState` has its own keys.
    let part = RandomState::new().hash_one(()) % 1024;
    wait / 2 + wait / 2 * u32::try_from(part).unwrap_or(0) / 1024
}

/// Adds without overflow.
fn later(from: Instant, wait: Duration) -> Instant {
    // An unlimited wait becomes a century.
    from.checked_add(wait).unwrap_or_else(|| from + Duration::from_secs(100 * 365 * 86_400))
}
