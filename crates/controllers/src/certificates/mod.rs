//! Certificate requests: kubelets' are approved where their author may have them, approved ones are signed with the
//! cluster's authority, and old ones are cleaned up.

mod der;
mod plan;
mod request;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use skiff_client::{After, Change, Client, ClientError, DeleteOptions, Key, Kind, Recorder, Store, WorkQueue, Workers};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;
use der::Signer;
use plan::{Step, condition};
use request::Request;

struct Controller {
    client: Client,
    world: WorldRef,
    recorder: Recorder,
    requests: Store<CertificateSigningRequest>,
    signer: Option<Signer>,
    longest: Duration,
}

/// Starts approver, signer and cleaner; without an authority nothing is signed.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let requests = context.informers.all::<CertificateSigningRequest>();
    let queue: WorkQueue<Key> = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    requests.on(move |change: &Change<'_, CertificateSigningRequest>| to_queue.add(change.key(), change.trace));
    let authority = context.options.authority.as_ref();
    let signer = authority.and_then(|authority| match Signer::new(authority) {
        Ok(signer) => Some(signer),
        Err(error) => {
            tracing::error!("certificate requests will not be signed: {error}");
            None
        }
    });
    let controller = Arc::new(Controller {
        recorder: Recorder::new(client.clone(), context.world.clone(), "certificate-controller", ""),
        client,
        world: context.world.clone(),
        requests: requests.store(),
        signer,
        longest: authority.map_or(Duration::ZERO, |authority| authority.longest),
    });
    let synced = vec![requests.synced()];
    let workers = Workers { world: context.world.clone(), name: "certificate-controller", count: 2, synced };
    workers.start(queue, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<After, ClientError> {
        let Some(object) = self.requests.get_key(key) else { return Ok(After::Change) };
        let now = self.world.now();
        let request = Request::parse(&object.spec.request.0);
        let plan = plan::plan(&object, request.as_ref(), self.longest, now);
        let api = self.client.all::<CertificateSigningRequest>();
        match plan.step {
            Step::Wait => {}
            Step::Delete => match api.delete(object.name(), &DeleteOptions::uid(object.uid())).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => return Ok(After::Change),
            },
            Step::Approve(permissions) => self.approve(&object, permissions).await?,
            Step::Fail(why) => {
                let mut failed = (*object).clone();
                let conditions = failed.status.get_or_insert_default().conditions.get_or_insert_default();
                conditions.push(condition("Failed", "SignerValidationFailure", &why, now));
                api.update_status(&failed).await?;
            }
            Step::Sign(validity) => {
                if let Some((signer, request)) = self.signer.as_ref().zip(request.as_ref()) {
                    let usages = object.spec.usages.as_deref().unwrap_or_default();
                    let serial = [self.world.random(), self.world.random()];
                    match signer.sign(request, usages, validity, serial) {
                        Ok(pem) => {
                            let mut signed = (*object).clone();
                            signed.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
                            api.update_status(&signed).await?;
                        }
                        Err(error) => {
                            let about = skiff_client::involved(&*object);
                            self.recorder.warning(&about, "SigningError", error.to_string());
                        }
                    }
                }
            }
        }
        Ok(plan.look_again.map_or(After::Change, After::Delay))
    }

    /// Approves where the author has one of these permissions.
    async fn approve(
        &self,
        object: &CertificateSigningRequest,
        permissions: Vec<(&'static str, &'static str)>,
    ) -> Result<(), ClientError> {
        for (subresource, message) in permissions {
            if !self.may(object, subresource).await? {
                continue;
            }
            let mut approved = object.clone();
            let conditions = approved.status.get_or_insert_default().conditions.get_or_insert_default();
            conditions.push(condition("Approved", "AutoApproved", message, self.world.now()));
            let api = self.client.all::<CertificateSigningRequest>();
            api.replace(object.name(), "approval", &approved).await?;
            return Ok(());
        }
        Ok(())
    }

    async fn may(&self, object: &CertificateSigningRequest, subresource: &str) -> Result<bool, ClientError> {
        let spec = &object.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    verb: Some("create".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.client.all::<SubjectAccessReview>().create(&review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
