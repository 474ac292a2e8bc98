//! Objects of a web server, by range requests (RFC 9110, section 14).

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use clone_core::sync::lock;
use clone_tools::common::small_file;
use ureq::config::RedirectAuthHeaders;
use ureq::http::header::{AUTHORIZATION, HeaderName, IF_MATCH, IF_UNMODIFIED_SINCE, RANGE};
use ureq::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use ureq::{Agent, Body};

use self::answer::{Found, check, found, size_of};
use self::redirect::{is_redirect, is_same_origin, target};
use super::error::SourceError;
use super::identity::{Identity, Version};
use super::options::SourceOptions;
use super::remote::{Remote, RemoteError};
use super::uri::{Url, decode};

pub(super) mod answer;
mod redirect;
mod trust;

/// Maximum number of redirects, as in browsers.
const REDIRECTS_MAX: usize = 10;
/// Maximum size of a response header in bytes.
const HEADER_MAX: usize = 32 << 10;
/// Maximum size of a header file in bytes.
const HEADER_FILE_MAX: u64 = 64 << 10;
/// An unused body is read up to this length in bytes, so that its connection can be reused.
const DRAIN_MAX: u64 = 4096;

/// A web server; its object is not identified yet.
pub(super) struct Server {
    agent: Agent,
    origin: Uri,
    /// Headers for the named server only.
    secrets: HeaderMap,
    /// The last redirect target.
    sent_to: Mutex<Option<Uri>>,
}

/// An object of a web server.
pub(super) struct Http {
    server: Server,
    identity: Identity,
}

impl Server {
    pub(super) fn new(url: &Url, options: &SourceOptions) -> Result<Self, SourceError> {
        let (origin, credentials) = origin(url)?;
        let mut secrets = HeaderMap::new();
        if let Some(path) = &options.header_file {
            let setting = |source| SourceError::Setting { path: path.clone(), source };
            secrets = headers(path).map_err(setting)?;
        }
        if let Some(credentials) = credentials {
            secrets.insert(AUTHORIZATION, credentials);
        }
        Ok(Self { agent: agent(options)?, origin, secrets, sent_to: Mutex::default() })
    }

    /// Requests the first byte to identify the object.
    pub(super) fn identify(&self, deadline: Instant) -> Result<Identity, RemoteError> {
        // Not HEAD: a signed URL is valid for one method only, and HEAD tells less about ranges.
        let mut response = self.get(&(0..1), None, deadline)?;
        let found = found(response.status(), response.headers());
        drain(&mut response);
        match found? {
            Found::Object(identity) => Ok(identity),
            Found::Empty => Err(RemoteError::Final(io::Error::other("it is empty"))),
        }
    }

    /// Requests a half-open range, on the condition that the object still has the version `pinned`.
    /// Follows redirects.
    fn get(
        &self,
        range: &Range<u64>,
        pinned: Option<&Version>,
        deadline: Instant,
    ) -> Result<ureq::http::Response<Body>, RemoteError> {
        let remembered = self.lock().clone();
        let mut is_remembered = remembered.is_some();
        let mut uri = remembered.unwrap_or_else(|| self.origin.clone());
        for _ in 0..=REDIRECTS_MAX {
            let mut response = self.get_once(&uri, range, pinned, deadline)?;
            let status = response.status();
            if is_redirect(status) {
                uri = target(&uri, response.headers()).map_err(RemoteError::Final)?;
                drain(&mut response);
                continue;
            }
            // A redirect target may expire, as a signed URL does.
            if is_remembered && is_stale(status) {
                is_remembered = false;
                *self.lock() = None;
                uri = self.origin.clone();
                drain(&mut response);
                continue;
            }
            if status.is_success() && uri != self.origin {
                *self.lock() = Some(uri);
            }
            return Ok(response);
        }
        let text = format!("redirected more than {REDIRECTS_MAX} times");
        Err(RemoteError::Final(io::Error::other(text)))
    }

    fn get_once(
        &self,
        uri: &Uri,
        range: &Range<u64>,
        pinned: Option<&Version>,
        deadline: Instant,
    ) -> Result<ureq::http::Response<Body>, RemoteError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RemoteError::Passing(io::ErrorKind::TimedOut.into()));
        }
        let mut request = self.agent.get(uri.clone());
        let last = range.end.saturating_sub(1);
        request = request.header(RANGE, format!("bytes={}-{last}", range.start));
        match pinned {
            Some(Version::Etag { etag }) => request = request.header(IF_MATCH, etag),
            Some(Version::LastModified { last_modified }) => {
                request = request.header(IF_UNMODIFIED_SINCE, last_modified);
            }
            _ => {}
        }
        if is_same_origin(uri, &self.origin) {
            for (name, value) in &self.secrets {
                request = request.header(name, value);
            }
        }
        request.config().timeout_global(Some(left)).build().call().map_err(trouble)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Uri>> {
        lock(&self.sent_to)
    }

    /// Returns the object that was [identified](Self::identify).
    pub(super) fn object(self, identity: Identity) -> Http {
        Http { server: self, identity }
    }
}

/// Returns an HTTP client with a connection pool.
pub(super) fn agent(options: &SourceOptions) -> Result<Agent, SourceError> {
    // The crate assumes that this header is valid.
    HeaderValue::from_str(&options.user_agent).map_err(|_| SourceError::UserAgent)?;
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // Redirects are followed here, because only this code knows which server may receive the
        // secrets.
        .max_redirects(0)
        .redirect_auth_headers(RedirectAuthHeaders::Never)
        .user_agent(&options.user_agent)
        .accept_encoding("identity")
        .timeout_connect(Some(options.connect_timeout))
        .max_response_header_size(HEADER_MAX)
        .input_buffer_size(128 << 10)
        .max_idle_connections(options.requests_max.max(1))
        .max_idle_connections_per_host(options.requests_max.max(1))
        .tls_config(trust::tls(options)?)
        .build();
    Ok(config.new_agent())
}

