//! Objects of an object store: S3 and compatible services, Google Cloud Storage, Azure.
//!
//! The crate `object_store` knows their dialects: the location of an object and the signature of a
//! request. The requests themselves are made here, with the same client as for web servers, so
//! trust, time limits and the checks of a response are the same.

use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clone_core::sync::lock;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    ClientConfigKey, ClientOptions, GetOptions, GetRange, ObjectStore, RetryConfig,
};
use tokio::runtime::Builder;
use ureq::http::uri::Scheme;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

use super::error::SourceError;
use super::http::answer::{Found, check, found, size_of};
use super::http::{agent, trouble};
use super::identity::{Identity, Version};
use super::options::SourceOptions;
use super::remote::{Remote, RemoteError};
use super::uri::{Url, decode};

/// Maximum size in bytes of a body that is not data: tokens and error messages.
const TEXT_MAX: u64 = 1 << 20;

/// An object store and the path of one object in it.
pub(super) struct Bucket {
    store: Box<dyn ObjectStore>,
    path: Path,
    agent: Agent,
}

/// An object of an object store.
pub(super) struct Object {
    bucket: Bucket,
    identity: Identity,
}

/// A request for data. It passes through the crate and arrives in [`Client::call`].
#[derive(Clone)]
struct Call {
    deadline: Instant,
    /// Number of data bytes requested.
    len: u64,
    /// The outcome of the last HTTP request made for it.
    outcome: Arc<Mutex<Option<Outcome>>>,
}

enum Outcome {
    Answer(StatusCode, HeaderMap),
    RemoteError(RemoteError),
}

impl Bucket {
    pub(super) fn new(url: &Url, options: &SourceOptions) -> Result<Self, SourceError> {
        let wrong = |reason: String| SourceError::Url { place: url.to_string(), reason };
        let full = url.full();
        let (scheme, rest) = full.split_once("://").unwrap_or_default();
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let key = decode(key).and_then(|key| String::from_utf8(key).ok());
        let key = key.ok_or_else(|| wrong("its key is not in UTF-8 and %XX".into()))?;
        let path = Path::parse(&key).map_err(|error| wrong(error.to_string()))?;
        let agent = agent(options)?;
        let connector = Connector { agent: agent.clone(), timeout: options.timeout };
        // The caller applies the retry policy.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let place = format!("{scheme}://{bucket}");
        let settings = &options.object_settings;
        let store: object_store::Result<Box<dyn ObjectStore>> = match scheme {
            "s3" => set(AmazonS3Builder::from_env(), settings, AmazonS3Builder::with_config)
                .map_err(wrong)?
                .with_url(place)
                .with_retry(retry)
                .with_http_connector(connector)
                .build()
                .map(|store| Box::new(store) as _),
            "gs" => {
                let builder = GoogleCloudStorageBuilder::from_env();
                set(builder, settings, GoogleCloudStorageBuilder::with_config)
                    .map_err(wrong)?
                    .with_url(place)
                    .with_retry(retry)
                    .with_http_connector(connector)
                    .build()
                    .map(|store| Box::new(store) as _)
            }
            _ => {
                let builder = MicrosoftAzureBuilder::from_env();
                set(builder, settings, MicrosoftAzureBuilder::with_config)
                    .map_err(wrong)?
                    .with_url(place)
                    .with_retry(retry)
                    .with_http_connector(connector)
                    .build()
                    .map(|store| Box::new(store) as _)
            }
        };
        let store = store.map_err(|error| wrong(error.to_string()))?;
        Ok(Self { store, path, agent })
    }

    /// Requests the first byte to identify the object. Requests the version in `pinned`, if the
    /// store keeps old versions.
    pub(super) fn identify(
        &self,
        pinned: Option<&Identity>,
        deadline: Instant,
    ) -> Result<Identity, RemoteError> {
        let generation = pinned.and_then(|pinned| pinned.version.generation());
        let call = Call::new(1, deadline);
        let response = self.get(&(0..1), None, generation, &call);
        let (status, headers) = call.answer(response.as_ref().err())?;
        let identity = match found(status, &headers)? {
            Found::Object(identity) => identity,
            Found::Empty => return Err(RemoteError::Final(io::Error::other("it is empty"))),
        };
        let (_, found) = response.map_err(unusable)?;
        let Version::Etag { etag } = identity.version else { return Ok(identity) };
        let etag_alone = Identity { version: Version::Etag { etag: etag.clone() }, ..identity };
        let Some(generation) = found else { return Ok(etag_alone) };
        // The credentials may permit reading an object but not its versions.
        let call = Call::new(1, deadline);
        let response = self.get(&(0..1), None, Some(&generation), &call);
        let version = Version::Generation { etag, generation };
        let identity = Identity { version, ..etag_alone };
        let judged = call.answer(response.as_ref().err());
        let judged =
            judged.and_then(|(status, headers)| check(status, &headers, &(0..1), &identity));
        match (response, judged) {
            (Ok(_), Ok(())) => Ok(identity),
            (_, Err(trouble @ RemoteError::Passing(_))) => Err(trouble),
            _ => Ok(etag_alone),
        }
    }

