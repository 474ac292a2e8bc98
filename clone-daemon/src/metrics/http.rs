//! The part of HTTP that a scrape needs: one GET, one answer, and the connection ends.
//!
//! RFC 9112; `httparse` parses the requests.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

use httparse::{EMPTY_HEADER, Error, Status};
use prometheus_client::registry::Registry;

use super::{ASK_TIME, TIME, text};
use crate::connection_server::{ConnectionState, Serve};

/// The maximum length of a request in bytes.
const REQUEST_MAX: usize = 8 << 10;

/// The maximum number of header lines of a request.
const HEADERS_MAX: usize = 64;

/// The content type of the answer to a scrape.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// The pages that can be requested.
pub(super) struct Pages {
    pub(super) registry: Registry,
}

/// An HTTP response.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

impl Answer {
    fn plain(status: &'static str, body: &str) -> Self {
        Self { status, kind: PLAIN, body: body.to_owned() }
    }

    fn bytes(&self, with_body: bool) -> Vec<u8> {
        let Self { status, kind, body } = self;
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        );
        let body = if with_body { body.as_str() } else { "" };
        (head + body).into_bytes()
    }
}

impl Serve for Pages {
    fn serve(&self, socket: OwnedFd, connection: &ConnectionState) {
        let stream = TcpStream::from(socket);
        if let Err(error) = self.talk(&stream, connection) {
            tracing::debug!("a scrape of metrics failed: {error}");
        }
    }

    fn refuse(&self, socket: OwnedFd) {
        let mut stream = TcpStream::from(socket);
        let busy = Answer::plain("503 Service Unavailable", "too many connections\n");
        // A client that does not read the answer sees a closed connection.
        let _ = stream.set_nonblocking(true).and_then(|()| stream.write(&busy.bytes(true)));
    }
}

impl Pages {
    fn talk(&self, mut stream: &TcpStream, connection: &ConnectionState) -> io::Result<()> {
        let until = Instant::now() + TIME;
        let request = match read_request(stream, Instant::now() + ASK_TIME) {
            Err(error) if is_late(&error) => Err(Answer::plain(
                "408 Request Timeout",
                "timed out before the end of the request\n",
            )),
            request => request?,
        };
        connection.wait_for_peer(false);
        let (answer, with_body) = match request {
            Ok((method, path)) => (self.answer(&method, &path), method != "HEAD"),
            Err(answer) => (answer, true),
        };
        connection.wait_for_peer(true);
        write_until(stream, &answer.bytes(with_body), until)?;
        stream.flush()?;
        // Half-close and drain, so that the client can read the whole answer even if it sent more
        // than its request.
        stream.shutdown(Shutdown::Write)?;
        let mut rest = [0; 1024];
        while wait_for(stream, until).is_ok() && (&mut stream).read(&mut rest)? > 0 {}
        Ok(())
    }

    fn answer(&self, method: &str, path: &str) -> Answer {
        if !matches!(method, "GET" | "HEAD") {
            return Answer::plain("405 Method Not Allowed", "only GET and HEAD are allowed\n");
        }
        match path.split('?').next() {
            Some("/metrics") => match text(&self.registry) {
                Ok(body) => Answer { status: "200 OK", kind: METRICS, body },
                Err(_) => Answer::plain("500 Internal Server Error", "cannot write metrics\n"),
            },
            Some("/") => Answer::plain("200 OK", "cloned: see /metrics\n"),
            _ => Answer::plain("404 Not Found", "there is only /metrics\n"),
        }
    }
}

/// Reads a request, and returns its method and path, or the answer to an invalid request.
fn read_request(
    mut stream: &TcpStream,
    until: Instant,
) -> io::Result<Result<(String, String), Answer>> {
    let mut bytes = Vec::new();
    loop {
        let mut headers = [EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(Status::Complete(_)) => {
                let (method, path) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
                return Ok(Ok((method.to_owned(), path.to_owned())));
            }
            Ok(Status::Partial) if bytes.len() < REQUEST_MAX => {}
            Ok(Status::Partial) | Err(Error::TooManyHeaders) => {
                let status = "431 Request Header Fields Too Large";
                return Ok(Err(Answer::plain(status, "too long\n")));
            }
            Err(_) => return Ok(Err(Answer::plain("400 Bad Request", "no request\n"))),
        }
        wait_for(stream, until)?;
        let mut more = [0; 1024];
        let room = more.len().min(REQUEST_MAX - bytes.len());
        let len = (&mut stream).read(&mut more[..room])?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&more[..len]);
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Sets the timeouts of the next read and write so that they end by `until`.
fn wait_for(stream: &TcpStream, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))
}

/// Writes all bytes by `until`, however slowly the client reads.
fn write_until(mut stream: &TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        wait_for(stream, until)?;
        match (&mut stream).write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::Pages;

    #[test]
    fn there_is_one_page_and_it_can_only_be_read() {
        let pages = Pages { registry: Registry::default() };
        let status = |method: &str, path: &str| pages.answer(method, path).status;
        assert_eq!(status("GET", "/metrics?x=y"), "200 OK");
        assert_eq!(status("HEAD", "/"), "200 OK");
        assert_eq!(status("GET", "/metric"), "404 Not Found");
        assert_eq!(status("POST", "/metrics"), "405 Method Not Allowed");
    }
}
