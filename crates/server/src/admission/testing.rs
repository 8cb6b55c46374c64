//! Runs one plug-in on one request.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_meta::schema::KindSchema;
use skiff_meta::{GroupVersionKind, GroupVersionResource, Object, Status};

use crate::auth::testing::{TestView, block_on};
use crate::chain::{Admission, AdmissionRequest, Extra, Forms, Notes, Operation, Said, User};

/// Objects that are called by one name only, and fit.
pub(crate) struct OneForm;

#[async_trait]
impl Forms for OneForm {
    fn equivalents(&self) -> Vec<(GroupVersionResource, GroupVersionKind)> {
        Vec::new()
    }
    async fn convert(&self, _object: &mut Value, _to: &GroupVersionResource) -> Result<(), Status> {
        Ok(())
    }
    async fn restore(&self, _object: &mut Value, _from: &GroupVersionResource) -> Result<(), Status> {
        Ok(())
    }
    fn schema(&self, _resource: &GroupVersionResource, kind: &GroupVersionKind) -> Option<KindSchema> {
        skiff_api::facts::schema(kind)
    }
    async fn read(&self, object: &Arc<Object>, _resource: &GroupVersionResource) -> Result<Value, Status> {
        object.to_value().map_err(Status::internal)
    }
    fn fit(&self, object: Value) -> Result<Value, Status> {
        Ok(object)
    }
}

/// A plug-in and a cache.
pub(crate) struct Trial<A> {
    pub(crate) plugin: A,
    pub(crate) view: Arc<TestView>,
}

/// One request, to be filled in.
pub(crate) struct Attempt<'a> {
    plugin: &'a dyn Admission,
    view: Arc<TestView>,
    operation: Operation,
    resource: GroupVersionResource,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
    old: Option<Value>,
    user: User,
    notes: Notes,
}

impl<A: Admission> Trial<A> {
    pub(crate) fn new(plugin: A) -> Self {
        Self { plugin, view: TestView::shared() }
    }

    fn attempt(&self, operation: Operation, resource: &str) -> Attempt<'_> {
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        Attempt {
            plugin: &self.plugin,
            view: self.view.clone(),
            operation,
            resource: GroupVersionResource::new(group, "v1", resource),
            subresource: "",
            namespace: "",
            name: "",
            old: None,
            user: User::new("alice", &[]),
            notes: Notes::default(),
        }
    }

    /// A creation in `resource`, `pods` or `ingresses.networking.k8s.io`.
    pub(crate) fn create(&self, resource: &str) -> Attempt<'_> {
        self.attempt(Operation::Create, resource)
    }
    /// An update of `old`.
    pub(crate) fn update(&self, resource: &str, old: Value) -> Attempt<'_> {
        Attempt { old: Some(old), ..self.attempt(Operation::Update, resource) }
    }
    /// A removal.
    pub(crate) fn delete<'a>(&'a self, resource: &str, name: &'a str) -> Attempt<'a> {
        Attempt { name, ..self.attempt(Operation::Delete, resource) }
    }
}

impl<'a> Attempt<'a> {
    pub(crate) fn namespace(self, namespace: &'a str) -> Self {
        Self { namespace, ..self }
    }
    pub(crate) fn name(self, name: &'a str) -> Self {
        Self { name, ..self }
    }
    pub(crate) fn subresource(self, subresource: &'a str) -> Self {
        Self { subresource, ..self }
    }
    pub(crate) fn by(self, user: User) -> Self {
        Self { user, ..self }
    }
    pub(crate) fn of(self, old: Value) -> Self {
        Self { old: Some(old), ..self }
    }

    fn request<'b>(&'b self, kind: &'b GroupVersionKind) -> AdmissionRequest<'b> {
        assert!(self.plugin.handles(self.operation, &self.resource, self.subresource), "{}", self.plugin.name());
        AdmissionRequest {
            operation: self.operation,
            user: &self.user,
            resource: &self.resource,
            kind,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            old: self.old.as_ref(),
            dry_run: false,
            options: &Value::Null,
            view: &*self.view,
            notes: &self.notes,
            forms: &OneForm,
            round: 0,
        }
    }

    /// The object after the plug-in has changed it.
    pub(crate) fn mutate(&self, mut object: Value) -> Result<Value, Status> {
        let kind = GroupVersionKind::default();
        block_on(self.plugin.mutate(&self.request(&kind), &mut object)).map(|()| object)
    }

    /// What the plug-in adds to the write, when it agrees.
    pub(crate) fn validate(&self, object: &Value) -> Result<Extra, Status> {
        let (kind, mut extra) = (GroupVersionKind::default(), Extra::default());
        block_on(self.plugin.validate(&self.request(&kind), Some(object), &mut extra)).map(|()| extra)
    }

    /// What was said beside yes and no.
    pub(crate) fn said(self) -> Said {
        self.notes.into_said()
    }

    pub(crate) fn validate_delete(&self) -> Result<Extra, Status> {
        let (kind, mut extra) = (GroupVersionKind::default(), Extra::default());
        block_on(self.plugin.validate(&self.request(&kind), None, &mut extra)).map(|()| extra)
    }
}
