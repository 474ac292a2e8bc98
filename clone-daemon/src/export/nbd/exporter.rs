//! The exporter of NBD: listeners, and the server that they feed once clones are set up.

use std::mem;
use std::path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use clone_core::sync::lock;

use crate::export::exporter::Exporter;
use crate::export::nbd::{Address, BindOptions, Connections, Listener, Server, ServerOptions};
use crate::export::volume::{Volume, Volumes};
use crate::source::{NbdAddress, NbdEndpoint, SourceSpec};

/// Serves clones to NBD clients, all at the same addresses.
pub struct NbdExporter {
    /// Bound listeners, until they serve.
    listeners: Mutex<Vec<Listener>>,
    /// Addresses without the export name. Those of sockets that systemd passes are unknown.
    endpoints: Vec<NbdEndpoint>,
    has_tls: bool,
    server: Mutex<Option<Server>>,
}

impl NbdExporter {
    /// Binds the listeners. They do not serve yet.
    pub fn bind(addresses: &[Address], options: &BindOptions) -> Result<Self> {
        let (mut listeners, mut endpoints) = (Vec::new(), Vec::new());
        for address in addresses {
            let bound = Listener::bind(address, options)?;
            match address {
                Address::Unix(path) => {
                    let path = path::absolute(path)
                        .with_context(|| format!("cannot listen on {address}"))?;
                    endpoints.push(NbdEndpoint::Unix(path));
                }
                Address::Tcp { .. } => {
                    let bound = bound.iter().filter_map(Listener::tcp_address);
                    endpoints.extend(bound.map(|address| NbdEndpoint::Tcp {
                        host: address.ip().to_string(),
                        port: address.port(),
                    }));
                }
                Address::Systemd => {}
            }
            listeners.extend(bound);
        }
        let listeners = Mutex::new(listeners);
        Ok(Self { listeners, endpoints, has_tls: options.has_tls, server: Mutex::default() })
    }

    /// Accepts connections to the exports of `volumes`.
    pub fn open(&self, volumes: Arc<dyn Volumes>, options: ServerOptions) -> Result<Connections> {
        let listeners = mem::take(&mut *lock(&self.listeners));
        let server = Server::start(listeners, volumes, options)
            .context("cannot start to serve NBD clients")?;
        let stats = server.stats();
        *lock(&self.server) = Some(server);
        Ok(stats)
    }

    /// Lets requests in flight finish for a limited time, then closes all connections.
    pub fn close(&self) {
        let server = lock(&self.server).take();
        if let Some(server) = server {
            server.stop();
        }
    }
}

impl Exporter for NbdExporter {
    fn add(&self, volume: &Arc<Volume>) -> Result<Vec<String>> {
        let place = |endpoint: &NbdEndpoint| {
            let (endpoint, export) = (endpoint.clone(), volume.name().to_owned());
            SourceSpec::Nbd(NbdAddress { endpoint, export, tls: self.has_tls }).to_string()
        };
        Ok(self.endpoints.iter().map(place).collect())
    }

    fn remove(&self, volume: &Arc<Volume>) -> Result<()> {
        if let Some(server) = &*lock(&self.server) {
            server.disconnect(volume.name());
        }
        Ok(())
    }
}
