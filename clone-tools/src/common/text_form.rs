//! The text formats of a dump, told apart by how they begin.

use std::fmt;

/// The text formats of a dump that can be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextForm {
    /// The format of clone_dump.
    Xml,
    /// The format of clone_dump --format json.
    Json,
}

impl TextForm {
    /// Returns the name for the option --format.
    pub fn option(self) -> &'static str {
        match self {
            Self::Xml => "xml",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for TextForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xml => "XML",
            Self::Json => "JSON",
        })
    }
}

/// Returns the format of a file that begins with `start`, if it is text. The first four bytes of
/// metadata are a checksum and can have any value, and so can all bytes of an overwritten
/// superblock: a file counts as text only if all examined bytes are text.
pub fn text_form(start: &[u8]) -> Option<TextForm> {
    let text = start.strip_prefix("\u{feff}".as_bytes()).unwrap_or(start);
    match text.trim_ascii_start().first() {
        _ if is_binary(start) || !is_utf8(start) => None,
        Some(b'<') => Some(TextForm::Xml),
        Some(b'{') => Some(TextForm::Json),
        _ => None,
    }
}

/// Returns whether a file that begins with `start` is binary: it contains control characters other
/// than tab, newline and carriage return.
pub fn is_binary(start: &[u8]) -> bool {
    sample(start).iter().any(|byte| byte.is_ascii_control() && !b"\t\n\r".contains(byte))
}

/// Returns whether `start` is UTF-8. It may end inside a character.
fn is_utf8(start: &[u8]) -> bool {
    // `error_len` is `None` if the text ends inside a character.
    str::from_utf8(sample(start)).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// Returns the bytes that are examined to tell text from binary data.
fn sample(start: &[u8]) -> &[u8] {
    &start[..start.len().min(64)]
}
