//! Judges the response to a range request: the identity in it, and whether its body may be used.
//!
//! [`http`](super) and the object stores share this code. It does no I/O.

use std::io;
use std::ops::Range;
use std::time::Duration;

use clone_core::block_io::SourceChanged;
use ureq::http::{HeaderMap, StatusCode};

use self::fields::{Malformed, content_range, is_strong, length, total_of};
use crate::source::identity::{Identity, Version};
use crate::source::remote::{Busy, RemoteError};

pub(super) mod fields;

/// Delay if `Retry-After` is a date. Clocks may differ, so the date itself is not used.
const DATE_WAIT: Duration = Duration::from_secs(2);

/// The result of a request for the first byte of an object.
#[derive(Debug)]
pub(in crate::source) enum Found {
    Object(Identity),
    Empty,
}

fn passing(text: impl Into<String>) -> RemoteError {
    RemoteError::Passing(io::Error::other(text.into()))
}

fn lasting(text: impl Into<String>) -> RemoteError {
    RemoteError::Final(io::Error::other(text.into()))
}

fn changed(text: impl Into<String>) -> RemoteError {
    RemoteError::Changed(SourceChanged(text.into()))
}

/// A retry may get a sane response, from another server or without the proxy.
impl From<Malformed> for RemoteError {
    fn from(Malformed(what): Malformed) -> Self {
        passing(format!("the response is malformed: {what}"))
    }
}

/// Identifies the object from the response to a request for its first byte.
pub(in crate::source) fn found(
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Found, RemoteError> {
    match status {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::OK => {
            return Err(lasting("the server does not support range requests"));
        }
        // The object has no first byte. Some servers do not send its size here.
        StatusCode::RANGE_NOT_SATISFIABLE if total_of(headers)?.unwrap_or(0) == 0 => {
            return Ok(Found::Empty);
        }
        _ => return Err(refusal(status, headers)),
    }
    let (range, total) = content_range(headers)?;
    if range != (0..1) {
        return Err(passing(format!("received bytes {range:?}, requested 0..1")));
    }
    plain(headers, 1)?;
    let Some(size_bytes) = total else {
        return Err(lasting("the server does not report the length of the object"));
    };
    Ok(Found::Object(Identity { size_bytes, version: version(headers)? }))
}

/// Checks that the body of a response is `range` of the object that is `pinned`. A sign of another
/// version takes precedence over all other errors.
pub(in crate::source) fn check(
    status: StatusCode,
    headers: &HeaderMap,
    range: &Range<u64>,
    pinned: &Identity,
) -> Result<(), RemoteError> {
    match status {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::OK => {
            same_version(headers, pinned)?;
            let length = length(headers)?;
            if let Some(length) = length.filter(|&length| length != pinned.size_bytes) {
                return Err(changed(lengths(pinned.size_bytes, length)));
            }
            return Err(passing("received the whole object, requested a part"));
        }
        StatusCode::PRECONDITION_FAILED => {
            let text = format!("{} is no longer the current version", pinned.version);
            return Err(changed(text));
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            return Err(match total_of(headers)? {
                Some(total) if total == pinned.size_bytes => {
                    lasting("the server refuses this range")
                }
                Some(total) => changed(lengths(pinned.size_bytes, total)),
                None => changed(format!("the object ends before byte {}", range.end)),
            });
        }
        _ => return Err(refusal(status, headers)),
    }
    same_version(headers, pinned)?;
    let (came, total) = content_range(headers)?;
    match total {
        Some(total) if total == pinned.size_bytes => {}
        Some(total) => return Err(changed(lengths(pinned.size_bytes, total))),
        None if is_strong_version(&pinned.version) => {}
        None => return Err(passing("the length of the object is missing")),
    }
    if came != *range {
        return Err(passing(format!("received bytes {came:?}, requested {range:?}")));
    }
    plain(headers, range.end.saturating_sub(range.start))
}

fn is_strong_version(version: &Version) -> bool {
    matches!(version, Version::Etag { .. } | Version::Generation { .. })
}

fn lengths(had: u64, has: u64) -> String {
    format!("it had {had} bytes, and has {has}")
}

/// Classifies a status that brings no data.
fn refusal(status: StatusCode, headers: &HeaderMap) -> RemoteError {
    let text = format!("the server returned {status}");
    let is_passing = match status.as_u16() {
        // The temporary ones of 4xx: timeouts and too many requests.
        408 | 425 | 429 => true,
        // Not implemented, or not in this HTTP version: permanent.
        501 | 505 => false,
        // A missing object may come back, and its ETag will show if it is another one. So 404 and
        // 410 end reads, but not the clone.
        code => (500..600).contains(&code),
    };
    match (is_passing, retry_after(headers)) {
        (true, Some(wait)) => RemoteError::Passing(io::Error::other(Busy { text, wait })),
        (true, None) => passing(text),
        (false, _) => lasting(text),
    }
}

/// Returns the delay that the server asks for (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let wait = |text: &str| {
        // A number that overflows is limited later anyway.
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = is_number.then(|| text.parse().unwrap_or(u64::MAX));
        seconds.map_or(DATE_WAIT, Duration::from_secs)
    };
    fields::retry_after(headers).map(wait).max()
}

