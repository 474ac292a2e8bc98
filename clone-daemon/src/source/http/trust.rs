//! Trusted root certificates.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use clone_tools::common::small_file;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::source::error::SourceError;
use crate::source::options::SourceOptions;

/// Certificate bundles of Debian, Fedora, SUSE and Alpine.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Maximum size of a certificate file in bytes; the bundles above have a quarter of a MiB.
const BUNDLE_MAX: u64 = 16 << 20;

pub(super) fn tls(options: &SourceOptions) -> Result<TlsConfig, SourceError> {
    let bundle = options.ca_file.clone().or_else(of_the_system);
    let roots = match bundle {
        None => RootCerts::WebPki,
        Some(path) => {
            let setting = |source| SourceError::Setting { path: path.clone(), source };
            RootCerts::from(certificates(&path).map_err(setting)?)
        }
    };
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn of_the_system() -> Option<PathBuf> {
    let named = env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()))
}

fn certificates(path: &Path) -> io::Result<Vec<Certificate<'static>>> {
    let pem = small_file::read(path, BUNDLE_MAX)?;
    let items: Result<Vec<PemItem<'static>>, _> = parse_pem(&pem).collect();
    let items = items.map_err(|error| io::Error::other(error.to_string()))?;
    let certificates: Vec<_> = (items.into_iter())
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(io::Error::other("no certificate in it"));
    }
    Ok(certificates)
}
