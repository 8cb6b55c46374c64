//! What is served: one [`Resource`] per kind, built-in or custom, and nothing after this module knows which.
//!
//! A resource has one cache and one stored form, and is served at one or several versions. A [`Version`] brings the
//! schema and the rules that its objects obey; for built-in kinds these come from the tables and from `skiff-rules`,
//! for custom kinds from their definition.

mod autoscaler;
pub(crate) mod builtin;
pub(crate) mod catalog;
pub(crate) mod convert;
pub(crate) mod custom;
pub(crate) mod definition_v1beta1;
pub(crate) mod discovery;
pub(crate) mod habits;
pub(crate) mod registry;

use std::sync::Arc;

use serde_json::Value;
use skiff_meta::schema::{KindSchema, TypeRef};
use skiff_meta::{GroupKind, GroupResource, GroupVersionKind, GroupVersionResource, Object, Status};
use skiff_rules::Rules;

use crate::cache::ResourceCache;
use crate::conversion::Webhook;
use convert::Conversion;
use habits::Habits;

/// One kind, as it is served.
pub(crate) struct Resource {
    /// Group and plural.
    pub(crate) id: GroupResource,
    /// All its names.
    pub(crate) names: Names,
    /// Whether objects lie in namespaces.
    pub(crate) namespaced: bool,
    /// Served versions, the preferred one first.
    pub(crate) versions: Vec<Arc<Version>>,
    /// Its objects; none for questions and commands, which are not stored.
    pub(crate) cache: Option<Arc<ResourceCache>>,
    /// What discovery's storage version hash is made of.
    pub(crate) storage: GroupVersionKind,
    /// Defined by a CustomResourceDefinition.
    pub(crate) custom: bool,
    /// How its objects are read, written and deleted.
    pub(crate) habits: Habits,
    /// Who converts between its versions, where they differ in more than their names.
    pub(crate) webhook: Option<Arc<Webhook>>,
    /// The definition of a custom kind.
    pub(crate) definition: Option<Value>,
}

impl Resource {
    /// What refusals call the kind: the stored one, where two groups show the same objects.
    pub(crate) fn stored_kind(&self) -> GroupKind {
        GroupKind::new(&*self.storage.group, &*self.storage.kind)
    }
}

/// What a resource is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// `deployments`
    pub(crate) plural: String,
    /// `deployment`
    pub(crate) singular: String,
    /// `Deployment`
    pub(crate) kind: String,
    /// `DeploymentList`
    pub(crate) list_kind: String,
    /// `deploy`
    pub(crate) short: Vec<String>,
    /// `all`
    pub(crate) categories: Vec<String>,
}

/// One served version of a resource.
pub(crate) struct Version {
    /// Group, version, kind.
    pub(crate) gvk: GroupVersionKind,
    /// `apps/v1`
    pub(crate) api_version: String,
    /// Verbs in discovery's order.
    pub(crate) verbs: &'static [&'static str],
    /// Subresources, by name.
    pub(crate) subresources: Vec<Subresource>,
    /// Field selectors beside name and namespace.
    pub(crate) selectable: Vec<String>,
    /// Types and rules of its objects.
    pub(crate) core: Arc<dyn Core>,
    /// Between this version and the stored one.
    pub(crate) conversion: Conversion,
    /// Whether there is a protobuf form.
    pub(crate) protobuf: bool,
    /// Said to everybody who uses this version.
    pub(crate) deprecation: Option<String>,
}

/// The erased core of a kind at one version.
pub(crate) trait Core: Send + Sync {
    /// Its rules.
    fn rules(&self) -> &dyn Rules;
    /// Its schema; `None` when nothing is known of its types.
    fn schema(&self) -> Option<&KindSchema>;
}

impl Version {
    /// The rules.
    pub(crate) fn rules(&self) -> &dyn Rules {
        self.core.rules()
    }
    /// Where to start walking the schema.
    pub(crate) fn root(&self) -> TypeRef<'_> {
        self.core.schema().map_or(TypeRef::any(), KindSchema::root)
    }
    /// The subresource called `name`.
    pub(crate) fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// One subresource.
#[derive(Clone, Debug)]
pub(crate) struct Subresource {
    /// `status`, `scale`, ...
    pub(crate) name: String,
    /// Verbs in discovery's order.
    pub(crate) verbs: &'static [&'static str],
    /// What its bodies are.
    pub(crate) body: GroupVersionKind,
    /// Where the numbers of a Scale lie, for `scale`.
    pub(crate) scale: Option<ScalePaths>,
}

/// Where the numbers of a Scale lie in its object, each a path of member names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    /// Wanted.
    pub(crate) spec_replicas: Vec<String>,
    /// Seen.
    pub(crate) status_replicas: Vec<String>,
    /// The selector: a label selector (object), a map of labels, or its text.
    pub(crate) selector: Vec<String>,
}

/// A resource at the version a request speaks.
#[derive(Clone)]
pub(crate) struct Served {
    /// The resource.
    pub(crate) resource: Arc<Resource>,
    /// The version.
    pub(crate) version: Arc<Version>,
}

impl Served {
    /// Group, version and resource.
    pub(crate) fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(&*self.resource.id.group, &*self.version.gvk.version, &*self.resource.id.resource)
    }
    /// Group and resource, for errors.
    pub(crate) fn id(&self) -> &GroupResource {
        &self.resource.id
    }
    /// An object as this version shows it, where no webhook needs to convert it.
    pub(crate) fn shown(&self, object: &Object) -> Result<Value, Status> {
        let mut value = object.to_value().map_err(Status::internal)?;
        self.version.conversion.to_served(&mut value);
        Ok(value)
    }
    /// The cache of a stored resource.
    pub(crate) fn cache(&self) -> Result<&Arc<ResourceCache>, Status> {
        self.resource.cache.as_ref().ok_or_else(|| Status::method_not_allowed("this verb", &self.resource.id))
    }
    /// The tail of an object's key in cache and store.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        if self.resource.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
    }
    /// How the tails of the keys of a namespace's objects begin; of all objects where there are no namespaces or none is
    /// given.
    pub(crate) fn key_start(&self, namespace: &str) -> String {
        if self.resource.namespaced && !namespace.is_empty() { format!("{namespace}/") } else { String::new() }
    }
}