    /// Requests a half-open range of bytes. Returns them with the name of their version.
    fn get(
        &self,
        range: &Range<u64>,
        etag: Option<&str>,
        generation: Option<&str>,
        call: &Call,
    ) -> object_store::Result<(Vec<u8>, Option<String>)> {
        let mut options = GetOptions {
            if_match: etag.map(str::to_owned),
            range: Some(GetRange::Bounded(range.clone())),
            version: generation.map(str::to_owned),
            ..GetOptions::default()
        };
        options.extensions.insert(call.clone());
        let store = |error: io::Error| object_store::Error::Generic {
            store: "runtime",
            source: Box::new(error),
        };
        // The crate is asynchronous. Its future waits for another thread only to share a token, so
        // a temporary runtime is enough, and it costs almost nothing.
        let runtime = Builder::new_current_thread().enable_time().build().map_err(store)?;
        runtime.block_on(async {
            let get = self.store.get_opts(&self.path, options);
            let left = call.deadline.saturating_duration_since(Instant::now());
            let got = tokio::time::timeout(left, get).await;
            let got = got.map_err(|_| store(io::ErrorKind::TimedOut.into()))??;
            let generation = got.meta.version.clone();
            // The body arrived with the response.
            Ok((got.bytes().await?.into(), generation))
        })
    }

    /// Returns the object that was [identified](Self::identify).
    pub(super) fn object(self, identity: Identity) -> Object {
        Object { bucket: self, identity }
    }
}

/// Applies settings to a builder. Fails for a setting that it does not have.
fn set<B, K: FromStr>(
    builder: B,
    settings: &[(String, String)],
    with: impl Fn(B, K, String) -> B,
) -> Result<B, String> {
    settings.iter().try_fold(builder, |builder, (name, value)| {
        let key = name.parse().map_err(|_| format!("its store has no setting {name}"))?;
        Ok(with(builder, key, value.clone()))
    })
}

impl Remote for Object {
    fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    fn read_at(&self, offset: u64, into: &mut [u8], deadline: Instant) -> Result<(), RemoteError> {
        let len = into.len() as u64;
        let range = offset..offset.saturating_add(len);
        let version = &self.identity.version;
        let etag = match version {
            Version::Etag { etag } | Version::Generation { etag, .. } => Some(etag.as_str()),
            _ => None,
        };
        let call = Call::new(len, deadline);
        let got = self.bucket.get(&range, etag, version.generation(), &call);
        let (status, headers) = call.answer(got.as_ref().err())?;
        check(status, &headers, &range, &self.identity)?;
        let (bytes, _) = got.map_err(unusable)?;
        if bytes.len() != into.len() {
            let text = format!("received {} bytes, requested {len}", bytes.len());
            return Err(RemoteError::Passing(io::Error::other(text)));
        }
        into.copy_from_slice(&bytes);
        Ok(())
    }

    fn abandon(&self) {
        self.bucket.agent.clone().shutdown();
    }
}

/// The error for a response that passes the checks here but that the crate rejects.
fn unusable(error: object_store::Error) -> RemoteError {
    RemoteError::Passing(io::Error::other(error.to_string()))
}

impl Call {
    fn new(len: u64, deadline: Instant) -> Self {
        Self { deadline, len, outcome: Arc::default() }
    }

    /// Returns the response of the server. Without a response, `error` is the failure of the crate.
    fn answer(
        &self,
        error: Option<&object_store::Error>,
    ) -> Result<(StatusCode, HeaderMap), RemoteError> {
        let outcome = lock(&self.outcome).take();
        match (outcome, error) {
            (Some(Outcome::Answer(status, headers)), _) => Ok((status, headers)),
            (Some(Outcome::RemoteError(trouble)), _) => Err(trouble),
            // For example, credentials are missing, or their provider is unreachable.
            (None, Some(error)) => Err(RemoteError::Passing(io::Error::other(error.to_string()))),
            (None, None) => Err(RemoteError::Passing(io::Error::other("no request was sent"))),
        }
    }

