//! Header fields that the judgement of a response relies on.
//!
//! *Invariant:* if a field occurs twice with different values, neither is chosen. The body may
//! belong to either, or a cache or a proxy may have mixed two responses: such a response is
//! malformed, and its body is not used.

use std::ops::Range;

use ureq::http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED,
    LOCATION, RETRY_AFTER, TRANSFER_ENCODING,
};
use ureq::http::{HeaderMap, HeaderValue};

/// The reason why a header is malformed.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::source) struct Malformed(pub(in crate::source) String);

/// The half-open range of bytes that a body holds, and the total size, if known.
pub(in crate::source) type Part = (Range<u64>, Option<u64>);

/// Returns the value of a field. Repetitions must be equal.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Malformed> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    let trimmed = |value: &'a HeaderValue| value.as_bytes().trim_ascii();
    if values.any(|value| trimmed(value) != trimmed(first)) {
        return Err(Malformed(format!("it has two {name} that differ")));
    }
    Ok(first.to_str().ok().map(str::trim))
}

/// Returns the value of a field that must not be repeated.
fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Malformed> {
    match headers.get_all(name).iter().count() {
        0 | 1 => only(headers, name),
        count => Err(Malformed(format!("it has {name} {count} times"))),
    }
}

/// Returns the ETag (RFC 9110, section 8.8.3), strong or weak, as the server wrote it. `None` if
/// there is none.
pub(super) fn etag(headers: &HeaderMap) -> Result<Option<&str>, Malformed> {
    let etag = only(headers, &ETAG)?.filter(|etag| !etag.is_empty());
    match etag {
        // Some servers omit the quotes. Such a value is compared as it is.
        Some(etag) if etag.matches('"').count() > 2 => {
            Err(Malformed("it has several ETags in one line".into()))
        }
        etag => Ok(etag),
    }
}

/// Returns whether an ETag is strong. Only a strong one can be used with If-Match (RFC 9110,
/// section 13.1.1).
pub(super) fn is_strong(etag: &str) -> bool {
    let inner = etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.is_some_and(|inner| !inner.contains('"'))
}

/// Returns the time of the last modification, as text.
pub(super) fn last_modified(headers: &HeaderMap) -> Result<Option<&str>, Malformed> {
    let time = only(headers, &LAST_MODIFIED)?;
    // A date contains at most one comma, after the day of the week.
    if time.is_some_and(|time| time.matches(',').count() > 1) {
        return Err(Malformed("it has several Last-Modified in one line".into()));
    }
    Ok(time)
}

/// Returns the range of bytes in the body and the total size, if known (RFC 9110, section 14.4).
pub(super) fn content_range(headers: &HeaderMap) -> Result<Part, Malformed> {
    let parsed = sole(headers, &CONTENT_RANGE)?.and_then(|text| {
        let (range, total) = text.strip_prefix("bytes ")?.trim_start().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let total = if total == "*" { None } else { Some(number(total)?) };
        let end = last.checked_add(1)?;
        (first < end && total.is_none_or(|total| end <= total)).then_some((first..end, total))
    });
    parsed.ok_or_else(|| Malformed("its Content-Range is missing or invalid".into()))
}

/// Returns the total size in a response that refuses a range, `bytes */1234`. `None` if it is not
/// there.
pub(super) fn total_of(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let text = sole(headers, &CONTENT_RANGE)?;
    Ok(text.and_then(|text| number(text.strip_prefix("bytes */")?)))
}

/// Returns the length of the body in bytes, if known.
pub(super) fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    match only(headers, &CONTENT_LENGTH)? {
        None => Ok(None),
        Some(text) => match number(text) {
            Some(length) => Ok(Some(length)),
            None => Err(Malformed(format!("its Content-Length is {text:?}"))),
        },
    }
}

/// Parses decimal digits. Signs are not accepted.
pub(super) fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Returns whether the body is encoded, other than in chunks.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let coded = |name, plain: &str| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| !value.as_bytes().eq_ignore_ascii_case(plain.as_bytes()))
    };
    coded(CONTENT_ENCODING, "identity") || coded(TRANSFER_ENCODING, "chunked")
}

/// Fails if the header defines the end of the body in two ways, or if the body has several parts.
pub(super) fn check_framing(headers: &HeaderMap) -> Result<(), Malformed> {
    let chunks = headers.get_all(TRANSFER_ENCODING).iter().count();
    if chunks > 1 {
        return Err(Malformed(format!("it has {TRANSFER_ENCODING} {chunks} times")));
    }
    if chunks > 0 && headers.contains_key(CONTENT_LENGTH) {
        return Err(Malformed("it has chunks and a Content-Length (RFC 9112, section 6.1)".into()));
    }
    let several = b"multipart/byteranges";
    let is_several = |value: &HeaderValue| {
        let value = value.as_bytes().trim_ascii_start();
        value.get(..several.len()).is_some_and(|start| start.eq_ignore_ascii_case(several))
    };
    if headers.get_all(CONTENT_TYPE).iter().any(is_several) {
        return Err(Malformed("it has several parts, requested one".into()));
    }
    Ok(())
}

/// Returns the version name of a store that keeps old versions, if the response has one.
pub(super) fn generation(headers: &HeaderMap) -> Result<Option<&str>, Malformed> {
    let stores = ["x-amz-version-id", "x-goog-generation", "x-ms-version-id"];
    let mut generation = None;
    for store in stores.map(HeaderName::from_static) {
        generation = generation.or(only(headers, &store)?);
    }
    Ok(generation)
}

/// Returns the target of a redirect.
pub(in crate::source::http) fn location(headers: &HeaderMap) -> Result<Option<&str>, Malformed> {
    only(headers, &LOCATION)
}

/// Returns all values of Retry-After. Repetitions are harmless: the caller uses the longest delay.
pub(super) fn retry_after(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(RETRY_AFTER).iter().filter_map(|value| value.to_str().ok()).map(str::trim)
}
