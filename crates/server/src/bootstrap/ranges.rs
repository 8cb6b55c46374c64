//! The ServiceCIDR `kubernetes`: the server's own ranges, as an object (upstream:
//! `pkg/controlplane/controller/defaultservicecidr`).

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use skiff_meta::Status;

use super::{send, what};
use crate::api::Api;
use crate::error::ServerError;
use crate::tree;

const URI: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const NAME: &str = "kubernetes";
/// Who says that it is ready.
const MANAGER: &str = "kubernetes-service-cidr-controller";

/// Writes the object, adds a second range that the flags have gained, and says that it is ready unless somebody has said
/// otherwise. Ranges that are not the flags' stay as they are.
pub(super) async fn declare(api: &Arc<Api>) -> Result<(), ServerError> {
    let ranges: Vec<String> = api.config.service_cidrs.iter().map(ToString::to_string).collect();
    let object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME},
        "spec": {"cidrs": ranges},
    });
    let fail = |status: Status| ServerError::Bootstrap { what: what(&object), status };
    let own = format!("{URI}/{NAME}");
    let made = match send(api, Method::POST, URI, &object).await {
        Err(status) if status.is("AlreadyExists") => send(api, Method::GET, &own, &Value::Null).await,
        made => made,
    };
    let mut found = made.map_err(fail)?;
    let before: Vec<String> = tree::texts(&found, &["spec", "cidrs"]).into_iter().map(str::to_owned).collect();
    if before.len() < ranges.len() && before.first() == ranges.first() {
        found["spec"]["cidrs"] = json!(ranges);
        let written = match send(api, Method::PUT, &own, &found).await {
            // Another server was faster.
            Err(status) if status.is("Conflict") => send(api, Method::GET, &own, &Value::Null).await,
            written => written,
        };
        found = written.map_err(fail)?;
    }
    if tree::texts(&found, &["spec", "cidrs"]) != ranges {
        tracing::warn!("ServiceCIDR {NAME} has {before:?}, this server's flags say {ranges:?}");
        return Ok(());
    }
    let conditions = tree::at(&found, &["status", "conditions"]).and_then(Value::as_array).into_iter().flatten();
    let says = conditions.into_iter().find(|c| tree::text(c, &["type"]) == "Ready");
    let decided = says.is_some_and(|condition| tree::text(condition, &["status"]) != "Unknown");
    if decided || tree::at(&found, &["metadata", "deletionTimestamp"]).is_some() {
        return Ok(());
    }
    let ready = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": NAME},
        "status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
            "lastTransitionTime": tree::timestamp(api.world.now()),
        }]},
    });
    let uri = format!("{own}/status?fieldManager={MANAGER}&force=true");
    super::apply(api, &uri, &ready).await.map(drop).map_err(fail)
}
