//! TLS for the server ("TLS support"): its own certificate, and the check of those of clients.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clone_tools::common::small_file;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use thiserror::Error;

/// An error while TLS is set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or has other contents.
    #[error("cannot read {what} from {}", path.display())]
    File {
        /// The expected contents.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: pem::Error,
    },
    /// The certificate and the key do not match, or cannot be used.
    #[error("the certificate or its key cannot be used")]
    Unusable(#[from] rustls::Error),
    /// The authority for client certificates cannot be used.
    #[error("the certificate that clients are checked with cannot be used")]
    ClientAuthority(#[from] VerifierBuilderError),
}

/// The TLS configuration of a server. With it, the server reveals nothing to clients without TLS.
#[derive(Clone)]
pub struct TlsOptions {
    config: Arc<ServerConfig>,
}

impl fmt::Debug for TlsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsOptions")
    }
}

impl TlsOptions {
    /// Loads the configuration from PEM files. `certificates` is the chain of the server, its own
    /// certificate first, and `key` its private key. With `client_authority`, clients have to
    /// present a certificate issued by an authority in that file.
    ///
    /// # Errors
    /// - [`TlsError::File`]: a file cannot be read, or has other contents.
    /// - [`TlsError::Unusable`]: the certificate and the key do not match, or cannot be used.
    /// - [`TlsError::ClientAuthority`]: the authorities cannot be used to check clients.
    pub fn load(
        certificates: &Path,
        key: &Path,
        client_authority: Option<&Path>,
    ) -> Result<Self, TlsError> {
        let chain = read_certificates("certificates", certificates)?;
        let wrong = |source| TlsError::File { what: "a private key", path: key.into(), source };
        let key =
            read_pem(key).and_then(|pem| PrivateKeyDer::from_pem_slice(&pem)).map_err(wrong)?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match client_authority {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in read_certificates("a certificate authority", path)? {
                    roots.add(certificate)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        Ok(Self { config: Arc::new(builder.with_single_cert(chain, key)?) })
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

/// Maximum size of a PEM file in bytes.
const PEM_MAX: u64 = 16 << 20;

fn read_pem(path: &Path) -> Result<Vec<u8>, pem::Error> {
    small_file::read(path, PEM_MAX).map_err(pem::Error::Io)
}

fn read_certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::File { what, path: path.into(), source };
    let pem = read_pem(path).map_err(wrong)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(wrong)?;
    match certificates.is_empty() {
        true => Err(wrong(pem::Error::NoItemsFound)),
        false => Ok(certificates),
    }
}
