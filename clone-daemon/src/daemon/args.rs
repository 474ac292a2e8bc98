//! The command line of `cloned`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clone_core::geometry::{RegionSize, Sectors};
use clone_core::size::{parse_bytes, parse_sectors};
use clone_tools::common::args::{SIZES, parse_region_size};
use clone_tools::common::exit;

use crate::config::clone_spec::{CloneSpec, SpecificationError, Tuning, check_name, name_after};
use crate::export::fuse::FileUsers;
use crate::export::nbd::Address;
use crate::metrics::MetricsAddress;
use crate::source::{SourceOptions, SourceSpec};

/// Serve clones while they hydrate: the work of the dm-clone target, in userspace and without root.
///
/// A clone looks at once like a full copy of its source. Reads come from the source until the data
/// has been copied; writes go to the destination; the rest is copied in the background. The
/// metadata records the progress in the kernel's format: a clone can be handed to the kernel and
/// taken back at any time.
#[derive(Debug, Parser)]
#[command(name = "cloned", version, after_help = after_help())]
pub struct DaemonArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DaemonCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Serve one clone.
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Serve the clones of a table, one per line: name, source, destination, metadata, options.
    Serve(Box<ServeArgs>),
}

/// `cloned run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The kernel's table line: [0 LENGTH] clone META DEST SOURCE REGION_SIZE [#features …
    /// [#arguments …]]. Without LENGTH the clone is as long as its source.
    #[arg(long, value_name = "LINE", conflicts_with_all = ["metadata", "destination", "source",
        "region_size", "length"])]
    #[arg(conflicts_with_all = ["no_hydration", "no_discard_passdown", "hydration_threshold",
        "hydration_batch_size"])]
    pub table: Option<String>,

    /// The metadata: a block device or a file. A file that does not exist is created, and metadata
    /// that is all zero is formatted.
    #[arg(short, long, value_name = "META")]
    pub metadata: Option<PathBuf>,

    /// The destination: a block device or a file. A file that does not exist is created, as one
    /// hole.
    #[arg(short, long, value_name = "DEST")]
    pub destination: Option<PathBuf>,

    /// The source: a block device, a file, nbd://, nbd+unix://, http://, https://, s3://, gs:// or
    /// az://. It is only read.
    #[arg(short, long, value_name = "SOURCE")]
    pub source: Option<SourceSpec>,

    /// The region size of a new clone: a power of two from 4 KiB to 1 GiB; 4 KiB by default.
    #[arg(long, value_name = "SIZE", value_parser = parse_region_size)]
    pub region_size: Option<RegionSize>,

    /// The length of the clone. Default: the length of its source.
    #[arg(long, value_name = "SIZE", value_parser = parse_length)]
    pub length: Option<Sectors>,

    /// Name of the clone and its export. Default: the file name of DEST.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub name: Option<String>,

    /// The settings of the clone.
    #[command(flatten)]
    pub tuning: TuningArgs,

    /// Record the order of reads, and write it to FILE at the end.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// First copy the ranges that --record wrote to FILE.
    #[arg(long, value_name = "FILE")]
    pub prefetch: Option<PathBuf>,

    /// Accept this source as the original one, even if META.source.json records another. If it
    /// holds other data, the clone becomes a mixture of both.
    #[arg(long)]
    pub repin: bool,

    /// Open and check everything as at a start, print what would be done, and change nothing.
    #[arg(long)]
    pub dry_run: bool,

    /// The exports and the log.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `cloned serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The table of clones, in the syntax of systemd's clonetab(5).
    #[arg(long, value_name = "FILE", default_value = "/etc/cloned/clonetab")]
    pub clonetab: PathBuf,

    /// The exports and the log.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The settings of a clone.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cloning")]
pub struct TuningArgs {
    /// Do not copy in the background until the message enable_hydration.
    #[arg(long)]
    pub no_hydration: bool,

    /// Do not pass discards on to the destination.
    #[arg(long)]
    pub no_discard_passdown: bool,

    /// Maximum number of regions that are being copied at a time.
    #[arg(long, value_name = "REGIONS")]
    pub hydration_threshold: Option<u32>,

    /// Maximum number of regions in one copy.
    #[arg(long, value_name = "REGIONS")]
    pub hydration_batch_size: Option<u32>,

    /// Maximum background copy rate, bytes per second; 0 for no limit.
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    pub hydration_rate: Option<u64>,

    /// on: reads hydrate the regions that they read, which are then fetched only once. Default: on
    /// if the source is across a network, or else off.
    #[arg(long, value_name = "ON|OFF")]
    pub hydrate_on_read: Option<Switch>,

    /// Stop copying after this number of failed copies in a row; 0 for never.
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub max_failures: u32,

