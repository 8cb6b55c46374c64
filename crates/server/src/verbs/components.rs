//! `componentstatuses`: long deprecated, still asked for. Computed, never stored.

use serde_json::{Value, json};
use skiff_meta::Status;

use crate::call::{Answer, Call};
use crate::request::Shape;
use crate::respond::shape;

/// GET of one or all.
pub(crate) async fn read(call: &mut Call) -> Result<Answer, Status> {
    let healthy = call.api.store.revision().await.is_ok();
    let component = |name: &str, healthy: bool| {
        let (status, message) = if healthy { ("True", "ok") } else { ("False", "unhealthy") };
        json!({
            "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": status, "message": message}],
        })
    };
    let all = [component("etcd-0", healthy)];
    let name = call.target.name.as_str();
    if !name.is_empty() {
        let found = all.into_iter().find(|c| c["metadata"]["name"] == name);
        return found.map(|c| Answer::Tree(200, c)).ok_or_else(|| call.not_found(name));
    }
    if call.accept.shape == Shape::Table {
        let include = shape::Include::parse(call.query.text("includeObject"))?;
        let now = call.api.world.now();
        let rows: Vec<Value> = all.into_iter().map(|c| shape::row(&call.served.version, c, include, now)).collect();
        call.accept.shape = Shape::Whole;
        return Ok(Answer::Tree(200, shape::table(&call.served.version, json!({}), rows)));
    }
    call.accept.shape = Shape::Whole;
    Ok(Answer::Tree(200, json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": all})))
}
