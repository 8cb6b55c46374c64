//! Makes service account tokens: `serviceaccounts/token`.
//!
//! As upstream's `pkg/registry/core/serviceaccount/storage/token.go`.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::world::WorldExt;
use skiff_meta::{GroupKind, GroupResource, Object, Status};

use super::accounts::Accounts;
use super::claims::{Bindings, Claims, Named};
use crate::auth::names::account_user;
use crate::chain::{TokenIssuer, View};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
/// Shortest life of a token, in seconds.
const SHORTEST: i64 = 600;
/// What the token volumes of pods ask for, an hour and seven seconds: a number nobody asks for by chance. Such tokens
/// live on for a year, so that programs that never read theirs again keep working, and are told apart by `warnafter`.
const PROJECTED: i64 = 3_607;
const EXTENDED: i64 = 365 * 24 * 3_600;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    audiences: Option<Vec<String>>,
    expiration_seconds: Option<i64>,
    bound_object_ref: Option<BoundRef>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BoundRef {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

/// What a token is bound to, beside its account.
#[derive(Default)]
struct Bound {
    pod: Option<Named>,
    node: Option<Named>,
    secret: Option<Named>,
}

fn named(object: &Object) -> Option<Named> {
    Some(Named { name: object.meta().name.clone(), uid: object.meta().uid.clone() })
}

#[async_trait]
impl TokenIssuer for Accounts {
    async fn issue(&self, account: &Object, mut request: Value, view: &dyn View) -> Result<Value, Status> {
        let meta = account.meta();
        check_metadata(&request, account)?;
        let spec = request.get("spec").filter(|spec| !spec.is_null());
        let spec = spec.map_or(Ok(Spec::default()), Spec::deserialize);
        let spec = spec.map_err(|error| Status::bad_request(error.to_string()))?;
        let audiences = spec.audiences.filter(|a| !a.is_empty()).unwrap_or_else(|| vec![self.audience().to_owned()]);
        let seconds = spec.expiration_seconds.unwrap_or(3_600);
        check_seconds(seconds)?;
        let bound = match &spec.bound_object_ref {
            Some(wanted) => bind(wanted, account, view).await?,
            None => Bound::default(),
        };

        let now = self.world.now();
        let extend = bound.pod.is_some() && seconds == PROJECTED && audiences.iter().all(|a| a == self.audience());
        let claims = Claims {
            exp: now.as_second() + if extend { EXTENDED } else { seconds },
            iat: now.as_second(),
            iss: self.issuer.clone(),
            jti: self.world.uuid(),
            nbf: now.as_second(),
            sub: account_user(&meta.namespace, &meta.name),
            kubernetes: Bindings {
                namespace: meta.namespace.clone(),
                node: bound.node,
                pod: bound.pod,
                secret: bound.secret,
                serviceaccount: Named { name: meta.name.clone(), uid: meta.uid.clone() },
                warnafter: extend.then_some(now.as_second() + seconds),
            },
            aud: audiences.clone(),
        };
        let claims = serde_json::to_value(claims).map_err(Status::internal)?;
        let token = self.key.sign(&claims).map_err(Status::internal)?;

        let time =
            |seconds: i64| jiff::Timestamp::from_second(seconds).map(|t| t.to_string()).map_err(Status::internal);
        request["apiVersion"] = json!(format!("{GROUP}/v1"));
        request["kind"] = json!(KIND);
        request["metadata"]["name"] = json!(meta.name);
        request["metadata"]["namespace"] = json!(meta.namespace);
        request["metadata"]["uid"] = json!(meta.uid);
        request["metadata"]["creationTimestamp"] = json!(time(now.as_second())?);
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = json!(seconds);
        if spec.bound_object_ref.is_none() {
            request["spec"]["boundObjectRef"] = Value::Null;
        }
        request["status"] = json!({"token": token, "expirationTimestamp": time(now.as_second() + seconds)?});
        Ok(request)
    }
}

fn check_metadata(request: &Value, account: &Object) -> Result<(), Status> {
    let meta = account.meta();
    for (field, is, what) in [("name", &meta.name, "name"), ("namespace", &meta.namespace, "namespace")] {
        let said = request["metadata"][field].as_str().unwrap_or_default();
        if !said.is_empty() && said != is {
            let path = FieldPath::new("metadata").child(field);
            let why = format!("must match the service account {what} if specified");
            return Err(Status::invalid(
                &GroupKind::new(GROUP, KIND),
                &meta.name,
                &[FieldError::invalid(&path, said, &why)],
            ));
        }
    }
    let uid = request["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != meta.uid {
        let why = format!(
            "the UID in the token request ({uid}) does not match the UID of the service account ({})",
            meta.uid
        );
        return Err(Status::conflict(&GroupResource::new(GROUP, KIND), &meta.name, &why));
    }
    Ok(())
}

fn check_seconds(seconds: i64) -> Result<(), Status> {
    let why = match seconds {
        ..SHORTEST => "may not specify a duration less than 10 minutes",
        4_294_967_297.. => "may not specify a duration larger than 2^32 seconds",
        _ => return Ok(()),
    };
    let path = FieldPath::new("spec").child("expirationSeconds");
    Err(Status::invalid(&GroupKind::new(GROUP, KIND), "", &[FieldError::invalid(&path, seconds, why)]))
}

/// Finds the object a token shall be bound to.
async fn bind(wanted: &BoundRef, account: &Object, view: &dyn View) -> Result<Bound, Status> {
    let namespace = account.meta().namespace.as_str();
    let (resource, namespace) = match (wanted.api_version.as_str(), wanted.kind.as_str()) {
        ("v1", "Pod") => ("pods", namespace),
        ("v1", "Secret") => ("secrets", namespace),
        ("v1", "Node") => ("nodes", ""),
        (version, kind) => {
            let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
            let words = format!("cannot bind token to object of type {version}, Kind={kind}");
            return Err(Status::bad_request(words));
        }
    };
    let found = find(resource, namespace, &wanted.name, view).await?;
    let mut bound = Bound::default();
    match resource {
        "pods" => {
            bound.node = pod_node(&found, account, view)?;
            bound.pod = named(&found);
        }
        "secrets" => bound.secret = named(&found),
        _ => bound.node = named(&found),
    }
    if !wanted.uid.is_empty() && wanted.uid != found.meta().uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
             deleted and then recreated",
            wanted.uid
        );
        return Err(Status::conflict(&GroupResource::new("", &*wanted.kind), &wanted.name, &why));
    }
    Ok(bound)
}

async fn find(resource: &str, namespace: &str, name: &str, view: &dyn View) -> Result<Arc<Object>, Status> {
    let resource = GroupResource::new("", resource);
    if let Some(found) = view.get(&resource, namespace, name) {
        return Ok(found);
    }
    view.refresh(&resource).await?;
    view.get(&resource, namespace, name).ok_or_else(|| Status::not_found(&resource, name))
}

/// The node a pod is bound to, once it is; the token carries its name for whoever inspects it.
fn pod_node(pod: &Object, account: &Object, view: &dyn View) -> Result<Option<Named>, Status> {
    let typed = pod.typed::<k8s_openapi::api::core::v1::Pod>().map_err(Status::internal)?;
    let spec = typed.spec.as_ref();
    let name = account.meta().name.as_str();
    if spec.and_then(|s| s.service_account_name.as_deref()).unwrap_or_default() != name {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {name:?} to pod running with different serviceaccount name."
        )));
    }
    let Some(node) = spec.and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()) else { return Ok(None) };
    let uid = view.get(&GroupResource::new("", "nodes"), "", &node).map(|n| n.meta().uid.clone());
    Ok(Some(Named { name: node, uid: uid.unwrap_or_default() }))
}
