//! ValidatingAdmissionPolicy: refuses, warns of or notes down what the expressions of policies do not hold for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_meta::status::Cause;
use skiff_meta::{GroupVersionResource, Status, WorldRef};
use skiff_rules::policy::{Decision, Outcome, ValidatingPolicy};

use super::checks::{Checks, Ended};
use super::registry::{Binding, Policy, Registry, invocations};
use super::request::Shown;
use crate::admission::refuse;
use crate::chain::{Admission, AdmissionRequest, Authorizer, Extra, Operation};

const MAX_ANNOTATION: usize = 10 * 1024;

/// The plug-in.
pub(super) struct ValidatingAdmissionPolicy {
    registry: Registry<ValidatingPolicy>,
    authorizer: Arc<dyn Authorizer>,
    world: WorldRef,
    checks: Checks,
}

/// A refusal, and whose it is.
struct Denied {
    policy: String,
    binding: Option<String>,
    decision: Decision,
}

impl Denied {
    fn message(&self) -> String {
        let Self { policy, binding, decision } = self;
        let message = &decision.message;
        match binding {
            Some(binding) => {
                format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}")
            }
            None => format!("ValidatingAdmissionPolicy '{policy}' denied request: {message}"),
        }
    }

    fn status(&self, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Status {
        let message = self.message();
        let mut status = refuse(request, object, &message);
        let reason = Some(self.decision.reason.as_str()).filter(|reason| !reason.is_empty()).unwrap_or("Invalid");
        status.code = match reason {
            "Unauthorized" => 401,
            "Forbidden" => 403,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        reason.clone_into(&mut status.reason);
        status.details.get_or_insert_default().causes.push(Cause { message, ..Cause::default() });
        status
    }
}

impl ValidatingAdmissionPolicy {
    pub(super) fn new(authorizer: Arc<dyn Authorizer>, world: WorldRef) -> Self {
        let registry =
            Registry::new("validatingadmissionpolicies", "validatingadmissionpolicybindings", ValidatingPolicy::read);
        Self { registry, authorizer, world, checks: Checks::new("validating") }
    }

    async fn judge(
        &self,
        policy: &Policy<ValidatingPolicy>,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        denied: &mut Vec<Denied>,
    ) -> Result<(), Status> {
        let Some((form, invocations)) = invocations(policy, request, object).await else { return Ok(()) };
        let mut shown: Option<Shown> = None;
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (binding, parameters) in invocations {
            let parameters = match parameters {
                Ok(parameters) => parameters,
                Err(_) if policy.compiled.fails_open() => continue,
                Err(message) => {
                    let decision = Decision { message, reason: String::new() };
                    let binding = binding.map(|binding| binding.name.clone());
                    denied.push(Denied { policy: policy.name.clone(), binding, decision });
                    continue;
                }
            };
            let Some(binding) = binding else { continue };
            let seen = match &shown {
                Some(seen) => seen,
                None => shown.insert(Shown::new(request, &form, object).await?),
            };
            for params in &parameters {
                let begun = self.world.elapsed();
                let outcome =
                    seen.with(params, request.user, &*self.authorizer, |input| policy.compiled.evaluate(input));
                self.count(policy, &binding, &outcome, self.world.elapsed().saturating_sub(begun));
                told(policy, &binding, outcome, request, denied, &mut annotations);
            }
        }
        for (key, values) in annotations {
            request.notes.annotate(format!("{}/{key}", policy.name), values.join(", "));
        }
        Ok(())
    }

    /// Counts what a policy had to say; where all is well, nothing is counted.
    fn count(&self, policy: &Policy<ValidatingPolicy>, binding: &Binding, outcome: &Outcome, took: Duration) {
        let add = |ended, action| self.checks.add(&policy.name, &binding.name, ended, Some(action), took);
        outcome.ignored.iter().for_each(|why| add(Ended::of(Some(why)), "allow"));
        for (_, decision) in &outcome.refusals {
            let failed = Some(&*decision.message).filter(|_| decision.reason.is_empty());
            // Upstream tells refusals apart from nothing but being in order.
            let ended = if failed.is_some() { Ended::of(failed) } else { Ended::Invalid };
            for action in &binding.actions {
                add(
                    ended,
                    match &**action {
                        "Deny" => "deny",
                        "Audit" => "audit",
                        _ => "warn",
                    },
                );
            }
        }
        let failed = outcome.annotations.iter().filter_map(|(_, value)| value.as_ref().err());
        failed.for_each(|why| add(Ended::of(Some(why)), "deny"));
    }
}

/// What becomes of what a policy says depends on the binding.
fn told(
    policy: &Policy<ValidatingPolicy>,
    binding: &Binding,
    outcome: Outcome,
    request: &AdmissionRequest<'_>,
    denied: &mut Vec<Denied>,
    annotations: &mut BTreeMap<String, Vec<String>>,
) {
    let owned = |decision| Denied { policy: policy.name.clone(), binding: Some(binding.name.clone()), decision };
    for (index, decision) in outcome.refusals {
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => denied.push(owned(decision.clone())),
                "Warn" => request.notes.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, decision.message
                )),
                "Audit" => {
                    let failure = json!([{
                        "message": decision.message,
                        "policy": policy.name,
                        "binding": binding.name,
                        "expressionIndex": index,
                        "validationActions": binding.actions,
                    }]);
                    request
                        .notes
                        .annotate("validation.policy.admission.k8s.io/validation_failure", failure.to_string());
                }
                _ => {}
            }
        }
    }
    for (key, value) in outcome.annotations {
        match value {
            Ok(mut value) => {
                let end = (0..=MAX_ANNOTATION.min(value.len())).rev().find(|at| value.is_char_boundary(*at));
                value.truncate(end.unwrap_or(0));
                let values = annotations.entry(key).or_default();
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            Err(message) => denied.push(owned(Decision { message, reason: String::new() })),
        }
    }
}

#[async_trait]
impl Admission for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn metrics(&self, out: &mut String) {
        self.checks.write(out);
    }

    fn handles(&self, _operation: Operation, _resource: &GroupVersionResource, _subresource: &str) -> bool {
        true
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let mut denied = Vec::new();
        for policy in self.registry.policies(request).iter() {
            self.judge(policy, request, object, &mut denied).await?;
        }
        denied.first().map_or(Ok(()), |first| Err(first.status(request, object)))
    }
}