/// Returns the version of the object.
fn version(headers: &HeaderMap) -> Result<Version, Malformed> {
    let last_modified = fields::last_modified(headers)?.map(str::to_owned);
    Ok(match (fields::etag(headers)?.map(str::to_owned), last_modified) {
        (Some(etag), _) if is_strong(&etag) => Version::Etag { etag },
        (Some(etag), last_modified) => Version::WeakEtag { etag, last_modified },
        (None, Some(last_modified)) => Version::LastModified { last_modified },
        (None, None) => Version::Unknown,
    })
}

/// Checks that a response belongs to the pinned version. If the response does not say, it cannot be
/// used, but another one may.
fn same_version(headers: &HeaderMap, pinned: &Identity) -> Result<(), RemoteError> {
    let has = version(headers)?;
    let had = &pinned.version;
    let opaque = |etag: &str| etag.strip_prefix("W/").unwrap_or(etag).to_owned();
    let (is_same, is_other) = match (had, &has) {
        (Version::Unknown, _) => (true, false),
        (Version::Generation { etag, generation }, Version::Etag { etag: has }) => {
            let is_same = fields::generation(headers)?.is_none_or(|found| found == generation);
            (etag == has && is_same, true)
        }
        (Version::LastModified { last_modified }, _) => {
            let has = fields::last_modified(headers)?;
            (has == Some(last_modified), has.is_some())
        }
        (
            Version::Etag { etag } | Version::Generation { etag, .. },
            Version::WeakEtag { etag: has, .. },
        )
        | (Version::WeakEtag { etag, .. }, Version::Etag { etag: has }) => {
            (false, opaque(etag) != opaque(has))
        }
        (
            Version::WeakEtag { etag, last_modified: then },
            Version::WeakEtag { etag: has, last_modified: now },
        ) => {
            let is_later = then.is_some() && now.is_some() && then != now;
            (etag == has && then == now, etag != has || is_later)
        }
        (_, Version::Unknown | Version::LastModified { .. }) => (false, false),
        (had, has) => (had == has, true),
    };
    match (is_same, is_other) {
        (true, _) => Ok(()),
        (false, true) => {
            Err(changed(format!("it was identified by {had}, and is now identified by {has}")))
        }
        (false, false) => Err(passing(format!("the response lacks {had}"))),
    }
}

/// Returns the length of the body, if known. Only for uses where a wrong value does no harm.
pub(in crate::source) fn size_of(headers: &HeaderMap) -> Option<u64> {
    length(headers).ok().flatten()
}

/// Checks that the body consists of `wanted` unencoded bytes of the object.
fn plain(headers: &HeaderMap, wanted: u64) -> Result<(), RemoteError> {
    if fields::is_encoded(headers) {
        return Err(lasting("the server encodes the body, although identity was requested"));
    }
    fields::check_framing(headers)?;
    match length(headers)? {
        Some(length) if length != wanted => {
            Err(passing(format!("received a body of {length} bytes, requested {wanted}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
