//! Resources from the table of built-in kinds.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use skiff_api::kinds::{KINDS, Kind};
use skiff_meta::schema::KindSchema;
use skiff_meta::{GroupKind, GroupResource, GroupVersionKind, Object, partial};
use skiff_rules::Rules;

use super::autoscaler::ThroughStored;
use super::convert::{Conversion, EVENT_MEMBERS, EVENT_TEXTS};
use super::{Core, Names, Resource, ScalePaths, Subresource, Version, definition_v1beta1, habits};
use crate::cache::{FieldReader, Form, ResourceCache};

/// All built-in resources. Kinds that show the same objects share a cache.
pub(crate) fn resources() -> Vec<Arc<Resource>> {
    let mut caches: HashMap<String, Arc<ResourceCache>> = HashMap::new();
    KINDS.iter().map(|kind| Arc::new(resource(kind, &mut caches))).collect()
}

fn resource(kind: &'static Kind, caches: &mut HashMap<String, Arc<ResourceCache>>) -> Resource {
    let cache = kind.is_stored().then(|| {
        let storage = kind.storage_gvk().group_kind();
        let new = || {
            let form = Form::new(
                kind.storage_gvk(),
                kind.versions
                    .iter()
                    .map(|version| {
                        let gvk = kind.gvk_at(version);
                        (gvk.api_version(), conversion(kind, &gvk))
                    })
                    .chain(found_only(kind)),
            );
            Arc::new(ResourceCache::new(&kind.key_prefix(), form, field_reader(storage), trigger(kind)))
        };
        caches.entry(kind.key_prefix()).or_insert_with(new).clone()
    });
    let id = GroupResource::new(kind.group, kind.plural);
    Resource {
        habits: habits::of(&id, false),
        id,
        names: Names {
            plural: kind.plural.to_owned(),
            singular: kind.singular.to_owned(),
            kind: kind.kind.to_owned(),
            list_kind: kind.list_kind(),
            short: kind.short_names.iter().map(|&n| n.to_owned()).collect(),
            categories: kind.categories.iter().map(|&n| n.to_owned()).collect(),
        },
        namespaced: kind.namespaced,
        versions: kind.versions.iter().map(|version| Arc::new(self::version(kind, version))).collect(),
        cache,
        storage: kind.storage_gvk(),
        custom: false,
        webhook: None,
        definition: None,
    }
}

/// A version that is found in stores and never served.
fn found_only(kind: &Kind) -> Option<(String, Conversion)> {
    let is_definition = (kind.group, kind.kind) == ("apiextensions.k8s.io", "CustomResourceDefinition");
    is_definition.then(|| (definition_v1beta1::VERSION.to_owned(), Conversion::DefinitionV1beta1))
}

/// Node agents watch the pods of their node.
fn trigger(kind: &Kind) -> Option<&'static str> {
    (kind.group.is_empty() && kind.plural == "pods").then_some("spec.nodeName")
}

fn version(kind: &'static Kind, version: &'static str) -> Version {
    let gvk = kind.gvk_at(version);
    let subresources = kind.subresources.iter().map(|sub| Subresource {
        name: sub.name.to_owned(),
        verbs: sub.verbs,
        body: sub.gvk(kind, version),
        scale: (sub.name == "scale").then(scale_paths),
    });
    Version {
        api_version: gvk.api_version(),
        verbs: kind.verbs,
        subresources: subresources.collect(),
        selectable: kind.selectable.iter().map(|&f| f.to_owned()).collect(),
        core: Arc::new(Typed::new(gvk.clone(), conversion(kind, &gvk))),
        conversion: conversion(kind, &gvk),
        protobuf: true,
        deprecation: (kind.group.is_empty() && matches!(kind.plural, "componentstatuses" | "endpoints"))
            .then(|| deprecation(kind)),
        gvk,
    }
}

fn deprecation(kind: &Kind) -> String {
    match kind.plural {
        "endpoints" => "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned(),
        _ => format!("v1 {} is deprecated in v1.19+", kind.kind),
    }
}

fn scale_paths() -> ScalePaths {
    let path = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    ScalePaths {
        spec_replicas: path(&["spec", "replicas"]),
        status_replicas: path(&["status", "replicas"]),
        selector: path(&["spec", "selector"]),
    }
}

fn conversion(kind: &Kind, gvk: &GroupVersionKind) -> Conversion {
    let (served, stored) = (gvk.api_version(), kind.storage_gvk().api_version());
    if served == stored {
        Conversion::Same
    } else if kind.kind == "Event" {
        Conversion::Members { served, stored, members: EVENT_MEMBERS, texts: EVENT_TEXTS }
    } else if kind.kind == "HorizontalPodAutoscaler" {
        Conversion::AutoscalerV1
    } else {
        Conversion::Renamed { served, stored }
    }
}

/// Reads what field selectors can ask of a built-in kind.
fn field_reader(kind: GroupKind) -> FieldReader {
    Arc::new(move |object: &Object| {
        let rules = skiff_rules::rules_for(&kind);
        let value = match rules.selects_from() {
            [] => serde_json::from_slice(object.canonical()),
            wanted => partial::pick(object.canonical(), wanted),
        };
        let Ok(value) = value else { return Box::default() };
        let fields = rules.selectable_fields(&value);
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    })
}

/// A built-in kind at one version: rules by kind, types from the tables of facts.
struct Typed {
    gvk: GroupVersionKind,
    rules: RulesOf,
    schema: OnceLock<Option<KindSchema>>,
}

/// Rules are those of the stored version; where another one is shaped differently, it is judged in that form.
enum RulesOf {
    Own(&'static dyn Rules),
    Stored(ThroughStored),
}

impl Typed {
    fn new(gvk: GroupVersionKind, conversion: Conversion) -> Self {
        let rules = skiff_rules::rules_for(&gvk.group_kind());
        let rules = match conversion {
            Conversion::AutoscalerV1 => RulesOf::Stored(ThroughStored { rules, conversion }),
            _ => RulesOf::Own(rules),
        };
        Self { gvk, rules, schema: OnceLock::new() }
    }
}

impl Core for Typed {
    fn rules(&self) -> &dyn Rules {
        match &self.rules {
            RulesOf::Own(rules) => *rules,
            RulesOf::Stored(rules) => rules,
        }
    }
    fn schema(&self) -> Option<&KindSchema> {
        self.schema.get_or_init(|| skiff_api::facts::schema(&self.gvk)).as_ref()
    }
}
