//! The daemon against a model of every byte: users of several connections who write to each other's
//! ranges, controllers who suspend, resume and remove, signals, and sources and disks that fail.
//! Whatever is answered must be what a plain copy of the source could answer, no request may fail
//! without a reason, and nothing may take longer than its world explains.
//!
//! A seed decides what is asked for and what befalls the daemon, but not when: what one run has
//! found another one with the same seed may miss. In the environment, beside `TEST_SEED` and
//! `TEST_SEED_COUNT`:
//!
//! | | |
//! |---|---|
//! | `ORACLE_SECONDS=1800` | goes on for so long, with one seed after the other |
//! | `ORACLE_FROM=1000` | begins with this seed |
//! | `ORACLE_THEME=Direct` | runs only the seeds of one of the [themes](plan::Theme) |
//! | `ORACLE_GO_ON=1` | goes on with other seeds when something is found |
//! | `ORACLE_BOUND=20` | seconds that anything may take, in place of 60 |
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

/// One turn of all themes.
const SEEDS: u64 = 18;

/// A file system in memory, if there is one.
const MEMORY: &str = "/dev/shm";

/// Runs one seed. What was found is the error.
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

/// Says past what the test harness catches that a seed is left out.
fn skip(seed: u64, why: &str) -> Result<(), String> {
    let _ = writeln!(io::stderr(), "SKIPPED: seed {seed} of the oracle: {why}");
    Ok(())
}

/// A number in the environment.
fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// What must have happened in a turn of all themes, or it shows less than it seems to.
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
