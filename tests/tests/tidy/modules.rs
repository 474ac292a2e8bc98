//! The module trees of crates, and the paths that their files name.
//!
//! Names are resolved as far as this is possible without expanding macros: through `use`, renamed
//! imports and re-exports, up to the module that defines the name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::slice;
use std::sync::LazyLock;

use syn::visit::Visit;
use syn::{Item, ItemMod};

use self::names::{Collector, cfg_test, defined_name, path_attribute};
use self::names::{Import, Mention};
use crate::workspace::{MEMBERS, root};

mod names;

/// Maximum number of imports that are followed for one name; more are a circle of imports.
const IMPORTS_MAX: usize = 32;

/// Every path that the members of the workspace name and that can be resolved.
pub(crate) static NAMED: LazyLock<Vec<Named>> =
    LazyLock::new(|| Crates::load(root(), &MEMBERS).named());

/// The modules of some crates.
pub(crate) struct Crates {
    modules: Vec<Module>,
    /// The root module of each crate, by the name of the crate in paths.
    roots: BTreeMap<String, usize>,
}

#[derive(Default)]
struct Module {
    /// The path of the module, with the name of its crate first.
    path: Vec<String>,
    /// The path of its file from the root of the workspace.
    file: String,
    /// True if it is built for tests only.
    is_test: bool,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    /// The names of its items, without those that it imports.
    defined: BTreeSet<String>,
    imports: Vec<Import>,
    mentions: Vec<Mention>,
}

/// A path that a file names.
pub(crate) struct Named {
    pub(crate) file: String,
    pub(crate) line: usize,
    /// The path of the module that names it.
    pub(crate) by: Vec<String>,
    /// True if it is named in code that is built for tests only, or defined in such a file.
    pub(crate) is_test: bool,
    /// The path as it is written, but from a crate's name on.
    pub(crate) path: Vec<String>,
    /// The path of the definition, if re-exports lead to another one.
    pub(crate) definition: Vec<String>,
    /// The file that defines the item, and its name, unless the path is that of a module or leads
    /// out of the crates.
    pub(crate) item: Option<(String, String)>,
}

impl Named {
    /// Returns whether a module or one of its children names it.
    pub(crate) fn is_in(&self, module: &str) -> bool {
        begins_with(&self.by, module)
    }

    /// Returns whether the path, as it is written or as it is defined, is `prefix` or begins so.
    pub(crate) fn is_under(&self, prefix: &str) -> bool {
        begins_with(&self.path, prefix) || begins_with(&self.definition, prefix)
    }

    pub(crate) fn is_defined_under(&self, prefix: &str) -> bool {
        begins_with(&self.definition, prefix)
    }

    pub(crate) fn to_line(&self) -> String {
        format!("{}:{}: {}", self.file, self.line, self.path.join("::"))
    }
}

fn begins_with(path: &[String], prefix: &str) -> bool {
    let mut parts = path.iter();
    prefix.split("::").all(|part| parts.next().is_some_and(|found| found == part))
}

/// The end of a path.
enum Target {
    Module(usize),
    /// An item of a module, with the rest of the path, which begins with the item's name.
    Item(usize, Vec<String>),
    /// A path into another crate, or the name of a type or variable of the code around it.
    Outside(Vec<String>),
}

impl Crates {
    /// Parses the libraries of crates: the name of each, and its folder under `root`.
    pub(crate) fn load(root: &Path, crates: &[(&str, &str)]) -> Self {
        let mut loaded = Self { modules: Vec::new(), roots: BTreeMap::new() };
        for (name, folder) in crates {
            let (name, file) = (name.replace('-', "_"), format!("{folder}/src/lib.rs"));
            let module = Module { path: vec![name.clone()], file, ..Module::default() };
            let beside = root.join(folder).join("src");
            let id = loaded.read(root, module, &beside);
            loaded.roots.insert(name, id);
        }
        loaded
    }

    /// Adds the module of a file, and its children, whose files are in the folder `beside`.
    fn read(&mut self, root: &Path, module: Module, beside: &Path) -> usize {
        let path = root.join(&module.file);
        let text = fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parsed = syn::parse_file(&text);
        let parsed = parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.add(root, module, &parsed.items, beside)
    }

    fn add(&mut self, root: &Path, mut module: Module, items: &[Item], beside: &Path) -> usize {
        let mut collector = Collector::new(module.is_test);
        for item in items {
            module.defined.extend(defined_name(item));
            collector.visit_item(item);
        }
        (module.imports, module.mentions) = (collector.imports, collector.mentions);
        let id = self.modules.len();
        self.modules.push(module);
        for item in items {
            if let Item::Mod(child) = item {
                let child_id = self.add_child(root, id, child, beside);
                self.modules[id].children.insert(child.ident.to_string(), child_id);
            }
        }
        id
    }

    fn add_child(&mut self, root: &Path, parent: usize, child: &ItemMod, beside: &Path) -> usize {
        let above = &self.modules[parent];
        let name = child.ident.to_string();
        let mut module = Module {
            path: [&above.path[..], slice::from_ref(&name)].concat(),
            file: above.file.clone(),
            is_test: above.is_test || cfg_test(&child.attrs),
            parent: Some(parent),
            ..Module::default()
        };
        let folder = beside.join(&name);
        if let Some((_, items)) = &child.content {
            return self.add(root, module, items, &folder);
        }
        let (file, folder) = match path_attribute(&child.attrs) {
            // A file named by an attribute owns the folder that it is in, like mod.rs.
            Some(path) => {
                let file = root.join(&above.file).parent().unwrap().join(path);
                let folder = file.parent().unwrap().to_owned();
                (file, folder)
            }
            None => {
                let files = [beside.join(format!("{name}.rs")), folder.join("mod.rs")];
                let file = files.into_iter().find(|file| file.exists());
                (file.unwrap_or_else(|| panic!("{} has no file", module.path.join("::"))), folder)
            }
        };
        module.file = from_root(root, &file);
        self.read(root, module, &folder)
    }

