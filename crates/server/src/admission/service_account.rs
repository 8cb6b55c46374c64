//! ServiceAccount: every pod acts as somebody, and carries the token to prove it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ServiceAccount as Account;
use serde_json::{Value, json};
use skiff_meta::world::WorldExt;
use skiff_meta::{GroupResource, GroupVersionResource, Status, WorldRef};

use super::{find, items, list_mut, refuse, text};
use crate::chain::{Admission, AdmissionRequest, Extra, Operation};

const MIRROR: &str = "kubernetes.io/config.mirror";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and seven seconds, by which the API server tells tokens of this volume from others.
const TOKEN_SECONDS: i64 = 3_607;
/// How often, and after what pause, to look again for a default account that its controller is about to make.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// The plug-in.
pub(super) struct ServiceAccount {
    world: WorldRef,
}

impl ServiceAccount {
    pub(super) fn new(world: WorldRef) -> Self {
        Self { world }
    }

    async fn account(
        &self,
        request: &AdmissionRequest<'_>,
        object: &Value,
        name: &str,
    ) -> Result<Arc<Account>, Status> {
        let resource = GroupResource::new("", "serviceaccounts");
        let namespace = request.namespace;
        let attempts = if name == "default" { ATTEMPTS } else { 1 };
        for attempt in 0..attempts {
            if attempt > 0 {
                self.world.sleep(PAUSE).await;
            }
            if let Some(found) = find(request.view, &resource, namespace, name).await? {
                return found.typed().map_err(Status::internal);
            }
        }
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        Err(refuse(request, Some(object), &why))
    }
}

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

#[async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation, resource: &GroupVersionResource, subresource: &str) -> bool {
        operation == Operation::Create
            && resource.group.is_empty()
            && resource.resource == "pods"
            && subresource.is_empty()
    }

    fn changes_objects(&self) -> bool {
        true
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if is_mirror(object) {
            return Ok(());
        }
        let name = match text(&object["spec"], "serviceAccountName") {
            "" => "default",
            name => name,
        }
        .to_owned();
        let account = self.account(request, object, &name).await?;
        let spec = &mut object["spec"];
        spec["serviceAccountName"] = json!(name);
        // The old name of the same field, which some still read.
        spec["serviceAccount"] = json!(name);
        let wanted = spec["automountServiceAccountToken"].as_bool().or(account.automount_service_account_token);
        if wanted.unwrap_or(true) {
            mount_token(spec, &self.world.name_suffix(5));
        }
        let secrets = account.image_pull_secrets.as_deref().unwrap_or_default();
        if items(&spec["imagePullSecrets"]).is_empty() && !secrets.is_empty() {
            spec["imagePullSecrets"] = secrets.iter().map(|secret| json!({"name": secret.name})).collect();
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
        _extra: &mut Extra,
    ) -> Result<(), Status> {
        let Some(pod) = object.filter(|pod| is_mirror(pod)) else { return Ok(()) };
        let spec = &pod["spec"];
        let projects =
            |volume: &Value| items(&volume["projected"]["sources"]).iter().any(|s| !s["serviceAccountToken"].is_null());
        let why = if !text(spec, "serviceAccountName").is_empty() {
            "a mirror pod may not reference service accounts"
        } else if super::node_restriction::references_secrets(spec) {
            "a mirror pod may not reference secrets"
        } else if items(&spec["volumes"]).iter().any(projects) {
            "a mirror pod may not use ServiceAccountToken volume projections"
        } else {
            return Ok(());
        };
        Err(refuse(request, object, why))
    }
}

