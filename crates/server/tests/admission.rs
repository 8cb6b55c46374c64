//! Admission over the whole pipeline: what plug-ins add to writes, and what they keep out.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use serde_json::json;
use support::{CONFIG_MAPS, config_map, start};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

#[tokio::test]
async fn fifty_at_once_never_exceed_a_quota() {
    let server = Arc::new(start().await);
    let hard = json!({"count/configmaps": "20", "configmaps": "30"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}});
    server.post(QUOTAS, &quota).await.ok();
    let status = json!({"status": {"hard": hard, "used": {"count/configmaps": "0", "configmaps": "0"}}});
    server.merge(&format!("{QUOTAS}/q/status"), &status).await.ok();

    let create = |i: usize| {
        let server = server.clone();
        async move { server.post(CONFIG_MAPS, &config_map(&format!("c{i}"), "x")).await }
    };
    let answers = futures::future::join_all((0..50).map(create)).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.code >= 300).map(|answer| answer.refusal()).collect();
    assert_eq!(refused.len(), 30);
    for (code, reason, message) in refused {
        assert_eq!((code, &*reason), (403, "Forbidden"), "{message}");
        let why = "exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=20, limited: \
            count/configmaps=20";
        assert!(message.ends_with(why), "{message}");
    }
    let used = |tree: serde_json::Value| tree["status"]["used"].clone();
    let after = used(server.get(&format!("{QUOTAS}/q")).await.ok());
    assert_eq!(after, json!({"count/configmaps": "20", "configmaps": "20"}));
    let made = server.get(CONFIG_MAPS).await.ok();
    assert_eq!(made["items"].as_array().unwrap().len(), 20);

    server.merge(&format!("{QUOTAS}/q/status"), &json!({"status": {"used": {"count/configmaps": "19"}}})).await.ok();
    let uri = format!("{CONFIG_MAPS}?dryRun=All");
    server.post(&uri, &config_map("dry", "x")).await.ok();
    let after = used(server.get(&format!("{QUOTAS}/q")).await.ok());
    assert_eq!(after["count/configmaps"], "19", "a dry run pays nothing");
    let taken = made["items"][0]["metadata"]["name"].as_str().unwrap();
    assert_eq!(server.post(CONFIG_MAPS, &config_map(taken, "x")).await.code, 409);
    let after = used(server.get(&format!("{QUOTAS}/q")).await.ok());
    assert_eq!(after["count/configmaps"], "19", "what was not written is not charged");
}
