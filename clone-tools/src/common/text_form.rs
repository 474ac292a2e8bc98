//! The text formats of a dump, told apart by how they begin.

use std::fmt;

/// The forms of a dump that are text and are read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextForm {
    /// What clone_dump writes.
    Xml,
    /// What clone_dump --format json writes.
    Json,
}

impl TextForm {
    /// What --format calls it.
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

/// What a file that begins with `start` is if it is text. The first four bytes of metadata are a
/// checksum and may look like anything, and so may all of a superblock that was overwritten: only
/// what holds nothing but text is text.
pub fn text_form(start: &[u8]) -> Option<TextForm> {
    let text = start.strip_prefix("\u{feff}".as_bytes()).unwrap_or(start);
    match text.trim_ascii_start().first() {
        _ if is_binary(start) || !is_utf8(start) => None,
        Some(b'<') => Some(TextForm::Xml),
        Some(b'{') => Some(TextForm::Json),
        _ => None,
    }
}

/// Whether a file that begins with `start` holds bytes rather than text: control characters other
/// than those that part words and lines.
pub fn is_binary(start: &[u8]) -> bool {
    sample(start).iter().any(|byte| byte.is_ascii_control() && !b"\t\n\r".contains(byte))
}

/// Whether `start` is UTF-8, as far as it goes.
fn is_utf8(start: &[u8]) -> bool {
    // Where it is cut off in a character, the error has no length.
    str::from_utf8(sample(start)).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// As much of a file as tells whether it is text.
fn sample(start: &[u8]) -> &[u8] {
    &start[..start.len().min(64)]
}
