//! From a wish to a mounted volume.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, Secret, SecretReference};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use skiff_api::volumes;
use skiff_plugins::csi::{NodePublishVolumeRequest, NodeStageVolumeRequest};
use skiff_plugins::limited;

use super::drivers::Driver;
use super::record::{self, Record};
use super::{CsiError, Source, expand, refused};
use crate::node::Node;
use crate::pod::facts;
use crate::volumes::Tokens;

/// A pod's wish for a volume.
pub(crate) struct Wish<'a> {
    pub(crate) pod: &'a Pod,
    /// The volume's name in the pod.
    pub(crate) name: &'a str,
    pub(crate) source: &'a Source,
    /// The group that is to have it.
    pub(crate) group: Option<u32>,
    /// Only where its root is not the group's already.
    pub(crate) root_only: bool,
}

/// Makes a volume appear, or brings it up to date where its driver asks for that. Where it lies.
pub(crate) async fn mount(node: &Node, wish: &Wish<'_>, tokens: &mut Tokens) -> Result<PathBuf, CsiError> {
    let (source, uid) = (wish.source, facts::uid(wish.pod));
    let object = node.client.all::<CSIDriver>().get_opt(&source.driver).await?;
    let spec = object.as_ref().map(|object| object.spec.clone()).unwrap_or_default();
    let lives_with_pods = spec.volume_lifecycle_modes.iter().flatten().any(|mode| mode == "Ephemeral");
    if source.ephemeral && !lives_with_pods {
        return Err(CsiError::NotEphemeral(source.driver.clone()));
    }
    let attach = !source.ephemeral && volumes::must_attach(object.as_ref());
    let record = Record {
        driver: source.driver.clone(),
        handle: source.handle.clone(),
        name: source.name.clone(),
        lifecycle: if source.ephemeral { "Ephemeral" } else { "Persistent" }.to_owned(),
        attachment: match attach {
            true => volumes::attachment(&source.handle, &source.driver, &node.config.name),
            false => String::new(),
        },
    };
    let directory = record::of_pod(&node.pod_directory(uid)).join(wish.name);
    let (key, target) = (record.key(), record::target(&directory));
    let _turn = node.drivers.turn(&key).await;
    let shown = node.drivers.is_published(&key, uid, wish.name);
    let again = spec.requires_republish == Some(true);
    let driver = match node.drivers.get(&source.driver) {
        // What is there outlasts its driver.
        Err(_) if shown && !again => return Ok(target),
        found => found?,
    };
    if again || (driver.abilities.expand && source.size.is_some()) {
        // A node may not watch claims, which tell of growth.
        tokens.look_again(node);
    }
    if shown && !again {
        let staging = record::staging(&record::staged(&node.config.directory, &source.driver, &source.handle));
        let staging = if driver.abilities.stage { staging.display().to_string() } else { String::new() };
        expand::follow(node, wish, &driver, &key, &target.display().to_string(), &staging).await?;
        return Ok(target);
    }
    record.save(&*node.config.os.files, &directory)?;
    if node.drivers.uses(&record, uid, wish.name) {
        node.heartbeat.notify_one();
    }
    let context = if attach { attached(node, source, &record.attachment).await? } else { BTreeMap::new() };
    let staging = if driver.abilities.stage && !source.ephemeral {
        stage(node, &driver, wish, &record, context.clone()).await?
    } else {
        String::new()
    };
    let mut attributes = source.attributes.clone();
    if spec.pod_info_on_mount == Some(true) {
        attributes.extend(source.about(wish.pod));
    }
    let mut secrets = secrets(node, source.publish_secret.as_ref()).await?;
    if let Some(requests) = spec.token_requests.as_deref().filter(|requests| !requests.is_empty()) {
        let told = tokens.for_driver(node, wish.pod, requests, again).await?;
        let place = if spec.service_account_token_in_secrets == Some(true) { &mut secrets } else { &mut attributes };
        place.insert("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), told);
    }
    let request = NodePublishVolumeRequest {
        volume_id: source.handle.clone(),
        publish_context: context,
        staging_target_path: staging.clone(),
        target_path: target.display().to_string(),
        volume_capability: Some(source.capability(&driver.abilities, wish.group)),
        readonly: source.read_only,
        secrets,
        volume_context: attributes,
    };
    let done = driver.client().node_publish_volume(limited(request)).await;
    done.map_err(refused("NodePublishVolume"))?;
    let ours = !driver.abilities.group && source.is_given_to_group(spec.fs_group_policy.as_deref());
    if let Some(group) = wish.group.filter(|_| ours && !shown) {
        node.config.os.files.give_to_group(&target, group, wish.root_only)?;
    }
    node.drivers.published(&key, uid, wish.name);
    if !source.ephemeral {
        expand::follow(node, wish, &driver, &key, &target.display().to_string(), &staging).await?;
    }
    Ok(target)
}

/// Has the driver make the volume ready for all pods. Where that is.
async fn stage(
    node: &Node,
    driver: &Driver,
    wish: &Wish<'_>,
    record: &Record,
    publish_context: BTreeMap<String, String>,
) -> Result<String, CsiError> {
    let (source, files) = (wish.source, &*node.config.os.files);
    let directory = record::staged(&node.config.directory, &source.driver, &source.handle);
    let staging = record::staging(&directory);
    let path = staging.display().to_string();
    if node.drivers.is_staged(&record.key()) {
        return Ok(path);
    }
    record.save(files, &directory)?;
    files.make_directory(&staging, 0o750)?;
    let request = NodeStageVolumeRequest {
        volume_id: source.handle.clone(),
        publish_context,
        staging_target_path: path.clone(),
        volume_capability: Some(source.capability(&driver.abilities, wish.group)),
        secrets: secrets(node, source.stage_secret.as_ref()).await?,
        volume_context: source.attributes.clone(),
    };
    driver.client().node_stage_volume(limited(request)).await.map_err(refused("NodeStageVolume"))?;
    node.drivers.staged(&record.key());
    Ok(path)
}

/// What attaching told, once the control plane says in the node's status that it has attached the volume, knowing that
/// it is going to be used.
async fn attached(node: &Node, source: &Source, name: &str) -> Result<BTreeMap<String, String>, CsiError> {
    let unique = source.unique_name();
    let own = node.own.store().get("", &node.config.name);
    let status = own.as_ref().and_then(|own| own.status.as_ref());
    let told = status.is_some_and(|status| status.volumes_in_use.iter().flatten().any(|used| *used == unique));
    let there = status.is_some_and(|status| status.volumes_attached.iter().flatten().any(|v| v.name == unique));
    let waiting = || CsiError::NotAttached(source.name.clone());
    if !told || !there {
        return Err(waiting());
    }
    let attachment = node.client.all::<VolumeAttachment>().get(name).await?;
    let status = attachment.status.filter(|status| status.attached).ok_or_else(waiting)?;
    Ok(status.attachment_metadata.unwrap_or_default())
}

pub(super) async fn secrets(
    node: &Node,
    reference: Option<&SecretReference>,
) -> Result<BTreeMap<String, String>, CsiError> {
    let Some(reference) = reference else { return Ok(BTreeMap::new()) };
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let name = reference.name.as_deref().unwrap_or_default();
    let found = node.client.namespaced::<Secret>(namespace).get(name).await;
    let secret = found.map_err(|error| CsiError::Secret(format!("{namespace}/{name}"), error))?;
    let text = |(key, value): (String, k8s_openapi::ByteString)| (key, String::from_utf8_lossy(&value.0).into_owned());
    Ok(secret.data.unwrap_or_default().into_iter().map(text).collect())
}
