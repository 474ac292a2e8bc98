//! When to try again what failed, how often, and for how long.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clone_core::block_io::SourceChanged;

use super::options::SourceOptions;
use super::remote::{Busy, Trouble};
use super::stats::SourceFigures;

/// The first wait before something is tried again; each that follows is twice as long.
const WAIT_MIN: Duration = Duration::from_millis(50);
/// The longest wait that nobody asked for.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The longest wait that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// How often something has failed when that is told.
const TOLD_AFTER: u32 = 3;
/// How often the time that a request may take is doubled at most.
const DOUBLINGS_MAX: u32 = 3;

/// The patience that is had with one remote source, by all who read it.
///
/// *Invariant:* once it has [ended](Self::end), for the source has changed or nobody wants it any
/// more, nothing succeeds.
pub(super) struct Patience {
    /// The source, as errors name it.
    place: String,
    timeout: Duration,
    give_up_after: Duration,
    requests_max: usize,
    state: Mutex<State>,
    /// A request has ended, or everything has.
    changed: Condvar,
    pub(super) figures: Arc<SourceFigures>,
}

#[derive(Default)]
struct State {
    under_way: usize,
    /// The server wants to be left alone until then.
    rest_until: Option<Instant>,
    /// It was told that the source does not answer, and it has not answered since.
    is_told: bool,
    end: Option<End>,
}

/// Why there will be no more requests.
#[derive(Clone)]
pub(super) enum End {
    /// The source is not what it was.
    Changed(SourceChanged),
    /// Nobody wants it any more.
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

/// What is tried, for errors.
#[derive(Clone)]
pub(super) enum Doing {
    /// To open the source.
    Open,
    /// To read bytes of it.
    Read(Range<u64>),
    /// To ask for what is known of the bytes from one on.
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

/// A request that is under way.
struct Pass<'a>(&'a Patience);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.figures.end();
        self.0.lock().under_way -= 1;
        // Not all who wait are waiting for this.
        self.0.changed.notify_all();
    }
}

impl Patience {
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

    /// Until when something that begins now is tried.
    pub(super) fn deadline(&self, doing: &Doing) -> Instant {
        let limit = match doing {
            // Reading tells as well, and has its own time.
            Doing::Extent(_) => self.timeout.min(self.give_up_after),
            Doing::Open | Doing::Read(_) => self.give_up_after,
        };
        later(Instant::now(), limit)
    }

    /// From now on nothing succeeds. The first reason counts.
    pub(super) fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// The error of everything, if all has ended.
    pub(super) fn ended(&self) -> Option<io::Error> {
        self.lock().end.clone().map(End::error)
    }

    /// Has `act` done by `deadline`, again and again where that may help. It is given the time by
    /// which it must have ended.
    pub(super) fn persist<T>(
        &self,
        doing: &Doing,
        deadline: Instant,
        mut act: impl FnMut(Instant) -> Result<T, Trouble>,
    ) -> io::Result<T> {
        let began = Instant::now();
        let mut tries = 0;
        let mut last = None;
        loop {
            // What is known of extents is no reason to let data wait.
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
            if let Err(Trouble::Passing(error)) = &result
                && let Some(wait) = Busy::wait_of(error)
            {
                // Before others may enter in its place.
                self.rest(wait.min(RETRY_AFTER_MAX));
            }
            drop(pass);
            tries += 1;
            let error = match result {
                Ok(done) => {
                    self.tell_success(doing);
                    return self.ended().map_or(Ok(done), Err);
                }
                Err(Trouble::Changed(changed)) => {
                    self.end(End::Changed(changed.clone()));
                    return Err(self.failed(changed.into()));
                }
                Err(Trouble::Final(error)) => {
                    let told = format!("{}: {doing}: {error}", self.place);
                    return Err(self.failed(io::Error::new(error.kind(), told)));
                }
                Err(Trouble::Passing(error)) => error,
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
            SourceFigures::add(&self.figures.retries, 1);
        }
    }

    /// Says once that the source fails, until it does not any more. That one request fails for
    /// once is nothing.
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

    /// How long a request may take that has been tried so often.
    fn time_for(&self, tries: u32) -> Duration {
        self.timeout.saturating_mul(1 << tries.min(DOUBLINGS_MAX))
    }

    /// Waits until a request may be made, `None` if that takes too long.
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

    /// Waits until that time, unless all ends meanwhile.
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

    /// Leaves the server alone for so long.
    fn rest(&self, wait: Duration) {
        let until = later(Instant::now(), wait);
        let mut state = self.lock();
        state.rest_until = state.rest_until.max(Some(until));
    }

    fn failed(&self, error: io::Error) -> io::Error {
        SourceFigures::add(&self.figures.failures, 1);
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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wait after so many tries.
fn wait_after(tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    WAIT_MIN.saturating_mul(1 << doublings).min(WAIT_MAX)
}

/// Between half of `wait` and all of it, so that those who failed together do not come back
/// together.
fn jittered(wait: Duration) -> Duration {
    // The only randomness of the standard library: each has keys of its own.
    let part = RandomState::new().hash_one(()) % 1024;
    wait / 2 + wait / 2 * u32::try_from(part).unwrap_or(0) / 1024
}

/// A time that is never before `from`.
fn later(from: Instant, wait: Duration) -> Instant {
    // Whoever wants to wait for ever waits for a century.
    from.checked_add(wait).unwrap_or_else(|| from + Duration::from_secs(100 * 365 * 86_400))
}
