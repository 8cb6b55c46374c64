//! What Go's type declarations tell about fields: a reader for the plain, gofmt-ed structs of the API packages.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::openapi::{self, Shape, TypeRef};
use crate::Failure;

/// One field, embedded ones lifted to where JSON shows them.
#[derive(Clone, Debug, Default)]
pub(super) struct GoField {
    /// Protobuf number, 0: none.
    pub(super) number: u32,
    /// Protobuf numbers of the embedded structs it lies in, outermost first.
    pub(super) parents: Vec<u32>,
    pub(super) pointer: bool,
    pub(super) omit_empty: bool,
    /// Go type as Go prints it, without the outer pointer.
    pub(super) type_name: String,
    optional: bool,
    declared: String,
}

/// A source tree, read package by package as types are asked for.
pub(super) struct Source {
    root: PathBuf,
    packages: HashMap<String, Package>,
}

#[derive(Default)]
struct Package {
    structs: HashMap<String, Vec<Line>>,
    /// `RestartPolicy` -> `string`.
    aliases: HashMap<String, String>,
    /// Local name of an import -> its path.
    imports: HashMap<String, String>,
}

/// One line of a struct: a field, or an embedded struct when `name` is empty.
struct Line {
    json: String,
    ty: String,
    tag: String,
    optional: bool,
}

impl Source {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), packages: HashMap::new() }
    }

    /// The fields of the struct with this OpenAPI name by JSON name; `None` for packages without protobuf.
    pub(super) fn fields(&mut self, name: &str) -> Result<Option<BTreeMap<String, GoField>>, Failure> {
        let Some((package, ty)) = package_of(name) else { return Ok(None) };
        let mut fields = BTreeMap::new();
        self.collect(&package, ty, &[], &mut fields)?;
        Ok(Some(fields))
    }

    /// A shape for a type that OpenAPI does not show.
    pub(super) fn shape(&mut self, name: &str) -> Result<Shape, Failure> {
        let (package, _) = package_of(name).ok_or_else(|| format!("{name}: package is not known"))?;
        let mut shape = Shape { gvks: vec![gvk_of(name)], ..Shape::default() };
        for (json, field) in self.fields(name)?.unwrap_or_default() {
            let ty = self.type_ref(&package, &field.declared)?;
            shape.properties.insert(json, super::plain(ty, !field.omit_empty && !field.optional));
        }
        Ok(shape)
    }

    fn collect(
        &mut self,
        package: &str,
        ty: &str,
        parents: &[u32],
        out: &mut BTreeMap<String, GoField>,
    ) -> Result<(), Failure> {
        self.load(package)?;
        let this = &self.packages[package];
        let lines = this.structs.get(ty).ok_or_else(|| format!("no struct {ty} in {package}"))?;
        let mut embedded = Vec::new();
        for line in lines {
            let number = protobuf_number(&line.tag)?;
            if line.json.is_empty() {
                embedded.push((line.ty.clone(), number));
                continue;
            }
            let json_tag = tag(&line.tag, "json").unwrap_or_default();
            let field = GoField {
                number,
                parents: parents.to_vec(),
                pointer: line.ty.starts_with('*'),
                omit_empty: json_tag.contains(",omitempty") || json_tag.contains(",omitzero"),
                type_name: self.print(package, line.ty.trim_start_matches('*')),
                optional: line.optional,
                declared: line.ty.clone(),
            };
            out.insert(line.json.clone(), field);
        }
        for (ty, number) in embedded {
            let (package, ty) = self.resolve(package, ty.trim_start_matches('*'));
            let mut inner = BTreeMap::new();
            self.collect(&package, &ty, &[parents, &[number]].concat(), &mut inner)?;
            if number == 0 {
                inner.values_mut().for_each(|field| (field.number, field.parents) = (0, Vec::new()));
            }
            out.extend(inner);
        }
        Ok(())
    }

    /// The package and the name of a type as written in `package`.
    fn resolve(&self, package: &str, ty: &str) -> (String, String) {
        match ty.split_once('.') {
            Some((alias, name)) => {
                let path = self.packages[package].imports.get(alias).cloned();
                (path.unwrap_or_else(|| alias.to_owned()), name.to_owned())
            }
            None => (package.to_owned(), ty.to_owned()),
        }
    }

    /// A type as Go prints it at run time.
    fn print(&self, package: &str, ty: &str) -> String {
        if let Some(item) = ty.strip_prefix("[]") {
            return format!("[]{}", self.print(package, item));
        }
        if let Some(inner) = ty.strip_prefix('*') {
            return format!("*{}", self.print(package, inner));
        }
        if let Some((key, value)) = ty.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            return format!("map[{}]{}", self.print(package, key), self.print(package, value));
        }
        match ty {
            "byte" => return "uint8".to_owned(),
            "string" | "bool" | "int" | "int32" | "int64" | "uint32" | "uint64" | "float64" => return ty.to_owned(),
            _ => {}
        }
        let (package, name) = self.resolve(package, ty);
        format!("{}.{name}", package.rsplit('/').next().unwrap_or_default())
    }

    /// The type a Go type has in JSON, for the few structs that OpenAPI does not show.
    fn type_ref(&mut self, package: &str, ty: &str) -> Result<TypeRef, Failure> {
        let ty = ty.trim_start_matches('*');
        if let Some(item) = ty.strip_prefix("[]") {
            return Ok(TypeRef::List(Box::new(self.type_ref(package, item)?)));
        }
        for leaf in ["string", "bool", "int32", "int64"] {
            if ty == leaf {
                return Ok(TypeRef::Leaf(leaf));
            }
        }
        let (package, name) = self.resolve(package, ty);
        self.load(&package)?;
        if let Some(alias) = self.packages[&package].aliases.get(&name).cloned() {
            return self.type_ref(&package, &alias);
        }
        let path = package.strip_prefix("k8s.io/").unwrap_or(&package).replace('/', ".");
        Ok(openapi::named(format!("io.k8s.{path}.{name}")))
    }

    fn load(&mut self, package: &str) -> Result<(), Failure> {
        if self.packages.contains_key(package) {
            return Ok(());
        }
        let dir = self.root.join("staging/src").join(package);
        let mut read = Package::default();
        for entry in std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))? {
            let path = entry.map_err(|e| format!("{}: {e}", dir.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let generated = name.contains("generated") || name.ends_with("_test.go");
            if name.ends_with(".go") && !generated {
                let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                read.read(&text);
            }
        }
        self.packages.insert(package.to_owned(), read);
        Ok(())
    }
}