    fn end(&self, outcome: Outcome) {
        *lock(&self.outcome) = Some(outcome);
    }
}

/// Makes the HTTP requests of the crate.
#[derive(Debug)]
struct Connector {
    agent: Agent,
    timeout: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allowed = options.get_config_value(&ClientConfigKey::AllowHttp);
        let allows_http = allowed.as_deref() == Some("true");
        let (agent, timeout) = (self.agent.clone(), self.timeout);
        Ok(HttpClient::new(Client { agent, timeout, allows_http }))
    }
}

struct Client {
    agent: Agent,
    /// Time limit of requests that are not for data.
    timeout: Duration,
    allows_http: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    fn ask(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let call = request.extensions().get::<Call>().cloned();
        let result = self.ask_for(request, call.as_ref());
        match (call, result) {
            (_, Ok(response)) => Ok(response),
            (call, Err(trouble)) => {
                let text = match &trouble {
                    RemoteError::Passing(error) | RemoteError::Final(error) => error.to_string(),
                    RemoteError::Changed(changed) => changed.to_string(),
                };
                if let Some(call) = call {
                    call.end(Outcome::RemoteError(trouble));
                }
                Err(HttpError::new(HttpErrorKind::Unknown, io::Error::other(text)))
            }
        }
    }

    fn ask_for(
        &self,
        request: HttpRequest,
        call: Option<&Call>,
    ) -> Result<HttpResponse, RemoteError> {
        if !self.allows_http && request.uri().scheme() != Some(&Scheme::HTTPS) {
            let text = "the endpoint is http://, and AWS_ALLOW_HTTP or its equivalent is not true";
            return Err(RemoteError::Final(io::Error::other(text)));
        }
        let left = match call {
            Some(call) => call.deadline.saturating_duration_since(Instant::now()),
            None => self.timeout,
        };
        if left.is_zero() {
            return Err(RemoteError::Passing(io::ErrorKind::TimedOut.into()));
        }
        let (parts, body) = request.into_parts();
        let body = body.as_bytes().map(|bytes| bytes.to_vec()).unwrap_or_default();
        let response = match body.is_empty() {
            true => self.run(ureq::http::Request::from_parts(parts, ()), left),
            false => self.run(ureq::http::Request::from_parts(parts, body), left),
        };
        let mut response = response.map_err(trouble)?;
        let is_data = call.is_some() && response.status() == StatusCode::PARTIAL_CONTENT;
        let most = call.filter(|_| is_data).map_or(TEXT_MAX, |call| call.len);
        // If the server sends the whole object instead of the range, the body is useless.
        let is_whole = call.is_some() && response.status() == StatusCode::OK;
        let bytes = if is_whole { Vec::new() } else { body_of(&mut response, most)? };
        if let Some(call) = call {
            call.end(Outcome::Answer(response.status(), response.headers().clone()));
        }
        Ok(response.map(|_| bytes.into()))
    }

    fn run<B: ureq::AsSendBody>(
        &self,
        request: ureq::http::Request<B>,
        left: Duration,
    ) -> Result<Response<Body>, ureq::Error> {
        let request = self.agent.configure_request(request);
        self.agent.run(request.timeout_global(Some(left)).allow_non_standard_methods(true).build())
    }
}

/// Reads a body of at most `most` bytes.
fn body_of(response: &mut Response<Body>, most: u64) -> Result<Vec<u8>, RemoteError> {
    let size = size_of(response.headers()).unwrap_or(0).min(most);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    let body = response.body_mut().as_reader();
    let read = io::copy(&mut io::Read::take(body, most.saturating_add(1)), &mut bytes);
    match read {
        Ok(read) if read <= most => Ok(bytes),
        Ok(_) => Err(RemoteError::Passing(io::Error::other("received more bytes than requested"))),
        Err(error) => {
            let text = format!("the body was not received: {error}");
            Err(RemoteError::Passing(io::Error::new(error.kind(), text)))
        }
    }
}

impl HttpService for Client {
    fn call<'client, 'call>(
        &'client self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'call>>
    where
        'client: 'call,
        Self: 'call,
    {
        Box::pin(async move { self.ask(request) })
    }
}
