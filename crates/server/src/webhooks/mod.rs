//! Webhooks: what people have to say about writes, asked over HTTPS.
//!
//! Pure: which hooks a request is for (`hooks`), what they are asked and what their answers mean (`review`). The rest is
//! one HTTP client with kept connections (`client`), and the two plug-ins of admission (`mutating`, `validating`) that
//! put it together. A hook that does not answer holds up only the requests it is asked about.

pub(crate) mod client;
mod counters;
mod dispatch;
mod hooks;
mod identity;
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
pub(crate) use identity::Identities;

/// MutatingAdmissionWebhook and ValidatingAdmissionWebhook.
pub(crate) fn plugins(
    authorizer: &Arc<dyn Authorizer>,
    world: &WorldRef,
    [mutating, validating]: [Identities; 2],
) -> (Arc<dyn Admission>, Arc<dyn Admission>) {
    let dispatcher = |resource, ty, identities| {
        let client = Arc::new(HookClient::new(world.clone(), "kube-apiserver-admission", identities));
        Dispatcher::new(resource, ty, client, authorizer.clone(), world.clone())
    };
    let mutating = dispatcher("mutatingwebhookconfigurations", "admit", mutating);
    let validating = dispatcher("validatingwebhookconfigurations", "validating", validating);
    let (mutating, validating) =
        (mutating::MutatingAdmissionWebhook(mutating), validating::ValidatingAdmissionWebhook(validating));
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
