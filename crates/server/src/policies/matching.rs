//! Which requests a policy or a binding is about.

use serde::Deserialize;
use serde_json::Value;
use skiff_meta::selector::LabelSelector;
use skiff_meta::{GroupResource, GroupVersionKind, GroupVersionResource, Status};

use crate::chain::{AdmissionRequest, Operation};

/// `MatchResources`.
#[derive(Debug)]
pub(super) struct Matching {
    namespaces: LabelSelector,
    objects: LabelSelector,
    /// Whether the same objects under other names are meant too.
    equivalent: bool,
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    operations: Vec<String>,
    api_groups: Vec<String>,
    api_versions: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
    scope: Option<String>,
}

/// As what the object is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Form {
    pub(super) resource: GroupVersionResource,
    pub(super) kind: GroupVersionKind,
}

impl Matching {
    /// From its JSON. One that cannot be understood has been refused when it was written, and matches nothing.
    pub(super) fn read(json: &Value) -> Self {
        let selector = |name: &str| match &json[name] {
            Value::Null => LabelSelector::everything(),
            value => LabelSelector::from_json(value).unwrap_or_else(|_| LabelSelector::nothing()),
        };
        let rules = |name: &str| {
            let list = json[name].as_array().into_iter().flatten();
            list.filter_map(|rule| Rule::deserialize(rule).ok()).collect()
        };
        Self {
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            equivalent: json["matchPolicy"] != "Exact",
            rules: rules("resourceRules"),
            excluded: rules("excludeResourceRules"),
        }
    }

    /// Whether it is about the request, and as what it sees the object.
    pub(super) async fn form(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Form>, Status> {
        if !self.objects_fit(request, object) || self.by_rules(&self.excluded, request, object).is_some() {
            return Ok(None);
        }
        let own = || Form { resource: request.resource.clone(), kind: request.kind.clone() };
        let form = if self.rules.is_empty() { Some(own()) } else { self.by_rules(&self.rules, request, object) };
        match form {
            Some(form) if self.namespace_fits(request, object).await? => Ok(Some(form)),
            _ => Ok(None),
        }
    }

    fn objects_fit(&self, request: &AdmissionRequest<'_>, object: Option<&Value>) -> bool {
        let fits = |object: Option<&Value>| object.is_some_and(|object| selects(&self.objects, object));
        self.objects.is_everything() || fits(object) || fits(request.old)
    }

    fn by_rules(&self, rules: &[Rule], request: &AdmissionRequest<'_>, object: Option<&Value>) -> Option<Form> {
        let about = |resource: &GroupVersionResource| rules.iter().any(|rule| rule.is_about(request, resource, object));
        if about(request.resource) {
            return Some(Form { resource: request.resource.clone(), kind: request.kind.clone() });
        }
        let others = if self.equivalent && !rules.is_empty() { request.forms.equivalents() } else { Vec::new() };
        let found = others.into_iter().find(|(resource, _)| about(resource));
        found.map(|(resource, kind)| Form { resource, kind })
    }

    async fn namespace_fits(&self, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Result<bool, Status> {
        let namespaces = request.resource.group.is_empty() && request.resource.resource == "namespaces";
        if self.namespaces.is_everything() || (request.namespace.is_empty() && !namespaces) {
            return Ok(true);
        }
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if namespaces && writes && request.subresource.is_empty() {
            return Ok(object.is_some_and(|object| selects(&self.namespaces, object)));
        }
        let name = if namespaces { request.name } else { request.namespace };
        let id = GroupResource::new("", "namespaces");
        let found = crate::admission::find(request.view, &id, "", name).await?;
        let found = found.ok_or_else(|| Status::not_found(&id, name))?;
        Ok(self.namespaces.matches(&found.meta().labels))
    }
}

fn selects(selector: &LabelSelector, object: &Value) -> bool {
    selector.matches_with(|key| object.pointer("/metadata/labels")?.get(key)?.as_str())
}

impl Rule {
    fn is_about(&self, request: &AdmissionRequest<'_>, asked: &GroupVersionResource, object: Option<&Value>) -> bool {
        let lists = |list: &[String], wanted: &str| list.iter().any(|item| item == "*" || item == wanted);
        let scope = match self.scope.as_deref() {
            None | Some("*") => true,
            Some("Namespaced") => !request.namespace.is_empty(),
            Some("Cluster") => request.namespace.is_empty(),
            Some(_) => false,
        };
        let resource = self.resources.iter().any(|listed| {
            let (resource, subresource) = listed.split_once('/').unwrap_or((listed, ""));
            (resource == "*" || resource == asked.resource)
                && (subresource == "*" || subresource == request.subresource)
        });
        let name = object.and_then(|o| o["metadata"]["name"].as_str()).unwrap_or(request.name);
        let name = if request.name.is_empty() { name } else { request.name };
        scope
            && resource
            && lists(&self.operations, request.operation.as_str())
            && lists(&self.api_groups, &asked.group)
            && lists(&self.api_versions, &asked.version)
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|listed| listed == name))
    }
}
