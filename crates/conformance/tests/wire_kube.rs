//! Programs written with the `kube` crate: a client, an operator with its own kind, and webhooks, against the API of
//! `CONFORMANCE_KUBECONFIG`, or against a server that is started for it.

#[path = "../../server/tests/support/hook.rs"]
mod hook;
mod support;

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use hook::{Hook, at_once};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{DynamicObject, Resource};
use kube::discovery::{Discovery, Scope, verbs};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{self, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, CustomResource, CustomResourceExt, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use skiff_conformance::judge;
use skiff_testkit::cases::{self, Case};
use support::Outcome;

fn main() {
    std::process::exit(cases::run_with(Run::start(), CASES));
}

const CASES: &[Case<Run>] = &[
    ("a_client_creates_applies_scales_and_deletes", |run| run.block(client)),
    ("a_client_pages_and_watches", |run| run.block(reads)),
    ("caches_are_filled_by_lists_and_by_streams", |run| run.block(caches)),
    ("discovery_finds_every_kind", |run| run.block(discovers)),
    ("an_operator_keeps_its_kind", |run| run.block(operates)),
    ("webhooks_judge_and_change", |run| run.block(judges)),
];

/// An API by the eyes of the crate's client.
struct Run {
    inner: support::Api,
    client: Client,
    namespace: String,
}

impl Run {
    fn start() -> Result<Self, String> {
        let mut inner = support::Api::start(81)?;
        let path = inner.namespace(json!({}))?;
        let config = Kubeconfig::read_from(inner.kubeconfig()).map_err(said)?;
        let client = inner.runtime.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
            Client::try_from(config.map_err(said)?).map_err(said)
        })?;
        let namespace = path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Self { inner, client, namespace })
    }

    fn block<F: Future<Output = Outcome>>(&mut self, case: impl FnOnce(Client, String) -> F) -> Outcome {
        let case = case(self.client.clone(), self.namespace.clone());
        self.inner.runtime.block_on(async { tokio::time::timeout(LONGEST, case).await.map_err(said)? })
    }
}

/// No case takes as long.
const LONGEST: Duration = Duration::from_secs(60);
const MANAGER: &str = "conformance";

fn said(error: impl Debug) -> String {
    format!("{error:?}")
}

fn same<T: PartialEq + Debug>(got: T, wanted: T) -> Outcome {
    if got == wanted { Ok(()) } else { Err(format!("wanted {wanted:?}, got {got:?}")) }
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        data: Some([("k".to_owned(), value.to_owned())].into()),
        ..ConfigMap::default()
    }
}

fn deployment(replicas: i32) -> Result<Deployment, String> {
    let container = json!({"name": "c", "image": "example.com/none"});
    let template = json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [container]}});
    let spec = json!({"replicas": replicas, "selector": {"matchLabels": {"app": "d"}}, "template": template});
    let tree = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec});
    serde_json::from_value(tree).map_err(said)
}

