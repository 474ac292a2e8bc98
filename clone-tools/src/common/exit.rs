//! The exit codes of all tools, and the conversion of a result into one.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::common::output::ReaderGone;

/// The outcome of a tool. Scripts rely on the numbers: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The tool succeeded.
    Success = 0,
    /// The metadata is damaged, or the work could not be done.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Only from `clone_check`: sound but untidy. A kernel opens the metadata and keeps it intact.
    NonFatal = 3,
}

/// The description of the exit codes in the help of each tool.
pub const HELP: &str = "\
Exit codes:
  0  success; also if the output pipe is closed early
  1  the metadata is damaged, or the work could not be done
  2  the command line is wrong";

/// The same for `clone_check`.
pub const CHECK_HELP: &str = "\
Exit codes:
  0  sound
  1  damaged: a kernel would refuse, misread or overwrite it; or it could not be checked
  2  the command line is wrong
  3  sound but untidy (leaked blocks and the like): a kernel opens it, writes to it and leaves it
     intact; --auto-repair frees leaked blocks, --ignore-non-fatal-errors makes this 0";

/// Runs a tool: parses the command line, does the work, and reports an error on stderr.
pub fn run<Args>(
    command_line: impl IntoIterator<Item = OsString>,
    work: impl FnOnce(&Tool, &Args) -> anyhow::Result<Exit>,
) -> ExitCode
where
    Args: Parser + CommandFactory,
{
    ignore_file_size_signal();
    let tool = Tool { name: Args::command().get_name().to_owned() };
    let outcome = match Args::try_parse_from(command_line) {
        Ok(args) => work(&tool, &args),
        Err(error) => Err(error.into()),
    };
    let exit = outcome.unwrap_or_else(|error| tool.report(&error));
    ExitCode::from(exit as u8)
}

/// The name of a tool, for its messages on stderr.
#[derive(Debug)]
pub struct Tool {
    name: String,
}

impl Tool {
    /// Writes `message` to stderr, after the name of the tool.
    pub fn say(&self, message: impl fmt::Display) {
        // If stderr cannot be written, there is nowhere to report that.
        let _ = writeln!(io::stderr(), "{}: {message}", self.name);
    }

    fn report(&self, error: &anyhow::Error) -> Exit {
        if let Some(error) = error.downcast_ref::<clap::Error>() {
            return self.report_usage(error);
        }
        if is_reader_gone(error) {
            return Exit::Success;
        }
        self.say(format_args!("{error:#}"));
        Exit::Failure
    }

    /// Prints a clap error. Help and version are errors to clap, but they count as success.
    fn report_usage(&self, error: &clap::Error) -> Exit {
        let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        match error.print() {
            _ if !asked_for => Exit::Usage,
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.say(format_args!("cannot write to stdout: {error}"));
                Exit::Failure
            }
            _ => Exit::Success,
        }
    }
}

/// Returns a usage error for arguments that are valid one by one but not together.
pub fn usage_error<Args: CommandFactory>(message: impl fmt::Display) -> anyhow::Error {
    Args::command().error(ErrorKind::ValueValidation, message).into()
}

/// Returns whether a tool failed because the reader of its output is gone. A broken pipe alone does
/// not prove that: a write to a metadata device can fail with the same error.
fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref().is_some_and(ReaderGone::is_in))
}

/// Makes a write past RLIMIT_FSIZE fail like any other write. By default the kernel kills the
/// process with SIGXFSZ, and partial files would stay behind.
#[expect(unsafe_code, reason = "the standard library has no way to ignore a signal")]
fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN runs no code, and no other thread has started yet.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context;
    use persistent_data::{BlockNr, Error};

    use super::{Exit, Tool};
    use crate::common::output::ReaderGone;

    fn report(error: anyhow::Error) -> Exit {
        Tool { name: "test".to_owned() }.report(&error)
    }

    #[test]
    fn only_a_reader_that_is_gone_is_a_quiet_end() {
        let gone = Err::<(), _>(ReaderGone::error()).context("cannot write to stdout");
        assert_eq!(report(gone.unwrap_err()), Exit::Success);

        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        for error in [
            Error::Write { at: BlockNr(7), source: broken() }.into(),
            Error::Flush { source: broken() }.into(),
            anyhow::Error::from(broken()).context("cannot write to a file"),
        ] {
            assert_eq!(report(error), Exit::Failure);
        }
    }
}
