//! The exporters of a daemon: NBD and FUSE.

use std::collections::HashMap;
use std::mem;
use std::path::{self, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::fuse::{Export, Options, Who};
use crate::host::{Exporter, Host};
use crate::nbd::server::{Address, BindOptions, Connections, Listener, Server, ServerOptions};
use crate::source::{NbdAddress, NbdEndpoint, SourceSpec};
use crate::volume::Volume;

/// Exports clones to NBD clients.
pub(super) struct Nbd {
    /// Bound listeners, until they serve.
    listeners: Mutex<Vec<Listener>>,
    /// Addresses without the export name. Those of sockets that systemd passes are unknown.
    endpoints: Vec<NbdEndpoint>,
    has_tls: bool,
    server: Mutex<Option<Server>>,
}

impl Nbd {
    /// Binds the listeners. They do not serve yet.
    pub(super) fn bind(addresses: &[Address], options: &BindOptions) -> Result<Self> {
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

    /// Starts to serve the clones of `host` to NBD clients.
    pub(super) fn open(&self, host: &Arc<Host>, options: ServerOptions) -> Result<Connections> {
        let listeners = mem::take(&mut *lock(&self.listeners));
        let server = Server::start(listeners, host.clone(), options)
            .context("cannot start to serve NBD clients")?;
        let figures = server.figures();
        *lock(&self.server) = Some(server);
        Ok(figures)
    }

    /// Lets requests in flight finish for a limited time, then closes all connections.
    pub(super) fn close(&self) {
        let server = lock(&self.server).take();
        if let Some(server) = server {
            server.stop();
        }
    }
}

impl Exporter for Nbd {
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

/// Exports clones as files, by FUSE.
pub(super) struct Files {
    place: FilePlace,
    who: Who,
    mounted: Mutex<HashMap<String, Export>>,
}

/// The mount points.
pub(super) enum FilePlace {
    /// One clone: on this file, or in this directory.
    One(PathBuf),
    /// Each clone in this directory, on a file with its name.
    Each(PathBuf),
}

impl Files {
    pub(super) fn new(place: FilePlace, who: Who) -> Self {
        Self { place, who, mounted: Mutex::default() }
    }

    /// Returns the mount point of the clone called `name`.
    fn path(&self, name: &str) -> PathBuf {
        match &self.place {
            FilePlace::One(path) => path.clone(),
            FilePlace::Each(folder) => folder.join(name),
        }
    }
}

impl Exporter for Files {
    fn check(&self, name: &str) -> Result<()> {
        Ok(Export::check(&self.path(name), name)?)
    }

    fn add(&self, volume: &Arc<Volume>) -> Result<Vec<String>> {
        let options = Options { who: self.who, ..Options::default() };
        let export = Export::mount(&self.path(volume.name()), volume.clone(), options)?;
        let told = export.path().display().to_string();
        lock(&self.mounted).insert(volume.name().to_owned(), export);
        Ok(vec![told])
    }

    fn remove(&self, volume: &Arc<Volume>) -> Result<()> {
        let mut mounted = lock(&self.mounted);
        if let Some(export) = mounted.get_mut(volume.name()) {
            export.unmount()?;
            mounted.remove(volume.name());
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
