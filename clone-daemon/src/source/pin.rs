//! Opens a source and checks that it is the one the clone was created with.

use std::path::Path;

pub use clone_tools::common::pin::{Pin, PinError, no_place, not_noted, place};

use super::error::SourceError;
use super::opened::Opened;
use super::options::SourceOptions;
use super::uri::SourceSpec;

/// Opens the source of a clone whose pin is at `path`; without a path it is not checked. Also
/// returns the new pin, if there is none yet. Nothing is written.
///
/// # Errors
/// [`SourceError::Pin`] if the pin cannot be read or names another source; with
/// [`PinError::Differs`] if another version is pinned. Any other [`SourceError`] if the source
/// cannot be opened.
pub fn open(
    spec: &SourceSpec,
    path: Option<&Path>,
    options: &SourceOptions,
) -> Result<(Opened, Option<Pin>), SourceError> {
    let pinned = path.map(Pin::load).transpose()?.flatten();
    if let Some(pinned) = &pinned {
        pinned.check_place(spec, spec.path())?;
    }
    let opened = super::open(spec, pinned.as_ref().map(|pin| &pin.identity), options)?;
    let new = pinned.is_none().then(|| Pin::new(spec, opened.identity.clone()));
    Ok((opened, new))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clone_tools::common::pin::{Identity, Version};

    use super::Pin;
    use crate::source::SourceSpec;

    #[test]
    fn a_pin_holds_no_secrets_of_a_source() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let spec: SourceSpec = "http://me:secret@host/a?secret".parse().unwrap();
        let identity = Identity { size_bytes: 4096, version: Version::Unknown };
        Pin::new(spec, identity).store(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("http://host/a") && !text.contains("secret"), "{text}");
    }
}
