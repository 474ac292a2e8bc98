//! A case of damage: the change to an image, and what a check must report.

use clone_core::metadata::damage::Severity;

use super::image_editor::ImageEditor;

/// A way to damage an image. Every checksum is made valid again, unless it is the damage.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Description of the change.
    pub name: &'static str,
    /// Name of the changed image.
    pub image: &'static str,
    /// Applies the change.
    pub change: fn(&mut ImageEditor),
    /// The codes that a check must report, and no others.
    pub codes: &'static [&'static str],
    /// The worst severity among them, given by the behaviour of a kernel.
    pub worst: Option<Severity>,
}

/// A case in which a kernel refuses, misreads or overwrites the metadata, crashes, or fails its
/// next commit.
pub(super) const fn fatal(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Fatal) }
}

/// A case that a kernel opens and writes without harm; space is lost or a count is off.
pub(super) const fn leak(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Leak) }
}

/// A case without consequences.
pub(super) const fn warning(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Warning) }
}

/// A change that does not break the format.
pub(super) const fn sound(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
) -> Case {
    Case { name, image, change, codes: &[], worst: None }
}
