//! Runs tools, and describes a run in full if it did not go as expected.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;

/// The time limit of a tool: far longer than any needs, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The path of a tool's binary.
pub(crate) fn binary(tool: &str) -> &'static Path {
    Path::new(match tool {
        "clone_check" => env!("CARGO_BIN_EXE_clone_check"),
        "clone_dump" => env!("CARGO_BIN_EXE_clone_dump"),
        "clone_restore" => env!("CARGO_BIN_EXE_clone_restore"),
        "clone_repair" => env!("CARGO_BIN_EXE_clone_repair"),
        "clone_hydrate" => env!("CARGO_BIN_EXE_clone_hydrate"),
        "clone_metadata_size" => env!("CARGO_BIN_EXE_clone_metadata_size"),
        "clone_map" => env!("CARGO_BIN_EXE_clone_map"),
        "clone_metadata_pack" => env!("CARGO_BIN_EXE_clone_metadata_pack"),
        "clone_metadata_unpack" => env!("CARGO_BIN_EXE_clone_metadata_unpack"),
        "clone_generate_metadata" => env!("CARGO_BIN_EXE_clone_generate_metadata"),
        "clone_generate_damage" => env!("CARGO_BIN_EXE_clone_generate_damage"),
        tool => panic!("no tool is called {tool}"),
    })
}

/// The result of a process.
#[derive(Debug)]
pub(crate) struct Ran {
    line: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn new(line: String, output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).expect("messages are text");
        assert!(!stderr.contains("panicked"), "{line}: {stderr}");
        Self { line, code: output.status.code(), stdout: output.stdout, stderr }
    }

    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "not said on stderr: {words:?}\n{self}");
        self
    }

    #[track_caller]
    pub(crate) fn stays_silent_on_stderr(self) -> Self {
        // If hydration takes ten seconds on a busy machine, it prints its progress.
        let is_progress = |line: &str| {
            let is_quiet = self.line.contains("\"-q\"");
            !is_quiet && line.starts_with("clone_hydrate: ") && line.contains(" % hydrated")
        };
        assert!(self.stderr.lines().all(is_progress), "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn leaves_stdout_empty(self) -> Self {
        assert!(self.stdout.is_empty(), "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn stays_silent(self) -> Self {
        self.stays_silent_on_stderr().leaves_stdout_empty()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = self.text().chars().take(2000).collect::<String>();
        let Self { line, code, stderr, .. } = self;
        write!(f, "{line}\nexit code: {code:?}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// Returns a command that runs a tool with arguments.
pub(crate) fn command<S: AsRef<OsStr>>(tool: &str, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary(tool));
    command.args(args).env_remove("COLUMNS").timeout(TIMEOUT);
    command
}

pub(crate) fn run<S: AsRef<OsStr>>(tool: &str, args: impl IntoIterator<Item = S>) -> Ran {
    run_with_stdin(tool, args, Vec::new())
}

pub(crate) fn run_with_stdin<S: AsRef<OsStr>>(
    tool: &str,
    args: impl IntoIterator<Item = S>,
    stdin: impl Into<Vec<u8>>,
) -> Ran {
    let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    let line = format!("{tool} {args:?}");
    let output = command(tool, &args).write_stdin(stdin).output().expect("the tool runs");
    Ran::new(line, output)
}

/// Runs a tool from a shell after `prepare`, for example to lower a limit.
pub(crate) fn run_after<S: AsRef<OsStr>>(
    prepare: &str,
    tool: &str,
    args: impl IntoIterator<Item = S>,
) -> Ran {
    let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    let line = format!("{prepare}; {tool} {args:?}");
    let output = Command::new("sh")
        .args(["-c", &format!("{prepare}; exec \"$@\""), "sh"])
        .arg(binary(tool))
        .args(&args)
        .timeout(TIMEOUT)
        .output()
        .expect("sh runs");
    Ran::new(line, output)
}

/// A temporary folder, removed at the end of the test.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().expect("a temporary folder"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file");
        path
    }

    /// Returns the names of the files in it.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the folder is there");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }
}

/// Returns the seed of a random test. `TEST_SEED` sets it to replay a run.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = match std::env::var("TEST_SEED") {
        Ok(seed) => seed.parse().expect("TEST_SEED is a number"),
        Err(_) => 0x5eed,
    };
    println!("seed={seed}; replay: TEST_SEED={seed} cargo test -p clone-tools --test cli {test}");
    seed
}
