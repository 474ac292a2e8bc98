//! Tests the daemon against a model of every byte: users on several connections write to each
//! other's ranges; controllers suspend, resume and remove the clone; signals arrive; sources and
//! disks fail. Every reply must be one that a plain copy of the source could give, no request may
//! fail without a reason, and nothing may take longer than its environment explains.
//!
//! A seed determines the requests and the events, but not their timing: one run may miss what
//! another run with the same seed found. Environment variables, in addition to `TEST_SEED` and
//! `TEST_SEED_COUNT`:
//!
//! | | |
//! |---|---|
//! | `ORACLE_SECONDS=1800` | runs for this time, with one seed after another |
//! | `ORACLE_FROM=1000` | starts with this seed |
//! | `ORACLE_THEME=Direct` | runs only the seeds of one [theme](plan::Theme) |
//! | `ORACLE_GO_ON=1` | continues with other seeds after a finding |
//! | `ORACLE_BOUND=20` | time limit of every operation in seconds; default 60 |
//! | `ORACLE_CLONED=PATH` | another build of `cloned` |

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use persistent_data::sim::seeds;

use self::director::{Director, direct};
use self::plan::{Place, Plan};
use self::process::{Daemon, Small};
use self::run::{Run, Tally};
use self::source::Source;

mod content;
mod director;
mod disk;
mod fuse_user;
mod hydrated;
mod judge;
mod model;
mod plan;
mod process;
mod run;
mod source;
mod user;
mod verbs;
mod watchdog;
mod wire;

/// Number of seeds that cover all themes once.
const SEEDS: u64 = 18;

/// A file system in memory, if there is one.
const MEMORY: &str = "/dev/shm";

/// Runs one seed. The error is the finding.
fn run(seed: u64, tally: &Tally) -> Result<(), String> {
    let plan = Plan::new(seed);
    let in_memory = plan.place != Place::Disk && Path::new(MEMORY).is_dir();
    let folder = if in_memory { tempfile::tempdir_in(MEMORY) } else { tempfile::tempdir() };
    let folder = folder.unwrap();
    let run = Run::new(plan, folder.path().to_owned());
    let small = match run.plan.place {
        Place::Small(bytes) => match Small::mount(&folder.path().join("small"), bytes) {
            Some(small) => Some(small),
            None => return skip(seed, "mounting a small file system takes root"),
        },
        _ => None,
    };
    let is_volatile = matches!(run.plan.place, Place::Volatile { .. });
    if (run.plan.fuse_users > 0 || is_volatile) && !crate::fuse::can_mount() {
        return skip(seed, "FUSE file systems cannot be mounted here");
    }
    let Some(source) = Source::new(&run, folder.path()) else {
        return skip(seed, "there is no nbdkit here");
    };
    let daemon = Daemon::new(&run, &source, folder.path().to_owned());
    direct(Director::new(&run, daemon, &source, small));
    tally.add("runs", 1);
    tally.add_all(&run.tally);
    match run.finding() {
        None => Ok(()),
        Some(found) => {
            let log = watchdog::log(&run);
            Err(format!("{found}\n{log}\n{:#?}\nin this run: {}", run.plan, run.tally.told()))
        }
    }
}

/// Reports a skipped seed on stderr directly, past the capture of the test harness.
fn skip(seed: u64, why: &str) -> Result<(), String> {
    let _ = writeln!(io::stderr(), "SKIPPED: seed {seed} of the oracle: {why}");
    Ok(())
}

/// Returns a number from the environment.
fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Operations that must occur in one pass over all themes; otherwise the test shows less than it
/// seems to.
const SEEN: [&str; 8] =
    ["read", "write", "flush", "zeroes", "suspend", "event Kill", "event Remove", "truncations"];

#[test]
fn users_see_a_plain_copy_of_the_source_whatever_befalls_the_daemon() {
    let name = "users_see_a_plain_copy_of_the_source_whatever_befalls_the_daemon";
    let (tally, began) = (Tally::default(), Instant::now());
    let seconds = number("ORACLE_SECONDS").map(Duration::from_secs);
    let from = number("ORACLE_FROM").unwrap_or(0);
    let goes_on = env::var_os("ORACLE_GO_ON").is_some();
    let only = env::var("ORACLE_THEME").ok();
    let count = if seconds.is_some() { u64::MAX } else { SEEDS };
    let (mut findings, mut runs) = (Vec::new(), 0);
    for seed in seeds(name, count).skip_while(|seed| seed.value() < from) {
        if seconds.is_some_and(|seconds| began.elapsed() >= seconds) {
            break;
        }
        let theme = Plan::new(seed.value()).theme;
        if only.as_ref().is_some_and(|only| *only != format!("{theme:?}")) {
            continue;
        }
        let began = Instant::now();
        let result = run(seed.value(), &tally);
        println!("seed {} ({theme:?}): {:?}", seed.value(), began.elapsed());
        runs += 1;
        let Err(found) = result else { continue };
        println!("seed {} ({theme:?}): {found}", seed.value());
        findings.push(seed.value());
        assert!(goes_on, "seed {} ({theme:?}) has found something: see above", seed.value());
    }
    println!("in {:?}: {}", began.elapsed(), tally.told());
    assert!(findings.is_empty(), "something is wrong with the seeds {findings:?}");
    if runs >= SEEDS && only.is_none() {
        let missing: Vec<&str> = SEEN.into_iter().filter(|what| tally.get(what) == 0).collect();
        assert!(missing.is_empty(), "in {runs} runs, never: {missing:?}");
    }
}
