//! TLS for the client: servers identify themselves with X.509 certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clone_tools::common::small_file;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto};

use crate::source::nbd::error::NbdError;
use crate::source::nbd::handshake::Tls;
use crate::source::uri::NbdEndpoint;

/// Files in which systems keep their trusted certificate authorities.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// Maximum size of a file of certificates in bytes.
const BUNDLE_MAX: u64 = 16 << 20;

/// Sets up TLS for the server at `endpoint`. Its certificate must be issued by an authority from
/// the PEM file `ca` or, without that, by one that the system trusts.
pub(super) fn set_up(endpoint: &NbdEndpoint, ca: Option<&Path>) -> Result<Tls, NbdError> {
    let host = match endpoint {
        NbdEndpoint::Tcp { host, .. } => host.as_str(),
        // Other clients also use this name for servers on the same machine.
        NbdEndpoint::Unix(_) => "localhost",
    };
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| NbdError::Tls(format!("{host:?} is not the name of a server")))?;
    let system = || SYSTEM.iter().map(PathBuf::from).find(|path| path.exists());
    let Some(path) = ca.map(Path::to_owned).or_else(system) else {
        return Err(NbdError::Tls(
            "the system has no trusted certificates: give a file of them".into(),
        ));
    };
    let unusable = |error: &dyn std::fmt::Display| {
        NbdError::Tls(format!("cannot use the certificates of {}: {error}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    let pem = small_file::read(&path, BUNDLE_MAX).map_err(|error| unusable(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        let added = roots.add(certificate);
        // One unusable certificate of the system is no reason to reject the others.
        if ca.is_some() {
            added.map_err(|error| unusable(&error))?;
        }
    }
    if roots.is_empty() {
        return Err(unusable(&"there are none"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| NbdError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Tls { config: Arc::new(config), name })
}
