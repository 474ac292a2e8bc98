//! Tables of damages, and what each must be called.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clone_core::damage::Severity;
use clone_tests::damage::ImageEditor;
use clone_tests::laws;

/// One way to damage an image, with every checksum made good again.
pub(crate) struct Case {
    /// What is changed, in words.
    pub(crate) name: &'static str,
    /// The image that is changed.
    pub(crate) image: &'static str,
    pub(crate) change: fn(&mut ImageEditor),
    /// The codes of all that must be found, by name.
    pub(crate) codes: &'static [&'static str],
    /// The worst of them, by what a kernel does.
    pub(crate) worst: Option<Severity>,
}

/// A kernel refuses, misreads, overwrites, dies, or fails its next commit.
pub(crate) const fn fatal(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Fatal) }
}

/// A kernel opens it, writes to it, and does no harm; space is lost or a figure is off.
pub(crate) const fn leak(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Leak) }
}

/// Of no consequence.
pub(crate) const fn warning(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
    codes: &'static [&'static str],
) -> Case {
    Case { name, image, change, codes, worst: Some(Severity::Warning) }
}

/// Nothing that the format speaks of.
pub(crate) const fn sound(
    name: &'static str,
    image: &'static str,
    change: fn(&mut ImageEditor),
) -> Case {
    Case { name, image, change, codes: &[], worst: None }
}

/// Runs every case of a table and tells all that went otherwise.
pub(crate) fn run(cases: &[Case]) {
    let failures: Vec<String> = cases.iter().filter_map(|case| failure(case).err()).collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn failure(case: &Case) -> Result<(), String> {
    let Case { name, image, change, codes, worst } = case;
    let judged = catch_unwind(AssertUnwindSafe(|| {
        let mut editor = ImageEditor::of(image);
        change(&mut editor);
        laws::judge(&editor, true)
    }));
    let report = judged.map_err(|_| format!("{image}, {name}: panicked, see above"))?;
    let mut expected = codes.to_vec();
    expected.sort_unstable();
    let found: Vec<_> = laws::codes(&report).into_iter().map(|(code, _)| code).collect();
    if found == expected && report.worst() == *worst {
        return Ok(());
    }
    let messages: Vec<String> = report.damage.iter().take(5).map(ToString::to_string).collect();
    Err(format!("{image}, {name}: {:?} {found:?}\n    {}", report.worst(), messages.join("\n    ")))
}
