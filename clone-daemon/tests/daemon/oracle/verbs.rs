//! Commands on the control socket, while users are active.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clone_daemon::control::line::{Lines, write};
use clone_daemon::control::protocol::{ErrorKind, Item, Refusal, Reply, Request, Verb};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::plan::Place;
use super::run::{Mark, NAME, Run};

/// Longer than the limit of the watchdog.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// The result of a command.
pub(super) enum Answer {
    Done(Vec<Item>),
    Refused(Refusal),
    /// There is no daemon, or it ended.
    Gone(String),
}

/// Sends a command on the control socket and waits for the reply.
pub(super) fn ask(run: &Run, who: &str, verb: Verb) -> Answer {
    let waiting = run.waits.begin(format!("{who}: {verb:?}"));
    let answer = converse(run, verb).unwrap_or_else(Answer::Gone);
    drop(waiting);
    answer
}

fn converse(run: &Run, verb: Verb) -> Result<Answer, String> {
    let stream = UnixStream::connect(run.control()).map_err(|error| error.to_string())?;
    write(&mut &stream, &Request::new(verb)).map_err(|error| error.to_string())?;
    let mut lines = Lines::new(&stream);
    let mut items = Vec::new();
    loop {
        let reply: Option<Reply> = lines.next(LONG, LONG).map_err(|error| error.to_string())?;
        let reply = reply.ok_or("the daemon has hung up")?;
        match reply {
            Reply { item: Some(item), .. } => items.push(item),
            Reply { error: Some(refusal), .. } => return Ok(Answer::Refused(refusal)),
            _ => return Ok(Answer::Done(items)),
        }
    }
}

/// Number of resume commands, started and ended.
#[derive(Default)]
pub(super) struct Resumes {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Resumes {
    fn count(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::SeqCst);
        (self.begun.load(Ordering::SeqCst) == ended).then_some(ended)
    }
}

/// Sends commands until users must stop.
pub(super) fn say_things(run: &Run, number: u64, resumes: &Resumes, round: u64) {
    let mut random = StdRng::seed_from_u64(run.plan.seed << 20 ^ round << 8 ^ number << 4);
    let who = format!("controller {number}");
    while !run.is_ending() {
        match random.random_range(0..10) {
            0..4 if run.plan.suspends => suspend(run, &who, resumes, &mut random),
            4..7 if run.plan.messages => {
                let message = message(run, &mut random);
                say(run, &who, Verb::Message { name: NAME.into(), message });
            }
            7 => status(run, &who, random.random()),
            8 => drop(say(run, &who, Verb::Snapshot { name: NAME.into(), cells: 64 })),
            _ => thread::sleep(Duration::from_millis(random.random_range(0..40))),
        }
    }
}

/// Sends a command that cannot fail while the clone exists.
fn say(run: &Run, who: &str, verb: Verb) -> Option<Vec<Item>> {
    let mark = run.gate.mark();
    let told = format!("{verb:?}");
    let word = told.split([' ', '{']).next().unwrap_or_default().to_lowercase();
    let answer = ask(run, who, verb);
    run.tally.add(&word, 1);
    if let Some(complaint) = answer.complaint() {
        run.complain(mark, format!("{who}: {told} failed: {complaint}"));
    }
    match answer {
        Answer::Done(items) => Some(items),
        Answer::Refused(_) | Answer::Gone(_) => None,
    }
}

impl Answer {
    /// Returns the reason if the command failed.
    pub(super) fn complaint(&self) -> Option<String> {
        match self {
            Self::Done(_) => None,
            Self::Refused(refusal) => Some(format!("{:?}: {}", refusal.kind, refusal.message)),
            Self::Gone(error) => Some(error.clone()),
        }
    }
}

impl Run {
    /// Reports a failed command that began at `mark`, unless there is a reason for the failure.
    fn complain(&self, mark: Mark, told: String) {
        if !(self.gate.is_disturbed(mark) || self.is_over() || self.may_be_broken()) {
            self.find(told);
        }
    }
}

fn suspend(run: &Run, who: &str, resumes: &Resumes, random: &mut StdRng) {
    let submitted = run.known().model.advance();
    let (mark, before) = (run.gate.mark(), resumes.count());
    let answer = ask(run, who, Verb::Suspend { name: NAME.into() });
    run.tally.add("suspend", 1);
    let is_alone = before.is_some() && resumes.count() == before;
    let suspended = matches!(answer, Answer::Done(_));
    // A waiting suspend may be told that another controller has resumed the clone.
    if let Some(complaint) = answer.complaint().filter(|_| is_alone) {
        run.complain(mark, format!("{who}: suspend failed: {complaint}"));
    }
    // Writes acknowledged before the suspend are now committed, unless another controller has
    // resumed the clone meanwhile. This is not a flush: writes to hydrated regions survive only
    // kill -9.
    let is_safe = !matches!(run.plan.place, Place::Volatile { .. });
    if suspended && is_safe && is_alone {
        run.known().model.flush(submitted);
    }
    thread::sleep(Duration::from_millis(random.random_range(0..120)));
    resumes.begun.fetch_add(1, Ordering::SeqCst);
    say(run, who, Verb::Resume { name: NAME.into() });
    resumes.ended.fetch_add(1, Ordering::SeqCst);
}

fn status(run: &Run, who: &str, flush: bool) {
    let submitted = run.known().model.advance();
    let mark = run.gate.mark();
    let items = say(run, who, Verb::Status { name: Some(NAME.into()), flush });
    let Some([Item::Clone(clone)]) = items.as_deref() else { return };
    if run.gate.is_disturbed(mark) {
        return;
    }
    let mut known = run.known();
    let now = known.model.advance();
    let counted = match run.may_be_broken() {
        true => Ok(()),
        false => known.hydrated.counted(clone.hydrated_regions, submitted, now),
    };
    drop(known);
    if let Err(told) = counted {
        run.find(format!("{who}: {told}"));
    }
    let is_well = clone.state == "running" && clone.mode.as_deref() == Some("rw");
    if !is_well && !run.may_be_broken() {
        run.find(format!("the clone is {} {:?}: {}", clone.state, clone.mode, clone.status));
    }
}

/// Returns a random message.
fn message(run: &Run, random: &mut StdRng) -> String {
    let rates = ["64k", "512k", "4M", "0"];
    match random.random_range(0..9) {
        0 => "enable_hydration".into(),
        1 => "disable_hydration".into(),
        2 => format!("hydration_threshold {}", random.random_range(1..40)),
        3 => format!("hydration_batch_size {}", random.random_range(1..40)),
        4 => format!("hydration_rate {}", rates[random.random_range(0..4)]),
        5 => format!("hydrate_on_read {}", if random.random() { "on" } else { "off" }),
        6 => format!("max_failures {}", random.random_range(0..5)),
        _ => {
            let start = random.random_range(0..run.plan.size / 512) * 512;
            let end = run.plan.size.min(start + random.random_range(1..400) * 512);
            format!("hydrate {start} {}", end - start)
        }
    }
}

/// Removes the clone.
pub(super) fn remove(run: &Run, who: &str) -> Result<(), Refusal> {
    match ask(run, who, Verb::Remove { name: NAME.into() }) {
        Answer::Done(_) => Ok(()),
        Answer::Refused(refusal) => Err(refusal),
        Answer::Gone(error) => Err(Refusal::new(ErrorKind::Other, error)),
    }
}
