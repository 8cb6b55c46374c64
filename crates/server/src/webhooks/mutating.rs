//! MutatingAdmissionWebhook: one hook after the other may change the object. When one has, those before it that want to
//! know are asked again, once.

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_meta::patch::apply_json_patch;
use skiff_meta::{GroupVersionResource, Status};

use super::dispatch::{Dispatcher, Invocation, Verdict};
use super::hooks::Hook;
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

/// The plug-in.
pub(super) struct MutatingAdmissionWebhook(pub(super) Dispatcher);

#[async_trait]
impl Admission for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn handles(&self, _operation: Operation, _resource: &GroupVersionResource, _subresource: &str) -> bool {
        true
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let hooks = self.0.hooks(request);
        let again = request.round > 0;
        let mut state = request.notes.take_hooks();
        if again && state.output.as_ref() != Some(&*object) {
            state.recall();
        }
        for (index, hook) in hooks.iter().enumerate() {
            let Some(invocation) = self.0.invocation(hook, request, Some(object)).await? else { continue };
            if again && !state.due.contains(&hook.id) {
                continue;
            }
            let changed = self.ask(index, &invocation, request, Some(object)).await?;
            if let Some(changed) = changed {
                *object = changed;
                state.recall();
                request.notes.ask_again();
            }
            if hook.again {
                state.asked.insert(hook.id.clone());
            }
        }
        if !state.asked.is_empty() || !state.due.is_empty() {
            state.output = Some(object.clone());
        }
        request.notes.put_hooks(state);
        Ok(())
    }

    /// What cannot be changed can still be refused.
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        if !matches!(request.operation, Operation::Delete | Operation::Connect) {
            return Ok(());
        }
        let hooks = self.0.hooks(request);
        for (index, hook) in hooks.iter().enumerate() {
            if let Some(invocation) = self.0.invocation(hook, request, object).await? {
                self.ask(index, &invocation, request, object).await?;
            }
        }
        Ok(())
    }

    fn metrics(&self, out: &mut String) {
        self.0.counters.write(out);
    }
}

impl MutatingAdmissionWebhook {
    /// The object as the hook wants it, when that is otherwise.
    async fn ask(
        &self,
        index: usize,
        invocation: &Invocation,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Value>, Status> {
        let (hook, begun) = (&invocation.hook, self.0.clock());
        let (shown, old) = (invocation.form(request, object).await?, invocation.form(request, request.old).await?);
        let outcome = self.0.ask(invocation, request, shown.as_ref(), old.as_ref()).await;
        let took = self.0.clock().saturating_sub(begun);
        let place = format!("round_{}_index_{index}", request.round);
        let changed = match self.0.judge(hook, request.operation, took, outcome) {
            Ok(answer) => patched(hook, request, invocation, shown, &answer.patch).await?,
            Err(Verdict::Closed(status)) => return Err(status),
            Err(Verdict::Open) => {
                let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                request.notes.annotate(key, &*hook.name);
                None
            }
        };
        let changed = changed.filter(|changed| Some(changed) != object);
        let said = json!({"configuration": hook.configuration, "mutated": changed.is_some(), "webhook": hook.name});
        request.notes.annotate(format!("mutation.webhook.admission.k8s.io/{place}"), said.to_string());
        Ok(changed)
    }
}

/// The object after the hook's patch, as it was sent, fitting its kind and defaulted.
async fn patched(
    hook: &Hook,
    request: &AdmissionRequest<'_>,
    invocation: &Invocation,
    shown: Option<Value>,
    patch: &[u8],
) -> Result<Option<Value>, Status> {
    if patch.is_empty() || patch == b"[]" {
        return Ok(None);
    }
    let Some(shown) = shown.filter(|_| matches!(request.operation, Operation::Create | Operation::Update)) else {
        let name = &hook.name;
        let why = format!(
            "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
        );
        return Err(Status::internal(why));
    };
    let mut new = apply_json_patch(&shown, patch).map_err(Status::internal)?;
    invocation.restore(request, &mut new).await?;
    request.forms.fit(new).map(Some)
}
