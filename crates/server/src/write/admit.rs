//! A write passes the admission plug-ins.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_meta::codec::Decoded;
use skiff_meta::schema::{KindSchema, TypeRef};
use skiff_meta::{GroupVersionKind, GroupVersionResource, Object, Status};

use crate::call::Call;
use crate::chain::{AdmissionRequest, Extra, Forms, Notes, Operation};
use crate::request::decode::{self, Expected};
use crate::request::query::FieldValidation;
use crate::resource::Served;

/// What a write shows to admission, beside the objects.
#[derive(Clone, Copy)]
pub(crate) struct Admitted<'a> {
    /// Create, update, delete, connect.
    pub(crate) operation: Operation,
    /// The object's kind, which for some subresources is not that of the resource.
    pub(crate) kind: &'a GroupVersionKind,
    /// Name, where known.
    pub(crate) name: &'a str,
    /// The object as it is.
    pub(crate) old: Option<&'a Value>,
    /// Nothing will be written.
    pub(crate) dry_run: bool,
    /// The request's options.
    pub(crate) options: &'a Value,
}

impl Admitted<'_> {
    /// Lets plug-ins change the object; says whether any may have.
    pub(crate) async fn mutate(&self, call: &mut Call, object: &mut Value) -> Result<bool, Status> {
        let notes = Notes::default();
        let changed = self.ask_to_change(call, &notes, object).await;
        call.note(notes);
        changed
    }

    async fn ask_to_change(&self, call: &Call, notes: &Notes, object: &mut Value) -> Result<bool, Status> {
        let gvr = call.served.gvr();
        let forms = self.forms(call);
        let mut request = self.request(call, &gvr, notes, &forms);
        let mut changed = false;
        // Whoever changed the object for somebody outside may have to do so again.
        for round in 0..2 {
            request.round = round;
            for plugin in &call.api.chain.admission {
                if plugin.handles(self.operation, &gvr, request.subresource) {
                    plugin.mutate(&request, object).await?;
                    changed |= plugin.changes_objects();
                }
            }
            if !notes.is_wanted_again() {
                break;
            }
        }
        Ok(changed)
    }

    /// Asks plug-ins whether the finished write may be, and what else belongs to it.
    pub(crate) async fn validate(&self, call: &mut Call, object: Option<&Value>) -> Result<Extra, Status> {
        let notes = Notes::default();
        let extra = self.ask(call, &notes, object).await;
        call.note(notes);
        extra
    }

    async fn ask(&self, call: &Call, notes: &Notes, object: Option<&Value>) -> Result<Extra, Status> {
        let gvr = call.served.gvr();
        let forms = self.forms(call);
        let request = self.request(call, &gvr, notes, &forms);
        let mut extra = Extra::default();
        for plugin in &call.api.chain.admission {
            if plugin.handles(self.operation, &gvr, request.subresource) {
                plugin.validate(&request, object, &mut extra).await?;
            }
        }
        Ok(extra)
    }

    fn request<'a>(
        &'a self,
        call: &'a Call,
        resource: &'a GroupVersionResource,
        notes: &'a Notes,
        forms: &'a CallForms<'a>,
    ) -> AdmissionRequest<'a> {
        AdmissionRequest {
            operation: self.operation,
            user: &call.user,
            resource,
            kind: self.kind,
            subresource: &call.target.subresource,
            namespace: call.namespace(),
            name: self.name,
            old: self.old,
            dry_run: self.dry_run,
            options: self.options,
            view: &*call.api.view,
            notes,
            forms,
            round: 0,
        }
    }

    fn forms<'a>(&'a self, call: &'a Call) -> CallForms<'a> {
        CallForms { call, kind: self.kind }
    }
}

/// The object of a call in its other forms.
struct CallForms<'a> {
    call: &'a Call,
    kind: &'a GroupVersionKind,
}

impl CallForms<'_> {
    /// Whether the object is that of the resource, and not one of a subresource.
    fn is_whole(&self) -> bool {
        *self.kind == self.call.served.version.gvk
    }

    fn find(&self, resource: &GroupVersionResource) -> Option<Served> {
        self.call.api.catalog.registry().find(resource).cloned()
    }

    async fn between(&self, object: &mut Value, from: &Served, to: &Served) -> Result<(), Status> {
        if let Some(webhook) = &from.resource.webhook {
            let converted = self.call.api.convert(webhook, object.take(), &to.version.api_version).await;
            *object = converted.map_err(|status| Status::internal(status.message))?;
            return Ok(());
        }
        from.version.conversion.to_stored(object);
        to.version.conversion.to_served(object);
        Ok(())
    }
}

#[async_trait]
impl Forms for CallForms<'_> {
    fn equivalents(&self) -> Vec<(GroupVersionResource, GroupVersionKind)> {
        let served = &self.call.served;
        let Some(cache) = served.resource.cache.as_ref().filter(|_| self.is_whole()) else { return Vec::new() };
        let registry = self.call.api.catalog.registry();
        let same = registry
            .resources()
            .iter()
            .filter(|other| other.cache.as_ref().is_some_and(|other| other.prefix() == cache.prefix()));
        let all = same.flat_map(|resource| {
            resource.versions.iter().map(|version| Served { resource: resource.clone(), version: version.clone() })
        });
        let own = served.gvr();
        all.filter(|other| other.gvr() != own).map(|other| (other.gvr(), other.version.gvk.clone())).collect()
    }

    async fn convert(&self, object: &mut Value, to: &GroupVersionResource) -> Result<(), Status> {
        match self.find(to) {
            Some(to) => self.between(object, &self.call.served, &to).await,
            None => Ok(()),
        }
    }

    async fn restore(&self, object: &mut Value, from: &GroupVersionResource) -> Result<(), Status> {
        match self.find(from) {
            Some(from) => self.between(object, &from, &self.call.served).await,
            None => Ok(()),
        }
    }

    fn schema(&self, resource: &GroupVersionResource, kind: &GroupVersionKind) -> Option<KindSchema> {
        let whole = self.find(resource).filter(|served| served.version.gvk == *kind);
        whole.map_or_else(|| skiff_api::facts::schema(kind), |served| served.version.core.schema().cloned())
    }

    async fn read(&self, object: &Arc<Object>, resource: &GroupVersionResource) -> Result<Value, Status> {
        let Some(served) = self.find(resource) else { return object.to_value().map_err(Status::internal) };
        served.shown(&*self.call.api.object_in(&served, object).await?)
    }

    fn fit(&self, object: Value) -> Result<Value, Status> {
        let decoded = Decoded { value: object, duplicates: Vec::new() };
        let fit = |root| {
            let expected = Expected { gvk: self.kind, root, protobuf: false };
            decode::fit(decoded, expected, FieldValidation::Ignore, &mut Vec::new(), b"")
                .map_err(|status| Status::internal(status.message))
        };
        if !self.is_whole() {
            let schema = skiff_api::facts::schema(self.kind);
            return fit(schema.as_ref().map_or(TypeRef::any(), |schema| schema.root()));
        }
        let version = &self.call.served.version;
        let mut object = fit(version.root())?;
        version.rules().default(&mut object);
        Ok(object)
    }
}
