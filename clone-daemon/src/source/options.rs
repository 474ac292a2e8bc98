//! What can be set on a source.

use std::path::PathBuf;
use std::time::Duration;

use clone_core::block_io::Access;

/// What can be set on a source. What a kind of source has no use for it does not heed.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// How a file or a block device is read.
    pub access: Access,
    /// How long a request to a remote source may take the first time; each time that it is tried
    /// again twice as long as before, up to eight times as long.
    pub timeout: Duration,
    /// How long connecting may take, as a part of that.
    pub connect_timeout: Duration,
    /// How long a read is tried before it fails.
    pub give_up_after: Duration,
    /// How many requests may be under way at a time; 1 at least.
    pub requests_max: usize,
    /// Reads that are longer, in bytes, become several requests; 4096 at least.
    pub request_bytes: usize,
    /// What web servers are told as the name of this program.
    pub user_agent: String,
    /// Certificates in PEM that are trusted, and no others. Without it those of the system are, or
    /// where there are none those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// A file of lines `Name: value`, which are sent to web servers with each request, but not to
    /// others that these redirect to. Tokens belong there, and not into a command line.
    pub header_file: Option<PathBuf>,
    /// Settings of object stores, which count before those of the environment and have the same
    /// names, as `aws_endpoint`.
    pub object_settings: Vec<(String, String)>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            access: Access::Buffered,
            timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(10),
            give_up_after: Duration::from_secs(60),
            requests_max: 16,
            request_bytes: 4 << 20,
            user_agent: concat!("cloned/", env!("CARGO_PKG_VERSION")).into(),
            ca_file: None,
            header_file: None,
            object_settings: Vec::new(),
        }
    }
}
