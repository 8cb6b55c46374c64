//! Paths: which resources lie where, and what can be done there.

use serde_json::{Map, Value, json};
use skiff_api::{Kind, facts};
use skiff_meta::schema::Type;
use skiff_meta::{GroupVersion, GroupVersionKind};

use super::components::{Components, meta};
use super::operations::{self, Body, Operation};

/// One resource of the document, built-in or custom.
pub(super) struct Resource<'a> {
    pub(super) gvk: GroupVersionKind,
    pub(super) plural: &'a str,
    pub(super) namespaced: bool,
    pub(super) verbs: &'a [&'a str],
    /// Names of the schemas of the kind and of its list.
    pub(super) component: String,
    pub(super) list_component: String,
    pub(super) subresources: Vec<Subresource<'a>>,
    pub(super) protobuf: bool,
}

pub(super) struct Subresource<'a> {
    pub(super) name: &'a str,
    pub(super) verbs: &'a [&'a str],
    pub(super) gvk: GroupVersionKind,
    /// Name of the schema of its body; `None` for streams and proxies.
    pub(super) component: Option<String>,
}

/// Where the resources of a group and version lie.
pub(super) fn base(gv: &GroupVersion) -> String {
    if gv.group.is_empty() { format!("/api/{}", gv.version) } else { format!("/apis/{}/{}", gv.group, gv.version) }
}

/// The path that lists the resources.
pub(super) fn write_discovery(gv: &GroupVersion, out: &mut Map<String, Value>, components: &mut Components<'_>) {
    let list = components.refer(&meta("APIResourceList"));
    let get = json!({
        "operationId": format!("get{}APIResources", operations::title(gv)),
        "responses": {
            "200": {"description": "OK", "content": operations::content(&list, true)},
            "401": {"description": "Unauthorized"},
        },
        "tags": [operations::tag(gv)],
    });
    out.insert(format!("{}/", base(gv)), json!({ "get": get }));
}

impl<'a> Resource<'a> {
    /// The row of a built-in kind.
    pub(super) fn built_in(kind: &'static Kind, gv: &GroupVersion) -> Resource<'static> {
        let gvk = kind.gvk_at(&gv.version);
        let subresources = kind.subresources.iter().map(|s| {
            let gvk = s.gvk(kind, &gv.version);
            let component = component_of(&gvk).filter(|_| s.name != "log");
            Subresource { name: s.name, verbs: s.verbs, gvk, component }
        });
        let list = GroupVersionKind { kind: kind.list_kind(), ..gvk.clone() };
        Resource {
            plural: kind.plural,
            namespaced: kind.namespaced,
            verbs: kind.verbs,
            component: component_of(&gvk).unwrap_or_default(),
            list_component: component_of(&list).unwrap_or_default(),
            subresources: subresources.collect(),
            gvk,
            protobuf: true,
        }
    }

    /// Adds the paths of this resource.
    pub(super) fn write(&self, out: &mut Map<String, Value>, components: &mut Components<'_>) {
        let base = base(&self.gvk.group_version());
        let place = if self.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{base}{place}/{}", self.plural);
        self.write_path(out, components, &collection, &["list", "create", "deletecollection"]);
        if self.namespaced && self.verbs.contains(&"list") {
            let operation = Operation { all_namespaces: true, ..self.operation("list", components) };
            out.insert(format!("{base}/{}", self.plural), operations::path(&[], [operation]));
        }
        let item = format!("{collection}/{{name}}");
        self.write_path(out, components, &item, &["get", "update", "patch", "delete"]);
        for subresource in &self.subresources {
            let path = format!("{item}/{}", subresource.name);
            let verbs: Vec<Operation<'_>> =
                subresource.verbs.iter().map(|verb| self.sub_operation(subresource, verb, components)).collect();
            out.insert(path, operations::path(&self.path_parameters(true), verbs));
        }
    }

    fn write_path(&self, out: &mut Map<String, Value>, components: &mut Components<'_>, path: &str, verbs: &[&'a str]) {
        let served = verbs.iter().filter(|verb| self.verbs.contains(verb));
        let operations: Vec<Operation<'_>> = served.map(|verb| self.operation(verb, components)).collect();
        if !operations.is_empty() {
            let parameters = self.path_parameters(path.ends_with("{name}"));
            out.insert(path.to_owned(), operations::path(&parameters, operations));
        }
    }

    fn path_parameters(&self, named: bool) -> Vec<&'static str> {
        let all = [(named, "name"), (self.namespaced, "namespace")];
        all.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
    }

    fn operation(&self, verb: &'a str, components: &mut Components<'_>) -> Operation<'_> {
        let own = components.refer(&self.component);
        let (body, answer) = match verb {
            "list" => (Body::None, components.refer(&self.list_component)),
            "get" => (Body::None, own),
            "patch" => (Body::Patch(components.refer(&meta("Patch"))), own),
            "delete" | "deletecollection" => {
                let options = components.refer(&meta("DeleteOptions"));
                (Body::Options(options), components.refer(&meta("Status")))
            }
            _ => (Body::Object(own.clone()), own),
        };
        Operation {
            verb,
            about: &self.gvk,
            gvk: &self.gvk,
            namespaced: self.namespaced,
            all_namespaces: false,
            subresource: "",
            body,
            answer: Some(answer),
            protobuf: self.protobuf,
        }
    }

    fn sub_operation<'s>(
        &'s self,
        subresource: &'s Subresource<'_>,
        verb: &'s str,
        components: &mut Components<'_>,
    ) -> Operation<'s> {
        let answer = subresource.component.as_ref().map(|name| components.refer(name));
        let body = match (&answer, verb) {
            (Some(_), "patch") => Body::Patch(components.refer(&meta("Patch"))),
            (Some(object), "create" | "update") => Body::Object(object.clone()),
            _ => Body::None,
        };
        Operation {
            verb,
            about: &subresource.gvk,
            gvk: &self.gvk,
            namespaced: self.namespaced,
            all_namespaces: false,
            subresource: subresource.name,
            body,
            answer,
            protobuf: self.protobuf,
        }
    }
}

/// The name of the schema of a built-in kind.
fn component_of(gvk: &GroupVersionKind) -> Option<String> {
    let schema = facts::schema(gvk)?;
    match schema.root().get() {
        Type::Struct(s) => Some(s.name.clone()),
        _ => None,
    }
}
