//! Resources from CustomResourceDefinitions.

use std::sync::Arc;

use serde_json::Value;
use skiff_meta::schema::KindSchema;
use skiff_meta::{GroupResource, GroupVersionKind, Object, check};
use skiff_rules::Rules;
use skiff_rules::custom::{CustomRules, kind_schema};

use super::convert::Conversion;
use super::registry::compare_versions;
use super::{Core, Names, Resource, ScalePaths, Subresource, Version, habits};
use crate::cache::feed::ROOT;
use crate::cache::{FieldReader, Form, ResourceCache};
use crate::conversion::Webhook;
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
    let kind = tree::text(spec, &["names", "kind"]);
    let flag = |version: &Value, name: &str| version.get(name) == Some(&Value::Bool(true));
    // Compiling the rules is most of what a definition costs.
    let family = Arc::new(Family(all.iter().map(|v| Arc::new(ByDefinition::read(group, kind, v))).collect()));
    let stored = all.iter().zip(&family.0).find_map(|(v, shape)| flag(v, "storage").then_some(shape))?;
    let storage = stored.gvk.clone();
    let terminating = definition.meta().deletion_timestamp.is_some();
    let webhook = Webhook::read(spec, &family).map(Arc::new);
    let conversion = |shape: &Arc<ByDefinition>| match webhook.is_some() || Arc::ptr_eq(shape, stored) {
        true => Conversion::Same,
        false => Conversion::Custom { served: shape.clone(), stored: stored.clone() },
    };
    let served = all.iter().zip(&family.0).filter(|(v, _)| flag(v, "served"));
    let mut versions: Vec<Arc<Version>> =
        served.map(|(v, shape)| Arc::new(version(v, shape, conversion(shape), terminating))).collect();
    versions.sort_by(|a, b| compare_versions(&b.gvk.version, &a.gvk.version));
    // What is in a cache was read as another specification said: it is filled anew, and those who watch come again.
    let same = |old: &Arc<Resource>| old.definition.as_ref().is_some_and(|old| old.get("spec") == Some(spec));
    let cache = old.filter(same).and_then(|o| o.cache.clone());
    let cache = cache.unwrap_or_else(|| {
        let others = family.0.iter().map(|shape| (shape.api_version(), conversion(shape)));
        let form = Form::new(storage.clone(), others).of_family(family.clone());
        let prefix = format!("{ROOT}{group}/{}/", id.resource);
        Arc::new(ResourceCache::new(&prefix, form, field_reader(family.clone()), None))
    });
    Some(Resource {
        names: names(spec),
        habits: habits::of(&id, true),
        id,
        namespaced: tree::text(spec, &["scope"]) == "Namespaced",
        versions,
        cache: Some(cache),
        storage,
        custom: true,
        webhook,
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

fn version(version: &Value, shape: &Arc<ByDefinition>, conversion: Conversion, terminating: bool) -> Version {
    let gvk = shape.gvk.clone();
    Version {
        api_version: gvk.api_version(),
        verbs: if terminating { TERMINATING } else { ALL },
        subresources: subresources(version, &gvk),
        selectable: shape.rules.selectable().map(str::to_owned).collect(),
        core: shape.clone(),
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

fn field_reader(family: Arc<Family>) -> FieldReader {
    Arc::new(move |object: &Object| match object.to_value() {
        Ok(value) => family.0.iter().flat_map(|shape| shape.rules.selected(&value)).collect(),
        Err(_) => Box::default(),
    })
}

/// All versions of a custom kind, served or not.
pub(crate) struct Family(Vec<Arc<ByDefinition>>);

impl Family {
    fn of(&self, object: &Value) -> Option<&Arc<ByDefinition>> {
        let version = tree::text(object, &["apiVersion"]);
        self.0.iter().find(|shape| shape.api_version() == version)
    }

    /// Drops what the schema of the object's version does not know.
    pub(crate) fn prune(&self, object: &mut Value) {
        if let Some(shape) = self.of(object) {
            shape.prune(object);
        }
    }

    /// An object as it is found in a store: its schema may have changed since it was written.
    pub(crate) fn settle(&self, object: &mut Value) {
        if let Some(shape) = self.of(object) {
            shape.prune(object);
            shape.rules.default(object);
        }
    }
}

/// A custom kind at one version: rules and types from its definition.
pub(crate) struct ByDefinition {
    gvk: GroupVersionKind,
    rules: CustomRules,
    schema: KindSchema,
}

impl ByDefinition {
    fn read(group: &str, kind: &str, version: &Value) -> Self {
        Self {
            gvk: GroupVersionKind::new(group, tree::text(version, &["name"]), kind),
            rules: CustomRules::new(version),
            schema: kind_schema(version.pointer("/schema/openAPIV3Schema")),
        }
    }

    fn api_version(&self) -> String {
        self.gvk.api_version()
    }

    /// Drops what the schema does not know. Metadata is as it was written.
    fn prune(&self, object: &mut Value) {
        let metadata = object.get_mut("metadata").map(Value::take);
        // Values of other types than the schema says are judged when they are written.
        let _ = check::check(object, self.schema.root());
        if let (Some(metadata), Some(object)) = (metadata, object.as_object_mut()) {
            object.insert("metadata".to_owned(), metadata);
        }
    }

    /// Makes an object of another version one of this.
    pub(super) fn adopt(&self, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.insert("apiVersion".to_owned(), Value::from(self.api_version()));
        }
        self.prune(object);
    }
}

impl Core for ByDefinition {
    fn rules(&self) -> &dyn Rules {
        &self.rules
    }
    fn schema(&self) -> Option<&KindSchema> {
        Some(&self.schema)
    }
}
