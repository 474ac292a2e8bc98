//! TLS as a client of servers that have certificates (X.509).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clone_tools::common::small_file;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, crypto};

use crate::source::nbd::error::NbdError;
use crate::source::nbd::handshake::Tls;
use crate::source::uri::NbdEndpoint;

/// Where systems keep the authorities that they trust.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// The longest file of certificates, in bytes.
const BUNDLE_MAX: u64 = 16 << 20;

/// TLS with a server at `endpoint`, whose certificate is by an authority of the file `ca`, in PEM,
/// or by one that the system trusts.
pub(super) fn set_up(endpoint: &NbdEndpoint, ca: Option<&Path>) -> Result<Tls, NbdError> {
    let host = match endpoint {
        NbdEndpoint::Tcp { host, .. } => host.as_str(),
        // As other clients have it: somebody on this machine.
        NbdEndpoint::Unix(_) => "localhost",
    };
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| NbdError::Tls(format!("{host:?} is no name of a server")))?;
    let system = || SYSTEM.iter().map(PathBuf::from).find(|path| path.exists());
    let Some(path) = ca.map(Path::to_owned).or_else(system) else {
        return Err(NbdError::Tls("the system trusts no authority: name a file of some".into()));
    };
    let unusable = |error: &dyn std::fmt::Display| {
        NbdError::Tls(format!("cannot use the authorities of {}: {error}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    let pem = small_file::read(&path, BUNDLE_MAX).map_err(|error| unusable(&error))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(&error))?;
        let added = roots.add(certificate);
        // One of many that is odd is no reason to do without the others.
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
