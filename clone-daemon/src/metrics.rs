//! What Prometheus asks for: `GET /metrics`, in its text format, over HTTP.
//!
//! *Invariant:* whoever asks holds up nobody else, and for no longer than [`TIME`]; there are
//! [`CONNECTIONS_MAX`] of them at most, and if there are so many, the one that has said or read
//! nothing for longest makes way for a new one. Nothing can be changed here.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::registry::Registry;
use thiserror::Error;

use self::collector::Clones;
use self::http::Pages;
use crate::connection_server::Listening;
use crate::export::nbd::Connections;
use crate::host::Host;

mod collector;
mod http;

/// How many may ask at a time.
pub const CONNECTIONS_MAX: usize = 64;

/// How long one may take to ask.
pub const ASK_TIME: Duration = Duration::from_secs(3);

/// How long one may take to ask and to read the answer.
pub const TIME: Duration = Duration::from_secs(10);

/// Where metrics are served: `tcp:ADDR:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(pub SocketAddr);

/// Why a text is no such place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not tcp:ADDRESS:PORT, as in tcp:127.0.0.1:9177 or tcp:[::1]:9177")]
pub struct AddressError(String);

impl FromStr for MetricsAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = text.strip_prefix("tcp:").and_then(|address| address.parse().ok());
        address.map(Self).ok_or_else(|| AddressError(text.to_owned()))
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp:{}", self.0)
    }
}

/// Why metrics are not served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// Others than this machine could read them, and nobody has said that they may.
    #[error(
        "metrics at {0} could be read by whoever reaches this machine: use a loopback address, or \
         allow it with --insecure"
    )]
    Open(MetricsAddress),
    /// Whatever the system says.
    #[error("cannot serve metrics at {address}")]
    Io {
        /// Where.
        address: MetricsAddress,
        /// Why.
        source: io::Error,
    },
}

/// A place where nobody is served yet.
pub struct BoundMetrics {
    listener: TcpListener,
    address: MetricsAddress,
    nbd: Option<Connections>,
}

impl BoundMetrics {
    /// Listens at `address`, which must be one of loopback unless `insecure` is given.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn bind(address: MetricsAddress, insecure: bool) -> Result<Self, MetricsError> {
        if !insecure && !address.0.ip().to_canonical().is_loopback() {
            return Err(MetricsError::Open(address));
        }
        let failed = |source| MetricsError::Io { address, source };
        let listener = TcpListener::bind(address.0).map_err(failed)?;
        let address = MetricsAddress(listener.local_addr().map_err(failed)?);
        Ok(Self { listener, address, nbd: None })
    }

    /// Also tells of the connections of an NBD server. Without one all of their numbers are 0.
    #[must_use]
    pub fn with_nbd(self, nbd: Option<Connections>) -> Self {
        Self { nbd, ..self }
    }

    /// Serves the metrics of `host` there.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn serve(self, host: Arc<Host>) -> io::Result<Server> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Clones::new(host, self.nbd)));
        let pages = Pages { registry };
        let listening = Listening::start("metrics", self.listener.into(), CONNECTIONS_MAX, pages)?;
        Ok(Server { listening, address: self.address })
    }
}

/// Metrics that are served, until this is stopped or dropped.
pub struct Server {
    listening: Listening,
    address: MetricsAddress,
}

impl Server {
    /// Where, with the port that the system chose if it was 0.
    pub fn address(&self) -> MetricsAddress {
        self.address
    }

    /// Serves nobody any more.
    pub fn stop(mut self) {
        self.listening.stop();
    }
}

/// All metrics as text: version 0.0.4 of the format, which every Prometheus reads.
fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode_registry(&mut text, registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{BoundMetrics, MetricsAddress, MetricsError};

    #[test]
    fn only_this_machine_is_served_unless_somebody_says_otherwise() {
        let bind = |text: &str, insecure| BoundMetrics::bind(text.parse().unwrap(), insecure);
        assert!(matches!(bind("tcp:0.0.0.0:0", false), Err(MetricsError::Open(_))));
        assert!(matches!(bind("tcp:[::]:0", false), Err(MetricsError::Open(_))));
        assert!(bind("tcp:0.0.0.0:0", true).is_ok());
        let bound = bind("tcp:127.0.0.1:0", false).unwrap();
        assert_ne!(bound.address.0.port(), 0);
        let taken = bind(&bound.address.to_string(), false);
        assert!(matches!(taken, Err(MetricsError::Io { .. })));
    }

    #[test]
    fn a_place_is_an_address_and_a_port() {
        for wrong in ["", "127.0.0.1:9177", "tcp:localhost:9177", "tcp:127.0.0.1", "unix:x"] {
            assert!(wrong.parse::<MetricsAddress>().is_err(), "{wrong}");
        }
        let address: MetricsAddress = "tcp:[::1]:9177".parse().unwrap();
        assert_eq!(address.to_string(), "tcp:[::1]:9177");
    }
}