impl Package {
    fn read(&mut self, text: &str) {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(import) = line.strip_prefix('\t').and_then(|l| l.strip_suffix('"')) {
                self.read_import(import);
            }
            let Some(declaration) = line.strip_prefix("type ") else { continue };
            let Some((name, ty)) = declaration.split_once(' ') else { continue };
            if ty == "struct {" {
                let body = lines.by_ref().take_while(|l| *l != "}");
                self.structs.insert(name.to_owned(), read_struct(body));
            } else if ty.starts_with("struct") {
                self.structs.insert(name.to_owned(), Vec::new());
            } else {
                self.aliases.insert(name.to_owned(), ty.trim_start_matches("= ").to_owned());
            }
        }
    }

    /// `alias "path` or `"path`, the closing quote cut off.
    fn read_import(&mut self, import: &str) {
        let Some((alias, path)) = import.split_once('"') else { return };
        let last = path.rsplit('/').next().unwrap_or_default();
        let alias = if alias.trim().is_empty() { last } else { alias.trim() };
        self.imports.insert(alias.to_owned(), path.to_owned());
    }
}

fn read_struct<'a>(body: impl Iterator<Item = &'a str>) -> Vec<Line> {
    let mut fields = Vec::new();
    let mut optional = false;
    for line in body {
        let line = line.trim();
        if line.starts_with("//") {
            optional |= line == "// +optional";
            continue;
        }
        let Some((declaration, tag_text)) = line.split_once('`') else {
            optional = false;
            continue;
        };
        let tag_text = tag_text.trim_end_matches('`');
        let json_tag = tag(tag_text, "json").unwrap_or_default();
        let json = json_tag.split(',').next().unwrap_or_default().to_owned();
        let declaration = declaration.trim();
        let ty = declaration.split_once(char::is_whitespace).map_or(declaration, |(_, ty)| ty.trim());
        if json != "-" {
            fields.push(Line { json, ty: ty.to_owned(), tag: tag_text.to_owned(), optional });
        }
        optional = false;
    }
    fields
}

/// The value of `key:"value"` in a struct tag.
fn tag<'a>(tags: &'a str, key: &str) -> Option<&'a str> {
    let start = tags.find(&format!("{key}:\""))? + key.len() + 2;
    tags[start..].split('"').next()
}

fn protobuf_number(tags: &str) -> Result<u32, Failure> {
    match tag(tags, "protobuf").and_then(|t| t.split(',').nth(1)) {
        Some(number) => number.parse().map_err(|_| format!("bad protobuf tag in {tags}")),
        None => Ok(0),
    }
}

/// The Go package and the Go name behind an OpenAPI name.
fn package_of(name: &str) -> Option<(String, &str)> {
    let (path, ty) = name.strip_prefix("io.k8s.")?.rsplit_once('.')?;
    (!path.ends_with("pkg.version")).then(|| (format!("k8s.io/{}", path.replace('.', "/")), ty))
}

/// Options come in core's `v1`, the other types in a group of their own.
fn gvk_of(name: &str) -> String {
    let own = name.rsplit('.').next().is_some_and(|name| name.starts_with("Partial"));
    if own { "meta.k8s.io/v1".to_owned() } else { "/v1".to_owned() }
}
