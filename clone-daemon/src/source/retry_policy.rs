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
const WAIT_MIN: Duration = Duration::from_millis(50);
/// Maximum delay, unless the server asks for a longer one.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Maximum delay that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// Number of failures in a row after which a warning is logged.
const TOLD_AFTER: u32 = 3;
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
    pub(super) figures: Arc<SourceStats>,
}

#[derive(Default)]
struct State {
    under_way: usize,
    /// Time until which the server asked for no requests.
    rest_until: Option<Instant>,
    /// True after a warning that the source does not answer, until it answers again.
    is_told: bool,
    end: Option<End>,
}

/// The reason why no more requests are made.
#[derive(Clone)]
pub(super) enum End {
    /// The source has changed.
    Changed(SourceChanged),
    /// The source was abandoned.
    Abandoned,
}

impl End {
    fn error(self) -> io::Error {
        match self {
            Self::Changed(changed) => changed.into(),
            Self::Abandoned => io::Error::other("the source is not read any more"),
        }
    }
}

/// The operation that is tried, for errors.
#[derive(Clone)]
pub(super) enum Doing {
    /// Open the source.
    Open,
    /// Read a half-open range of bytes.
    Read(Range<u64>),
    /// Get the extent at a byte offset.
    Extent(u64),
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open => f.write_str("opening it"),
            Self::Read(Range { start, end }) => write!(f, "reading bytes {start}..{end}"),
            Self::Extent(offset) => write!(f, "asking for the extent at byte {offset}"),
        }
    }
}

