//! TLS by certificates ("TLS support"): what the server shows, and whom it lets in.

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

/// Why there is no TLS.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("cannot read {what} from {}", path.display())]
    File {
        /// What should be in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// What is in the files does not fit together, or cannot be used.
    #[error("the certificate or its key cannot be used")]
    Unusable(#[from] rustls::Error),
    /// Clients cannot be checked with what was given for that.
    #[error("the certificate that clients are checked with cannot be used")]
    ClientAuthority(#[from] VerifierBuilderError),
}

/// What a server needs for TLS. With it nothing is told without.
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
    /// A server that shows the chain of certificates in the first file, its own first, whose key
    /// is in the second. Clients have to show one that is signed by one in the third, if that is
    /// given. All files are PEM.
    ///
    /// # Errors
    /// [`TlsError`].
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

/// The longest file of certificates or keys, in bytes.
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
