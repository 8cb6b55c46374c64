//! Resources from CustomResourceDefinitions.

use std::sync::Arc;

use serde_json::Value;
use skiff_meta::schema::KindSchema;
use skiff_meta::{GroupResource, GroupVersionKind, Object};
use skiff_rules::Rules;
use skiff_rules::custom::{CustomRules, kind_schema};

use super::convert::Conversion;
use super::registry::compare_versions;
use super::{Core, Names, Resource, ScalePaths, Subresource, Version};
use crate::cache::feed::ROOT;
use crate::cache::{FieldReader, Form, ResourceCache};
use crate::tree;

const ALL: &[&str] = skiff_api::kinds::ALL_VERBS;
/// While its definition goes, nothing new may come.
const TERMINATING: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const PART: &[&str] = &["get", "patch", "update"];

/// The resource a definition defines; `None` when it is not fit to be served. `old` is what an earlier state of the
/// definition defined, whose cache goes on.
pub(crate) fn resource(definition: &Object, old: Option<Arc<Resource>>) -> Option<Resource> {
    let value = definition.to_value().ok()?;
    let spec = value.get("spec")?;
    let group = tree::text(spec, &["group"]);
    let id = GroupResource::new(group, tree::text(spec, &["names", "plural"]));
    let all = tree::at(spec, &["versions"])?.as_array()?;
    let flag = |version: &Value, name: &str| version.get(name) == Some(&Value::Bool(true));
    let stored = all.iter().find(|v| flag(v, "storage"))?;
    let storage = GroupVersionKind::new(group, tree::text(stored, &["name"]), tree::text(spec, &["names", "kind"]));
    let terminating = definition.meta().deletion_timestamp.is_some();
    // Compiling them is most of what a definition costs.
    let rules = Arc::new(CustomRules::new(stored));
    let rules_of = |v: &Value| if std::ptr::eq(v, stored) { rules.clone() } else { Arc::new(CustomRules::new(v)) };
    let served = all.iter().filter(|v| flag(v, "served"));
    let mut versions: Vec<Arc<Version>> =
        served.map(|v| Arc::new(version(v, rules_of(v), &storage, terminating))).collect();
    versions.sort_by(|a, b| compare_versions(&b.gvk.version, &a.gvk.version));
    let reader = field_reader(rules.clone());
    let fields: Vec<String> = rules.selectable().map(str::to_owned).collect();
    // A cache whose objects were read with other selectable fields is filled anew.
    let same = |old: &Arc<Resource>| old.storage == storage && old.selectable == fields;
    let cache = old.filter(same).and_then(|o| o.cache.clone());
    let cache = cache.unwrap_or_else(|| {
        let form = Form::new(
            storage.clone(),
            all.iter().map(|version| {
                let served = format!("{group}/{}", tree::text(version, &["name"]));
                (served.clone(), Conversion::Renamed { served, stored: storage.api_version() })
            }),
        );
        Arc::new(ResourceCache::new(&format!("{ROOT}{group}/{}/", id.resource), form, reader, None))
    });
    Some(Resource {
        names: names(spec),
        id,
        namespaced: tree::text(spec, &["scope"]) == "Namespaced",
        versions,
        cache: Some(cache),
        storage,
        custom: true,
        selectable: fields,
        definition: Some(value),
    })
}

fn names(spec: &Value) -> Names {
    let text = |name: &str| tree::text(spec, &["names", name]).to_owned();
    let list = |name: &str| tree::texts(spec, &["names", name]).into_iter().map(str::to_owned).collect();
    Names {
        plural: text("plural"),
        singular: text("singular"),
        kind: text("kind"),
        list_kind: text("listKind"),
        short: list("shortNames"),
        categories: list("categories"),
    }
}

fn version(version: &Value, rules: Arc<CustomRules>, storage: &GroupVersionKind, terminating: bool) -> Version {
    let gvk = GroupVersionKind::new(&*storage.group, tree::text(version, &["name"]), &*storage.kind);
    let (served, stored) = (gvk.api_version(), storage.api_version());
    let conversion = if served == stored { Conversion::Same } else { Conversion::Renamed { served, stored } };
    let selectable = rules.selectable().map(str::to_owned).collect();
    let schema = kind_schema(version.pointer("/schema/openAPIV3Schema"));
    Version {
        api_version: gvk.api_version(),
        verbs: if terminating { TERMINATING } else { ALL },
        subresources: subresources(version, &gvk),
        selectable,
        core: Arc::new(ByDefinition { rules, schema }),
        conversion,
        protobuf: false,
        deprecation: deprecation(version, &gvk),
        gvk,
    }
}

fn deprecation(version: &Value, gvk: &GroupVersionKind) -> Option<String> {
    let deprecated = version.get("deprecated") == Some(&Value::Bool(true));
    let given = tree::text(version, &["deprecationWarning"]);
    deprecated.then(|| match given {
        "" => format!("{}/{} {} is deprecated", gvk.group, gvk.version, gvk.kind),
        given => given.to_owned(),
    })
}

fn subresources(version: &Value, gvk: &GroupVersionKind) -> Vec<Subresource> {
    let mut all = Vec::new();
    if let Some(scale) = tree::at(version, &["subresources", "scale"]) {
        let path = |name: &str| {
            let text = tree::text(scale, &[name]).trim_start_matches('.');
            text.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect()
        };
        let paths = ScalePaths {
            spec_replicas: path("specReplicasPath"),
            status_replicas: path("statusReplicasPath"),
            selector: path("labelSelectorPath"),
        };
        let body = GroupVersionKind::new("autoscaling", "v1", "Scale");
        all.push(Subresource { name: "scale".to_owned(), verbs: PART, body, scale: Some(paths) });
    }
    if tree::at(version, &["subresources", "status"]).is_some() {
        all.push(Subresource { name: "status".to_owned(), verbs: PART, body: gvk.clone(), scale: None });
    }
    all
}

fn field_reader(rules: Arc<CustomRules>) -> FieldReader {
    Arc::new(move |object: &Object| match object.to_value() {
        Ok(value) => rules.selected(&value).into(),
        Err(_) => Box::default(),
    })
}

/// A custom kind at one version: rules and types from its definition.
struct ByDefinition {
    rules: Arc<CustomRules>,
    schema: KindSchema,
}

impl Core for ByDefinition {
    fn rules(&self) -> &dyn Rules {
        &*self.rules
    }
    fn schema(&self) -> Option<&KindSchema> {
        Some(&self.schema)
    }
}