/// Mounts the token volume into every container that has nothing else in its place.
fn mount_token(spec: &mut Value, suffix: &str) {
    let existing = items(&spec["volumes"]).iter().map(|v| text(v, "name")).find(|name| name.starts_with(VOLUME_PREFIX));
    let exists = existing.is_some();
    let name = existing.map_or_else(|| format!("{VOLUME_PREFIX}{suffix}"), str::to_owned);
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        for container in super::items_mut(spec, field) {
            if items(&container["volumeMounts"]).iter().any(|mount| text(mount, "mountPath") == MOUNT_PATH) {
                continue;
            }
            if let Some(mounts) = list_mut(container, "volumeMounts") {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                mounted = true;
            }
        }
    }
    if mounted
        && !exists
        && let Some(volumes) = list_mut(spec, "volumes")
    {
        volumes.push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    let namespace = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": namespace}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Trial;
    use crate::auth::testing::Frozen;

    fn trial() -> Trial<ServiceAccount> {
        let trial = Trial::new(ServiceAccount::new(Frozen::at(0)));
        let account = |name: &str, more: Value| {
            let mut account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "a"}});
            account.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            trial.view.put("serviceaccounts", account);
        };
        account("default", json!({}));
        account("puller", json!({"imagePullSecrets": [{"name": "key"}], "automountServiceAccountToken": false}));
        trial
    }

    fn admit(trial: &Trial<ServiceAccount>, spec: Value) -> Result<Value, Status> {
        let pod = json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec});
        trial.create("pods").namespace("a").mutate(pod).map(|mut pod| pod["spec"].take())
    }

    #[test]
    fn pods_get_the_default_account_and_its_token() {
        let spec = admit(&trial(), json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]})).unwrap();
        assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
        let volume = &spec["volumes"][0];
        let name = text(volume, "name");
        assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
        assert_eq!(volume["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3_607);
        let mount = json!([{"name": name, "readOnly": true, "mountPath": MOUNT_PATH}]);
        assert_eq!(
            (&spec["containers"][0]["volumeMounts"], &spec["initContainers"][0]["volumeMounts"]),
            (&mount, &mount)
        );
    }

    #[test]
    fn tokens_are_mounted_where_wanted_only() {
        let trial = trial();
        let own_mount = json!([{"name": "c", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}]);
        let cases = [
            (json!({"containers": [{"name": "c"}], "automountServiceAccountToken": false}), 0),
            (json!({"containers": [{"name": "c"}], "serviceAccountName": "puller"}), 0),
            (
                json!({"containers": [{"name": "c"}], "serviceAccountName": "puller", "automountServiceAccountToken": true}),
                1,
            ),
            (json!({"containers": own_mount}), 0),
            (json!({"containers": [{"name": "c"}], "volumes": [{"name": "kube-api-access-x", "emptyDir": {}}]}), 1),
        ];
        for (spec, volumes) in cases {
            let admitted = admit(&trial, spec.clone()).unwrap();
            assert_eq!(items(&admitted["volumes"]).len(), volumes, "{spec}");
        }
    }

    #[test]
    fn pull_secrets_come_from_the_account_unless_the_pod_has_its_own() {
        let trial = trial();
        let of = |secrets: Value| {
            let spec = json!({"containers": [], "serviceAccountName": "puller", "imagePullSecrets": secrets});
            admit(&trial, spec).unwrap()["imagePullSecrets"].take()
        };
        assert_eq!(of(Value::Null), json!([{"name": "key"}]));
        assert_eq!(of(json!([{"name": "own"}])), json!([{"name": "own"}]));
    }

    #[test]
    fn an_unknown_account_is_refused() {
        let refusal = admit(&trial(), json!({"containers": [], "serviceAccountName": "nobody"})).unwrap_err();
        let words =
            "pods \"p\" is forbidden: error looking up service account a/nobody: serviceaccount \"nobody\" not found";
        assert_eq!((refusal.code, refusal.message.as_str()), (403, words));
    }

    #[test]
    fn mirror_pods_stay_as_they_are_and_refer_to_nothing() {
        let trial = trial();
        let mirror = |spec: Value| json!({"metadata": {"name": "p", "annotations": {MIRROR: "x"}}, "spec": spec});
        let plain = mirror(json!({"containers": [{"name": "c"}]}));
        assert_eq!(trial.create("pods").namespace("a").mutate(plain.clone()).unwrap(), plain);
        let token = json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]});
        let cases = [
            (json!({}), None),
            (json!({"serviceAccountName": "default"}), Some("may not reference service accounts")),
            (json!({"volumes": [{"secret": {"secretName": "s"}}]}), Some("may not reference secrets")),
            (token, Some("may not use ServiceAccountToken volume projections")),
        ];
        for (spec, expected) in cases {
            let outcome = trial.create("pods").namespace("a").validate(&mirror(spec));
            let told = outcome.err().map(|status| status.message).unwrap_or_default();
            assert!(expected.map_or(told.is_empty(), |words| told.contains(words)), "{told}");
        }
    }
}
