//! MutatingAdmissionPolicy: changes objects as the expressions of policies say.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use skiff_meta::apply::overlay;
use skiff_meta::patch::apply_json_patch;
use skiff_meta::schema::TypeRef;
use skiff_meta::status::Cause;
use skiff_meta::{GroupVersionResource, Status, WorldRef};
use skiff_rules::policy::{MutatingPolicy, Mutation};

use super::checks::{Checks, Ended};
use super::matching::Form;
use super::registry::{Binding, Policy, Registry, invocations};
use super::request::Shown;
use crate::admission::refuse;
use crate::chain::{Admission, AdmissionRequest, Authorizer, Operation};

/// The plug-in.
pub(super) struct MutatingAdmissionPolicy {
    registry: Registry<MutatingPolicy>,
    authorizer: Arc<dyn Authorizer>,
    world: WorldRef,
    checks: Checks,
}

impl MutatingAdmissionPolicy {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>, world: WorldRef) -> Self {
        let registry =
            Registry::new("mutatingadmissionpolicies", "mutatingadmissionpolicybindings", MutatingPolicy::read);
        Self { registry, authorizer, world, checks: Checks::new("mutating") }
    }

    /// Makes the changes of one policy; the error is why it could not.
    async fn change(
        &self,
        (policy, binding): (&Policy<MutatingPolicy>, Option<&Binding>),
        params: &Value,
        form: &Form,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
    ) -> Result<Result<(), String>, Status> {
        let count = |begun, why: Option<&str>| {
            let took = self.world.elapsed().saturating_sub(begun);
            self.checks.add(&policy.name, binding.map_or("", |binding| &binding.name), Ended::of(why), None, took);
        };
        let policy = &policy.compiled;
        for index in 0..policy.mutations() {
            let begun = self.world.elapsed();
            let mutation = {
                let shown = Shown::new(request, form, Some(object)).await?;
                shown.with(params, request.user, &*self.authorizer, |input| match policy.concerns(input) {
                    Ok(false) => Ok(None),
                    Ok(true) => policy.mutate(index, input),
                    Err(why) => Err(why),
                })
            };
            let mutation = match mutation {
                Ok(Some(mutation)) => mutation,
                Ok(None) => return Ok(Ok(())),
                Err(why) => {
                    count(begun, Some(&why));
                    return Ok(Err(why));
                }
            };
            let made = changed(mutation, form, request, object).await;
            count(begun, made.as_ref().err().map(String::as_str));
            match made {
                Ok(new) => *object = new,
                Err(why) => return Ok(Err(why)),
            }
        }
        Ok(Ok(()))
    }
}

async fn changed(
    mutation: Mutation,
    form: &Form,
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<Value, String> {
    let converted = form.resource != *request.resource;
    let mut seen = object.clone();
    if converted {
        request.forms.convert(&mut seen, &form.resource).await.map_err(|status| status.message)?;
    }
    let mut new = match mutation {
        Mutation::Patch(patch) => {
            apply_json_patch(&seen, patch.to_string().as_bytes()).map_err(|why| format!("JSON Patch: {why}"))?
        }
        Mutation::Apply(mut applied) => {
            for field in ["apiVersion", "kind"] {
                applied[field] = seen[field].clone();
            }
            let schema = request.forms.schema(&form.resource, &form.kind);
            let ty = schema.as_ref().map_or(TypeRef::any(), |schema| schema.root());
            overlay(&seen, &applied, ty).map_err(|why| format!("error applying patch: {why}"))?
        }
    };
    if converted {
        request.forms.restore(&mut new, &form.resource).await.map_err(|status| status.message)?;
    }
    request.forms.fit(new).map_err(|status| status.message)
}

/// The refusal of a policy that could not do what it says.
fn failed(
    policy: &Policy<MutatingPolicy>,
    binding: Option<&Binding>,
    why: &str,
    invalid: bool,
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Status {
    let message = match binding {
        Some(binding) => format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name),
        None => format!("policy {:?} denied request: {why}", policy.name),
    };
    let mut status = refuse(request, Some(object), "");
    status.message.clone_from(&message);
    if invalid {
        "Invalid".clone_into(&mut status.reason);
    }
    status.details.get_or_insert_default().causes.push(Cause { message, ..Cause::default() });
    status
}

#[async_trait]
impl Admission for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn handles(&self, operation: Operation, _resource: &GroupVersionResource, _subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn metrics(&self, out: &mut String) {
        self.checks.write(out);
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let policies = self.registry.policies(request);
        if policies.is_empty() {
            return Ok(());
        }
        let before = object.clone();
        for policy in policies.iter() {
            if request.round > 0 && !policy.compiled.is_asked_again() {
                continue;
            }
            let Some((form, invocations)) = invocations(policy, request, Some(object)).await else { continue };
            for (binding, parameters) in invocations {
                let binding = binding.as_deref();
                let (why, invalid) = match parameters {
                    Err(why) => (Some(why), false),
                    Ok(parameters) => {
                        let mut why = None;
                        for params in &parameters {
                            let made = self.change((policy, binding), params, &form, request, object).await?;
                            why = why.or(made.err());
                        }
                        (why, true)
                    }
                };
                if let Some(why) = why.filter(|_| !policy.compiled.fails_open()) {
                    return Err(failed(policy, binding, &why, invalid, request, object));
                }
            }
        }
        if *object != before && request.round == 0 {
            request.notes.ask_again();
        }
        Ok(())
    }
}
