//! The names in one file: items, imports, and the paths in code.

use proc_macro2::{Spacing, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{
    Attribute, Expr, ImplItemFn, Item, ItemUse, Lit, Macro, Meta, Path, UseTree, VisRestricted,
};

/// An import: the name that it gives, and the path as it is written.
pub(crate) struct Import {
    pub(crate) name: String,
    pub(crate) path: Vec<String>,
}

/// A path that is written in a file: an import, or a path of at least two parts in code.
pub(crate) struct Mention {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    /// True in code that is built for tests only.
    pub(crate) is_test: bool,
}

/// Collects the imports and paths of a module, without those of the modules in it.
pub(crate) struct Collector {
    pub(crate) imports: Vec<Import>,
    pub(crate) mentions: Vec<Mention>,
    is_test: bool,
}

impl Collector {
    pub(crate) fn new(is_test: bool) -> Self {
        Self { imports: Vec::new(), mentions: Vec::new(), is_test }
    }

    /// Visits what `attributes` belong to.
    fn within(&mut self, attributes: &[Attribute], visit: impl FnOnce(&mut Self)) {
        let before = self.is_test;
        self.is_test |= cfg_test(attributes);
        visit(self);
        self.is_test = before;
    }

    fn mention(&mut self, path: Vec<String>, line: usize) {
        self.mentions.push(Mention { path, line, is_test: self.is_test });
    }

    fn import(&mut self, tree: &UseTree, before: &[String]) {
        let with = |part: &syn::Ident| [before, &[part.to_string()]].concat();
        let (path, name, line) = match tree {
            UseTree::Path(path) => return self.import(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(tree, before));
            }
            UseTree::Glob(glob) => {
                let path = [before, &["*".to_owned()]].concat();
                (path, "*".to_owned(), glob.star_token.span)
            }
            UseTree::Name(name) if name.ident == "self" => {
                (before.to_vec(), before.last().unwrap().clone(), name.ident.span())
            }
            UseTree::Name(name) => (with(&name.ident), name.ident.to_string(), name.ident.span()),
            UseTree::Rename(rename) => {
                let is_self = rename.ident == "self";
                let path = if is_self { before.to_vec() } else { with(&rename.ident) };
                (path, rename.rename.to_string(), rename.ident.span())
            }
        };
        self.mention(path.clone(), line.start().line);
        self.imports.push(Import { name, path });
    }

    /// Collects the paths in the tokens of a macro.
    fn scan(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            let TokenTree::Ident(first) = token else {
                if let TokenTree::Group(group) = token {
                    self.scan(group.stream());
                }
                continue;
            };
            let (mut path, line) = (vec![first.to_string()], first.span().start().line);
            // Two colons, the first joined to the second, and a name.
            while let Some(TokenTree::Punct(colon)) = tokens.peek() {
                if colon.as_char() != ':' || colon.spacing() != Spacing::Joint {
                    break;
                }
                tokens.next();
                tokens.next();
                match tokens.peek() {
                    Some(TokenTree::Ident(part)) => path.push(part.to_string()),
                    _ => break,
                }
                tokens.next();
            }
            if path.len() > 1 {
                self.mention(path, line);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        if !matches!(item, Item::Mod(_)) {
            self.within(attributes(item), |this| visit::visit_item(this, item));
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.within(&function.attrs, |this| visit::visit_impl_item_fn(this, function));
    }

    fn visit_item_use(&mut self, import: &'ast ItemUse) {
        let colons = import.leading_colon.as_ref().map(|_| String::new());
        self.import(&import.tree, &colons.into_iter().collect::<Vec<_>>());
    }

    /// `pub(in path)` depends on nothing.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}

    fn visit_macro(&mut self, call: &'ast Macro) {
        visit::visit_macro(self, call);
        self.scan(call.tokens.clone());
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if path.segments.len() > 1 {
            let line = path.segments[0].ident.span().start().line;
            let colons = path.leading_colon.as_ref().map(|_| String::new());
            let parts = path.segments.iter().map(|segment| segment.ident.to_string());
            self.mention(colons.into_iter().chain(parts).collect(), line);
        }
        visit::visit_path(self, path);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns the name that an item defines in its module; modules and imports are apart.
pub(crate) fn defined_name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Returns whether one of the attributes is `cfg(test)`.
pub(crate) fn cfg_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

/// Returns the path in the attribute `path` of a module.
pub(crate) fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    })
}
