//! Operations: method, parameters, bodies and answers of one verb at one path.

use serde_json::{Map, Value, json};
use skiff_meta::{GroupVersion, GroupVersionKind};

use super::components::gvk_json;

/// One verb at one path.
pub(super) struct Operation<'a> {
    /// As discovery names it.
    pub(super) verb: &'a str,
    /// The kind that travels.
    pub(super) about: &'a GroupVersionKind,
    /// The kind that the resource holds.
    pub(super) gvk: &'a GroupVersionKind,
    pub(super) namespaced: bool,
    /// Over all namespaces, of a namespaced resource.
    pub(super) all_namespaces: bool,
    /// Name of the subresource, or empty.
    pub(super) subresource: &'a str,
    pub(super) body: Body,
    /// What is answered; `None` for streams, proxies and logs.
    pub(super) answer: Option<Value>,
    pub(super) protobuf: bool,
}

/// What is sent; schemas are references.
pub(super) enum Body {
    None,
    Object(Value),
    /// Optional.
    Options(Value),
    Patch(Value),
}

const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const FORCE: &[(&str, &str)] = &[("force", "boolean")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const STREAM: &[(&str, &str)] =
    &[("container", "string"), ("stderr", "boolean"), ("stdin", "boolean"), ("stdout", "boolean"), ("tty", "boolean")];
const EXEC: &[(&str, &str)] = &[("command", "string")];
const FORWARD: &[(&str, &str)] = &[("ports", "integer")];
const PROXY: &[(&str, &str)] = &[("path", "string")];
const LOG: &[(&str, &str)] = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];

const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// A path's item: parameters in the path, then operations.
pub(super) fn path<'a>(parameters: &[&str], operations: impl IntoIterator<Item = Operation<'a>>) -> Value {
    let in_path = |name: &&str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let mut all: Vec<Value> = parameters.iter().map(in_path).collect();
    all.push(query("pretty", "string"));
    let mut item = Map::from_iter([("parameters".to_owned(), all.into())]);
    for operation in operations {
        item.insert(operation.method().to_owned(), operation.to_json());
    }
    item.into()
}

fn query(name: &str, ty: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
}

/// A schema in each media type that is served.
pub(super) fn content(schema: &Value, protobuf: bool) -> Value {
    let types = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    let served = &types[..if protobuf { 3 } else { 2 }];
    served.iter().map(|ty| ((*ty).to_owned(), json!({ "schema": schema }))).collect::<Map<_, _>>().into()
}

/// `AppsV1`, `RbacAuthorizationV1`, `CoreV1`: part of operations' names.
pub(super) fn title(gv: &GroupVersion) -> String {
    let words = group_words(gv);
    words.chain([&*gv.version]).map(capitalized).collect()
}

/// `apps_v1`, `rbacAuthorization_v1`, `core_v1`.
pub(super) fn tag(gv: &GroupVersion) -> String {
    let group: String =
        group_words(gv).enumerate().map(|(i, word)| if i == 0 { word.to_owned() } else { capitalized(word) }).collect();
    format!("{group}_{}", gv.version)
}

fn group_words(gv: &GroupVersion) -> impl Iterator<Item = &str> {
    let group = if gv.group.is_empty() { "core" } else { &gv.group };
    group.strip_suffix(".k8s.io").unwrap_or(group).split('.')
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

impl Operation<'_> {
    fn method(&self) -> &'static str {
        match self.verb {
            "create" => "post",
            "update" => "put",
            "patch" => "patch",
            "delete" | "deletecollection" => "delete",
            _ => "get",
        }
    }

    fn is_connect(&self) -> bool {
        self.answer.is_none() && self.subresource != "log"
    }

    fn action(&self) -> &str {
        match self.verb {
            _ if self.is_connect() => "connect",
            "list" | "deletecollection" => self.verb,
            _ => self.method(),
        }
    }

    /// `readAppsV1NamespacedDeploymentStatus`.
    fn id(&self) -> String {
        let (verb, collection) = match self.verb {
            _ if self.is_connect() => ("connect", ""),
            "get" => ("read", ""),
            "update" => ("replace", ""),
            "deletecollection" => ("delete", "Collection"),
            other => (other, ""),
        };
        let method = if self.is_connect() { capitalized(self.method()) } else { String::new() };
        let scope = if self.namespaced && !self.all_namespaces { "Namespaced" } else { "" };
        let end = if self.all_namespaces { "ForAllNamespaces" } else { "" };
        let (title, kind) = (title(&self.gvk.group_version()), &self.gvk.kind);
        format!("{verb}{title}{method}{collection}{scope}{kind}{}{end}", capitalized(self.subresource))
    }

    fn parameters(&self) -> Vec<Value> {
        let lists: &[&[(&str, &str)]] = match (self.subresource, self.verb) {
            ("exec", _) => &[EXEC, STREAM],
            ("attach", _) => &[STREAM],
            ("portforward", _) => &[FORWARD],
            ("proxy", _) => &[PROXY],
            ("log", _) => &[LOG],
            (_, "list") => &[LIST],
            (_, "create" | "update") => &[WRITE],
            (_, "patch") => &[WRITE, FORCE],
            (_, "delete") => &[DELETE],
            (_, "deletecollection") => &[DELETE, LIST],
            _ => &[],
        };
        let mut known = std::collections::BTreeMap::new();
        known.extend(lists.iter().flat_map(|list| list.iter().copied()));
        if self.verb == "deletecollection" {
            known.retain(|name, _| !matches!(*name, "allowWatchBookmarks" | "watch"));
        }
        known.into_iter().map(|(name, ty)| query(name, ty)).collect()
    }

    fn request_body(&self) -> Option<Value> {
        match &self.body {
            Body::None => None,
            Body::Object(schema) => Some(json!({"content": {"*/*": {"schema": schema}}, "required": true})),
            Body::Options(schema) => Some(json!({"content": {"*/*": {"schema": schema}}})),
            Body::Patch(schema) => {
                let served = PATCHES.iter().filter(|ty| self.protobuf || !ty.contains("strategic"));
                let content: Map<_, _> = served.map(|ty| ((*ty).to_owned(), json!({ "schema": schema }))).collect();
                Some(json!({"content": content, "required": true}))
            }
        }
    }

    fn responses(&self) -> Value {
        let content = match &self.answer {
            Some(schema) => content(schema, self.protobuf),
            None if self.subresource == "log" => json!({"text/plain": {"schema": {"type": "string"}}}),
            None => json!({"*/*": {"schema": {"type": "string"}}}),
        };
        let codes: &[(&str, &str)] = match self.verb {
            _ if self.answer.is_none() => &[("200", "OK")],
            "create" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "update" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let answer =
            |(code, words): &(&str, &str)| ((*code).to_owned(), json!({"description": words, "content": content}));
        let mut all: Map<String, Value> = codes.iter().map(answer).collect();
        all.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        all.into()
    }

    fn to_json(&self) -> Value {
        let mut json = json!({
            "operationId": self.id(),
            "responses": self.responses(),
            "tags": [tag(&self.gvk.group_version())],
            "x-kubernetes-action": self.action(),
            "x-kubernetes-group-version-kind": gvk_json(self.about),
        });
        let parameters = self.parameters();
        if !parameters.is_empty() {
            json["parameters"] = parameters.into();
        }
        if let Some(body) = self.request_body() {
            json["requestBody"] = body;
        }
        json
    }
}
