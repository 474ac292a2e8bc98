//! The command line of `clonectl`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Show and control the clones that cloned serves.
///
/// The verbs are those of dmsetup, and the messages are the kernel's and a few more. clonectl
/// connects to the control socket of cloned, which only root and the user that cloned runs as can
/// open.
#[derive(Debug, Parser)]
#[command(
    name = "clonectl",
    version,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs"
)]
#[command(disable_help_subcommand = true, propagate_version = true, after_help = AFTER_HELP)]
pub struct ClonectlArgs {
    /// The control socket of cloned. Default: CLONED_SOCKET in the environment; without it,
    /// /run/cloned.sock or that of the systemd unit, /run/cloned/cloned.sock, for root, and
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
  0  done; also if the output pipe is closed early
  1  failed: cloned is not running, there is no such clone, or the clone reports an error
  2  the command line is wrong";

const AFTER_HELP: &str = "\
Exit codes:
  0  done; also if the output pipe is closed early
  1  failed: cloned is not running, there is no such clone, or the clone reports an error
  2  the command line is wrong

Examples:
  clonectl ls
  clonectl status disk
  clonectl message disk hydration_rate 50M
  clonectl wait disk && echo something happened to it
  clonectl events --follow --json | jq .what
  clonectl watch disk

clonectl VERB --help describes each verb.";

/// A verb.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the clones
    #[command(after_help = EXIT_CODES)]
    Ls {
        /// Print one JSON array with the objects of status --json.
        #[arg(long)]
        json: bool,
    },

    /// Print status lines, as the kernel target and dmsetup do
    ///
    /// Prints `<start> <length> clone` and the kernel's status. Without NAME it prints all clones,
    /// each after its name.
    #[command(after_help = status_help())]
    Status {
        /// The clone.
        name: Option<String>,

        /// Do not commit first; the state on disk may be a second older than the status.
        #[arg(long)]
        noflush: bool,

        /// Print JSON: one object with NAME, or else an array of objects.
        #[arg(long)]
        json: bool,
    },

    /// Print table lines, as dmsetup does
    #[command(after_help = EXIT_CODES)]
    Table {
        /// The clone. Default: all clones, each after its name.
        name: Option<String>,
    },

    /// Send a message to a clone
    ///
    /// The kernel's messages: hydration_threshold N, hydration_batch_size N, enable_hydration,
    /// disable_hydration. Others: hydration_rate SIZE (per second; 0 for no limit), hydrate_on_read
    /// on|off, hydrate OFFSET LENGTH (in bytes: this range next), max_failures N (0 for never).
    #[command(after_help = message_help())]
    Message {
        /// The clone.
        name: String,

        /// The message. A number before it counts as the sector that dmsetup requires there, and
        /// must be 0.
        #[arg(required = true, allow_hyphen_values = true)]
        message: Vec<String>,
    },

    /// Pause a clone and commit. New requests wait
    #[command(after_help = EXIT_CODES)]
    Suspend {
        /// The clone.
        name: String,
    },

    /// Resume a suspended clone
    #[command(after_help = EXIT_CODES)]
    Resume {
        /// The clone.
        name: String,
    },

    /// Wait for an event of a clone
    ///
    /// Returns when the number of the last event is above EVENT_NR, at once if it already is, as
    /// dmsetup does. ls and status --json print the number of the last event.
    #[command(after_help = wait_help())]
    Wait {
        /// The clone.
        name: String,

        /// The number of the last event that is known.
        #[arg(default_value_t = 0)]
        event_nr: u64,

        /// Print the new events.
        #[arg(short, long)]
        verbose: bool,
    },

    /// Print events
    #[command(after_help = events_help())]
    Events {
        /// The clone. Default: all clones.
        name: Option<String>,

        /// Continue, and print new events.
        #[arg(short, long)]
        follow: bool,

        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },

    /// Make cloned serve another clone
    ///
    /// The clone is not written to a clonetab: after a restart, cloned does not serve it.
    #[command(after_help = create_help())]
    Create(CreateArgs),

    /// Stop a clone: running requests finish, and all is committed
    #[command(after_help = EXIT_CODES)]
    Remove {
        /// The clone.
        name: String,
    },

    /// Make cloned read its clonetab again
    ///
    /// Clones with a new line are started, clones without a line are stopped, and the others do not
    /// change.
    #[command(after_help = EXIT_CODES)]
    Reload,

    /// Show a clone while it hydrates, until q is pressed
    ///
    /// If stdout is not a terminal, a line is printed at intervals until the clone is complete.
    #[command(after_help = EXIT_CODES)]
    Watch {
        /// The clone.
        name: String,

        /// The interval between updates, in seconds: 0.1 to 60.
        #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
        interval: f64,
    },
}

/// A clone to be created: a line as in a clonetab, or its parts by name.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The line: name, source, destination, metadata and optional options, separated by commas.
    #[arg(value_names = ["NAME", "SOURCE", "DEST", "META", "OPTIONS"], num_args = 1..=5)]
    #[arg(required_unless_present = "name")]
    pub line: Vec<String>,

    /// The name of the clone.
    #[arg(long, conflicts_with = "line", requires_all = ["source", "destination", "metadata"])]
    pub name: Option<String>,

    /// The source: a block device, a file, or a URI.
    #[arg(long, requires = "name")]
    pub source: Option<String>,

    /// The destination: a block device or a file.
    #[arg(long, value_name = "DEST", requires = "name")]
    pub destination: Option<String>,

    /// The metadata: a block device or a file.
    #[arg(long, value_name = "META", requires = "name")]
    pub metadata: Option<String>,

    /// Options as in a clonetab, separated by commas.
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