    /// Returns every path that the crates name and that can be resolved.
    pub(crate) fn named(&self) -> Vec<Named> {
        let tests = self.test_files();
        let mut found = Vec::new();
        for (id, module) in self.modules.iter().enumerate() {
            for mention in &module.mentions {
                let path = self.absolute(id, &mention.path, 0);
                let (definition, item) = match self.resolve(id, &mention.path, 0) {
                    Target::Module(target) => (self.modules[target].path.clone(), None),
                    Target::Item(target, rest) => {
                        let owner = &self.modules[target];
                        let item = (owner.file.clone(), rest[0].clone());
                        ([&owner.path[..], &rest].concat(), Some(item))
                    }
                    Target::Outside(path) => (path, None),
                };
                let (file, line, by) = (module.file.clone(), mention.line, module.path.clone());
                let in_tests = item.as_ref().is_some_and(|(file, _)| tests.contains(&**file));
                let is_test = mention.is_test || in_tests;
                found.push(Named { file, line, by, is_test, path, definition, item });
            }
        }
        found
    }

    /// Returns the files that are built for tests only.
    fn test_files(&self) -> BTreeSet<&str> {
        let shipped = self.modules.iter().filter(|module| !module.is_test);
        let shipped: BTreeSet<&str> = shipped.map(|module| &*module.file).collect();
        let all = self.modules.iter().map(|module| &*module.file);
        all.filter(|file| !shipped.contains(file)).collect()
    }

    /// Returns the path from a crate's name on, with the imports replaced that it begins with.
    fn absolute(&self, module: usize, path: &[String], followed: usize) -> Vec<String> {
        if let Some((start, rest)) = self.start(module, path) {
            return [&self.modules[start].path[..], rest].concat();
        }
        match self.import(module, &path[0]) {
            Some(import) if followed < IMPORTS_MAX && import.path != path[..1] => {
                let path = [&import.path[..], &path[1..]].concat();
                self.absolute(module, &path, followed + 1)
            }
            _ => without_colons(path).to_vec(),
        }
    }

    /// Returns the module that a path begins with or whose item it begins with, and the rest.
    fn start<'a>(&self, module: usize, path: &'a [String]) -> Option<(usize, &'a [String])> {
        let is_module = path.len() > 1 || self.import(module, &path[0]).is_none();
        let own = &self.modules[module];
        match &*path[0] {
            // A path with leading colons begins with a crate.
            "" => self.roots.get(path.get(1)?).map(|root| (*root, &path[2..])),
            "crate" => Some((self.roots[&own.path[0]], &path[1..])),
            "self" => Some((module, &path[1..])),
            "super" => {
                let (mut above, mut rest) = (module, path);
                while rest.first().is_some_and(|part| part == "super") {
                    above = self.modules[above].parent?;
                    rest = &rest[1..];
                }
                Some((above, rest))
            }
            name if is_module && own.children.contains_key(name) => Some((module, path)),
            name if own.defined.contains(name) => Some((module, path)),
            name if self.import(module, name).is_some() => None,
            name => self.roots.get(name).map(|root| (*root, &path[1..])),
        }
    }

    fn import(&self, module: usize, name: &str) -> Option<&Import> {
        self.modules[module].imports.iter().find(|import| import.name == name)
    }

    fn resolve(&self, module: usize, path: &[String], followed: usize) -> Target {
        let Some((mut at, mut rest)) = self.start(module, path) else {
            return match self.import(module, &path[0]) {
                Some(import) if followed < IMPORTS_MAX && import.path != path[..1] => {
                    let path = [&import.path[..], &path[1..]].concat();
                    self.resolve(module, &path, followed + 1)
                }
                _ => Target::Outside(without_colons(path).to_vec()),
            };
        };
        while let Some(name) = rest.first() {
            let here = &self.modules[at];
            // The last part of a path may name both an item and a module.
            let import = self.import(at, name);
            let is_item = rest.len() == 1 && (here.defined.contains(name) || import.is_some());
            if let Some(child) = here.children.get(name)
                && !is_item
            {
                (at, rest) = (*child, &rest[1..]);
                continue;
            }
            if let Some(import) = import
                && !here.defined.contains(name)
                && followed < IMPORTS_MAX
                && import.path != rest[..1]
            {
                let path = [&import.path[..], &rest[1..]].concat();
                return self.resolve(at, &path, followed + 1);
            }
            return Target::Item(at, rest.to_vec());
        }
        Target::Module(at)
    }
}

fn without_colons(path: &[String]) -> &[String] {
    if path[0].is_empty() { &path[1..] } else { path }
}

/// Returns a path from the root on, without parts that go up.
fn from_root(root: &Path, path: &Path) -> String {
    let mut plain = PathBuf::new();
    for part in path.strip_prefix(root).unwrap().components() {
        match part {
            Component::ParentDir => assert!(plain.pop()),
            part => plain.push(part),
        }
    }
    plain.display().to_string()
}
