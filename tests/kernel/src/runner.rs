//! Runs scenarios, several at a time, and reports their results.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};

use crate::context::{Context, Scenario};
use crate::kernel::Kernel;
use crate::tools::Tools;

/// The settings for a run of scenarios.
pub struct Runner {
    /// The kernel.
    pub kernel: Kernel,
    /// The project's programs.
    pub tools: Tools,
    /// Seed of all random choices.
    pub seed: u64,
    /// Parent folder of the scenarios' folders. A folder stays if its scenario fails.
    pub folder: PathBuf,
    /// Number of scenarios that run at a time.
    pub jobs: usize,
}

/// Number of scenarios by result.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Scenarios in which kernel and tools agree.
    pub passed: usize,
    /// Scenarios in which they do not.
    pub failed: usize,
}

impl Runner {
    /// Runs `scenarios`, and prints each result as soon as it is known.
    ///
    /// # Errors
    /// If the folder cannot be created. A failed scenario is not an error.
    pub fn run(&self, scenarios: &[&Scenario]) -> Result<Totals> {
        fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        let queue = Mutex::new(scenarios.iter());
        let totals = Mutex::new(Totals::default());
        thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().map_or(None, |mut queue| queue.next());
                        let Some(scenario) = next else { break };
                        let passed = self.run_one(scenario);
                        if let Ok(mut totals) = totals.lock() {
                            *(if passed { &mut totals.passed } else { &mut totals.failed }) += 1;
                        }
                    }
                });
            }
        });
        totals.into_inner().map_err(|_| anyhow!("a scenario's thread died"))
    }

    fn run_one(&self, scenario: &Scenario) -> bool {
        let begin = Instant::now();
        let folder = self.folder.join(scenario.name);
        let _ = fs::remove_dir_all(&folder);
        let context = Context::new(&self.kernel, &self.tools, self.seed, folder.clone());
        let outcome = match fs::create_dir_all(&folder) {
            Ok(()) => catch_unwind(AssertUnwindSafe(|| (scenario.run)(&context)))
                .unwrap_or_else(|panic| Err(anyhow!("{}", panic_message(&*panic)))),
            Err(error) => Err(error.into()),
        };
        let said = context.said();
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        let seconds = begin.elapsed().as_secs_f64();
        let mut report =
            format!("{verdict} {}: {} ({seconds:.1} s)", scenario.name, scenario.shows);
        for line in said {
            report += &format!("\n    {line}");
        }
        if let Err(error) = &outcome {
            report += &format!("\n{error:#}\n{}", self.how_to_look(scenario, &folder));
        }
        println!("{report}");
        if outcome.is_ok() {
            let _ = fs::remove_dir_all(&folder);
        }
        outcome.is_ok()
    }

    fn how_to_look(&self, scenario: &Scenario, folder: &Path) -> String {
        let (name, seed, folder) = (scenario.name, self.seed, folder.display());
        format!(
            "The images are kept in {folder}; vm-N/console there is what a guest's kernel said.\n\
             look:   clone_check IMAGE; clone_dump IMAGE\n\
             try it: tests/kernel/run --shell {folder}/IMAGE...\n\
             replay: TEST_SEED={seed} tests/kernel/run {name}"
        )
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}
