//! The listeners of a daemon: NBD, the control socket and metrics.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::args::CommonArgs;
use crate::control::{self, BoundSocket};
use crate::export::exporter::Exporter;
use crate::export::fuse::{FuseExporter, MountPoint};
use crate::export::nbd::NbdExporter;
use crate::export::nbd::{Address, BindOptions, Listener, ServerOptions, TlsOptions};
use crate::host::Host;
use crate::metrics::{self, BoundMetrics};
use crate::unix_socket;

/// Bound listeners that do not serve yet.
pub(super) struct Listeners {
    nbd: Option<Arc<NbdExporter>>,
    nbd_options: ServerOptions,
    control: Option<BoundSocket>,
    metrics: Option<BoundMetrics>,
}

/// Running servers.
pub(super) struct OpenListeners {
    nbd: Option<Arc<NbdExporter>>,
    control: Option<control::Server>,
    metrics: Option<metrics::Server>,
}

impl Listeners {
    /// Checks that everything that the command line of a clone called `name` names can be bound, as
    /// far as this is possible without changing anything.
    ///
    /// # Errors
    /// An address or a path that cannot be used, or a TLS file that cannot be read.
    pub(super) fn check(args: &CommonArgs, name: &str) -> Result<()> {
        if let Some(path) = &args.fuse {
            FuseExporter::new(MountPoint::One(path.clone()), args.fuse_users.into()).check(name)?;
        }
        if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
            TlsOptions::load(cert, key, args.tls_client_ca.as_deref())?;
        }
        let options = BindOptions { insecure: args.insecure, has_tls: args.tls_cert.is_some() };
        for address in &args.nbd {
            match address {
                Address::Unix(path) => {
                    unix_socket::check(path)
                        .with_context(|| format!("cannot listen on {address}"))?;
                }
                Address::Tcp { .. } => drop(Listener::bind(address, &options)?),
                Address::Systemd => {}
            }
        }
        args.metrics.map(|address| BoundMetrics::bind(address, args.insecure)).transpose()?;
        match args.control.as_deref() {
            Some(path) if path != Path::new("none") => Ok(control::check_place(path)?),
            _ => Ok(()),
        }
    }

    /// Binds everything that the command line names.
    ///
    /// # Errors
    /// An address or a path that cannot be used, or a TLS file that cannot be read.
    pub(super) fn bind(args: &CommonArgs, host: &Arc<Host>) -> Result<Self> {
        if let Some(path) = &args.fuse {
            let place = match host.has_table() {
                true if !path.is_dir() => {
                    bail!("--fuse {}: it must be a directory, for several clones", path.display())
                }
                true => MountPoint::Each(path.clone()),
                false => MountPoint::One(path.clone()),
            };
            host.add_exporter(Arc::new(FuseExporter::new(place, args.fuse_users.into())));
        }
        let tls = match (&args.tls_cert, &args.tls_key) {
            (Some(cert), Some(key)) => {
                Some(TlsOptions::load(cert, key, args.tls_client_ca.as_deref())?)
            }
            _ => None,
        };
        let nbd = match &args.nbd[..] {
            [] => None,
            addresses => {
                let options = BindOptions { insecure: args.insecure, has_tls: tls.is_some() };
                let nbd = Arc::new(NbdExporter::bind(addresses, &options)?);
                host.add_exporter(nbd.clone());
                Some(nbd)
            }
        };
        if args.ublk {
            #[cfg(not(feature = "ublk"))]
            bail!("--ublk: this cloned was built without the feature ublk");
            #[cfg(feature = "ublk")]
            host.add_exporter(Arc::<crate::export::ublk::UblkExporter>::default());
        }
        if nbd.is_none() && args.fuse.is_none() && !args.ublk {
            tracing::warn!("copying only: no client can connect. Add --nbd or --fuse");
        }
        let metrics = args.metrics.map(|address| BoundMetrics::bind(address, args.insecure));
        let control = control_socket(args.control.as_deref())?;
        let connections_max = args.nbd_connections.into();
        let nbd_options = ServerOptions { tls, connections_max, ..ServerOptions::default() };
        Ok(Self { nbd, nbd_options, control, metrics: metrics.transpose()? })
    }

    /// Starts to serve clients.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn open(self, host: &Arc<Host>) -> Result<OpenListeners> {
        let nbd =
            self.nbd.as_ref().map(|nbd| nbd.open(host.clone(), self.nbd_options)).transpose()?;
        let control = self.control.map(|socket| socket.serve(host.clone())).transpose()?;
        if let Some(control) = &control {
            tracing::info!("control socket for clonectl --socket {}", control.path().display());
        }
        let metrics = self.metrics.map(|bound| bound.with_nbd(nbd).serve(host.clone()));
        let metrics = metrics.transpose()?;
        if let Some(metrics) = &metrics {
            tracing::info!("metrics at http://{}/metrics", metrics.address().0);
        }
        Ok(OpenListeners { nbd: self.nbd, control, metrics })
    }
}

/// Binds the control socket. A failure is an error only if the user named the path.
fn control_socket(named: Option<&Path>) -> Result<Option<BoundSocket>> {
    let path = match named {
        Some(path) if path == Path::new("none") => return Ok(None),
        Some(path) => return Ok(Some(BoundSocket::bind(path)?)),
        None => control::default_path(),
    };
    let Some(path) = path else {
        tracing::warn!("no control socket: XDG_RUNTIME_DIR is not set. --control makes one");
        return Ok(None);
    };
    match BoundSocket::bind(path) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::warn!("no control socket: {error:#}. --control makes one elsewhere");
            Ok(None)
        }
    }
}

impl OpenListeners {
    /// Accepts no more clients, and lets requests in flight finish for a limited time. Stop the
    /// returned server after the clones have stopped: its requests may wait for them.
    pub(super) fn close(self) -> Option<control::Server> {
        if let Some(control) = &self.control {
            control.close();
        }
        if let Some(metrics) = self.metrics {
            metrics.stop();
        }
        if let Some(nbd) = self.nbd {
            nbd.close();
        }
        self.control
    }
}
