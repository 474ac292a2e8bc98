//! A buffered reader for a text document. It tracks the position of each token and limits its
//! length. The [`xml`](crate::formats::xml) and [`json`](crate::formats::json) readers read through
//! it.

use std::fmt;
use std::io::{self, BufRead, Read};

use thiserror::Error;

/// The maximum length of a token, in bytes: more than any valid token needs.
const MAX_TOKEN: usize = 64 << 10;

const BUFFER: usize = 64 << 10;

/// A position in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line, from 1.
    pub line: u64,
    /// The column in characters, from 1.
    pub column: u64,
}

impl Position {
    /// The start of a text.
    pub const START: Self = Self { line: 1, column: 1 };

    fn advance(&mut self, over: &[u8]) {
        let last_line = match over.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => {
                self.line += over.iter().filter(|&&byte| byte == b'\n').count() as u64;
                self.column = 1;
                &over[newline + 1..]
            }
            None => over,
        };
        let is_first_byte_of_character = |byte: &&u8| **byte & 0xC0 != 0x80;
        self.column += last_line.iter().filter(is_first_byte_of_character).count() as u64;
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A token is longer than a [`Source`] allows. A parser would otherwise buffer all of it.
#[derive(Clone, Copy, Debug, Error)]
#[error("more than {MAX_TOKEN} bytes without a break: this is not what clone_dump writes")]
pub struct TokenTooLong;

/// Tracks lines and columns for messages, and limits the memory that a parser can use.
#[derive(Debug)]
pub struct Source<R> {
    inner: R,
    buffer: Vec<u8>,
    consumed: usize,
    place: Position,
    token: Position,
    token_bytes: usize,
}

impl<R: Read> Source<R> {
    /// Creates a source that reads from `inner`, which needs no buffer of its own.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: Vec::with_capacity(BUFFER),
            consumed: 0,
            place: Position::START,
            token: Position::START,
            token_bytes: 0,
        }
    }

    /// Starts a new token at the current position.
    pub fn begin_token(&mut self) {
        self.token = self.place;
        self.token_bytes = 0;
    }

    /// Returns the position at which the current token starts.
    pub fn token(&self) -> Position {
        self.token
    }

    /// Returns the position of the next byte to be read.
    pub fn place(&self) -> Position {
        self.place
    }

    /// Returns the next bytes without consuming them: at least `bytes`, or fewer at the end of
    /// input.
    ///
    /// # Errors
    /// Any error of the inner reader except [`Interrupted`](io::ErrorKind::Interrupted).
    pub fn peek(&mut self, bytes: usize) -> io::Result<&[u8]> {
        while self.buffer.len() - self.consumed < bytes && self.read_more()? > 0 {}
        Ok(&self.buffer[self.consumed..])
    }

    fn read_more(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + BUFFER, 0);
        let read = loop {
            match self.inner.read(&mut self.buffer[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        read
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.token_bytes > MAX_TOKEN {
            return Err(io::Error::other(TokenTooLong));
        }
        self.peek(1)
    }

    fn consume(&mut self, bytes: usize) {
        let end = self.consumed + bytes;
        self.place.advance(&self.buffer[self.consumed..end]);
        self.token_bytes += bytes;
        self.consumed = end;
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read};

    use super::{MAX_TOKEN, Position, Source, TokenTooLong};

    #[test]
    fn places_count_lines_and_characters() {
        let mut source = Source::new("ab\ncdé€f\n\ng".as_bytes());
        let places = [(1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (2, 4), (2, 4), (2, 5), (2, 5)];
        for (line, column) in places {
            source.read_exact(&mut [0]).unwrap();
            assert_eq!(source.place(), Position { line, column });
        }
        std::io::copy(&mut source, &mut std::io::sink()).unwrap();
        assert_eq!(source.place(), Position { line: 4, column: 2 });
    }

    #[test]
    fn a_token_without_end_is_refused() {
        let mut source = Source::new(std::io::repeat(b'x'));
        let mut consumed = 0;
        let error = loop {
            match source.fill_buf() {
                Ok(bytes) => {
                    let bytes = bytes.len();
                    source.consume(bytes);
                    consumed += bytes;
                }
                Err(error) => break error,
            }
        };
        assert!(error.get_ref().unwrap().is::<TokenTooLong>());
        assert!(consumed <= 2 * MAX_TOKEN + 1, "{consumed}");
        source.begin_token();
        assert!(source.fill_buf().is_ok());
    }
}