    /// on: discarded regions that were never copied read as zeroes; off: as what DEST holds (like
    /// the kernel).
    #[arg(long, value_name = "ON|OFF", default_value = "on")]
    pub discard_zeroes: Switch,

    /// Read and write past the page cache, with O_DIRECT.
    #[arg(long)]
    pub direct: bool,
}

/// The exports of clones and the log.
#[derive(Debug, Args)]
#[command(next_help_heading = "Serving")]
pub struct CommonArgs {
    /// Serve NBD clients at this address: unix:PATH, tcp:ADDRESS:PORT, or systemd for the sockets
    /// that it passes on. Can be given several times. Each export has the name of its clone.
    #[arg(long, value_name = "ADDRESS")]
    pub nbd: Vec<Address>,

    /// Maximum number of NBD connections, to all clones together. At most half of them can be to
    /// one clone, half from one peer, and a quarter from one peer to one clone.
    #[arg(long, value_name = "N", default_value_t = 256, requires = "nbd")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=16384))]
    pub nbd_connections: u16,

    /// Require TLS of NBD clients, with the certificate chain in FILE, in PEM.
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "nbd"])]
    pub tls_cert: Option<PathBuf>,

    /// The private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Accept only clients whose certificate is signed by one in FILE, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// Allow to listen on a non-loopback address without TLS: everyone who can connect can read and
    /// write the clones.
    #[arg(long)]
    pub insecure: bool,

    /// Serve the clone as a file, with FUSE. PATH is an empty file, or one that does not exist; or
    /// a directory, in which the file has the name of the clone. For `serve` it must be a
    /// directory.
    #[arg(long, value_name = "PATH")]
    pub fuse: Option<PathBuf>,

    /// The users that can access this file. If cloned does not run as root, all but `owner` require
    /// user_allow_other in /etc/fuse.conf.
    #[arg(long, value_name = "WHO", default_value = "owner", requires = "fuse")]
    pub fuse_users: FuseUsers,

    /// Serve each clone as a block device, /dev/ublkbN, with the kernel's ublk driver; the log
    /// names the device. This requires root, and a cloned that was built with the feature ublk.
    #[arg(long)]
    pub ublk: bool,

    /// The control socket, for clonectl; only root and this user can open it. Default:
    /// /run/cloned.sock for root, and cloned.sock in $XDG_RUNTIME_DIR for others, unless another
    /// cloned uses it. `none` for no control socket.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Serve metrics to Prometheus at this address, under /metrics: tcp:ADDRESS:PORT, as in
    /// tcp:127.0.0.1:9177.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<MetricsAddress>,

    /// The settings of sources across a network.
    #[command(flatten)]
    pub source: SourceArgs,

    /// The log level: error, warn, info, debug, trace, or a filter as in tracing's EnvFilter.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "CLONED_LOG")]
    #[arg(help_heading = "Logging")]
    pub log_level: String,

    /// The format of the log on stderr, which systemd takes to its journal.
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Logging")]
    pub log_format: LogFormat,
}

/// The settings of sources across a network.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sources across a network")]
pub struct SourceArgs {
    /// Time limit of the first attempt of a request.
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub source_timeout: u32,

    /// Time for which a read is retried before it fails.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub source_give_up: u32,

    /// Maximum number of requests in flight, for each clone.
    #[arg(long, value_name = "N", default_value_t = 16)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub source_requests: u16,

    /// Certificates in PEM that are trusted instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub source_ca: Option<PathBuf>,

    /// File with lines "Name: value" that are sent to web servers with each request, for example
    /// tokens, which do not belong on a command line.
    #[arg(long, value_name = "FILE")]
    pub source_headers: Option<PathBuf>,
}

impl SourceArgs {
    pub(super) fn options(&self) -> SourceOptions {
        SourceOptions {
            timeout: Duration::from_secs(self.source_timeout.into()),
            give_up_after: Duration::from_secs(self.source_give_up.into()),
            requests_max: self.source_requests.into(),
            ca_file: self.source_ca.clone(),
            header_file: self.source_headers.clone(),
            ..SourceOptions::default()
        }
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Enabled.
    On,
    /// Disabled.
    Off,
}

impl Switch {
    fn is_on(self) -> bool {
        self == Self::On
    }
}

/// The users that can access a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FuseUsers {
    /// The user that cloned runs as.
    Owner,
    /// The owner and root, which sets up loop devices.
    Root,
    /// All users, for reading and writing.
    All,
}

impl From<FuseUsers> for FileUsers {
    fn from(users: FuseUsers) -> Self {
        match users {
            FuseUsers::Owner => Self::Owner,
            FuseUsers::Root => Self::OwnerAndRoot,
            FuseUsers::All => Self::Everybody,
        }
    }
}

