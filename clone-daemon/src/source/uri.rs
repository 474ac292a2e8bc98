//! The name of a source: a path or a URI.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;

/// The backend that a clone copies from.
///
/// Text that begins with a scheme and `://` is a URI; any other text is a path. `Display` omits
/// secrets, so the result may differ from the parsed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// A file or a block device.
    Path(PathBuf),
    /// An export of an NBD server: `nbd://host[:port]/export`,
    /// `nbd+unix:///export?socket=PATH`, and `nbds://`, `nbds+unix://` with TLS.
    Nbd(NbdAddress),
    /// An object of a web server: `http://…`, `https://…`.
    Http(Url),
    /// An object of an object store: `s3://bucket/key`, `gs://bucket/key`, `az://container/key`.
    Object(Url),
}

/// An export of an NBD server: see `doc/uri.md` in the NetworkBlockDevice/nbd repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdAddress {
    /// The address of the server.
    pub endpoint: NbdEndpoint,
    /// The name of the export, at most 4096 bytes; empty for the default export.
    pub export: String,
    /// True if the connection must use TLS.
    pub tls: bool,
}

/// The address of an NBD server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdEndpoint {
    /// TCP.
    Tcp {
        /// A host name or an address. An IPv6 address has no brackets here.
        host: String,
        /// The port; 10809 by default.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// A URL. `Display` and `Debug` omit what may be secret: the user, the password and the query,
/// which may contain a signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

/// An error in the name of a source.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// An unknown scheme.
    #[error(
        "{scheme}:// is not supported; use nbd, nbd+unix, nbds, nbds+unix, http, https, s3, gs, az \
         or file, or write ./ before a path that looks like a URL"
    )]
    Scheme {
        /// The scheme, before `://`.
        scheme: String,
    },
    /// A URI with missing or extra parts.
    #[error("{scheme}:// needs {wanted}")]
    Form {
        /// The scheme, before `://`.
        scheme: String,
        /// Description of the missing or wrong part.
        wanted: &'static str,
    },
    /// The text is empty.
    #[error("the source has no name")]
    Empty,
}

/// The default port of NBD (IANA).
const NBD_PORT: u16 = 10_809;
/// Maximum length of a string in the NBD protocol, in bytes.
const EXPORT_MAX: usize = 4096;

impl FromStr for SourceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if text.is_empty() {
            return Err(SpecError::Empty);
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            return Ok(Self::Path(text.into()));
        };
        let form = |wanted| SpecError::Form { scheme: scheme.clone(), wanted };
        match scheme.as_str() {
            "file" => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                let path = path.starts_with('/').then(|| decode(path)).flatten();
                let path =
                    path.ok_or_else(|| form("file:///PATH, with %XX for special characters"))?;
                Ok(Self::Path(OsString::from_vec(path).into()))
            }
            "nbd" | "nbds" => nbd_tcp(rest, scheme == "nbds").map(Self::Nbd).map_err(form),
            "nbd+unix" | "nbds+unix" => {
                nbd_unix(rest, scheme == "nbds+unix").map(Self::Nbd).map_err(form)
            }
            "http" | "https" => {
                if Url::host(rest).is_empty() {
                    return Err(form("a host after it"));
                }
                Ok(Self::Http(Url(format!("{scheme}://{rest}"))))
            }
            "s3" | "gs" | "az" => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() || key.is_empty() || bucket.contains('@') {
                    return Err(form("BUCKET/KEY after it, and credentials in the environment"));
                }
                Ok(Self::Object(Url(format!("{scheme}://{rest}"))))
            }
            _ => Err(SpecError::Scheme { scheme }),
        }
    }
}

impl SourceSpec {
    /// Returns the path of a file or a block device.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            _ => None,
        }
    }
}

/// Splits text into the scheme, in lower case, and the rest after `://`. Returns `None` without a
/// valid scheme (RFC 3986, section 3.1).
fn split_scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let is_scheme =
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(is_part);
    is_scheme.then(|| (scheme.to_ascii_lowercase(), rest))
}

