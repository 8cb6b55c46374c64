//! What a driver offers on this node goes with it: a ResourceSlice that nobody stands behind would have the scheduler give
//! out devices that no pod here could use.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::ResourceSlice;
use skiff_client::{ClientError, DeleteOptions, Selection};

use crate::node::Node;

/// How long a driver may be away, as for an update.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pauses while the API does not do it.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Deletes what a driver offers, if nobody ends this before.
pub(super) async fn wipe_later(node: Arc<Node>, driver: String) {
    node.world.sleep(PATIENCE).await;
    wipe(node, Some(driver)).await;
}

/// Deletes what a driver offers here, or what all of them do; tries until it succeeds.
pub(super) async fn wipe(node: Arc<Node>, driver: Option<String>) {
    let mut pause = RETRY.0;
    while let Err(error) = delete(&node, driver.as_deref()).await {
        tracing::debug!(driver, "its ResourceSlices were not deleted: {error}");
        node.world.sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Tries to, once.
pub(super) async fn delete(node: &Node, driver: Option<&str>) -> Result<(), ClientError> {
    let mut fields = format!("spec.nodeName={}", node.config.name);
    fields.extend(driver.iter().map(|driver| format!(",spec.driver={driver}")));
    let selection = Selection { fields, ..Selection::default() };
    match node.client.all::<ResourceSlice>().delete_all(&selection, &DeleteOptions::default()).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
