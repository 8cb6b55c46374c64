//! ValidatingAdmissionWebhook: all hooks at once have a look at the finished object.

use async_trait::async_trait;
use futures::future::join_all;
use serde_json::Value;
use skiff_meta::{GroupVersionResource, Status};

use super::dispatch::{Dispatcher, Invocation, Verdict};
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

/// The plug-in.
pub(super) struct ValidatingAdmissionWebhook(pub(super) Dispatcher);

#[async_trait]
impl Admission for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
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
        let hooks = self.0.hooks(request);
        let mut wanted = Vec::new();
        for hook in hooks.iter() {
            wanted.extend(self.0.invocation(hook, request, object).await?);
        }
        let asking = wanted.iter().enumerate().map(|(index, invocation)| self.ask(index, invocation, request, object));
        join_all(asking).await.into_iter().collect()
    }

    fn metrics(&self, out: &mut String) {
        self.0.counters.write(out);
    }
}

impl ValidatingAdmissionWebhook {
    async fn ask(
        &self,
        index: usize,
        invocation: &Invocation,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<(), Status> {
        let begun = self.0.clock();
        let outcome = if invocation.is_converted(request) {
            let (object, old) = (invocation.form(request, object).await?, invocation.form(request, request.old).await?);
            self.0.ask(invocation, request, object.as_ref(), old.as_ref()).await
        } else {
            self.0.ask(invocation, request, object, request.old).await
        };
        let took = self.0.clock().saturating_sub(begun);
        match self.0.judge(&invocation.hook, request.operation, took, outcome) {
            Ok(_) => Ok(()),
            Err(Verdict::Open) => {
                let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                request.notes.annotate(key, &*invocation.hook.name);
                Ok(())
            }
            Err(Verdict::Closed(status)) => Err(status),
        }
    }
}
