//! Options of a source.

use std::path::PathBuf;
use std::time::Duration;

use clone_core::block_io::Access;

/// Options of a source. A backend ignores options that do not apply to it.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Access mode of a file or a block device.
    pub access: Access,
    /// Time limit of the first attempt of a request to a remote source. It doubles with each retry,
    /// up to eight times the initial value.
    pub timeout: Duration,
    /// Time limit for connecting, part of `timeout`.
    pub connect_timeout: Duration,
    /// Time after which a read fails for good.
    pub give_up_after: Duration,
    /// Maximum number of requests in flight; at least 1.
    pub requests_max: usize,
    /// Longer reads, in bytes, are split into several requests; at least 4096.
    pub request_bytes: usize,
    /// `User-Agent` header for web servers.
    pub user_agent: String,
    /// Trusted certificates in PEM, exclusively. `None` means those of the system, or those that
    /// browsers trust if there are none.
    pub ca_file: Option<PathBuf>,
    /// File of `Name: value` lines that are sent to the web server with each request, but not to
    /// other servers that it redirects to. Tokens belong here, not on a command line.
    pub header_file: Option<PathBuf>,
    /// Settings of object stores, as `aws_endpoint`. They override environment variables of the
    /// same names.
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
