//! Runs scenarios against a real kernel. `tests/kernel/run` calls it with all arguments.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use kernel_judge::kernel::Kernel;
use kernel_judge::runner::Runner;
use kernel_judge::scenarios::ALL;
use kernel_judge::tools::Tools;
use kernel_judge::vm::Vm;

/// Runs scenarios in which a real kernel judges the project's programs.
#[derive(Parser)]
struct Args {
    /// The scenarios; all if none is named.
    scenarios: Vec<String>,

    /// Lists the scenarios.
    #[arg(long, conflicts_with = "shell")]
    list: bool,

    /// Starts a guest with these images as its disks, and runs commands from the terminal in it.
    #[arg(long, num_args = 1.., value_name = "IMAGE", conflicts_with = "scenarios")]
    shell: Vec<PathBuf>,

    /// Number of scenarios that run at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,

    /// The folder made by `tests/kernel/prepare`.
    #[arg(long, value_name = "FOLDER", hide = true)]
    kernel: PathBuf,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.list {
        for scenario in ALL {
            println!("{}: {}", scenario.name, scenario.shows);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let programs = env::current_exe()?.parent().context("a folder of programs")?.to_owned();
    let kernel = Kernel::prepare(&args.kernel, &[programs.join("block_io")])?;
    if !args.shell.is_empty() {
        shell(&kernel, &args.shell)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut scenarios = Vec::new();
    for name in &args.scenarios {
        match ALL.iter().find(|scenario| scenario.name == name) {
            Some(scenario) => scenarios.push(scenario),
            None => bail!("there is no scenario {name:?}: --list tells which there are"),
        }
    }
    if scenarios.is_empty() {
        scenarios = ALL.iter().collect();
    }
    let seed = match env::var("TEST_SEED") {
        Ok(seed) => seed.parse().context("TEST_SEED")?,
        Err(_) => 1,
    };
    println!("The judge: Linux {}.", kernel.release()?);
    let folder = programs.join("kernel-judge");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let lock = fs::File::create(folder.join("lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("Another run uses {}: waiting for its end.", folder.display());
        lock.lock()?;
    }
    let runner = Runner { kernel, tools: Tools::new(&programs), seed, folder, jobs: args.jobs };
    let totals = runner.run(&scenarios)?;
    // In the format of test programs, for scripts that add up the results.
    println!(
        "\ntest result: {}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out",
        if totals.failed == 0 { "ok" } else { "FAILED" },
        totals.passed,
        totals.failed,
    );
    Ok(if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs commands from the terminal, a line at a time.
fn shell(kernel: &Kernel, images: &[PathBuf]) -> Result<()> {
    let folder = env::temp_dir().join(format!("kernel-judge-{}", std::process::id()));
    let mut vm = Vm::start(kernel, &folder)?;
    for image in images {
        let disk = vm.attach(&fs::canonicalize(image)?)?;
        eprintln!("{} is {disk}", image.display());
    }
    let prompt = || {
        if io::stdin().is_terminal() {
            eprint!("# ");
            let _ = io::stderr().flush();
        }
    };
    prompt();
    for line in io::stdin().lock().lines() {
        let output = vm.run(&line?)?;
        print!("{}", output.text);
        if output.code != 0 {
            eprintln!("[exit {}]", output.code);
        }
        prompt();
    }
    drop(vm);
    fs::remove_dir_all(&folder)?;
    Ok(())
}