async fn client(client: Client, namespace: String) -> Outcome {
    let api: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let made = api.create(&PostParams::default(), &deployment(1)?).await.map_err(said)?;
    let refused = api.create(&PostParams::default(), &deployment(1)?).await.err().map(|error| error.to_string());
    if !refused.is_some_and(|words| words.contains("deployments.apps \"d\" already exists")) {
        return Err("a second one of that name was taken".to_owned());
    }
    let scale: Scale = api.get_scale("d").await.map_err(said)?;
    same(scale.spec.and_then(|spec| spec.replicas), Some(1))?;
    let three = Patch::Merge(json!({"spec": {"replicas": 3}}));
    api.patch_scale("d", &PatchParams::default(), &three).await.map_err(said)?;
    let label = Patch::Strategic(json!({"metadata": {"labels": {"a": "b"}}}));
    let patched = api.patch("d", &PatchParams::default(), &label).await.map_err(said)?;
    same(patched.spec.and_then(|spec| spec.replicas), Some(3))?;

    let stale = api.replace("d", &PostParams::default(), &made).await.err().map(|error| error.to_string());
    if !stale.is_some_and(|words| words.contains("the object has been modified")) {
        return Err("an old version was taken".to_owned());
    }
    // Somebody else's field is a conflict, unless it is taken by force.
    let mine = PatchParams::apply(MANAGER);
    let wanted = Patch::Apply(deployment(2)?);
    let conflict = api.patch("d", &mine, &wanted).await.err().map(|error| error.to_string());
    if !conflict.is_some_and(|words| words.contains("conflict")) {
        return Err("fields of others were taken without force".to_owned());
    }
    let applied = api.patch("d", &mine.clone().force(), &wanted).await.map_err(said)?;
    let managers = applied.managed_fields().iter().filter_map(|entry| entry.manager.clone());
    same(managers.filter(|manager| manager == MANAGER).count(), 1)?;
    same(applied.labels().get("a").map(String::as_str), Some("b"))?;
    let status = json!({"status": {"observedGeneration": 1, "replicas": 2}});
    let reported = api.patch_status("d", &PatchParams::default(), &Patch::Merge(status)).await.map_err(said)?;
    same(reported.status.and_then(|status| status.replicas), Some(2))?;

    let uid = made.uid().unwrap_or_default();
    let gone = await_condition(api.clone(), "d", conditions::is_deleted(&uid));
    let background = DeleteParams::background();
    let (gone, deleted) = futures::join!(gone, api.delete("d", &background));
    gone.map_err(said)?;
    deleted.map_err(said)?;
    same(api.get_opt("d").await.map_err(said)?.is_none(), true)
}

