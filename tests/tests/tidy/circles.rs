//! No files of a crate import each other in a circle.
//!
//! The declaration of a child module is no import. An import of a name counts as an import of the
//! file that defines it, also if the name is re-exported elsewhere. Code that is built for tests
//! only does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use self::listed::LISTED;
use crate::modules::{Crates, NAMED, Named};
use crate::workspace::expect_none;

mod listed;

/// The files that each file imports from, with the names that it imports.
type Imports = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn imports(named: &[Named]) -> Imports {
    let mut imports = Imports::new();
    for named in named.iter().filter(|named| !named.is_test) {
        let Some((file, name)) = &named.item else { continue };
        if named.by[0] == named.definition[0] && named.file != *file {
            let files = imports.entry(named.file.clone()).or_default();
            files.entry(file.clone()).or_default().insert(name.clone());
        }
    }
    imports
}

/// Returns the files that a file imports from, also through others.
fn reached<'a>(imports: &'a Imports, file: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![file]);
    while let Some(file) = next.pop() {
        let imported = imports.get(file).into_iter().flat_map(BTreeMap::keys);
        next.extend(imported.map(|file| &**file).filter(|file| reached.insert(*file)));
    }
    reached
}

/// Returns the largest sets of files that all reach each other.
fn circles(imports: &Imports) -> BTreeSet<BTreeSet<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|file| (&**file, reached(imports, file))).collect();
    let is_reached = |from: &str, to: &str| reached.get(from).is_some_and(|all| all.contains(to));
    let in_circle = reached.keys().filter(|file| is_reached(file, file));
    let circle = |file: &&str| {
        let all = reached[*file].iter().filter(|other| is_reached(other, file));
        all.copied().collect()
    };
    in_circle.map(circle).collect()
}

/// Returns the imports within a circle, a line each.
fn to_lines(imports: &Imports, circle: &BTreeSet<&str>) -> String {
    let mut lines = vec![format!("a circle of {} files:", circle.len())];
    for from in circle {
        for (to, names) in imports[*from].iter().filter(|(to, _)| circle.contains(&***to)) {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            lines.push(format!("  {from} -> {to} ({})", names.join(", ")));
        }
    }
    lines.join("\n  ")
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = imports(&NAMED);
    let circles = circles(&imports);
    let listed: BTreeMap<BTreeSet<&str>, &str> =
        LISTED.iter().map(|(why, files)| (files.iter().copied().collect(), *why)).collect();
    let new = circles.iter().filter(|circle| !listed.contains_key(*circle));
    let new: Vec<_> = new.map(|circle| to_lines(&imports, circle)).collect();
    expect_none(&new, "Move what both need to a file of its own:");
    let gone = listed.iter().filter(|(circle, _)| !circles.contains(*circle));
    let gone: Vec<_> = gone.map(|(circle, why)| format!("{circle:?}: {why}")).collect();
    expect_none(&gone, "This circle is gone. Take it out of the list:");
}

/// Returns the circles of a crate that has these files under `src`.
fn circles_of(files: &[(&str, &str)]) -> Vec<String> {
    let tree = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let path = tree.path().join("made/src").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let imports = imports(&Crates::load(tree.path(), &[("made", "made")]).named());
    circles(&imports).iter().map(|circle| to_lines(&imports, circle)).collect()
}

#[test]
fn a_circle_is_found_through_re_exports_aliases_and_paths_in_macros() {
    let found = circles_of(&[
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "pub use self::deep::Deep; mod deep;"),
        ("a/deep.rs", "use crate::b as other; pub struct Deep(other::B);"),
        ("b.rs", "pub struct B; fn f() { println!(\"{}\", super::c::g()); }"),
        ("c.rs", "use crate::a::{self, Deep as D}; pub fn g() -> u8 { a::Deep::NUMBER }"),
    ]);
    let circle = "a circle of 3 files:\n    \
        made/src/a/deep.rs -> made/src/b.rs (B)\n    \
        made/src/b.rs -> made/src/c.rs (g)\n    \
        made/src/c.rs -> made/src/a/deep.rs (Deep)";
    assert_eq!(found, [circle]);
}

#[test]
fn a_parent_and_its_child_are_a_circle_if_each_imports_from_the_other() {
    let child = ("a/child.rs", "use super::Parent; pub struct Child(Parent);");
    let parent = "mod child; pub struct Parent;";
    assert_eq!(circles_of(&[("lib.rs", "mod a;"), ("a.rs", parent), child]), [""; 0]);
    let parent = "mod child; use self::child::Child; pub struct Parent;";
    assert_eq!(circles_of(&[("lib.rs", "mod a;"), ("a.rs", parent), child]).len(), 1);
}

#[test]
fn what_is_built_for_tests_only_is_in_no_circle() {
    let a =
        "use crate::b::B; pub struct A; #[cfg(test)] mod tests; #[cfg(test)] use self::tests::T;";
    let b = "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }";
    let tests = ("a/tests.rs", "use super::A; pub struct T;");
    assert_eq!(
        circles_of(&[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", b), tests]),
        [""; 0]
    );
}