/// A permit for one request in flight.
struct Pass<'a>(&'a RetryPolicy);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.figures.end();
        self.0.lock().under_way -= 1;
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
            figures: Arc::default(),
        }
    }

    pub(super) fn requests_max(&self) -> usize {
        self.requests_max
    }

    /// Returns the deadline of an operation that begins now.
    pub(super) fn deadline(&self, doing: &Doing) -> Instant {
        let limit = match doing {
            // A read also reports zeroes, and has its own time limit.
            Doing::Extent(_) => self.timeout.min(self.give_up_after),
            Doing::Open | Doing::Read(_) => self.give_up_after,
        };
        later(Instant::now(), limit)
    }

    /// Ends the policy: nothing succeeds from now on. The first reason counts.
    pub(super) fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Returns the error of all operations, if the policy has ended.
    pub(super) fn ended(&self) -> Option<io::Error> {
        self.lock().end.clone().map(End::error)
    }

    /// Runs `act` until it succeeds, fails permanently, or `deadline` passes. `act` receives the
    /// deadline of the attempt.
    pub(super) fn persist<T>(
        &self,
        doing: &Doing,
        deadline: Instant,
        mut act: impl FnMut(Instant) -> Result<T, RemoteError>,
    ) -> io::Result<T> {
        let began = Instant::now();
        let mut tries = 0;
        let mut last = None;
        loop {
            // Extents take no permit: data must not wait for them.
            let pass = match doing {
                Doing::Extent(_) => {
                    self.pause(began)?;
                    None
                }
                Doing::Open | Doing::Read(_) => match self.enter(deadline)? {
                    Some(pass) => Some(pass),
                    None => return Err(self.given_up(doing, began, tries, last)),
                },
            };
            let result = act(later(Instant::now(), self.time_for(tries)).min(deadline));
            if let Err(RemoteError::Passing(error)) = &result
                && let Some(wait) = Busy::wait_of(error)
            {
                // Before the permit is dropped, so that no other request enters first.
                self.rest(wait.min(RETRY_AFTER_MAX));
            }
            drop(pass);
            tries += 1;
            let error = match result {
                Ok(done) => {
                    self.tell_success(doing);
                    return self.ended().map_or(Ok(done), Err);
                }
                Err(RemoteError::Changed(changed)) => {
                    self.end(End::Changed(changed.clone()));
                    return Err(self.failed(changed.into()));
                }
                Err(RemoteError::Final(error)) => {
                    let told = format!("{}: {doing}: {error}", self.place);
                    return Err(self.failed(io::Error::new(error.kind(), told)));
                }
                Err(RemoteError::Passing(error)) => error,
            };
            tracing::debug!(source = %self.place, %doing, tries, %error, "trying again");
            self.tell_failure(doing, tries, &error);
            let wait = match Busy::wait_of(&error) {
                Some(wait) => wait.min(RETRY_AFTER_MAX).max(jittered(WAIT_MIN)),
                None => jittered(wait_after(tries)),
            };
            let until = later(Instant::now(), wait);
            if until >= deadline {
                return Err(self.given_up(doing, began, tries, Some(error)));
            }
            last = Some(error);
            self.pause(until)?;
            SourceStats::add(&self.figures.retries, 1);
        }
    }

    /// Warns once that the source fails, until it succeeds again. A few failures of one request are
    /// not reported.
    fn tell_failure(&self, doing: &Doing, tries: u32, error: &io::Error) {
        let is_news = !matches!(doing, Doing::Extent(_)) && tries == TOLD_AFTER;
        if is_news && !mem::replace(&mut self.lock().is_told, true) {
            tracing::warn!(source = %self.place, "{doing} fails, and is tried again: {error}");
        }
    }

    fn tell_success(&self, doing: &Doing) {
        let is_data = !matches!(doing, Doing::Extent(_));
        if is_data && mem::take(&mut self.lock().is_told) {
            tracing::info!(source = %self.place, "it answers again");
        }
    }

    /// Returns the time limit of an attempt after `tries` failed ones.
    fn time_for(&self, tries: u32) -> Duration {
        self.timeout.saturating_mul(1 << tries.min(DOUBLINGS_MAX))
    }

    /// Waits for a permit. Returns `None` at the deadline.
    fn enter(&self, deadline: Instant) -> io::Result<Option<Pass<'_>>> {
        let mut state = self.lock();
        loop {
            if let Some(end) = state.end.clone() {
                drop(state);
                return Err(self.failed(end.error()));
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            let rest = state.rest_until.filter(|&until| until > now);
            if rest.is_none() && state.under_way < self.requests_max {
                state.under_way += 1;
                self.figures.begin();
                return Ok(Some(Pass(self)));
            }
            state = self.wait(state, rest.unwrap_or(deadline).min(deadline));
        }
    }

    /// Waits until the given time. Fails if the policy ends meanwhile.
    fn pause(&self, until: Instant) -> io::Result<()> {
        let mut state = self.lock();
        loop {
            if let Some(end) = state.end.clone() {
                drop(state);
                return Err(self.failed(end.error()));
            }
            if Instant::now() >= until {
                return Ok(());
            }
            state = self.wait(state, until);
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        let timeout = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(state, timeout);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Blocks new requests for the given time.
    fn rest(&self, wait: Duration) {
        let until = later(Instant::now(), wait);
        let mut state = self.lock();
        state.rest_until = state.rest_until.max(Some(until));
    }

    fn failed(&self, error: io::Error) -> io::Error {
        SourceStats::add(&self.figures.failures, 1);
        error
    }

    fn given_up(
        &self,
        doing: &Doing,
        began: Instant,
        tries: u32,
        last: Option<io::Error>,
    ) -> io::Error {
        let (place, seconds) = (&self.place, began.elapsed().as_secs_f64());
        let told = match last {
            Some(last) => {
                let times = if tries == 1 { "once" } else { &format!("{tries} times") };
                format!("{place}: {doing} was tried {times} in {seconds:.1} s; at last: {last}")
            }
            None => format!(
                "{place}: {doing} was not even tried in {seconds:.1} s, for other requests \
                 were under way or the server wants to be left alone"
            ),
        };
        self.failed(io::Error::new(io::ErrorKind::TimedOut, told))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Returns the delay after the given number of attempts.
fn wait_after(tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    WAIT_MIN.saturating_mul(1 << doublings).min(WAIT_MAX)
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