fn nbd_tcp(rest: &str, tls: bool) -> Result<NbdAddress, &'static str> {
    let (rest, query) = split_query(rest);
    if !query.is_empty() {
        return Err("no query: a socket= goes with nbd+unix://");
    }
    let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err("no user: there is no way to give a password");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("a ] after an address of IPv6")?;
            if !port.is_empty() && !port.starts_with(':') {
                return Err("a colon between an address of IPv6 and a port");
            }
            (host.to_owned(), port.strip_prefix(':').unwrap_or(""))
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            (decode_text(host).ok_or("a host in UTF-8, with %XX for special characters")?, port)
        }
    };
    if host.is_empty() || host.contains('\0') {
        return Err("a host after it; for a socket of this machine write nbd+unix://");
    }
    let port = match port {
        "" => NBD_PORT,
        port => port.parse().ok().filter(|&port| port != 0).ok_or("a port between 1 and 65535")?,
    };
    Ok(NbdAddress { endpoint: NbdEndpoint::Tcp { host, port }, export: export_name(export)?, tls })
}

fn nbd_unix(rest: &str, tls: bool) -> Result<NbdAddress, &'static str> {
    let (rest, query) = split_query(rest);
    let Some(export) = rest.strip_prefix('/').or_else(|| rest.is_empty().then_some("")) else {
        return Err("three slashes: a socket has no host");
    };
    let socket = query.strip_prefix("socket=").filter(|socket| !socket.contains('&'));
    let socket = socket.ok_or("?socket=PATH at its end, and nothing else there")?;
    let socket = decode(socket).filter(|path| !path.is_empty() && !path.contains(&0));
    let socket = socket.ok_or("a path after socket=, with %XX for special characters")?;
    let endpoint = NbdEndpoint::Unix(OsString::from_vec(socket).into());
    Ok(NbdAddress { endpoint, export: export_name(export)?, tls })
}

/// Splits off the query. Removes the fragment, which is never sent to a server.
fn split_query(rest: &str) -> (&str, &str) {
    let rest = rest.split('#').next().unwrap_or_default();
    rest.split_once('?').unwrap_or((rest, ""))
}

fn export_name(text: &str) -> Result<String, &'static str> {
    let name = decode_text(text).filter(|name| name.len() <= EXPORT_MAX && !name.contains('\0'));
    name.ok_or(
        "the name of an export in UTF-8, 4096 bytes at most, with %XX for special characters",
    )
}

/// Decodes `%XX` (RFC 3986, section 2.1). Returns `None` if hexadecimal digits are missing.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    Some(bytes)
}

fn decode_text(text: &str) -> Option<String> {
    String::from_utf8(decode(text)?).ok()
}

/// Encodes `bytes` for [`decode`], so that no character has a meaning in a URI.
fn encode(bytes: &[u8]) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    let character = |&byte: &u8| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    bytes.iter().map(character).collect()
}

impl Url {
    /// Returns the whole URL, including secrets.
    pub fn full(&self) -> &str {
        &self.0
    }

    /// Returns the host and the port of the text after `://`.
    fn host(rest: &str) -> &str {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let path = rest[authority_end..].split(['?', '#']).next().unwrap_or_default();
        write!(f, "{scheme}://{}{path}", Self::host(rest))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        let export = encode(self.export.as_bytes());
        match &self.endpoint {
            NbdEndpoint::Tcp { host, port } => {
                match host.contains(':') {
                    true => write!(f, "{scheme}://[{host}]")?,
                    false => write!(f, "{scheme}://{}", encode(host.as_bytes()))?,
                }
                if *port != NBD_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")
            }
            NbdEndpoint::Unix(socket) => {
                let socket = encode(socket.as_os_str().as_encoded_bytes());
                write!(f, "{scheme}+unix:///{export}?socket={socket}")
            }
        }
    }
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Nbd(address) => address.fmt(f),
            Self::Http(url) | Self::Object(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
