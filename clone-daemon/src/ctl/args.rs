//! The command line of `clonectl`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Look at the clones that cloned serves, and change them.
///
/// The verbs are those of dmsetup, and messages are the kernel's and some more. cloned is asked on
/// its control socket, which only root and the user can open that it runs as.
#[derive(Debug, Parser)]
#[command(
    name = "clonectl",
    version,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs"
)]
#[command(disable_help_subcommand = true, propagate_version = true, after_help = AFTER_HELP)]
pub struct ClonectlArgs {
    /// The control socket of cloned. Without it, and without CLONED_SOCKET in the environment, it
    /// is /run/cloned.sock for root, or that of the systemd unit, /run/cloned/cloned.sock, and
    /// cloned.sock in $XDG_RUNTIME_DIR for others.
    #[arg(long, value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The exit codes, for the help of every verb.
const EXIT_CODES: &str = "\
Exit codes:
  0  done; also when whoever reads the output stops early
  1  it could not be done: cloned does not run, there is no such clone, or the clone says why
  2  the command line is wrong";

const AFTER_HELP: &str = "\
Exit codes:
  0  done; also when whoever reads the output stops early
  1  it could not be done: cloned does not run, there is no such clone, or the clone says why
  2  the command line is wrong

Examples:
  clonectl ls
  clonectl status disk
  clonectl message disk hydration_rate 50M
  clonectl wait disk && echo something happened to it
  clonectl events --follow --json | jq .what
  clonectl watch disk

clonectl VERB --help tells more about each verb.";

/// A verb.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the clones
    #[command(after_help = EXIT_CODES)]
    Ls {
        /// Print one JSON array, of what status --json prints.
        #[arg(long)]
        json: bool,
    },

    /// Print status lines, as the kernel target and dmsetup do
    ///
    /// Prints `<start> <length> clone` and the kernel's status. Without NAME all clones are told,
    /// each with its name before it.
    #[command(after_help = status_help())]
    Status {
        /// Which clone.
        name: Option<String>,

        /// Do not commit before; what is told may be a second old on disk.
        #[arg(long)]
        noflush: bool,

        /// Print JSON: one object if there is a NAME, else an array of them.
        #[arg(long)]
        json: bool,
    },

    /// Print table lines, as dmsetup does
    #[command(after_help = EXIT_CODES)]
    Table {
        /// Which clone; all if there is none, each with its name before it.
        name: Option<String>,
    },

    /// Give a clone a message
    ///
    /// The kernel's messages: hydration_threshold N, hydration_batch_size N, enable_hydration,
    /// disable_hydration. Others: hydration_rate SIZE (a second; 0 for no limit), hydrate_on_read
    /// on|off, hydrate OFFSET LENGTH (in bytes: this range next), max_failures N (0 for never).
    #[command(after_help = message_help())]
    Message {
        /// Which clone.
        name: String,

        /// The message. A number before it is taken for the sector that dmsetup wants there, and
        /// must be 0.
        #[arg(required = true, allow_hyphen_values = true)]
        message: Vec<String>,
    },

    /// Bring a clone to rest, and commit: what comes for it waits
    #[command(after_help = EXIT_CODES)]
    Suspend {
        /// Which clone.
        name: String,
    },

    /// Let a suspended clone go on
    #[command(after_help = EXIT_CODES)]
    Resume {
        /// Which clone.
        name: String,
    },

    /// Wait until something happens to a clone
    ///
    /// Returns when the number of its last event is above EVENT_NR, at once if it is already, as
    /// dmsetup does. ls and status --json tell the number of the last event.
    #[command(after_help = wait_help())]
    Wait {
        /// Which clone.
        name: String,

        /// The number of the last event that is known.
        #[arg(default_value_t = 0)]
        event_nr: u64,

        /// Print the events that came.
        #[arg(short, long)]
        verbose: bool,
    },

    /// Print what happened
    #[command(after_help = events_help())]
    Events {
        /// Which clone; all if there is none.
        name: Option<String>,

        /// Go on, and print what happens from now on.
        #[arg(short, long)]
        follow: bool,

        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },

    /// Have cloned serve one more clone
    ///
    /// It is not written to a clonetab: when cloned is started again it does not know it.
    #[command(after_help = create_help())]
    Create(CreateArgs),

    /// Stop a clone: what is under way ends, and all is committed
    #[command(after_help = EXIT_CODES)]
    Remove {
        /// Which clone.
        name: String,
    },

    /// Have cloned read its clonetab again
    ///
    /// Clones whose lines are new are started, those whose lines are gone are stopped, and the
    /// others are left alone.
    #[command(after_help = EXIT_CODES)]
    Reload,

    /// Show a clone while it hydrates, until q is pressed
    ///
    /// Where stdout is no terminal, a line is printed now and then, until the clone is complete.
    #[command(after_help = EXIT_CODES)]
    Watch {
        /// Which clone.
        name: String,

        /// How often it is looked at, in seconds: 0.1 to 60.
        #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
        interval: f64,
    },
}

/// A clone to be created: a line as in a clonetab, or its parts by name.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The line: name, source, destination, metadata and, maybe, options with commas between.
    #[arg(value_names = ["NAME", "SOURCE", "DEST", "META", "OPTIONS"], num_args = 1..=5)]
    #[arg(required_unless_present = "name")]
    pub line: Vec<String>,

    /// What it is to be called.
    #[arg(long, conflicts_with = "line", requires_all = ["source", "destination", "metadata"])]
    pub name: Option<String>,

    /// What is cloned: a block device, a file, or a URI.
    #[arg(long, requires = "name")]
    pub source: Option<String>,

    /// What it is cloned to: a block device or a file.
    #[arg(long, value_name = "DEST", requires = "name")]
    pub destination: Option<String>,

    /// The metadata: a block device or a file.
    #[arg(long, value_name = "META", requires = "name")]
    pub metadata: Option<String>,

    /// Options as in a clonetab, with commas between.
    #[arg(short, long, requires = "name")]
    pub options: Option<String>,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.1..=60.0).contains(&seconds) { Ok(seconds) } else { Err("0.1 to 60 seconds".into()) }
}

fn status_help() -> String {
    format!(
        "{EXIT_CODES}\n\nExample:\n  $ clonectl status disk\n  0 2097152 clone 8 34/512 8 \
         17408/262144 0 0 4 hydration_threshold 1 hydration_batch_size 1 rw"
    )
}

fn message_help() -> String {
    format!(
        "{EXIT_CODES}\n\nExamples:\n  clonectl message disk disable_hydration\n  clonectl message \
         disk hydration_rate 50M\n  clonectl message disk hydrate 0 64M\n  clonectl message disk 0 \
         enable_hydration        (as for dmsetup)"
    )
}

fn wait_help() -> String {
    format!(
        "{EXIT_CODES}\n\nExample, which misses nothing:\n  nr=$(clonectl status --json disk | jq \
         .event_nr)\n  clonectl wait disk $nr"
    )
}

fn events_help() -> String {
    format!(
        "{EXIT_CODES}\n\nExample:\n  $ clonectl events disk\n  2026-11-23T02:30:00Z disk 1 \
         hydration finished"
    )
}

fn create_help() -> String {
    format!(
        "{EXIT_CODES}\n\nExamples:\n  clonectl create disk /backup/disk.img /srv/disk.img \
         /srv/disk.meta region_size=2048\n  clonectl create --name disk --source \
         https://host/disk.img \\\n      --destination /srv/disk.img --metadata /srv/disk.meta"
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::ClonectlArgs;

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        ClonectlArgs::command().debug_assert();
    }
}