async fn reads(client: Client, namespace: String) -> Outcome {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    for number in 0..25 {
        let mut made = config_map(&format!("page-{number}"), "v");
        made.labels_mut().insert("pages".to_owned(), (number % 2).to_string());
        api.create(&PostParams::default(), &made).await.map_err(said)?;
    }
    let mut params = ListParams::default().limit(10).labels("pages");
    let (mut names, mut remaining) = (Vec::new(), Vec::new());
    loop {
        let page = api.list(&params).await.map_err(said)?;
        names.extend(page.items.iter().map(ResourceExt::name_any));
        remaining.push(page.items.len());
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    names.sort_unstable();
    names.dedup();
    same((names.len(), remaining), (25, vec![10, 10, 5]))?;
    let odd = api.list_metadata(&ListParams::default().labels("pages=1")).await.map_err(said)?;
    same(odd.items.len(), 12)?;

    let version = odd.metadata.resource_version.unwrap_or_default();
    let watching = api.watch(&WatchParams::default().labels("pages=1"), &version).await.map_err(said)?;
    let mut watching = pin!(watching);
    let label = |value: &str| Patch::Merge(json!({"metadata": {"labels": {"pages": value}}}));
    for value in ["1", "1", "0"] {
        api.patch("page-0", &PatchParams::default(), &label(value)).await.map_err(said)?;
    }
    api.delete_collection(&DeleteParams::default(), &ListParams::default().labels("pages=1")).await.map_err(said)?;
    let mut seen = Vec::new();
    while seen.len() < 14
        && let Some(event) = watching.try_next().await.map_err(said)?
    {
        match event {
            WatchEvent::Added(object) => seen.push(format!("+{}", object.name_any())),
            WatchEvent::Deleted(object) => seen.push(format!("-{}", object.name_any())),
            other => return Err(said(other)),
        }
    }
    same(&seen[..2], &["+page-0".to_owned(), "-page-0".to_owned()])?;
    api.delete_collection(&DeleteParams::default(), &ListParams::default().labels("pages")).await.map_err(said)?;
    Ok(())
}

async fn caches(client: Client, namespace: String) -> Outcome {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    'configs: for (name, config) in [
        ("list", watcher::Config::default().page_size(2)),
        ("stream", watcher::Config::default().streaming_lists()),
        ("any", watcher::Config::default().any_semantic()),
    ] {
        for number in 0..5 {
            api.create(&PostParams::default(), &config_map(&format!("{name}-{number}"), "v")).await.map_err(said)?;
        }
        let (reader, writer) = reflector::store();
        let mut events = pin!(watcher(api.clone(), config).reflect(writer));
        let mine = || reader.state().iter().filter(|map| map.name_any().starts_with(name)).count();
        while mine() < 5 {
            match events.try_next().await.map_err(said) {
                // What upstream says on an etcd too old to be asked for progress.
                Err(why) if name == "stream" && why.contains("RequestWatchProgress is disabled") => continue 'configs,
                event => event.map(drop)?,
            }
        }
        let change = Patch::Merge(json!({"data": {"k": "w"}}));
        api.patch(&format!("{name}-0"), &PatchParams::default(), &change).await.map_err(said)?;
        api.delete(&format!("{name}-1"), &DeleteParams::default()).await.map_err(said)?;
        while mine() > 4 {
            events.try_next().await.map_err(said)?;
        }
        let key = reflector::ObjectRef::new(&format!("{name}-0")).within(&namespace);
        let held = reader.get(&key).and_then(|map| map.data.clone()?.get("k").cloned());
        same(held.as_deref(), Some("w")).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

async fn discovers(client: Client, namespace: String) -> Outcome {
    for discovery in [
        Discovery::new(client.clone()).run().await.map_err(said)?,
        Discovery::new(client.clone()).run_aggregated().await.map_err(said)?,
    ] {
        let mut kinds = 0;
        for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
            if !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            let api: Api<DynamicObject> = match capabilities.scope {
                Scope::Cluster => Api::all_with(client.clone(), &resource),
                Scope::Namespaced => Api::namespaced_with(client.clone(), &namespace, &resource),
            };
            let list =
                api.list(&ListParams::default().limit(1)).await.map_err(|e| format!("{}: {e}", resource.plural))?;
            // Some are made up when they are asked for.
            let made_up = resource.plural == "componentstatuses" || resource.group == "metrics.k8s.io";
            if !made_up && list.metadata.resource_version.is_none_or(|v| v.is_empty()) {
                return Err(format!("a list of {} has no version", resource.plural));
            }
            kinds += 1;
        }
        if kinds < 40 {
            return Err(format!("only {kinds} kinds"));
        }
    }
    Ok(())
}

/// What an operator of the tests keeps: a config map that says the same.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, JsonSchema)]
#[kube(group = "kube.conformance.skiff.io", version = "v1", kind = "Echo", namespaced, status = "EchoStatus")]
struct EchoSpec {
    #[schemars(length(min = 1))]
    word: String,
}

#[derive(Serialize, Deserialize, Clone, Debug, Default, JsonSchema)]
struct EchoStatus {
    said: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

/// Makes the config map, and says so; takes it away before the object goes.
async fn reconcile(echo: Arc<Echo>, client: Arc<Client>) -> Result<Action, Failed> {
    let namespace = echo.namespace().unwrap_or_default();
    let echoes: Api<Echo> = Api::namespaced((*client).clone(), &namespace);
    let maps: Api<ConfigMap> = Api::namespaced((*client).clone(), &namespace);
    let name = echo.name_any();
    let kept = finalizer(&echoes, "kube.conformance.skiff.io/echo", echo, |event| async {
        match event {
            finalizer::Event::Apply(echo) => {
                let mut map = config_map(&name, &echo.spec.word);
                map.metadata.owner_references = echo.controller_owner_ref(&()).map(|owner| vec![owner]);
                let force = PatchParams::apply("echo").force();
                maps.patch(&name, &force, &Patch::Apply(&map)).await?;
                let status = json!({"status": {"said": echo.spec.word}});
                echoes.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await?;
            }
            finalizer::Event::Cleanup(_) => {
                maps.delete(&name, &DeleteParams::default()).await?;
            }
        }
        Ok::<_, kube::Error>(Action::await_change())
    });
    kept.await.map_err(|error| Failed(said(error)))
}

async fn operates(client: Client, namespace: String) -> Outcome {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Echo::crd_name();
    let apply = PatchParams::apply(MANAGER).force();
    let definition = definitions.patch(name, &apply, &Patch::Apply(Echo::crd())).await.map_err(said)?;
    await_condition(definitions.clone(), name, conditions::is_crd_established()).await.map_err(said)?;
    let outcome = echoes(client, &namespace).await;
    let uid = definition.uid().unwrap_or_default();
    definitions.delete(name, &DeleteParams::default()).await.map_err(said)?;
    await_condition(definitions, name, conditions::is_deleted(&uid)).await.map_err(said)?;
    outcome
}

async fn echoes(client: Client, namespace: &str) -> Outcome {
    let echoes: Api<Echo> = Api::namespaced(client.clone(), namespace);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let refused = echoes.create(&PostParams::default(), &Echo::new("e", EchoSpec { word: String::new() })).await;
    let words = refused.err().map(|error| error.to_string()).unwrap_or_default();
    if !words.contains("spec.word: Invalid value") {
        return Err(format!("an empty word: {words}"));
    }
    let operator = Controller::new(echoes.clone(), watcher::Config::default())
        .owns(maps.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(200)), Arc::new(client))
        .for_each(|_| std::future::ready(()));
    let story = async {
        let made = echoes.create(&PostParams::default(), &Echo::new("e", EchoSpec { word: "one".to_owned() })).await;
        let uid = made.map_err(said)?.uid().unwrap_or_default();
        told(&echoes, "one").await?;
        let change = Patch::Merge(json!({"spec": {"word": "two"}}));
        echoes.patch("e", &PatchParams::default(), &change).await.map_err(said)?;
        told(&echoes, "two").await?;
        // What is changed behind its back is changed again.
        let other = Patch::Merge(json!({"data": {"k": "other"}}));
        maps.patch("e", &PatchParams::default(), &other).await.map_err(said)?;
        let right =
            |map: Option<&ConfigMap>| map.and_then(|map| map.data.as_ref()?.get("k")).is_some_and(|k| k == "two");
        await_condition(maps.clone(), "e", right).await.map_err(said)?;
        echoes.delete("e", &DeleteParams::default()).await.map_err(said)?;
        await_condition(echoes.clone(), "e", conditions::is_deleted(&uid)).await.map_err(said)?;
        same(maps.get_opt("e").await.map_err(said)?.is_none(), true)
    };
    tokio::select! {
        outcome = story => outcome,
        () = operator => Err("the operator has ended".to_owned()),
    }
}

async fn told(echoes: &Api<Echo>, word: &str) -> Outcome {
    let told = |echo: Option<&Echo>| {
        let said = echo.and_then(|echo| echo.status.as_ref()?.said.clone());
        said.as_deref() == Some(word)
    };
    await_condition(echoes.clone(), "e", told).await.map(drop).map_err(said)
}

async fn judges(client: Client, namespace: String) -> Outcome {
    let hook = Hook::start(at_once(judge)).await;
    let api = "admissionregistration.k8s.io/v1";
    let labels = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    let entry = hook.entry("judge.conformance.skiff.io", json!({"namespaceSelector": labels}));
    let mut made = Vec::new();
    for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
        let gvk = kube::core::GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        let hooks: Api<DynamicObject> = Api::all_with(client.clone(), &kube::core::ApiResource::from_gvk(&gvk));
        let name = format!("kube-{namespace}");
        let tree = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "webhooks": [entry]});
        let tree = serde_json::from_value(tree).map_err(said)?;
        hooks.create(&PostParams::default(), &tree).await.map_err(said)?;
        made.push((hooks, name));
    }
    let outcome = judged(client, &namespace).await;
    for (hooks, name) in made {
        hooks.delete(&name, &DeleteParams::default()).await.map_err(said)?;
    }
    outcome
}

async fn judged(client: Client, namespace: &str) -> Outcome {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    // Servers hear of webhooks a moment later.
    while maps.create(&dry, &config_map("judged", "bad")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let refused = maps.create(&PostParams::default(), &config_map("judged", "bad")).await;
    let words = refused.err().map(|error| error.to_string()).unwrap_or_default();
    let wanted = "admission webhook \"judge.conformance.skiff.io\" denied the request: that word is not spoken here";
    if !words.contains(wanted) {
        return Err(words);
    }
    let made = maps.create(&PostParams::default(), &config_map("judged", "good")).await.map_err(said)?;
    same(made.labels().get("judged").map(String::as_str), Some("yes"))?;
    let elsewhere: Api<Namespace> = Api::all(client);
    same(elsewhere.get(namespace).await.map_err(said)?.meta().name.as_deref(), Some(namespace))
}