/// The formats of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl RunArgs {
    /// Returns the description of the requested clone.
    ///
    /// # Errors
    /// [`SpecificationError::Incomplete`] without `--table` or all three devices;
    /// [`SpecificationError::NoName`] if no name can be derived from the destination; any other
    /// variant if the table line is invalid.
    pub fn spec(&self) -> Result<CloneSpec, SpecificationError> {
        let mut spec = match (&self.table, &self.metadata, &self.destination, &self.source) {
            (None, Some(metadata), Some(destination), Some(source)) => CloneSpec {
                name: match &self.name {
                    Some(name) => name.clone(),
                    None => name_after(destination)?,
                },
                metadata: metadata.clone(),
                destination: destination.clone(),
                source: source.clone(),
                length: self.length,
                region_size: self.region_size,
                tuning: Tuning {
                    hydration: !self.tuning.no_hydration,
                    discard_passdown: !self.tuning.no_discard_passdown,
                    hydration_threshold: self.tuning.hydration_threshold,
                    hydration_batch_size: self.tuning.hydration_batch_size,
                    ..Tuning::default()
                },
                record: None,
                prefetch: None,
                repin: false,
            },
            (Some(line), ..) => CloneSpec::from_table(line, self.name.as_deref())?,
            _ => return Err(SpecificationError::Incomplete),
        };
        let TuningArgs {
            hydration_rate,
            hydrate_on_read,
            max_failures,
            discard_zeroes,
            direct,
            ..
        } = self.tuning;
        spec.tuning = Tuning {
            hydration_rate: hydration_rate.filter(|&rate| rate > 0),
            hydrate_on_read: hydrate_on_read.map(Switch::is_on),
            max_failures: Some(max_failures),
            discard_zeroes: discard_zeroes.is_on(),
            direct,
            ..spec.tuning
        };
        (spec.record, spec.prefetch) = (self.record.clone(), self.prefetch.clone());
        spec.repin = self.repin;
        Ok(spec)
    }
}

fn parse_length(text: &str) -> Result<Sectors, String> {
    match parse_sectors(text) {
        Ok(Sectors(0)) => Err("a clone has at least one sector".into()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

fn parse_rate(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

fn parse_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn after_help() -> String {
    format!(
        "{SIZES}\n\n{}\n\nSIGTERM and SIGINT stop it: running requests finish, \
         and all is flushed and committed.\nSIGHUP makes `cloned serve` read its table again.",
        exit::HELP
    )
}

const RUN_HELP: &str = "\
Examples:
  cloned run --metadata vm.meta --destination vm.img --source https://backup/vm.img \\
      --nbd unix:vm.sock
  cloned run --table \"clone /dev/vg/meta /dev/vg/disk /dev/vg/slow 8 1 no_hydration\" --dry-run";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use clone_core::geometry::Sectors;

    use super::{DaemonArgs, DaemonCommand, RunArgs};
    use crate::config::clone_spec::SpecificationError;

    fn run(args: &[&str]) -> RunArgs {
        let args = ["cloned", "run"].iter().chain(args);
        match DaemonArgs::try_parse_from(args).unwrap().command {
            DaemonCommand::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_finds_no_fault_with_the_definitions() {
        DaemonArgs::command().debug_assert();
    }

    #[test]
    fn a_table_line_and_options_say_the_same_thing() {
        let line = "0 1000 clone m d s 16 2 no_hydration no_discard_passdown \
                    4 hydration_threshold 3 hydration_batch_size 2";
        let by_line = run(&["--table", line, "--hydration-rate", "1M"]);
        let by_options = run(&[
            "-m",
            "m",
            "-d",
            "d",
            "-s",
            "s",
            "--region-size",
            "8k",
            "--length",
            "1000",
            "--no-hydration",
            "--no-discard-passdown",
            "--hydration-threshold",
            "3",
            "--hydration-batch-size",
            "2",
            "--hydration-rate",
            "1048576",
        ]);
        let spec = by_line.spec().unwrap();
        assert_eq!(spec, by_options.spec().unwrap());
        assert_eq!((spec.name.as_str(), spec.length), ("d", Some(Sectors(1000))));
        assert_eq!(spec.tuning.hydration_rate, Some(1 << 20));
    }

    #[test]
    fn a_table_line_goes_with_nothing_that_it_says_itself() {
        let parse = |args: &[&str]| {
            DaemonArgs::try_parse_from(["cloned", "run"].iter().chain(args)).map(drop)
        };
        assert!(parse(&["--table", "clone m d s 8", "--no-hydration"]).is_err());
        assert!(parse(&["--table", "clone m d s 8", "-m", "m"]).is_err());
        assert!(matches!(run(&["-m", "m", "-d", "d"]).spec(), Err(SpecificationError::Incomplete)));
        assert!(parse(&["-m", "m", "-d", "d", "-s", "gopher://x"]).is_err());
        assert!(parse(&["--table", "clone m d s 8", "--direct", "--name", "a/b"]).is_err());
    }
}
