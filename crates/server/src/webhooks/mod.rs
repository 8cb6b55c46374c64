//! Webhooks: what people have to say about writes, asked over HTTPS.
//!
//! Pure: which hooks a request is for (`hooks`), what they are asked and what their answers mean (`review`). The rest is
//! one HTTP client with kept connections (`client`), and the two plug-ins of admission (`mutating`, `validating`) that
//! put it together. A hook that does not answer holds up only the requests it is asked about.

pub(crate) mod client;
mod counters;
mod dispatch;
mod hooks;
mod mutating;
mod review;
mod validating;
pub(crate) mod verify;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use skiff_meta::WorldRef;

use crate::chain::{Admission, Authorizer};
use client::HookClient;
use dispatch::Dispatcher;
pub(crate) use hooks::ClientConfig;

/// MutatingAdmissionWebhook and ValidatingAdmissionWebhook.
pub(crate) fn plugins(authorizer: &Arc<dyn Authorizer>, world: &WorldRef) -> (Arc<dyn Admission>, Arc<dyn Admission>) {
    let client = Arc::new(HookClient::new(world.clone(), "kube-apiserver-admission"));
    let dispatcher = |resource, ty| Dispatcher::new(resource, ty, client.clone(), authorizer.clone(), world.clone());
    let mutating = mutating::MutatingAdmissionWebhook(dispatcher("mutatingwebhookconfigurations", "admit"));
    let validating =
        validating::ValidatingAdmissionWebhook(dispatcher("validatingwebhookconfigurations", "validating"));
    (Arc::new(mutating), Arc::new(validating))
}

/// Which hooks are asked a second time, because the object has changed since they saw it.
#[derive(Debug, Default)]
pub(crate) struct Reinvocation {
    /// Asked already, and ready to be asked again.
    asked: BTreeSet<String>,
    /// To be asked again.
    due: BTreeSet<String>,
    /// The object as the hooks left it.
    output: Option<Value>,
}

impl Reinvocation {
    /// The object has changed.
    fn recall(&mut self) {
        self.due.append(&mut self.asked);
    }
}
