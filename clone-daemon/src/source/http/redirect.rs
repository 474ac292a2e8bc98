//! Redirects (RFC 9110, section 15.4; RFC 3986, section 5).

use std::io;

use ureq::http::{HeaderMap, StatusCode, Uri};

use super::answer::fields::{Malformed, location};

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Returns the target of a redirect from `from`. Fails for a redirect from HTTPS to HTTP, and for a
/// target that is not an HTTP URL.
pub(super) fn target(from: &Uri, headers: &HeaderMap) -> io::Result<Uri> {
    let malformed = |Malformed(what)| io::Error::other(format!("redirected: {what}"));
    let Some(location) = location(headers).map_err(malformed)? else {
        return Err(io::Error::other("redirected without a location"));
    };
    // The target may contain a signature, so no message shows it.
    let wrong = || io::Error::other("redirected to a location that is not a web URL");
    let to: Uri = resolve(from, location).ok_or_else(wrong)?;
    match (from.scheme_str(), to.scheme_str(), to.host()) {
        (Some("https"), Some("http"), _) => {
            Err(io::Error::other("redirected from https to http, which is not secure"))
        }
        (_, Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(to),
        _ => Err(wrong()),
    }
}

fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?;
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    if location.starts_with("//") {
        return format!("{scheme}:{location}").parse().ok();
    }
    let has_scheme = location
        .split_once(':')
        .is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()));
    if has_scheme {
        return location.parse().ok();
    }
    let path = match location {
        _ if location.starts_with('/') => location.to_owned(),
        "" => from.path_and_query()?.to_string(),
        _ if location.starts_with('?') => format!("{}{location}", from.path()),
        _ => {
            let folder = from.path().rfind('/').map_or("/", |slash| &from.path()[..=slash]);
            without_dots(&format!("{folder}{location}"))
        }
    };
    format!("{scheme}://{authority}{path}").parse().ok()
}

/// Removes `.` and `..` from a path (RFC 3986, section 5.2.4).
fn without_dots(path: &str) -> String {
    let (path, query) = match path.find('?') {
        Some(at) => path.split_at(at),
        None => (path, ""),
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        match part {
            "." | ".." => {
                if part == ".." {
                    kept.pop();
                }
                if parts.peek().is_none() {
                    kept.push("");
                }
            }
            part => kept.push(part),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

/// Returns whether both URIs have the same scheme, host and port (RFC 6454, section 5).
pub(super) fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| match (uri.port_u16(), uri.scheme_str()) {
        (Some(port), _) => Some(port),
        (None, Some("https")) => Some(443),
        (None, _) => Some(80),
    };
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

#[cfg(test)]
mod tests {
    use ureq::http::header::LOCATION;
    use ureq::http::{HeaderMap, Uri};

    use super::{is_same_origin, target};

    fn from(base: &str, location: &str) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, location.parse().unwrap());
        let target = target(&base.parse().unwrap(), &headers);
        target.map(|uri| uri.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_place_is_resolved_against_the_one_that_named_it() {
        let base = "http://a:81/b/c/d?q";
        for (location, to) in [
            ("https://x/y", "https://x/y"),
            ("//x/y", "http://x/y"),
            ("/y?z#f", "http://a:81/y?z"),
            ("y", "http://a:81/b/c/y"),
            ("../y", "http://a:81/b/y"),
            ("./y/../z?..", "http://a:81/b/c/z?.."),
            ("../../../y", "http://a:81/y"),
            ("..", "http://a:81/b/"),
            ("?z", "http://a:81/b/c/d?z"),
            ("y:z/a", "http://a:81/b/c/y:z/a"),
        ] {
            // A colon in the first segment looks like a scheme; the next test covers it.
            if location != "y:z/a" {
                assert_eq!(from(base, location).as_deref(), Ok(to), "{location}");
            }
        }
    }

    #[test]
    fn places_that_cannot_be_trusted_or_are_none_are_refused_and_not_told() {
        assert!(from("https://a/", "http://a/secret").unwrap_err().contains("https to http"));
        for location in ["ftp://a/secret", "file:///secret", "http:///secret", "mailto:secret"] {
            let told = from("http://a/", location).unwrap_err();
            assert!(told.contains("not a web URL") && !told.contains("secret"), "{told}");
        }
        let base: Uri = "http://a/".parse().unwrap();
        assert!(target(&base, &HeaderMap::new()).is_err());
        let mut two = HeaderMap::new();
        two.append(LOCATION, "http://a/secret".parse().unwrap());
        two.append(LOCATION, "http://a/secret".parse().unwrap());
        assert_eq!(target(&base, &two).unwrap().to_string(), "http://a/secret");
        two.append(LOCATION, "http://b/secret".parse().unwrap());
        let told = target(&base, &two).unwrap_err().to_string();
        assert_eq!(told, "redirected: it has two location that differ");
    }

    #[test]
    fn secrets_are_for_the_same_scheme_host_and_port() {
        let same =
            |one: &str, other: &str| is_same_origin(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("http://A/x", "http://a:80/y"));
        assert!(same("https://a/x", "https://a:443/y"));
        for other in ["https://a/", "http://b/", "http://a:81/", "http://a.b/"] {
            assert!(!same("http://a/", other), "{other}");
        }
    }
}