impl Remote for Http {
    fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8], deadline: Instant) -> Result<(), RemoteError> {
        let range = offset..offset.saturating_add(into.len() as u64);
        let mut response = self.server.get(&range, Some(&self.identity.version), deadline)?;
        if let Err(trouble) = check(response.status(), response.headers(), &range, &self.identity) {
            drain(&mut response);
            return Err(trouble);
        }
        let mut body = response.body_mut().as_reader();
        body.read_exact(into).map_err(|error| passing("the body", error))?;
        // More bytes are an error. Reading to the end also returns the connection to the pool.
        match body.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => {
                Err(RemoteError::Passing(io::Error::other("received more bytes than requested")))
            }
            Err(error) => Err(passing("the end of the body", error)),
        }
    }

    fn abandon(&self) {
        self.server.agent.clone().shutdown();
    }
}

fn passing(what: &str, error: io::Error) -> RemoteError {
    let kind = error.kind();
    RemoteError::Passing(io::Error::new(kind, format!("{what} was not received: {error}")))
}

/// Classifies an error of the protocol, of TLS or of the system.
pub(super) fn trouble(error: ureq::Error) -> RemoteError {
    match error {
        ureq::Error::Io(error) if is_distrust(&error) => RemoteError::Final(error),
        ureq::Error::Timeout(_) => {
            RemoteError::Passing(io::Error::new(io::ErrorKind::TimedOut, error.to_string()))
        }
        ureq::Error::BadUri(_)
        | ureq::Error::Http(_)
        | ureq::Error::Tls(_)
        | ureq::Error::TlsRequired
        | ureq::Error::InvalidProxyUrl
        | ureq::Error::Pem(_) => RemoteError::Final(error.into_io()),
        _ => RemoteError::Passing(error.into_io()),
    }
}

/// Returns whether the server's certificate is not trusted, which a retry cannot change.
fn is_distrust(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

/// Returns whether a status may mean that a redirect target has expired.
fn is_stale(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::GONE
    )
}

/// Reads a short unused body.
fn drain(response: &mut ureq::http::Response<Body>) {
    if size_of(response.headers()).is_some_and(|size| size <= DRAIN_MAX) {
        let body = response.body_mut().as_reader();
        // On failure the connection is not reused; there is no other effect.
        let _ = io::copy(&mut body.take(DRAIN_MAX + 1), &mut io::sink());
    }
}

/// Separates user and password from a URL and encodes them as a header (RFC 7617).
fn origin(url: &Url) -> Result<(Uri, Option<HeaderValue>), SourceError> {
    let wrong = |reason: &str| SourceError::Url { place: url.to_string(), reason: reason.into() };
    let (scheme, rest) = url.full().split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
    let rest = rest.split('#').next().unwrap_or_default();
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let path = if path.starts_with('/') { path } else { &format!("/{path}") };
    let uri = format!("{scheme}://{host}{path}").parse();
    let uri = uri.map_err(|_| wrong("write special characters as %XX"))?;
    let Some(user) = user else { return Ok((uri, None)) };
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let decoded = decode(name).zip(decode(password));
    let (name, password) = decoded.ok_or_else(|| wrong("write special characters as %XX"))?;
    let text = base64(&[&name[..], b":", &password].concat());
    let mut value = HeaderValue::from_str(&format!("Basic {text}"))
        .map_err(|_| wrong("its user and password cannot be sent"))?;
    value.set_sensitive(true);
    Ok((uri, Some(value)))
}

/// Encodes base64 (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// Reads a header file: one `Name: value` per line.
fn headers(path: &std::path::Path) -> io::Result<HeaderMap> {
    let text = small_file::read_text(path, HEADER_FILE_MAX)?;
    let mut headers = HeaderMap::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        // The line may be a secret, so the message does not contain it.
        let malformed =
            || io::Error::other(format!("line {} is not of the form Name: value", at + 1));
        let (name, mut value) = parsed.ok_or_else(malformed)?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::{base64, headers, origin};
    use crate::source::SourceSpec;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn user_and_password_become_a_header_and_leave_the_url() {
        let of = |text: &str| match text.parse() {
            Ok(SourceSpec::Http(url)) => origin(&url).map(|(uri, value)| (uri.to_string(), value)),
            other => panic!("{text} is {other:?}"),
        };
        let (uri, value) = of("http://Aladdin:open%20sesame@host:81/a?b#c").unwrap();
        assert_eq!(uri, "http://host:81/a?b");
        let value = value.unwrap();
        assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(value.is_sensitive());
        assert_eq!(of("https://host?a").unwrap(), ("https://host/?a".into(), None));
        let told = of("http://me:%zz@host/").unwrap_err().to_string();
        assert!(told.contains("http://host/") && !told.contains("zz"), "{told}");
        assert!(of("http://host/a b").is_err());
    }

    #[test]
    fn a_file_of_headers_is_read_and_its_secrets_are_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "# comment\n\nX-Token:  secret \nAuthorization: Bearer x\n").unwrap();
        let read = headers(&path).unwrap();
        assert_eq!((read.len(), read["x-token"].to_str().unwrap()), (2, "secret"));
        assert!(!format!("{read:?}").contains("secret"));
        std::fs::write(&path, "X: 1\nsecret\n").unwrap();
        let told = headers(&path).unwrap_err().to_string();
        assert_eq!(told, "line 2 is not of the form Name: value");
        std::fs::write(&path, vec![b'#'; 65 << 10]).unwrap();
        assert!(headers(&path).is_err());
    }
}
