//! The metrics endpoint for Prometheus: `GET /metrics`, in its text format, over HTTP.
//!
//! *Invariant:* a client blocks no other one and is served for at most [`TIME`]. There are at most
//! [`CONNECTIONS_MAX`] clients; if a further one arrives, the client that has been idle for longest
//! is disconnected. The endpoint is read-only.

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
use crate::connection_server::ConnectionServer;
use crate::export::nbd::Connections;
use crate::host::Host;

mod collector;
mod http;

/// The maximum number of connections.
pub const CONNECTIONS_MAX: usize = 64;

/// The time limit for sending a request.
pub const ASK_TIME: Duration = Duration::from_secs(3);

/// The time limit for sending a request and reading the answer.
pub const TIME: Duration = Duration::from_secs(10);

/// The address of the metrics endpoint: `tcp:ADDR:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(pub SocketAddr);

/// A text is not a valid address.
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

/// The reason why metrics cannot be served.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// The address is not a loopback address, and `--insecure` is not given.
    #[error(
        "{0} is not a loopback address: everyone who can reach it could read the metrics. Use a \
         loopback address, or allow it with --insecure"
    )]
    Open(MetricsAddress),
    /// An I/O error.
    #[error("cannot serve metrics at {address}")]
    Io {
        /// The address.
        address: MetricsAddress,
        /// The error.
        source: io::Error,
    },
}

/// A listener for metrics that is bound but not served yet.
pub struct BoundMetrics {
    listener: TcpListener,
    address: MetricsAddress,
    nbd: Option<Connections>,
}

impl BoundMetrics {
    /// Listens at `address`, which must be a loopback address unless `insecure` is true.
    ///
    /// # Errors
    /// [`MetricsError::Open`] for another address without `insecure`; [`MetricsError::Io`] if the
    /// address cannot be bound.
    pub fn bind(address: MetricsAddress, insecure: bool) -> Result<Self, MetricsError> {
        if !insecure && !address.0.ip().to_canonical().is_loopback() {
            return Err(MetricsError::Open(address));
        }
        let failed = |source| MetricsError::Io { address, source };
        let listener = TcpListener::bind(address.0).map_err(failed)?;
        let address = MetricsAddress(listener.local_addr().map_err(failed)?);
        Ok(Self { listener, address, nbd: None })
    }

    /// Adds the connections of an NBD server to the metrics. Without one, their values are 0.
    #[must_use]
    pub fn with_nbd(self, nbd: Option<Connections>) -> Self {
        Self { nbd, ..self }
    }

    /// Serves the metrics of `host`.
    ///
    /// # Errors
    /// The thread of the listener cannot be started.
    pub fn serve(self, host: Arc<Host>) -> io::Result<Server> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Clones::new(host, self.nbd)));
        let pages = Pages { registry };
        let listening =
            ConnectionServer::start("metrics", self.listener.into(), CONNECTIONS_MAX, pages)?;
        Ok(Server { listening, address: self.address })
    }
}

/// A metrics endpoint that is being served, until this is stopped or dropped.
pub struct Server {
    listening: ConnectionServer,
    address: MetricsAddress,
}

impl Server {
    /// Returns the address, with the port that the system chose if it was 0.
    pub fn address(&self) -> MetricsAddress {
        self.address
    }

    /// Stops serving and ends all connections.
    pub fn stop(mut self) {
        self.listening.stop();
    }
}

/// Encodes all metrics in version 0.0.4 of the text format, which every Prometheus reads.
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
