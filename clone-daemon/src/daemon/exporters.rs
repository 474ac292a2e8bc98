//! The ways in which clones are served.

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

/// Serves clones to NBD clients.
pub(super) struct Nbd {
    /// Where it listens, until it serves.
    listeners: Mutex<Vec<Listener>>,
    /// Where it can be found, but for the name of the export; nobody knows that of systemd's
    /// sockets.
    endpoints: Vec<NbdEndpoint>,
    has_tls: bool,
    server: Mutex<Option<Server>>,
}

impl Nbd {
    /// Listens, and serves nobody yet.
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

    /// Serves the clones of `host` to whoever comes.
    pub(super) fn open(&self, host: &Arc<Host>, options: ServerOptions) -> Result<Connections> {
        let listeners = mem::take(&mut *lock(&self.listeners));
        let server = Server::start(listeners, host.clone(), options)
            .context("cannot start to serve NBD clients")?;
        let figures = server.figures();
        *lock(&self.server) = Some(server);
        Ok(figures)
    }

    /// Lets what is under way be answered, for some time, and ends all connections.
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

/// Mounts clones by FUSE.
pub(super) struct Files {
    place: FilePlace,
    who: Who,
    mounted: Mutex<HashMap<String, Export>>,
}

/// Where clones are mounted.
pub(super) enum FilePlace {
    /// The only one: on this file, or in this folder.
    One(PathBuf),
    /// Each in this folder, on a file that is called as it is.
    Each(PathBuf),
}

impl Files {
    pub(super) fn new(place: FilePlace, who: Who) -> Self {
        Self { place, who, mounted: Mutex::default() }
    }

    /// Where the clone called `name` is mounted.
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
