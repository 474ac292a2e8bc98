//! Reports all pending waits when an operation takes too long.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::run::Run;
use super::source::Source;
use super::user::Flight;

/// Polling interval.
const GLANCE: Duration = Duration::from_millis(100);

/// Number of bytes shown from the daemon's log.
const LOG_TOLD: usize = 6000;

/// A pending wait.
#[derive(Clone, Debug)]
struct Wait {
    what: String,
    since: Instant,
}

/// All pending waits except for requests on connections, which the flights track.
#[derive(Default)]
pub(super) struct Waits {
    waits: Mutex<Table>,
    flights: Mutex<Vec<(String, Weak<Flight>)>>,
}

#[derive(Default)]
struct Table {
    next: u64,
    waits: BTreeMap<u64, Wait>,
    /// The last waits that began, ended or not.
    last: Vec<String>,
}

/// Returns the time limit of every operation, without what its environment adds: `ORACLE_BOUND` in
/// seconds. The default is generous, for busy machines.
pub(super) fn bound() -> Duration {
    let told = std::env::var("ORACLE_BOUND").ok();
    Duration::from_secs(told.map_or(60, |seconds| seconds.parse().unwrap()))
}

impl Waits {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a wait, which ends when the result is dropped.
    pub(super) fn begin(&self, what: impl Into<String>) -> Waiting<'_> {
        let what = what.into();
        let mut table = self.table();
        table.next += 1;
        let id = table.next;
        table.last.push(what.clone());
        if table.last.len() > 12 {
            table.last.remove(0);
        }
        table.waits.insert(id, Wait { what, since: Instant::now() });
        Waiting { waits: self, id }
    }

    pub(super) fn add_flight(&self, who: String, flight: &Arc<Flight>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|(_, flight)| flight.strong_count() > 0);
        flights.push((who, Arc::downgrade(flight)));
    }

    fn flights(&self) -> Vec<(String, Arc<Flight>)> {
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let there = |(who, flight): &(String, Weak<Flight>)| Some((who.clone(), flight.upgrade()?));
        flights.iter().filter_map(there).collect()
    }

    /// Returns a wait that takes too long.
    fn late(&self, bound: Duration) -> Option<String> {
        let table = self.table();
        let mut late = table.waits.values().filter(|wait| wait.since.elapsed() > bound);
        if let Some(wait) = late.next() {
            return Some(format!("{} takes {:?}", wait.what, wait.since.elapsed()));
        }
        drop(table);
        self.flights().iter().find_map(|(who, flight)| {
            let (what, since) = flight.oldest()?;
            let late = since.elapsed() > bound;
            late.then(|| format!("{who} has waited {:?} for {what}", since.elapsed()))
        })
    }

    /// Describes all pending waits.
    fn told(&self) -> String {
        let mut told = String::from("waited for:\n");
        let table = self.table();
        for wait in table.waits.values() {
            let _ = writeln!(told, "  {:?}: {}", wait.since.elapsed(), wait.what);
        }
        let _ = writeln!(told, "the last that began: {}", table.last.join("; "));
        drop(table);
        for (who, flight) in self.flights() {
            let _ = write!(told, "{who}:\n{}", flight.told());
        }
        told
    }
}

/// A pending wait; dropping it ends the wait.
pub(super) struct Waiting<'a> {
    waits: &'a Waits,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waits.table().waits.remove(&self.id);
    }
}

/// Watches a run and its source until `is_done`. An operation that takes too long is a finding;
/// then the daemon is killed, so that all waits end.
pub(super) fn watch(run: &Run, source: &Source, is_done: &dyn Fn() -> bool) {
    let bound = bound() + run.plan.delay();
    while !is_done() {
        if let Some(status) = source.revive() {
            run.tally.add(&format!("sources that died by themselves ({status})"), 1);
        }
        if !run.is_over()
            && let Some(late) = run.waits.late(bound)
        {
            run.find(format!("{late}\n{}", report(run)));
        }
        if run.is_over() {
            end(run);
        }
        thread::sleep(GLANCE);
    }
}

/// Kills the daemon, if it runs.
fn end(run: &Run) {
    let pid = run.pid.swap(0, Ordering::AcqRel);
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        // It may have ended already. Its exit status is collected elsewhere.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Describes the pending waits and the threads of the daemon.
fn report(run: &Run) -> String {
    let mut told = run.waits.told();
    let pid = run.pid.load(Ordering::Acquire);
    if pid != 0 {
        told.push_str(&threads(pid));
        told.push_str(&backtraces(pid));
    }
    told
}

/// Returns the end of the daemon's log.
pub(super) fn log(run: &Run) -> String {
    let log = fs::read(run.folder.join("log")).unwrap_or_default();
    let from = log.len().saturating_sub(LOG_TOLD);
    format!("the end of the daemon's log:\n{}", String::from_utf8_lossy(&log[from..]))
}

/// Describes where the threads of the daemon are in the kernel, grouped by place.
fn threads(pid: u32) -> String {
    let folder = format!("/proc/{pid}/task");
    let Ok(tasks) = fs::read_dir(folder) else { return String::new() };
    let mut places: HashMap<String, u32> = HashMap::new();
    for task in tasks.filter_map(Result::ok).map(|task| task.path()) {
        let read = |name: &str| read_line(&task.join(name));
        // The number of the system call without its arguments.
        let call = read("syscall").split(' ').next().unwrap_or_default().to_owned();
        let place = [read("comm"), read("wchan"), call, read("stack")].join(" | ");
        *places.entry(place).or_default() += 1;
    }
    let mut places: Vec<String> =
        places.into_iter().map(|(place, count)| format!("  {count} × {place}")).collect();
    places.sort();
    format!("threads of the daemon, process {pid}:\n{}\n", places.join("\n"))
}

fn read_line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

/// Returns backtraces of all threads, if gdb is installed.
fn backtraces(pid: u32) -> String {
    let mut gdb = Command::new("timeout");
    gdb.args(["60", "gdb", "-batch", "-nx", "-ex", "set pagination off"]);
    gdb.args(["-ex", "thread apply all bt 24", "-p", &pid.to_string()]);
    match gdb.stdin(Stdio::null()).stderr(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            let told: Vec<&str> = text.lines().filter(|line| is_told(line)).collect();
            format!("backtraces:\n{}\n", told.join("\n"))
        }
        _ => "no backtraces: there is no gdb here, or it could not attach\n".to_owned(),
    }
}

/// Keeps the name of a thread, its current place, and the frames of this workspace.
fn is_told(line: &str) -> bool {
    let is_ours = line.contains(" at clone-") || line.contains(" at persistent-data");
    line.starts_with("Thread") || line.starts_with("#0") || line.starts_with('#') && is_ours
}
