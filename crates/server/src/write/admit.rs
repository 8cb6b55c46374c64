//! A write passes the admission plug-ins.

use serde_json::Value;
use skiff_meta::{GroupVersionKind, GroupVersionResource, Status};

use crate::call::Call;
use crate::chain::{AdmissionRequest, Extra, Notes, Operation};

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
        let request = self.request(call, &gvr, notes);
        let mut changed = false;
        for plugin in &call.api.chain.admission {
            if plugin.handles(self.operation, &gvr, request.subresource) {
                plugin.mutate(&request, object).await?;
                changed |= plugin.changes_objects();
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
        let request = self.request(call, &gvr, notes);
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
        }
    }
}
